"""The client against a real HTTP server on the loopback: slow, failing, lying, and well-behaved."""

from __future__ import annotations

import json
import threading
import time

import pytest

from harness.core.errors import EndpointError
from harness.endpoint import BudgetSpentError, Endpoint, EndpointCallError

HELLO = [{"role": "user", "content": "hello"}]


def endpoint(server, **options):
    return Endpoint("m", **{"base_url": server.url, "api_key": "k", "backoff_s": 0.01, "timeout_s": 5.0, **options})


def test_a_reply(chat_server):
    server = chat_server(lambda request, count: server.says("hi", calls=[("cancel", '{"id": 1}')]))
    reply = endpoint(server).chat(HELLO, temperature=0.0, max_tokens=5, seed=3)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.cached) == ("hi", 11, 7, False)
    assert reply.tool_calls == ({"name": "cancel", "arguments": '{"id": 1}'},)
    assert server.requests == [{"model": "m", "messages": HELLO, "temperature": 0.0, "max_tokens": 5, "seed": 3}]
    assert server.headers[0]["authorization"] == "Bearer k"


def test_address_and_key_come_from_the_environment(chat_server, monkeypatch):
    server = chat_server(lambda request, count: server.says("hi"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "from-outside")
    assert Endpoint("m").chat(HELLO).text == "hi"
    assert server.headers[0]["authorization"] == "Bearer from-outside"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        Endpoint("m").chat(HELLO)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_passing_failures_are_retried(chat_server, status):
    server = chat_server(lambda request, count: (status, "{}") if count < 3 else server.says("at last"))
    client = endpoint(server)
    assert client.chat(HELLO).text == "at last"
    assert len(server.requests) == client.calls == 3


def test_lasting_failures_are_bounded(chat_server):
    server = chat_server(lambda request, count: (500, "broken"))
    with pytest.raises(EndpointCallError, match="3 attempts") as caught:
        endpoint(server, attempts=3).chat(HELLO)
    assert (caught.value.kind, caught.value.status, len(server.requests)) == ("status", 500, 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusals_are_not_retried(chat_server, status):
    server = chat_server(lambda request, count: (status, json.dumps({"error": {"message": "no such model"}})))
    with pytest.raises(EndpointCallError, match="no such model") as caught:
        endpoint(server).chat(HELLO)
    assert (caught.value.kind, caught.value.status, len(server.requests)) == ("status", status, 1)


@pytest.mark.parametrize(
    "body",
    [
        "<html>gateway</html>",
        "",
        "[]",
        "{}",
        '{"choices": []}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": 5}}]}',
        '{"choices": [{"message": {"tool_calls": [{"function": {}}]}}]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}',
        '{"choices": [{"message": {"content": "x"}}], "usage": 3}',
        "[" * 100_000,
        "\x00\xff",
    ],
    ids=lambda body: body[:20],
)
def test_garbage_is_garbage(chat_server, body):
    server = chat_server(lambda request, count: (200, body))
    with pytest.raises(EndpointCallError) as caught:
        endpoint(server).chat(HELLO)
    assert caught.value.kind == "garbage"
    assert len(server.requests) == 1


def test_a_silent_server_times_out(chat_server):
    server = chat_server(lambda request, count: time.sleep(1.0) or server.says("late"))
    client = endpoint(server, timeout_s=0.1, attempts=2)
    with pytest.raises(EndpointCallError) as caught:
        client.chat(HELLO)
    assert caught.value.kind == "timeout"
    assert client.calls == 2  # the server may not have read both yet


def test_a_dripping_server_times_out(chat_server):
    """A byte now and then keeps a connection's timeout from firing; the deadline of the attempt still holds."""
    server = chat_server(lambda request, count: (200, [b" "] * 100), pause_s=0.05)
    with pytest.raises(EndpointCallError) as caught:
        endpoint(server, timeout_s=0.3, attempts=1).chat(HELLO)
    assert caught.value.kind == "timeout"  # waited for to its end, the reply would be no JSON


def test_a_broken_connection_is_retried(chat_server):
    server = chat_server(lambda request, count: None if count < 3 else server.says("back"))
    assert endpoint(server).chat(HELLO).text == "back"
    assert len(server.requests) == 3


def test_nobody_listens(chat_server):
    server = chat_server(lambda request, count: server.says("hi"))
    server.stop()
    with pytest.raises(EndpointCallError, match="cannot reach") as caught:
        endpoint(server, attempts=2).chat(HELLO)
    assert caught.value.kind == "connection"


def test_retry_after_is_obeyed(chat_server):
    server = chat_server(lambda request, count: (429, "{}", {"Retry-After": "0.3"}) if count < 2 else server.says("ok"))
    began = time.monotonic()
    assert endpoint(server, backoff_s=0.0).chat(HELLO).text == "ok"
    assert time.monotonic() - began >= 0.3


def test_back_off_doubles(chat_server):
    server = chat_server(lambda request, count: (500, "{}"))
    began = time.monotonic()
    with pytest.raises(EndpointError):
        endpoint(server, backoff_s=0.05, attempts=4).chat(HELLO)
    assert time.monotonic() - began >= 0.05 + 0.1 + 0.2


def test_budgets_stop_hard(chat_server):
    server = chat_server(lambda request, count: server.says("hi"))
    client = endpoint(server, max_calls=2)
    client.chat(HELLO)
    client.chat(HELLO)
    with pytest.raises(BudgetSpentError, match="2 calls"):
        client.chat(HELLO)
    assert len(server.requests) == 2
    client = endpoint(server, max_tokens_total=30)  # 18 tokens a reply: the second one overruns, the third is refused
    client.chat(HELLO)
    client.chat(HELLO)
    with pytest.raises(BudgetSpentError, match="30 tokens"):
        client.chat(HELLO)
    assert client.tokens == 36


def test_retries_count_against_the_budget(chat_server):
    server = chat_server(lambda request, count: (500, "{}"))
    with pytest.raises(BudgetSpentError):
        endpoint(server, max_calls=2, attempts=9).chat(HELLO)
    assert len(server.requests) == 2


def test_a_server_that_counts_no_tokens_still_costs(chat_server):
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": "x" * 400}}]})
    server = chat_server(lambda request, count: (200, body))
    reply = endpoint(server).chat([{"role": "user", "content": "y" * 400}])
    assert reply.completion_tokens == 100
    assert 100 <= reply.prompt_tokens < 120


def test_concurrency_is_limited(chat_server):
    def answer(request, count):
        with lock:
            inside.append(1)
            most.append(len(inside))
        time.sleep(0.05)
        with lock:
            inside.pop()
        return server.says("hi")

    lock, inside, most = threading.Lock(), [], []
    server = chat_server(answer)
    client = endpoint(server, concurrency=2, timeout_s=60.0)
    threads = [threading.Thread(target=client.chat, args=(HELLO,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 2
    assert client.calls == 8
    client.close()
    assert client.chat(HELLO).text == "hi"


def test_nonsense_settings_are_refused():
    for wrong in ({"timeout_s": 0}, {"attempts": 0}, {"concurrency": 0}, {"backoff_s": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Endpoint("m", **wrong)


def test_importing_it_is_cheap():
    """The command line imports this module: its libraries are loaded with the first call."""
    import subprocess
    import sys

    heavy = "{'openai', 'httpx2', 'tenacity', 'diskcache'}"
    code = f"import sys, harness.endpoint, agents.contexts; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
