"""An authority of our own, and what it signs."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Signs certificates for 127.0.0.1, and writes them into a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        now = datetime.now(UTC)
        certificate = (
            _unsigned(self._name, self._name, self._key, now - timedelta(days=1), now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = _write(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, *, begin_days: float = -1, end_days: float = 30) -> tuple[Path, Path]:
        """Return files with a certificate and its key."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        begin, end = now + timedelta(days=begin_days), now + timedelta(days=end_days)
        hosts = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
        certificate = (
            _unsigned(_named(name), self._name, key, begin, end)
            .add_extension(hosts, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        return (
            _write(self._folder / f"{name}.crt", certificate.public_bytes(pem)),
            _write(
                self._folder / f"{name}.key",
                key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            ),
        )


def _unsigned(subject, issuer, key, begin: datetime, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
