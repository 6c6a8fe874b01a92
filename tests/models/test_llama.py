"""Conversations with a model that llama.cpp's own server runs."""

import contextlib
import subprocess

import pytest
import tiny_model
from conftest import StartGateway, StartLlama
from llama import Llama

from support.clients import PROTOCOLS, Client
from support.contract import pb
from support.gateway import BINARY, Gateway

each = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)


def say(client: Client, text: str, client_message_id: str = "m1") -> tuple[list, pb.Message]:
    """Says something; the events up to the reply, and the reply."""
    client.send(text, client_message_id)
    *events, last = client.until_reply()
    return events, last.message


def told_as_trimmed(events: list) -> list[bool]:
    started = (event.reply_started for event in events if event.HasField("reply_started"))
    return [event.context_trimmed for event in started]


@each
def test_a_model_answers(llama: Llama, start: StartGateway, protocol: type[Client]) -> None:
    gateway = start(llama.url, "--system-prompt", "You talk to {name}.")
    with protocol(gateway, gateway.new_token()) as client:
        client.next_of("opened")
        for n, (question, answer) in enumerate([("Please count", "count"), ("Now hello", "hello")]):
            events, reply = say(client, question, f"m{n}")
            deltas = [event.delta.text for event in events if event.HasField("delta")]
            assert reply.text == "".join(deltas) == tiny_model.answer(answer)
            assert reply.status == pb.MESSAGE_STATUS_COMPLETE
            assert reply.finish_reason == "stop"
            # One token for each word, and one that ends it.
            assert reply.usage.output_tokens == len(reply.text.split()) + 1
            assert reply.usage.input_tokens > 0 and not reply.usage.estimated


@each
def test_a_stop_frees_the_slot(llama: Llama, start: StartGateway, protocol: type[Client]) -> None:
    gateway = start(llama.url)
    with protocol(gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send("Go on forever", "m1")
        client.next_of("delta")
        assert llama.busy() == 1
        client.stop()
        reply = client.until_reply()[-1].message
        assert reply.status == pb.MESSAGE_STATUS_STOPPED
        assert reply.text.startswith(" and") and reply.usage.estimated
        llama.wait_for_busy(0)
        assert say(client, "Please count", "m2")[1].text == tiny_model.answer("count")


def test_a_stop_before_the_first_token_takes_the_request_back(
    start_llama: StartLlama, start: StartGateway
) -> None:
    llama = start_llama(slots=1)
    gateway = start(llama.url)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(protocol(gateway, gateway.new_token()))
            for protocol in PROTOCOLS[:3]
        ]
        served, stopped, patient = clients
        for client in clients:
            client.next_of("opened")
        served.send("Go on forever", "m1")
        served.next_of("delta")
        # The only slot is taken: these wait within the model's server.
        stopped.send("Go on forever", "m1")
        stopped.next_of("reply_started")
        patient.send("Please count", "m1")
        patient.next_of("reply_started")
        stopped.stop()
        reply = stopped.until_reply()[-1].message
        assert (reply.status, reply.text) == (pb.MESSAGE_STATUS_STOPPED, "")
        served.stop()
        # Were the stopped one still in the queue, it would be served for ever now.
        assert patient.until_reply()[-1].message.text == tiny_model.answer("count")
        llama.wait_for_busy(0)


def test_what_the_context_cannot_hold(start_llama: StartLlama, start: StartGateway) -> None:
    llama = start_llama(context=512)
    # The gateway believes that there is more room than there is.
    gateway = start(llama.url, "--context-tokens", "100000")
    with PROTOCOLS[0](gateway, gateway.new_token()) as client:
        client.next_of("opened")
        trimmed = []
        for n in range(4):
            events, reply = say(client, "x" * 150 + " count", f"m{n}")
            assert (reply.text, reply.finish_reason) == (tiny_model.answer("count"), "stop")
            trimmed.append(told_as_trimmed(events))
        assert trimmed == [[False], [False], [False, True], [False, True]]

        events, reply = say(client, "x" * 600, "too-long")
        assert reply.status == pb.MESSAGE_STATUS_FAILED
        assert reply.failure.code == "context_too_long"
        assert "512" not in reply.failure.message

        events, reply = say(client, "Go on forever", "cut")
        assert reply.status == pb.MESSAGE_STATUS_COMPLETE
        assert reply.finish_reason == "length"


