"""No generator and no record is paid for a wrong answer: the standing audit, and what the library's verifiers paid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import reasoning_gym.factory

from environments.reasoning import audit, exact
from environments.reasoning.env import Reasoning
from environments.reasoning.generated import Generator, create
from environments.reasoning.grader import POOL, score_generated

TAKES_LONG_TO_MAKE = frozenset({"knight_swap", "sokoban"})
NAMES = sorted(set(reasoning_gym.factory.DATASETS) - {"composite"} - set(exact.REFUSED) - TAKES_LONG_TO_MAKE)


@pytest.fixture(autouse=True, scope="module")
def _close_workers() -> Iterator[None]:
    yield
    POOL.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # arc_agi's package leaves its data file open
@pytest.mark.parametrize("name", NAMES)
def test_no_generator_pays_for_a_wrong_answer(name: str) -> None:
    assert audit.audit_generator(name, 2, 5, audit.ours) == []


def test_records_pay_for_no_wrong_answer() -> None:
    references = [
        "75",
        "-3",
        "0.5",
        "\\frac{3}{7}",
        "(2, 5)",
        "\\{3, 8\\}",
        "x^2 + 1",
        "6 \\text{ cm}",
        "4, 9",
        "28\\%",
    ]
    right = {("4, 9", "permutation"), ("\\{3, 8\\}", "permutation"), ("x^2 + 1", "permutation")}
    right |= {("6 \\text{ cm}", "prefix"), ("28\\%", "prefix")}  # a unit may be left out
    found = audit.audit_records("records", [("", reference) for reference in references], seed=1)
    assert [finding for finding in found if (finding.reference, finding.kind) not in right] == []


def test_the_audit_finds_what_the_library_pays() -> None:
    kinds = {finding.kind for finding in audit.audit_generator("gsm_symbolic", 2, 5, audit.the_library_s)}
    assert {"several", "negation", "sign", "units", "extra"} <= kinds
    constants = [found.answer for found in audit.audit_generator("coin_flip", 4, 5, audit.the_library_s)]
    assert "0" in constants


@pytest.mark.parametrize(
    ("right", "wrong"), [("5*(3 - 1)*2 + 4", "5*(3-1)*2+4+0"), ("4+2*5*(3-1)", "24"), ("", "4*6*1*1")]
)
def test_four_numbers_are_the_item_s(right: str, wrong: str) -> None:
    # 5 * 2 * 2 + 4 = 24 uses 5, 3, 1, 2 and 4: five numbers, each once
    entry = {"answer": "x", "metadata": {"numbers": [1, 2, 3, 4, 5], "target": 24}}
    assert not right or exact.CHECKS["countdown"](right, entry)
    assert not exact.CHECKS["puzzle24"](wrong, entry)
    for bad in ("24.0", "5*(3-1)*2+4 # 1", "5**1", "5//1", "(5", "5*(3-1)*2+4.0", "24/0", "9" * 400):
        assert not exact.CHECKS["countdown"](bad, entry)


HERE, THERE = '"Agent[0.5, 0.5]"', '"Agent[0.5, 1.5]"'
ACROSS, LIFT = '"move(box_red, square[0.5, 1.5])"', '"move(box_red, target_red)"'
PULL = '"move(target_red, square[0.5, 0.5])"'


@pytest.mark.parametrize(
    ("name", "metadata", "reference", "right", "wrong"),
    [
        # 15 / 128 = 0.1171875
        (
            "coin_flip",
            {"rational": {"numerator": 15, "denominator": 128}},
            "0.1171875",
            ["15/128", "0.1172", "0.117188", "30/256"],
            ["0", "0.1", "0.12", "0.117", "-0.1171875", "0.11718751", "nan", "15/0"],
        ),
        ("gsm_symbolic", {}, "75", ["75", "75.0"], ["-75", "not 75", "75 or 7", "75 99", "7", "75 apples"]),
        ("spell_backward", {}, "olleh", ["Olleh"], ["olleha", "olle", "olleh olleh", "o l l e h"]),
        ("word_sorting", {}, "a, b, c", ["a,b,c"], ["a, b, c, d", "a, b", "c, b, a", "a b c"]),
        ("letter_jumble", {}, "let it be", ["Let it be"], ["let it be me", "let it", "be it let"]),
        ("complex_arithmetic", {"result": [8.0, 3.0]}, "8.0 + 3.0i", ["8+3i", "(8 + 3j)"], ["nan", "8", "8-3i"]),
        ("complex_arithmetic", {"result": [0.0, -1.0]}, "-1.0i", ["-i", "0 - 1i"], ["i", "-1", "1"]),
        ("number_sorting", {}, "['1.0', '2.5']", ["[1, 2.5]"], ["['1.5', '2.0']", "[2.5, 1]", "[1]", "1, 2.5"]),
        ("calendar_arithmetic", {}, "14", ["14"], ["14.5", "-14", "13", "14 days or 15"]),
        ("time_intervals", {"task_type": "date"}, "5 days", ["5"], ["5 or 7 days", "-5", "5 6"]),
        ("time_intervals", {"task_type": "time"}, "03:22:03", ["3:22:03"], ["03:22:03:99", "03:22", "02:82:03"]),
        ("knights_knaves", {}, "Al is a knight, and Bo is a knave.", ["Bo is a knave, and Al is a knight"], [
            "Al is a knight a knave, and Bo is a knave", "Al is a knight or Bo is a knave", "Al is a knight"]),
        ("game_of_life", {}, "[[0,1],[1,0]]", ["[[0, 1], [1, 0]]"], ["[[0,1],[1,0],[0,0]]", "[[false,1],[1,0]]"]),
        ("decimal_arithmetic", {}, "0.0004", ["0.00040"], ["0", "0.001", "0.0005"]),
        ("polynomial_equations", {}, "-1.5, 2.0", ["2, -1.5"], ["2", "-1.5, 2, 3", "", "x", "-1.5 2"]),
        ("prime_factorization", {}, "2 × 3", ["3 x 2"], ["6", "2 × 3 × 1", "2"]),
        (
            "tower_of_hanoi",
            {"num_pegs": 3, "num_disks": 1, "start_peg": 1, "target_peg": 3, "solution_length": 1},
            "Move disk 1 from Peg 1 to Peg 3",
            ["Move disk 1 from Peg 1 to Peg 3\n"],
            ["not Move disk 1 from Peg 1 to Peg 3", "Move disk 1 from Peg 1 to Peg 2"],
        ),
        (
            "graph_color",
            {"puzzle": {"vertices": [0, 1], "edges": [(0, 1)], "color_options": [1, 2]}},
            None,
            ['{"0": 1, "1": 2}'],
            ['{"0": 1, "1": 1}', '{"0": 1}', '{"0": true, "1": 2}', '{"0": 1, "1": 2, "2": 1}'],
        ),
        (
            "boxnet",
            {"initial_state": {"0.5_0.5": ["box_red"], "0.5_1.5": ["target_red"]}},
            None,
            [f"[{{{HERE}: {ACROSS}}}, {{{THERE}: {LIFT}}}]"],
            [f"[{{{THERE}: {LIFT}, {HERE}: {ACROSS}}}]", f"[{{{HERE}: {LIFT}}}]", f"[{{{HERE}: {PULL}}}]", "[]"],
        ),
        # AA stands at the left of row 2, and nothing is before it: four steps to the exit
        ("rush_hour", {"board_config": "o" * 12 + "AAoooo" + "o" * 18}, None, ["A+4", "A+2 A+2"], [
            "A+5", "A+3", "B+1 A+4", "go A+4", "A+4 A+4", ""]),
    ],
)  # fmt: skip
def test_our_checks_by_hand(
    name: str, metadata: dict[str, Any], reference: str | None, right: list[str], wrong: list[str]
) -> None:
    entry = {"answer": reference, "metadata": metadata}
    for answer in right:
        assert exact.CHECKS[name](answer, entry), answer
    for answer in wrong:
        assert not exact.CHECKS[name](answer, entry), answer


@pytest.mark.parametrize("name", sorted(set(exact.CHECKS) - {"arc_agi", "rearc"}))
def test_every_check_accepts_its_references(name: str) -> None:
    dataset = create(name, {"seed": 3, "size": 10})
    for index in range(10):
        entry = dataset[index]
        if isinstance(entry["answer"], str):
            assert score_generated(dataset, name, "{}", entry, entry["answer"] + " ").score == 1.0


def test_what_is_refused_says_why() -> None:
    with pytest.raises(ValueError, match="'propositional_logic' is not offered: its verifier takes a premise"):
        Reasoning(dataset="propositional_logic")


def test_an_integral_that_stands_unsolved_is_no_reference() -> None:
    source = Generator("intermediate_integration", {}, {"train": 12}, seed=3)
    assert not any("Integral(" in (source.item("train", index).answer or "") for index in range(12))
