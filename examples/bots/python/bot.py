"""A bot for Duologue, in Python: it repeats each message, word by word, and
knows the earlier messages, which the gateway sends with every call.

    BOT_ADDR      where it listens             127.0.0.1:50051
    BOT_TOKEN     what the gateway must bring  nothing
    BOT_DELAY     seconds between two words    0.05
    BOT_TLS_CERT  files in PEM form, for TLS   without TLS
    BOT_TLS_KEY
"""

import asyncio
import hmac
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from duologue.v1 import chat_pb2, responder_pb2, responder_pb2_grpc

TOKEN = os.environ.get("BOT_TOKEN", "")
DELAY = float(os.environ.get("BOT_DELAY", "0.05"))


def answer_to(request: responder_pb2.RespondRequest) -> str:
    """Put your own here: ask a model, search a shop, play a game."""
    text = f"{request.name}, you said: {request.message.text}"
    before = [m.text for m in request.history if m.role == chat_pb2.ROLE_USER]
    return f"{text} (and before that: {before[-1]})" if before else text


class Bot(responder_pb2_grpc.ResponderServiceServicer):
    async def Respond(
        self, request: responder_pb2.RespondRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[responder_pb2.RespondResponse]:
        metadata = dict(context.invocation_metadata())
        brought = metadata.get("authorization", "").encode()
        if TOKEN and not hmac.compare_digest(brought, f"Bearer {TOKEN}".encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")
        said, over = 0, False
        try:
            for word in answer_to(request).split(" "):
                text = f" {word}" if said else word
                yield responder_pb2.RespondResponse(delta=responder_pb2.ReplyDelta(text=text))
                said += 1
                await asyncio.sleep(DELAY)
            outcome = responder_pb2.ReplyOutcome(
                finish_reason="stop",
                usage=chat_pb2.Usage(
                    input_tokens=len(request.message.text.split()), output_tokens=said
                ),
            )
            over = True
            # Without it the gateway takes the reply for one that was cut short.
            yield responder_pb2.RespondResponse(outcome=outcome)
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
