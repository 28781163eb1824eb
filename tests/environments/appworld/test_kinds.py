"""Attacks on the guard by kind: each is refused or fruitless, in the engine, and the clock stays where it stands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from environments.appworld.env import AppWorldEnv
from environments.appworld.inside.engine import unpack

PARTS = ["openapi.json", "dbs?", "dbs/save?", "dbs/cache?", "seed?", "date_time?", "admin/balance"]
WAYS = ["../../", "..%2f..%2f", "/", "x/../../", "..\\\\..\\\\"]
PATHS = [f"{way}{part}" for part in PARTS for way in WAYS] + ["..", ".", "", "1?a=2", "1#x", "1;x", "\\x00", "\\ud800"]
CALLS = ["show_song(song_id={0})", "like_song(song_id={0}, access_token=1)", "delete_playlist(playlist_id={0})"]
FROZEN = "2024-05-17"

ATTACKS: dict[str, list[str]] = {
    "generated code": [
        "import dataclasses\nF = type(dataclasses.field())\nclass X(F): pass\nprint('G' 'OT')",
        "import dataclasses\nprint('G' 'OT', type(dataclasses.field())(1, 2, 3))",
        "from collections import namedtuple\nclass S(str):\n    def __str__(self): return 'a b'\n"
        "print('G' 'OT', namedtuple('P', [S('x')]))",
        "import typing\nprint('G' 'OT', typing.NamedTuple('P', [('gi_frame', int)]))",
        "import typing\nprint('G' 'OT', typing.TypedDict('P', {'gi_frame': int}))",
        "from enum import Enum\nprint('G' 'OT', Enum('E', 'gi_frame'))",
        "from dataclasses import dataclass\ndataclass(lambda: 0)\nprint('G' 'OT')",
    ],
    "copied or rebound functions": [
        "import copy\nclass M(dict):\n    def get(self, *a): return 1\ncopy.deepcopy(setattr, M())\nprint('G' 'OT')",
        "import copy\nif copy.deepcopy([getattr, type, json])[1] is not type: print('G' 'OT')\nraise ValueError",
        "setattr.__func__\nprint('G' 'OT')",
    ],
    "initialisers of others": [
        "class P(property): pass\nfrom fractions import Fraction\nP.__init__(Fraction.numerator, id)\nprint('G' 'OT')",
        "class P(staticmethod): pass\nprint('G' 'OT')",
        "class P(dict): pass\nP.__init__({}, a=1)\nprint('G' 'OT')",
    ],
    "super of others": [
        "class D(datetime.datetime): pass\nprint(super(datetime.datetime, D).now(), 'G' 'OT')",
        "s = super\nclass D(datetime.date): pass\nprint(s(datetime.date, D).today(), 'G' 'OT')",
        "class D(datetime.date): pass\nprint(list(map(super, [datetime.date], [D])), 'G' 'OT')",
    ],
}
BLOCKS = [(kind, block) for kind, blocks in ATTACKS.items() for block in blocks]


@pytest.fixture(scope="module")
def env() -> Iterator[AppWorldEnv]:
    made = AppWorldEnv("own", max_turns=10_000)
    made.reset(options={"task_id": made.tasks("train")[0]})
    yield made
    made.close()


def said(env: AppWorldEnv, block: str) -> str:
    output, _, terminated, truncated, info = env.step(block)
    assert (terminated, truncated, "failure" in info) == (False, False, False)
    return output[0]["content"]


@pytest.mark.parametrize(("kind", "block"), BLOCKS)
def test_an_attack_is_fruitless(env: AppWorldEnv, kind: str, block: str) -> None:
    output = said(env, block)
    assert "GOT" not in output
    assert output.startswith("Execution failed")


def test_no_argument_becomes_another_address(env: AppWorldEnv) -> None:
    """Every path with every call: an error that names the parameter, nothing sent, nothing changed."""
    assert env._episode is not None
    before = env._episode.calls
    for call in CALLS:
        for path in PATHS:
            output = said(env, f"print(apis.spotify.{call.format(repr(path).replace(chr(92) * 2, chr(92)))})")
            assert "must be an integer" in output, (path, output)
    assert env._episode.calls == before
    assert unpack(env._episode.outcome(60.0) or "")["changes"] == {}


def test_what_is_the_blocks_own_still_works(env: AppWorldEnv) -> None:
    block = (
        "from dataclasses import dataclass, field\nfrom typing import NamedTuple, TypedDict\n"
        "class A:\n    def __init__(self, x): self.x = x\n"
        "class B(A):\n    def __init__(self, x):\n        super().__init__(x)\n        A.__init__(self, x + 1)\n"
        "        super(B, self).__init__(self.x + 1)\n"
        "@dataclass\nclass D:\n    a: int = 1\n    b: list = field(default_factory=list)\n"
        "class P(NamedTuple):\n    x: int\nclass T(TypedDict):\n    y: int\n"
        "print(B(1).x, D(2), P(3), T(y=4), type(B(1)) is B, type(1) is int, type(type(1)) is type, "
        "isinstance(lambda: 0, type(print)), type(lambda: 0).__name__)"
    )
    assert said(env, block) == "3 D(a=2, b=[]) P(x=3) {'y': 4} True True True True function\n"


def test_every_clock_stands_still(env: AppWorldEnv) -> None:
    clocks = (
        "datetime.datetime.now() datetime.datetime.utcnow() datetime.datetime.today() datetime.date.today() "
        "DateTime.now() Date.today() pendulum.now() pendulum.today() pendulum.DateTime.now() pendulum.DateTime.today()"
    )
    block = "import time\n" + "\n".join(f"print(str({clock})[:10])" for clock in clocks.split())
    block += "\nprint(time.strftime('%Y-%m-%d'))\nprint('%d-%02d-%02d' % time.localtime()[:3])\n"
    block += (
        "class D(datetime.datetime):\n    @classmethod\n    def f(cls): return super().now()\nprint(str(D.f())[:10])"
    )
    assert said(env, block).split() == [FROZEN] * (len(clocks.split()) + 3)
