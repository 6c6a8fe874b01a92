"""The wire contract, generated from the repository's proto by grpcio-tools."""

import importlib.resources
import sys
from pathlib import Path

from grpc_tools import protoc

from support.gateway import REPOSITORY, TARGET

PROTO = REPOSITORY / "proto"


def _generate() -> Path:
    out = TARGET / "clients" / "python"
    out.mkdir(parents=True, exist_ok=True)
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={well_known}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            "duologue/v1/chat.proto",
            "duologue/v1/responder.proto",
        ]
    )
    assert status == 0, "protoc refused the wire contract"
    return out


GENERATED = _generate()
sys.path.insert(0, str(GENERATED))

# The generated modules exist only now.
from duologue.v1 import chat_pb2 as pb  # noqa: E402
from duologue.v1 import chat_pb2_grpc as rpc  # noqa: E402
from duologue.v1 import responder_pb2 as bot_pb  # noqa: E402
from duologue.v1 import responder_pb2_grpc as bot_rpc  # noqa: E402

__all__ = ["GENERATED", "PROTO", "bot_pb", "bot_rpc", "pb", "rpc"]
