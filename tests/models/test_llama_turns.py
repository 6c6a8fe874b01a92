"""Tools, options and branches with a model that llama.cpp's own server runs."""

import json

import pytest
import tiny_model
from conftest import StartGateway
from llama import Llama

from support.askers import ASKERS, Asker, GrpcAsker
from support.clients import PROTOCOLS, Client
from support.contract import pb

by_each = pytest.mark.parametrize("asker", ASKERS, ids=lambda asker: asker.name)
each = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)

WEATHER = {
    "name": "weather",
    "description": "The weather in a city",
    "parameters": json.dumps(
        {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        }
    ),
}


def reply_of(client: Client) -> pb.Message:
    return client.until_reply()[-1].message


@each
def test_a_model_calls_tools_and_reads_their_results(
    llama_with_tools: Llama, start: StartGateway, protocol: type[Client]
) -> None:
    gateway = start(llama_with_tools.url)
    token = gateway.new_token()
    options = {"tools": [WEATHER], "toolChoice": "required", "maxOutputTokens": 120}
    with protocol(gateway, token) as client:
        client.next_of("opened")
        GrpcAsker(gateway, token).send(text="Please call", options=options)
        reply = reply_of(client)
        calls = [part.tool_call for part in reply.parts if part.HasField("tool_call")]
        assert calls and len({call.id for call in calls}) == len(calls)
        for call in calls:
            assert call.name == "weather" and not call.responder_executed
            assert json.loads(call.arguments) == {"city": "Oslo"}

        # The result is the last text of the prompt: the model continues from its last word.
        results = [
            {"toolResult": {"toolCallId": call.id, "output": json.dumps("Now hello")}}
            for call in calls
        ]
        GrpcAsker(gateway, token).send(parts=results, options={"tools": [WEATHER]})
        answer = reply_of(client)
        assert answer.status == pb.MESSAGE_STATUS_COMPLETE
        assert answer.text.strip() == tiny_model.answer("hello").strip()
        assert answer.usage.input_tokens > reply.usage.input_tokens


@by_each
def test_the_options_of_a_turn_reach_the_model(
    llama: Llama, start: StartGateway, asker: type[Asker]
) -> None:
    gateway = start(llama.url)
    token = gateway.new_token()
    ask = asker(gateway, token)
    with PROTOCOLS[0](gateway, token) as client:
        client.next_of("opened")
        ask.send(text="Please count")
        whole = reply_of(client)
        ask.send(text="Please count", parentSeq=0, options={"maxOutputTokens": 3})
        cut = reply_of(client)
        assert (cut.finish_reason, cut.usage.output_tokens) == ("length", 3)
        assert whole.text.startswith(cut.text)
        instructions = {"instructions": "You are a clock."}
        ask.send(text="Please count", parentSeq=0, options=instructions)
        instructed = reply_of(client)
        assert instructed.usage.input_tokens > whole.usage.input_tokens


@by_each
def test_the_model_reads_the_branch_of_its_turn_alone(
    llama: Llama, start: StartGateway, asker: type[Asker]
) -> None:
    gateway = start(llama.url)
    token = gateway.new_token()
    ask = asker(gateway, token)
    with PROTOCOLS[0](gateway, token) as client:
        client.next_of("opened")
        ask.send(text="Now hello")
        first = reply_of(client)
        ask.send(text="Please count")
        second = reply_of(client)
        assert second.usage.input_tokens > first.usage.input_tokens
        ask.regenerate(seq=first.seq)
        again = reply_of(client)
        assert (again.text, again.usage.input_tokens) == (first.text, first.usage.input_tokens)
        ask.send(text="Please count", parentSeq=again.seq)
        beside = reply_of(client)
        assert (beside.text, beside.usage.input_tokens) == (second.text, second.usage.input_tokens)
