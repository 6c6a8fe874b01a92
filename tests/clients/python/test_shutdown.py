"""SIGTERM, seen from outside: running replies finish, every stream gets
`go_away`, and the process exits with 0. (Every gateway of this suite is stopped by SIGTERM;
these have work in progress.)"""

import signal
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from support.clients import PROTOCOLS, Client
from support.gateway import REPLY, SLOW_REPLY, Gateway

each = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
SLOWLY = ("--simulated-delay", "25ms", "--simulated-reply", SLOW_REPLY)


@each
def test_a_running_reply_finishes_and_its_client_is_told_to_come_back(
    start, protocol: type[Client]
) -> None:
    gateway = start(*SLOWLY)
    with protocol(gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send("Hello Bot", "m1")
        client.next_of("delta")
        gateway.terminate()
        events = client.until_ended()
    kinds = [event.WhichOneof("event") for event in events]
    assert "go_away" in kinds
    replies = [event.message.text for event in events if event.HasField("message")]
    assert replies[-1] == SLOW_REPLY
    gateway.stop()


@each
def test_an_idle_client_is_told_to_come_back(start, protocol: type[Client]) -> None:
    gateway = start()
    with protocol(gateway, gateway.new_token()) as client:
        client.next_of("opened")
        gateway.terminate()
        asked = time.monotonic()
        events = client.until_ended()
        gateway.stop()
    told, *rest = events
    assert told.go_away.reconnect_after_ms > 0
    assert [(event.error.code, event.error.final) for event in rest] == [("draining", True)]
    assert time.monotonic() - asked < 5, "an idle client held the gateway up"


@pytest.mark.parametrize("subprotocol", [None, "duologue.v1.json"])
def test_a_websocket_is_closed_as_going_away(start, subprotocol: str | None) -> None:
    gateway = start()
    url = f"{gateway.ws}?token={gateway.new_token()}"
    with connect(url, subprotocols=subprotocol and [subprotocol], proxy=None) as socket:
        if subprotocol is None:
            socket.send("Hello Bot")
            assert socket.recv(timeout=5) == REPLY
        gateway.terminate()
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


def test_a_reply_that_outlasts_the_drain_is_cut_and_the_exit_is_clean(start) -> None:
    gateway = start(
        "--simulated-delay", "1s", "--simulated-reply", SLOW_REPLY, "--drain-timeout", "1s"
    )
    with PROTOCOLS[0](gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send("Hello Bot", "m1")
        client.next_of("reply_started")
        asked = time.monotonic()
        gateway.stop()
        assert time.monotonic() - asked < 5


def test_sigint_is_a_shutdown_too(start) -> None:
    gateway: Gateway = start()
    gateway.process.send_signal(signal.SIGINT)
    assert gateway.process.wait(timeout=10) == 0


def test_a_second_signal_exits_at_once(request: pytest.FixtureRequest) -> None:
    gateway = Gateway("--simulated-delay", "10s", "--simulated-reply", SLOW_REPLY)
    request.addfinalizer(gateway.kill)
    with PROTOCOLS[0](gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send("Hello Bot", "m1")
        client.next_of("reply_started")
        gateway.terminate()
        client.next_of("go_away")
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(timeout=2)
