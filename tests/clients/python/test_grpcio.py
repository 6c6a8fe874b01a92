"""grpcio, in its blocking form: every RPC, and every way a call can fail."""

import grpc
import pytest

from support.clients import GrpcChat, WsJson
from support.contract import pb, rpc
from support.gateway import REPLY, Gateway

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def stub(gateway: Gateway):
    with grpc.insecure_channel(gateway.address) as channel:
        yield rpc.ChatServiceStub(channel)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def test_a_session_is_made_read_and_ended(stub, gateway: Gateway) -> None:
    made = stub.CreateToken(pb.CreateTokenRequest(name="  Ada Lovelace\t"))
    assert made.session.name == "Ada Lovelace"
    assert made.position.seq == 0
    assert made.session.created_at.ToDatetime() < made.session.expires_at.ToDatetime()
    assert made.session.expires_at.ToDatetime() < made.session.ends_at.ToDatetime()

    read = stub.RefreshToken(pb.RefreshTokenRequest(token=made.token))
    assert (read.session.id, read.position) == (made.session.id, made.position)
    assert read.session.expires_at.ToDatetime() >= made.session.expires_at.ToDatetime()

    stub.RevokeToken(pb.RevokeTokenRequest(token=made.token))
    hello = pb.Send(text="Hello Bot")
    for call, request in (
        (stub.RevokeToken, pb.RevokeTokenRequest(token=made.token)),
        (stub.RefreshToken, pb.RefreshTokenRequest(token=made.token)),
        (stub.SendMessage, pb.SendMessageRequest(token=made.token, send=hello)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_unicode_name_is_a_name(stub) -> None:
    made = stub.CreateToken(pb.CreateTokenRequest(name="Ἀριάδνη 王"))
    assert made.session.name == "Ἀριάδνη 王"
    stub.CreateToken(pb.CreateTokenRequest(name="界" * 128))


def test_history_is_read_in_pages(stub, gateway: Gateway) -> None:
    token = gateway.new_token()
    with GrpcChat(gateway, token) as client:
        client.next_of("opened")
        for n in range(3):
            client.send(f"message {n}", f"m{n}")
            client.until_reply()

    def read(**page: int):
        answer = stub.RefreshToken(pb.RefreshTokenRequest(token=token, **page))
        return [m.seq for m in answer.messages], answer.position.seq, answer.has_more

    assert read() == ([1, 2, 3, 4, 5, 6], 6, False)
    assert read(after=0, limit=4) == ([1, 2, 3, 4], 6, True)
    assert read(after=4, limit=4) == ([5, 6], 6, False)
    assert read(limit=2) == ([5, 6], 6, True)
    assert read(after=6) == ([], 6, False)


def test_the_token_may_come_in_the_metadata(stub, gateway: Gateway) -> None:
    token = gateway.new_token()
    sent = stub.SendMessage(pb.SendMessageRequest(send=pb.Send(text="Hello Bot")), metadata=bearer(token))
    assert sent.accepted.seq == 1
    assert not sent.accepted.HasField("client_message_id")
    read = stub.RefreshToken(pb.RefreshTokenRequest(), metadata=bearer(token))
    assert read.messages[0].text == "Hello Bot"


def test_two_tokens_that_differ_open_nothing(stub, gateway: Gateway) -> None:
    ada, bob = gateway.new_token("Ada"), gateway.new_token("Bob")
    with pytest.raises(grpc.RpcError) as refused:
        stub.RefreshToken(pb.RefreshTokenRequest(token=ada), metadata=bearer(bob))
    assert refused.value.code() in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
    )


def test_half_close_delivers_the_turns_that_were_sent(stub, gateway: Gateway) -> None:
    frames = [pb.ChatRequest(send=pb.Send(text=text)) for text in ("one", "two")]
    call = stub.Chat(iter(frames), metadata=bearer(gateway.new_token()), timeout=10)
    texts = [event.message.text for event in call if event.HasField("message")]
    assert sorted(texts) == sorted(["one", REPLY, "two", REPLY])
    assert call.code() is grpc.StatusCode.OK


def test_half_close_without_a_turn_ends_the_stream(stub, gateway: Gateway) -> None:
    frames = [pb.ChatRequest(open=pb.Open(token=gateway.new_token()))]
    call = stub.Chat(iter(frames), timeout=10)
    assert [event.WhichOneof("event") for event in call] == ["opened"]
    assert call.code() is grpc.StatusCode.OK


def test_a_ping_is_answered(stub, gateway: Gateway) -> None:
    frames = [
        pb.ChatRequest(open=pb.Open(token=gateway.new_token())),
        pb.ChatRequest(ping=pb.Ping()),
    ]
    call = stub.Chat(iter(frames), timeout=10)
    assert [event.WhichOneof("event") for event in call] == ["opened", "pong"]


def test_an_idle_stream_is_heard_of(start) -> None:
    gateway = start("--heartbeat", "1s")
    with grpc.insecure_channel(gateway.address) as channel:
        request = pb.SubscribeRequest(token=gateway.new_token())
        call = rpc.ChatServiceStub(channel).Subscribe(request, timeout=10)
        assert [next(call).WhichOneof("event") for _ in range(3)] == ["opened", "pong", "pong"]
        call.cancel()


def test_a_chat_without_a_token_is_unauthenticated(stub) -> None:
    for frame in (
        pb.ChatRequest(send=pb.Send(text="Hello Bot")),
        pb.ChatRequest(open=pb.Open()),
        pb.ChatRequest(open=pb.Open(token=UNKNOWN)),
    ):
        call = stub.Chat(iter([frame]), timeout=10)
        with pytest.raises(grpc.RpcError):
            for event in call:
                assert not event.HasField("opened")
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_same_id_with_another_text_already_exists(stub, gateway: Gateway) -> None:
    token = gateway.new_token()
    request = pb.SendMessageRequest(
        token=token, send=pb.Send(text="one", client_message_id="m1")
    )
    assert not stub.SendMessage(request).accepted.duplicate
    assert stub.SendMessage(request).accepted.duplicate
    request.send.text = "two"
    with pytest.raises(grpc.RpcError) as refused:
        stub.SendMessage(request)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


def test_a_full_queue_is_resource_exhausted(slow: Gateway) -> None:
    token = slow.new_token()
    with WsJson(slow, token) as watcher, grpc.insecure_channel(slow.address) as channel:
        room = watcher.next_of("opened").limits.max_queued_turns
        stub = rpc.ChatServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            for _ in range(room + 2):
                stub.SendMessage(pb.SendMessageRequest(token=token, send=pb.Send(text="again")))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stub.RevokeToken(pb.RevokeTokenRequest(token=token))


@pytest.mark.parametrize("method", ["/duologue.v1.ChatService/Foresee", "/no.Such/Thing"])
def test_what_the_gateway_does_not_know_is_unimplemented(gateway: Gateway, method: str) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        for call in (channel.unary_unary(method), channel.unary_stream(method)):
            with pytest.raises(grpc.RpcError) as refused:
                list(call(b"", timeout=10) or ())
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_compressed_call_is_refused_by_name(stub) -> None:
    request = pb.CreateTokenRequest(name="Ada" * 40)
    with pytest.raises(grpc.RpcError) as refused:
        stub.CreateToken(request, compression=grpc.Compression.Gzip)
    # The code that tells a client to send the same message again.
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_nothing_to_stop_is_said(stub, gateway: Gateway) -> None:
    token = gateway.new_token()
    stub.SendMessage(pb.SendMessageRequest(token=token, send=pb.Send(text="Hello Bot")))
    answered = stub.RefreshToken(pb.RefreshTokenRequest(token=token, after=1))
    while not answered.messages:  # no delay: a matter of microseconds
        answered = stub.RefreshToken(pb.RefreshTokenRequest(token=token, after=1))
    assert not stub.StopReply(pb.StopReplyRequest(token=token)).stopped
