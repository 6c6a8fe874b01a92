"""The example bot in Python, behind the gateway, asked through
every protocol."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from support.bot import Bot
from support.clients import PROTOCOLS, Client, GrpcChat
from support.contract import pb, rpc
from support.gateway import Gateway

each = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
# Two seconds long, a word every tenth of one.
LONG = " ".join(f"word{n}" for n in range(20))


def asking(bot: str, *flags: str) -> tuple[str, ...]:
    return ("--responder", "grpc", "--bot-endpoint", bot, *flags)


@pytest.fixture(scope="module")
def bot() -> Iterator[Bot]:
    with Bot(delay="0.1") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(bot: Bot) -> Iterator[Gateway]:
    with Gateway(*asking(f"http://{bot.address}")) as running:
        yield running


def reply(client: Client, text: str, name: str) -> pb.Message:
    client.send(text, name)
    return client.until_reply()[-1].message


@each
def test_the_bot_answers_word_by_word_and_remembers(
    gateway: Gateway, protocol: type[Client]
) -> None:
    token = gateway.new_token()
    with protocol(gateway, token) as client:
        client.next_of("opened")
        client.send("Hello Bot", "m1")
        *heard, first = client.until_reply()
        second = reply(client, "Again", "m2")
    words = [event.delta.text for event in heard if event.HasField("delta")]
    assert words == ["Ada,", " you", " said:", " Hello", " Bot"]
    assert first.message.text == "Ada, you said: Hello Bot"
    assert first.message.status == pb.MESSAGE_STATUS_COMPLETE
    assert first.message.finish_reason == "stop"
    assert first.message.usage == pb.Usage(input_tokens=2, output_tokens=5)
    assert second.text == "Ada, you said: Again (and before that: Hello Bot)"


@each
def test_the_bot_runs_a_tool_within_its_reply(gateway: Gateway, protocol: type[Client]) -> None:
    with protocol(gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send("So what time is it?", "m1")
        *heard, last = client.until_reply()
    reply = last.message
    call, result, text = reply.parts
    assert (call.tool_call.name, call.tool_call.responder_executed) == ("clock", True)
    assert json.loads(call.tool_call.arguments) == {"utc_offset": "0"}
    assert result.tool_result.tool_call_id == call.tool_call.id
    time = json.loads(result.tool_result.output)
    assert re.fullmatch(r"\d\d:\d\d", time)
    assert text.text == reply.text == f"It is {time}."
    assert (reply.status, reply.model) == (pb.MESSAGE_STATUS_COMPLETE, "example-bot")
    # The whole parts, then the words of the text.
    whole = [event.reply_part.content for event in heard if event.HasField("reply_part")]
    assert [part.WhichOneof("content") for part in whole] == ["tool_call", "tool_result"]
    assert [part.tool_call for part in whole[:1]] == [call.tool_call]
    deltas = [event.delta for event in heard if event.HasField("delta")]
    assert "".join(delta.text for delta in deltas) == text.text
    assert {delta.index for delta in deltas} == {2}


def test_the_bot_knows_the_metadata_and_the_options(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = rpc.ChatServiceStub(channel)
        for offset, is_error in [("5.5", False), ("home", True)]:
            request = pb.CreateTokenRequest(name="Ada", metadata={"utc_offset": offset})
            token = stub.CreateToken(request).token
            with GrpcChat(gateway, token) as client:
                client.next_of("opened")
                call, result, _ = reply(client, "/time", "m1").parts
                assert json.loads(call.tool_call.arguments) == {"utc_offset": offset}
                assert result.tool_result.is_error == is_error
                options = pb.TurnOptions(max_output_tokens=2)
                send = pb.Send(text="Hello", options=options)
                stub.SendMessage(pb.SendMessageRequest(token=token, send=send))
                short = client.until_reply()[-1].message
            assert (short.text, short.finish_reason) == ("Ada, you", "length")


@each
def test_a_stop_reaches_the_bot(gateway: Gateway, bot: Bot, protocol: type[Client]) -> None:
    with protocol(gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send(LONG, "m1")
        reply_id = client.next_of("delta").reply_id
        client.stop()
        stopped = bot.says(r"^stopped (\S+) after (\d+) words")
        message = client.until_reply()[-1].message
    assert (stopped[1], message.id) == (reply_id, reply_id)
    assert int(stopped[2]) < len(LONG.split())
    assert message.status == pb.MESSAGE_STATUS_STOPPED
    assert f"Ada, you said: {LONG}".startswith(message.text)


def test_the_session_knows_what_its_replies_took(gateway: Gateway, bot: Bot) -> None:
    token = gateway.new_token()
    with (
        GrpcChat(gateway, token) as client,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        stub = rpc.ChatServiceStub(channel)
        client.next_of("opened")
        usage = [reply(client, text, text).usage for text in ("One", "Two")]
        session = stub.RefreshToken(pb.RefreshTokenRequest(token=token))
        assert session.usage == pb.Usage(
            input_tokens=sum(one.input_tokens for one in usage),
            output_tokens=sum(one.output_tokens for one in usage),
        )
        client.send(LONG, "m3")
        client.next_of("delta")
        client.stop()
        stopped = client.until_reply()[-1].message.usage
        bot.says("^stopped ")
        assert stopped.estimated
        total = stub.RefreshToken(pb.RefreshTokenRequest(token=token)).usage
    assert total.estimated
    assert total.input_tokens == session.usage.input_tokens + stopped.input_tokens
    log = gateway.history(token)
    assert [entry.get("usage", {}).get("estimated") for entry in log[1::2]] == [False, False, True]


def test_a_bot_that_dies_fails_its_reply_and_is_found_again(start) -> None:
    with Bot(delay="0.1") as bot:
        gateway = start(*asking(f"http://{bot.address}"))
        token = gateway.new_token()
        with GrpcChat(gateway, token) as client:
            client.next_of("opened")
            client.send(LONG, "m1")
            client.next_of("delta")
            bot.kill()
            *_, end = client.until_reply()
            assert end.message.status == pb.MESSAGE_STATUS_FAILED
            assert end.message.failure.code == "upstream_truncated"
            assert f"Ada, you said: {LONG}".startswith(end.message.text)
            assert end.message.text

            gone = reply(client, "Anybody?", "m2")
            assert gone.failure.code == "upstream_unavailable"
            assert bot.address not in str(gone)

            with Bot(bot.address):
                assert reply(client, "Hello", "m3").status == pb.MESSAGE_STATUS_COMPLETE


def test_a_bot_that_is_told_to_end_finishes_its_reply(start) -> None:
    with Bot(delay="0.1") as bot:
        gateway = start(*asking(f"http://{bot.address}"))
        with GrpcChat(gateway, gateway.new_token()) as client:
            client.next_of("opened")
            client.send("one two three", "m1")
            client.next_of("delta")
            bot.terminate()
            assert client.until_reply()[-1].message.text == "Ada, you said: one two three"


def test_a_deadline_reaches_the_bot(start) -> None:
    with Bot(delay="0.1") as bot:
        gateway = start(*asking(f"http://{bot.address}", "--bot-total-timeout", "700ms"))
        with GrpcChat(gateway, gateway.new_token()) as client:
            client.next_of("opened")
            late = reply(client, LONG, "m1")
        assert late.failure.code == "upstream_total_timeout"
        assert late.text
        bot.says("^stopped ")


def test_the_token_opens_the_bot_and_is_told_to_nobody_else(start) -> None:
    with Bot(delay="0", token="s3cret-canary") as bot:
        for flags, code in [
            (("--bot-token", "s3cret-canary"), ""),
            (("--bot-token", "wr0ng-canary"), "upstream_auth"),
            ((), "upstream_auth"),
        ]:
            gateway = start(*asking(f"http://{bot.address}", "--log", "trace", *flags))
            with GrpcChat(gateway, gateway.new_token()) as client:
                client.next_of("opened")
                assert reply(client, "Hello", "m1").failure.code == code
            gateway.stop()
            assert "canary" not in "".join(gateway.log)


def authority(folder: Path, name: str) -> None:
    """`name.pem`, whose key signs; `name-cert.pem` and `name-key.pem` for localhost."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", f"{name}-ca-key.pem", "-out", f"{name}.pem",
            "-subj", f"/CN={name}", "-days", "2")  # fmt: skip
    openssl("req", "-x509", *curve, "-keyout", f"{name}-key.pem", "-out", f"{name}-cert.pem",
            "-subj", "/CN=localhost", "-days", "2", "-addext", "subjectAltName=DNS:localhost",
            "-addext", "basicConstraints=CA:FALSE",
            "-CA", f"{name}.pem", "-CAkey", f"{name}-ca-key.pem")  # fmt: skip


def test_tls_with_an_authority_of_ones_own(start, tmp_path: Path) -> None:
    authority(tmp_path, "ours")
    authority(tmp_path, "theirs")
    files = {"tls_cert": str(tmp_path / "ours-cert.pem"), "tls_key": str(tmp_path / "ours-key.pem")}
    with Bot(delay="0", token="s3cret", **files) as bot:
        ours = asking(f"https://{bot.address}", "--bot-token", "s3cret", "--bot-retries", "0")
        for flags, code in [
            ((*ours, "--bot-ca-cert", str(tmp_path / "ours.pem")), ""),
            ((*ours, "--bot-ca-cert", str(tmp_path / "theirs.pem")), "upstream_unavailable"),
            (asking(f"http://{bot.address}", "--bot-retries", "0"), "upstream_unavailable"),
        ]:
            gateway = start(*flags)
            with GrpcChat(gateway, gateway.new_token()) as client:
                client.next_of("opened")
                assert reply(client, "Hello", "m1").failure.code == code, flags
            if code and "https" in flags[3]:
                gateway.stop()
                assert "UnknownIssuer" in "".join(gateway.log), "the operator must know why"
