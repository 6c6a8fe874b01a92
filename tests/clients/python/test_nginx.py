"""The gateway behind nginx, as docs/OPERATIONS.md configures it, without TLS."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.documentation import flags
from support.gateway import REPOSITORY, SLOW_REPLY, Gateway
from test_grpcurl import SERVICE, failure, grpcurl

PROXIED = 'duologue_(http|grpc) { server 127.0.0.1:3500;'


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def proxied(gateway: Gateway, tmp_path: Path) -> Iterator[str]:
    """nginx with the configuration of the documentation; its address for HTTP and for gRPC."""
    text = (REPOSITORY / "docs" / "OPERATIONS.md").read_text()
    block = text.split("```nginx\n")[1].split("```")[0]
    port = free_port()
    block, count = re.subn(PROXIED, lambda m: f"duologue_{m[1]} {{ server {gateway.address};", block)
    assert count == 2
    block = block.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{port}; #")
    block = re.sub(r"\n    (ssl_\S+|access_log) .*", "", block)
    # Without TLS one port cannot tell HTTP/2 from HTTP/1.1.
    second = free_port()
    grpc = block[block.index("server {\n") :].replace(f"127.0.0.1:{port}; #", f"127.0.0.1:{second} http2; #")
    paths = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{block}\n{grpc}\n}}\n"
    )
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert program, "nginx is not installed"
    process = subprocess.Popen([program, "-c", config, "-e", tmp_path / "start.log"])
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", second), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "start.log").read_text()
        yield f"127.0.0.1:{port} 127.0.0.1:{second}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def nginx(slow: Gateway, tmp_path: Path) -> Iterator[str]:
    with proxied(slow, tmp_path) as addresses:
        yield addresses


def test_the_host_and_the_address_of_the_client_arrive(
    start: Callable[..., Gateway], tmp_path: Path
) -> None:
    documented = flags("Open, behind a proxy", DUOLOGUE_TRUSTED_PROXIES="127.0.0.1")
    # grpcurl asks for the description of the service.
    documented += ["--reflection", "true"]
    gateway = start(*documented, "--address-sessions-per-minute", "2")

    def create(to: str, client: str, origin: str) -> int:
        """Creates a session from an address of this machine. The header is made up."""
        headers = ("Host: chat.example.com", f"Origin: {origin}", "X-Forwarded-For: 192.0.2.1")
        done = subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--interface", client, "-X", "POST"]
            + [argument for header in headers for argument in ("-H", header)]
            + [f"http://{to}/token?name=Ada"],
            capture_output=True,
            timeout=20,
            check=True,
            text=True,
        )
        return int(done.stdout)

    with proxied(gateway, tmp_path) as addresses:
        http, grpc = addresses.split()
        own, foreign = "http://chat.example.com", "http://evil.example"
        assert create(http, "127.0.0.2", foreign) == 403
        assert [create(http, "127.0.0.2", own) for _ in range(3)] == [200, 200, 429]
        assert create(http, "127.0.0.3", own) == 200
        # The address of grpcurl is that of the proxy, which is trusted: the one before it counts.
        done = grpcurl("-H", "x-forwarded-for: 127.0.0.2", "-d", '{"name":"Ada"}', grpc, f"{SERVICE}/CreateToken")
        assert failure(done) == "ResourceExhausted", done.stderr


def test_streams_are_not_held_back_and_codes_are_kept(slow: Gateway, nginx: str) -> None:
    http, grpc = nginx.split()
    token = slow.new_token()
    # Server-sent events: the first delta arrives while the reply runs.
    with subprocess.Popen(
        ["curl", "-sN", "--max-time", "20", f"http://{http}/events?token={token}"],
        stdout=subprocess.PIPE,
        text=True,
    ) as events:
        assert events.stdout is not None
        assert events.stdout.readline().startswith("id:")
        sent = subprocess.run(
            ["curl", "-s", "-X", "POST", f"http://{http}/messages?token={token}&text=Hi"],
            capture_output=True,
            timeout=20,
            check=True,
        )
        assert json.loads(sent.stdout)["seq"] == 1
        lines = []
        for line in events.stdout:
            lines.append(line)
            if '"delta"' in line:
                break
        assert SLOW_REPLY not in "".join(lines)
        events.terminate()
    # gRPC keeps the code of an error, every time.
    for _ in range(50):
        done = grpcurl("-d", '{"token":"unknown"}', grpc, f"{SERVICE}/RefreshToken")
        assert failure(done) == "Unauthenticated", done.stderr
