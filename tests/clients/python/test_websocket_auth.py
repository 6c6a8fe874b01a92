"""websockets: every way a token may travel, and who may not come in."""

import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from support.gateway import REPLY, Gateway

JSON, PROTO = "duologue.v1.json", "duologue.v1.proto"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def in_the_query(token: str) -> dict:
    return {"query": f"?token={token}"}


def in_a_header(token: str) -> dict:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def in_a_subprotocol(token: str) -> dict:
    return {"subprotocols": [f"bearer.{token}"]}


HANDSHAKES = pytest.mark.parametrize(
    "way", [in_the_query, in_a_header, in_a_subprotocol], ids=lambda way: way.__name__
)


def open_chat(gateway: Gateway, *, query: str = "", subprotocols=(), **options):
    return connect(gateway.ws + query, subprotocols=subprotocols or None, proxy=None, **options)


@HANDSHAKES
def test_a_token_in_the_handshake_opens_a_structured_chat(gateway: Gateway, way) -> None:
    options = way(gateway.new_token("Ada"))
    options["subprotocols"] = [JSON, *options.get("subprotocols", ())]
    with open_chat(gateway, **options) as socket:
        assert socket.subprotocol == JSON
        # Nothing sent: a client that only listens is attached all the same.
        opened = json.loads(socket.recv(timeout=5))["opened"]
        assert opened["session"]["name"] == "Ada"


@pytest.mark.parametrize("way", [in_the_query, in_a_header], ids=lambda way: way.__name__)
def test_a_token_in_the_handshake_opens_a_plain_chat(gateway: Gateway, way) -> None:
    with open_chat(gateway, **way(gateway.new_token())) as socket:
        socket.send("Hello Bot")
        assert socket.recv(timeout=5) == REPLY


def test_the_token_is_never_echoed_as_the_subprotocol(gateway: Gateway) -> None:
    token = gateway.new_token()
    with open_chat(gateway, subprotocols=[f"bearer.{token}", JSON]) as socket:
        assert socket.subprotocol == JSON
        assert token not in str(socket.response.headers)


def test_an_open_may_say_where_to_start_when_the_handshake_said_who(gateway: Gateway) -> None:
    token = gateway.new_token()
    with open_chat(gateway, subprotocols=[JSON], **in_a_header(token)) as socket:
        socket.send('{"send":{"text":"Hello Bot"}}')
        opened = json.loads(socket.recv(timeout=5))["opened"]
        while "ROLE_ASSISTANT" not in socket.recv(timeout=5):
            pass
    beginning = json.dumps({"open": {"position": opened["position"]}})
    with open_chat(gateway, subprotocols=[JSON], **in_a_header(token)) as socket:
        socket.send(beginning)
        assert json.loads(socket.recv(timeout=5))["opened"]["recovered"]
        replayed = [json.loads(socket.recv(timeout=5))["message"]["seq"] for _ in range(2)]
    assert replayed == [1, 2]


@pytest.mark.parametrize("way", [in_the_query, in_a_header], ids=lambda way: way.__name__)
@pytest.mark.parametrize("token", [UNKNOWN, "nonsense"])
def test_a_plain_handshake_with_an_unknown_token_is_forbidden(
    gateway: Gateway, way, token: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_chat(gateway, **way(token))
    assert refused.value.response.status_code == 403


@HANDSHAKES
@pytest.mark.parametrize("token", [UNKNOWN, "nonsense"])
def test_a_structured_handshake_with_an_unknown_token_is_told_why(
    gateway: Gateway, way, token: str
) -> None:
    options = way(token)
    options["subprotocols"] = [JSON, *options.get("subprotocols", ())]
    # A page cannot see the status of a handshake: the reason comes as a frame.
    with open_chat(gateway, **options) as socket:
        error = json.loads(socket.recv(timeout=5))["error"]
        assert error["final"]
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4001


def test_an_open_with_an_unknown_token_is_told_why(gateway: Gateway) -> None:
    with open_chat(gateway, subprotocols=[JSON]) as socket:
        socket.send('{"open":{"token":"%s"}}' % UNKNOWN)
        assert json.loads(socket.recv(timeout=5))["error"]["final"]
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4001


@pytest.mark.parametrize("subprotocols", [(), (JSON,), (PROTO,)])
@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_page_from_elsewhere_is_forbidden(start, subprotocols, origin: str) -> None:
    gateway = start("--allowed-origins", "https://example.com")
    token = gateway.new_token()
    with pytest.raises(InvalidStatus) as refused:
        open_chat(gateway, **in_the_query(token), subprotocols=subprotocols, origin=origin)
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("origin", ["https://example.com", None])
def test_an_allowed_page_and_a_program_come_in(start, origin: str | None) -> None:
    gateway = start("--allowed-origins", "https://example.com")
    with open_chat(gateway, **in_the_query(gateway.new_token()), origin=origin) as socket:
        socket.send("Hello Bot")
        assert socket.recv(timeout=5) == REPLY
