"""Experiments as data: read, refused with the way out, and the key that says what may stand in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from experiments import GRPO, SPEC, small
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness import ROOT
from harness.core.errors import UnknownNameError, UserError
from harness.experiment import Experiment, fingerprint, flatten, parse_experiment, read_experiment, write_spec

SPECS = sorted((ROOT / "results").glob("**/spec.toml"))


@pytest.mark.parametrize("file", SPECS, ids=[file.parent.name for file in SPECS])
def test_the_specs_that_ship_are_read(file: Path) -> None:
    experiment = read_experiment(file)
    assert experiment.methods
    assert file.parent.name in experiment.name


def test_a_spec_is_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(SPEC))
    assert read_experiment(tmp_path / "spec.toml") == small()


def test_an_experiment_can_be_written_and_read_again(tmp_path: Path) -> None:
    rich = small(
        warm_start={"steps": 3, "contexts": ["a:B"]},
        methods=[GRPO.model_dump()],
        sampling={"top_p": 0.9},
        context="a:B",
    )
    write_spec(rich, tmp_path / "spec.toml")
    assert read_experiment(tmp_path / "spec.toml") == rich


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("bugdet", "unknown key 'bugdet'; did you mean 'budget'? (at bugdet)"),
        ("budget.stpes", "unknown key 'stpes'; did you mean 'steps'? (at budget.stpes)"),
        ("model.tiny.widht", "unknown key 'widht'; did you mean 'width'? (at model.tiny.widht)"),
        ("warm_start.habitshare", "did you mean 'habit_share'? (at warm_start.habitshare)"),
        ("methods.0.plgu", "unknown key 'plgu'; did you mean 'plug'? (at methods.0.plgu)"),
    ],
)
def test_an_unknown_key_is_told_the_nearest(key: str, message: str) -> None:
    data: Any = small(warm_start={"steps": 3}).model_dump()
    place: Any = data
    *path, last = key.split(".")
    for part in path:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = 1
    with pytest.raises(UserError) as caught:
        parse_experiment(data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"methods": [GRPO.model_dump(), GRPO.model_dump()]}, "method labels must differ"),
        ({"sampling": {"group_size": 1}}, "sampling.group_size: Input should be greater than or equal to 2"),
        ({"sampling": {"temperature": 0.0}}, "sampling.temperature"),
        ({"sampling": {"top_p": 1.5}}, "sampling.top_p"),
        ({"optimiser": {"lr": -1.0}}, "optimiser.lr"),
        ({"optimiser": {"schedule": "cosin"}}, "optimiser.schedule: Input should be 'constant', 'linear' or 'cosine'"),
        ({"environment": {"deadline_s": 0}}, "environment.deadline_s"),
        ({"loss": {"aggregate": "sequence-mean-token-sum"}}, "sum_constant goes with aggregate"),
        ({"loss": {"sum_constant": 3.0}}, "sum_constant goes with aggregate"),
        ({"model": {"dtype": "float16"}}, "model.dtype"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        small(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_mistake_is_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse_experiment({"name": "x", "seedz": [0]})
    for missing in ("environment: Field required", "sampling: Field required", "'seedz'; did you mean 'seeds'"):
        assert missing in str(caught.value)


def test_an_experiment_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        small().name = "other"


# ---------------------------------------------------------------- files


def test_a_file_that_is_not_there_is_told_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "guess").mkdir()
    (tmp_path / "guess" / "spec.toml").write_text(tomli_w.dumps(SPEC))
    for wrong, near in (
        ("guess/spec.tml", "guess/spec.toml"),
        ("gues/spec.toml", "guess/spec.toml"),
        ("gess", "guess"),
    ):
        with pytest.raises(UnknownNameError, match="unknown experiment file") as caught:
            read_experiment(tmp_path / wrong)
        assert caught.value.nearest == str(tmp_path / near)
    with pytest.raises(UnknownNameError, match="unknown experiment file"):
        read_experiment(tmp_path / "guess")  # a folder is no file


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"name = 'a'\nname = 'b'"])
def test_what_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spec.toml").write_bytes(content)
    with pytest.raises(UserError, match=r"spec\.toml: not valid TOML"):
        read_experiment(tmp_path / "spec.toml")


# ---------------------------------------------------------------- matched


MATCHED = [
    {"environment": {"options": {"train": 13}}},
    {"environment": {"eval_split": "dev"}},
    {"sampling": {"group_size": 5}},
    {"sampling": {"temperature": 0.9}},
    {"sampling": {"prompts_per_step": 5}},
    {"sampling": {"mixed_groups": True}},
    {"optimiser": {"lr": 1e-4}},
    {"loss": {"clip_high": 0.28}},
    {"budget": {"steps": 7}},
    {"evaluation": {"samples": 3}},
    {"model": {"dtype": "bfloat16"}},
    {"backend": "other:Backend"},
    {"warm_start": {"steps": 3}},
]
FREE: list[dict[str, Any]] = [
    {"seeds": [4]},
    {"name": "other"},
    {"title": "Other"},
    {"methods": []},
    {"context": "agents.contexts:Answer"},
    {"budget": {"checkpoint_every": 3}},
    {"environment": {"deadline_s": 5.0, "concurrency": 3, "threads": 2}},
]


def key(experiment: Experiment, **observed: Any) -> str:
    return fingerprint(experiment.matched_facts(**observed))


@pytest.mark.parametrize("changes", MATCHED, ids=[str(c) for c in MATCHED])
def test_what_decides_a_result_decides_the_key(changes: dict[str, Any]) -> None:
    assert key(small(**changes)) != key(small())


@pytest.mark.parametrize("changes", FREE, ids=[str(c) for c in FREE])
def test_methods_seeds_names_and_patience_do_not(changes: dict[str, Any]) -> None:
    assert key(small(**changes)) == key(small())


def test_what_was_observed_belongs_to_the_key() -> None:
    assert key(small(), code="a") != key(small(), code="b") != key(small())


def test_flat_facts_have_dotted_names() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [2]}) == {"a.b.c": 1, "a.d": {}, "e": [2]}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), PLAIN, max_size=4))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(data: dict[str, Any]) -> None:
    assert fingerprint(dict(reversed(data.items()))) == fingerprint(data)
    assert len(fingerprint(data)) == 64
