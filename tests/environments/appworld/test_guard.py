"""The guard: ordinary programs run as ever, and no block leaves the shell, harms the next episode or makes the guard
raise.
"""

from __future__ import annotations

import calendar
import collections
import contextlib
import fractions
import inspect
import io
import json
import random
import subprocess
import sys
import types
from collections.abc import Sequence
from decimal import getcontext
from pathlib import Path
from typing import Any

import pytest
from cheats import CHEATS, HARM, MAGICS, Cheat
from engine_like import SECRET, collection
from hypothesis import example, given
from hypothesis import strategies as st
from programs import PROGRAMS

from environments.appworld.inside.apis_proxy import plain
from environments.appworld.inside.guard import MAX_CHARACTERS, Refused, checked, refusal
from environments.appworld.inside.names import MODULES, readable, special
from environments.appworld.inside.proxies import block_namespace


def play(blocks: Sequence[str], apis: Any = None) -> tuple[str, list[Exception]]:
    """What blocks print, one after another in one namespace, and what they raise or are refused for."""
    namespace, errors = block_namespace({"apis": collection() if apis is None else apis}), []
    with contextlib.redirect_stdout(io.StringIO()) as output:
        for code in blocks:
            try:
                exec(compile(checked(code), "<block>", "exec"), namespace)
            except Exception as error:  # a cheat may fail in any way
                errors.append(error)
    return output.getvalue(), errors


def shared_state() -> list[Any]:
    """What every later episode of the process would see."""
    return [
        json.dumps({"a": [1]}),
        dict(vars(fractions.Fraction)),
        dict(vars(collections.Counter)),
        fractions.Fraction(1, 3).numerator,
        isinstance({}, Sequence),
        random.getstate(),
        getcontext().prec,
        calendar.firstweekday(),
        dict(vars(type(block_namespace({})["json"]).__mro__[1])),
        block_namespace({})["json"].dumps([1]),
    ]


@pytest.mark.parametrize(("blocks", "printed"), PROGRAMS, ids=range(len(PROGRAMS)))
def test_ordinary_programs_run(blocks: list[str], printed: str) -> None:
    assert [refusal(code) for code in blocks] == [None] * len(blocks)
    output, errors = play(blocks)
    assert errors == []
    assert output == printed


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
def test_cheats_are_fruitless(cheat: Cheat, tmp_path: Path) -> None:
    secret, canary = tmp_path / "secret", tmp_path / "canary"
    secret.write_text(SECRET)
    before = shared_state()
    output, _ = play([cheat.code.replace("SECRET_FILE", str(secret)).replace("CANARY", str(canary))])
    assert "GOT" not in output
    assert SECRET not in output
    assert not canary.exists()
    assert shared_state() == before


def test_cheats_are_no_duds(tmp_path: Path) -> None:
    """Without the guard each reaches its aim."""
    script = Path(__file__).with_name("bare.py")
    ran = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True)
    reached = {name for name, text in json.loads(ran.stdout).items() if "GOT" in text}
    assert {cheat.name for cheat in CHEATS if cheat.bare} == reached


@pytest.mark.parametrize(("aim", "code"), HARM, ids=[aim for aim, _ in HARM])
def test_what_outlives_an_episode_cannot_be_changed(aim: str, code: str) -> None:
    before = shared_state()
    output, errors = play([code])
    assert shared_state() == before
    assert errors or aim == "the global random stream"
    assert output == ""


@pytest.mark.parametrize("code", MAGICS)
def test_magics_are_no_python(code: str, tmp_path: Path) -> None:
    """The engine answers them with a syntax error; nothing that is run has them rewritten."""
    canary = tmp_path / "canary"
    _, errors = play([code.replace("CANARY", str(canary))])
    assert [type(error) for error in errors] == [SyntaxError]
    assert refusal(code) is None
    assert not canary.exists()


@pytest.mark.parametrize("code", ["def f(:", "return 1", "x = = 2", "nonlocal x"])
def test_what_is_no_python_is_left_to_its_error(code: str) -> None:
    assert refusal(code) is None
    assert isinstance(play([code])[1][0], SyntaxError)


@given(st.text())
@example("")
@example("\x00")
@example("x = '\ud800'")
@example("\ud800")
@example("(" * 50_000)
@example("-" * 50_000 + "1")
@example("not " * 20_000 + "1")
@example("x" + ".a" * 40_000)
@example("[" * 90 + "]" * 90)
@example("f(" * 90 + ")" * 90)
@example("lambda: " * 5_000 + "1")
@example("1" + "+1" * 40_000)
@example("if 1: pass\n" + "elif 1: pass\n" * 5_000)
@example("".join(" " * depth + "if 1:\n" for depth in range(99)) + " " * 99 + "pass")
@example("x = " + "9" * 50_000)
@example("a" * 1_000_000)
@example("f'{" * 50 + "1" + "}'" * 50)
@example("async def f(): pass")
@example("\\N{DIGIT ONE}")
def test_every_text_gets_an_answer(text: str) -> None:
    output = refusal(text)
    assert output is None or (output.strip() and "\n" not in output)


SNIPPETS = st.sampled_from(
    [
        "class",
        "def",
        "return",
        "yield",
        "import",
        "from",
        "as",
        "with",
        "try",
        "except",
        "lambda",
        "match",
        "case",
        "global",
        "del",
        "assert",
        "raise",
        "for",
        "in",
        "if",
        "else",
        "while",
        "os",
        "json",
        "__class__",
        "x",
        "_y",
        "__z",
        "gi_frame",
        "format",
        "super()",
        "self",
        ".",
        "..",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ":",
        "=",
        ":=",
        "==",
        "+",
        "-",
        "*",
        "**",
        "@",
        ",",
        ";",
        "\n",
        "''",
        "f''",
        "1",
        "...",
        "\t",
    ]
)


