"""Where what belongs to a results folder may lie beside it."""

from __future__ import annotations

from pathlib import Path


def fidelity_places(folder: Path) -> tuple[Path, Path]:
    """Where its fidelity measurement may be: in the folder, or under its name in a tree `fidelity` beside its own."""
    return folder / "fidelity", folder.parent.parent / "fidelity" / folder.name
