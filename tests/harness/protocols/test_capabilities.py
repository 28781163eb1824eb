"""What a backend can do and what an experiment asks for: the one is held against the other before anything runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from experiments import judged, small

from harness.backends.torch import TorchBackend
from harness.core.errors import UserError
from harness.core.types import Evidence, Needs, RolloutGroup
from harness.experiment import OptimiserSettings, PlugSettings
from harness.learning.run import Run
from harness.protocols.backend import (
    Backend,
    BackendSettings,
    Sampler,
    Scorer,
    Start,
    Trainer,
    capabilities_of,
    deciding,
    make_backend,
)
from harness.protocols.capabilities import EVERYTHING, Capability, demands
from harness.protocols.check_backend import _declares, _versions, check_backend
from harness.runs.plan import check_plugs, observe

HERE = __name__


class Asking:
    """A method that asks for whatever its options say, and assigns nothing."""

    def __init__(self, needs: Needs = Needs()) -> None:  # noqa: B008 - frozen
        self.needs = needs

    def initial_state(self) -> dict[str, Any]:
        return {}

    def assign(self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: Any) -> Any:
        raise AssertionError("nothing is run here")


def asking(**needs: Any) -> dict[str, Any]:
    return {"label": "Asking", "plug": f"{HERE}:Asking", "options": {"needs": needs}}


class Reader(TorchBackend):
    """Samples and scores, and that is all."""

    @classmethod
    def capabilities(cls) -> frozenset[Capability]:
        return frozenset()


TRAINED = {Capability.TRAINING, Capability.RESUME}
READ = TRAINED | {Capability.CONTEXTS}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"methods": []}, set()),
        ({"methods": [asking()]}, TRAINED),
        ({"methods": [], "warm_start": {"steps": 1}}, {Capability.TRAINING}),
        ({"methods": [], "model": {"dtype": "float64"}}, {Capability.FLOAT64}),
        ({"methods": [], "sampling": {"top_p": 0.9}}, {Capability.TOP_P}),
        ({"methods": [asking(reference=True)]}, TRAINED | {Capability.INITIAL}),
        ({"methods": [asking(reference=True, reference_every=5)]}, TRAINED | {Capability.SNAPSHOTS}),
        ({"methods": [asking(teacher="sampled")]}, READ),
        ({"methods": [asking(teacher="sampled", teacher_policy="ema")]}, READ | {Capability.SNAPSHOTS}),
        ({"methods": [asking(teacher="sampled", teacher_policy="initial")]}, READ | {Capability.INITIAL}),
        ({"methods": [asking(teacher="distribution", top_k=4)]}, READ | {Capability.TOP_K}),
        ({"methods": [asking(teacher="distribution")]}, READ | {Capability.VOCABULARY}),
        # what concerns a teacher asks for nothing where there is none
        ({"methods": [asking(teacher_policy="ema", top_k=4)]}, TRAINED),
    ],
)
def test_what_an_experiment_asks_for(changes: dict[str, Any], wanted: set[Capability]) -> None:
    experiment = small(**changes)
    assert {capability for capability, _ in demands(experiment, experiment.methods)} == wanted


def test_what_the_backend_lacks_is_named_with_who_asks_before_anything_runs() -> None:
    experiment = small(
        methods=[asking(teacher="sampled"), {"label": "Plain", "plug": "agents.methods.grpo:RLOO"}],
        backend=f"{HERE}:Reader",
        sampling={"top_p": 0.5},
    )
    with pytest.raises(UserError) as caught:
        check_plugs(experiment)
    words = str(caught.value)
    assert words.startswith(f"backend {HERE}:Reader lacks 'top-p' (")
    assert "'training' (`update` is an optimiser step" in words
    assert "the row 'Asking' and the row 'Plain' ask" in words
    assert "for which sampling.top_p = 0.5 asks" in words
    assert "'contexts'" in words
    assert "docs/backends.md" in words
    check_plugs(small(backend=f"{HERE}:Reader", methods=[]))


def test_trials_of_a_search_ask_too() -> None:
    """The row asks for nothing special; what its search tries does."""
    knob = {"name": "options.needs", "values": [{"reference": True, "reference_every": 3}]}
    search = {"space": {"lr": [1e-3, 1e-4]}, "trials": 2, "seeds": [9]}
    experiment = small(methods=[asking() | {"knob": knob}], search=search, backend=f"{HERE}:Still")
    with pytest.raises(
        UserError, match=r"lacks 'snapshots' .* the row 'Asking, trial 1' and the row 'Asking, trial 2'"
    ):
        check_plugs(experiment)


class Still(TorchBackend):
    """No snapshots."""

    @classmethod
    def capabilities(cls) -> frozenset[Capability]:
        return EVERYTHING - {Capability.SNAPSHOTS}

    def track(self, name: Any, decay: float = 0.0) -> None:
        raise AssertionError("nobody may ask for this")


@pytest.mark.parametrize("name", ["Reader", "Still"])
def test_the_check_looks_into_what_is_offered_alone(name: str, tiny_directory: Path, tmp_path: Path) -> None:
    check_backend(PlugSettings(plug=f"{HERE}:{name}"), tiny_directory, tmp_path / "saved")


# ---------------------------------------------------------------- the parts, and defaults


def test_one_backend_is_all_three_parts(backend_of: Any) -> None:
    backend = backend_of()
    assert all(isinstance(backend, part) for part in (Sampler, Scorer, Trainer, Backend))


class Bare:
    """Inherits nothing and has the six verbs alone, as a backend could before there was more to say."""

    def __init__(self, inner: TorchBackend) -> None:
        self.renderer, self.window, self.vocabulary = inner.renderer, inner.window, inner.vocabulary
        for verb in ("sample", "score", "update", "track", "save", "load"):
            setattr(self, verb, getattr(inner, verb))

    @classmethod
    def from_start(cls, start: Start, settings: BackendSettings) -> Bare:
        return cls(TorchBackend(start.directory, settings.optimiser, settings.steps, device="cpu"))


def test_a_backend_that_is_silent_gets_the_defaults(tiny_directory: Path, tmp_path: Path) -> None:
    named = PlugSettings(plug=f"{HERE}:Bare")
    made = make_backend(named, Start(tiny_directory), BackendSettings())
    assert isinstance(made, Backend)
    assert (made.capabilities(), made.version, made.sync(), made.close()) == (EVERYTHING, None, None, None)
    assert capabilities_of(named) == EVERYTHING
    check_backend(named, tiny_directory, tmp_path / "saved")


class Frozen(TorchBackend):
    """Its version never changes."""

    version = property(lambda self: 7, lambda self, value: None)  # type: ignore[assignment]


class Muddled(TorchBackend):
    """Its completions are said to come from other weights."""

    def sample(self, prompts: Any, params: Any) -> Any:
        from dataclasses import replace

        return [replace(done, version=-1) for done in super().sample(prompts, params)]


class Boastful(TorchBackend):
    """Its capabilities are words of its own, and its options none."""

    without_effect = frozenset({"adress"})

    @classmethod
    def capabilities(cls) -> Any:
        return EVERYTHING | {"flying"}


@pytest.mark.parametrize(
    ("name", "check", "problem"),
    [
        ("Frozen", _versions, "version is the same after an update"),
        ("Muddled", _versions, "a completion's version is not that of the weights"),
        ("Boastful", _declares, "must hold members of .*Capability, not 'flying'"),
        ("Boastful", _declares, "without_effect names 'adress', which is no option of from_start"),
    ],
)
def test_a_backend_that_says_it_wrongly_is_told(name: str, check: Any, problem: str, tiny_directory: Path) -> None:
    def make() -> Backend:
        settings = BackendSettings(OptimiserSettings(lr=1e-2), device="cpu")
        return make_backend(PlugSettings(plug=f"{HERE}:{name}"), Start(tiny_directory), settings)

    assert any(re.search(problem, found) for found in check(make))


# ---------------------------------------------------------------- settings of its own


class Remote(TorchBackend):
    """Where it is and how patiently it is waited for changes nothing; how it rounds does."""

    without_effect = frozenset({"address", "timeout_s"})
    closed = 0

    @classmethod
    def from_start(  # type: ignore[override]
        cls, start: Start, settings: BackendSettings, *, address: str = "", timeout_s: float = 1.0, digits: int = 9
    ) -> Remote:
        return cls(start.directory, settings.optimiser, settings.steps, device="cpu")

    def close(self) -> None:
        Remote.closed += 1


def test_runs_are_matched_by_the_options_that_decide_a_result(tiny_directory: Path) -> None:
    starts = {0: Start(tiny_directory, "0" * 64)}

    def matched(**options: Any) -> dict[str, Any]:
        return observe(small(backend={"plug": f"{HERE}:Remote", "options": options}), starts).matched

    plain = matched()
    assert matched(address="here:8000", timeout_s=9.0) == plain
    assert matched(address="there:8000") == plain
    assert matched(digits=3) != plain
    assert matched(digits=3)["backend.options.digits"] == 3
    assert deciding(PlugSettings(plug=f"{HERE}:Remote", options={"address": "x"})) == PlugSettings(
        plug=f"{HERE}:Remote"
    )


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ({"plug": f"{HERE}:Remote", "option": {}}, "unknown key 'option'; did you mean 'options'"),
        ({"plug": f"{HERE}:Remote", "options": {"adress": "x"}}, "unknown option .* 'adress'; did you mean 'address'"),
        ({"plug": f"{HERE}:Remote", "options": {"digits": "x"}}, "option digits of backend .* is 'x'"),
        ({"plug": f"{HERE}:Remot"}, f"did you mean '{HERE}:Remote'"),
    ],
)
def test_mistakes_in_the_table_name_the_nearest_right_word(backend: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_plugs(small(backend=backend))


def test_a_run_closes_what_it_opened(tiny_directory: Path, tmp_path: Path) -> None:
    experiment = small(backend=f"{HERE}:Remote")
    run = Run(experiment, experiment.methods[0], 0, Start(tiny_directory), tmp_path, judged(experiment))
    before = Remote.closed
    run.close()
    assert Remote.closed == before  # nothing was opened
    assert run.backend.window > 0
    run.close()
    assert Remote.closed == before + 1
