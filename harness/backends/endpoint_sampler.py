"""Completions sampled at an OpenAI-compatible server that takes and returns token ids (`harness serve`, vLLM with
`return_token_ids`), for training elsewhere.

    sampler = EndpointSampler(Endpoint("policy", base_url=...), renderer, window=4096, temperature=1.0)
    sampler.probe(backend)                       # refused by name, or believed
    sampler.sample(prompts, SamplingParams(128)) # as a backend's own `sample`
    sampler.sync(checkpoint, "step 8", backend)  # other weights, looked at again

Off-policy by mistake is the commonest fault of such a pair, and nobody notices it: runs exit 0. So whatever a trainer
relies on is asked of the server before it is believed (`LACKS`), and of every reply again where a reply can tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from harness.core.errors import UserError
from harness.core.types import Scores, TokenSequence
from harness.core.vocabulary import vocabulary_hash
from harness.endpoint import Endpoint, EndpointCallError
from harness.protocols.backend import Completion, ConversationRenderer, Prompt, SamplingParams

Lack = Literal[
    "token ids",
    "log-probabilities",
    "processed log-probabilities",
    "stop tokens",
    "the prompt as it is",
    "weight version",
    "fresh weights",
    "the same policy",
    "the same tokenizer",
    "the same window",
]
"""What a server can lack: ids of what it sampled; a log-probability of each; those at the temperature it sampled at
(raw ones are at 1); the token that ended a completion; a prompt that nothing was added to; a version of its weights in
every reply; the weights it was told to load; the trainer's weights at all; its tokenizer; room for as long a
conversation."""
LACKS: tuple[Lack, ...] = get_args(Lack)
TOLERANCE = 0.05
"""Nats by which a server's log-probability of a token may differ from the trainer's: kernels and bfloat16 differ by
less, another temperature or other weights by more on some token of a probe."""
PROBES = ("What is 3 + 5?", "Name a colour.", "Go on: one, two,")
PROBE_TOKENS = 16
LIKELY = 32
"""Stop tokens of the probe for them: the likeliest first tokens, so that the likeliest of all must end it."""


class UnfitSamplerError(UserError):
    """A server whose completions cannot be trained on; `lack` is what it lacks. It may still be evaluated."""

    def __init__(self, lack: Lack, seen: str) -> None:
        super().__init__(f"cannot train on what this endpoint samples: it lacks {lack}; {seen}")
        self.lack = lack


@runtime_checkable
class Judge(Protocol):
    """The trainer, as far as a sampler is compared with it: a backend is one."""

    vocabulary: int

    def score(self, sequences: Sequence[TokenSequence], *, top_k: int | None = None) -> list[Scores]:
        """Log-probabilities under the current weights, at the sampler's temperature."""
        ...


@dataclass(frozen=True, eq=False)
class _Drawn:
    completion: Completion
    text: str | None


