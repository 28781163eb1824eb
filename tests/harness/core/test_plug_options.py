"""Options of plugs are checked against type hints, and contracts lend what a class does not say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from harness.core.errors import UnknownNameError, UserError
from harness.core.plugs import checked_options, completed, original
from harness.protocols.context import ContextSource
from harness.protocols.method import Method, brings_context, make_method
from harness.types import Credit, Needs, RolloutGroup


@dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclass(frozen=True)
class Outer:
    rate: float = 0.5
    top_k: int | None = 100
    form: Literal["one", "two"] = "one"
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)
    anything: Any = None


class Plain:
    def __init__(self, size: int, *, name: str = "x") -> None:
        self.size, self.name = size, name


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"rate": 1}, {"rate": 1.0}),
        ({"top_k": None}, {"top_k": None}),
        ({"top_k": "none"}, {"top_k": None}),
        ({"pair": [1, 2]}, {"pair": (1.0, 2.0)}),
        ({"inner": {"size": 4}}, {"inner": Inner(4)}),
        ({"inner": Inner(5)}, {"inner": Inner(5)}),
        ({"anything": [{"a": 1}]}, {"anything": [{"a": 1}]}),
        ({"form": "two"}, {"form": "two"}),
    ],
)
def test_what_a_spec_may_write(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert checked_options(Outer, given, "plug") == wanted


@pytest.mark.parametrize(
    ("maker", "given", "message"),
    [
        (Outer, {"rate": "0.5"}, r"option rate of plug is '0\.5'"),
        (Outer, {"top_k": 2.5}, r"option top_k of plug is 2\.5"),
        (Outer, {"top_k": True}, r"option top_k of plug is True"),
        (Outer, {"form": "three"}, r"unknown form 'three'; known: one, two \(option form of plug\)"),
        (Outer, {"inner": {"size": "a"}}, r"option size of option inner of plug is 'a'"),
        (Outer, {"inner": {"sise": 1}}, r"'sise'; did you mean 'size'"),
        (Outer, {"raet": 1.0}, r"unknown option of plug 'raet'; did you mean 'rate'"),
        (Plain, {"size": "a"}, r"option size of plug is 'a': input should be a valid integer"),
        (Plain, {"size": 1, "nam": "y"}, r"did you mean 'name'"),
    ],
)
def test_what_it_may_not(maker: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_options(maker, given, "plug")


def test_a_spec_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UserError, match=r"option gamma of method agents\.methods\.sgcd:SGCD is 'high'"):
        make_method("agents.methods.sgcd:SGCD", {"gamma": "high"})
    with pytest.raises(UserError, match="option of option segmenter"):
        make_method("agents.methods.sgcd:SGCD", {"segmenter": {"no_such": 1}})
    assert make_method("agents.methods.sgcd:SGCD", {"top_k": "none"}).needs.top_k is None


class Bare:
    """A method that inherits nothing."""

    needs = Needs()

    def initial_state(self) -> dict[str, float]:
        return {}

    def assign(self, groups: Any, evidence: Any, state: Any) -> Any:
        return [[Credit() for _ in group.episodes] for group in groups], state, {}


def test_a_contract_lends_its_defaults() -> None:
    made = completed(Bare(), Method, "method Bare")
    assert isinstance(made, Method)
    assert isinstance(original(made), Bare)
    assert (made.describe().reference_kl, made.verdict([]), made.external_calls, made.paper) == (0.0, None, 0, "")
    assert not brings_context(made)
    assert made.assign((), (), {}) == ([], {}, {})
    with pytest.raises(NotImplementedError, match="brings no context"):
        made.context(RolloutGroup("task", ()), 0, np.random.default_rng(0))


def test_what_is_there_is_not_lent() -> None:
    class Own(Bare):
        def context(self, group: Any, index: int, rng: Any) -> None:
            return None

    made = completed(Own(), Method, "method Own")
    assert brings_context(made)
    assert made.context(None, 0, None) is None


def test_what_is_lacking_is_named() -> None:
    with pytest.raises(
        UserError, match=r"plug X lacks needs, initial_state, assign \(harness\.protocols\.method\.Method"
    ):
        completed(object(), Method, "plug X")
    with pytest.raises(UserError, match="lacks name, __call__"):
        completed(object(), ContextSource, "plug X")


def test_only_what_could_be_a_method_is_near() -> None:
    with pytest.raises(UnknownNameError) as caught:
        make_method("agents.methods.grpo:Nope", {})
    assert caught.value.nearest in (
        None,
        "agents.methods.grpo:RLOO",
        "agents.methods.grpo:GRPO",
        "agents.methods.grpo:DAPO",
    )
