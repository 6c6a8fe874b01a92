"""Models, and gateways in front of them. The clients are those of tests/clients."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "clients" / "python"))

import tiny_model  # noqa: E402
from llama import Llama  # noqa: E402
from support.gateway import TARGET, Gateway  # noqa: E402

StartLlama = Callable[..., Llama]
StartGateway = Callable[..., Gateway]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real-model", metavar="FILE", help="talk to this model (GGUF), too")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the test of a real model unless there is one."""
    without_model = config.getoption("--real-model") is None
    return True if collection_path.name == "test_real_model.py" and without_model else None


@pytest.fixture(scope="session")
def model() -> Path:
    path = TARGET / "models" / "tiny.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny_model.write(path)
    assert path.stat().st_size < 1 << 20
    return path


@pytest.fixture(scope="session")
def llama(model: Path) -> Iterator[Llama]:
    """A shared server with two slots. Tests must not stop it."""
    server = Llama(model)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def llama_with_tools() -> Iterator[Llama]:
    """A shared server whose model calls tools."""
    path = TARGET / "models" / "tiny_tools.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny_model.write(path, tiny_model.TOOL_TEMPLATE)
    server = Llama(path)
    yield server
    server.kill()


@pytest.fixture
def start_llama(model: Path) -> Iterator[StartLlama]:
    """Starts a server of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(**settings: int) -> Llama:
            server = Llama(model, **settings)
            stack.callback(server.kill)
            return server

        yield start


@pytest.fixture
def start() -> Iterator[StartGateway]:
    """Starts a gateway in front of the server at this URL, with flags of the test's own."""
    with contextlib.ExitStack() as stack:

        def start(url: str, *flags: str) -> Gateway:
            upstream = ("--responder", "openai", "--openai-base-url", url)
            return stack.enter_context(
                Gateway(*upstream, "--openai-temperature", "0", *flags)
            )

        yield start
