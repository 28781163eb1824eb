"""Sampling at a server in place of the backend: the same completions over `harness serve`, and a server that misleads
is refused by the name of what it lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_servers import Proxy, Twist, with_choice

from harness.backends import Prompt, SamplingParams
from harness.backends.endpoint_sampler import LACKS, EndpointSampler, UnfitSamplerError
from harness.backends.torch import TorchBackend
from harness.core.errors import UserError
from harness.endpoint import Endpoint, EndpointCallError
from harness.serving.server import ModelServer
from harness.types import TokenSequence

WINDOW = 96


def backend_at(directory: Path, temperature: float = 1.0) -> TorchBackend:
    return TorchBackend(directory, dtype="float64", device="cpu", temperature=temperature)


@pytest.fixture(scope="module")
def sharp(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with logits large enough that a temperature matters."""
    return scaled(tiny_directory, tmp_path_factory.mktemp("sharp") / "model", 8.0)


def scaled(directory: Path, into: Path, factor: float) -> Path:
    made = backend_at(directory)
    with torch.no_grad():
        made.model.get_input_embeddings().weight *= factor
    made.save(into)
    return into


@pytest.fixture
def server(sharp: Path) -> Iterator[ModelServer]:
    with ModelServer(backend_at(sharp), "tiny", batch=8, loaded=sharp) as started:
        yield started


@pytest.fixture
def proxy(server: ModelServer) -> Iterator[Proxy]:
    proxy = Proxy(server.url)
    yield proxy
    proxy.close()


def sampler_on(url: str, backend: TorchBackend, **options: Any) -> EndpointSampler:
    endpoint = Endpoint("tiny", base_url=url, api_key="none", attempts=1, timeout_s=60.0)
    given = {"window": WINDOW, "temperature": backend.temperature} | options
    return EndpointSampler(endpoint, backend.renderer, **given)


# ---------------------------------------------------------------- a server that can be trusted


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_over_harness_serve_the_same_tokens_as_in_the_process(
    server: ModelServer, sharp: Path, temperature: float
) -> None:
    backend = backend_at(sharp, temperature)
    sampler = sampler_on(server.url, backend)
    sampler.probe(backend)
    prompts = [Prompt(tuple(range(3, 4 + n)), seed=2**62 + n, limit=None if n % 2 else 5) for n in range(9)]
    prompts.append(Prompt(tuple([5] * (WINDOW - 3)), seed=3))  # room for three
    params = SamplingParams(20, temperature)
    for remote, local in zip(sampler.sample(prompts, params), backend.sample(prompts, params), strict=True):
        assert remote.tokens.tolist() == local.tokens.tolist()
        # another batch, another order of summation
        np.testing.assert_allclose(remote.logprobs, local.logprobs, atol=1e-12)
        assert (remote.stopped, remote.version) == (local.stopped, "0")
    (greedy,) = sampler.sample(prompts[:1], SamplingParams(6, temperature, greedy=True))
    (likeliest,) = backend.sample(prompts[:1], SamplingParams(6, temperature, greedy=True))
    assert greedy.tokens.tolist() == likeliest.tokens.tolist()


def test_after_a_sync_it_samples_with_the_new_weights(server: ModelServer, sharp: Path, tmp_path: Path) -> None:
    sampler = sampler_on(server.url, backend_at(sharp))
    sampler.probe(backend_at(sharp), version="0")
    moved = backend_at(scaled(sharp, tmp_path / "moved", -1.0))
    sampler.sync(tmp_path / "moved", "step 1", moved)
    (remote,) = sampler.sample([Prompt((3, 4, 5), 7)], SamplingParams(9))
    (local,) = moved.sample([Prompt((3, 4, 5), 7)], SamplingParams(9))
    assert (remote.tokens.tolist(), remote.version) == (local.tokens.tolist(), "step 1")


def test_a_completion_of_one_load_ago_is_taken_where_that_is_allowed(proxy: Proxy, sharp: Path, tmp_path: Path) -> None:
    backend, prompt = backend_at(sharp), [Prompt((3, 4), 1)]
    scaled(sharp, tmp_path / "moved", -1.0)
    for staleness in (0, 1):
        sampler = sampler_on(proxy.url, backend, staleness=staleness)
        sampler.sync(sharp, "a")
        sampler.probe(backend, version="a")
        sampler.sync(tmp_path / "moved", "b")
        proxy.reply = with_choice(weight_version="a")  # under way while the new ones were loaded
        if staleness:
            assert sampler.sample(prompt, SamplingParams(3))[0].version == "a"
            sampler.sync(sharp, "c")  # "a" is two loads ago now
        with pytest.raises(UnfitSamplerError, match="fresh weights"):
            sampler.sample(prompt, SamplingParams(3))
        proxy.reply = lambda body: body


def test_what_a_trainer_cannot_use_is_not_asked_for(server: ModelServer, sharp: Path) -> None:
    sampler = sampler_on(server.url, backend_at(sharp))
    for params, said in ((SamplingParams(3, top_p=0.9), "top_p 1"), (SamplingParams(3, 0.5), "temperature")):
        with pytest.raises(UserError, match=said):
            sampler.sample([Prompt((1, 2))], params)


# ---------------------------------------------------------------- servers that mislead


def changed(change: Callable[[dict[str, Any]], None]) -> Twist:
    def twist(body: dict[str, Any]) -> dict[str, Any]:
        change(body["choices"][0])
        return body

    return twist


def drop_stop(choice: dict[str, Any]) -> None:
    if choice["finish_reason"] == "stop":
        choice["token_ids"], choice["token_logprobs"] = choice["token_ids"][:-1], choice["token_logprobs"][:-1]


def drop_one(choice: dict[str, Any]) -> None:
    choice["token_logprobs"] = choice["token_logprobs"][1:]


