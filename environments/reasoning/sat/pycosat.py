"""pycosat's `itersolve` and `solve` on python-sat's solvers, which come as ready-made wheels.

reasoning-gym's logic puzzles count the solutions of a puzzle with it. Models may come in another order than pycosat's;
there are as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pysat.solvers import Cadical153

UNSAT = "UNSAT"
"""What `solve` gives where there is no model."""


def itersolve(clauses: Iterable[Sequence[int]]) -> Iterator[list[int]]:
    """Every model of a formula in conjunctive normal form: for each variable its number, negative where it is false."""
    with Cadical153(bootstrap_with=[list(clause) for clause in clauses]) as solver:
        yield from solver.enum_models()


def solve(clauses: Iterable[Sequence[int]]) -> list[int] | str:
    """One model, or UNSAT."""
    return next(itersolve(clauses), UNSAT)
