"""Plugs: one name form, and on a miss the nearest right name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.methods.grpo import GRPO
from harness.core.errors import UnknownNameError, UserError
from harness.core.plugs import construct, resolve


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory of the user's, from which plugs can be named."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_name_is_its_object() -> None:
    assert resolve("agents.methods.grpo:GRPO") is GRPO
    assert construct("agents.methods.grpo:GRPO", {"kl": 0.5}) == GRPO(kl=0.5)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("agents.methods.grop:GRPO", "agents.methods.grpo:GRPO"),
        ("agents.methods.grpo:GRP", "agents.methods.grpo:GRPO"),
        ("agents.metods.grpo:GRPO", None),
        ("nowhere:GRPO", None),
    ],
)
def test_a_miss_names_what_is_near(given: str, near: str | None) -> None:
    with pytest.raises(UnknownNameError, match="unknown method") as caught:
        resolve(given, "method")
    assert caught.value.nearest == near
    assert given in str(caught.value)


@pytest.mark.parametrize("given", ["", "GRPO", "agents.methods.grpo", ":GRPO", "agents.methods.grpo:"])
def test_the_form_is_module_and_name(given: str) -> None:
    with pytest.raises(UserError, match="must have the form 'module:Name'"):
        resolve(given, "method")


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown option of method agents\.methods\.grpo:GRPO 'lk'; did you mean 'kl'"
    ):
        construct("agents.methods.grpo:GRPO", {"lk": 1.0}, "method")


def test_a_value_the_plug_refuses_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"method agents.methods.grpo:GRPO: .*kl"):
        construct("agents.methods.grpo:GRPO", {"kl": -1.0}, "method")


def test_what_is_no_class_cannot_be_made() -> None:
    with pytest.raises(UserError, match="is a dict, not a class"):
        construct("agents.methods:SHORT", {}, "method")


def test_a_file_in_the_current_directory_is_a_plug(beside: Path) -> None:
    (beside / "my_very_own_plug.py").write_text(
        "class Mine:\n    def __init__(self, **more):\n        self.more = more\n"
    )
    assert construct("my_very_own_plug:Mine", {"anything": 1}).more == {"anything": 1}
    with pytest.raises(UnknownNameError, match="did you mean 'my_very_own_plug:Mine'"):
        resolve("my_very_own_plgu:Mine")


def test_a_plug_that_lacks_a_package_says_which(beside: Path) -> None:
    (beside / "my_needy_plug.py").write_text("import a_package_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        resolve("my_needy_plug:Mine")
