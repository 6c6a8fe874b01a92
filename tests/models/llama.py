"""llama.cpp's own server, as a process that can be killed and brought back."""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any


class Llama:
    """A running server. Its port stays the same when it comes back."""

    def __init__(self, model: Path, *, context: int = 1 << 16, slots: int = 2) -> None:
        self._flags = [str(model), str(context), str(slots)]
        self.port = 0
        self.start()

    def start(self) -> None:
        # The port comes through a pipe of its own: the server writes its log from
        # several threads, without regard for lines.
        ours, theirs = os.pipe()
        with tempfile.TemporaryFile("w+") as log, open(ours) as port:
            self._process = subprocess.Popen(
                [sys.executable, __file__, *self._flags, str(self.port), str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs],
            )
            os.close(theirs)
            told = port.read()  # until it has been told, or the server is gone
            if not told:
                log.seek(0)
                raise AssertionError(f"no model server:\n{log.read()}")
            self.port = int(told)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            return json.loads(response.read())
        finally:
            connection.close()

    def busy(self) -> int:
        """How many of its slots work on an answer."""
        return sum(slot["is_processing"] for slot in self.get("/slots"))

    def wait_for_busy(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while (busy := self.busy()) != count:
            assert time.monotonic() < deadline, f"{busy} slots are busy, not {count}"
            time.sleep(0.01)


def serve(model: Path, context: int, slots: int, port: int, told: int) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(model)
    # Each slot has its own part of it.
    settings.n_ctx = context * slots
    settings.kv_unified = False
    settings.n_parallel = slots
    settings.cpuparams.n_threads = 1
    settings.endpoint_slots = True
    settings.port = port
    server = xllamacpp.Server(settings)
    with open(told, "w") as pipe:
        pipe.write(server.listening_address.rsplit(":", 1)[1])
    threading.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("context", type=int)
    parser.add_argument("slots", type=int)
    parser.add_argument("port", type=int)
    parser.add_argument("told", type=int)
    serve(**vars(parser.parse_args()))
