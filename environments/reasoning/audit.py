"""A standing audit: which verifiers pay for answers that are wrong.

    python -m environments.reasoning.audit                    # every generator of reasoning-gym
    python -m environments.reasoning.audit coin_flip gcd      # some
    python -m environments.reasoning.audit --file gsm8k.jsonl # the records of a file

It makes wrong answers of right ones (`attacks`), asks for their scores, and lists those that are paid in full: by the
verifier of the library, to say where `exact` must have a check of its own, and by our grader, which must pay for none.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import reasoning_gym.factory

from environments.reasoning import exact, records
from environments.reasoning.generated import Generator
from environments.reasoning.grader import POOL, score_generated, score_math

CONSTANTS = (
    *("0", "1", "-1", "2", "5", "10", "100", "0.5", "1/2", "0.0001", "nan", "inf", "1e999", "i", "x", "C", "a", "A"),
    *(
        "True",
        "False",
        "true",
        "Yes",
        "No",
        "yes",
        "None",
        "null",
        "answer",
        "entry['answer']",
        "no",
        "on",
        "undetermined",
    ),
    *("[]", "{}", "()", "[[]]", '""', "[{}]", "[0]", "0 0", "0\n0", "4*6*1*1", "3*8*1*1", "12+12", "1 2 3 4 5 6 7 8 9"),
    *("0123456789", "abcdefghijklmnopqrstuvwxyz", "A B C", "U D L R", "R U R' U'", "UDLR", "A+1", "up down left right"),
)
"""Answers that read no question."""

SECONDS = 1.0
"""Processor time that an attack may take; those that take more are paid nothing anyway."""

EQUIVALENT: dict[str, frozenset[str]] = {
    "codeio": frozenset({"near"}),
    "coin_flip": frozenset({"prefix"}),
    "countdown": frozenset({"permutation", "sign", "units"}),
    "graph_color": frozenset({"near", "permutation"}),
    "group_anagrams": frozenset({"permutation"}),
    "n_queens": frozenset({"permutation"}),
    "polynomial_equations": frozenset({"permutation"}),
    "pool_matrix": frozenset({"prefix"}),
    "prime_factorization": frozenset({"permutation"}),
    "polynomial_multiplication": frozenset({"permutation"}),
    "power_function": frozenset({"near", "prefix", "concatenation"}),
    "puzzle24": frozenset({"permutation"}),
    "quantum_lock": frozenset({"permutation"}),
    "time_intervals": frozenset({"prefix"}),
    "word_ladder": frozenset({"permutation"}),
    "simple_integration": frozenset({"permutation", "concatenation", "extra", "near"}),
    "intermediate_integration": frozenset({"permutation", "concatenation", "extra", "near"}),
}
"""Kinds of attack whose answers may be right, by generator: the order of factors or of
a sum, another constant of an integral, digits beyond those asked for or beyond a float's, `6.` for `6.0`, another
colouring or another solution of the queens, `11` for `11 days`."""


class Finding(NamedTuple):
    """A wrong answer paid in full."""

    source: str
    kind: str
    reference: str
    answer: str


def attacks(reference: str, other: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, answer) of answers that are made of the reference, and of another item's, and are wrong where they differ
    from the reference in value; see `differs`.
    """
    for constant in CONSTANTS:
        yield "constant", constant
    yield "constant", other
    for end in {1, 2, len(reference) // 2, len(reference) - 1} - {0}:
        yield "prefix", reference[:end]
        yield "prefix", reference[end:]
    for joint in ("", " ", "\n", ",", ", "):
        yield "concatenation", f"{reference}{joint}{reference}"
    yield "concatenation", f"{reference}1"
    yield "concatenation", f"{reference}a"
    yield "concatenation", f"{reference}\n0"
    for joint in (" or ", " and ", ", ", " ", "\n", " / ", "; ", "|"):
        yield "several", f"{reference}{joint}{other}"
        yield "several", f"{other}{joint}{reference}"
    for negation in (
        "not {}",
        "NOT {}",
        "¬{}",
        "~{}",
        "!{}",
        "it is not {}",
        "{} is wrong",
        "\\text{{not }}{}",
        "!={}",
    ):
        yield "negation", negation.format(reference)
    words = reference.split()
    swapped = list(words)
    rng.shuffle(swapped)
    yield "permutation", " ".join(reversed(words))
    yield "permutation", " ".join(swapped)
    yield "permutation", reference[::-1]
    for extra in ("{} maybe", "the {}", "{} apples", "I think {}", "{}.5", "{} # {}", "{} or so", "{}?", "x = {} = y"):
        yield "extra", extra.replace("{}", reference)
    yield "sign", f"-{reference}"
    yield "sign", reference.replace("-", "") if "-" in reference else f"−{reference}"
    for unit in (" cm", " m", "%", "\\%", "°", "\\text{ kg}"):
        yield "units", f"{reference}{unit}"
    for number in list(re.finditer(r"\d+", reference))[:3]:
        for step in (1, -1):
            changed = str(int(number.group()) + step).zfill(len(number.group()))
            yield "near", reference[: number.start()] + changed + reference[number.end() :]


def differs(answer: str, reference: str) -> bool:
    """Whether an answer differs from the reference in value, not in blanks, case, final stops or dollar signs only."""

    def plain(text: str) -> str:
        return "".join(text.split()).strip("$").casefold().removesuffix(".").removesuffix("°")

    if not answer.strip() or plain(answer) == plain(reference):
        return False
    return [_value(part) for part in answer.split(",")] != [_value(part) for part in reference.split(",")]


def _value(text: str) -> Fraction | str:
    number, parts = exact.number(text), exact.fraction(text)
    return number if number is not None else Fraction(*parts) if parts is not None and parts[1] else text


def witness(entry: Any) -> str:
    """A right answer to an item: its reference or, where it has none, the example its generator keeps."""
    metadata = entry["metadata"]
    found = entry["answer"] or metadata.get("example_correct_answer") or metadata.get("possible_answer") or ""
    return found if isinstance(found, str) else json.dumps(found)


def audit_generator(name: str, items: int, seed: int, score: Callable[..., float]) -> list[Finding]:
    """The wrong answers that `score(dataset, name, settings, entry, answer)` pays in full, over some items."""
    source = Generator(name, {}, {"train": items + 1}, seed)
    entries = [source.item("train", index).entry for index in range(items + 1)]
    dataset, settings = source.dataset("train", 0)
    rng, found = random.Random(seed), []
    for entry, following in itertools.pairwise(entries):
        assert entry is not None
        reference, other = witness(entry), witness(following)
        for kind, answer in attacks(reference, other, rng):
            if kind in EQUIVALENT.get(name, ()) or not differs(answer, reference):
                continue
            if score(dataset, name, settings, entry, answer) >= 1.0:
                found.append(Finding(name, kind, reference, answer))
    return found


def audit_records(name: str, pairs: Iterable[tuple[str, str]], seed: int) -> list[Finding]:
    """The wrong answers to records, given as (question, reference), that our grader pays."""
    pairs, rng = list(pairs), random.Random(seed)
    return [
        Finding(name, kind, reference, answer)
        for place, (question, reference) in enumerate(pairs)
        for kind, answer in attacks(reference, pairs[place - 1][1], rng)
        if differs(answer, reference) and score_math(reference, answer, question=question).score >= 1.0
    ]


def ours(dataset: Any, name: str, settings: str, entry: Any, answer: str) -> float:
    """Our grader's score."""
    return score_generated(dataset, name, settings, entry, answer, SECONDS).score


def the_library_s(dataset: Any, name: str, settings: str, entry: Any, answer: str) -> float:
    """The score of the library's verifier, which sees the answer in a worker."""
    return POOL.ask(("generated", name, settings, entry, answer), SECONDS).score


def main() -> None:
    """Print what is paid wrongly, one line for each generator and kind, with an example."""
    parser = argparse.ArgumentParser(description="Which verifiers pay for wrong answers.")
    parser.add_argument("names", nargs="*", help="generators; all by default")
    parser.add_argument("--file", help="audit the records of a JSONL file instead")
    parser.add_argument("--items", type=int, default=5, help="items of each generator (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.file:
        source = records.from_files(given.file)
        items = [source.item(task_id) for ids in source.tasks.values() for task_id in ids][: given.items]
        pairs = [(item.question, item.answer) for item in items if item.answer is not None]
        _show("ours", audit_records(given.file, pairs, given.seed))
        return
    known = sorted(set(reasoning_gym.factory.DATASETS) - {"composite"} - set(exact.REFUSED))
    for name in given.names or known:
        _show("the library's", audit_generator(name, given.items, given.seed, the_library_s))
        _show("ours", audit_generator(name, given.items, given.seed, ours))


def _show(whose: str, findings: list[Finding]) -> None:
    for kind in dict.fromkeys(finding.kind for finding in findings):
        of_kind = [finding for finding in findings if finding.kind == kind]
        print(f"{of_kind[0].source}: {whose} verifier pays {len(of_kind)} x {kind}, e.g. {of_kind[0].answer[:60]!r}")


if __name__ == "__main__":
    main()
