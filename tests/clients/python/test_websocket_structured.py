"""websockets with a subprotocol: the frames themselves, in JSON and in
protobuf. What they mean is in test_promises.py and test_cross_protocol.py."""

import json
import uuid

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from support.contract import pb
from support.gateway import REPLY, Gateway

JSON, PROTO = "duologue.v1.json", "duologue.v1.proto"
both = pytest.mark.parametrize("subprotocol", [JSON, PROTO])


def open_chat(gateway: Gateway, *subprotocols: str, query: str = "", **options) -> ClientConnection:
    url = gateway.ws + query
    return connect(url, subprotocols=subprotocols, proxy=None, max_size=None, **options)


def read(socket: ClientConnection) -> dict:
    frame = socket.recv(timeout=5)
    assert isinstance(frame, str), "a binary frame in the JSON protocol"
    return json.loads(frame)


def close_code(socket: ClientConnection, timeout: float = 5) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(timeout=timeout)
    assert closed.value.rcvd is not None, "cut off without a Close frame"
    return closed.value.rcvd.code


def test_json_frames_are_what_the_documentation_shows(gateway: Gateway) -> None:
    token = gateway.new_token("Ada")
    with open_chat(gateway, JSON) as socket:
        assert socket.subprotocol == JSON
        socket.send('{"open":{"token":"%s"}}' % token)
        opened = read(socket)["opened"]
        assert opened["session"]["name"] == "Ada"
        assert opened["session"]["createdAt"].endswith("Z")
        assert opened["position"]["seq"] == 0
        assert (opened["recovered"], opened["headSeq"]) == (False, 0)
        assert opened["heartbeatIntervalMs"] > 0
        assert opened["limits"]["maxTextBytes"] == 64 * 1024
        assert opened["limits"]["maxMessageBytes"] == 2 * 1024 * 1024

        socket.send('{"send":{"text":"Hello Bot","clientMessageId":"m1"}}')
        frames = [read(socket) for _ in range(5)]

    by_kind = {kind: frame[kind] for frame in frames for kind in frame if kind != "message"}
    asked, answered = (frame["message"] for frame in frames if "message" in frame)
    assert by_kind["accepted"] == {
        "clientMessageId": "m1", "messageId": asked["id"], "seq": 1, "duplicate": False,
        "parentSeq": 0,
    }  # fmt: skip
    assert (asked["role"], asked["text"]) == ("ROLE_USER", "Hello Bot")
    assert asked["clientMessageId"] == "m1"
    assert by_kind["replyStarted"] == {
        "replyId": answered["id"], "inReplyTo": asked["id"],
        "attempt": 1, "offset": 0, "contextTrimmed": False,
    }  # fmt: skip
    assert by_kind["delta"] == {
        "replyId": answered["id"], "index": 0, "offset": 0, "end": len(REPLY),
        "done": False, "text": REPLY,
    }  # fmt: skip
    assert (answered["seq"], answered["role"], answered["text"]) == (2, "ROLE_ASSISTANT", REPLY)
    assert answered["status"] == "MESSAGE_STATUS_COMPLETE"
    assert answered["finishReason"] == "stop"
    assert uuid.UUID(answered["id"]).version == 7


def test_binary_frames_are_the_same_messages(gateway: Gateway) -> None:
    with open_chat(gateway, PROTO) as socket:
        assert socket.subprotocol == PROTO
        requests = [
            pb.ChatRequest(open=pb.Open(token=gateway.new_token())),
            pb.ChatRequest(ping=pb.Ping()),
        ]
        for request in requests:
            socket.send(request.SerializeToString())
        responses = [pb.ChatResponse.FromString(socket.recv(timeout=5)) for _ in requests]
    assert [response.WhichOneof("event") for response in responses] == ["opened", "pong"]


def test_the_first_subprotocol_that_both_know_is_taken(gateway: Gateway) -> None:
    token = gateway.new_token()
    with open_chat(gateway, "graphql-ws", PROTO, JSON, query=f"?token={token}") as socket:
        assert socket.subprotocol == PROTO


def test_field_names_are_understood_in_snake_case_too(gateway: Gateway) -> None:
    with open_chat(gateway, JSON, query=f"?token={gateway.new_token()}") as socket:
        socket.send('{"send":{"text":"Hello Bot","client_message_id":"m1"}}')
        assert "opened" in read(socket)
        seen = [read(socket) for _ in range(5)]
        assert [f["accepted"]["clientMessageId"] for f in seen if "accepted" in f] == ["m1"]


