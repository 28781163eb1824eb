"""An experiment as frozen data: read from TOML, fingerprinted, and the key that says which runs may stand in one table."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.core.errors import UnknownNameError, UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    """Supervised start of the policy on the environment's own gold actions, deliberately imperfect."""

    steps: Positive
    batch: Positive = 64
    lr: float = Field(default=3e-3, gt=0)
    demonstrations: Positive = 4000
    """Tasks of the train split that are demonstrated (all of them when there are fewer)."""
    habit_share: Fraction = 0.0
    """Share of demonstrations that follow the environment's habitual mistake instead of its gold actions."""
    context_share: Fraction = 0.0
    """Share of demonstrations shown behind a privileged context."""
    contexts: tuple[str, ...] = ()
    """Context sources (`module:Name`) that take turns in that share; those the experiment's teachers will read."""
    measure: Positive = 200
    """Tasks on which success with and without each context is measured before training."""


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


class OptimiserSettings(Settings):
    """AdamW and its schedule."""

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
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
    """Optimiser steps; one update per batch of rollouts."""
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
    extra: tuple[str, ...] = ()
    """More success metrics, a column each: "pass@k", "pass^k", "maj@k" (k a number up to `samples`), "TGC", or "SGC"
    (scenario goal completion), where tasks are variants of scenarios: the panel then holds whole scenarios."""


class MethodSettings(Settings):
    """One row of the table."""

    label: str
    plug: str
    options: dict[str, Any] = {}
    """The method's own fields."""
    exploratory: bool = False


class Experiment(Settings):
    """Everything that decides what a table says."""

    name: str
    title: str = ""
    seeds: tuple[int, ...] = Field(min_length=1)
    environment: EnvironmentSettings
    model: ModelSettings = ModelSettings()
    warm_start: WarmStartSettings | None = None
    context: str | None = None
    """Default source of privileged contexts (`module:Name`) for methods that bring none of their own."""
    sampling: SamplingSettings
    optimiser: OptimiserSettings
    loss: LossSettings = LossSettings()
    budget: BudgetSettings
    evaluation: EvaluationSettings
    backend: str = "harness.backends.torch:TorchBackend"
    methods: tuple[MethodSettings, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Experiment:
        labels = [method.label for method in self.methods]
        for name, values in (("method labels", labels), ("seeds", list(self.seeds))):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other, got {values}")
        return self

    def matched_facts(self, **observed: Any) -> dict[str, Any]:
        """Everything two runs of one table must share, flat: the spec without methods, seeds and names, and what was `observed`
        (task list hash, environment version, initial checkpoint, code revision)."""
        spec = self.model_dump(mode="json", exclude={"name", "title", "seeds", "methods"})
        spec["budget"].pop("checkpoint_every")
        spec["environment"] = {key: spec["environment"][key] for key in ("id", "options", "train_split", "eval_split")}
        # What a teacher reads belongs to the method; the warm start it was shown in is part of the initial checkpoint's hash.
        spec.pop("context")
        return flatten(spec) | observed


def read_experiment(path: Path | str) -> Experiment:
    """The experiment in a TOML file; UserError names the file, the key and the nearest right one."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if path.is_file():
            raise UserError(f"{path}: {error.strerror}") from None
        raise UnknownNameError("experiment file", str(path), _specs_near(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    try:
        return parse_experiment(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _specs_near(path: Path) -> list[str]:
    """Spec files, and folders that hold one, around a path that is none."""
    around = [*path.parent.glob("*"), *path.parent.parent.glob(f"*/{path.name}")]
    return [
        str(found)
        for found in around
        if found.suffix == ".toml" or any(found.glob("spec.toml")) or any(found.glob("*/spec.toml"))
    ]


def parse_experiment(data: Mapping[str, Any]) -> Experiment:
    """The experiment in plain data, every mistake in one readable error."""
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item) for item in error.errors())) from None


def _explain(item: Any) -> str:
    place = [str(part) for part in item["loc"]]
    where = ".".join(place)
    if item["type"] != "extra_forbidden":
        return f"{where or 'experiment'}: {item['msg'].removeprefix('Value error, ')}"
    known = list(_fields_at(item["loc"][:-1]))
    return str(UnknownNameError("key", place[-1], known, hint=f"(at {where})"))


def _fields_at(location: tuple[Any, ...]) -> tuple[str, ...]:
    """Names of the fields of the settings model at a place of the tree."""
    model: Any = Experiment
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            candidates = [annotation, *get_args(annotation)]
            model = next((c for c in candidates if isinstance(c, type) and issubclass(c, Settings)), model)
    return tuple(model.model_fields)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value})
    return flat


def fingerprint(data: Any) -> str:
    """sha256 of plain data in its one canonical JSON form."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
