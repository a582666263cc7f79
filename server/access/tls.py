"""TLS for both ports: certificates checked before anything listens, and exchanged while the server runs."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc
from cryptography import x509

from corpus.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files."""

    certificate: Path  # the server's own first, then those between it and the authority
    key: Path
    client_ca: Path | None  # whose clients are let in; None: no client needs a certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a certificate says of its time."""

    not_before: datetime
    not_after: datetime


class Tls:
    """What a server proves itself with."""

    def __init__(self, files: TlsFiles) -> None:
        """Read and check the files.

        Raises:
            ConfigError: As ``reload``.
        """
        self._files = files
        self.reload()

    def reload(self) -> None:
        """Read the files again; connections that begin from now on get what they hold.

        Raises:
            ConfigError: If they cannot be read, do not fit each other, or have expired; what was read before counts on.
        """
        self.certificate = check_certificate(self._files)
        client_ca = self._files.client_ca
        self._current = grpc.ssl_server_certificate_configuration(
            [(self._files.key.read_bytes(), self._files.certificate.read_bytes())],
            root_certificates=client_ca.read_bytes() if client_ca is not None else None,
        )

    def credentials(self) -> grpc.ServerCredentials:
        """Return what one port needs."""
        # the stubs know nothing of None, which stands for no change
        fetcher = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._fetcher())
        asks = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(self._current, fetcher, require_client_authentication=asks)

    def _fetcher(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        """Return what gRPC asks at every handshake: the files' content, or None as long as it is the same."""
        known = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal known
            if self._current is known:
                return None
            known = self._current
            return known

        return fetch


def check_certificate(files: TlsFiles) -> Certificate:
    """Return the times of a certificate that can be served.

    Raises:
        ConfigError: If a file cannot be read or is none, the key is another certificate's, or the time is over.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # an encrypted key would make OpenSSL ask at the terminal
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
        own = x509.load_pem_x509_certificates(files.certificate.read_bytes())[0]
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"expected a certificate in {files.certificate} and its key without a password in {files.key}, both PEM, "
            f"got {_reason(exc)}; see server.tls_certificate and server.tls_key"
        ) from exc
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as exc:
            raise ConfigError(
                f"expected certificates of authorities in {files.client_ca}, PEM, got {_reason(exc)}; "
                "see server.tls_client_ca"
            ) from exc
    found = Certificate(not_before=own.not_valid_before_utc, not_after=own.not_valid_after_utc)
    now = datetime.now(UTC)
    if not found.not_before <= now < found.not_after:
        raise ConfigError(
            f"expected a certificate that is valid now in {files.certificate}, got one "
            f"from {found.not_before:%Y-%m-%d} to {found.not_after:%Y-%m-%d}; renew it"
        )
    return found


def _reason(exc: Exception) -> str:
    return getattr(exc, "reason", None) or getattr(exc, "strerror", None) or type(exc).__name__
