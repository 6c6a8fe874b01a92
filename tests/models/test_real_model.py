"""A conversation with a model that knows some words.

`tests/run real-model` runs it with SmolLM2. `tests/run models -- --real-model FILE` takes any
small instruction-tuned model in GGUF. Without that option the file is not collected.
"""

from pathlib import Path

import pytest
from conftest import StartGateway
from llama import Llama

from support.clients import PROTOCOLS
from support.contract import pb


@pytest.fixture
def real(request: pytest.FixtureRequest):
    server = Llama(Path(request.config.getoption("--real-model")), context=2048)
    yield server
    server.kill()


@pytest.mark.timeout(600)
def test_a_real_model_answers_in_words(real: Llama, start: StartGateway) -> None:
    gateway = start(real.url, "--context-tokens", "2048", "--openai-max-tokens", "100")
    with PROTOCOLS[0](gateway, gateway.new_token()) as client:
        client.next_of("opened")
        client.send("What is the capital of France? Answer in one sentence.", "m1")
        reply = None
        while reply is None or reply.role != pb.ROLE_ASSISTANT:
            reply = client.next_of("message", timeout=120)
    assert reply.status == pb.MESSAGE_STATUS_COMPLETE
    assert "Paris" in reply.text and not reply.usage.estimated