class EndpointSampler:
    """Samples with the trainer's tokens at a server that has the trainer's weights. Safe to share between threads.

    window: most tokens of a conversation. temperature: the trainer's. concurrency: requests under way at once.
    staleness: how many loads ago the weights of a completion may be; 0 wants the latest.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        renderer: ConversationRenderer,
        window: int,
        temperature: float = 1.0,
        *,
        concurrency: int = 16,
        staleness: int = 0,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.renderer, self.window = renderer, window
        self._endpoint, self._temperature = endpoint, temperature
        self._concurrency, self._staleness, self._tolerance = concurrency, staleness, tolerance
        self._versions: list[str] = []
        self._probed: list[Completion] = []

    # Sampling

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """One completion per prompt, in order, asked for at the same time. UserError for a top-p below 1 (servers
        differ in what the log-probabilities then are of) and for another temperature than the trainer's;
        UnfitSamplerError where a reply lacks something."""
        if params.top_p != 1:
            raise UserError(f"an endpoint is sampled for training at top_p 1 alone, got {params.top_p}")
        if params.temperature != self._temperature:
            raise UserError(f"this sampler was probed at temperature {self._temperature}, got {params.temperature}")
        if len(prompts) < 2:
            return [self._draw(prompt, params.max_new_tokens, params.greedy).completion for prompt in prompts]
        with ThreadPoolExecutor(min(self._concurrency, len(prompts))) as threads:
            drawn = threads.map(lambda prompt: self._draw(prompt, params.max_new_tokens, params.greedy), prompts)
            return [each.completion for each in drawn]

    def sync(self, path: Path, version: str, judge: Judge | None = None) -> None:
        """Have the server load a saved model directory, which it must be able to read, under this version. Compared
        with the judge, which has the same weights, where one is given."""
        loaded = self._endpoint.ask("weights", {"path": str(path), "weight_version": version})
        if loaded.get("weight_version") != version:
            raise UnfitSamplerError("weight version", f"told to load {version!r}, it has {loaded!r:.200}")
        self._versions.append(version)
        if judge is not None:
            self._compare(judge)

    def _draw(self, prompt: Prompt, most: int, greedy: bool = False, stops: Sequence[int] = ()) -> _Drawn:
        room = self.window - len(prompt.tokens)
        limit = min(most, room, room if prompt.limit is None else prompt.limit)
        if limit < 1:
            return _Drawn(Completion(np.zeros(0, np.int64), np.zeros(0), False), None)
        request = {
            "model": self._endpoint.model,
            "prompt": list(map(int, prompt.tokens)),
            "max_tokens": limit,
            "temperature": 0.0 if greedy else self._temperature,
            "top_p": 1.0,
            "seed": prompt.seed,
            "logprobs": 1,
            "return_token_ids": True,
            "stop_token_ids": [*self.renderer.stop_ids, *stops],
        }
        return self._read(self._endpoint.ask("completions", request), request)

    def _read(self, body: Mapping[str, Any], request: Mapping[str, Any]) -> _Drawn:
        """A completion from a reply, everything in it that a trainer relies on looked at."""
        try:
            choice = body["choices"][0]
            finish, text = choice.get("finish_reason"), choice.get("text")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise EndpointCallError("garbage", f"no completion: {body!r:.200}") from None
        if finish not in ("stop", "length"):
            raise EndpointCallError("garbage", f"the completion ended for a reason nobody knows: {finish!r:.100}")
        tokens, logprobs = _ids_of(choice), _logprobs_of(choice)
        if len(tokens) != len(logprobs):
            raise UnfitSamplerError("log-probabilities", f"{len(tokens)} tokens, {len(logprobs)} log-probabilities")
        self._check_prompt(body, choice, request)
        stopped = finish == "stop"
        if stopped and not (len(tokens) and int(tokens[-1]) in request["stop_token_ids"]):
            raise UnfitSamplerError(
                "stop tokens", f"a completion that was stopped ends in {tokens[-1:].tolist()}, which stops nothing"
            )
        version = self._version_of(body, choice)
        own = stopped and int(tokens[-1]) in self.renderer.stop_ids
        return _Drawn(Completion(tokens, logprobs, own, version=version), text)

    def _check_prompt(self, body: Mapping[str, Any], choice: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        asked = request["prompt"]
        echoed = body.get("prompt_token_ids", choice.get("prompt_token_ids"))
        usage = body.get("usage")
        counted = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
        if (echoed is not None and echoed != asked) or (echoed is None and counted not in (None, len(asked))):
            raise UnfitSamplerError(
                "the prompt as it is", f"{len(asked)} tokens were sent, it read {counted if echoed is None else echoed}"
            )

    def _version_of(self, body: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
        given = choice.get("weight_version", body.get("weight_version"))
        if given is None:
            raise UnfitSamplerError("weight version", "a reply does not say which weights sampled it")
        allowed = self._versions[-1 - self._staleness :]
        if allowed and str(given) not in allowed:
            raise UnfitSamplerError("fresh weights", f"{given!r} sampled a reply, allowed: {', '.join(allowed)}")
        return str(given)

    # Looking at the server

    def probe(self, judge: Judge, version: str | None = None) -> None:
        """Ask the server for everything a trainer relies on. UnfitSamplerError names what it lacks.

        judge: the trainer, with the weights that the server should have. version: what they are called; left out,
        whatever the server calls them.
        """
        self._versions = [] if version is None else [version]
        self._check_card()
        self._compare(judge)
        self._check_stops(judge)

    def _check_card(self) -> None:
        """What the list of models says: the vocabulary and the window, where it tells them."""
        listed = self._endpoint.ask("models").get("data")
        cards = [card for card in listed if isinstance(card, Mapping)] if isinstance(listed, list) else []
        card = next((card for card in cards if card.get("id") == self._endpoint.model), {})
        own, theirs = vocabulary_hash(self.renderer.tokenizer.get_vocab()), card.get("vocabulary_hash")
        if theirs is not None and theirs != own:
            raise UnfitSamplerError("the same tokenizer", f"its vocabulary is {theirs!r:.12}, ours {own!r:.12}")
        room = card.get("max_model_len")
        if isinstance(room, int) and room < self.window:
            raise UnfitSamplerError("the same window", f"it has room for {room} tokens, {self.window} are needed")

    def _compare(self, judge: Judge) -> None:
        """Sampled log-probabilities beside the trainer's, token for token."""
        prompts = [self._opening(text, seed) for seed, text in enumerate(PROBES)]
        drawn = [self._draw(prompt, PROBE_TOKENS) for prompt in prompts]
        for each in drawn:
            own = self.renderer.decode(each.completion.tokens.tolist())
            if each.text is not None and each.text.strip() != own.strip():
                raise UnfitSamplerError("the same tokenizer", f"it reads {each.text!r:.60} where we read {own!r:.60}")
        before, self._probed = self._probed, [each.completion for each in drawn]
        self._versions = self._versions or [str(self._probed[0].version)]
        sequences = [_sequence(p.tokens, c) for p, c in zip(prompts, self._probed, strict=True)]
        theirs = np.concatenate([completion.logprobs for completion in self._probed])
        processed, raw = _expected(judge, sequences, self._temperature)
        if _furthest(theirs, processed) <= self._tolerance:
            return
        if self._temperature != 1 and _furthest(theirs, raw) <= self._tolerance:
            raise UnfitSamplerError(
                "processed log-probabilities",
                f"they are those at temperature 1, sampled is at {self._temperature}",
            )
        seen = f"a log-probability differs from the trainer's by {_furthest(theirs, processed):.3g} nats"
        if before and all(_same(one, other) for one, other in zip(before, self._probed, strict=True)):
            raise UnfitSamplerError("fresh weights", f"it samples as before {self._versions[-1]!r}; {seen}")
        raise UnfitSamplerError("the same policy", seen)

    def _check_stops(self, judge: Judge) -> None:
        """The likeliest token, which is asked to stop the completion, does and is kept."""
        prompt = self._opening(PROBES[0], 0)
        tokens = np.asarray([*prompt.tokens, 0], dtype=np.int64)
        last = np.arange(len(tokens)) == len(tokens) - 1
        (scores,) = judge.score([_blank(tokens, last)], top_k=LIKELY)
        assert scores.distribution is not None
        drawn = self._draw(prompt, 2, greedy=True, stops=scores.distribution.ids[-1].tolist()).completion
        if len(drawn.tokens) != 1:
            raise UnfitSamplerError("stop tokens", f"a completion goes on after a stop token: {drawn.tokens.tolist()}")

    def _opening(self, text: str, seed: int) -> Prompt:
        return Prompt(self.renderer.opening([{"role": "user", "content": text}]), seed)


