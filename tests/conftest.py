"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import pytest
from chat_server import ChatServer


@pytest.fixture
def chat_server():
    """Starts loopback servers and stops them after the test: `chat_server(answer, pause_s=0.0) -> ChatServer`."""
    started = []

    def start(answer, pause_s=0.0):
        started.append(ChatServer(answer, pause_s))
        return started[-1]

    yield start
    for server in started:
        server.stop()
