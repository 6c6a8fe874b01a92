"""grpcio on asyncio: many streams in one task, cancellation, deadlines."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from support.contract import pb, rpc
from support.gateway import SLOW_REPLY, Gateway


@pytest.fixture
async def stub(slow: Gateway) -> AsyncIterator[rpc.ChatServiceStub]:
    async with grpc.aio.insecure_channel(slow.address) as channel:
        yield rpc.ChatServiceStub(channel)


async def attach(stub: rpc.ChatServiceStub, token: str, position: pb.Position | None = None):
    """A `Chat` stream, and what opened it."""
    call = stub.Chat(timeout=20)
    await call.write(pb.ChatRequest(open=pb.Open(token=token, position=position)))
    response = await call.read()
    assert response.HasField("opened"), response
    return call, response.opened


async def send(call, text: str) -> None:
    await call.write(pb.ChatRequest(send=pb.Send(text=text)))


async def next_of(call, kind: str):
    while (response := await call.read()) is not grpc.aio.EOF:
        if response.WhichOneof("event") == kind:
            return getattr(response, kind)
    raise AssertionError(f"the stream ended before a {kind}")


async def test_a_cancelled_call_leaves_its_reply_running(stub, slow: Gateway) -> None:
    token = slow.new_token()
    call, opened = await attach(stub, token)
    await send(call, "Hello Bot")
    await next_of(call, "delta")
    call.cancel()

    back, reopened = await attach(stub, token, opened.position)
    assert reopened.recovered
    assert (await next_of(back, "message")).text == "Hello Bot"
    assert (await next_of(back, "message")).text == SLOW_REPLY
    await back.done_writing()
    assert await back.code() is grpc.StatusCode.OK


async def test_a_reply_is_resumed_at_the_very_word(stub, slow: Gateway) -> None:
    token = slow.new_token()
    call, opened = await attach(stub, token)
    await send(call, "Hello Bot")
    asked = await next_of(call, "message")
    for _ in range(5):
        await next_of(call, "delta")
    call.cancel()

    back, _ = await attach(stub, token, pb.Position(epoch=opened.position.epoch, seq=asked.seq))
    started = await next_of(back, "reply_started")
    assert started.in_reply_to == asked.id
    assert started.offset == 0, "no offset was given: the reply comes from its start"
    first = await next_of(back, "delta")
    assert (first.index, first.offset) == (0, 0)
    assert SLOW_REPLY.startswith(first.text)
    assert first.end == len(first.text) >= len(" ".join(SLOW_REPLY.split()[:5]))
    back.cancel()

    reply = pb.ReplyPosition(reply_id=started.reply_id, offset=first.end)
    position = pb.Position(epoch=opened.position.epoch, seq=asked.seq, reply=reply)
    back, reopened = await attach(stub, token, position)
    assert reopened.position == position
    assert (await next_of(back, "reply_started")).offset == first.end
    more = await next_of(back, "delta")
    assert more.offset == first.end
    assert SLOW_REPLY.startswith(first.text + more.text)


async def test_a_deadline_ends_the_call_and_not_the_reply(stub, slow: Gateway) -> None:
    token = slow.new_token()
    frames = [pb.ChatRequest(open=pb.Open(token=token)), pb.ChatRequest(send=pb.Send(text="Hi"))]
    call = stub.Chat(iter(frames), timeout=0.4)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for _ in call:
            pass
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    watching = stub.Subscribe(pb.SubscribeRequest(token=token), timeout=20)
    assert (await next_of(watching, "reply_started")).offset == 0
    assert (await next_of(watching, "delta")).text
    assert (await next_of(watching, "message")).text == SLOW_REPLY
    watching.cancel()


async def test_streams_on_one_connection_do_not_wait_for_each_other(stub, slow: Gateway) -> None:
    async def converse(n: int) -> str:
        call, _ = await attach(stub, slow.new_token())
        await send(call, f"message {n}")
        await call.done_writing()
        asked, answered = [await next_of(call, "message") for _ in range(2)]
        assert answered.text == SLOW_REPLY
        return asked.text

    started = asyncio.get_running_loop().time()
    asked = await asyncio.gather(*(converse(n) for n in range(20)))
    assert len(set(asked)) == 20
    # One after the other they would take fifteen seconds.
    assert asyncio.get_running_loop().time() - started < 5


async def test_one_session_has_one_order_for_everyone(stub, slow: Gateway) -> None:
    token = slow.new_token()
    attached = [await attach(stub, token) for _ in range(8)]
    requests = [
        pb.SendMessageRequest(
            token=token, send=pb.Send(text=f"message {n}", client_message_id=f"m{n}")
        )
        for n in range(8)
    ]
    answers = await asyncio.gather(*(stub.SendMessage(request) for request in requests))
    assert sorted(answer.accepted.seq for answer in answers) == list(range(1, 9))

    async def first_messages(call) -> list[str]:
        return [(await next_of(call, "message")).text for _ in range(8)]

    seen = await asyncio.gather(*(first_messages(call) for call, _ in attached))
    numbers = [answer.accepted.seq for answer in answers]
    texts = [request.send.text for request in requests]
    in_order = [text for _, text in sorted(zip(numbers, texts, strict=True))]
    assert all(order == in_order for order in seen)
    for call, _ in attached:
        call.cancel()
    await stub.RevokeToken(pb.RevokeTokenRequest(token=token))


async def test_a_stop_reaches_a_reply_that_waits_for_its_next_word(start) -> None:
    gateway = start("--simulated-delay", "10s", "--simulated-reply", "never to be heard")
    token = gateway.new_token()
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        stub = rpc.ChatServiceStub(channel)
        call, _ = await attach(stub, token)
        await send(call, "one")
        await send(call, "two")
        asked = await next_of(call, "message")
        await next_of(call, "reply_started")
        stopped = await stub.StopReply(pb.StopReplyRequest(token=token))
        assert stopped.stopped
        ended = await next_of(call, "message")
        while ended.role != pb.ROLE_ASSISTANT:  # the second question may come before
            ended = await next_of(call, "message")
        assert ended.in_reply_to == asked.id
        assert ended.status == pb.MESSAGE_STATUS_STOPPED
        assert "never to be heard".startswith(ended.text)
        # The session continues with the next turn.
        assert (await next_of(call, "reply_started")).in_reply_to != asked.id
        await call.write(pb.ChatRequest(stop=pb.Stop()))
        assert (await next_of(call, "message")).status == pb.MESSAGE_STATUS_STOPPED
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
