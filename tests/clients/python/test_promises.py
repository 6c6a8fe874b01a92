"""What the gateway promises whatever the protocol, seen by a real client of
each."""

import time

import pytest

from support.clients import PROTOCOLS, Client, Refused
from support.contract import pb
from support.gateway import SLOW_REPLY, Gateway

each = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)


@each
def test_a_reply_finishes_with_nobody_attached(slow: Gateway, protocol: type[Client]) -> None:
    token = slow.new_token()
    with protocol(slow, token) as client:
        client.next_of("opened")
        client.send("Hello Bot", "m1")
        client.next_of("delta")

    # Reading the history does not attach.
    deadline = time.monotonic() + 10
    while len(history := slow.history(token)) < 2:
        assert time.monotonic() < deadline, "the reply never came"
        time.sleep(0.05)
    assert history[1]["msg"] == SLOW_REPLY
    assert history[1]["status"] == "complete"


@each
def test_stop_keeps_the_text_so_far(slow: Gateway, protocol: type[Client]) -> None:
    token = slow.new_token()
    with protocol(slow, token) as client:
        client.next_of("opened")
        client.send("Hello Bot", "m1")
        heard = [client.next_of("delta").text for _ in range(2)]
        client.stop()
        *rest, end = client.until_reply()
    heard += [event.delta.text for event in rest]
    assert end.message.status == pb.MESSAGE_STATUS_STOPPED
    assert end.message.text == "".join(heard)
    assert len(heard) < len(SLOW_REPLY.split())


@each
def test_turns_are_answered_one_at_a_time_and_in_order(
    gateway: Gateway, protocol: type[Client]
) -> None:
    with protocol(gateway, gateway.new_token()) as client:
        client.next_of("opened")
        sent = [client.send(f"message {n}", f"m{n}") for n in range(5)]
        messages = []
        while len(messages) < 10:
            messages.append(client.next_of("message"))
    assert [message.seq for message in messages] == list(range(1, 11))
    replies = [message for message in messages if message.role == pb.ROLE_ASSISTANT]
    assert [reply.in_reply_to for reply in replies] == [accepted.message_id for accepted in sent]


@each
def test_a_full_queue_refuses_the_next_message(slow: Gateway, protocol: type[Client]) -> None:
    token = slow.new_token()
    with protocol(slow, token) as client:
        room = client.next_of("opened").limits.max_queued_turns
        with pytest.raises(Refused):
            for n in range(room + 2):  # the first may have left the queue already
                client.send(f"message {n}", f"m{n}")
        client.next_of("delta")  # the stream is still open
    assert slow.request("DELETE", f"/token?token={token}").status == 204


@each
def test_a_token_opens_its_own_session_only(gateway: Gateway, protocol: type[Client]) -> None:
    with (
        protocol(gateway, gateway.new_token("Ada")) as ada,
        protocol(gateway, gateway.new_token("Bob")) as bob,
    ):
        ada.next_of("opened")
        bob.next_of("opened")
        ada.send("for Ada's eyes", "m1")
        ada.until_reply()
        bob.send("Bob's own", "m1")
        assert bob.next_of("message").text == "Bob's own"
        assert bob.until_reply()[-1].message.seq == 2


@each
def test_a_revoked_session_ends_its_streams(gateway: Gateway, protocol: type[Client]) -> None:
    token = gateway.new_token()
    with protocol(gateway, token) as client:
        client.next_of("opened")
        assert gateway.request("DELETE", f"/token?token={token}").status == 204
        events = client.until_ended(timeout=1)
    assert [event.WhichOneof("event") for event in events] == ["error"]
    assert events[0].error.final
    assert events[0].error.code == "session_revoked"


@each
def test_an_expired_session_ends_its_streams(start, protocol: type[Client]) -> None:
    gateway = start("--session-ttl", "1s")
    token = gateway.new_token()
    with protocol(gateway, token) as client:
        client.next_of("opened")
        events = client.until_ended(timeout=2.5)
    assert [event.WhichOneof("event") for event in events] == ["error"]
    assert events[0].error.final
    assert events[0].error.code == "session_expired"
    assert gateway.request("GET", f"/refresh_token?token={token}").status == 400


@each
def test_a_text_is_what_it_was_when_it_comes_back(gateway: Gateway, protocol: type[Client]) -> None:
    text = 'Grüße, 世界! 👩‍👩‍👧 "quoted" \\ line\nbreak\ttab \u202eright to left'
    with protocol(gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send(text, "m1")
        assert client.next_of("message").text == text


@each
@pytest.mark.parametrize("character", ["x", "\u0001", "界"], ids=["ascii", "escaped", "wide"])
def test_the_longest_text_is_accepted_and_one_byte_more_refused(
    gateway: Gateway, protocol: type[Client], character: str
) -> None:
    token = gateway.new_token()
    with protocol(gateway, token) as client:
        room = client.next_of("opened").limits.max_text_bytes
        longest = character * (room // len(character.encode()))
        longest += "x" * (room - len(longest.encode()))
        with pytest.raises(Refused):
            client.send(longest + "x", "m1")
        client.send(longest, "m2")
        assert client.next_of("message").text == longest


@each
def test_the_log_keeps_what_was_said_to_itself(start, protocol: type[Client]) -> None:
    gateway = start("--log", "trace", "--simulated-reply", "{name} said {text}")
    token = gateway.new_token("canary-in-the-name")
    with protocol(gateway, token) as client:
        client.next_of("opened")
        client.send("canary-in-the-text", "m1")
        client.until_reply()
    gateway.stop()  # which looks for the token
    log = "".join(gateway.log)
    assert ("stream opened" in log, "stream closed" in log) == (True, True)
    assert "canary" not in log


@each
@pytest.mark.parametrize("text", ["", "nul \0 inside"], ids=["empty", "nul"])
def test_a_text_that_cannot_be_is_refused(
    gateway: Gateway, protocol: type[Client], text: str
) -> None:
    token = gateway.new_token()
    with protocol(gateway, token) as client:
        client.next_of("opened")
        with pytest.raises(Refused):
            client.send(text, "m1")
        assert client.send("Hello Bot", "m2").seq == 1
