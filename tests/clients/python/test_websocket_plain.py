"""websockets without a subprotocol: a text frame is a message, and the whole
reply is a text frame. What the tutorial's clients and Postman do."""

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from support.gateway import REPLY, SLOW_REPLY, Gateway


def open_chat(gateway: Gateway, token: str | None = None, **options) -> ClientConnection:
    token = token or gateway.new_token()
    return connect(f"{gateway.ws}?token={token}", proxy=None, max_size=None, **options)


def close_code(socket: ClientConnection) -> int:
    """The code of the Close frame that the gateway sent."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(timeout=5)
    assert closed.value.rcvd is not None, "cut off without a Close frame"
    return closed.value.rcvd.code


def test_a_message_is_answered_by_its_reply_and_nothing_else(gateway: Gateway) -> None:
    with open_chat(gateway) as socket:
        assert socket.subprotocol is None
        socket.send("Hello Bot")
        assert socket.recv(timeout=5) == REPLY
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.2)


def test_replies_come_in_the_order_of_the_questions(start) -> None:
    gateway = start("--simulated-reply", "{name} said {text}")
    with open_chat(gateway, gateway.new_token("Ada")) as socket:
        for n in range(10):
            socket.send(f"message {n}")
        assert [socket.recv(timeout=5) for _ in range(10)] == [
            f"Ada said message {n}" for n in range(10)
        ]


def test_a_streamed_reply_comes_whole(slow: Gateway) -> None:
    with open_chat(slow) as socket:
        socket.send("Hello Bot")
        assert socket.recv(timeout=5) == SLOW_REPLY


def test_a_reply_comes_only_to_the_connection_that_asked(gateway: Gateway) -> None:
    token = gateway.new_token()
    with open_chat(gateway, token) as asking, open_chat(gateway, token) as listening:
        asking.send("Hello Bot")
        assert asking.recv(timeout=5) == REPLY
        with pytest.raises(TimeoutError):
            listening.recv(timeout=0.2)


def test_a_message_in_fragments_is_one_message(start) -> None:
    gateway = start("--simulated-reply", "{text}")
    with open_chat(gateway) as socket:
        socket.send(["Hel", "lo ", "B", "", "ot"])
        assert socket.recv(timeout=5) == "Hello Bot"


def test_a_refused_message_is_answered_and_the_talk_goes_on(gateway: Gateway) -> None:
    with open_chat(gateway) as socket:
        for refused in ("", "nul \0 inside"):
            socket.send(refused)
            answer = socket.recv(timeout=5)
            assert isinstance(answer, str)
            assert answer.startswith("Error: ")
        socket.send("Hello Bot")
        assert socket.recv(timeout=5) == REPLY


def test_a_client_far_ahead_of_its_replies_is_not_taken_for_dead(start) -> None:
    gateway = start("--heartbeat", "1s", "--simulated-delay", "2s", "--simulated-reply", "at last")
    token = gateway.new_token()
    with open_chat(gateway, token) as socket:
        for n in range(70):
            socket.send(f"message {n}")
        assert socket.recv(timeout=10) == "at last"
        # The next message need not wait for the rest.
        assert gateway.request("DELETE", f"/token?token={token}").status == 204
        assert close_code(socket) == 4002


def test_a_ping_is_answered(gateway: Gateway) -> None:
    with open_chat(gateway, ping_interval=None) as socket:
        assert socket.ping(b"are you there?").wait(5)


def test_a_close_is_answered(gateway: Gateway) -> None:
    with open_chat(gateway) as socket:
        socket.close(code=1000, reason="goodbye")
        assert socket.close_code == 1000


def test_a_binary_frame_closes_with_1003(gateway: Gateway) -> None:
    with open_chat(gateway) as socket:
        socket.send(b"Hello Bot")
        assert close_code(socket) == 1003


def test_text_that_is_not_utf_8_closes_with_1007(gateway: Gateway) -> None:
    with open_chat(gateway) as socket:
        socket.send(b"Hello \xff Bot", text=True)
        assert close_code(socket) == 1007


@pytest.mark.parametrize("fragments", [1, 64])
def test_a_message_too_big_closes_with_1009(gateway: Gateway, fragments: int) -> None:
    with open_chat(gateway) as socket:
        try:
            socket.send(["x" * (1024 * 1024 // fragments)] * fragments)
        except ConnectionClosed:
            pass  # the gateway did not wait for the rest
        assert close_code(socket) == 1009


def test_the_longest_message_is_accepted_and_a_longer_one_refused(start) -> None:
    gateway = start("--max-text-size", "4KiB", "--simulated-reply", "{text}")
    with open_chat(gateway) as socket:
        longest = "ä" * 2048
        for line_break in ("", "\n", "\r\n"):
            socket.send(longest + line_break)
            assert socket.recv(timeout=5) == longest
        socket.send(longest + "x")
        assert close_code(socket) == 1009


def test_a_session_that_expires_closes_with_4001(start) -> None:
    gateway = start("--session-ttl", "1s")
    with open_chat(gateway) as socket:
        assert close_code(socket) == 4001


def test_a_session_that_is_revoked_closes_with_4002(gateway: Gateway) -> None:
    token = gateway.new_token()
    with open_chat(gateway, token) as socket:
        socket.send("Hello Bot")
        assert socket.recv(timeout=5) == REPLY
        assert gateway.request("DELETE", f"/token?token={token}").status == 204
        assert close_code(socket) == 4002


@pytest.mark.parametrize("query", ["", "?token=", "?token=nonsense"])
def test_without_a_valid_token_the_handshake_is_forbidden(gateway: Gateway, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(gateway.ws + query, proxy=None)
    assert refused.value.response.status_code == 403
