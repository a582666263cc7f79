"""What a client shows a server, and how it knows the server."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from corpus.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The client's side of TLS and API keys."""

    api_key: str | None = field(default=None, repr=False)
    tls_ca: Path | None = None  # authorities that may vouch for the server, PEM; None: plain text, unless tls is set
    tls: bool = False  # TLS by the authorities that gRPC brings along, where tls_ca names none
    tls_certificate: Path | None = None  # of this client, PEM, where the server asks for one
    tls_key: Path | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``TANDEM_API_KEY``, ``TANDEM_TLS_CA``, ``TANDEM_TLS_CERTIFICATE`` and ``TANDEM_TLS_KEY``.

        The command line takes them from there alone: arguments can be read by everybody on the machine.
        """
        found = os.environ if environ is None else environ

        def path(name: str) -> Path | None:
            return Path(found[name]) if found.get(name) else None

        return cls(
            api_key=found.get("TANDEM_API_KEY") or None,
            tls_ca=path("TANDEM_TLS_CA"),
            tls_certificate=path("TANDEM_TLS_CERTIFICATE"),
            tls_key=path("TANDEM_TLS_KEY"),
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes along with every call."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key is not None else ()

    def channel(self, address: str) -> grpc.Channel:
        """Return a connection that is made when first needed.

        Raises:
            ConfigError: If a file cannot be read.
        """
        if self.tls_ca is None and not self.tls:
            return grpc.insecure_channel(address)
        try:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=self.tls_ca.read_bytes() if self.tls_ca is not None else None,
                private_key=self.tls_key.read_bytes() if self.tls_key is not None else None,
                certificate_chain=self.tls_certificate.read_bytes() if self.tls_certificate is not None else None,
            )
        except OSError as exc:
            raise ConfigError(f"cannot read {exc.filename}: {exc.strerror}; name a PEM file of this client") from exc
        return grpc.secure_channel(address, credentials)


PLAIN = Credentials()
