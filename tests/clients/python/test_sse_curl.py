"""curl -N: server-sent events in a shell."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from google.protobuf import json_format

from support.contract import pb
from support.gateway import REPLY, SLOW_REPLY, Gateway


class Events:
    """What a running curl has printed: the head, then event after event."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._lines: Iterator[str] = (line.rstrip("\r\n") for line in process.stdout)
        self.status = int(next(self._lines).split()[1])
        self.headers = {}
        while line := next(self._lines):
            name, value = line.split(": ", 1)
            self.headers[name.lower()] = value

    def next(self) -> tuple[str | None, pb.ChatResponse]:
        """The next event's id, if it has one, and its data."""
        ident, data = None, None
        for line in self._lines:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match field:
                case "id":
                    ident = value
                case "data":
                    assert data is None, "an event on two lines"
                    data = value
                case "" if not line and data is not None:
                    return ident, json_format.Parse(data, pb.ChatResponse())
                case "event":
                    raise AssertionError("onmessage does not see named events")
        raise AssertionError("the stream ended")

    def next_of(self, kind: str) -> tuple[str | None, pb.ChatResponse]:
        while True:
            ident, event = self.next()
            if event.WhichOneof("event") == kind:
                return ident, event


@contextmanager
def listen(url: str, *arguments: str) -> Iterator[Events]:
    command = ["curl", "-N", "--silent", "--show-error", "--include", "--max-time", "20"]
    with subprocess.Popen([*command, *arguments, url], stdout=subprocess.PIPE, text=True) as curl:
        try:
            yield Events(curl)
        finally:
            curl.kill()


def say(gateway: Gateway, token: str, text: str) -> None:
    answer = gateway.request("POST", f"/messages?token={token}", body={"text": text})
    assert answer.status == 202


def test_the_stream_passes_through_proxies_unbuffered(gateway: Gateway) -> None:
    with listen(f"{gateway.http}/events?token={gateway.new_token()}") as events:
        assert events.status == 200
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.headers["x-accel-buffering"] == "no"
        assert (
            "no-cache" in events.headers["cache-control"]
            or "no-store" in events.headers["cache-control"]
        )


def test_a_conversation_is_streamed(gateway: Gateway) -> None:
    token = gateway.new_token()
    with listen(f"{gateway.http}/events", "-H", f"Authorization: Bearer {token}") as events:
        ident, opened = events.next()
        assert not opened.opened.recovered
        epoch = opened.opened.position.epoch
        assert ident == f"{epoch}:0"
        say(gateway, token, "Hello Bot")
        seen = [events.next() for _ in range(4)]
    assert [event.WhichOneof("event") for _, event in seen] == [
        "message", "reply_started", "delta", "message",
    ]  # fmt: skip
    reply = seen[1][1].reply_started.reply_id
    assert [ident for ident, _ in seen] == [
        f"{epoch}:1", f"{epoch}:1:{reply}:0", f"{epoch}:1:{reply}:{len(REPLY)}", f"{epoch}:2",
    ]  # fmt: skip
    assert seen[-1][1].message.text == REPLY


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_lost_stream_is_resumed_where_it_broke(slow: Gateway, how: str) -> None:
    token = slow.new_token()
    url = f"{slow.http}/events?token={token}"
    with listen(url) as events:
        events.next_of("opened")
        say(slow, token, "Hello Bot")
        events.next_of("delta")
        last, before = events.next_of("delta")

    resume = ["-H", f"Last-Event-ID: {last}"]
    with listen(url, *resume) if how == "header" else listen(f"{url}&position={last}") as events:
        ident, opened = events.next()
        assert (ident, opened.opened.recovered) == (last, True)
        _, started = events.next()
        assert started.reply_started.offset == before.delta.end
        _, after = events.next_of("delta")
        assert after.delta.offset == before.delta.end
        assert SLOW_REPLY[after.delta.offset :].startswith(after.delta.text)
        ident, answered = events.next_of("message")
        assert answered.message.text == SLOW_REPLY
        assert ident == f"{opened.opened.position.epoch}:2"


def test_last_event_id_wins_over_the_url(gateway: Gateway) -> None:
    token = gateway.new_token()
    url = f"{gateway.http}/events?token={token}"
    with listen(url) as events:
        beginning, _ = events.next()
        say(gateway, token, "Hello Bot")
        events.next_of("message")
        end, _ = events.next_of("message")
    with listen(f"{url}&position={beginning}", "-H", f"Last-Event-ID: {end}") as events:
        _, opened = events.next()
        assert (opened.opened.recovered, opened.opened.position.seq) == (True, 2)


@pytest.mark.parametrize("token", ["", "nonsense", "00000000-0000-4000-8000-000000000000"])
def test_a_token_that_opens_nothing_gets_an_answer_and_no_stream(
    gateway: Gateway, token: str
) -> None:
    with listen(f"{gateway.http}/events?token={token}") as events:
        assert events.status in (400, 422)
        assert events.headers["content-type"] == "application/json"


def test_an_idle_stream_is_kept_alive(start) -> None:
    gateway = start("--heartbeat", "1s")
    with subprocess.Popen(
        ["curl", "-N", "--silent", "--max-time", "10",
         f"{gateway.http}/events?token={gateway.new_token()}"],
        stdout=subprocess.PIPE, text=True,
    ) as curl:  # fmt: skip
        assert curl.stdout is not None
        assert any(line.startswith(":") for line in curl.stdout), "no comment in ten seconds"
        curl.kill()
