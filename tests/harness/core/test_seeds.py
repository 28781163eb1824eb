"""The seed tree: one place, one stream, on every machine."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.core.seeds import SeedTree

NAMES = st.lists(st.one_of(st.text(max_size=5), st.integers(-9, 99)), max_size=4)


def test_a_place_is_the_same_in_every_process() -> None:
    """Neither the hash seed of Python nor the process may matter; the numbers themselves are pinned, since recorded
    runs rest on them."""
    said = "from harness.core.seeds import SeedTree; "
    said += "print(SeedTree(7)['sampling', 3, 'task'].integer(), SeedTree(7)['a'].rng().integers(1000))"
    ours = f"{SeedTree(7)['sampling', 3, 'task'].integer()} {SeedTree(7)['a'].rng().integers(1000)}"
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", said], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        )
        assert done.stdout.strip() == ours
    # sha256("1:78:sampling1:34:task"), bytes 16 to 23, halved
    assert SeedTree(7)["sampling", 3, "task"].integer() == 716585696119300296


@given(st.integers(0, 5), NAMES, NAMES)
def test_different_places_are_different_streams(root: int, one: list[object], other: list[object]) -> None:
    left, right = SeedTree(root)[tuple(one)], SeedTree(root)[tuple(other)]
    same = [str(name) for name in one] == [str(name) for name in other]
    assert (left.integer() == right.integer()) is same
    assert (left.rng().random(4).tolist() == right.rng().random(4).tolist()) is same


def test_names_do_not_run_together() -> None:
    assert SeedTree(1)["a", "bc"].integer() != SeedTree(1)["ab", "c"].integer()
    assert SeedTree(11)["2"].integer() != SeedTree(1)["12"].integer()
    assert SeedTree(0)["a"].integer() != SeedTree(1)["a"].integer()


@given(NAMES, NAMES)
def test_going_down_in_steps_is_going_down_at_once(one: list[object], other: list[object]) -> None:
    assert SeedTree(3)[tuple(one)][tuple(other)] == SeedTree(3)[(*one, *other)]


@given(NAMES)
def test_a_seed_is_a_63_bit_number(names: list[object]) -> None:
    assert 0 <= SeedTree(0)[tuple(names)].integer() < 2**63


def test_a_stream_begins_at_its_beginning_every_time() -> None:
    place = SeedTree(0)["task-order", 4]
    first = place.rng().permutation(50)
    np.testing.assert_array_equal(place.rng().permutation(50), first)
