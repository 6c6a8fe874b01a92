"""Clients over TLS with a private CA: HTTPS, wss and gRPC on one port."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import websockets

from support.contract import pb, rpc
from support.gateway import REPLY, Gateway
from test_grpcurl import GRPCURL


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate, its own authority; its key is beside it."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem"


@pytest.fixture(scope="module")
def tls_gateway(certificate: Path) -> Iterator[Gateway]:
    key = str(certificate.with_name("key.pem"))
    with Gateway("--tls-cert", str(certificate), "--tls-key", key) as gateway:
        yield gateway


def curl(certificate: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--cacert", certificate]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def new_token(gateway: Gateway, certificate: Path) -> str:
    url = f"https://{gateway.address}/token?name=Ada"
    return json.loads(curl(certificate, "-X", "POST", url).stdout)["token"]


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_speaks_https(tls_gateway: Gateway, certificate: Path, version: str) -> None:
    done = curl(certificate, version, f"https://{tls_gateway.address}/test")
    assert done.stdout == '{"msg":"API is Online"}', done.stderr


def test_curl_does_not_trust_it_without_its_authority(tls_gateway: Gateway) -> None:
    done = subprocess.run(["curl", "--silent", f"https://{tls_gateway.address}/test"])
    assert done.returncode == 60  # CURLE_PEER_FAILED_VERIFICATION


def test_plain_http_is_told_what_the_port_speaks(tls_gateway: Gateway) -> None:
    answer = tls_gateway.request("GET", "/test")
    assert (answer.status, answer.json) == (400, {"detail": "This port speaks HTTPS"})


def test_grpcurl_lists_and_calls(tls_gateway: Gateway, certificate: Path) -> None:
    base = [GRPCURL, "-cacert", certificate]
    listed = subprocess.run(
        [*base, tls_gateway.address, "list"], capture_output=True, text=True, timeout=20
    )
    assert "duologue.v1.ChatService" in listed.stdout, listed.stderr
    method = "duologue.v1.ChatService/CreateToken"
    called = subprocess.run(
        [*base, "-d", '{"name":"Ada"}', tls_gateway.address, method],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert json.loads(called.stdout)["session"]["name"] == "Ada", called.stderr


def test_grpcio_and_a_websocket_share_a_conversation(
    tls_gateway: Gateway, certificate: Path
) -> None:
    token = new_token(tls_gateway, certificate)

    async def chat() -> str:
        trust = ssl.create_default_context(cafile=certificate)
        url = f"wss://{tls_gateway.address}/chat?token={token}"
        async with websockets.connect(url, ssl=trust) as socket:
            await socket.send("Hello Bot")
            return await socket.recv()

    assert asyncio.run(chat()) == REPLY
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(tls_gateway.address, credentials) as channel:
        stub = rpc.ChatServiceStub(channel)
        seen = stub.RefreshToken(pb.RefreshTokenRequest(token=token), timeout=10)
    assert [message.text for message in seen.messages] == ["Hello Bot", REPLY]