def _ids_of(choice: Mapping[str, Any]) -> Int[np.ndarray, " new"]:
    given = choice.get("token_ids")
    if not isinstance(given, list) or any(type(token) is not int or token < 0 for token in given):
        raise UnfitSamplerError("token ids", f"a choice has {given!r:.60} as token_ids")
    return np.asarray(given, dtype=np.int64)


def _logprobs_of(choice: Mapping[str, Any]) -> Float[np.ndarray, " new"]:
    """Under the name that `harness serve` uses, or in OpenAI's object."""
    listed = choice.get("logprobs")
    given = choice.get("token_logprobs", listed.get("token_logprobs") if isinstance(listed, Mapping) else None)
    if not isinstance(given, list) or any(type(entry) not in (int, float) for entry in given):
        raise UnfitSamplerError("log-probabilities", f"a choice has {given!r:.60}")
    found = np.asarray(given, dtype=np.float64)
    if not np.isfinite(found).all() or (found > 1e-6).any():
        raise UnfitSamplerError("log-probabilities", "one is outside (-inf, 0]")
    return found


def _blank(tokens: np.ndarray, mask: np.ndarray) -> TokenSequence:
    return TokenSequence(tokens, mask, np.zeros(len(tokens)), np.zeros(len(tokens), np.int64))


def _sequence(prompt: Sequence[int], completion: Completion) -> TokenSequence:
    tokens = np.concatenate([np.asarray(prompt, dtype=np.int64), completion.tokens])
    return _blank(tokens, np.arange(len(tokens)) >= len(prompt))


def _expected(judge: Judge, sequences: Sequence[TokenSequence], temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The trainer's log-probabilities of all sampled tokens, at the temperature and at 1: with p ~ q^(1/T),
    log q = T log p - log sum exp(T log p)."""
    processed, raw = [], []
    for sequence, scores in zip(sequences, judge.score(sequences, top_k=judge.vocabulary), strict=True):
        assert scores.distribution is not None
        own = scores.logprobs[sequence.mask]
        scaled = temperature * scores.distribution.logprobs[sequence.mask]
        top = scaled.max(-1, initial=-math.inf)
        processed.append(own)
        raw.append(temperature * own - top - np.log(np.exp(scaled - top[:, None]).sum(-1)))
    return np.concatenate(processed), np.concatenate(raw)


def _furthest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max(initial=0.0))


def _same(one: Completion, other: Completion) -> bool:
    return np.array_equal(one.tokens, other.tokens) and np.array_equal(one.logprobs, other.logprobs)
