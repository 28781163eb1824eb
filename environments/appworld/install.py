"""AppWorld's own interpreter, the project's own world and the official data: where they are, and what puts them there.

AppWorld's pins (pydantic 1 among them) exclude this project's, so it lives in a virtual environment of its own,
`.venvs/appworld`. The own world is built from this package's sources into `.cache/appworld`, under a name that changes
with what they mean. `make setup` does both; so does the first use, and `harness setup appworld` by hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from environments.appworld.fingerprint import meaning_hash
from environments.isolation import walls

PACKAGE = "appworld==0.1.3.post1"
HOME = Path(os.environ.get("HARNESS_HOME", Path(__file__).resolve().parents[2]))
"""Where `.venvs` and `.cache` are: the checkout, unless the environment variable HARNESS_HOME names another folder."""
VENV = HOME / ".venvs" / "appworld"
CACHE = HOME / ".cache" / "appworld"
OFFICIAL = CACHE / "official"
PINS = Path(__file__).with_name("constraints.txt")
SIZES = {"train": 90, "dev": 57, "test_normal": 168, "test_challenge": 417}
"""Tasks of the official splits."""
HERE = Path(__file__).resolve().parent
Progress = Callable[[str, int, int], None]
"""Shows progress: what is being done, steps done, steps in all."""


class NotInstalledError(RuntimeError):
    """Something this environment needs is not there and could not be put there; the message says which command does."""


def print_progress(what: str, done: int, total: int) -> None:
    """Progress where no bar is drawn: a line on stderr."""
    print(f"AppWorld: {what} ({done} of {total})", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the interpreter


def interpreter(progress: Progress = print_progress) -> Path:
    """AppWorld's interpreter, installed if it is not yet. NotInstalledError where that fails."""
    python = VENV / "bin" / "python"
    with _alone("interpreter"):
        if not _is_installed():
            _install(python, progress)
    return python


def _mark() -> str:
    """What has to be installed, in one line: a changed pin installs anew."""
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]
    return f"{PACKAGE} {pins} python {sys.version_info[0]}.{sys.version_info[1]}"


def _is_installed() -> bool:
    ready = VENV / "ready"
    return ready.is_file() and ready.read_text() == _mark() and (VENV / "bin" / "python").exists()


def _install(python: Path, progress: Progress) -> None:
    pip = (str(python), "-m", "pip")
    steps: Sequence[tuple[str, Sequence[str]]] = (
        ("making .venvs/appworld", (sys.executable, "-m", "venv", "--clear", str(VENV))),
        (
            f"installing {PACKAGE}",
            (*pip, "install", "--quiet", "--disable-pip-version-check", "--constraint", str(PINS), PACKAGE),
        ),
        ("unpacking its apps", (str(python), "-m", "appworld.cli", "install")),
    )
    for number, (what, command) in enumerate(steps):
        progress(what, number, len(steps))
        _run(command, what, "harness setup appworld")
    progress("AppWorld's interpreter is ready", len(steps), len(steps))
    (VENV / "ready").write_text(_mark())


