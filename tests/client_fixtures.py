"""Fixtures of the client's tests: the child processes that hold it, and a server to talk to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from client_handle import Driver
from faulty_server import FaultyServer


@pytest.fixture(scope="session")
def gevent_child() -> Iterator[Driver]:
    """The client as it runs under Locust: gevent has patched the sockets."""
    driver = Driver("gevent")
    yield driver
    driver.stop()


@pytest.fixture(scope="session")
def plain_child() -> Iterator[Driver]:
    """The client on the standard library's own sockets."""
    driver = Driver("plain")
    yield driver
    driver.stop()


@pytest.fixture(scope="session", params=["gevent", "plain"])
def child(request: pytest.FixtureRequest) -> Driver:
    """Both, one after the other."""
    return request.getfixturevalue(f"{request.param}_child")


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    """A faulty server of the test's own."""
    server = FaultyServer()
    yield server
    server.close()