@given(st.lists(SNIPPETS, max_size=40).map(" ".join))
def test_every_mixture_of_words_gets_an_answer(text: str) -> None:
    output = refusal(text)
    assert output is None or (output.strip() and "\n" not in output)


@given(st.text(max_size=12))
def test_no_special_attribute_is_read_but_those_listed(name: str) -> None:
    if special(name) and not readable(name):
        output, errors = play([f"print('GOT', getattr(1, {name!r}))"])
        assert "GOT" not in output
        assert errors


@pytest.mark.parametrize(
    "name", sorted(name for name in dir(object) + dir(type) + dir(lambda: 0) if not readable(name))
)
def test_special_attributes_are_refused_in_writing_and_by_name(name: str) -> None:
    assert refusal(f"x.{name}") is not None
    output, errors = play(
        [f"print('GOT', getattr(print, {name!r}))", f"print('GOT') if hasattr(print, {name!r}) else 0"]
    )
    assert output == ""
    assert [type(error) for error in errors] == [AttributeError]


def test_no_module_and_nothing_changeable_can_be_reached_by_public_attributes() -> None:
    """A search through all that a block can look up, starting from its names and built-ins."""
    namespace = block_namespace({"apis": collection()})
    builtins = namespace.pop("__builtins__")
    look_up, paths = builtins["getattr"], {}
    left = [(name, value, 0) for name, value in [*namespace.items(), *builtins.items()] if name.isidentifier()]
    left = [entry for entry in left if not special(entry[0])]
    left += [(name, builtins["__import__"](name, fromlist=("x",)), 0) for name in MODULES if name != "pendulum"]
    while left:
        path, value, depth = left.pop(0)
        if id(value) in paths or depth > 4:
            continue
        paths[id(value)] = (path, value)
        for name in dir(value):
            if readable(name) and not special(name):
                with contextlib.suppress(Exception):
                    left.append((f"{path}.{name}", look_up(value, name), depth + 1))
    found = [
        path for path, value in paths.values() if isinstance(value, types.ModuleType | list | dict | set | bytearray)
    ]
    assert len(paths) > 1_000
    assert found == []
    assert [path for path, value in paths.values() if inspect.isframe(value) or inspect.iscode(value)] == []
    assert [path for path, value in paths.values() if isinstance(value, type) and issubclass(value, type)] == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os", ["'os'", "Available modules", "json"]),
        ("import jsn", ["did you mean 'json'"]),
        ("from json import lods", ["'lods'", "did you mean 'loads'"]),
        ("from math import *", ["Star imports"]),
        ("x.__globals__", ["'__globals__'"]),
        ("async def f(): pass", ["Async def is not available"]),
        ("class A(metaclass=B): pass", ["base classes"]),
        ("x" * (MAX_CHARACTERS + 1), [str(MAX_CHARACTERS)]),
    ],
)
def test_a_refusal_says_what_is_refused_and_what_is_allowed(code: str, words: list[str]) -> None:
    output = refusal(code)
    assert output is not None
    assert [word for word in words if word not in output] == []
    with pytest.raises(Refused) as raised:
        checked(code)
    assert str(raised.value) == output


def test_the_random_stream_is_the_episode_s_own_and_the_same_every_time() -> None:
    program = ["import random\nprint(random.random(), random.Random().random(), random.sample(range(99), 5))"]
    assert play(program) == play(program)


def test_episodes_share_nothing() -> None:
    first, second = block_namespace({}), block_namespace({})
    exec(compile(checked("x = 1\nlen = None\nimport json as loads"), "<block>", "exec"), first)
    assert "x" not in second
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(checked("print(len('ab'))"), "<block>", "exec"), second)
    assert output.getvalue() == "2\n"


def test_what_reaches_the_engine_is_plain_data_and_what_the_block_may_not_set_does_not() -> None:
    apis = collection()
    block = (
        "class S(str): pass\nclass L(list): pass\napis.spotify.search(query=S('q'), tags=L([S('t')]), n=True)\n"
        "apis.spotify.search(client=1)"
    )
    _, errors = play([block], apis)
    asked = apis["_requester"].asked
    assert asked == [("search", {"query": "q", "tags": ["t"], "n": True})]
    assert [type(value) for value in (asked[0][1]["query"], asked[0][1]["tags"], asked[0][1]["tags"][0])] == [
        str,
        list,
        str,
    ]
    assert [str(error) for error in errors] == ["'client' is no parameter of spotify.search"]


def test_an_engine_s_error_arrives_without_its_frames() -> None:
    _, errors = play(["apis.spotify.fail()"])
    assert [(type(error), str(error)) for error in errors] == [(Exception, "Response status code is 401")]
    assert errors[0].__context__ is None
    assert errors[0].__cause__ is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_plain_data_stays_as_it_is(value: Any) -> None:
    assert plain(value) == value
    with pytest.raises(TypeError, match="not JSON serializable"):
        plain([value, object()])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_is_offered_exists(module: str) -> None:
    shown = block_namespace({})["__builtins__"]["__import__"]
    if module == "pendulum":
        pytest.importorskip("pendulum")
    proxy = shown(module, fromlist=("x",))
    missing = [name for name in MODULES[module] if not hasattr(proxy, name)]
    assert missing == []
