"""Paths that people type: spec files, results folders, files of records; what is not there is named with what is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import UnknownNameError, UserError, nearest
from harness.core.shipped import results


def existing(path: Path, kind: str) -> Path:
    """The path, where something is. UnknownNameError with the nearest one of what lies around it."""
    if not path.exists():
        near = nearest(str(path), map(str, (*path.parent.glob("*"), *path.parent.parent.glob(f"*/{path.name}"))))
        raise UnknownNameError(
            kind, str(path), [near] if near else [], "" if near else "(there is nothing at that path)"
        )
    return path


def spec_files(specs: Sequence[Path]) -> list[Path]:
    """The spec files meant by paths of files and folders. UnknownNameError with the nearest one for a path that is
    none."""
    found: list[Path] = []
    for path in specs:
        if not path.exists():
            raise UnknownNameError("spec", str(path), [*_specs_beside(path), *_known_specs()])
        if path.is_dir():
            inside = sorted([*path.glob("spec.toml"), *path.glob("*/spec.toml")])
            if not inside:
                raise UserError(f"no spec.toml in {str(path)!r} or in a folder in it")
            found += inside
        elif path.suffix != ".toml":
            raise UserError(f"{path} is no spec: an experiment's spec is a TOML file, such as {_known_specs()[0]}")
        else:
            found.append(path)
    return found


def one_spec(path: Path) -> Path:
    """The one spec file meant by a path. UserError where a folder holds several."""
    found = spec_files([path])
    if len(found) > 1:
        raise UserError(f"{path} holds {len(found)} specs, one is wanted: {', '.join(map(str, found[:6]))}")
    return found[0]


def _specs_beside(path: Path) -> list[str]:
    """Spec files, and folders that hold one, around a path that is none."""
    files = [*path.parent.glob("*.toml"), *path.parent.glob("*/spec.toml"), *path.parent.parent.glob(f"*/{path.name}")]
    return [str(place) for file in files for place in ((file, file.parent) if file.name == "spec.toml" else (file,))]


def _known_specs() -> list[str]:
    """The specs that ship and the folders they stand in, relative to here where that is shorter to type."""
    known = sorted(results().glob("**/spec.toml"))
    places = [place for file in known for place in (file, file.parent, file.parent.parent)]
    return list(dict.fromkeys(min(os.path.relpath(place), str(place), key=len) for place in places))


def places_of(files: Sequence[Path], out: Path | None) -> list[Path]:
    """The results folder of each spec: beside it, or below `out`, under the name of its folder for a `spec.toml` and
    under its own for another file. UserError where two specs would share one."""
    if out is None:
        places = [file.parent for file in files]
    else:
        places = [out / (file.resolve().parent.name if file.name == "spec.toml" else file.stem) for file in files]
    for number, place in enumerate(places):
        if place in places[:number]:
            one = files[places.index(place)]
            raise UserError(f"the results of {one} and {files[number]} would both be {place}; run them one by one")
    return places
