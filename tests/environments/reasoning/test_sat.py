"""What stands in pycosat's place finds every model, held against trying all assignments."""

from itertools import product

import pycosat
from hypothesis import given
from hypothesis import strategies as st

VARIABLES = 5
EVERY_VARIABLE = list(range(1, VARIABLES + 1))
literals = st.sampled_from([*EVERY_VARIABLE, *(-v for v in EVERY_VARIABLE)])
formulas = st.lists(st.lists(literals, min_size=1, max_size=3), max_size=12)


@given(formulas)
def test_all_models_and_no_other(clauses: list[list[int]]) -> None:
    formula = [*clauses, EVERY_VARIABLE]
    assignments = [
        tuple(v if true else -v for v, true in zip(EVERY_VARIABLE, signs, strict=True))
        for signs in product((True, False), repeat=VARIABLES)
    ]
    models = {row for row in assignments if all(set(clause) & set(row) for clause in formula)}
    found = [tuple(model) for model in pycosat.itersolve(formula)]
    assert set(found) == models
    assert len(found) == len(models)
    assert (pycosat.solve(formula) == "UNSAT") == (not models)
