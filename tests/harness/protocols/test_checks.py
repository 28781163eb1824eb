"""The suites behind `harness check-context`, `check-policy` and `check-backend`: what ships passes, and each kind of
breach is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from environments.guess import Guess
from harness.backends import BackendSettings, Completion, Prompt, SamplingParams, Start
from harness.backends.torch import TorchBackend
from harness.core.catalogue import catalogue
from harness.core.errors import UnknownNameError, UserError
from harness.experiment import PlugSettings
from harness.protocols.backend import Snapshot, make_backend
from harness.protocols.check_backend import BackendError, check_backend
from harness.protocols.check_context import ContextError, check_context
from harness.protocols.check_policy import PolicyError, check_policy
from harness.protocols.context import make_context
from harness.protocols.policy import make_policy
from harness.types import ContextRequest, RolloutGroup, Scores, TokenSequence

# ---------------------------------------------------------------- context sources


@pytest.mark.parametrize("name", sorted(catalogue("contexts")))
def test_the_sources_that_ship_keep_the_contract(name: str) -> None:
    check_context(make_context(catalogue("contexts")[name], {}))


@dataclass
class Source:
    """A source that is a function."""

    give: Callable[..., Any]
    name: str = "mine"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> Any:
        return self.give(group, index, rng)


def own_words(group: RolloutGroup, index: int, rng: Any) -> ContextRequest:
    spoken = [m["content"] for m in group.episodes[index].messages if m["role"] == "assistant"]
    return ContextRequest("\n".join(map(str, spoken)))


calls: list[int] = []


def counting(group: RolloutGroup, index: int, rng: Any) -> ContextRequest:
    calls.append(1)
    return ContextRequest(f"call {len(calls)}")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (Source(own_words), "reads that episode's own transcript"),
        (Source(counting), "not a function of the group"),
        (Source(lambda *_: "text"), "returned str, not a ContextRequest"),
        (Source(lambda *_: ContextRequest("  ")), "empty context"),
        (Source(lambda *_: None, name=" "), "name must be text"),
    ],
)
def test_a_source_that_breaks_it_is_told_how(source: Source, problem: str) -> None:
    with pytest.raises(ContextError, match=problem):
        check_context(source)  # type: ignore[arg-type]


# ---------------------------------------------------------------- text policies


def test_the_baselines_keep_the_contract() -> None:
    for plug in catalogue("baselines").values():
        check_policy(make_policy(plug, {}), Guess())


@dataclass
class Policy:
    """A policy that is a function."""

    give: Callable[..., Any]
    name: str = "mine"
    concurrency: Any = 1
    version: str = ""

    def act(self, environment: Any, task_id: str, messages: Any, info: dict[str, Any]) -> Any:
        return self.give(messages, info)

    def spent(self) -> dict[str, float]:
        return {}


def changing(messages: list[Any], info: dict[str, Any]) -> str:
    messages.append({"role": "user", "content": "?"})
    return "1"


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        (Policy(lambda *_: 3), "act returned int, not text"),
        (Policy(changing), "changed the messages"),
        (Policy(lambda _, info: str(info["usage"].update(calls="many"))), "usage must map names to numbers"),
        (Policy(lambda *_: "1", concurrency=0), "concurrency must be a whole number"),
        (Policy(lambda *_: "1", name=""), "name must be text"),
    ],
)
def test_a_policy_that_breaks_it_is_told_how(policy: Policy, problem: str) -> None:
    with pytest.raises(PolicyError, match=problem):
        check_policy(policy, Guess())  # type: ignore[arg-type]


# ---------------------------------------------------------------- backends


def test_the_torch_backend_keeps_the_contract(tiny_directory: Path, tmp_path: Path) -> None:
    check_backend(PlugSettings(plug="harness.backends.torch:TorchBackend"), tiny_directory, tmp_path / "saved")


class Batched(TorchBackend):
    """What is sampled depends on the size of the batch."""

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        return super().sample([Prompt(p.tokens, p.seed + len(prompts), p.limit, p.key) for p in prompts], params)


class Warm(TorchBackend):
    """Scores at another temperature than it samples with."""

    def score(self, sequences: Sequence[TokenSequence], *given: Any, **more: Any) -> list[Scores]:
        self.temperature = 2.0
        scores = super().score(sequences, *given, **more)
        self.temperature = 1.0
        return scores


class Deaf(TorchBackend):
    """Reads no context."""

    def score(self, sequences: Sequence[TokenSequence], *given: Any, **more: Any) -> list[Scores]:
        return super().score(sequences, *given, **more | {"contexts": None})


class Forgetful(TorchBackend):
    """Loads weights without the optimiser's state."""

    def load(self, path: Path | str) -> None:
        Path(path, "trainer_state.pt").unlink()
        super().load(path)


class Stiff(TorchBackend):
    """Its snapshots never move."""

    def track(self, name: Snapshot, decay: float = 0.0) -> None: ...


class Hasty(TorchBackend):
    """Its averages are copies, and any decay will do."""

    def track(self, name: Snapshot, decay: float = 0.0) -> None:
        super().track(name)


class Amnesiac(TorchBackend):
    """Loads everything but its snapshots."""

    def load(self, path: Path | str) -> None:
        Path(path, "snapshot_teacher.pt").unlink()
        super().load(path)


class Clinging(TorchBackend):
    """Keeps the snapshots it had when it loads."""

    def load(self, path: Path | str) -> None:
        kept = self._snapshots._made.get("reference")
        super().load(path)
        if kept:
            self._snapshots._made["reference"] = kept


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Stiff", "decay 0 does not copy the current policy"),
        ("Hasty", "leaves the snapshot at one of the two ends"),
        ("Hasty", r"track\('teacher', 1.0\) is not refused"),
        ("Amnesiac", "a snapshot is not what it was"),
        ("Clinging", "a snapshot that was not saved is not the initial policy"),
        ("Batched", "depends on what else is in the batch"),
        ("Warm", "score differs from the sampled log-probabilities"),
        ("Deaf", "a context does not condition"),
        ("Forgetful", "does not go on as if it had never stopped"),
    ],
)
def test_a_backend_that_breaks_it_is_told_how(name: str, problem: str, tiny_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=problem):
        check_backend(PlugSettings(plug=f"{__name__}:{name}"), tiny_directory, tmp_path / "saved")


class Slow(TorchBackend):
    """One with an option of its own."""

    @classmethod
    def from_start(cls, start: Start, settings: BackendSettings, *, naps: int = 0) -> Slow:  # type: ignore[override]
        made = cls(start.directory, settings.optimiser, settings.steps, device="cpu")
        made.naps = naps
        return made

    naps: int


def test_a_backends_options_come_from_the_spec(tiny_directory: Path) -> None:
    start, plug = Start(tiny_directory), f"{__name__}:Slow"
    made = make_backend(PlugSettings(plug=plug, options={"naps": 3}), start, BackendSettings())
    assert isinstance(made, Slow)
    assert made.naps == 3
    with pytest.raises(UnknownNameError, match="'nasp'; did you mean 'naps'"):
        make_backend(PlugSettings(plug=plug, options={"nasp": 3}), start, BackendSettings())
    with pytest.raises(UserError, match=r"option naps of backend .* is 'a'"):
        make_backend(PlugSettings(plug=plug, options={"naps": "a"}), start, BackendSettings())
    with pytest.raises(UserError, match="has no from_start"):
        make_backend(PlugSettings(plug="harness.core.seeds:SeedTree"), start, BackendSettings())
