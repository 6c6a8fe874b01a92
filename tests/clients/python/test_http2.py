"""h2: WebSocket over HTTP/2 (RFC 8441), and what only the wire shows of gRPC."""

import json
import struct
import time

import pytest
from h2.events import StreamEnded

from support.contract import pb
from support.gateway import REPLY, SLOW_REPLY, Gateway
from support.http2 import BINARY, CLOSE, PING, PONG, TEXT, Connection, WebSocket, connect


def test_a_plain_websocket_over_http_2(gateway: Gateway) -> None:
    with connect(gateway) as connection:
        assert connection.allows_extended_connect
        socket = WebSocket(connection, f"/chat?token={gateway.new_token()}")
        assert socket.status == 200
        socket.send(b"Hello Bot")
        assert socket.receive() == (TEXT, REPLY.encode())
        socket.send(b"Hello ", final=False)
        socket.send(b"Bot", opcode=0)
        assert socket.receive() == (TEXT, REPLY.encode())
        socket.send(b"are you there?", PING)
        assert socket.receive() == (PONG, b"are you there?")
        socket.send(struct.pack("!H", 1000), CLOSE)
        opcode, payload = socket.receive()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1000))
        while not isinstance(connection.next(socket.stream), StreamEnded):
            pass


def test_a_structured_websocket_over_http_2(gateway: Gateway) -> None:
    token = gateway.new_token("Ada")
    with connect(gateway) as connection:
        socket = WebSocket(
            connection,
            "/chat",
            sec_websocket_protocol="duologue.v1.proto",
            authorization=f"Bearer {token}",
        )
        assert socket.status == 200
        assert socket.headers["sec-websocket-protocol"] == "duologue.v1.proto"
        request = pb.ChatRequest(send=pb.Send(text="Hello Bot", client_message_id="m1"))
        socket.send(request.SerializeToString(), BINARY)
        seen = []
        while not seen or seen[-1].message.role != pb.ROLE_ASSISTANT:
            opcode, payload = socket.receive()
            assert opcode == BINARY
            seen.append(pb.ChatResponse.FromString(payload))
    assert seen[0].opened.session.name == "Ada"
    assert seen[-1].message.text == REPLY


def test_many_websockets_share_a_connection(slow: Gateway) -> None:
    with connect(slow) as connection:
        sockets = [WebSocket(connection, f"/chat?token={slow.new_token()}") for _ in range(20)]
        began = time.monotonic()
        for socket in sockets:
            socket.send(b"Hello Bot")
        for socket in sockets:
            assert socket.receive() == (TEXT, SLOW_REPLY.encode())
        # One after the other they would take fifteen seconds.
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("query", ["", "?token=nonsense"])
def test_without_a_valid_token_the_handshake_is_forbidden(gateway: Gateway, query: str) -> None:
    with connect(gateway) as connection:
        assert WebSocket(connection, f"/chat{query}").status == 403


def test_a_page_from_elsewhere_is_forbidden(start) -> None:
    gateway = start("--allowed-origins", "https://example.com")
    path = f"/chat?token={gateway.new_token()}"
    with connect(gateway) as connection:
        assert WebSocket(connection, path, origin="https://evil.example").status == 403
        assert WebSocket(connection, path, origin="https://example.com").status == 200


def grpc(connection: Connection, method: str, **headers: str) -> int:
    return connection.request(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/duologue.v1.ChatService/{method}"),
            (":authority", connection.authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *((name.replace("_", "-"), value) for name, value in headers.items()),
        ]
    )


def framed(message) -> bytes:
    data = message.SerializeToString()
    return b"\0" + struct.pack("!I", len(data)) + data


def test_the_gateway_itself_keeps_the_deadline_of_a_call(gateway: Gateway) -> None:
    # This client has no clock of its own: if the stream ends, the gateway did it.
    with connect(gateway) as connection:
        began = time.monotonic()
        stream = grpc(connection, "Subscribe", grpc_timeout="300m")
        request = pb.SubscribeRequest(token=gateway.new_token())
        connection.send(stream, framed(request), end=True)
        assert connection.trailers(stream)["grpc-status"] == "4"  # DEADLINE_EXCEEDED
        assert 0.25 < time.monotonic() - began < 2


def test_rpcs_rest_and_websockets_share_a_connection(gateway: Gateway) -> None:
    token = gateway.new_token()
    with connect(gateway) as connection:
        socket = WebSocket(
            connection, f"/chat?token={token}", sec_websocket_protocol="duologue.v1.json"
        )
        opcode, opened = socket.receive()
        assert opcode == TEXT
        assert "opened" in json.loads(opened)
        stream = grpc(connection, "SendMessage", authorization=f"Bearer {token}")
        connection.send(stream, framed(pb.SendMessageRequest(send=pb.Send(text="Hello Bot"))), end=True)
        assert connection.trailers(stream)["grpc-status"] == "0"
        rest = connection.request([
            (":method", "GET"), (":scheme", "http"), (":authority", connection.authority),
            (":path", f"/refresh_token?token={token}"),
        ], end=True)  # fmt: skip
        assert connection.status(rest) == 200
        texts: list[str] = []
        while len(texts) < 2:
            _, payload = socket.receive()
            event = json.loads(payload)
            texts += [event["message"]["text"]] if "message" in event else []
    assert texts[-1] == REPLY


@pytest.mark.parametrize(
    ("method", "content_type"), [("GET", "application/grpc"), ("POST", "text/plain")]
)
def test_what_is_not_a_grpc_call_runs_no_rpc(
    gateway: Gateway, method: str, content_type: str
) -> None:
    with connect(gateway) as connection:
        stream = connection.request([
            (":method", method), (":scheme", "http"), (":authority", connection.authority),
            (":path", "/duologue.v1.ChatService/CreateToken"), ("content-type", content_type),
        ])  # fmt: skip
        connection.send(stream, framed(pb.CreateTokenRequest(name="Ada")), end=True)
        assert connection.status(stream) in (404, 405, 415)
