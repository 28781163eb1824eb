"""The wall around the files, entered by forks of this process: as whoever runs the tests, and as an ordinary user."""

from __future__ import annotations

import codecs
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environments.isolation import sandbox, walls

pytestmark = pytest.mark.skipif(walls.standing().startswith("none"), reason=walls.standing())

NOBODY = 65_534
LIMITS = {"memory_mb": 1024, "file_mb": 1, "open_files": 64, "sandbox": True, "network": False}


def behind(wall: walls.Wall, probe: Callable[[], Any], user: int | None) -> Any:
    """What a probe returns in a fork behind the wall."""
    codecs.lookup("ascii")  # found before the interpreter's own files may be out of reach
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if user is not None:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            confined = sandbox.confine(LIMITS, wall)
            answer = [confined, probe()]
        except BaseException as error:
            answer = [repr(error), None]
        os.write(theirs, json.dumps(answer).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as reader:
        confined, found = json.loads(reader.read())
    os.waitpid(child, 0)
    assert confined == ["seccomp", walls.standing()], confined
    return found


def outcome(action: Callable[[], Any]) -> str:
    try:
        return f"GOT {action()!r}"
    except OSError as error:
        return type(error).__name__


def users() -> list[Any]:
    ordinary = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    return [pytest.param(None, id="as ever"), pytest.param(NOBODY, id="ordinary", marks=ordinary)]


@pytest.fixture(params=["landlock", "seccomp alone"])
def wall(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> walls.Wall:
    if request.param == "seccomp alone":
        monkeypatch.setattr(walls, "landlock", lambda: 0)
    elif not walls.landlock():
        pytest.skip("this kernel has no Landlock")
    return walls.Wall([sysconfig.get_path("stdlib"), "/nowhere"])


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder in which everybody could do everything, with a secret in it."""
    (tmp_path / "secret").write_text("sesame")
    (tmp_path / "secret").chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() != "root" or folder.name.startswith("pytest"):
            folder.chmod(0o777)
    return tmp_path


@pytest.mark.parametrize("user", users())
def test_no_file_is_read_made_changed_or_removed(wall: walls.Wall, room: Path, user: int | None) -> None:
    secret, outside = str(room / "secret"), os.path.join(tempfile.gettempdir(), "new-from-behind-the-wall")
    actions: dict[str, Callable[[], Any]] = {
        "read": lambda: Path(secret).read_text(),
        "append": lambda: os.open(secret, os.O_WRONLY | os.O_APPEND),
        "list": lambda: os.listdir(room),
        "list the root": lambda: os.listdir("/"),
        "users": lambda: Path("/etc/passwd").read_text(),
        "environment": lambda: Path("/proc/self/environ").read_text(),
        "a parent's": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "memory": lambda: os.open("/proc/self/mem", os.O_RDONLY),
        "make": lambda: Path(room / "new").write_text(""),
        "make in tmp": lambda: Path(outside).write_text(""),
        "make a folder": lambda: os.mkdir(room / "folder"),
        "remove": lambda: os.unlink(secret),
        "rename": lambda: os.rename(secret, room / "other"),
        "link": lambda: os.link(secret, room / "other"),
        "symlink": lambda: os.symlink(secret, room / "other"),
        "truncate": lambda: os.truncate(secret, 0),
        "mode": lambda: os.chmod(secret, 0o700),
        "owner": lambda: os.chown(secret, os.getuid(), os.getgid()),
        "times": lambda: os.utime(secret),
        "attribute": lambda: os.setxattr(secret, "user.x", b"1"),
        "pipe in the room": lambda: os.mkfifo(room / "pipe"),
        "program": lambda: os.execv(sys.executable, [sys.executable, "-c", "pass"]),
        "process": lambda: os.fork(),
        "kill itself": lambda: os.kill(os.getpid(), 9),
        "stop itself": lambda: os.kill(os.getpid(), 19),
        "kill the parent": lambda: os.kill(os.getppid(), 9),
        "mount": lambda: os.chroot("/"),
    }
    before = os.stat(secret)
    found = behind(wall, lambda: {name: outcome(action) for name, action in actions.items()}, user)
    assert {name: text for name, text in found.items() if text.startswith("GOT")} == {}
    assert os.listdir(room) == ["secret"]
    assert Path(secret).read_text() == "sesame"
    after = os.stat(secret)
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert not os.path.exists(outside)


@pytest.mark.parametrize("user", users())
def test_without_the_wall_the_same_is_reached(room: Path, user: int | None) -> None:
    """The control: the probes are no duds."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        if user is not None:
            os.setresuid(user, user, user)
        os.write(theirs, outcome(lambda: Path(room / "secret").read_text()).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as reader:
        text = reader.read()
    os.waitpid(child, 0)
    assert "sesame" in text or (user is not None and text == "PermissionError")


def test_what_is_named_stays_readable(room: Path) -> None:
    if not walls.landlock():
        pytest.skip("this kernel has no Landlock: nothing stays readable")
    (room / "open").mkdir()
    (room / "open" / "file").write_text("ok")
    wall = walls.Wall([str(room / "open"), str(room / "missing")])
    found = behind(
        wall,
        lambda: [
            outcome(lambda: Path(room / "open" / "file").read_text()),
            outcome(lambda: os.listdir(room / "open")),
            outcome(lambda: Path(room / "open" / "file").write_text("")),
            outcome(lambda: Path(room / "open" / ".." / "secret").read_text()),
        ],
        None,
    )
    assert found == ["GOT 'ok'", "GOT ['file']", "PermissionError", "PermissionError"]


def test_capabilities_are_given_up() -> None:
    """Root behind the wall cannot become another user."""
    if not walls.landlock():
        pytest.skip("this kernel has no Landlock")
    wall = walls.Wall([])
    assert behind(wall, lambda: outcome(lambda: os.setuid(12_345)), None) == "PermissionError"