REPLIES: dict[str, tuple[Twist, str]] = {
    "text alone": (with_choice(token_ids=None), "token ids"),
    "ids as text": (with_choice(token_ids=["1", "2"]), "token ids"),
    "no log-probabilities": (with_choice(token_logprobs=None, logprobs=None), "log-probabilities"),
    "one log-probability too few": (changed(drop_one), "log-probabilities"),
    "probabilities": (changed(lambda c: c.update(token_logprobs=[0.5] * len(c["token_ids"]))), "log-probabilities"),
    "NaN": (changed(lambda c: c.update(token_logprobs=[math.nan] * len(c["token_ids"]))), "log-probabilities"),
    "stop tokens dropped": (changed(drop_stop), "stop tokens"),
    "no version": (with_choice(weight_version=None), "weight version"),
    "another version": (with_choice(weight_version="yesterday"), "fresh weights"),
    "a token in front": (
        lambda body: body | {"prompt_token_ids": [0, *body["prompt_token_ids"]]},
        "the prompt as it is",
    ),
    "a longer count": (
        lambda body: {k: v for k, v in body.items() if k != "prompt_token_ids"} | {"usage": {"prompt_tokens": 99}},
        "the prompt as it is",
    ),
    "another text for its ids": (changed(lambda c: c.update(text="something else")), "the same tokenizer"),
    "noise": (changed(lambda c: c.update(token_logprobs=[x - 0.3 for x in c["token_logprobs"]])), "the same policy"),
}
CARDS: dict[str, tuple[Twist, str]] = {
    "another tokenizer": (
        lambda body: {"data": [body["data"][0] | {"vocabulary_hash": "0" * 64}]},
        "the same tokenizer",
    ),
    "a smaller window": (lambda body: {"data": [body["data"][0] | {"max_model_len": WINDOW - 1}]}, "the same window"),
}
REQUESTS: dict[str, tuple[Twist, str]] = {
    "stop tokens not heard": (lambda body: body | {"stop_token_ids": []}, "stop tokens"),
    "another temperature": (lambda body: body | {"temperature": 0.2}, "the same policy"),
    "another prompt": (lambda body: body | {"prompt": body["prompt"][1:]}, "the prompt as it is"),
}
CASES = [
    (place, name, cases[name][1])
    for place, cases in (("reply", REPLIES), ("card", CARDS), ("request", REQUESTS))
    for name in cases
]


@pytest.mark.parametrize(("place", "name", "lack"), CASES)
def test_a_server_that_misleads_is_refused_by_name(proxy: Proxy, sharp: Path, place: str, name: str, lack: str) -> None:
    backend = backend_at(sharp)
    setattr(proxy, place, {"reply": REPLIES, "card": CARDS, "request": REQUESTS}[place][name][0])
    with pytest.raises(UnfitSamplerError, match=f"lacks {lack};") as caught:
        sampler_on(proxy.url, backend).probe(backend, version="0")
    assert caught.value.lack == lack


def test_raw_log_probabilities_are_refused_by_name(proxy: Proxy, sharp: Path) -> None:
    backend, plain = backend_at(sharp, 0.5), backend_at(sharp)

    def raw(body: dict[str, Any]) -> dict[str, Any]:
        tokens = np.array(body["prompt_token_ids"] + body["choices"][0]["token_ids"])
        mask = np.arange(len(tokens)) >= len(body["prompt_token_ids"])
        (scores,) = plain.score([TokenSequence(tokens, mask, np.zeros(len(tokens)), np.zeros(len(tokens), np.int64))])
        return with_choice(token_logprobs=scores.logprobs[mask].tolist())(body)

    sampler_on(proxy.url, backend).probe(backend)
    proxy.reply = raw
    with pytest.raises(UnfitSamplerError, match="lacks processed log-probabilities"):
        sampler_on(proxy.url, backend).probe(backend)
    sampler_on(proxy.url, plain).probe(plain)  # at temperature 1 they are the same


def test_a_load_that_is_acknowledged_and_forgotten_is_found(proxy: Proxy, sharp: Path, tmp_path: Path) -> None:
    backend = backend_at(sharp)
    moved = backend_at(scaled(sharp, tmp_path / "moved", -1.0))
    sampler = sampler_on(proxy.url, backend)
    sampler.probe(backend)
    proxy.weights = lambda body: None  # type: ignore[assignment, return-value]
    proxy.reply = with_choice(weight_version="step 1")
    with pytest.raises(UnfitSamplerError, match="lacks fresh weights; it samples as before"):
        sampler.sync(tmp_path / "moved", "step 1", moved)


def test_a_server_that_loads_something_else_says_so(proxy: Proxy, sharp: Path, tmp_path: Path) -> None:
    sampler = sampler_on(proxy.url, backend_at(sharp))
    proxy.weights = lambda body: {"weight_version": "other"}
    with pytest.raises(UnfitSamplerError, match="lacks weight version"):
        sampler.sync(sharp, "mine")
    with pytest.raises(EndpointCallError, match="no model directory"):
        sampler.sync(tmp_path / "nowhere", "mine")


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [7]}, {"choices": [{"finish_reason": "odd"}]}])
def test_what_is_no_completion_is_garbage(proxy: Proxy, sharp: Path, body: dict[str, Any]) -> None:
    proxy.reply = lambda _: body
    with pytest.raises(EndpointCallError, match="garbage"):
        sampler_on(proxy.url, backend_at(sharp)).sample([Prompt((1, 2))], SamplingParams(3))


def test_every_lack_has_a_server_that_has_it() -> None:
    elsewhere = {"processed log-probabilities"}
    assert {lack for _, _, lack in CASES} | elsewhere == set(LACKS)
