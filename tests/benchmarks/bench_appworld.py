"""What an AppWorld episode costs: CPU seconds beside the raw engine's own loop in the same run, our own share of a
step, and what the cache saves.

The work is whole episodes of the own world: the raw loop opens a world, executes six blocks, evaluates and closes, in
one warm process; ours is reset and six steps through gymnasium, the CPU of every process counted. The two take turns,
and no task is played twice the same way, so that no verdict is remembered. `python -m tests.benchmarks.bench_appworld
--caches FOLDER` also tells the hit rates of the caches in FOLDER; with `--beside CHECKOUT` nothing but the same
episodes is played, in turns by this checkout of the project and by another.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from environments.appworld import install
from environments.appworld.env import TURNS
from environments.caching.transitions import Cached, statistics
from tests.benchmarks.appworld_episodes import Episode, make, play, spent
from tests.benchmarks.measure import ROOT, talking

STEPS = 6
ROUND, ROUNDS = 9, 4
"""Episodes a round, and rounds that count; one more is for warming up."""
CALLS = 200
"""Steps a round of the smallest block."""
LOOK_UPS = (
    "print(apis.api_docs.show_app_descriptions())",
    "print(apis.api_docs.show_api_descriptions(app_name='spotify'))",
    "print(apis.supervisor.show_account_passwords())",
    "print(apis.supervisor.show_profile())",
)
"""What an agent looks at before it begins: programs shorter than six blocks get these in front."""
ONE_CALL_EACH = (
    "passwords = {row['account_name']: row['password'] for row in apis.supervisor.show_account_passwords()}",
    "profile = apis.supervisor.show_profile()\nprint(profile)",
    "token = apis.spotify.login(username=profile['email'], password=passwords['spotify'])['access_token']",
    "library = apis.spotify.show_song_library(access_token=token)\nprint(library)",
    "print(apis.spotify.show_song(song_id=library[0]['song_id']))",
    "apis.supervisor.complete_task()",
)
"""Six blocks with an API call each, which solve nothing."""


def episodes(env: Any) -> list[Episode]:
    """Six blocks that solve a task, for one variant of every scenario, then for the next."""
    tasks = [task for split in env.splits for task in env.tasks(split) if len(env.gold(task)) >= STEPS - len(LOOK_UPS)]
    chosen = sorted((task for task in tasks if len(env.gold(task)) <= STEPS), key=lambda task: task[-1])
    return [(task, [*LOOK_UPS[: STEPS - len(gold)], *gold]) for task in chosen for gold in [env.gold(task)]]


@contextmanager
def other(script: Path, *arguments: str | Path) -> Iterator[Callable[[Any], Any]]:
    """A script in AppWorld's interpreter that answers a line with a line."""
    with talking([install.interpreter(), "-P", script, *arguments], install.environ()) as ask:
        yield ask


def rounds_of(known: Sequence[Episode]) -> list[Sequence[Episode]]:
    """The episodes in rounds, the one for warming up first."""
    rounds = [known[start : start + ROUND] for start in range(0, (ROUNDS + 1) * ROUND, ROUND)]
    assert all(len(some) == ROUND for some in rounds)
    return rounds


def episode_costs(env: Any, known: Sequence[Episode], solve: bool, ask: Callable[[Any], Any]) -> list[str]:
    """CPU seconds an episode, each way: a row of the table."""
    ours: list[float] = []
    raw: list[float] = []
    calls: list[float] = []
    for some in rounds_of(known):
        raw.append(sum(ask({"task_id": task, "blocks": blocks, "name": "raw"})["cpu_s"] for task, blocks in some))
        ours.append(spent(lambda some=some: calls.append(play(env, some, solve))))
    ratios = sorted(one / another for one, another in zip(ours[1:], raw[1:], strict=True))
    seconds = (f"{median(each[1:]) / ROUND:.3f}" for each in (raw, ours))
    return [f"{sum(calls[1:]) / ROUNDS:.1f}", *seconds, f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]


