"""llmock plays a model that fails on purpose, and judges how its client took it."""

from conftest import StartGateway
from llmock.pytest_plugin import LLMock

from support.clients import PROTOCOLS
from support.contract import pb
from support.gateway import Gateway

HEARD = "One two three four five six seven eight nine ten."


def ask(gateway: Gateway) -> pb.Message:
    with PROTOCOLS[0](gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send("Hello", "m1")
        return client.until(lambda event: event.message.role == pb.ROLE_ASSISTANT)[-1].message


def findings(llmock: LLMock) -> list[str]:
    return [finding.code for finding in llmock.verdict().findings]


def is_answered(reply: pb.Message) -> bool:
    return (reply.status, reply.text) == (pb.MESSAGE_STATUS_COMPLETE, HEARD)


def start_before(llmock: LLMock, start: StartGateway, *flags: str) -> Gateway:
    llmock.reply(HEARD, times=None)
    return start(llmock.base_url(), "--openai-model", "gpt-4o", "--openai-api-key", "k", *flags)


def test_rate_limits_are_waited_for(llmock: LLMock, start: StartGateway) -> None:
    gateway = start_before(llmock, start)
    llmock.rate_limit(times=2, retry_after=0.5)
    assert is_answered(ask(gateway))
    assert len(llmock.requests) == 3
    llmock.assert_resilient(strict=True)


def test_one_that_is_told_to_wait_makes_the_others_wait(
    llmock: LLMock, start: StartGateway
) -> None:
    gateway = start_before(llmock, start)
    llmock.limits(rpm=60)  # one more each second, once these are used up
    replies = [ask(gateway) for _ in range(63)]
    assert all(is_answered(reply) for reply in replies)
    llmock.assert_resilient(strict=True)


def test_what_breaks_before_the_first_text_is_asked_for_again(
    llmock: LLMock, start: StartGateway
) -> None:
    gateway = start_before(llmock, start)
    llmock.pace(50)  # otherwise a response ends before a client can disconnect
    for fault in (llmock.truncate, llmock.disconnect, llmock.corrupt):
        fault(after_chunks=1)  # which says the role, and no text
        assert is_answered(ask(gateway)), fault
    llmock.assert_resilient(strict=True)


def test_what_breaks_within_the_text_is_a_failed_reply(llmock: LLMock, start: StartGateway) -> None:
    gateway = start_before(llmock, start)
    for fault, code, found in (
        # llmock sees that there is no retry, but not the status of the reply.
        (llmock.truncate, "upstream_truncated", "truncated_stream_accepted"),
        (llmock.disconnect, "upstream_truncated", "gave_up"),
        (llmock.corrupt, "upstream_protocol", "malformed_chunk_ignored"),
    ):
        llmock.reset().reply(HEARD, times=None)
        fault(after_chunks=3)
        reply = ask(gateway)
        assert (reply.status, reply.failure.code) == (pb.MESSAGE_STATUS_FAILED, code)
        assert reply.text and HEARD.startswith(reply.text) and reply.text != HEARD
        assert len(llmock.requests) == 1
        assert findings(llmock) == [found]


def test_a_stall_is_not_sat_through(llmock: LLMock, start: StartGateway) -> None:
    gateway = start_before(llmock, start, "--openai-chunk-timeout", "1s")
    llmock.stall(after_chunks=1, seconds=30)
    assert is_answered(ask(gateway))
    llmock.stall(after_chunks=3, seconds=30)
    assert ask(gateway).failure.code == "upstream_chunk_timeout"
    assert "no_read_timeout" not in findings(llmock)


def test_what_cannot_pass_is_asked_for_once(llmock: LLMock, start: StartGateway) -> None:
    gateway = start_before(llmock, start)
    for status, code, failure in (
        (400, None, "upstream_rejected"),
        (401, "invalid_api_key", "upstream_auth"),
        (403, None, "upstream_auth"),
        (404, "model_not_found", "upstream_rejected"),
        (422, None, "upstream_rejected"),
        (400, "context_length_exceeded", "context_too_long"),
        (429, "insufficient_quota", "upstream_quota"),
    ):
        llmock.reset().fail(status, code=code, message="secret words")
        reply = ask(gateway)
        assert reply.failure.code == failure and "secret" not in str(reply)
        assert len(llmock.requests) == 1
        llmock.assert_resilient(strict=code != "insufficient_quota")


def test_an_outage_has_an_end(llmock: LLMock, start: StartGateway) -> None:
    gateway = start_before(llmock, start, "--openai-retries", "3")
    llmock.outage()
    assert ask(gateway).failure.code == "upstream_unavailable"
    assert len(llmock.requests) == 4
    llmock.assert_resilient(strict=True)
