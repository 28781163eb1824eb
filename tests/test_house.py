"""The house's rules, read from the sources: who may import whom, what may be written down, how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

import environments  # noqa: F401 - registers its ids
from agents.methods import SHORT
from harness import ROOT

PRODUCT = sorted(file for tree in ("harness", "environments", "agents") for file in (ROOT / tree).rglob("*.py"))
SOURCES = [*PRODUCT, *sorted((ROOT / "tests").rglob("*.py"))]
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "trl", "verl", "ray", "submitit", "peft", "bitsandbytes"}
DOORS = dict.fromkeys(HEAVY, ("harness/losses/", "harness/backends/"))
DOORS |= dict.fromkeys(("ray", "submitit"), ("harness/backends/", "harness/executors/"))
"""Where torch and its relatives, and what sends runs elsewhere, may be imported."""
ROOMS: list[set[str]] = [
    {"core"},
    {"experiment", "protocols", "losses", "tables", "endpoint"},
    {"rollout", "backends"},
    {"learning"},
    {"runs", "evaluation"},
    {"executors", "report", "serving"},
    {"cli"},
]
"""The rooms of harness/, from below: a module imports from rooms of its own level and from those below it."""
PUBLIC = {"types", "packing"}
"""Doors at the top of harness/: what plugs import by a short name. Nothing in harness/ goes through them."""
PATHS = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|tmp|opt|srv)/[\w.-]+|[A-Z]:\\\\\w")
HOSTS = re.compile(
    r"artifactory|nexus\.|pypi\.\w+\.\w+/simple|[\w.-]+\.(?:internal|corp|intra)\b|--index-url|--extra-index-url",
    re.IGNORECASE,
)


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in a file, those inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(file)}:{node.lineno}: import by full name"
            yield node.lineno, str(node.module)
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def part_of(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def complaints(files: list[Path], wrong: object) -> list[str]:
    assert files, "no sources were read"
    return sorted(
        {f"{named(file)}:{line} imports {name}" for file in files for line, name in imports(file) if wrong(file, name)}
    )  # type: ignore[operator]


def under(tree: str) -> list[Path]:
    return [file for file in PRODUCT if named(file).startswith(f"{tree}/")]


# ---------------------------------------------------------------- layers


def test_agents_see_types_the_contracts_and_the_endpoint_alone() -> None:
    def wrong(_: Path, name: str) -> bool:
        ours = part_of(name, "harness", "environments", "tests")
        return (
            ours and name != "harness" and not part_of(name, "harness.types", "harness.protocols", "harness.endpoint")
        )

    assert complaints(under("agents"), wrong) == []


def test_environments_see_the_endpoint_and_their_contract_alone() -> None:
    allowed = ("harness.endpoint", "harness.protocols.environment", "harness.protocols.check_environment")

    def wrong(_: Path, name: str) -> bool:
        ours = part_of(name, "harness", "agents", "tests")
        return ours and name != "harness" and not part_of(name, *allowed)

    assert complaints(under("environments"), wrong) == []


def test_what_runs_in_another_interpreter_stands_alone() -> None:
    """Another library's interpreter has none of this project's packages: what it runs imports its own kind, that
    library's and the standard library's."""
    beside = (
        *(f"isolation/{name}" for name in ("__init__", "worker", "frames", "sandbox", "processes", "walls")),
        *("appworld/inside", "appworld/world", "foreign/inside"),
    )
    files = [file for file in under("environments") if named(file).removeprefix("environments/").startswith(beside)]
    own = ["environments.isolation", *(f"environments.{name.replace('/', '.')}" for name in beside)]
    theirs = ("appworld", "sqlalchemy", "fastapi", "fastapi_login", "starlette", "anyio")
    theirs += ("textarena", "verifiers", "httpx", "aiohttp")  # the last two are verifiers' own

    def wrong(_: Path, name: str) -> bool:
        if name == "environments" or part_of(name, *own, *theirs):
            return False
        return name.partition(".")[0] not in sys.stdlib_module_names

    assert complaints(files, wrong) == []


def test_the_harness_knows_no_plug() -> None:
    assert complaints(under("harness"), lambda _, name: part_of(name, "environments", "agents", "tests")) == []


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every string constant that is no docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_no_string_of_the_harness_names_a_plug() -> None:
    """Neither an environment nor a method, nor the module of one: names come from specs and from catalogues. Help texts
    (docstrings) may give examples."""
    modules = re.compile(r"\b(?:agents|environments)[.:][a-zA-Z_]")
    ids = {name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("environments.")}
    words = {re.sub(r"(Mini|Procedural)?-v\d+$", "", name) for name in ids} - {"Guess", "Reasoning"} | ids
    short = {*SHORT, *(plug.rpartition(":")[2] for plug in SHORT.values())}
    assert len(ids) >= 8
    assert len(short) >= 30
    found = [
        f"{named(file)}:{line} {text[:60]!r}"
        for file in under("harness")
        for line, text in strings(file)
        if text in short or modules.search(text) or any(word in text for word in words)
    ]
    assert found == []


def test_torch_and_its_relatives_stay_behind_their_doors() -> None:
    def wrong(file: Path, name: str) -> bool:
        package = name.partition(".")[0]
        return package in HEAVY and not named(file).startswith(DOORS[package])

    assert complaints(PRODUCT, wrong) == []


def test_importing_a_light_module_imports_nothing_heavy() -> None:
    """At a module's top level even the doors may not be gone through by what `harness --help` and worker processes
    load first."""
    rooms = [file for room in ("cli", "core", "experiment", "protocols") for file in under(f"harness/{room}")]
    light = [file for file in rooms if not file.name.startswith("check_")]
    for file in light:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        tops = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in tops if isinstance(node, ast.ImportFrom)}
        heavy = HEAVY | {
            "pandas",
            "scipy",
            "matplotlib",
            "gymnasium",
            "harness.losses",
            "harness.packing",
            "harness.tables.statistics",
            "harness.tables.table",
        }
        assert not names & heavy, named(file)


def level_of(name: str) -> int | None:
    """The level of a dotted name's room; None for the package itself and its doors."""
    room = name.removeprefix("harness.").partition(".")[0]
    return next((number for number, rooms in enumerate(ROOMS) if room in rooms), None)


