"""The example of docs/OPERATIONS.md of a backend with the key of a service."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from support.documentation import blocks, flags
from support.gateway import BINARY, Gateway

HEADING = "A backend with the key of a service"


def run(script: str, folder: Path, **environment: str) -> str:
    """Runs commands of the example, with `duologue` on the path."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "duologue"
    if not program.exists():
        program.symlink_to(BINARY)
    path = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **environment},
        capture_output=True,
        timeout=30,
        text=True,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_a_service_creates_lists_and_opens_the_sessions_of_its_users(
    start: Callable[..., Gateway], tmp_path: Path
) -> None:
    keys, calls, requests = blocks(HEADING, "sh")
    add, listing, remove = keys.splitlines()
    key = run(add, tmp_path).split()[-1]
    assert key.startswith("dk_") and "shop" in run(listing, tmp_path)
    store = ("--store", f"sqlite:{tmp_path}/data/duologue.db")
    gateway = start(*flags(HEADING), *store, "--api-keys", f"{tmp_path}/data/keys.toml")
    assert gateway.request("POST", "/token?name=Ada").status == 401

    create, list_sessions, issue = calls.replace("http://gateway:3500", gateway.http).splitlines()
    created = json.loads(run(create, tmp_path, KEY=key))
    gateway.tokens.append(created["token"])
    # A browser talks to the gateway with the token alone.
    bearer = {"authorization": f"Bearer {created['token']}"}
    sent = gateway.request("POST", "/messages?text=Hi", headers=bearer)
    assert sent.status == 202, sent
    listed = json.loads(run(list_sessions, tmp_path, KEY=key))
    (session,) = listed["sessions"]
    issued = json.loads(run(issue, tmp_path, KEY=key, ID=session["id"]))
    gateway.tokens.append(issued["token"])
    assert gateway.history(issued["token"])[0]["msg"] == "Hi"
    run(remove, tmp_path)

    gateway.stop()
    list_stored, export, delete = requests.splitlines()
    assert session["id"] in run(list_stored, tmp_path)
    run(export, tmp_path)
    assert '"Hi"' in (tmp_path / "user-42.jsonl").read_text()
    run(delete, tmp_path)
    assert session["id"] not in run(list_stored, tmp_path)
