"""The contract of a backend: a sampler, a scorer and a trainer over one policy, and the records they exchange (plain
Python and numpy).

    Sampler   sample     prompts -> completions with token ids and log-probabilities
    Scorer    score      sequences -> Scores under the current, the initial or a snapshot's weights, on any context
    Trainer   update     batch, loss -> metrics: one optimiser step
              track      a snapshot of the weights moves towards the current ones
              save       a Hugging Face model directory plus the trainer's own state
              load       back from such a directory
              sync       sampler and scorer take over the trainer's weights
              corrected  what the loss makes of a sampler that is another engine than the trainer
              drive      pull updates from a feed until it is over

They may be one object or three on as many machines: an engine that trains need not be the one that samples. What a
backend cannot do it does not list among its `capabilities`; an experiment that asks for it is refused before anything
runs.

Behaviour, teacher, reference and loss all use logits / temperature; top-p only restricts sampling.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from harness.core.errors import HarnessError, UnknownNameError, UserError
from harness.core.plugs import checked_options, completed, resolve
from harness.core.sums import require_whole
from harness.core.types import ContextRequest, Credit, Message, Scores, TokenSequence
from harness.experiment import OptimiserSettings, PlugSettings
from harness.protocols.capabilities import EVERYTHING, Capability
from harness.protocols.feed import Feed

if TYPE_CHECKING:
    from harness.losses import Batch, LossSpec
    from harness.losses.mismatch import Corrected


Snapshot = Literal["teacher", "reference"]
"""Weights that follow the current ones at a distance (`Backend.track`). They begin as the initial weights."""
Weights = Literal["current", "initial", Snapshot]
"""Whose weights `Backend.score` asks."""


@dataclass(frozen=True)
class Start:
    """Where a policy starts."""

    directory: Path
    """A Hugging Face model directory."""
    checkpoint_hash: str = ""
    """sha256 of the files that decide what the model says."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Success on dev tasks: `sampled`, `greedy`, and `contexts` -> what each adds, by what it comes from."""
    origin: str = ""
    """What it was made from, the seed apart: the same for all starts of an experiment. Of a ready-made model its
    `checkpoint_hash`."""


@dataclass(frozen=True)
class BackendSettings:
    """What an experiment tells every backend; a backend's own options stand in the spec's `[backend]` table."""

    optimiser: OptimiserSettings | None = None
    """None for one that only samples and scores."""
    steps: int = 1
    """Optimiser steps that the schedule is laid out for."""
    temperature: float = 1.0
    """Divides all logits, of the loss too."""
    dtype: str = "float32"
    device: str = "auto"
    seed: int = 0
    """Of what a backend draws itself: weights that it adds to the model's."""


@dataclass(frozen=True)
class Prompt:
    """Tokens to continue."""

    tokens: Sequence[int]
    seed: int = 0
    """Of this completion's own random stream: what is sampled does not depend on what else is in the batch."""
    limit: int | None = None
    """Most tokens to sample here, where that is less than everybody's `max_new_tokens`."""
    key: Hashable = None
    """The conversation. When a later prompt of the same key extends an earlier one and its completion, their cache is
    kept."""


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens."""

    max_new_tokens: int
    temperature: float = 1.0
    """Also divides the logits of the log-probabilities that are returned."""
    top_p: float = 1.0
    greedy: bool = False
    """Take the likeliest token; log-probabilities are still those at `temperature`."""


@dataclass(frozen=True, eq=False)
class Completion:
    """What was sampled after one prompt."""

    tokens: Int[np.ndarray, " new"]
    logprobs: Float[np.ndarray, " new"]
    stopped: bool
    """Whether the last token is the model's own end of turn."""
    cut_mass: float = 0.0
    """Mean probability that top-p cut off."""
    version: int | str | None = None
    """`Sampler.version` of the weights that sampled it; None where the backend does not say."""


