"""Runs the release binary on a free port, and stops it as an operator would."""

import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[4]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
BINARY = Path(os.environ.get("DUOLOGUE_BIN", TARGET / "release" / "duologue"))

# The default reply of the simulated responder, and a longer one for tests that need
# time during a reply.
REPLY = "Response: Simulating response from the GPT service"
SLOW_REPLY = " ".join(f"word{n}" for n in range(30))

LISTENING = re.compile(r"listening on (\S+):(\d+)")


@dataclass(frozen=True)
class Answer:
    """What an HTTP request got."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gateway:
    """A running gateway. As a context manager it is stopped at the end, and
    must then leave with exit code 0."""

    def __init__(self, *flags: str) -> None:
        self.log: list[str] = []
        self._terminated = False
        self.tokens: list[str] = []
        self._ready = threading.Event()
        self._port: int | None = None
        # A folder of its own: no .env to read, nothing to leave behind.
        self._folder = tempfile.TemporaryDirectory(prefix="duologue-")
        settings = ("APP_ENV", "DUOLOGUE_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(settings)}
        store = () if "--store" in flags else ("--store", "memory")
        self.process = subprocess.Popen(
            [BINARY, "--addr", "127.0.0.1:0", "--ops-addr", "off", *store, *flags],
            cwd=self._folder.name,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._ready.wait(10)
        if self._port is None:
            self.kill()
            raise AssertionError("the gateway did not start:\n" + "".join(self.log))

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if self._port is None and (found := LISTENING.search(line)):
                self._port = int(found[2])
                self._ready.set()
        self._ready.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def http(self) -> str:
        return f"http://{self.address}"

    @property
    def ws(self) -> str:
        return f"ws://{self.address}/chat"

    def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, body: Any = None
    ) -> Answer:
        """One HTTP request; a body that is given is sent as JSON."""
        headers = dict(headers or {})
        if body is not None:
            headers["content-type"] = "application/json"
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def new_token(self, name: str = "Ada") -> str:
        """A new session's token, over REST."""
        answer = self.request("POST", f"/token?name={name}")
        assert answer.status == 200, answer
        self.tokens.append(answer.json["token"])
        return self.tokens[-1]

    def history(self, token: str) -> list[dict[str, Any]]:
        """The session's messages, over REST."""
        answer = self.request("GET", f"/refresh_token?token={token}")
        assert answer.status == 200, answer
        return answer.json["messages"]

    def terminate(self) -> None:
        """SIGTERM, once: a second one would end the drain."""
        if not self._terminated:
            self._terminated = True
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once, whatever it was doing."""
        self.process.kill()
        self._tidy()

    def stop(self) -> None:
        """SIGTERM, a clean exit, and a log that gives nothing away."""
        self.terminate()
        try:
            status = self.process.wait(timeout=35)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the gateway outlived its drain:\n" + "".join(self.log)) from None
        self._tidy()
        log = "".join(self.log)
        assert status == 0, f"exit code {status}:\n{log}"
        assert "panicked" not in log, log
        assert not [token for token in self.tokens if token in log], f"a token in the log:\n{log}"

    def _tidy(self) -> None:
        self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self._folder.cleanup()

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
