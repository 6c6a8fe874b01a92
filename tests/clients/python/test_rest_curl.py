"""curl, against every row of the REST table in docs/PROTOCOL.md. The answers
were recorded from the service this one replaces: bodies are compared byte for
byte."""

import json
import subprocess
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from support.gateway import REPLY, Gateway

UNKNOWN = "00000000-0000-4000-8000-000000000000"
EXPIRED = b'{"detail":"Session expired or does not exist"}'


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def curl(url: str, *arguments: str) -> Answer:
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--include"]
    done = subprocess.run([*command, *arguments, url], capture_output=True, check=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


def missing(parameter: str) -> bytes:
    return (
        '{"detail":[{"type":"missing","loc":["query","%s"],"msg":"Field required","input":null}]}'
        % parameter
    ).encode()


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/test", 200, b'{"msg":"API is Online"}'),
        ("POST", "/token?name=", 400, b'{"detail":{"loc":"name","msg":"Enter a valid name"}}'),
        (
            "POST",
            "/token?name=%20%20",
            400,
            b'{"detail":{"loc":"name","msg":"Enter a valid name"}}',
        ),
        ("POST", "/token", 422, missing("name")),
        ("POST", "/refresh_token", 422, missing("token")),
        ("GET", "/refresh_token", 422, missing("token")),
        ("POST", f"/refresh_token?token={UNKNOWN}", 400, EXPIRED),
        ("GET", f"/refresh_token?token={UNKNOWN}", 400, EXPIRED),
        ("GET", "/refresh_token?token=nonsense", 400, EXPIRED),
        ("GET", "/nowhere", 404, b'{"detail":"Not Found"}'),
        ("POST", "/test/", 404, b'{"detail":"Not Found"}'),
        ("POST", "/test", 405, b'{"detail":"Method Not Allowed"}'),
        ("GET", "/token", 405, b'{"detail":"Method Not Allowed"}'),
        ("PUT", "/refresh_token", 405, b'{"detail":"Method Not Allowed"}'),
    ],
)
def test_an_answer_is_the_recorded_one(
    gateway: Gateway, method: str, path: str, status: int, body: bytes
) -> None:
    answer = curl(gateway.http + path, "-X", method)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/test", {"GET", "HEAD"}),
        ("GET", "/token", {"POST", "DELETE"}),
        ("PUT", "/refresh_token", {"GET", "HEAD", "POST"}),
        ("GET", "/messages", {"POST"}),
        ("POST", "/events", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    gateway: Gateway, method: str, path: str, allowed: set[str]
) -> None:
    answer = curl(gateway.http + path, "-X", method)
    assert answer.status == 405
    assert {word.strip() for word in answer.headers["allow"].split(",")} == allowed


def test_a_token_is_made_for_a_name(gateway: Gateway) -> None:
    answer = curl(f"{gateway.http}/token?name=Ada", "-X", "POST")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    token = answer.json["token"]
    assert uuid.UUID(token).version == 4
    assert answer.body.startswith(b'{"name":"Ada","token":"%s"' % token.encode())
    assert answer.json["messages"] == []
    assert answer.json["session_start"] < answer.json["expires_at"]


def test_a_unicode_name_is_a_name(gateway: Gateway) -> None:
    answer = curl(f"{gateway.http}/token?name=%E7%8E%8B+%C3%89va", "-X", "POST")
    assert answer.json["name"] == "王 Éva"


