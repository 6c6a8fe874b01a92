"""HTTP/2 by hand: h2 says what the bytes mean, and nothing is done that a test
does not ask for. WebSocket frames (RFC 6455) over it, as RFC 8441 has it."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

from support.gateway import Gateway

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class Connection:
    """One HTTP/2 connection, spoken with prior knowledge."""

    def __init__(self, gateway: Gateway) -> None:
        host, port = gateway.address.split(":")
        self.authority = gateway.address
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self._events: list[Event] = []
        self.flush()
        # Extended CONNECT requires the gateway's settings first.
        while not any(isinstance(event, RemoteSettingsChanged) for event in self._events):
            self._receive()

    @property
    def allows_extended_connect(self) -> bool:
        return self.h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL) == 1

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the gateway closed the connection")
        for event in self.h2.receive_data(data):
            if isinstance(event, DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self._events.append(event)
        self.flush()

    def request(self, headers: list[tuple[str, str]], *, end: bool = False) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def next(self, stream: int) -> Event:
        """The next event of a stream. A socket silent for ten seconds raises."""
        while True:
            for n, event in enumerate(self._events):
                if getattr(event, "stream_id", None) == stream:
                    return self._events.pop(n)
            self._receive()

    def status(self, stream: int) -> int:
        """The status of a response's head."""
        while not isinstance(event := self.next(stream), ResponseReceived):
            pass
        return int(dict(event.headers)[":status"])

    def trailers(self, stream: int) -> dict[str, str]:
        """The trailers, once all that comes before them has come."""
        while True:
            event = self.next(stream)
            if isinstance(event, TrailersReceived):
                return dict(event.headers)
            assert not isinstance(event, StreamEnded | StreamReset), "ended without trailers"


@contextmanager
def connect(gateway: Gateway) -> Iterator[Connection]:
    connection = Connection(gateway)
    with connection.socket:
        yield connection


class WebSocket:
    """A WebSocket on one stream of a connection."""

    def __init__(self, connection: Connection, path: str, **headers: str) -> None:
        self.connection = connection
        self.stream = connection.request(
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", path),
                (":authority", connection.authority),
                ("sec-websocket-version", "13"),
                *((name.replace("_", "-"), value) for name, value in headers.items()),
            ]
        )
        while not isinstance(event := connection.next(self.stream), ResponseReceived):
            pass
        self.headers = dict(event.headers)
        self.status = int(self.headers[":status"])
        self._buffer = b""

    def send(self, payload: bytes, opcode: int = TEXT, *, final: bool = True) -> None:
        """One frame, masked as every client's must be."""
        mask = os.urandom(4)
        head = bytes([(0x80 if final else 0) | opcode])
        if len(payload) < 126:
            head += bytes([0x80 | len(payload)])
        else:
            head += bytes([0x80 | 126]) + struct.pack("!H", len(payload))
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
        self.connection.send(self.stream, head + mask + masked)

    def receive(self) -> tuple[int, bytes]:
        """The next frame: its opcode and its payload."""
        opcode, length = self._take(2)
        assert opcode & 0x80, "a fragment where a whole frame was expected"
        assert not length & 0x80, "a server must not mask"
        if length == 126:
            [length] = struct.unpack("!H", self._take(2))
        elif length == 127:
            [length] = struct.unpack("!Q", self._take(8))
        return opcode & 0x0F, self._take(length)

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            event = self.connection.next(self.stream)
            assert not isinstance(event, StreamReset | StreamEnded), "ended within a frame"
            if isinstance(event, DataReceived):
                self._buffer += event.data
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken
