"""What a client asks of a session, by one real client of each protocol family: grpcio,
websockets, curl. A request is written once, in proto-JSON, and sent by each of them."""

import json
import re
import subprocess
from abc import ABC, abstractmethod
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from websockets.sync.client import connect

from support.clients import TIMEOUT, Refused
from support.contract import pb, rpc
from support.gateway import Gateway


class Asker(ABC):
    """Sends requests with a token. A refusal raises `Refused` with its code."""

    name: str

    def __init__(self, gateway: Gateway, token: str) -> None:
        self.gateway = gateway
        self.token = token

    @abstractmethod
    def send(self, **send: Any) -> Message: ...

    @abstractmethod
    def regenerate(self, **regenerate: Any) -> Message: ...


class GrpcAsker(Asker):
    """grpcio, unary calls."""

    name = "grpc"

    def _call(self, method: str, request: Message) -> Message:
        with grpc.insecure_channel(self.gateway.address) as channel:
            try:
                return getattr(rpc.ChatServiceStub(channel), method)(request, timeout=TIMEOUT)
            except grpc.RpcError as error:
                raise Refused(error.code().name.lower()) from error

    def send(self, **send: Any) -> Message:
        request = pb.SendMessageRequest(token=self.token)
        json_format.ParseDict(send, request.send)
        return self._call("SendMessage", request).accepted

    def regenerate(self, **regenerate: Any) -> Message:
        request = pb.RegenerateRequest(token=self.token)
        json_format.ParseDict(regenerate, request.regenerate)
        return self._call("Regenerate", request).accepted


class WsAsker(Asker):
    """websockets, `duologue.v1.json`."""

    name = "ws-json"

    def _ask(self, request: dict[str, Any]) -> Message:
        url = f"{self.gateway.ws}?token={self.token}"
        with connect(url, subprotocols=["duologue.v1.json"], proxy=None) as socket:
            socket.send(json.dumps(request))
            while True:
                response = json_format.Parse(socket.recv(timeout=TIMEOUT), pb.ChatResponse())
                if response.HasField("accepted"):
                    return response.accepted
                if response.HasField("error"):
                    raise Refused(response.error.code)

    def send(self, **send: Any) -> Message:
        return self._ask({"send": send})

    def regenerate(self, **regenerate: Any) -> Message:
        return self._ask({"regenerate": regenerate})


class RestAsker(Asker):
    """curl, which speaks snake case."""

    name = "rest"

    def _post(self, path: str, body: dict[str, Any]) -> Message:
        url = f"{self.gateway.http}{path}?token={self.token}"
        command = ["curl", "--silent", "--show-error", "--max-time", str(TIMEOUT), "--json", "@-"]
        payload = json.dumps(snake_case(body)).encode()
        done = subprocess.run([*command, url], input=payload, capture_output=True, check=True)
        answer = json.loads(done.stdout)
        if "detail" in answer:
            raise Refused(json.dumps(answer["detail"]))
        return json_format.ParseDict(answer, pb.Accepted())

    def send(self, **send: Any) -> Message:
        return self._post("/messages", send)

    def regenerate(self, **regenerate: Any) -> Message:
        return self._post("/regenerate", regenerate)


def snake_case(value: Any) -> Any:
    """The same JSON with the field names of REST."""
    if isinstance(value, list):
        return [snake_case(item) for item in value]
    if isinstance(value, dict):
        name = lambda key: re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), key)  # noqa: E731
        return {name(key): snake_case(inner) for key, inner in value.items()}
    return value


ASKERS: tuple[type[Asker], ...] = (GrpcAsker, WsAsker, RestAsker)