def test_a_conversation_by_requests_alone(gateway: Gateway) -> None:
    token = gateway.new_token()
    say = ["--json", '{"text":"Hello Bot","client_message_id":"m1"}']
    sent = curl(f"{gateway.http}/messages?token={token}", *say)
    assert sent.status == 202
    assert (sent.json["seq"], sent.json["client_message_id"]) == (1, "m1")
    assert sent.json["duplicate"] is False
    again = curl(f"{gateway.http}/messages?token={token}", *say)
    assert again.status in (200, 202)
    assert again.json == sent.json | {"duplicate": True}

    history = []
    while len(history) < 2:  # no delay: a matter of microseconds
        read = curl(f"{gateway.http}/refresh_token?token={token}", "-X", "POST")
        history = read.json["messages"]
    assert list(read.json) == [
        "token", "name", "session_start", "expires_at", "messages", "position",
        "has_more",
    ]  # fmt: skip
    assert (read.json["token"], read.json["name"]) == (token, "Ada")
    assert [(m["role"], m["msg"]) for m in history] == [
        ("user", "Hello Bot"),
        ("assistant", REPLY),
    ]
    assert history[0]["id"] == sent.json["message_id"] == history[1]["in_reply_to"]
    assert history[0]["timestamp"] <= history[1]["timestamp"]
    assert read.json["position"]["seq"] == 2
    assert read.json["position"]["epoch"]
    got = curl(f"{gateway.http}/refresh_token?token={token}&after=1&limit=1")
    assert [m["seq"] for m in got.json["messages"]] == [2]
    assert curl(f"{gateway.http}/stop?token={token}", "-X", "POST").json == {"stopped": False}


def test_parameters_may_come_without_a_body_and_the_token_in_a_header(gateway: Gateway) -> None:
    bearer = ["-H", f"Authorization: Bearer {gateway.new_token()}"]
    sent = curl(f"{gateway.http}/messages?text=Hello%20Bot", "-X", "POST", *bearer)
    assert (sent.status, sent.json["seq"]) == (202, 1)
    read = curl(f"{gateway.http}/refresh_token", *bearer)
    assert read.json["messages"][0]["msg"] == "Hello Bot"
    assert curl(f"{gateway.http}/token", "-X", "DELETE", *bearer).status == 204


def test_a_revoked_token_opens_nothing(gateway: Gateway) -> None:
    token = gateway.new_token()
    gone = curl(f"{gateway.http}/token?token={token}", "-X", "DELETE")
    assert (gone.status, gone.body) == (204, b"")
    for method, path in [
        ("GET", "/refresh_token"), ("DELETE", "/token"), ("GET", "/events"),
        ("POST", "/stop"), ("POST", "/messages"),
    ]:  # fmt: skip
        answer = curl(f"{gateway.http}{path}?token={token}&text=x", "-X", method)
        assert (answer.status, answer.body) == (400, EXPIRED), path


@pytest.mark.parametrize("path", ["/test", "/docs/", "/openapi.json", "/asyncapi.yaml", "/healthz"])
def test_head_is_answered_like_get_without_the_body(gateway: Gateway, path: str) -> None:
    head, get = curl(gateway.http + path, "--head"), curl(gateway.http + path)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_every_document_is_served(gateway: Gateway) -> None:
    assert curl(f"{gateway.http}/healthz").status == 200
    assert curl(f"{gateway.http}/readyz").status == 200
    assert curl(f"{gateway.http}/docs").headers["location"] == "/docs/"
    assert "text/html" in curl(f"{gateway.http}/docs/").headers["content-type"]
    assert b"duologue.v1.json" in curl(f"{gateway.http}/asyncapi.yaml").body
    described = curl(f"{gateway.http}/openapi.json").json["paths"]
    assert described.keys() >= {
        "/test", "/token", "/refresh_token", "/messages", "/stop", "/events",
    }  # fmt: skip


def test_chat_without_an_upgrade_says_what_it_is_for(gateway: Gateway) -> None:
    answer = curl(f"{gateway.http}/chat?token={gateway.new_token()}")
    assert answer.status == 426
    assert answer.headers["upgrade"].lower() == "websocket"
    assert answer.json["detail"]


@pytest.mark.parametrize("query", ["", f"?token={UNKNOWN}", "?token=nonsense"])
def test_chat_without_a_valid_token_is_forbidden(gateway: Gateway, query: str) -> None:
    handshake = [
        "-H", "Connection: Upgrade", "-H", "Upgrade: websocket",
        "-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]  # fmt: skip
    assert curl(f"{gateway.http}/chat{query}", "--http1.1", *handshake).status == 403


def test_the_same_answers_over_http_2(gateway: Gateway) -> None:
    answer = curl(f"{gateway.http}/test", "--http2-prior-knowledge")
    assert (answer.status, answer.body) == (200, b'{"msg":"API is Online"}')
