"""Token ids in, token ids out: what comes back is the backend's own sample, and says which weights drew it."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.backends import Completion, Prompt, SamplingParams
from harness.backends.torch import TorchBackend
from harness.core.vocabulary import vocabulary_hash, vocabulary_in
from harness.serving.server import ModelServer
from harness.types import TokenSequence

PROMPT = [3, 5, 7, 9]
BODY = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 5}


def served(directory: Path, **options: Any) -> ModelServer:
    return ModelServer(TorchBackend(directory, dtype="float64", device="cpu"), "tiny", batch=8, **options)


@pytest.fixture(scope="module")
def server(tiny_directory: Path) -> Iterator[ModelServer]:
    with served(tiny_directory) as started:
        yield started


@pytest.fixture(scope="module")
def backend(tiny_directory: Path) -> TorchBackend:
    return TorchBackend(tiny_directory, dtype="float64", device="cpu")


@pytest.fixture
def others(tiny_directory: Path, tmp_path: Path) -> Path:
    """A model directory of other weights."""
    moved = TorchBackend(tiny_directory, dtype="float64", device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in moved.model.parameters():
            weights += 0.3 * torch.randn_like(weights)
    moved.save(tmp_path / "others")
    return tmp_path / "others"


def post(server: ModelServer, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    host, port = server.url[len("http://") : -len("/v1")].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request("POST", f"/v1/{path}" if body is not None else "/v1/models", json.dumps(body), headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def ask(server: ModelServer, **request: Any) -> dict[str, Any]:
    status, body = post(server, "completions", BODY | request)
    assert status == 200, body
    return dict(body)


def models(server: ModelServer) -> dict[str, Any]:
    host, port = server.url[len("http://") : -len("/v1")].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request("GET", "/v1/models")
    (card,) = json.loads(connection.getresponse().read())["data"]
    connection.close()
    return dict(card)


# ---------------------------------------------------------------- what is sampled


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (0.0, 1.0)])
def test_a_reply_is_the_backends_own_sample_to_the_bit(
    server: ModelServer, backend: TorchBackend, temperature: float, top_p: float
) -> None:
    body = ask(server, temperature=temperature, top_p=top_p, logprobs=1)
    greedy = temperature == 0.0
    (expected,) = backend.sample([Prompt(PROMPT, 5)], SamplingParams(12, 1.0 if greedy else temperature, top_p, greedy))
    (choice,) = body["choices"]
    assert (choice["token_ids"], choice["token_logprobs"]) == (expected.tokens.tolist(), expected.logprobs.tolist())
    assert (body["prompt_token_ids"], choice["weight_version"]) == (PROMPT, "0")
    assert choice["text"] == backend.renderer.decode(choice["token_ids"])
    assert (choice["finish_reason"], choice["stop_reason"]) == (
        ("stop", expected.tokens[-1]) if expected.stopped else ("length", None)
    )
    assert choice["logprobs"]["token_logprobs"] == choice["token_logprobs"]
    assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["text_offset"]) == len(choice["token_ids"])
    assert body["usage"]["total_tokens"] == len(PROMPT) + len(choice["token_ids"])


def test_log_probabilities_are_those_of_scoring_the_tokens(server: ModelServer, backend: TorchBackend) -> None:
    for choice in ask(server, n=5, max_tokens=30)["choices"]:
        tokens = np.array(PROMPT + choice["token_ids"])
        mask = np.arange(len(tokens)) >= len(PROMPT)
        (scores,) = backend.score([TokenSequence(tokens, mask, np.zeros(len(tokens)), np.zeros(len(tokens), np.int64))])
        np.testing.assert_allclose(choice["token_logprobs"], scores.logprobs[mask], atol=1e-12)


def test_every_token_that_stops_is_kept_with_its_log_probability(server: ModelServer, backend: TorchBackend) -> None:
    choices = ask(server, n=64, max_tokens=40)["choices"]
    ends = {choice["finish_reason"] for choice in choices}
    assert ends == {"stop", "length"}
    for choice in choices:
        stopped = choice["token_ids"][-1] in backend.renderer.stop_ids
        assert stopped == (choice["finish_reason"] == "stop")
        assert len(choice["token_logprobs"]) == len(choice["token_ids"]) <= 40


def test_further_stop_tokens_cut_what_would_have_been_sampled_anyway(server: ModelServer) -> None:
    whole = ask(server)["choices"][0]
    stop = whole["token_ids"][4]
    cut = ask(server, stop_token_ids=[stop])["choices"][0]
    place = whole["token_ids"].index(stop) + 1
    assert cut["token_ids"] == whole["token_ids"][:place]
    assert cut["token_logprobs"] == whole["token_logprobs"][:place]
    assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", stop)
    assert whole["text"].startswith(cut["text"])


def test_a_stop_text_cuts_before_it(server: ModelServer, backend: TorchBackend) -> None:
    whole = ask(server, max_tokens=40)["choices"][0]
    stop = whole["text"].strip().split()[1] if " " in whole["text"].strip() else whole["text"][2:3]
    cut = ask(server, max_tokens=40, stop=stop)["choices"][0]
    assert cut["text"] == whole["text"].partition(stop)[0]
    assert backend.renderer.decode(cut["token_ids"]) == cut["text"][: len(backend.renderer.decode(cut["token_ids"]))]
    assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", None)


def test_seeds_are_honoured_and_without_one_chance_decides(server: ModelServer) -> None:
    first, again, other = (ask(server, seed=seed, max_tokens=30)["choices"][0]["token_ids"] for seed in (1, 1, 2))
    assert first == again != other
    drawn = {tuple(ask(server, seed=None, max_tokens=30)["choices"][0]["token_ids"]) for _ in range(3)}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": "words"}, "prompt"),
        ({"prompt": [1, -1]}, "prompt.1"),
        ({"prompt": [1, 10**9]}, "prompt"),
        ({"prompt": [1, True]}, "prompt.1"),
        ({"prompt": [1, 2.0]}, "prompt.1"),
        ({"prompt": [3] * 5000}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt.0"),
        ({"stop_token_ids": [10**9]}, "prompt"),
        ({"messages": []}, "messages"),
        ({"stream": True}, "stream"),
        ({"logprobs": 5}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"model": "other"}, "model"),
    ],
)
def test_mistakes_of_the_client(server: ModelServer, wrong: dict[str, Any], param: str) -> None:
    status, body = post(server, "completions", BODY | wrong)
    assert (400 <= status < 500, body["error"]["param"]) == (True, param)


def test_the_models_card_says_what_a_trainer_must_know(server: ModelServer, backend: TorchBackend) -> None:
    card = models(server)
    assert (card["max_model_len"], card["weight_version"]) == (backend.window, "0")
    assert card["stop_token_ids"] == list(backend.renderer.stop_ids)
    assert card["vocabulary_hash"] == vocabulary_hash(backend.renderer.tokenizer.get_vocab())


# ---------------------------------------------------------------- other weights


def test_other_weights_sample_what_they_sample_and_say_so(tiny_directory: Path, others: Path) -> None:
    with served(tiny_directory, loaded=tiny_directory) as server:
        before = ask(server)["choices"][0]
        assert post(server, "weights", {"path": str(others)}) == (200, {"weight_version": "1"})
        after = ask(server)["choices"][0]
        (expected,) = TorchBackend(others, dtype="float64", device="cpu").sample(
            [Prompt(PROMPT, 5)], SamplingParams(12)
        )
        assert (after["token_ids"], after["token_logprobs"]) == (expected.tokens.tolist(), expected.logprobs.tolist())
        assert (before["weight_version"], after["weight_version"], models(server)["weight_version"]) == ("0", "1", "1")
        assert post(server, "weights", {"path": str(tiny_directory), "weight_version": "step 7"})[0] == 200
        assert ask(server)["choices"][0] == before | {"weight_version": "step 7"}
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "3"}], "max_tokens": 2}
        assert post(server, "chat/completions", chat)[1]["choices"][0]["weight_version"] == "step 7"


class Slow(TorchBackend):
    """Loads other weights in the middle of a request of many batches."""

    loads: list[Path]

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        if self.loads:
            server_of[id(self)].batcher.load(self.loads.pop(), "new")
        return super().sample(prompts, params)


server_of: dict[int, ModelServer] = {}


def test_no_completion_mixes_two_weights(tiny_directory: Path, others: Path) -> None:
    backend = Slow(tiny_directory, dtype="float64", device="cpu")
    backend.loads = [others]
    with ModelServer(backend, "tiny", batch=8, loaded=tiny_directory) as server:
        server_of[id(backend)] = server
        choices = ask(server, n=24)["choices"]
    # the load was asked for while the first batch of eight was under way
    assert [choice["weight_version"] for choice in choices] == ["0"] * 8 + ["new"] * 16
    for version, directory in (("0", tiny_directory), ("new", others)):
        alone = TorchBackend(directory, dtype="float64", device="cpu")
        for choice in (choice for choice in choices if choice["weight_version"] == version):
            tokens = np.array(PROMPT + choice["token_ids"])
            mask = np.arange(len(tokens)) >= len(PROMPT)
            sequence = TokenSequence(tokens, mask, np.zeros(len(tokens)), np.zeros(len(tokens), np.int64))
            np.testing.assert_allclose(choice["token_logprobs"], alone.score([sequence])[0].logprobs[mask], atol=1e-12)


def damaged(others: Path, how: str) -> Path:
    if how == "half the weights":
        weights = others / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif how == "another shape":
        config = json.loads((others / "config.json").read_text())
        (others / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    elif how == "another tokenizer":
        text = json.loads((others / "tokenizer.json").read_text())
        known = text["model"]["vocab"]
        one, two = sorted(known)[:2]
        known[one], known[two] = known[two], known[one]
        (others / "tokenizer.json").write_text(json.dumps(text))
    elif how == "nothing there":
        shutil.rmtree(others)
    elif how == "no config":
        (others / "config.json").unlink()
    return others


@pytest.mark.parametrize(
    "how", ["half the weights", "another shape", "another tokenizer", "nothing there", "no config"]
)
def test_weights_that_do_not_fit_are_refused_and_the_old_ones_stay(
    tiny_directory: Path, others: Path, how: str
) -> None:
    with served(tiny_directory, loaded=tiny_directory) as server:
        before = ask(server)["choices"]
        status, body = post(server, "weights", {"path": str(damaged(others, how))})
        assert (status, body["error"]["param"]) == (400, "path")
        assert ask(server)["choices"] == before


def test_where_going_back_fails_too_nothing_is_sampled(tiny_directory: Path, others: Path) -> None:
    with served(tiny_directory) as server:  # it is not known where its weights came from
        assert post(server, "weights", {"path": str(damaged(others, "half the weights"))})[0] == 400
        status, body = post(server, "completions", BODY)
        assert (status, "weights are lost" in body["error"]["message"]) == (500, True)
        assert post(server, "weights", {"path": str(tiny_directory)})[0] == 200
        assert ask(server)["choices"][0]["token_ids"]


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Via": "1.1 x"},
                                     {"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}])  # fmt: skip
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_weights_are_changed_from_this_machine_alone(
    tiny_directory: Path, others: Path, headers: dict[str, str], host: str
) -> None:
    with served(tiny_directory, host=host) as server:
        status, body = post(server, "weights", {"path": str(others)}, headers)
        assert (status, models(server)["weight_version"]) == (403, "0")
        assert "this machine alone" in body["error"]["message"]
        assert post(server, "weights", {"path": str(others)}, {"Host": "localhost"})[0] == 200


def test_completions_go_on_while_weights_come_and_go(tiny_directory: Path, others: Path) -> None:
    with served(tiny_directory, loaded=tiny_directory) as server, ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(ask, server, seed=seed) for seed in range(12)]
        for path in (others, tiny_directory, others):
            assert post(server, "weights", {"path": str(path)})[0] == 200
        versions = {choice["weight_version"] for each in asked for choice in each.result()["choices"]}
    assert versions <= {"0", "1", "2", "3"}


def test_a_vocabulary_is_read_from_its_file_as_the_tokenizer_has_it(tiny_directory: Path, tmp_path: Path) -> None:
    tokenizer = TorchBackend(tiny_directory, device="cpu").tokenizer
    assert vocabulary_in(tiny_directory) == tokenizer.get_vocab()
    assert vocabulary_hash({"a": 0, "b": 1}) == vocabulary_hash({"b": 1, "a": 0}) != vocabulary_hash({"a": 1, "b": 0})
    unigram = {"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": [{"content": "<e>", "id": 2}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(unigram))
    assert vocabulary_in(tmp_path) == {"a": 0, "b": 1, "<e>": 2}
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    assert vocabulary_in(tmp_path) is None
