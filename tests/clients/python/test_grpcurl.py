"""grpcurl, with the commands of the README: it knows nothing but the address,
and asks for the contract by reflection (v1alpha, which is all it speaks)."""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from support.gateway import REPLY, Gateway

GRPCURL = Path(sys.executable).with_name("grpcurl")
SERVICE = "duologue.v1.ChatService"


def grpcurl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [GRPCURL, "-plaintext", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=20)


def answers(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """The JSON documents it printed, one after the other."""
    assert done.returncode == 0, done.stderr
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:].lstrip()
    return found


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """The name of the status that a call ended with."""
    assert done.returncode > 64, done
    return done.stderr.split("Code: ")[1].split()[0]


def test_it_lists_the_services(gateway: Gateway) -> None:
    listed = grpcurl(gateway.address, "list").stdout.split()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(listed)
    assert "grpc.reflection.v1alpha.ServerReflection" in listed


def test_it_describes_the_contract_with_every_method(gateway: Gateway) -> None:
    described = grpcurl(gateway.address, "describe", SERVICE).stdout
    assert "rpc Chat ( stream .duologue.v1.ChatRequest ) returns" in described
    methods = grpcurl(gateway.address, "list", SERVICE).stdout.split()
    assert methods == [
        f"{SERVICE}.{name}"
        for name in (
            "Chat", "CreateToken", "DeleteSession", "IssueToken", "ListSessions", "ListTokens",
            "RefreshToken", "Regenerate", "RevokeToken", "SendMessage", "StopReply", "Subscribe",
            "UpdateSession",
        )
    ]  # fmt: skip
    assert "client_message_id" in grpcurl(gateway.address, "describe", "duologue.v1.Send").stdout


def test_a_first_conversation_in_two_commands(gateway: Gateway) -> None:
    made = grpcurl("-d", '{"name":"Ada"}', gateway.address, f"{SERVICE}/CreateToken")
    [created] = answers(made)
    assert uuid.UUID(created["token"]).version == 4
    assert created["session"]["name"] == "Ada"
    assert uuid.UUID(created["session"]["id"]).version == 7

    lines = '{"open":{"token":"%s"}} {"send":{"text":"Hello Bot"}}' % created["token"]
    talked = grpcurl("-d", "@", gateway.address, f"{SERVICE}/Chat", stdin=lines)
    events = answers(talked)
    # The client half-closed at once, and still saw everything.
    assert list(events[0]) == ["opened"]
    kinds = [kind for event in events[1:] for kind in event if kind != "accepted"]
    assert kinds == ["message", "replyStarted", "delta", "message"]
    assert {"accepted"} <= {kind for event in events for kind in event}
    asked, answered = (event["message"] for event in events if "message" in event)
    assert (asked["seq"], asked["role"], asked["text"]) == (1, "ROLE_USER", "Hello Bot")
    assert (answered["seq"], answered["role"], answered["text"]) == (2, "ROLE_ASSISTANT", REPLY)
    assert answered["status"] == "MESSAGE_STATUS_COMPLETE"
    assert answered["inReplyTo"] == asked["id"]


def test_half_close_waits_for_a_reply_that_takes_its_time(slow: Gateway) -> None:
    lines = '{"send":{"text":"one"}} {"send":{"text":"two"}}'
    bearer = f"authorization: Bearer {slow.new_token()}"
    talked = grpcurl("-H", bearer, "-d", "@", slow.address, f"{SERVICE}/Chat", stdin=lines)
    messages = [event["message"] for event in answers(talked) if "message" in event]
    assert sorted(message["seq"] for message in messages) == [1, 2, 3, 4]
    assert [m["status"] for m in messages if m["role"] == "ROLE_ASSISTANT"] == [
        "MESSAGE_STATUS_COMPLETE"
    ] * 2


@pytest.mark.parametrize("name", ["", "   ", "x" * 129, "a\u202eb", "a\u200bb", "a\u0007b"])
def test_a_bad_name_is_an_invalid_argument(gateway: Gateway, name: str) -> None:
    request = json.dumps({"name": name})
    done = grpcurl("-d", request, gateway.address, f"{SERVICE}/CreateToken")
    assert failure(done) == "InvalidArgument"


@pytest.mark.parametrize("method", ["RefreshToken", "RevokeToken", "SendMessage", "Subscribe"])
@pytest.mark.parametrize("token", ["", "nonsense", "00000000-0000-4000-8000-000000000000"])
def test_a_token_that_opens_nothing_is_unauthenticated(
    gateway: Gateway, method: str, token: str
) -> None:
    request = {"token": token} | ({"send": {"text": "x"}} if method == "SendMessage" else {})
    done = grpcurl("-d", json.dumps(request), gateway.address, f"{SERVICE}/{method}")
    assert failure(done) == "Unauthenticated"


def test_a_method_the_gateway_does_not_have_is_unimplemented(
    gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "future.proto").write_text("""
        syntax = "proto3";
        package duologue.v1;
        service ChatService { rpc Foresee(Nothing) returns (Nothing); }
        service OracleService { rpc Foresee(Nothing) returns (Nothing); }
        message Nothing {}
    """)
    for service in (SERVICE, "duologue.v1.OracleService"):
        done = grpcurl(
            "-import-path", str(tmp_path), "-proto", "future.proto",
            gateway.address, f"{service}/Foresee",
        )  # fmt: skip
        assert failure(done) == "Unimplemented", service


def test_a_deadline_ends_a_stream(gateway: Gateway) -> None:
    request = json.dumps({"token": gateway.new_token()})
    done = grpcurl("-max-time", "0.3", "-d", request, gateway.address, f"{SERVICE}/Subscribe")
    assert failure(done) == "DeadlineExceeded"
    assert '"opened"' in done.stdout


@pytest.mark.parametrize("service", ["", SERVICE])
def test_the_gateway_says_that_it_is_well(gateway: Gateway, service: str) -> None:
    request = json.dumps({"service": service})
    done = grpcurl("-d", request, gateway.address, "grpc.health.v1.Health/Check")
    assert answers(done) == [{"status": "SERVING"}]
