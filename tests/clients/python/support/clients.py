"""One attached client per protocol, behind one interface, so that a promise of
the core is tested once and holds everywhere. Underneath work real clients:
grpcio, websockets, curl."""

import json
import queue
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from websockets.sync.client import connect

from support.contract import pb, rpc
from support.gateway import Gateway

TIMEOUT = 10


class Ended(Exception):
    """The gateway ended the stream."""


class Refused(Exception):
    """The gateway refused a message."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Client(ABC):
    """Attached to a session. Events come from `next` in order; what answers a
    `send` comes back from it, as every protocol has its own place for that."""

    name: str

    def __init__(self, gateway: Gateway, token: str, position: Message | None = None) -> None:
        self.gateway = gateway
        self.token = token
        self.start = position
        # Everything up to here has been seen.
        self.position = pb.Position()
        self._events: queue.Queue[Any] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._connect()
        threading.Thread(target=self._pump, daemon=True).start()

    @abstractmethod
    def _connect(self) -> None: ...

    @abstractmethod
    def _responses(self) -> Iterable[Message]: ...

    @abstractmethod
    def _send(self, text: str, client_message_id: str) -> Message | None: ...

    @abstractmethod
    def stop(self) -> None:
        """Orders the reply to stop."""

    @abstractmethod
    def drop(self) -> None:
        """Vanishes, as a client does whose network is gone."""

    def _pump(self) -> None:
        end = Ended("without a reason")
        try:
            for response in self._responses():
                kind = response.WhichOneof("event")
                about_a_send = kind == "accepted" or (kind == "error" and not response.error.final)
                if kind != "pong":
                    (self._answers if about_a_send else self._events).put(response)
        except Exception as error:  # whatever ended the stream is the test's to judge
            end = Ended(error)
        self._events.put(end)
        self._answers.put(end)

    @staticmethod
    def _take(inbox: queue.Queue[Any], timeout: float) -> Any:
        try:
            item = inbox.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"nothing came within {timeout} s") from None
        if isinstance(item, Ended):
            inbox.put(item)
            raise item
        return item

    def next(self, timeout: float = TIMEOUT) -> Message:
        """The next event. `Ended` once there are no more."""
        response = self._take(self._events, timeout)
        match response.WhichOneof("event"):
            case "opened":
                self.position.CopyFrom(response.opened.position)
            case "message":
                self.position.seq = response.message.seq
                if response.message.role == pb.ROLE_ASSISTANT:
                    self.position.ClearField("reply")
            case "reply_started":
                started = response.reply_started
                self.position.reply.reply_id = started.reply_id
                self.position.reply.offset = started.offset
            case "delta":
                self.position.reply.offset = response.delta.end
        return response

    def next_of(self, kind: str, timeout: float = TIMEOUT) -> Message:
        """The next event of a kind; others on the way are passed over."""
        while (response := self.next(timeout)).WhichOneof("event") != kind:
            pass
        return getattr(response, kind)

    def until(self, last: Callable[[Message], bool]) -> list[Message]:
        """The events up to one that matches, inclusive."""
        events = [self.next()]
        while not last(events[-1]):
            events.append(self.next())
        return events

    def until_reply(self) -> list[Message]:
        """The events up to the assistant's next message."""
        return self.until(lambda event: event.message.role == pb.ROLE_ASSISTANT)

    def send(self, text: str, client_message_id: str) -> Message:
        """Says something. Returns its `Accepted`, or raises `Refused`."""
        answer = self._send(text, client_message_id)
        if answer is None:
            answer = self._take(self._answers, TIMEOUT)
            if answer.WhichOneof("event") == "error":
                raise Refused(answer.error.code)
            answer = answer.accepted
        assert answer.client_message_id == client_message_id
        return answer

    def until_ended(self, timeout: float = TIMEOUT) -> list[Message]:
        """The events up to the end of the stream."""
        events = []
        try:
            while True:
                events.append(self.next(timeout))
        except Ended:
            return events

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def _bearer(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    def _open(self) -> Message:
        return pb.ChatRequest(open=pb.Open(token=self.token, position=self.start))


class GrpcChat(Client):
    """grpcio, one `Chat` stream."""

    name = "grpc"

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self.gateway.address)
        self._requests: queue.Queue[Message | None] = queue.Queue()
        self._requests.put(self._open())
        self._call = rpc.ChatServiceStub(self._channel).Chat(iter(self._requests.get, None))

    def _responses(self) -> Iterable[Message]:
        return self._call

    def _send(self, text: str, client_message_id: str) -> None:
        send = pb.Send(text=text, client_message_id=client_message_id)
        self._requests.put(pb.ChatRequest(send=send))

    def stop(self) -> None:
        self._requests.put(pb.ChatRequest(stop=pb.Stop()))

    def half_close(self) -> None:
        self._requests.put(None)

    def drop(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()


class GrpcSubscribe(Client):
    """grpcio, `Subscribe` and unary calls, as a gRPC-Web client does it."""

    name = "subscribe"

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self.gateway.address)
        self._stub = rpc.ChatServiceStub(self._channel)
        request = pb.SubscribeRequest(token=self.token, position=self.start)
        self._call = self._stub.Subscribe(request)

    def _responses(self) -> Iterable[Message]:
        return self._call

    def _send(self, text: str, client_message_id: str) -> Message:
        send = pb.Send(text=text, client_message_id=client_message_id)
        request = pb.SendMessageRequest(send=send)
        try:
            return self._stub.SendMessage(
                request, metadata=self._bearer(), timeout=TIMEOUT
            ).accepted
        except grpc.RpcError as error:
            raise Refused(error.code().name) from error

    def stop(self) -> None:
        self._stub.StopReply(pb.StopReplyRequest(token=self.token), timeout=TIMEOUT)

    def drop(self) -> None:
        self._call.cancel()
        self._channel.close()


