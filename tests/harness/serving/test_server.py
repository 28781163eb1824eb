"""The served model over real HTTP: what comes back is what the backend samples, and every mistake has OpenAI's
error."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from harness.backends import Completion, Prompt, SamplingParams
from harness.backends.torch import TorchBackend
from harness.core.errors import UserError
from harness.endpoint import ContextFullError, Endpoint
from harness.serving.replies import read_calls, reply
from harness.serving.requests import RequestError, prompts_of, read_request
from harness.serving.server import ModelServer
from harness.serving.template import ChatTemplate
from harness.serving.token_bytes import TokenBytes
from harness.types import TokenSequence

ASK = [{"role": "user", "content": "3 + 5"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
WINDOW = 96


class Exhausted(TorchBackend):
    """Fails, as a device out of memory does, whenever a prompt of seed 13 is in the batch."""

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        if any(prompt.seed == 13 for prompt in prompts):
            raise MemoryError("no room for 13")
        return super().sample(prompts, params)


@pytest.fixture(scope="module")
def server(tiny_directory: Path) -> Iterator[ModelServer]:
    with ModelServer(Exhausted(tiny_directory, dtype="float64", device="cpu"), "tiny", batch=8) as started:
        yield started


@pytest.fixture(scope="module")
def backend(tiny_directory: Path) -> TorchBackend:
    """The same model, asked directly."""
    return TorchBackend(tiny_directory, dtype="float64", device="cpu")


def post(
    server: ModelServer, body: Any, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*server.url[len("http://") : -len("/v1")].split(":"), timeout=60)
    try:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, raw, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def ask(server: ModelServer, **request: Any) -> dict[str, Any]:
    status, body = post(server, {"model": "tiny", "messages": ASK, "max_tokens": 12, "seed": 5} | request)
    assert status == 200, body
    return dict(body)


# ---------------------------------------------------------------- what is sampled


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (0.0, 1.0)])
def test_a_reply_is_the_backends_own_sample_to_the_bit(
    server: ModelServer, backend: TorchBackend, temperature: float, top_p: float
) -> None:
    body = ask(server, temperature=temperature, top_p=top_p, logprobs=True)
    prompt = backend.renderer.opening(ASK)
    greedy = temperature == 0.0
    params = SamplingParams(12, 1.0 if greedy else temperature, top_p, greedy)
    (expected,) = backend.sample([Prompt(prompt, 5)], params)
    (choice,) = body["choices"]
    assert body["prompt_token_ids"] == list(prompt)
    assert choice["token_ids"] == expected.tokens.tolist()
    assert [entry["logprob"] for entry in choice["logprobs"]["content"]] == expected.logprobs.tolist()
    assert choice["message"] == {"role": "assistant", "content": backend.renderer.decode(choice["token_ids"])}
    assert choice["finish_reason"] == ("stop" if expected.stopped else "length")
    spoken = len(choice["token_ids"])
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": spoken,
        "total_tokens": len(prompt) + spoken,
    }


def test_log_probabilities_are_those_of_scoring_the_tokens(server: ModelServer, backend: TorchBackend) -> None:
    body = ask(server, logprobs=True, seed=8)
    choice, prompt = body["choices"][0], body["prompt_token_ids"]
    tokens = np.array(prompt + choice["token_ids"])
    mask = np.arange(len(tokens)) >= len(prompt)
    (scores,) = backend.score([TokenSequence(tokens, mask, np.zeros(len(tokens)), np.zeros(len(tokens), np.int64))])
    said = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    np.testing.assert_allclose(said, scores.logprobs[mask], atol=1e-12)  # float64; a cache's order of summation differs


def test_requests_at_once_are_batched_and_answered_as_if_alone(server: ModelServer) -> None:
    before = len(server.batcher.batches)
    alone = [ask(server, seed=seed, messages=ASK * (1 + seed % 3))["choices"] for seed in range(12)]
    assert server.batcher.batches[before:] == [1] * 12
    gate = threading.Barrier(12)

    def together(seed: int) -> Any:
        gate.wait()
        return ask(server, seed=seed, messages=ASK * (1 + seed % 3))["choices"]

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(together, range(12))) == alone
    batches = server.batcher.batches[before + 12 :]
    assert sum(batches) == 12
    assert len(batches) < 12  # a batch is computed while others arrive
    assert max(batches) <= 8


def test_different_parameters_never_share_a_batch(server: ModelServer) -> None:
    asked = [{"temperature": 0.5 + 0.1 * (n % 3), "seed": n} for n in range(9)]
    alone = [ask(server, **each)["choices"] for each in asked]
    with ThreadPoolExecutor(9) as threads:
        assert list(threads.map(lambda each: ask(server, **each)["choices"], asked)) == alone


def test_choices_share_the_prompt_and_not_their_chance(server: ModelServer) -> None:
    four, one = ask(server, n=4)["choices"], ask(server)["choices"]
    assert four[0] == one[0]
    assert [choice["index"] for choice in four] == [0, 1, 2, 3]
    assert len({tuple(choice["token_ids"]) for choice in four}) == 4
    assert ask(server, n=4)["choices"] == four  # the seed decides all of them


def test_without_a_seed_chance_is_fresh(server: ModelServer) -> None:
    assert len({tuple(ask(server, seed=None)["choices"][0]["token_ids"]) for _ in range(4)}) == 4


def test_a_stop_cuts_the_text_before_it_and_keeps_the_tokens_before_it(
    server: ModelServer, backend: TorchBackend
) -> None:
    whole = ask(server, temperature=0, max_tokens=40)["choices"][0]
    text = whole["message"]["content"]
    assert len(text) > 10
    for stop in {text[3:5], text[6], text[-2:], text[:1]}:
        (choice,) = ask(server, temperature=0, max_tokens=40, stop=[stop, "never said"], logprobs=True)["choices"]
        content = choice["message"]["content"]
        assert content == text.split(stop)[0]
        assert choice["finish_reason"] == "stop"
        count = len(choice["token_ids"])
        assert choice["token_ids"] == whole["token_ids"][:count]
        # the kept tokens are all those that lie wholly before the stop
        assert content.startswith(backend.renderer.decode(choice["token_ids"]))
        assert len(backend.renderer.decode(whole["token_ids"][: count + 1])) > len(content)
        assert len(choice["logprobs"]["content"]) == count
    assert ask(server, temperature=0, max_tokens=40, stop="never said")["choices"] == [whole]


def test_completions_end_at_the_windows_end(server: ModelServer) -> None:
    body = ask(server, max_tokens=10_000, seed=1)
    assert body["usage"]["total_tokens"] <= WINDOW
    assert body["choices"][0]["finish_reason"] == ("stop" if body["usage"]["total_tokens"] < WINDOW else "length")


# ---------------------------------------------------------------- messages and tools


def test_messages_in_all_their_forms(server: ModelServer, backend: TorchBackend) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"id": "Ä"}'}}
    body = ask(
        server,
        messages=[
            {"role": "developer", "content": "be"},
            {"role": "user", "content": [{"type": "text", "text": "3"}, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "5"},
        ],
    )
    # this template shows no calls: a past one reads as the text it came from
    plain = [
        {"role": "system", "content": "be"}, {"role": "user", "content": "3?"},
        {"role": "assistant", "content": '{"name": "look", "arguments": {"id": "Ä"}}'},
        {"role": "tool", "content": "5"},
    ]  # fmt: skip
    assert body["prompt_token_ids"] == list(backend.renderer.opening(plain))


def test_a_template_that_shows_tools_and_calls_is_given_them(tiny_directory: Path) -> None:
    backend = TorchBackend(tiny_directory, device="cpu")
    backend.tokenizer.chat_template = (
        "{% if tools %}{% for tool in tools %}[{{ tool['function']['name'] }}]{% endfor %}{% endif %}"
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
        "{% for c in m.get('tool_calls', []) %}"
        "({{ c['function']['name'] }} {{ c['function']['arguments']['n'] }}){% endfor %}{% endfor %}>"
    )
    template = ChatTemplate(backend.renderer)
    assert (template.shows_tools, template.shows_calls) == (True, True)
    call = {"id": "c", "function": {"name": "look", "arguments": '{"n": 7}'}}
    request = {"model": "m", "messages": [*ASK, {"role": "assistant", "tool_calls": [call]}], "tools": [TOOL]}

    def text(**more: Any) -> str:
        tokens = template.tokens(read_request(json.dumps(request | more).encode(), "m"))
        return str(backend.tokenizer.decode(tokens))

    assert text() == "[look]<user>3 + 5<assistant>(look 7)>"
    assert text(tool_choice="none") == "<user>3 + 5<assistant>(look 7)>"
    with pytest.raises(RequestError, match="JSON object, got"):
        text(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": "[]"}}]}])
    backend.tokenizer.chat_template = "{{ raise_exception('only users may speak') }}"
    with pytest.raises(RequestError, match="only users may speak"):
        ChatTemplate(backend.renderer).tokens(read_request(json.dumps(request).encode(), "m"))


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"a": [1]}}\n</tool_call>', "", [("f", {"a": [1]})]),
        ('Let me see. <tool_call>{"name": "f", "arguments": {}}</tool_call>'
         '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
         "Let me see.", [("f", {}), ("g", {})]),
        ('{"name": "f", "parameters": {"a": "}"}}', "", [("f", {"a": "}"})]),
        ('<tool_call>{"name": "f", "arguments": </tool_call>', None, []),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"name": 3}</tool_call>', None, []),
        ('{"name": "f", "arguments": "{}"}', None, []),
        ('I call {"name": "f", "arguments": {}}', None, []),
        ("[1]", None, []),
        ("", None, []),
    ],
)  # fmt: skip
def test_calls_are_read_from_what_a_model_writes(text: str, words: str | None, calls: list[Any]) -> None:
    said, found = read_calls(text)
    assert said == (text if words is None else words)
    assert [(call["name"], json.loads(call["arguments"])) for call in found] == calls


def test_a_call_is_a_call_only_where_tools_were_offered(backend: TorchBackend) -> None:
    written = '{"name": "look", "arguments": {"n": 1}}'
    tokens = np.array([*backend.renderer.encode(written), backend.renderer.stop_ids[0]])
    done = Completion(tokens, -np.ones(len(tokens)), True)

    def choice(**more: Any) -> dict[str, Any]:
        request = read_request(json.dumps({"model": "m", "messages": ASK} | more).encode(), "m")
        return dict(reply(request, [1, 2], [done], backend.renderer, TokenBytes(backend.tokenizer))["choices"][0])

    plain, called = choice(), choice(tools=[TOOL])
    assert (plain["message"]["content"], plain["finish_reason"]) == (written, "stop")
    assert (called["message"]["content"], called["finish_reason"]) == (None, "tool_calls")
    assert called["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"n": 1}'}
    assert called["token_ids"] == plain["token_ids"] == tokens.tolist()


# ---------------------------------------------------------------- clients


def test_the_openai_client_reads_it(server: ModelServer) -> None:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        assert [card.id for card in client.models.list()] == ["tiny"]
        done = client.chat.completions.create(
            model="tiny", messages=ASK, max_tokens=6, seed=5, logprobs=True, temperature=0.9
        )
        assert done.choices[0].message.content is not None
        assert len(done.choices[0].logprobs.content) == done.usage.completion_tokens == len(done.choices[0].token_ids)
        with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
            client.chat.completions.create(model="other", messages=ASK)


def test_our_own_client_knows_a_full_window(server: ModelServer) -> None:
    endpoint = Endpoint("tiny", base_url=server.url, api_key="none", attempts=2)
    assert endpoint.chat(ASK, max_tokens=4, seed=1).completion_tokens <= 4
    with pytest.raises(ContextFullError, match="context length is 96"):
        endpoint.chat([{"role": "user", "content": "7 " * WINDOW}])
    endpoint.close()


BAD: dict[str, tuple[Any, int, str]] = {
    "no json": (b"{", 400, "not JSON"),
    "deep": (b"[" * 100_000, 400, "not JSON"),
    "no object": ([1], 400, "JSON object, got list"),
    "no model": ({"messages": ASK}, 400, "model: Field required"),
    "no messages": ({"model": "tiny", "messages": []}, 400, "messages: List should have at least 1 item"),
    "a typing mistake": ({"max_token": 3}, 400, "'max_token'; did you mean 'max_tokens'"),
    "unsupported": ({"logit_bias": {"1": 2}}, 400, "'logit_bias'"),
    "a role": ({"messages": [{"role": "usr", "content": ""}]}, 400, "messages.0.role: Input should be 'system'"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content"),
    "too hot": ({"temperature": 3}, 400, "temperature: Input should be less than or equal to 2; got 3"),
    "no mass": ({"top_p": 0}, 400, "top_p"),
    "no tokens": ({"max_tokens": 0}, 400, "max_tokens"),
    "streamed": ({"stream": True}, 400, "stream: Input should be False"),
    "forced": ({"tool_choice": "required"}, 400, "tool_choice"),
    "alternatives": ({"top_logprobs": 5}, 400, "top_logprobs"),
    "somebody else": ({"model": "gpt"}, 404, "this server has 'tiny'"),
    "too long": ({"messages": [{"role": "user", "content": "7 " * 500}]}, 400, f"context length is {WINDOW} tokens"),
    "the model fails": ({"seed": 13}, 500, "MemoryError: no room for 13"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_have_openais_error_and_harm_nobody(server: ModelServer, case: str) -> None:
    given, status, said = BAD[case]
    partial = isinstance(given, dict) and case not in ("no model", "no messages")
    found, body = post(server, {"model": "tiny", "messages": ASK, "max_tokens": 4} | given if partial else given)
    assert (found, set(body), set(body["error"])) == (status, {"error"}, {"message", "type", "param", "code"})
    assert said in body["error"]["message"]
    assert body["error"]["code"] == {"somebody else": "model_not_found", "too long": "context_length_exceeded"}.get(
        case
    )
    assert ask(server, max_tokens=2)["choices"]


def test_null_and_neutral_fields_count_as_absent(server: ModelServer) -> None:
    neutral = {"stop": None, "tools": None, "n": None, "user": "me", "presence_penalty": 0.0, "frequency_penalty": 0,
               "response_format": {"type": "text"}, "metadata": {}, "parallel_tool_calls": False,
               "max_completion_tokens": 12}  # fmt: skip
    assert ask(server, **neutral)["choices"] == ask(server)["choices"]


def test_paths_and_bodies_that_are_none(server: ModelServer) -> None:
    assert post(server, {}, path="/v1/embeddings")[0] == 404
    assert post(server, b"", headers={"Content-Length": "x"})[0] == 411
    assert post(server, b"", headers={"Content-Length": str(10**12)})[0] == 413
    connection = http.client.HTTPConnection(*server.url[len("http://") : -len("/v1")].split(":"), timeout=10)
    for path, status in (("/health", 200), ("/", 404), ("/v1/models", 200)):  # one connection, kept open
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (status, True)
    connection.close()


def test_a_taken_port_is_said_and_a_closed_server_frees_it(tiny_directory: Path) -> None:
    backend = TorchBackend(tiny_directory, device="cpu")
    with ModelServer(backend, "tiny") as first:
        port = int(first.url.split(":")[2].split("/")[0])
        assert first.url.startswith("http://127.0.0.1:")
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port} .*--port"):
            ModelServer(backend, "tiny", port=port)
    with ModelServer(backend, "tiny", port=port) as second:
        assert ask(second)["choices"]


def test_prompts_carry_the_room_that_is_left() -> None:
    def prompts(**more: Any) -> list[Prompt]:
        return prompts_of(
            read_request(json.dumps({"model": "m", "messages": ASK, "seed": -1} | more).encode(), "m"),
            tuple(range(90)),
            96,
        )

    assert [prompt.limit for prompt in prompts(n=2)] == [6, 6]
    assert [prompt.limit for prompt in prompts(max_tokens=4)] == [4]
    assert prompts()[0].seed == 2**63 - 1  # negative seeds are seeds


# ---------------------------------------------------------------- the command


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_the_command_serves_until_it_is_interrupted(model: str, tiny_directory: Path) -> None:
    named = str(tiny_directory) if model == "tiny" else model
    command = [sys.executable, "-m", "harness.cli", "serve", named, "--port", "0", "--name", "served"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        found = re.search(r"(http://127\.0\.0\.1:\d+/v1)", process.stdout.readline())
        assert found is not None
        endpoint = Endpoint("served", base_url=found[1], api_key="none", timeout_s=300.0)
        said = endpoint.chat(
            [{"role": "user", "content": "What is the capital of France?"}], max_tokens=16, temperature=0
        )
        endpoint.close()
        assert said.completion_tokens > 0
        if model == "smollm2":
            assert "Paris" in said.text
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
        process.stdout.close()
    assert code == 130
