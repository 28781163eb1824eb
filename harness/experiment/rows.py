"""Rows with settings of their own: which may differ in what, and what a search of them may be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from harness.core.errors import UnknownNameError
from harness.experiment.settings import MethodSettings, OptimiserSettings, SearchSettings, Settings

if TYPE_CHECKING:
    from harness.experiment.spec import Experiment

ROLLOUTS = ("group_size", "prompts_per_step", "mixed_groups", "candidate_limit")
"""Keys of [sampling] that a row may have of its own: they say which rollouts it learns from. The others say how the
policy speaks, in training and when it is judged."""
S = TypeVar("S", bound=Settings)


def laid_over(section: S, table: Mapping[str, Any]) -> S:
    """A section with some keys replaced. ValueError for a key that it does not have, or a wrong value."""
    for key in table:
        if key not in type(section).model_fields:
            raise UnknownNameError("key", key, type(section).model_fields)
    data = section.model_dump(mode="json") | dict(table)
    try:
        return type(section).model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}" if where else first["msg"]) from None


def check_own(experiment: Experiment, row: MethodSettings) -> None:
    """ValueError where a row may not differ in what it differs in."""
    where = f"method {row.label!r}"
    if row.sampling:
        for key in row.sampling:
            if key not in ROLLOUTS:
                raise UnknownNameError(f"sampling key of {where}", key, ROLLOUTS, "(the others are the experiment's)")
    try:
        effective = experiment.for_row(row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    shared, own = experiment.sampling, effective.sampling
    if shared.group_size * shared.prompts_per_step != own.group_size * own.prompts_per_step:
        raise ValueError(
            f"{where}: group_size * prompts_per_step is {own.group_size * own.prompts_per_step}, the experiment's is "
            f"{shared.group_size * shared.prompts_per_step}: rows play as many rollouts in a step"
        )
    if row.exploratory or experiment.search is not None:
        return
    if row.optimiser:
        raise ValueError(
            f"{where} has optimiser settings of its own ({', '.join(row.optimiser)}): rows may differ in them only "
            "where the experiment declares a [search], or in an exploratory row"
        )
    if (row.loss or row.sampling) and not row.as_published:
        raise ValueError(
            f"{where} has settings of its own ({', '.join(row.own)}): say as_published = true where they are part of "
            "the method, or exploratory = true"
        )


def check_search(experiment: Experiment, search: SearchSettings) -> None:
    """ValueError for a search that would tune on what is reported, or that gives rows unequal chances."""
    shared = sorted(set(search.seeds) & set(experiment.seeds))
    if shared:
        raise ValueError(f"search: seed {shared[0]} is a tuning seed and a reporting seed; they must be disjoint")
    if len(set(search.seeds)) != len(search.seeds):
        raise ValueError(f"search: seeds must differ from each other, got {list(search.seeds)}")
    if search.split in (experiment.environment.eval_split, experiment.environment.train_split):
        raise ValueError(f"search: split {search.split!r} is trained on or reported on; tune on another")
    for key, values in search.space.items():
        if key not in OptimiserSettings.model_fields:
            raise UnknownNameError("key of search.space", key, OptimiserSettings.model_fields)
        for value in values:
            laid_over(experiment.optimiser, {key: value})
    for row in searched_rows(experiment):
        _check_knob(experiment, row)
        size = math.prod(map(len, space_of(search, row).values()))
        if size < search.trials:
            raise ValueError(
                f"search: {search.trials} trials of every row, but {row.label!r} has {size} settings to try; "
                "give it a knob, or widen the space"
            )


def searched_rows(experiment: Experiment) -> list[MethodSettings]:
    """The rows that a search tunes: those that test something, as published."""
    return [row for row in experiment.methods if not row.exploratory and not row.optimiser]


def space_of(search: SearchSettings, row: MethodSettings) -> dict[str, tuple[Any, ...]]:
    """Values by flat name of everything that is searched of a row: the shared space, then its knob."""
    space = {f"optimiser.{key}": values for key, values in sorted(search.space.items())}
    return space | ({row.knob.name: row.knob.values} if row.knob else {})


def with_settings(row: MethodSettings, settings: Mapping[str, Any]) -> MethodSettings:
    """A row with flat settings (`optimiser.lr`, `options.beta`) laid over its own."""
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        changed[section] = changed.get(section, getattr(row, section)) | {key: value}
    return row.model_copy(update=changed)


def _check_knob(experiment: Experiment, row: MethodSettings) -> None:
    if row.knob is None:
        return
    sections = ("options", "loss", "sampling", "optimiser")
    section, dot, key = row.knob.name.partition(".")
    if not dot or section not in sections:
        raise UnknownNameError(f"knob of {row.label!r}", row.knob.name, [f"{known}.NAME" for known in sections])
    if section != "options":
        for value in row.knob.values:
            laid_over(getattr(experiment, section), {key: value})