class WsJson(Client):
    """websockets, `duologue.v1.json`."""

    name = "ws-json"

    def _connect(self) -> None:
        protocol = f"duologue.v1.{self.name.removeprefix('ws-')}"
        self._open_socket = ExitStack()
        self.socket = self._open_socket.enter_context(
            connect(self.gateway.ws, subprotocols=[protocol], proxy=None)
        )
        self._write(self._open())

    def _write(self, request: Message) -> None:
        self.socket.send(json_format.MessageToJson(request, indent=None))

    def _read(self, frame: str | bytes) -> Message:
        return json_format.Parse(frame, pb.ChatResponse())

    def _responses(self) -> Iterator[Message]:
        while True:  # until recv raises ConnectionClosed, which names the code
            yield self._read(self.socket.recv())

    def _send(self, text: str, client_message_id: str) -> None:
        send = pb.Send(text=text, client_message_id=client_message_id)
        self._write(pb.ChatRequest(send=send))

    def stop(self) -> None:
        self._write(pb.ChatRequest(stop=pb.Stop()))

    def drop(self) -> None:
        self.socket.close_socket()  # first, so that no Close frame is sent
        self._open_socket.close()


class WsProto(WsJson):
    """websockets, `duologue.v1.proto`."""

    name = "ws-proto"

    def _write(self, request: Message) -> None:
        self.socket.send(request.SerializeToString())

    def _read(self, frame: str | bytes) -> Message:
        assert isinstance(frame, bytes), "a text frame in the binary protocol"
        return pb.ChatResponse.FromString(frame)


class Sse(Client):
    """curl, reading `GET /events` and posting to `/messages` and `/stop`."""

    name = "sse"

    def _connect(self) -> None:
        command = ["curl", "--no-buffer", "--silent", "--show-error", "--fail"]
        if self.start is not None:
            event_id = f"{self.start.epoch}:{self.start.seq}"
            if self.start.HasField("reply"):
                event_id += f":{self.start.reply.reply_id}:{self.start.reply.offset}"
            command += ["-H", f"Last-Event-ID: {event_id}"]
        url = f"{self.gateway.http}/events?token={self.token}"
        self._curl = subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True)

    def _responses(self) -> Iterator[Message]:
        assert self._curl.stdout is not None
        for line in self._curl.stdout:
            if line.startswith("data:"):
                yield json_format.Parse(line.removeprefix("data:"), pb.ChatResponse())

    def _post(self, path: str, body: Any = None) -> Any:
        command = ["curl", "--silent", "--show-error", "--max-time", str(TIMEOUT), "-X", "POST"]
        if body is not None:
            command += ["--json", "@-"]
        url = f"{self.gateway.http}{path}?token={self.token}"
        payload = json.dumps(body).encode()
        done = subprocess.run([*command, url], input=payload, capture_output=True, check=True)
        return json.loads(done.stdout)

    def _send(self, text: str, client_message_id: str) -> Message:
        answer = self._post("/messages", {"text": text, "client_message_id": client_message_id})
        if "detail" in answer:
            raise Refused(json.dumps(answer["detail"]))
        return json_format.ParseDict(answer, pb.Accepted())

    def stop(self) -> None:
        self._post("/stop")

    def drop(self) -> None:
        self._curl.kill()
        self._curl.wait()
        assert self._curl.stdout is not None
        self._curl.stdout.close()


PROTOCOLS: tuple[type[Client], ...] = (GrpcChat, GrpcSubscribe, WsJson, WsProto, Sse)