@runtime_checkable
class ConversationRenderer(Protocol):
    """Messages to tokens and back: a conversation's next prompt extends the tokens it already has."""

    tokenizer: Any
    """The model's Hugging Face tokenizer; only the server asks it, for its chat template and its tokens' bytes."""
    stop_ids: tuple[int, ...]
    """Tokens that end the agent's turn, the template's own first."""

    def opening(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        context: ContextRequest | None = None,
    ) -> tuple[int, ...]:
        """Tokens of the first prompt, up to where the agent's turn begins; with a privileged context, as its teacher
        reads it. No text of a message becomes a token that only the template may write."""
        ...

    def bridge(self, messages: Sequence[Message], stopped: bool) -> tuple[int, ...]:
        """Tokens between the agent's last sampled token and its next; `stopped`: it sampled its own end of turn."""
        ...

    def context(self, request: ContextRequest) -> tuple[int, ...]:
        """Tokens that stand in front of tokens without a conversation when a teacher reads a privileged context."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The agent's text, its end-of-turn token left out."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text as tokens (what a policy has sampled is never encoded again)."""
        ...

    def completion(self, text: str) -> tuple[int, ...]:
        """What the agent would have sampled to say this text (a demonstration), its end of turn included."""
        ...

    def literal_mask(self, tokens: np.ndarray, literals: Sequence[str]) -> np.ndarray:
        """bool[token]: True where a token's text overlaps an occurrence of a literal."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Samples from one policy, and says in its tokens what messages are."""

    renderer: ConversationRenderer
    window: int
    """Most tokens in one sequence."""
    vocabulary: int
    version: int | str | None = None
    """Of the current weights: another number after every change of them. None where the backend does not say; a
    completion of another version than the current one's is refused."""

    concurrency: int = 1
    """Completions that it makes side by side: conversations are then played each at its own pace, and `sample` is
    called from as many threads. At 1 it is asked for those of a whole turn at once."""

    @abstractmethod
    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """One completion per prompt, in order. It depends on the prompt, the parameters and the prompt's seed, not on
        the rest of the batch."""
        ...

    def release(self) -> None:
        """Drop what is kept for unfinished conversations."""
        return None


@runtime_checkable
class Scorer(Protocol):
    """Scores what was sampled, under one policy's weights and those that follow it."""

    @abstractmethod
    def score(
        self,
        sequences: Sequence[TokenSequence],
        policy: Weights = "current",
        top_k: int | None = None,
        ids: Sequence[Int[np.ndarray, "_ _"]] | None = None,
        contexts: Sequence[Sequence[int]] | None = None,
    ) -> list[Scores]:
        """Scores of each sequence's sampled tokens under these weights. `top_k`: with the distribution over this
        policy's K likeliest entries; `ids`: over these entries instead; `contexts`: tokens that stand in front of each
        sequence. UnknownNameError for weights of another name."""
        ...


@runtime_checkable
class Trainer(Protocol):
    """Trains one policy, and keeps what it needs to go on."""

    @abstractmethod
    def update(self, batch: Batch, loss: LossSpec, per_term: bool = False) -> dict[str, float]:
        """One optimiser step on `harness.losses.policy_loss` of a whole step's batch; metrics (`loss/<term>`,
        `gradient_norm`, `lr`, ...).

        per_term: also the gradient norm of each term alone (`gradient/<term>`).
        """
        ...

    @abstractmethod
    def track(self, name: Snapshot, decay: float = 0.0) -> None:
        """snapshot <- decay * snapshot + (1 - decay) * current, kept in at least float32. Decay 0 copies to the bit.
        UserError for a decay outside [0, 1)."""
        ...

    @abstractmethod
    def save(self, path: Path | str) -> None:
        """A model directory that opens in any tool, and beside it the trainer's own state with the snapshots there
        are."""
        ...

    @abstractmethod
    def load(self, path: Path | str) -> None:
        """Weights, snapshots and trainer's state of a saved directory: training goes on as if it had never stopped. A
        snapshot that was not saved is the initial policy again, which stays as it was. What samples and scores has
        these weights afterwards."""
        ...

    def sync(self) -> None:
        """Sampler and scorer take over the trainer's weights: called when a step's last update is done. Nothing to do
        where they are the same."""
        return None

    def corrected(self, sequences: Sequence[TokenSequence], credits: Sequence[Credit]) -> Corrected | None:
        """A step's sequences as the loss is to see them, with a weight of each token, where another engine samples
        than the one that trains (`harness.losses.mismatch`). Asked once a step, before its first update. None: as they
        were sampled."""
        return None

    def drive(self, feed: Feed) -> None:
        """Pull updates until the feed is over. A trainer with a loop of its own pulls from within that."""
        while (update := feed.next()) is not None:
            feed.report(self.update(update.batch, update.loss, per_term=update.per_term))
            if update.last:
                self.sync()


