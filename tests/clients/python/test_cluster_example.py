"""The three gateways of examples/cluster, behind nginx."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.gateway import BINARY, REPOSITORY
from test_grpcurl import SERVICE, answers, grpcurl

WORDS = " ".join(f"word{number}" for number in range(60))


class Cluster:
    def __init__(self, port: int, folder: Path) -> None:
        self.folder = folder
        self.port = port
        self.rest = f"http://127.0.0.1:{port + 4}"
        environment = {**os.environ, "PORT": str(port), "DUOLOGUE": str(BINARY)}
        environment["TMPDIR"] = str(folder)
        # The signals of a terminal go to the whole group.
        self.process = subprocess.Popen(
            [
                REPOSITORY / "examples" / "cluster" / "run",
                *("--simulated-reply", WORDS, "--simulated-delay", "50ms", "--reflection", "true"),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.gateways = []
        for line in self.process.stdout:
            if found := re.search(r"port (\d+), process (\d+)", line):
                self.gateways.append((int(found[1]), int(found[2])))
            if line.startswith("gRPC on"):
                break
        assert len(self.gateways) == 3, line
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port + 4), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        if self.process.poll() is None:
            self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    # The ports of a block that is free.
    for base in range(23000, 32000, 100):
        try:
            for number in range(6):
                with socket.socket() as listener:
                    listener.bind(("127.0.0.1", base + number))
            break
        except OSError:
            continue
    cluster = Cluster(base, tmp_path)
    try:
        yield cluster
    finally:
        cluster.end()


def test_a_conversation_survives_the_death_of_one_of_three_gateways(cluster: Cluster) -> None:
    token = httpx.post(f"{cluster.rest}/token", params={"name": "Ada"}, timeout=10).json()["token"]
    sent = httpx.post(
        f"{cluster.rest}/messages", params={"token": token, "text": "Hi"}, timeout=10
    )
    assert sent.status_code == 202, sent.text
    time.sleep(0.5)
    # One of them produces the reply: the one whose death makes it a second attempt.
    os.kill(cluster.gateways[0][1], signal.SIGKILL)
    os.kill(cluster.gateways[1][1], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        history = httpx.get(
            f"{cluster.rest}/refresh_token", params={"token": token}, timeout=10
        ).json()
        if len(history["messages"]) == 2:
            break
        assert time.monotonic() < deadline, history
        time.sleep(0.2)
    assert history["messages"][1]["msg"] == WORDS
    created = grpcurl(
        "-d", '{"name": "Bob"}', f"127.0.0.1:{cluster.port}", f"{SERVICE}/CreateToken"
    )
    assert answers(created)[0]["token"]


def test_the_example_leaves_nothing_running_and_no_files(cluster: Cluster) -> None:
    assert os.listdir(cluster.folder)
    cluster.end()
    for _, process in cluster.gateways:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert not os.listdir(cluster.folder)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", cluster.port + 5), timeout=1)