def test_every_module_stands_in_a_room_or_is_a_door() -> None:
    assert {file.relative_to(ROOT).parts[1].removesuffix(".py") for file in under("harness")} == set.union(
        *ROOMS, PUBLIC, {"__init__"}
    )


def test_the_harness_goes_through_none_of_its_doors() -> None:
    doors = tuple(f"harness.{name}" for name in PUBLIC)
    assert complaints(under("harness"), lambda _, name: part_of(name, *doors)) == []


def test_imports_point_down() -> None:
    def wrong(file: Path, name: str) -> bool:
        own, other = level_of(".".join(file.relative_to(ROOT).with_suffix("").parts)), level_of(name)
        return part_of(name, "harness") and own is not None and other is not None and other > own

    assert complaints(under("harness"), wrong) == []


def test_there_is_no_circle_among_what_is_imported_at_once() -> None:
    """Imports at the top of modules form no circle (those inside functions may: they run later)."""
    edges: dict[str, set[str]] = {}
    for file in PRODUCT:
        parts = file.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tops = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        edges[module] = {str(node.module) for node in tops} | {
            f"{node.module}.{alias.name}" for node in tops for alias in node.names
        }

    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module in edges and module not in done:
            for target in edges[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())


# ---------------------------------------------------------------- what may be written


def texts() -> list[Path]:
    kinds = {".py", ".md", ".toml", ".txt", ".cfg", ".yml", ".yaml", ".svg", ".json"}
    places = [ROOT / tree for tree in ("harness", "environments", "agents", "tests", "docs", "results", ".github")]
    found = [file for place in places if place.is_dir() for file in place.rglob("*") if file.suffix in kinds]
    return [*found, *(file for file in ROOT.iterdir() if file.suffix in kinds or file.name == "Makefile")]


@pytest.mark.parametrize(("what", "pattern"), [("a path of a machine", PATHS), ("a registry's host", HOSTS)])
def test_nothing_names(what: str, pattern: re.Pattern[str]) -> None:
    """Nothing that is committed names a place that exists on one machine only."""
    found = [
        f"{named(file)}:{number} names {what}: {match.group()}"
        for file in texts()
        if file != Path(__file__)
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        for match in pattern.finditer(line)
    ]
    assert found == []


def test_the_patterns_would_find_what_they_look_for() -> None:
    assert PATHS.search("see /home/ann/x")
    assert PATHS.search('"/' + 'work/main/harness"')
    assert not PATHS.search("results/" + "work/main")
    assert not PATHS.search("https://example.org/home/page")
    assert HOSTS.search("pip install --index-url https://x")
    assert not HOSTS.search("https://pypi.org/project/x")


# ---------------------------------------------------------------- size and words


@pytest.mark.parametrize("file", SOURCES, ids=named)
def test_a_file_is_one_idea(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= 500 if named(file).startswith("tests/") else lines <= 450, f"{lines} lines"
    tree = ast.parse(text)
    if tree.body:
        assert ast.get_docstring(tree), "its first line says what it is about"
    assert not re.search(r"#.*\b(TODO|FIXME|XXX)\b", text) or file == Path(__file__)


def classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]


def public(nodes: list[ast.stmt]) -> list[ast.FunctionDef]:
    return [node for node in nodes if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


BASES = (*under("harness/protocols"), ROOT / "harness/losses/streams.py", ROOT / "harness/rollout/policies.py")
PROMISED = {method.name for file in BASES for node in classes(file) for method in public(node.body)}
"""Methods that a contract, or a base class beside its subclasses, documents for all who keep it."""


@pytest.mark.parametrize("file", PRODUCT, ids=named)
def test_what_is_public_says_what_it_does(file: Path) -> None:
    """Public functions and classes at the top of a module, and the public methods of public classes."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    open_classes = [node for node in classes(file) if not node.name.startswith("_")]
    methods = [(node, m) for node in open_classes for m in public(node.body) if m.name not in PROMISED]
    quiet = [node.name for node in (*public(body), *open_classes) if not ast.get_docstring(node)]
    quiet += [f"{node.name}.{method.name}" for node, method in methods if not ast.get_docstring(method)]
    assert quiet == []


@pytest.mark.parametrize("file", PRODUCT, ids=named)
def test_functions_fit_a_screen(file: Path) -> None:
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


@pytest.mark.parametrize("file", SOURCES, ids=named)
def test_lines_fit_a_screen(file: Path) -> None:
    wide = [n for n, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1) if len(line) > 120]
    assert wide == []


def test_nothing_is_left_lying() -> None:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no checkout of git")
    stray = (".orig", ".rej", ".bak", ".swp", ".tmp", "~", ".pyc", ".patch", ".diff")
    assert [name for name in done.stdout.splitlines() if name.endswith(stray)] == []


def test_every_marker_is_declared() -> None:
    declared = {
        line.partition(":")[0]
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    }
    used = {m for file in SOURCES for m in re.findall(r"pytest\.mark\.(\w+)", file.read_text(encoding="utf-8"))}
    assert used - {"parametrize", "skipif", "skip", "usefixtures", "xfail", "filterwarnings", "timeout"} <= declared
