"""Runs the example bot, as its README does."""

import os
import queue
import re
import subprocess
import sys
import threading

from support.contract import GENERATED
from support.gateway import REPOSITORY

SCRIPT = REPOSITORY / "examples" / "bots" / "python" / "bot.py"


class Bot:
    """A running bot. What it prints can be waited for."""

    def __init__(self, address: str = "localhost:0", **settings: str) -> None:
        self._terminated = False
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BOT_")},
            "PYTHONPATH": str(GENERATED),
            "BOT_ADDR": address,
            **{f"BOT_{name.upper()}": value for name, value in settings.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.address = self.says(r"listening on (\S+)")[1]
        except BaseException:
            self.kill()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def says(self, pattern: str) -> re.Match[str]:
        """The next line that it prints, which must be of this form."""
        try:
            line = self._lines.get(timeout=10)
        except queue.Empty:
            raise AssertionError(f"the bot did not say {pattern!r}") from None
        found = re.search(pattern, line)
        assert found, f"the bot said {line!r} and not {pattern!r}"
        return found

    def kill(self) -> None:
        self.process.kill()
        self._tidy()

    def terminate(self) -> None:
        """SIGTERM, once: a second one would find it on its way out."""
        if not self._terminated:
            self._terminated = True
            self.process.terminate()

    def stop(self) -> None:
        """SIGTERM, and a clean exit."""
        self.terminate()
        status = self.process.wait(20)
        self._tidy()
        assert status == 0, status

    def _tidy(self) -> None:
        self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> "Bot":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.stop()
