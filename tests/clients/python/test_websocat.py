"""websocat, the README's one-liner: a chat in a shell pipe."""

import subprocess
import sys
from pathlib import Path

from support.gateway import REPLY, Gateway

WEBSOCAT = Path(sys.executable).with_name("websocat")


def websocat(*arguments: str, stdin: str) -> subprocess.CompletedProcess[str]:
    command = [WEBSOCAT, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=20)


def test_one_line_in_one_line_out(gateway: Gateway) -> None:
    url = f"{gateway.ws}?token={gateway.new_token()}"
    done = websocat("--one-message", "--no-close", url, stdin="Hello Bot\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == REPLY + "\n"


def test_the_end_of_the_input_waits_for_the_answers(start) -> None:
    gateway = start("--simulated-reply", "You said {text}", "--simulated-delay", "10ms")
    url = f"{gateway.ws}?token={gateway.new_token()}"
    done = websocat("--no-close", "--max-messages-rev", "2", url, stdin="one\ntwo\n")
    assert done.stdout == "You said one\nYou said two\n"


def test_json_frames_in_a_pipe(gateway: Gateway) -> None:
    frames = '{"open":{"token":"%s"}}\n{"ping":{}}\n' % gateway.new_token()
    done = websocat(
        "--no-close", "--protocol", "duologue.v1.json", "--max-messages-rev", "2", gateway.ws,
        stdin=frames,
    )  # fmt: skip
    opened, pong = done.stdout.splitlines()
    assert opened.startswith('{"opened":')
    assert pong == '{"pong":{}}'


def test_without_a_token_it_is_refused(gateway: Gateway) -> None:
    done = websocat(gateway.ws, stdin="Hello Bot\n")
    assert done.returncode != 0
    assert "403" in done.stderr
