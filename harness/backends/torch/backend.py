"""The torch backend: one process, one device (CPU or GPU), float32 or bfloat16 with float32 master weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from harness.backends.torch.check_model import assure
from harness.backends.torch.forward import LlamaForward
from harness.backends.torch.generic import generic_forward, window_of
from harness.backends.torch.heads import CHUNK_MIB, Heads, Reading, of_entries, of_labels, of_likeliest, of_support
from harness.backends.torch.lora import Adapter, Lora
from harness.backends.torch.models import load_model, pick_device, stop_ids
from harness.backends.torch.optimiser import Optimiser
from harness.backends.torch.processes import PATIENCE_S
from harness.backends.torch.recompute import recompute_layers_of
from harness.backends.torch.rows import Rows, micro_batches
from harness.backends.torch.sampler import Sampler
from harness.backends.torch.snapshots import Followed, Snapshots
from harness.core.types import Scores, TokenSequence, TopK
from harness.experiment import OptimiserSettings
from harness.losses import Batch, LossSpec, policy_loss
from harness.protocols.backend import (
    Backend,
    BackendSettings,
    Completion,
    Prompt,
    SamplingParams,
    Snapshot,
    Start,
    Weights,
    check_snapshot,
    check_weights,
)
from harness.rollout.rendering import Renderer

TRAINER_STATE = "trainer_state.pt"


class TorchBackend(Backend):
    """Samples, scores and trains one causal language model (`harness.protocols.backend.Backend`).

    directory: a Hugging Face model directory; its weights are the *initial* policy. steps: optimiser steps the
    schedule is laid out for.
    temperature: divides all logits, of the loss too.

    Options that change memory, never the result beyond rounding: chunk_mib, the size of the largest array of
    log-probabilities (see `heads`); recompute_layers, to keep one hidden state of a layer and not all that its gradient
    needs, for a third more time. Two that change what is learnt: states_8bit, the optimiser's states in 8 bit
    (Dettmers et al. 2021, 2110.02861); lora, an adapter in place of all weights (see `lora`), drawn from `seed`.

    Of `from_start` alone: processes, in how many updates are computed (see `ranks`); shard, whether each of them holds
    a part of the weights and of what training needs instead of all of it (see `sharded`); patience_s, how many seconds
    one waits for another within a step.
    """

    version: int = 0
    without_effect: ClassVar[frozenset[str]] = frozenset({"processes", "shard", "patience_s"})

    def __init__(
        self,
        directory: Path | str,
        optimiser: OptimiserSettings | None = None,
        steps: int = 1,
        temperature: float = 1.0,
        dtype: str = "float32",
        device: str = "auto",
        chunk_mib: float = CHUNK_MIB,
        recompute_layers: bool = False,
        states_8bit: bool = False,
        lora: Lora | None = None,
        seed: int = 0,
    ) -> None:
        self.initial_directory = Path(directory)
        self.device, self.dtype = pick_device(device), dtype
        self.model, self.tokenizer = load_model(directory, dtype, self.device)
        self.temperature = temperature
        self.renderer = Renderer(self.tokenizer, stop_ids(self.model, self.tokenizer))
        self.window = window_of(self.model.config)
        self.vocabulary: int = self.model.config.get_text_config(decoder=True).vocab_size
        self.settings = optimiser
        self.steps = steps
        self._forward = _forward_of(self.model, recompute_layers)
        self._adapter = self._adapted(lora, seed) if lora else None
        self._optimiser = Optimiser(self.model, optimiser, steps, states_8bit) if optimiser else None
        self._heads = Heads(self.vocabulary, chunk_mib)
        self._sampler = Sampler(self._forward, self.renderer.stop_ids)
        self._snapshots = Snapshots(self._pristine)
        self._initial: Any = None

    @classmethod
    def from_start(
        cls,
        start: Start,
        settings: BackendSettings,
        chunk_mib: float = CHUNK_MIB,
        recompute_layers: bool = False,
        states_8bit: bool = False,
        lora: Lora | None = None,
        processes: int = 1,
        shard: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> TorchBackend:
        """The policy of a start, on one device or several; see `harness.protocols.backend.Backend.from_start`.
        UserError for options that do not go together."""
        if processes != 1 or shard:
            from harness.backends.torch.ranks import Options, several

            shared = (chunk_mib, recompute_layers, states_8bit, lora)
            return several(start, settings, Options(*shared, processes, shard, patience_s))
        return cls(
            start.directory,
            settings.optimiser,
            settings.steps,
            settings.temperature,
            settings.dtype,
            settings.device,
            chunk_mib,
            recompute_layers,
            states_8bit,
            lora,
            settings.seed,
        )

    def _adapted(self, lora: Lora, seed: int) -> Adapter:
        adapter = Adapter(self.model, lora, seed)
        if isinstance(self._forward, LlamaForward):
            self._forward.fuse = False  # which reads weights beside the layers that call the adapter
        return adapter

    def assure(self, checkpoint_hash: str = "") -> None:
        """UserError, with what differs and what to do, unless this model can be believed: it is sampled as its plain
        forward pass says, and its chat template does what rendering relies on. Looked into once for a checkpoint."""
        assure(self, checkpoint_hash)

    # Sampling

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """Completions of token prompts. A prompt with a key keeps its cache for the turn that extends it, until
        `release`."""
        for prompt in prompts:
            if len(prompt.tokens) >= self.window:
                raise ValueError(f"a prompt of {len(prompt.tokens)} tokens leaves no room in a window of {self.window}")
        room = [self.window - len(prompt.tokens) for prompt in prompts]
        limited = [
            Prompt(p.tokens, p.seed, space if p.limit is None else min(p.limit, space), p.key)
            for p, space in zip(prompts, room, strict=True)
        ]
        return [replace(done, version=self.version) for done in self._sampler.sample(limited, params)]

    def release(self) -> None:
        """Drop the caches of unfinished conversations."""
        self._sampler.release()

    # Scoring

    @torch.no_grad()
    def score(
        self,
        sequences: Sequence[TokenSequence],
        policy: Weights = "current",
        top_k: int | None = None,
        ids: Sequence[Int[np.ndarray, "_ _"]] | None = None,
        contexts: Sequence[Sequence[int]] | None = None,
    ) -> list[Scores]:
        """Log-probabilities of the sampled tokens, and a distribution where `top_k` or `ids` ask for one (see
        `Backend.score`)."""
        fronts = (
            [np.asarray(c, dtype=np.int64) for c in contexts] if contexts else [np.zeros(0, np.int64)] * len(sequences)
        )
        rows = [np.concatenate([front, s.tokens]) for front, s in zip(fronts, sequences, strict=True)]
        starts = [len(front) + _first_sampled(s) for front, s in zip(fronts, sequences, strict=True)]
        out: list[Scores | None] = [None] * len(sequences)
        k = ids[0].shape[1] if ids else top_k
        with self._under(policy) as forward:
            for part in self._parts(rows, starts, forward):
                hidden = part.hidden(forward)
                for line, index in enumerate(part.index):
                    sequence, places = sequences[index], np.flatnonzero(sequences[index].mask)
                    columns = torch.from_numpy(places + len(fronts[index]) - 1 - part.starts[line]).to(self.device)
                    labels = torch.from_numpy(sequence.tokens[places]).to(self.device)
                    given = () if ids is None else (torch.from_numpy(ids[index][places]).to(self.device),)
                    reading = _reading(k, ids is not None)
                    read = self._heads.read(forward, hidden[line, columns], self.temperature, reading, labels, *given)
                    out[index] = _scores(sequence, places, *read)
        return [score for score in out if score is not None]

    @contextmanager
    def _under(self, policy: Weights) -> Iterator[Any]:
        """The forward pass of these weights; a model that nobody asks for is never made."""
        check_weights(policy)
        if policy == "current":
            yield self._forward
        elif self._adapter is not None:
            with (
                self._adapter.off() if policy == "initial" else self._adapter.holding(self._snapshots[policy].averages)
            ):
                yield self._forward
        elif policy == "initial":
            self._initial = self._initial or self._initial_forward()
            yield self._initial
        else:
            yield self._snapshots[policy].forward

    def _pristine(self) -> Followed:
        """The initial weights: an adapter's, or those of a model of its own."""
        if self._adapter is not None:
            return Followed([value.clone() for value in self._adapter.first])
        forward = self._initial_forward()
        return Followed(list(forward.model.parameters()), forward)

    def _initial_forward(self) -> Any:
        model, _ = load_model(self.initial_directory, self.dtype, self.device)
        return _forward_of(model.requires_grad_(False))

    def _parts(self, rows: Sequence[np.ndarray], starts: Sequence[int], forward: Any) -> Iterator[Rows]:
        limit = self.settings.micro_tokens if self.settings else OptimiserSettings(lr=1e-3).micro_tokens
        return micro_batches(rows, starts, limit, forward.shares_prompts, self.device)

    # Training

    def update(self, batch: Batch, loss: LossSpec, per_term: bool = False) -> dict[str, float]:
        """One optimiser step on a whole step's batch, in micro-batches that add up to exactly its loss.

        per_term: also the gradient norm of each term alone (`gradient/<term>`), at one more backward pass per term.
        """
        if self._optimiser is None:
            raise ValueError("this backend was made without optimiser settings: it samples and scores only")
        self.release()
        metrics: dict[str, float] = {}
        gradients: dict[str, list[Tensor | None]] = {}
        self._optimiser.zero()
        for logprobs, support, part in self.differentiable(batch):
            out = policy_loss(logprobs, part, loss, support)
            if per_term and len(out.terms) > 1:
                self._add_term_gradients(out.terms, gradients)
            out.total.backward()  # type: ignore[no-untyped-call]
            for name, value in (out.terms | {"total": out.total}).items():
                metrics[f"loss/{name}"] = metrics.get(f"loss/{name}", 0.0) + float(value.detach())
            _add_ratios(metrics, logprobs.detach(), part, loss)
        metrics |= {f"gradient/{name}": _norm(parts) for name, parts in gradients.items()}
        metrics |= self._optimiser.step()
        self.version += 1
        return metrics

    def differentiable(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor | None, Batch]]:
        """The batch in micro-batches, each with the current policy's log-probabilities of its labels (and of its
        distillation support)."""
        tokens, lengths = batch.tokens.numpy(), batch.lengths.tolist()
        rows = [tokens[row, :length] for row, length in enumerate(lengths)]
        wide = torch.float64 if self.dtype == "float64" else torch.float32
        for part in self._parts(rows, batch.prompts.tolist(), self._forward):
            cut = batch.rows(part.index).to(self.device, wide)
            row, column = cut.mask.nonzero(as_tuple=True)
            offsets = torch.tensor(part.starts, device=self.device)
            given = [cut.tokens[row, column + 1]]
            if cut.distillation is not None:
                given.append(cut.distillation.ids[row, column])
            reading = of_labels if cut.distillation is None else of_support
            chosen, *at = self._read(part, (row, column - offsets[row]), reading, *given)
            logprobs = chosen.new_zeros(cut.mask.shape).index_put((row, column), chosen)
            support = [x.new_zeros((*cut.mask.shape, x.shape[-1])).index_put((row, column), x) for x in at]
            yield logprobs, support[0] if support else None, cut

    def _read(self, part: Rows, places: tuple[Tensor, Tensor], reading: Reading, *given: Tensor) -> list[Tensor]:
        """The reading of rows at these places of their hidden states, differentiable."""
        hidden = part.hidden(self._forward)[places]
        return self._heads.read(self._forward, hidden, self.temperature, reading, *given)

    def _add_term_gradients(self, terms: dict[str, Tensor], into: dict[str, list[Tensor | None]]) -> None:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for name, term in terms.items():
            fresh = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            before = into.get(name, [None] * len(parameters))
            into[name] = [_sum(a, b) for a, b in zip(before, fresh, strict=True)]

    def track(self, name: Snapshot, decay: float = 0.0) -> None:
        """Move a snapshot towards the current weights (see `Backend.track`): the optimiser's float32 copies where there
        are any, so that an average sees steps that bfloat16 has not."""
        check_snapshot(name, decay)
        trained = self.model.parameters() if self._adapter is None else self._adapter.parameters
        masters = self._optimiser.masters if self._optimiser else list(trained)
        self._snapshots[name].follow(masters, decay)

    # Persistence

    def save(self, path: Path | str) -> None:
        """A model directory that opens in any tool, and beside it the snapshots and the optimiser's state."""
        self.save_policy(path)
        self._snapshots.save(Path(path))
        if self._optimiser is not None:
            torch.save(self._optimiser.state(), Path(path) / TRAINER_STATE)

    def save_policy(self, path: Path | str) -> None:
        """The model directory alone: all that sampling needs."""
        if self._adapter is None:
            self.model.save_pretrained(path)
        else:
            self._adapter.save(Path(path), self._initial_model)
        self.tokenizer.save_pretrained(path)

    def load(self, path: Path | str) -> None:
        """Weights, snapshots and optimiser state of a saved directory; the initial policy stays the one this backend
        was made from."""
        if self._adapter is None:
            model, _ = load_model(path, self.dtype, self.device)
            self.model.load_state_dict(model.state_dict())
        else:
            self._adapter.load(Path(path))
        self._snapshots.load(Path(path))
        self.release()
        state = Path(path) / TRAINER_STATE
        if self._optimiser is not None and state.is_file():
            self._optimiser.restore(torch.load(state, map_location=self.device, weights_only=True))
        self.version += 1

    def _initial_model(self) -> Any:
        return load_model(self.initial_directory, self.dtype, torch.device("cpu"))[0]


