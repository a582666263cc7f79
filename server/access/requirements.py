"""What a server asks of its callers: TLS, keys and patience, as configured, kept up to date while it runs."""

import ipaddress
import logging
from pathlib import Path

from corpus.errors import ConfigError
from server.access.api_keys import ApiKeys
from server.access.guard import Guard
from server.access.rate_limit import CallerLimits, Limits, RateLimit
from server.access.shared_limits import SharedCallerLimits
from server.access.tls import Tls, TlsFiles
from server.calls.layers import Layer
from server.config import ServerConfig
from server.processes.sharing import Share

logger = logging.getLogger(__name__)


class Access:
    """TLS, keys and rate limits of one server; any may be absent."""

    def __init__(self, config: ServerConfig, root: Path, share: Share | None = None) -> None:
        """Read what is configured.

        Args:
            config: Which files.
            root: The store's folder, which relative paths begin at.
            share: The place among several serving processes, which limit callers together.
        Raises:
            ConfigError: If a file is missing, cannot be read or has expired.
        """
        files = tls_files(config, root)
        self.tls = Tls(files) if files is not None else None
        self.keys = ApiKeys(root / config.api_keys) if config.api_keys else None
        rate = config.max_calls_per_second
        self.limits: Limits | None = None
        if rate is not None:
            self.limits = CallerLimits(rate) if share is None else SharedCallerLimits(share.callers_file, rate)
        for address in (config.address, config.admin_address):
            if not is_loopback(address) and (self.tls is None or self.keys is None):
                lacking = " and ".join(["TLS"] * (self.tls is None) + ["API keys"] * (self.keys is None))
                logger.warning("%s can be reached from other machines, without %s", address, lacking)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What lets callers in: first by their keys, which tell the next who calls, then by how often they call."""
        keys = (Guard(self.keys),) if self.keys is not None else ()
        limits = (RateLimit(self.limits),) if self.limits is not None else ()
        return (*keys, *limits)

    def reload(self) -> None:
        """Read the certificate again; log what goes wrong, and go on with what was read before."""
        if self.tls is not None:
            try:
                self.tls.reload()
                logger.info("the certificate is valid until %s", self.tls.certificate.not_after.isoformat())
            except (ConfigError, OSError) as exc:
                logger.error("the certificate that was read before is used on: %s", exc)

    def follow(self) -> None:
        """Take in keys that were added or removed; log what goes wrong, and go on with those that were read before."""
        if self.keys is not None:
            try:
                if self.keys.refresh():
                    logger.info("API keys have changed")
            except ConfigError as exc:
                logger.error("the API keys that were read before count on: %s", exc)


def tls_files(config: ServerConfig, root: Path) -> TlsFiles | None:
    """Return the files that are configured; None for plain text."""
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return TlsFiles(
        certificate=root / config.tls_certificate,
        key=root / config.tls_key,
        client_ca=root / config.tls_client_ca if config.tls_client_ca else None,
    )


def is_loopback(address: str) -> bool:
    """Tell whether an address can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
