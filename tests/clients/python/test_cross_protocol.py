"""One session, several protocols: whatever the way in, it is the same
conversation."""

import itertools
import threading

import pytest

from support.clients import PROTOCOLS, Client, GrpcChat, Refused, Sse, WsJson, WsProto
from support.contract import pb
from support.gateway import REPLY, SLOW_REPLY, Gateway

each = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
every_pair = pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.product(PROTOCOLS, PROTOCOLS)),
    ids=lambda p: p.name,
)
every_other = pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.permutations(PROTOCOLS, 2)),
    ids=lambda p: p.name,
)


def the_beginning(client: Client) -> pb.Position:
    """The position before the first message."""
    return pb.Position(epoch=client.position.epoch, seq=0)


@every_pair
def test_a_client_dropped_in_the_middle_of_a_reply_resumes_and_misses_nothing(
    slow: Gateway, first: type[Client], second: type[Client]
) -> None:
    token = slow.new_token()
    with first(slow, token) as client:
        client.next_of("opened")
        client.send("Hello Bot", "m1")
        heard = [client.next_of("delta") for _ in range(3)]
        seen = client.position

    with second(slow, token, seen) as client:
        opened = client.next_of("opened")
        assert opened.recovered
        assert opened.position == seen
        started = client.next().reply_started
        assert started.reply_id == heard[0].reply_id
        assert started.offset == heard[-1].end, "it continues where the client was"
        *events, end = client.until_reply()

    deltas = [*heard, *(event.delta for event in events)]
    assert len(deltas) > len(heard), "resumed after the reply, not in the middle of it"
    offset = 0
    for delta in deltas:
        assert (delta.index, delta.offset) == (0, offset), "no gap and nothing twice"
        assert delta.end - delta.offset == len(delta.text.encode()) + delta.done
        offset = delta.end
    assert "".join(delta.text for delta in deltas) == SLOW_REPLY
    assert end.message.text == SLOW_REPLY
    assert (end.message.seq, end.message.id) == (2, started.reply_id)
    assert end.message.status == pb.MESSAGE_STATUS_COMPLETE


@every_other
def test_a_retry_on_another_protocol_is_the_same_message(
    gateway: Gateway, first: type[Client], second: type[Client]
) -> None:
    token = gateway.new_token()
    with first(gateway, token) as client:
        client.next_of("opened")
        sent = client.send("Hello Bot", "m1")
        client.until_reply()
    with second(gateway, token) as client:
        client.next_of("opened")
        again = client.send("Hello Bot", "m1")
        with pytest.raises(Refused):
            client.send("Another text under the same id", "m1")

    assert not sent.duplicate
    assert again.duplicate
    assert (again.message_id, again.seq) == (sent.message_id, sent.seq)
    assert [m["msg"] for m in gateway.history(token)] == ["Hello Bot", REPLY]


@every_other
def test_a_message_sent_twice_at_once_is_one_message(
    gateway: Gateway, first: type[Client], second: type[Client]
) -> None:
    token = gateway.new_token()
    with first(gateway, token) as one, second(gateway, token) as other:
        one.next_of("opened")
        other.next_of("opened")
        answers: list[pb.Accepted] = []
        together = threading.Barrier(2)

        def send(client: Client) -> None:
            together.wait()
            answers.append(client.send("Hello Bot", "m1"))

        threads = [threading.Thread(target=send, args=(client,)) for client in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        one.until_reply()

    assert sorted(answer.duplicate for answer in answers) == [False, True]
    assert len({answer.message_id for answer in answers}) == 1
    assert [m["msg"] for m in gateway.history(token)] == ["Hello Bot", REPLY]


def test_every_protocol_shows_the_same_events(slow: Gateway) -> None:
    token = slow.new_token()
    clients = [protocol(slow, token) for protocol in PROTOCOLS]
    for client in clients:
        client.next_of("opened")
    clients[0].send("Hello Bot", "m1")
    live = [client.until_reply() for client in clients]
    for client in clients:
        client.drop()

    assert len(live[0]) == 1 + 1 + len(SLOW_REPLY.split()) + 1  # asked, started, deltas, answered
    for protocol, events in zip(PROTOCOLS[1:], live[1:], strict=True):
        assert events == live[0], f"{protocol.name} receives other events"


def test_every_protocol_replays_the_same_log(gateway: Gateway) -> None:
    token = gateway.new_token()
    with GrpcChat(gateway, token) as client:
        client.next_of("opened")
        for n in range(3):
            client.send(f"message {n}", f"m{n}")
            client.until_reply()
        beginning = the_beginning(client)

    logs = []
    for protocol in PROTOCOLS:
        with protocol(gateway, token, beginning) as client:
            opened = client.next_of("opened")
            assert (opened.recovered, opened.head_seq) == (True, 6)
            logs.append([client.next_of("message") for _ in range(6)])
    assert [message.seq for message in logs[0]] == [1, 2, 3, 4, 5, 6]
    assert all(log == logs[0] for log in logs)
    assert [m["msg"] for m in gateway.history(token)] == [m.text for m in logs[0]]
    assert [m["id"] for m in gateway.history(token)] == [m.id for m in logs[0]]


def test_a_conversation_wanders_through_every_protocol(slow: Gateway) -> None:
    token = slow.new_token("Ada")  # REST

    with GrpcChat(slow, token) as grpc:
        assert grpc.next_of("opened").session.name == "Ada"
        grpc.send("first", "m1")
        grpc.next_of("delta")
        seen = grpc.position  # and the network is gone

    with WsJson(slow, token, seen) as ws:
        assert ws.next_of("opened").recovered
        answer = ws.until_reply()[-1].message
        assert (answer.seq, answer.text) == (2, SLOW_REPLY)
        ws.send("second", "m2")
        ws.next_of("delta")
        seen = ws.position

    with Sse(slow, token, seen) as sse:
        assert sse.next_of("opened").recovered
        assert sse.until_reply()[-1].message.seq == 4
        sse.send("third", "m3")
        sse.next_of("delta")
        sse.stop()
        stopped = sse.until_reply()[-1].message
        assert stopped.status == pb.MESSAGE_STATUS_STOPPED
        assert SLOW_REPLY.startswith(stopped.text)
        assert stopped.text not in ("", SLOW_REPLY)

    said = [(m["seq"], m["role"], m["msg"]) for m in slow.history(token)]
    assert said == [
        (1, "user", "first"),
        (2, "assistant", SLOW_REPLY),
        (3, "user", "second"),
        (4, "assistant", SLOW_REPLY),
        (5, "user", "third"),
        (6, "assistant", stopped.text),
    ]


@each
def test_an_unknown_epoch_is_said_not_guessed(gateway: Gateway, protocol: type[Client]) -> None:
    token = gateway.new_token()
    with WsProto(gateway, token) as client:
        client.next_of("opened")
        client.send("Hello Bot", "m1")
        client.until_reply()
    with protocol(gateway, token, pb.Position(epoch="of-another-log", seq=1)) as client:
        opened = client.next_of("opened")
        assert not opened.recovered
        assert opened.position.seq == opened.head_seq == 2
        assert opened.position.epoch != "of-another-log"
        client.send("Are you there?", "m2")
        assert client.next_of("message").seq == 3, "something was replayed"