def _forward_of(model: Any, recompute: bool = False) -> Any:
    if LlamaForward.supports(model):
        return LlamaForward(model, recompute)
    forward = generic_forward(model)
    if recompute:
        recompute_layers_of(model)
    return forward


def _first_sampled(sequence: TokenSequence) -> int:
    return int(np.argmax(sequence.mask)) if sequence.mask.any() else len(sequence)


def _reading(k: int | None, given: bool) -> Reading:
    """What `score` wants of a distribution beside the label's entry: nothing, given entries, or the likeliest."""
    if k is None:
        return of_labels
    return of_entries if given else partial(of_likeliest, k=k)


def _scores(
    sequence: TokenSequence, places: np.ndarray, own: Tensor, ids: Tensor | None = None, at: Tensor | None = None
) -> Scores:
    """One episode's scores from what was read at its sampled tokens, laid out over all its tokens."""
    logprobs = np.zeros(len(sequence))
    logprobs[places] = own.double().cpu().numpy()
    if ids is None or at is None:
        return Scores(logprobs)
    whole_ids = np.zeros((len(sequence), ids.shape[1]), dtype=np.int64)
    whole = np.zeros((len(sequence), ids.shape[1]))
    whole_ids[places] = ids.cpu().numpy()
    whole[places] = at.double().cpu().numpy()
    return Scores(logprobs, TopK(whole_ids, whole))


def _add_ratios(metrics: dict[str, float], logprobs: Tensor, batch: Batch, loss: LossSpec) -> None:
    """How far the policy being trained has left the one that sampled: on the first update both are the same up to
    rounding."""
    ratio = (logprobs - batch.logprobs)[batch.mask]
    outside = (ratio > math.log1p(loss.clip_high)) | (ratio < math.log1p(-loss.clip_low))
    share = float(outside.double().sum()) / max(batch.step_tokens, 1)
    metrics["ratio/clipped"] = metrics.get("ratio/clipped", 0.0) + share
    largest = float(ratio.abs().max()) if len(ratio) else 0.0
    metrics["ratio/largest_log"] = max(metrics.get("ratio/largest_log", 0.0), largest)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _norm(parts: Sequence[Tensor | None]) -> float:
    return math.sqrt(sum(float(part.double().square().sum()) for part in parts if part is not None))
