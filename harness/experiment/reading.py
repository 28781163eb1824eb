"""Specs in TOML: read, every mistake explained in one sentence; and written, readable again to the same experiment."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from harness.core.errors import UnknownNameError, UserError
from harness.core.records import write_whole
from harness.experiment.settings import Settings
from harness.experiment.spec import Experiment


def read_experiment(path: Path | str) -> Experiment:
    """The experiment in a TOML file; UserError names the file, the key and the nearest right one."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if path.is_file():
            raise UserError(f"{path}: {error.strerror}") from None
        raise UnknownNameError("experiment file", str(path), _specs_near(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    try:
        return parse_experiment(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _specs_near(path: Path) -> list[str]:
    """Spec files, and folders that hold one, around a path that is none."""
    around = [*path.parent.glob("*"), *path.parent.parent.glob(f"*/{path.name}")]
    return [
        str(found)
        for found in around
        if found.suffix == ".toml" or any(found.glob("spec.toml")) or any(found.glob("*/spec.toml"))
    ]


def parse_experiment(data: Mapping[str, Any]) -> Experiment:
    """The experiment in plain data, every mistake in one readable error."""
    try:
        # As JSON, since a list of TOML may stand for a tuple; strictly, since "8" is no number.
        return Experiment.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item) for item in error.errors())) from None


def _explain(item: Any) -> str:
    place = [str(part) for part in item["loc"]]
    where = ".".join(place)
    if item["type"] != "extra_forbidden":
        return f"{where or 'experiment'}: {item['msg'].removeprefix('Value error, ')}"
    known = list(_fields_at(item["loc"][:-1]))
    return str(UnknownNameError("key", place[-1], known, hint=f"(at {where})"))


def _fields_at(location: tuple[Any, ...]) -> tuple[str, ...]:
    """Names of the fields of the settings model at a place of the tree."""
    model: Any = Experiment
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            candidates = [annotation, *get_args(annotation)]
            model = next((c for c in candidates if isinstance(c, type) and issubclass(c, Settings)), model)
    return tuple(model.model_fields)


def write_spec(experiment: Experiment, file: Path) -> None:
    """The spec as TOML, readable again to the same experiment."""
    import tomli_w

    write_whole(file, tomli_w.dumps(json.loads(experiment.model_dump_json(exclude_none=True))))