@runtime_checkable
class Backend(Sampler, Scorer, Trainer, Protocol):
    """Holds one policy; see the module's docstring for the verbs."""

    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Options of `from_start` that decide where and how fast it works and never what comes out: an address, a number
    of processes. Runs are not matched by them."""

    @classmethod
    @abstractmethod
    def from_start(cls, start: Start, settings: BackendSettings) -> Backend:
        """A backend whose initial and current policy is `start`. Further keyword arguments are the backend's own
        options, by their type hints."""
        ...

    @classmethod
    def capabilities(cls) -> frozenset[Capability]:
        """What it can do beyond sampling and scoring in float32; asked before one is made. By default everything."""
        return EVERYTHING

    def close(self) -> None:
        """Give back what it holds outside of itself (processes, connections, a device's memory). It is not used
        afterwards; called twice, it does nothing the second time."""
        self.release()


def check_weights(policy: str) -> None:
    """UnknownNameError, with the nearest right name, unless `policy` is one of `Weights`."""
    known = ("current", "initial", *get_args(Snapshot))
    if policy not in known:
        raise UnknownNameError("weights", policy, known)


def check_snapshot(name: str, decay: float) -> None:
    """UnknownNameError unless `name` is a `Snapshot`; UserError unless its decay lies in [0, 1): at 1 it never
    moves."""
    if name not in get_args(Snapshot):
        raise UnknownNameError("snapshot", name, get_args(Snapshot))
    if not 0 <= decay < 1:
        raise UserError(f"decay of the snapshot {name!r} must be in [0, 1), got {decay!r}")


OWN = ("start.json", "run_state.json")
"""Files by which a model directory is known as a start or a checkpoint of a run of this project."""


def make_backend(named: PlugSettings, start: Start, settings: BackendSettings) -> Backend:
    """The backend a spec names, made by its `from_start`, and assured of its model where it can be. UserError where it
    is none, an option is wrong or the model cannot be believed."""
    cls, options = backend_class(named)
    if any((start.directory / name).is_file() for name in OWN):  # another's model may be sealed in a way of its own
        require_whole(start.directory, "take it back from where it came from, or remove it and make it anew")
    try:
        made: Backend = cls.from_start(start, settings, **options)
    except HarnessError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"backend {named.plug}: {error}") from error
    made = completed(made, Backend, f"backend {named.plug}")
    # A backend that runs a model of any family in itself can say whether that model may be believed.
    if hasattr(made, "assure"):
        made.assure(start.checkpoint_hash)
    return made


def backend_class(named: PlugSettings) -> tuple[Any, dict[str, Any]]:
    """The class a spec names, and its options, checked against the hints of `from_start` before anything is loaded."""
    cls = resolve(named.plug, "backend", Backend)
    if not hasattr(cls, "from_start"):
        raise UserError(
            f"backend {named.plug!r} has no from_start(start, settings): "
            "harness.protocols.backend.Backend says what a backend does"
        )
    return cls, checked_options(cls.from_start, named.options, f"backend {named.plug}")


def capabilities_of(named: PlugSettings) -> frozenset[Capability]:
    """What the backend that a spec names can do; everything, where its class does not say."""
    cls, _ = backend_class(named)
    found: frozenset[Capability] = getattr(cls, "capabilities", Backend.capabilities)()
    return found


def deciding(named: PlugSettings) -> PlugSettings:
    """A spec's backend with those of its options alone that decide a result (`Backend.without_effect`): what runs are
    matched by, and starts are cached by."""
    cls, _ = backend_class(named)
    ignored: frozenset[str] = getattr(cls, "without_effect", Backend.without_effect)
    return PlugSettings(plug=named.plug, options={k: v for k, v in named.options.items() if k not in ignored})