def beside(checkout: Path, known: Sequence[Episode], solve: bool) -> list[str]:
    """CPU seconds an episode in another checkout and in this one, which take turns: a row of the table."""
    script = Path(__file__).with_name("appworld_episodes.py")
    took: tuple[list[float], list[float]] = ([], [])
    calls: list[float] = []
    with ExitStack() as stack:
        asks = [
            stack.enter_context(talking([sys.executable, script], os.environ | {"PYTHONPATH": str(place)}))
            for place in (checkout, ROOT)
        ]
        for number, some in enumerate(rounds_of(known)):
            for which in (0, 1) if number % 2 else (1, 0):
                found = asks[which]({"episodes": some, "solve": solve})
                took[which].append(found["cpu_s"] / ROUND)
                calls.append(found["calls"])
    ratios = sorted(here / there for there, here in zip(*(each[1:] for each in took), strict=True))
    seconds = (f"{median(each[1:]):.3f}" for each in took)
    whole = sum(took[1][1:]) / sum(took[0][1:])
    return [f"{mean(calls[2:]):.1f}", *seconds, f"{whole:.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]


def step_costs(env: Any) -> dict[str, float]:
    """Milliseconds of the smallest block: a step here, the same inside a player's process, and what the difference
    is our own."""
    task = env.tasks("train")[0]
    options: dict[str, Any] = {"apis": {}}
    whole: list[float] = []
    inside: list[float] = []
    with other(Path(__file__).with_name("appworld_inside.py"), json.dumps(options)) as ask:
        for _ in range(ROUNDS + 1):
            env.max_turns = CALLS + 1
            env.reset(options={"task_id": task})
            began = time.perf_counter()
            for _ in range(CALLS):
                env.step("x = 1")
            whole.append(time.perf_counter() - began)
            inside.append(ask({"code": "x = 1", "times": CALLS}))
    env.max_turns = TURNS
    one, another = (median(seconds[1:]) / CALLS * 1000 for seconds in (whole, inside))
    return {"whole": one, "inside": another, "own": one - another}


def cache_costs(known: list[Episode]) -> dict[str, float]:
    """CPU milliseconds a call (reset or step) of episodes that are new to the cache, and of the same again."""
    cached = Cached(make, folder=None, version="benchmark", audit=0.0)
    calls = len(known) * (1 + STEPS)
    play(cached, known[:1], True)  # makes the world
    new, again = (spent(lambda: play(cached, known[1:], True)) for _ in range(2))
    cached.close()
    return {name: seconds / (calls - 1 - STEPS) * 1000 for name, seconds in (("new", new), ("again", again))}


def hit_rates(folder: Path) -> Table | None:
    """What the caches of a folder have counted; None where it holds none."""
    found = {version: counts for version, counts in statistics(folder).items() if counts["hits"] + counts["misses"]}
    shown = Table("version", "entries", "hits", "misses", "hit rate", title="caches of transitions, as recorded")
    for version, counts in found.items():
        numbers = (f"{counts[name]:,.0f}" for name in ("entries", "hits", "misses"))
        shown.add_row(version[:60], *numbers, f"{counts['hit_rate']:.3f}")
    return shown if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caches", type=Path, default=ROOT / ".cache" / "transitions")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT")
    given = parser.parse_args()
    console = Console()
    env = make()
    gold = episodes(env)
    idle = [(task, [*ONE_CALL_EACH]) for task, _ in gold]
    if given.beside:
        title = f"AppWorld: CPU seconds per {STEPS}-step episode, {ROUNDS} rounds of {ROUND}"
        shown = Table("blocks", "API calls", "other checkout", "this one", "this / other", "by round", title=title)
        shown.add_row("a call each", *beside(given.beside, idle, False))
        shown.add_row("solving the task", *beside(given.beside, gold, True))
        console.print(shown)
    else:
        _costs(console, env, idle, gold, given.caches)
    env.close()


def _costs(console: Console, env: Any, idle: list[Episode], gold: list[Episode], caches: Path) -> None:
    loop, data = ROOT / "tests" / "environments" / "appworld" / "raw_loop.py", install.own_world() / "truth" / "data"
    title = f"AppWorld: CPU seconds per {STEPS}-step episode, graded"
    shown = Table("blocks", "API calls", "raw loop", "ours", "ours / raw", title=title)
    with tempfile.TemporaryDirectory() as place, other(loop, data, Path(place) / "root") as ask:
        shown.add_row("a call each", *episode_costs(env, idle, False, ask))
        shown.add_row("solving the task", *episode_costs(env, gold, True, ask))
    console.print(shown)
    steps = step_costs(env)
    shown = Table("a step", "in the player's process", "our own", title="AppWorld: ms of the smallest block")
    shown.add_row(*(f"{value:.2f}" for value in steps.values()))
    console.print(shown)
    cache = cache_costs(gold[-2 * ROUND :])
    shown = Table("new", "again", "faster by", title="AppWorld: CPU ms a call, with a cache of transitions")
    shown.add_row(f"{cache['new']:.1f}", f"{cache['again']:.3f}", f"{cache['new'] / cache['again']:,.0f}")
    console.print(shown)
    recorded = hit_rates(caches)
    if recorded is not None:
        console.print(recorded)


if __name__ == "__main__":
    main()
