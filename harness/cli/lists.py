"""Commands that list what there is: methods, contexts, environments, published; and setup, which installs what an
environment needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from harness.cli.options import Json
from harness.cli.screen import console, line, only_json, print_json, progress
from harness.core.errors import HarnessError, UnknownNameError
from harness.core.shipped import results
from harness.core.words import shown

PUBLISHED = results() / "published.toml"


def summary_of(plug: object) -> str:
    """The first sentence or paragraph of what a plug says it is, on one line."""
    import inspect

    return " ".join((inspect.getdoc(plug) or "").partition("\n\n")[0].split())


def methods(as_json: Json = False) -> None:
    """List the methods with their papers.

    Example: harness methods --json
    """
    from harness.core.catalogue import catalogue
    from harness.core.plugs import resolve
    from harness.protocols.method import paper_of

    found = []
    for name, plug in catalogue("methods").items():
        cls = resolve(plug, "method")
        found.append({"name": name, "plug": plug, "paper": paper_of(cls), "what it does": summary_of(cls)})
    _list("methods (your own: module:Name)", found, ("name", "paper", "what it does"), as_json)


def contexts(as_json: Json = False) -> None:
    """List the sources of privileged contexts.

    Example: harness contexts
    """
    from harness.core.catalogue import catalogue
    from harness.core.plugs import resolve

    found = [
        {"name": name, "plug": plug, "what the teacher reads": summary_of(resolve(plug, "context source"))}
        for name, plug in catalogue("contexts").items()
    ]
    _list("context sources (your own: module:Name)", found, ("name", "plug", "what the teacher reads"), as_json)


def environments(as_json: Json = False) -> None:
    """List the environments that are registered.

    Example: harness environments
    """
    import gymnasium

    from harness.core.catalogue import environment_modules, offered_ids

    found = [
        {"id": name, "class": str(gymnasium.registry[name].entry_point)}
        for module in environment_modules()
        for name in offered_ids(module)
    ]
    _list("environments (your own: module:Id)", found, ("id", "class"), as_json)


def _list(title: str, found: Sequence[Mapping[str, str]], columns: Sequence[str], as_json: bool) -> None:
    """Print a list as a grid of these columns, or all of it as JSON."""
    from rich.table import Table as Grid

    if as_json:
        print_json(found)
        return
    grid = Grid(*columns, title=title)
    for entry in found:
        grid.add_row(*(shown(entry[column]) for column in columns))
    console.print(grid)


def published(
    method: Annotated[str | None, typer.Option(help="Only this method's, as the papers write it.")] = None,
    environment: Annotated[str | None, typer.Option(help="Only on this benchmark.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    split: Annotated[str | None, typer.Option(help="Only on this split.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only this metric.")] = None,
    paper: Annotated[str | None, typer.Option(help="Only from this paper (arXiv id).")] = None,
    as_json: Json = False,
) -> None:
    """Print the figures that papers publish, each with its place: cited, never compared with a run here.

    Example: harness published --environment AppWorld --method GRPO
    """
    from harness.report.terminal import print_grid
    from harness.tables.published import choose, parse, published_grid

    entries = parse(PUBLISHED.read_text(encoding="utf-8"))
    wanted = {"method": method, "environment": environment, "model": model, "split": split, "metric": metric}
    chosen = choose(entries, **wanted, paper=paper)
    if as_json:
        print_json(chosen)
    else:
        print_grid(published_grid(chosen), console)


def setup(
    names: Annotated[list[str] | None, typer.Argument(help="What to install; none lists what there is.")] = None,
    as_json: Json = False,
) -> None:
    """Install what an environment needs besides this package. What is there already is left as it is.

    Example: harness setup appworld
    """
    from harness.core.catalogue import catalogue
    from harness.core.plugs import resolve

    known = catalogue("setups")
    if not names:
        found = [{"name": name, "what it does": summary_of(resolve(plug))} for name, plug in known.items()]
        _list("harness setup NAME", found, ("name", "what it does"), as_json)
        return
    outcomes = []
    for name in names:
        if name not in known:
            raise UnknownNameError("set-up", name, known)
    for name in names:
        with only_json(as_json), progress() as show:
            try:
                outcome = resolve(known[name])(show)
            except RuntimeError as error:
                raise HarnessError(f"{name}: {error}") from error
        outcomes.append({"name": name, "outcome": outcome})
        if not as_json:
            line(f"[green]{shown(name)}[/green]: {shown(outcome)}")
    if as_json:
        print_json(outcomes)