def test_the_gateway_trims_by_itself(llama: Llama, start: StartGateway) -> None:
    gateway = start(llama.url, "--context-tokens", "200", "--openai-max-tokens", "50")
    with PROTOCOLS[0](gateway, gateway.new_token()) as client:
        client.next_of("opened")
        replies = [say(client, "x" * 100 + " count", f"m{n}") for n in range(5)]
        assert [told_as_trimmed(events) for events, _ in replies] == [[n > 2] for n in range(5)]
        assert {reply.text for _, reply in replies} == {tiny_model.answer("count")}


def test_several_sessions_share_two_slots(llama: Llama, start: StartGateway) -> None:
    gateway = start(llama.url, "--openai-concurrency", "2")
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(protocol(gateway, gateway.new_token())) for protocol in PROTOCOLS
        ] + [stack.enter_context(protocol(gateway, gateway.new_token())) for protocol in PROTOCOLS]
        for n, client in enumerate(clients):
            client.send(("Please count", "Say hello", "Go on forever")[n % 3], "m1")
        for n, client in enumerate(clients):
            if n % 3 == 2:
                client.next_of("delta")
                assert llama.busy() <= 2
                client.stop()
                assert client.until_reply()[-1].message.status == pb.MESSAGE_STATUS_STOPPED
            else:
                reply = client.until_reply()[-1].message
                assert reply.text == tiny_model.answer(("count", "hello")[n % 3])
    llama.wait_for_busy(0)


def test_a_server_that_dies_and_comes_back(start_llama: StartLlama, start: StartGateway) -> None:
    llama = start_llama()
    gateway = start(llama.url, "--openai-retries", "0")
    with PROTOCOLS[0](gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send("Go on forever", "m1")
        client.next_of("delta")
        llama.kill()
        reply = client.until_reply()[-1].message
        assert reply.status == pb.MESSAGE_STATUS_FAILED
        assert reply.failure.code == "upstream_truncated"
        assert reply.text.startswith(" and")
        assert say(client, "Please count", "m2")[1].failure.code == "upstream_unavailable"
        llama.start()
        assert say(client, "Please count", "m3")[1].text == tiny_model.answer("count")


def test_who_asks_while_the_server_is_away_is_answered_when_it_is_back(
    start_llama: StartLlama, start: StartGateway
) -> None:
    llama = start_llama()
    gateway = start(llama.url, "--openai-retries", "8")
    with PROTOCOLS[0](gateway, gateway.new_token()) as client:
        client.next_of("opened")
        llama.kill()
        client.send("Please count", "m1")
        client.next_of("reply_started")
        llama.start()
        reply = client.until(lambda event: event.message.role == pb.ROLE_ASSISTANT)[-1].message
        assert reply.text == tiny_model.answer("count")


def check(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [BINARY, "check-upstream", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_check_upstream_says_what_it_finds(llama: Llama, start_llama: StartLlama) -> None:
    found = check("--openai-base-url", llama.url)
    assert (found.returncode, found.stderr) == (0, ""), found
    for line in ("first token    after ", "finish_reason  stop", "verdict        usable\n"):
        assert line in found.stdout, found.stdout
    llama.wait_for_busy(0)
    gone = start_llama()
    gone.kill()
    found = check("--openai-base-url", gone.url)
    assert found.returncode == 1 and "verdict        not usable" in found.stdout, found
    assert check().returncode == 78
