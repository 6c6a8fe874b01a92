"""A bot for Duologue, in Python: it repeats each message, word by word, and
knows the earlier messages, which the gateway sends with every call. Asked for
the time, it runs a tool of its own.

    BOT_ADDR      where it listens             127.0.0.1:50051
    BOT_TOKEN     what the gateway must bring  nothing
    BOT_DELAY     seconds between two words    0.05
    BOT_TLS_CERT  files in PEM form, for TLS   without TLS
    BOT_TLS_KEY
"""

import asyncio
import hmac
import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
from duologue.v1 import chat_pb2, responder_pb2, responder_pb2_grpc
from duologue.v1.responder_pb2 import RespondRequest, RespondResponse

TOKEN = os.environ.get("BOT_TOKEN", "")
DELAY = float(os.environ.get("BOT_DELAY", "0.05"))


def answer_to(request: RespondRequest) -> str:
    """Put your own here: ask a model, search a shop, play a game."""
    text = f"{request.name}, you said: {request.message.text}"
    before = [m.text for m in request.history if m.role == chat_pb2.ROLE_USER]
    return f"{text} (and before that: {before[-1]})" if before else text


def asks_for_time(request: RespondRequest) -> bool:
    text = request.message.text.lower()
    return text.startswith("/time") or "what time" in text


def clock(utc_offset: str) -> str:
    """The tool: the time of day at an offset in hours, such as "2" or "-3.5"."""
    return f"{datetime.now(timezone(timedelta(hours=float(utc_offset)))):%H:%M}"


def run_clock(request: RespondRequest) -> tuple[list[chat_pb2.Part], str]:
    """The call of the tool, its result, and what to say about it."""
    # The client gave it to its session.
    offset = request.metadata.get("utc_offset", "0")
    call = chat_pb2.ToolCall(
        id="clock-1",
        name="clock",
        arguments=json.dumps({"utc_offset": offset}),
        # This bot runs the tool. Without it the reply would end, and the client would run it.
        responder_executed=True,
    )
    result = chat_pb2.ToolResult(tool_call_id=call.id)
    try:
        time = clock(offset)
        result.output, text = json.dumps(time), f"It is {time}."
    except (OverflowError, ValueError) as error:
        result.output, text = json.dumps(str(error)), "My clock is broken."
        result.is_error = True
    return [chat_pb2.Part(tool_call=call), chat_pb2.Part(tool_result=result)], text


class Bot(responder_pb2_grpc.ResponderServiceServicer):
    async def Respond(
        self, request: RespondRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[RespondResponse]:
        metadata = dict(context.invocation_metadata())
        brought = metadata.get("authorization", "").encode()
        if TOKEN and not hmac.compare_digest(brought, f"Bearer {TOKEN}".encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")
        parts, text = run_clock(request) if asks_for_time(request) else ([], answer_to(request))
        words = text.split(" ")
        # Options come from the client, as far as the operator allows them. 0: it set none.
        limit = request.options.max_output_tokens or len(words)
        said, over = 0, False
        try:
            for part in parts:
                yield RespondResponse(part=part)
            for word in words[:limit]:
                piece = f" {word}" if said else word
                yield RespondResponse(delta=responder_pb2.ReplyDelta(text=piece))
                said += 1
                await asyncio.sleep(DELAY)
            outcome = responder_pb2.ReplyOutcome(
                finish_reason="stop" if limit >= len(words) else "length",
                usage=chat_pb2.Usage(
                    input_tokens=len(request.message.text.split()), output_tokens=said
                ),
                model="example-bot",
            )
            over = True
            # Without it the gateway takes the reply for one that was cut short.
            yield RespondResponse(outcome=outcome)
        finally:
            # The reply was stopped, or the gateway has disconnected: all work for the
            # reply must end, here the loop above.
            if not over:
                print(f"stopped {request.reply_id} after {said} words", flush=True)


async def main() -> None:
    # Two bots on one port would each get a part of the calls.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    responder_pb2_grpc.add_ResponderServiceServicer_to_server(Bot(), server)
    addr = os.environ.get("BOT_ADDR", "127.0.0.1:50051")
    if cert := os.environ.get("BOT_TLS_CERT"):
        pair = (Path(os.environ["BOT_TLS_KEY"]).read_bytes(), Path(cert).read_bytes())
        port = server.add_secure_port(addr, grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port(addr)
    await server.start()
    print(f"listening on {addr.rpartition(':')[0]}:{port}", flush=True)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, asked.set)
    await asked.wait()
    await server.stop(grace=10)  # replies under way may finish


if __name__ == "__main__":
    asyncio.run(main())
