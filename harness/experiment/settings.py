"""The sections of an experiment's spec: frozen, typed, unknown keys refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PlugSettings(Settings):
    """Something that plugs in, and its options; without options a spec writes the name alone: `"module:Name"`."""

    plug: str
    """`module:Name`."""
    options: dict[str, Any] = {}
    """What its constructor takes, checked against its type hints before anything is run."""

    @model_validator(mode="wrap")
    @classmethod
    def _from_name(cls, given: Any, validate: Callable[[Any], Any]) -> Any:
        return validate({"plug": given} if isinstance(given, str) else given)

    @model_serializer(mode="wrap")
    def _as_name(self, serialise: Callable[[Any], Any]) -> Any:
        return serialise(self) if self.options else self.plug

    @property
    def module(self) -> str:
        """Where its code is."""
        return self.plug.partition(":")[0]


class EnvironmentSettings(Settings):
    """Which environment, and how patiently it is waited for."""

    id: str
    """A gymnasium id with its module, e.g. `environments:ReasoningMini-v0`."""
    options: dict[str, Any] = {}
    train_split: str = "train"
    eval_split: str = "test"
    deadline_s: float = Field(default=60.0, gt=0)
    """Longest wait for one reset or step; beyond it the episode is an infrastructure failure."""
    concurrency: Positive = 512
    """Most episodes in flight at once."""
    threads: Positive = 1
    """Threads that step environments; more than one pays only where a step waits for something outside the process."""


class TinySettings(Settings):
    """The Llama-shaped policy trained from scratch (`model.name = "tiny"`)."""

    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    kv_heads: Positive = 1
    """One key/value head makes the cache small and sampling on a CPU about a third faster."""
    mlp: Positive = 384
    window: Positive = 256
    vocabulary: Positive = 512
    """Upper bound; a byte-level tokenizer needs at least 264 entries."""


class ModelSettings(Settings):
    """The policy: `tiny`, `smollm2`, or a directory of a Hugging Face causal language model."""

    name: str = "tiny"
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = "auto"
    """`auto` takes the first GPU if there is one."""
    tiny: TinySettings = TinySettings()


class WarmStartSettings(Settings):
    """The supervised start of the policy on the environment's own gold actions, deliberately imperfect."""

    steps: Positive
    batch: Positive = 64
    lr: float = Field(default=3e-3, gt=0)
    demonstrations: Positive = 4000
    """Tasks of the train split that are demonstrated (all of them when there are fewer)."""
    habit_share: Fraction = 0.0
    """Share of demonstrations that follow the environment's habitual mistake instead of its gold actions."""
    context_share: Fraction = 0.0
    """Share of demonstrations that are conditioned on a privileged context."""
    contexts: tuple[PlugSettings, ...] = ()
    """Context sources that take turns in that share; those the experiment's teachers will read."""


History = Literal["keep", "drop-oldest"]
"""What happens when a conversation leaves the model's window no room for a whole completion (`max_new_tokens`).

keep: it goes on while anything fits, and ends with `Ending.TOKEN_LIMIT`. drop-oldest: the oldest turns behind the
first prompt are dropped, as few as needed, and the policy goes on with the rest as a new prompt; the episode's tokens
are then in several pieces (`harness.core.types.TokenSequence`). It ends where the last turn alone does not fit.
"""


class SamplingSettings(Settings):
    """How rollouts are drawn."""

    group_size: Annotated[int, Field(ge=2)] = 8
    prompts_per_step: Positive
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: Positive
    """Per turn."""
    mixed_groups: bool = False
    """Dynamic sampling (DAPO, 2503.14476): tasks are drawn until `prompts_per_step` groups have unequal rewards."""
    candidate_limit: Positive = 4
    """With `mixed_groups`: at most this many times `prompts_per_step` tasks are tried in one step."""
    history: History = "keep"

    @model_serializer(mode="wrap")
    def _kept_unsaid(self, serialise: Callable[[Any], Any]) -> Any:
        """Records and fingerprints of runs that keep their history do not name what there was no choice of."""
        data = serialise(self)
        return {key: value for key, value in data.items() if (key, value) != ("history", "keep")}


class OptimiserSettings(Settings):
    """AdamW and its schedule."""

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Updates of the weights, as the whole schedule counts them."""
    updates: Positive = 1
    """Passes over every step's batch of rollouts. With one, and one part, the policy that is updated is the one that
    sampled: no ratio leaves 1, no clip acts."""
    minibatches: Positive = 1
    """Parts of every pass, an update each: whole episodes, drawn from the run's seed."""
    micro_tokens: Positive = 8192
    """Token positions in one micro-batch; changes memory, never the result beyond rounding."""


