"""The context of TLS: versions and ciphers that are refused, files that are of no use."""

from __future__ import annotations

import re
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest

from graced.errors import ConfigError
from graced.sockets.tls import doubt, server_context
from support.tls import CERTIFICATE, make_certificate, openssl

pytestmark = pytest.mark.needs("openssl")

FAR = "21260101000000Z"
ALL = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
SPOKEN = {
    f"ECDHE-{signed}-{cipher}"
    for signed in ("ECDSA", "RSA")
    for cipher in ("AES256-GCM-SHA384", "AES128-GCM-SHA256", "CHACHA20-POLY1305")
}
REFUSED = {
    "AES128-GCM-SHA256",
    "AES128-SHA",
    "AES256-SHA256",
    "CAMELLIA128-SHA",
    "ECDHE-ECDSA-AES128-CCM8",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-ECDSA-NULL-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA384",
    "NULL-SHA256",
}
"""Ciphers of TLS 1.2 and older that a careless server speaks, as the test makes sure."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Certificates with their keys, by the kind of the key."""
    directory = tmp_path_factory.mktemp("tls")
    rsa = make_certificate(directory, "rsa", end=FAR, kind="rsa")
    return {"ec": str(CERTIFICATE), "rsa": str(rsa)}


def careless(certificate: str) -> ssl.SSLContext:
    """A server that speaks everything that OpenSSL can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(ALL)
    context.load_cert_chain(certificate)
    return _of_any_age(context)


def client(ciphers: str = ALL) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(ciphers)
    return _of_any_age(context)


def _of_any_age(context: ssl.SSLContext) -> ssl.SSLContext:
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    return context


def speak(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> tuple[str, str] | None:
    """Version and cipher that client and server agree upon."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_client, to_server)
    server = theirs.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client, server, client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        client.write(b"hello")
        assert server.read(5) == b"hello"
    except ssl.SSLError:
        return None
    found = client.cipher()
    assert found
    return str(client.version()), found[0]


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_version_is_refused(version: str) -> None:
    ours = client()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        ours.maximum_version = getattr(ssl.TLSVersion, version)
    assert speak(ours, careless(str(CERTIFICATE)))
    assert speak(ours, server_context(str(CERTIFICATE), str(CERTIFICATE))) is None


def test_new_version_is_preferred() -> None:
    found = speak(client(), server_context(str(CERTIFICATE), str(CERTIFICATE)))
    assert found
    assert found[0] == "TLSv1.3"


def test_ciphers_that_are_refused(files: dict[str, str]) -> None:
    known = {each["name"] for each in client().get_ciphers() if each["protocol"] != "TLSv1.3"}
    spoken, refused = set(), set()
    for cipher in sorted(known):
        ours = client(f"{cipher}:@SECLEVEL=0")
        ours.maximum_version = ssl.TLSVersion.TLSv1_2
        for file in files.values():
            if found := speak(ours, server_context(file, file)):
                assert found == ("TLSv1.2", cipher)
                spoken.add(cipher)
            elif speak(ours, careless(file)):
                refused.add(cipher)
    assert spoken == SPOKEN
    assert refused >= REFUSED


def test_key_of_another_certificate(files: dict[str, str], tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "other", end=FAR)
    with pytest.raises(ConfigError, match=re.escape(f"{other}: it is not the key of the certif")):
        server_context(files["ec"], str(other))


def test_files_without_use_are_named(tmp_path: Path) -> None:
    good, absent, text = str(CERTIFICATE), tmp_path / "absent", tmp_path / "text"
    text.write_text("no certificate")
    with pytest.raises(ConfigError, match=f"{absent}: No such file"):
        server_context(str(absent), good)
    with pytest.raises(ConfigError, match=f"{absent}: No such file"):
        server_context(good, str(absent))
    with pytest.raises(ConfigError, match=f"{text}, .*: no certificate or no key in PEM"):
        server_context(str(text), good)
    with pytest.raises(ConfigError, match=f"{text}: no certificate or no key in PEM"):
        server_context(good, str(text))
    with pytest.raises(ConfigError, match=f"{text}: no certificates in PEM"):
        server_context(good, good, str(text))
    with pytest.raises(ConfigError, match=f"{tmp_path}: Is a directory"):
        server_context(good, good, str(tmp_path))


def test_key_with_password_asks_nobody(tmp_path: Path) -> None:
    key = tmp_path / "locked.pem"
    openssl("pkcs8", "-topk8", "-in", str(CERTIFICATE), "-out", str(key), "-passout", "pass:x")
    with pytest.raises(ConfigError, match=f"{key}: a key with a password"):
        server_context(str(CERTIFICATE), str(key))


def _doubt(file: Path, client_ca: str = "") -> str:
    return doubt(server_context(str(file), str(file), client_ca), str(file))


def _stamp(days: float) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * 86400))


def test_dates_that_clients_object_to(tmp_path: Path) -> None:
    def made(name: str, **dates: str) -> Path:
        return make_certificate(tmp_path, name, **dates)

    assert _doubt(CERTIFICATE) == ""
    assert _doubt(CERTIFICATE, str(CERTIFICATE)) == ""
    assert _doubt(made("past", end="20200201000000Z")) == "it has expired"
    assert _doubt(made("future", begin=_stamp(9), end=FAR)).startswith("it is not valid yet")
    assert _doubt(made("soon", end=_stamp(3.5))) == "it expires in 3 days"
    assert _doubt(made("later", end=_stamp(20))) == ""