def environ(root: Path | None = None) -> dict[str, str]:
    """Environment variables for that interpreter: nothing of it is written to the user's home."""
    own = {"APPWORLD_CACHE": str(VENV / "unpacked"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    return own | ({"APPWORLD_ROOT": str(root)} if root else {})


def _run(command: Sequence[str], what: str, again: str) -> None:
    made = subprocess.run(
        command,
        env=os.environ | environ(),
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if made.returncode:
        output = (made.stderr or made.stdout).strip()[-2000:]
        raise NotInstalledError(f"{what} failed (exit status {made.returncode}); try again with: {again}\n{output}")


# ---------------------------------------------------------------- the project's own world


def own_world(progress: Progress = print_progress) -> Path:
    """The folder of the own world (`serve`, `truth`, `programs`, manifest.json), built if it is not there.

    NotInstalledError where that fails.
    """
    python = interpreter(progress)
    folder = CACHE / f"world-{_world_key()}"
    with _alone("world"):
        if not (folder / "manifest.json").is_file():
            _build(python, folder, progress)
    return folder


def _world_key() -> str:
    """Changes with everything the world is made of: what its sources mean, and the engine's release."""
    sources = meaning_hash((file.relative_to(HERE).as_posix(), file) for file in (HERE / "world").rglob("*.py"))
    return hashlib.sha256(f"{_mark()} {sources}".encode()).hexdigest()[:16]


def _build(python: Path, folder: Path, progress: Progress) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = (str(python), "-P", str(HERE / "world" / "build.py"), str(folder))
    with subprocess.Popen(
        command,
        env=os.environ | environ(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as building:
        assert building.stdout is not None
        output: list[str] = []
        for line in building.stdout:
            step = re.match(r"built (\d+) of (\d+)", line)
            if step:
                progress("building the own world", int(step[1]), int(step[2]))
            else:
                output.append(line)
    if building.returncode or not (folder / "manifest.json").is_file():
        raise NotInstalledError(
            f"building the own world failed (exit status {building.returncode}); try again with: harness setup "
            f"appworld\n" + "".join(output)[-2000:]
        )
    for old in folder.parent.glob("world-*"):
        if old != folder and ".partial" not in old.name:
            shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------- the official data


def official_data() -> Path | None:
    """The official `data` folder: under the variable APPWORLD_ROOT, or where `harness setup appworld-data` puts it.

    None where there is none. ValueError where the folder is there but is not the whole benchmark.
    """
    named = os.environ.get("APPWORLD_ROOT")
    data = (Path(named) if named else OFFICIAL) / "data"
    if not data.is_dir():
        if named:
            raise ValueError(
                f"APPWORLD_ROOT names {named}, which holds no folder `data`; fetch it with: harness setup appworld-data"
            )
        return None
    check_official(data)
    return data


def check_official(data: Path) -> dict[str, list[str]]:
    """The official splits. ValueError naming what is missing or of another size."""
    splits = {}
    for split, size in SIZES.items():
        file = data / "datasets" / f"{split}.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        # as the engine reads it: a tag may follow the id
        ids = [line.partition(":")[0].strip() for line in lines if line.strip()]
        if len(ids) != size:
            raise ValueError(
                f"{data} is not the official data: split {split} has {len(ids)} tasks, not {size}; "
                "fetch it anew with: harness setup appworld-data"
            )
        splits[split] = ids
    lacking = [task for ids in splits.values() for task in ids if not (data / "tasks" / task / "specs.json").is_file()]
    if lacking:
        raise ValueError(f"{data} is incomplete: {len(lacking)} tasks have no specs.json, {lacking[0]} for one")
    return splits


def _is_official(data: Path) -> bool:
    try:
        check_official(data)
    except ValueError:
        return False
    return True


def serving_root(data: Path) -> Path:
    """A root to play in: everything of an official `data` folder but the ground truth, as links."""
    content = "\0".join([str(data.resolve()), *sorted(os.listdir(data / "tasks"))])
    root = CACHE / f"serve-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    with _alone("serve"):
        if not (root / "data" / "version.txt").exists():
            partial = root.with_name(f"{root.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "data" / "tasks").mkdir(parents=True)
            for entry in data.iterdir():
                if entry.name != "tasks":
                    (partial / "data" / entry.name).symlink_to(entry.resolve())
            for task in (data / "tasks").iterdir():
                home = partial / "data" / "tasks" / task.name
                home.mkdir()
                for entry in task.iterdir():
                    if entry.name != "ground_truth":
                        (home / entry.name).symlink_to(entry.resolve())
            if not (partial / "data" / "version.txt").exists():
                (partial / "data" / "version.txt").write_text("unknown")
            shutil.rmtree(root, ignore_errors=True)
            partial.rename(root)
    return root


# ---------------------------------------------------------------- the command `harness setup`


def set_up(progress: Progress = print_progress) -> str:
    """AppWorld's own interpreter, with the official package, and the project's own world.

    Returns what there is now, for the user. NotInstalledError where it cannot be put there.
    """
    python, folder = interpreter(progress), own_world(progress)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    sizes = ", ".join(f"{split} {len(ids)}" for split, ids in manifest["splits"].items())
    wall = walls.standing()
    walled = "walls around the players: " if not wall.startswith("none") else "NO WALL around the players, "
    world = f"own world {manifest['hash'][:16]} in {folder}: {sizes} tasks"
    return f"{PACKAGE} in {python.parent.parent}\n{world}\n{walled}{wall}"


def set_up_data(progress: Progress = print_progress) -> str:
    """AppWorld's official data, from the internet (34 MB), checked.

    Returns what there is now, for the user. NotInstalledError where the network does not give it.
    """
    python = interpreter(progress)
    OFFICIAL.mkdir(parents=True, exist_ok=True)
    if not _is_official(OFFICIAL / "data"):
        progress("downloading the official data (34 MB)", 0, 1)
        command = (str(python), "-m", "appworld.cli", "download", "data", "--root", str(OFFICIAL))
        try:
            _run(command, "downloading the official data", "harness setup appworld-data")
            check_official(OFFICIAL / "data")  # the command also ends well when the server refuses
        except (NotInstalledError, ValueError) as error:
            raise NotInstalledError(
                f"{error}\nThe download needs the open internet. Where it is not to be had, copy the folder `data` "
                f"of another "
                f"machine to {OFFICIAL / 'data'}, or set APPWORLD_ROOT to the folder that holds it. Without it, "
                f"AppWorld-v0 plays "
                "the project's own world."
            ) from None
        progress("downloading the official data (34 MB)", 1, 1)
    splits = check_official(OFFICIAL / "data")
    return f"official data in {OFFICIAL / 'data'}: " + ", ".join(f"{split} {len(ids)}" for split, ids in splits.items())


@contextlib.contextmanager
def _alone(what: str) -> Iterator[None]:
    """One process installs; the others wait and find it done."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f".{what}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def manifest_of(folder: Path) -> dict[str, Any]:
    """The own world's manifest."""
    read: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return read