class LossSettings(Settings):
    """The constants of the one loss (`harness.losses.terms`)."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.2, gt=0)
    aggregate: Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"] = "token-mean"
    sum_constant: float | None = Field(default=None, gt=0)
    dual_clip: float | None = Field(default=None, gt=1)

    @model_validator(mode="after")
    def _constant_where_needed(self) -> LossSettings:
        if (self.aggregate == "sequence-mean-token-sum") != (self.sum_constant is not None):
            raise ValueError("sum_constant goes with aggregate 'sequence-mean-token-sum', and only with it")
        return self


class BudgetSettings(Settings):
    """What every method of the table may spend."""

    steps: Positive
    """Batches of rollouts; each is learned from in `optimiser.updates` * `optimiser.minibatches` updates."""
    checkpoint_every: Positive = 10


class EvaluationSettings(Settings):
    """The panel every policy is judged on."""

    tasks: Positive
    samples: Positive = 4
    """Sampled episodes per task, at the training temperature; one greedy episode per task comes on top."""
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between points of the learning curve (0: the end only)."""
    curve_tasks: Positive = 100
    curve_split: str | None = None
    """Split of the curve's tasks; the evaluation split when left out."""
    start_tasks: Annotated[int, Field(ge=0)] = 100
    """Dev tasks on which a start's success is measured before training, without a context and with each that a
    teacher will read (0: not measured). It decides no run."""
    primary: Literal["area", "final"] = "area"
    """What decides between methods: the area under the learning curve (mean success over training; needs `every`), or
    the success at the end. The other stands beside it."""
    decoding: Literal["sampled", "greedy"] = "sampled"
    """The decoding of the primary endpoint."""
    margin: float = Field(default=0.02, gt=0, lt=1)
    """Differences of at most so much success do not matter: "no difference larger than 0.02"."""
    extra: tuple[str, ...] = ()
    """More success metrics, a column each: "pass@k", "pass^k", "maj@k" (k a number up to `samples`), "TGC", or "SGC"
    (scenario goal completion), where tasks are variants of scenarios: the panel then holds whole scenarios."""


class KnobSettings(Settings):
    """The one setting of its own that a row's search varies."""

    name: str
    """Section and key of the row: `options.beta`, `loss.clip_high`."""
    values: tuple[Any, ...] = Field(min_length=1)


class SearchSettings(Settings):
    """A search for every row's settings, declared before anything is run: as many trials for each row, on seeds and
    tasks that no row is reported on. The search is then what rows share, not the settings that it finds."""

    space: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(min_length=1)
    """Values by key of [optimiser], the same for every row: `lr = [5e-5, 1.5e-4, 5e-4]`."""
    trials: Positive
    """Settings that are tried of each row, drawn without replacement from the space and the row's knob."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Tuning seeds; none of them may be among the experiment's."""
    split: str = "dev"
    """Split on which trials are judged; never the evaluation split."""
    rule: Literal["area", "final"] = "area"
    """What is compared, its mean over the tuning seeds: area is the mean height of the learning curve, final the
    success at its end, both sampled."""
    steps: Positive | None = None
    """Length of a trial; the budget's when left out."""


class MethodSettings(Settings):
    """One row of the table."""

    label: str
    plug: str
    options: dict[str, Any] = {}
    """The method's own fields."""
    exploratory: bool = False
    as_published: bool = False
    """Whether `loss` and `sampling` below are part of the method as its paper has it: the row may then differ in them,
    and its footnote names what is not matched."""
    optimiser: dict[str, Any] = {}
    """Keys of [optimiser] in which the row differs: only after a [search], or in an exploratory row."""
    loss: dict[str, Any] = {}
    """Keys of [loss] in which the row differs."""
    sampling: dict[str, Any] = {}
    """Keys of [sampling] in which the row differs: those that decide which rollouts it learns from."""
    knob: KnobSettings | None = None
    """What a [search] varies of this row beside the shared space."""

    @property
    def own(self) -> dict[str, Any]:
        """The settings in which the row differs from the experiment's, flat: `{"loss.clip_high": 0.28}`."""
        sections = {"optimiser": self.optimiser, "loss": self.loss, "sampling": self.sampling}
        return {f"{section}.{key}": value for section, table in sections.items() for key, value in table.items()}
