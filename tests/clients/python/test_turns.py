"""Parts, branches, options and tokens, asked for by a real client of each protocol family and
seen by a client of each protocol."""

import base64
import json
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack

import grpc
import pytest
from google.protobuf.message import Message

from support.askers import ASKERS, Asker
from support.clients import PROTOCOLS, Client, Ended, GrpcSubscribe, Refused, WsJson
from support.contract import bot_pb, bot_rpc, pb, rpc
from support.gateway import REPLY, Gateway

by_each = pytest.mark.parametrize("asker", ASKERS, ids=lambda asker: asker.name)
each = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)

PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


def history(gateway: Gateway, token: str) -> list[Message]:
    with grpc.insecure_channel(gateway.address) as channel:
        request = pb.RefreshTokenRequest(token=token)
        return list(rpc.ChatServiceStub(channel).RefreshToken(request).messages)


def answered(gateway: Gateway, token: str, count: int) -> list[Message]:
    """The log, once it has so many messages."""
    beginning = pb.Position(epoch=epoch(gateway, token), seq=0)
    with GrpcSubscribe(gateway, token, beginning) as client:
        for _ in range(count):
            client.next_of("message")
    return history(gateway, token)


def epoch(gateway: Gateway, token: str) -> str:
    answer = gateway.request("GET", f"/refresh_token?token={token}")
    return answer.json["position"]["epoch"]


@by_each
def test_parts_reach_every_client_as_they_were_sent(gateway: Gateway, asker: type[Asker]) -> None:
    token = gateway.new_token()
    sent = [
        {"text": "What is this? 世界"},
        {"file": {"mediaType": "image/png", "url": PIXEL, "name": "pixel.png", "size": 72}},
        {"data": {"type": "app.card", "json": "[1, 2]"}},
    ]
    with ExitStack() as stack:
        watchers = [stack.enter_context(protocol(gateway, token)) for protocol in PROTOCOLS]
        for watcher in watchers:
            watcher.next_of("opened")
        accepted = asker(gateway, token).send(parts=sent, metadata={"app": "tests"})
        seen = [watcher.next_of("message") for watcher in watchers]
    assert all(message == seen[0] for message in seen)
    [text, file, data] = seen[0].parts
    assert (seen[0].id, dict(seen[0].metadata)) == (accepted.message_id, {"app": "tests"})
    assert (text.text, file.file.url, file.file.name) == ("What is this? 世界", PIXEL, "pixel.png")
    assert (data.data.type, data.data.json) == ("app.card", "[1, 2]")
    stored = answered(gateway, token, 2)
    assert list(stored[0].parts) == list(seen[0].parts)
    rest = gateway.history(token)[0]
    assert rest["parts"][1]["file"]["media_type"] == "image/png"


@by_each
@pytest.mark.parametrize(
    "parts",
    [
        [{"file": {"mediaType": "application/x-sh", "url": PIXEL}}],
        [{"file": {"mediaType": "image/png", "url": "http://example.com/a.png"}}],
        [{"text": "x"}] * 33,
        [{"toolResult": {"toolCallId": "c1", "output": "not JSON"}}],
        [{"reasoning": "I am a user"}],
        [{}],
    ],
    ids=["media type", "url", "number", "json", "kind", "empty"],
)
def test_wrong_parts_are_refused_and_lose_nothing(
    gateway: Gateway, asker: type[Asker], parts: list[dict[str, object]]
) -> None:
    token = gateway.new_token()
    client = asker(gateway, token)
    with pytest.raises(Refused):
        client.send(parts=parts, clientMessageId="m1")
    assert not client.send(text="Hello Bot", clientMessageId="m1").duplicate
    assert [message.text for message in answered(gateway, token, 2)] == ["Hello Bot", REPLY]


@by_each
def test_an_edited_question_and_another_answer_are_branches(
    gateway: Gateway, asker: type[Asker]
) -> None:
    token = gateway.new_token()
    client = asker(gateway, token)
    client.send(text="one", clientMessageId="m1")
    answered(gateway, token, 2)
    client.send(text="two", clientMessageId="m2")
    answered(gateway, token, 4)
    edited = client.send(text="two, edited", clientMessageId="m3", parentSeq=2)
    assert (edited.seq, edited.parent_seq) == (5, 1)
    again = client.regenerate(seq=4, clientMessageId="m4")
    retried = client.regenerate(seq=4, clientMessageId="m4")
    assert (again.duplicate, retried.duplicate) == (False, True)
    assert (retried.message_id, retried.seq) == (again.message_id, again.seq)
    log = answered(gateway, token, 8)
    users = {message.seq: message for message in log if message.role == pb.ROLE_USER}
    assert [message.text for message in users.values()] == ["one", "two", "two, edited", "two"]
    assert users[again.seq].regenerates_seq == 3
    assert users[again.seq].parent_seq == 1
    assert not users[3].HasField("parent_seq"), "it is the message before"
    assert sum(message.role == pb.ROLE_ASSISTANT for message in log) == 4
    with pytest.raises(Refused):
        client.send(text="elsewhere", clientMessageId="m3", parentSeq=0)
    with pytest.raises(Refused):
        client.send(text="after nothing", parentSeq=99)


