import grpc
import pytest
from pydantic import ValidationError

from corpus.errors import ConfigError, TandemError
from server.access.credentials import Credentials
from server.access.tls import TlsFiles, check_certificate
from server.client import TandemAdmin, TandemClient
from server.config import ServerConfig
from server.serve import TandemServer
from tests.server.certificates import Authority
from tests.server.conftest import CONFIG
from tests.server.gates import QUERY
from tests.server.scraping import scrape, value


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def settings(authority) -> dict[str, str]:
    certificate, key = authority.sign("server")
    return {"tls_certificate": str(certificate), "tls_key": str(key)}


def search(address: str, **credentials: object) -> int:
    with TandemClient(address, timeout_s=20, credentials=Credentials(**credentials)) as client:
        return len(client.search(QUERY).results)


def test_both_ports_speak_tls_alone(own_store, serving, authority, settings):
    with serving(own_store, **settings) as (server, _):
        assert search(server.address, tls_ca=authority.ca) == 10
        with TandemAdmin(server.admin_address, credentials=Credentials(tls_ca=authority.ca)) as admin:
            assert admin.delete_items(["nobody"]) == ("nobody",)
        with TandemAdmin(server.admin_address, timeout_s=20) as admin, pytest.raises(TandemError):
            admin.delete_items(["nobody"])
        with pytest.raises(TandemError, match="expected a server at"):
            search(server.address)
        stranger = Authority(authority.ca.parent / "elsewhere", "stranger")
        with pytest.raises(TandemError, match="expected a server at"):
            search(server.address, tls_ca=stranger.ca)


def test_with_an_authority_for_clients_only_its_clients_are_let_in(own_store, serving, authority, settings):
    clients = Authority(authority.ca.parent / "clients", "clients")
    certificate, key = clients.sign("frontend")
    foreign, foreign_key = authority.sign("foreign")
    with serving(own_store, **settings, tls_client_ca=str(clients.ca)) as (server, _):
        shown = {"tls_ca": authority.ca}
        assert search(server.address, **shown, tls_certificate=certificate, tls_key=key) == 10
        with pytest.raises(TandemError):
            search(server.address, **shown)
        with pytest.raises(TandemError):
            search(server.address, **shown, tls_certificate=foreign, tls_key=foreign_key)


def test_a_renewed_certificate_is_shown_after_a_reload_and_a_bad_one_is_not(
    own_store, serving, authority, settings, loop, caplog
):
    with serving(own_store, **settings) as (server, _):
        first = server._access.tls.certificate
        authority.sign("server", end_days=60)
        loop.run(server.try_reload())
        assert (server._access.tls.certificate.not_after - first.not_after).days == 30
        assert peer_days_left(server.address, authority) > 40
        told = value(scrape(server), "tandem_certificate_expiry_timestamp_seconds")
        assert told == server._access.tls.certificate.not_after.timestamp()
        (authority.ca.parent / "server.key").write_text("nonsense")
        loop.run(server.try_reload())
        assert "the certificate that was read before is used on" in caplog.text
        assert peer_days_left(server.address, authority) > 40


def peer_days_left(address: str, authority: Authority) -> float:
    """Ask the server for its certificate, in a handshake of its own."""
    import socket
    import ssl
    import time

    context = ssl.create_default_context(cafile=str(authority.ca))
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return (ssl.cert_time_to_seconds(secure.getpeercert()["notAfter"]) - time.time()) / 86_400


def test_certificates_that_cannot_be_served_are_refused_before_anything_listens(loop, store, authority, monkeypatch):
    monkeypatch.setattr("grpc.aio.server", lambda **_: pytest.fail("listened"))
    certificate, key = authority.sign("server")
    other, other_key = authority.sign("other")
    old, old_key = authority.sign("old", begin_days=-3, end_days=-1)
    early, early_key = authority.sign("early", begin_days=1)
    for pair, said in (
        ((certificate, other_key), "and its key"),
        ((certificate.with_name("none.crt"), key), "No such file"),
        ((key, key), "and its key"),
        ((old, old_key), "valid now"),
        ((early, early_key), "valid now"),
    ):
        settings = {"tls_certificate": str(pair[0]), "tls_key": str(pair[1])}
        with pytest.raises(ConfigError, match=said):
            loop.run(TandemServer.start(CONFIG.model_copy(update=settings), store))
    settings = {"tls_certificate": str(other), "tls_key": str(other_key), "tls_client_ca": str(key)}
    with pytest.raises(ConfigError, match="authorities"):
        loop.run(TandemServer.start(CONFIG.model_copy(update=settings), store))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(authority):
    from cryptography.hazmat.primitives import serialization as s

    certificate, key = authority.sign("server")
    locked = s.load_pem_private_key(key.read_bytes(), None)
    encrypted = s.BestAvailableEncryption(b"secret")
    key.write_bytes(locked.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encrypted))
    with pytest.raises(ConfigError, match="without a password"):
        check_certificate(TlsFiles(certificate=certificate, key=key, client_ca=None))


@pytest.mark.parametrize("settings", [{"tls_certificate": "a"}, {"tls_key": "a"}, {"tls_client_ca": "a"}])
def test_half_of_tls_is_a_fault_of_the_configuration(settings):
    with pytest.raises(ValidationError, match=r"expected (both )?tls_certificate"):
        ServerConfig(**settings)


def test_a_file_that_the_client_lacks_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"ca\.pem: No such file"):
        TandemClient("127.0.0.1:1", credentials=Credentials(tls_ca=tmp_path / "ca.pem"))


def test_credentials_come_from_the_environment_and_a_key_is_never_shown():
    environ = {"TANDEM_API_KEY": "k", "TANDEM_TLS_CA": "ca.pem", "TANDEM_TLS_CERTIFICATE": "c", "TANDEM_TLS_KEY": "d"}
    found = Credentials.from_environment(environ)
    assert found.metadata == (("authorization", "Bearer k"),)
    assert [str(p) for p in (found.tls_ca, found.tls_certificate, found.tls_key)] == ["ca.pem", "c", "d"]
    assert "'k'" not in repr(found)
    assert Credentials.from_environment({}) == Credentials()
    assert isinstance(Credentials(tls=True).channel("127.0.0.1:1"), grpc.Channel)
