"""Short names of plugs, as installed distributions offer them: entry points of the group `sibling_harness`, each a
mapping short name -> "module:Name".

    [project.entry-points.sibling_harness]
    methods = "my_package.methods:SHORT"

Nothing here knows a plug: whoever installs a package of methods or environments finds them in `harness methods` and
`harness environments`.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from types import ModuleType

from harness.core.errors import UnknownNameError

GROUP = "sibling_harness"


@cache
def catalogue(kind: str) -> dict[str, str]:
    """Short name to plug name, of every distribution that offers this kind (methods, contexts, policies, baselines,
    setups), in their order."""
    return {short: plug for entry in _offered(kind) for short, plug in dict(entry.load()).items()}


@cache
def environment_modules() -> tuple[ModuleType, ...]:
    """The modules that register environments with Gymnasium when they are imported."""
    return tuple(entry.load() for entry in _offered("environments"))


def plug_of(name: str, kind: str, group: str) -> str:
    """`module:Name` as it is; a short name looked up. UnknownNameError with the nearest short name."""
    if ":" in name:
        return name
    known = catalogue(group)
    if name not in known:
        raise UnknownNameError(kind, name, known, "Your own: module:Name.")
    return known[name]


def environment_id(name: str) -> str:
    """An environment id with its module in front, as Gymnasium imports it: a bare id belongs to the installed
    catalogue that registers it (to the first, where none does: making it says what is near)."""
    if ":" in name or not environment_modules():
        return name
    home = next((module for module in environment_modules() if name in offered_ids(module)), environment_modules()[0])
    return f"{home.__name__}:{name}"


def offered_ids(module: ModuleType) -> list[str]:
    """The Gymnasium ids whose classes stand in a module's package."""
    import gymnasium

    package = f"{module.__name__.partition('.')[0]}."
    return sorted(
        name
        for name, spec in gymnasium.registry.items()
        if str(getattr(spec.entry_point, "__module__", spec.entry_point)).startswith(package)
    )


def _offered(kind: str) -> list[metadata.EntryPoint]:
    # A checkout that is installed and on the path as well offers the same entry twice.
    entries = {entry.value: entry for entry in metadata.entry_points(group=GROUP, name=kind)}
    return list(entries.values())
