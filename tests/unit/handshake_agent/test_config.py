from __future__ import annotations

from pathlib import Path

import pytest

from quicfs.handshake_agent.config import X509, AgentConfig, ConfigError, load_config, parse_config
from quicfs.transport.uapi import CertificateRequest

FULL = """
[agent]
socket = "run/agent.sock"
timeout = 2.5
max_handshakes = 7

[authenticate.client]
x509.truststore = "/etc/ca.pem"
x509.certificate = "me.pem"
x509.private_key = "me.key"

[authenticate.server]
x509.certificate = "server.pem"
x509.private_key = "server.key"
x509.truststore = "clients.pem"
client_certificates = "required"
"""


def test_everything() -> None:
    base = Path("/base")
    assert parse_config(FULL, base=base) == AgentConfig(
        socket=base / "run/agent.sock",
        timeout_s=2.5,
        max_handshakes=7,
        client=X509(base / "me.pem", base / "me.key", Path("/etc/ca.pem")),
        server=X509(base / "server.pem", base / "server.key", base / "clients.pem"),
        client_certificates=CertificateRequest.REQUIRE,
    )


def test_nothing_is_the_default() -> None:
    assert parse_config("") == AgentConfig()
    assert parse_config("[agent]\n[authenticate.client]\n[authenticate.server.x509]\n") == AgentConfig()


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('[authenticate.client]\nx509.truststore = "ca.pem"\n')
    assert load_config(path).client == X509(truststore=tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agent.sockets = 'x'", "agent.sockets is not a key"),
        ("[other]", "other is not a key"),
        ("[authenticate.client]\nx509.cert = 'a'", "authenticate.client.x509.cert is not a key"),
        ("agent = 3", "agent is not a key"),
        ("agent.socket = 3", "agent.socket cannot be 3"),
        ("agent.socket = ''", "agent.socket cannot be ''"),
        ("agent.socket = {}", "agent.socket cannot be {}"),
        ("agent.timeout = 0", "agent.timeout cannot be 0"),
        ("agent.timeout = 'ten'", "agent.timeout cannot be 'ten'"),
        ("agent.timeout = nan", "agent.timeout"),
        ("agent.timeout = inf", "agent.timeout"),
        ("agent.timeout = true", "agent.timeout"),
        ("agent.max_handshakes = 2.5", "agent.max_handshakes"),
        ("agent.max_handshakes = inf", "agent.max_handshakes"),
        ("agent.max_handshakes = 0", "agent.max_handshakes"),
        ("agent.max_handshakes = []", "agent.max_handshakes"),
        ("authenticate.server.client_certificates = 'yes'", "client_certificates cannot be 'yes'"),
        ("authenticate.server.client_certificates = ['off']", "client_certificates"),
        ("authenticate.server.client_certificates = 'optional'", "needs x509.truststore"),
        ("authenticate.server.x509.certificate = 'a'", "must both be given"),
        ("authenticate.client.x509.private_key = 'a'", "must both be given"),
        ("agent = = 3", "line 1"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, source="agent.toml")
    assert str(caught.value).startswith("agent.toml: ")
    assert words in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file"):
        load_config(tmp_path / "missing.toml")
    (tmp_path / "latin1.toml").write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin1.toml")