class WeatherBot(bot_rpc.ResponderServiceServicer):
    """Calls the tool that the client declares, and answers with its result."""

    def Respond(self, request: Message, context: object) -> Iterator[Message]:  # noqa: N802
        [part] = request.message.parts or [pb.Part(text=request.message.text)]
        if part.HasField("tool_result"):
            calls = [part.tool_call.id for m in request.history for part in m.parts]
            assert part.tool_result.tool_call_id in calls, "the branch has the call"
            yield respond(delta=bot_pb.ReplyDelta(text=f"It is {part.tool_result.output}."))
            yield respond(outcome=bot_pb.ReplyOutcome(finish_reason="stop"))
            return
        [tool] = request.options.tools
        for piece in ('{"city":', '"Oslo"}'):
            call = pb.ToolCall(id="c1", name=tool.name, arguments=piece)
            yield respond(delta=bot_pb.ReplyDelta(tool_call=call))
        yield respond(outcome=bot_pb.ReplyOutcome(finish_reason="tool_calls"))


def respond(**event: Message) -> Message:
    return bot_pb.RespondResponse(**event)


@by_each
def test_a_tool_that_the_client_runs(start: Callable[..., Gateway], asker: type[Asker]) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    bot_rpc.add_ResponderServiceServicer_to_server(WeatherBot(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gateway = start("--responder", "grpc", "--bot-endpoint", f"http://127.0.0.1:{port}")
    token = gateway.new_token()
    with ExitStack() as stack:
        watchers = [stack.enter_context(protocol(gateway, token)) for protocol in PROTOCOLS]
        for watcher in watchers:
            watcher.next_of("opened")
        client = asker(gateway, token)
        client.send(text="Weather?", options={"tools": [{"name": "weather"}]})
        for watcher in watchers:
            *_, called = watcher.until_reply()
            [part] = called.message.parts
            assert (part.tool_call.name, part.tool_call.arguments) == ("weather", '{"city":"Oslo"}')
            assert called.message.finish_reason == "tool_calls"
        result = {"toolCallId": part.tool_call.id, "output": '"sunny"', "isError": False}
        accepted = client.send(parts=[{"toolResult": result}], clientMessageId="r1")
        assert client.send(parts=[{"toolResult": result}], clientMessageId="r1").duplicate
        assert accepted.seq == 3
        for watcher in watchers:
            assert watcher.until_reply()[-1].message.text == 'It is "sunny".'
    server.stop(None)


@by_each
def test_the_operator_decides_about_the_options_of_a_turn(
    start: Callable[..., Gateway], asker: type[Asker]
) -> None:
    gateway = start("--turn-options", "tools,temperature")
    token = gateway.new_token()
    client = asker(gateway, token)
    tool = {"name": "weather", "parameters": '{"type":"object"}'}
    with pytest.raises(Refused):
        client.send(text="x", options={"model": "the expensive one"})
    with pytest.raises(Refused):
        client.send(text="x", options={"tools": [{"name": "not a name"}]})
    client.send(text="Hello Bot", options={"tools": [tool], "toolChoice": "auto", "temperature": 0.5})
    assert [message.text for message in answered(gateway, token, 2)] == ["Hello Bot", REPLY]


@each
@pytest.mark.parametrize("how", ["grpc", "rest"])
def test_a_second_token_reads_and_is_revoked_alone(
    gateway: Gateway, protocol: type[Client], how: str
) -> None:
    token = gateway.new_token()
    with grpc.insecure_channel(gateway.address) as channel, ExitStack() as stack:
        stub = rpc.ChatServiceStub(channel)
        if how == "grpc":
            request = pb.CreateTokenRequest(session_token=token, scope="read", label="a screen")
            second = stub.CreateToken(request).token
        else:
            path = f"/token?session_token={token}&scope=read&label=a+screen"
            second = gateway.request("POST", path).json["token"]
        gateway.tokens.append(second)
        assert second != token
        reader = stack.enter_context(protocol(gateway, second))
        writer = stack.enter_context(WsJson(gateway, token))
        assert reader.next_of("opened").session == writer.next_of("opened").session
        with pytest.raises(Refused):
            reader.send("from the screen", "m1")
        writer.send("Hello Bot", "m2")
        assert reader.next_of("message").text == "Hello Bot"
        writer.until_reply()

        stub.RevokeToken(pb.RevokeTokenRequest(token=second, token_only=True))
        with pytest.raises(Ended):
            while True:
                reader.next()
        writer.send("still here", "m3")
        writer.until_reply()
        assert gateway.request("GET", f"/refresh_token?token={second}").status == 400
    assert json.dumps(gateway.history(token)).count("from the screen") == 0