@pytest.mark.parametrize(
    "frame",
    ["", "nonsense", "[]", "{}", '{"shout":{}}', '{"send":{"text":7}}', '{"open":{},"stop":{}}'],
)
def test_a_bad_frame_is_an_error_and_the_talk_goes_on(gateway: Gateway, frame: str) -> None:
    with open_chat(gateway, JSON) as socket:
        socket.send('{"open":{"token":"%s"}}' % gateway.new_token())
        assert "opened" in read(socket)
        socket.send(frame)
        error = read(socket)["error"]
        assert (error["code"], error["final"]) == ("bad_frame", False)
        socket.send('{"ping":{}}')
        assert "pong" in read(socket)


def test_a_bad_binary_frame_is_an_error_and_the_talk_goes_on(gateway: Gateway) -> None:
    with open_chat(gateway, PROTO, query=f"?token={gateway.new_token()}") as socket:
        assert pb.ChatResponse.FromString(socket.recv(timeout=5)).HasField("opened")
        for frame in (b"\xff\xff\xff", b""):
            socket.send(frame)
            error = pb.ChatResponse.FromString(socket.recv(timeout=5)).error
            assert (error.code, error.final) == ("bad_frame", False)
        socket.send(pb.ChatRequest(ping=pb.Ping()).SerializeToString())
        assert pb.ChatResponse.FromString(socket.recv(timeout=5)).HasField("pong")


def test_a_refused_message_is_named_in_its_error(start) -> None:
    gateway = start("--max-text-size", "1KiB")
    with open_chat(gateway, JSON, query=f"?token={gateway.new_token()}") as socket:
        socket.send(json.dumps({"send": {"text": "x" * 1025, "clientMessageId": "m1"}}))
        assert "opened" in read(socket)
        error = read(socket)["error"]
        assert (error["clientMessageId"], error["final"]) == ("m1", False)
        socket.send('{"send":{"text":"Hello Bot","clientMessageId":"m1"}}')
        assert "error" not in read(socket)


def test_an_idle_chat_is_heard_of(start) -> None:
    gateway = start("--heartbeat", "1s")
    with open_chat(gateway, JSON, query=f"?token={gateway.new_token()}") as socket:
        assert read(socket)["opened"]["heartbeatIntervalMs"] == 1000
        assert [read(socket) for _ in range(2)] == [{"pong": {}}] * 2


@both
def test_silence_instead_of_an_open_closes_with_4004(gateway: Gateway, subprotocol: str) -> None:
    with open_chat(gateway, subprotocol) as socket:
        frame = socket.recv(timeout=7)
        error = (
            pb.ChatResponse.FromString(frame).error.code
            if isinstance(frame, bytes)
            else json.loads(frame)["error"]["code"]
        )
        assert error == "open_timeout"
        assert close_code(socket) == 4004


@both
def test_a_frame_too_big_closes_with_1009(gateway: Gateway, subprotocol: str) -> None:
    with open_chat(gateway, subprotocol, query=f"?token={gateway.new_token()}") as socket:
        try:
            socket.send("x" * 16 * 1024 * 1024, text=subprotocol == JSON)
        except ConnectionClosed:
            pass  # the gateway did not wait for the rest
        assert close_code(socket) == 1009


def test_text_that_is_not_utf_8_closes_with_1007(gateway: Gateway) -> None:
    with open_chat(gateway, JSON, query=f"?token={gateway.new_token()}") as socket:
        socket.send(b'{"ping":{"\xff":1}}', text=True)
        assert close_code(socket) == 1007


@both
def test_a_session_that_expires_closes_with_4001(start, subprotocol: str) -> None:
    gateway = start("--session-ttl", "1s")
    with open_chat(gateway, subprotocol, query=f"?token={gateway.new_token()}") as socket:
        assert close_code(socket) == 4001


@both
def test_a_session_that_is_revoked_closes_with_4002(gateway: Gateway, subprotocol: str) -> None:
    token = gateway.new_token()
    with open_chat(gateway, subprotocol, query=f"?token={token}") as socket:
        socket.recv(timeout=5)
        assert gateway.request("DELETE", f"/token?token={token}").status == 204
        assert close_code(socket, timeout=1) == 4002
