"""The gateways that the tests talk to."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from support.gateway import SLOW_REPLY, Gateway


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    """As it comes: every setting at its default, but for the store."""
    with Gateway() as running:
        yield running


@pytest.fixture(scope="session")
def slow() -> Iterator[Gateway]:
    """Takes three quarters of a second over every reply, word by word."""
    with Gateway("--simulated-delay", "25ms", "--simulated-reply", SLOW_REPLY) as running:
        yield running


@pytest.fixture
def start() -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway with flags of the test's own, for as long as the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *flags: stack.enter_context(Gateway(*flags))
