"""What environments of other libraries have in common, with an engine of the tests' own in this interpreter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from environments.foreign.env import BUCKETS, ForeignEnv, Library, asked, by_content, named
from environments.foreign.inside.contents import digest, first_of_each, plain
from environments.foreign.install import NotInstalledError
from environments.text import Reply, check_text_env

HERE = Path(__file__).parent
TOY = Library("Toy", "toy_that_is_not_there", "toy_library:Lamp")


def spoken(known: Any) -> list[str]:
    """Gold of a lamp."""
    return [known["word"]]


class LampEnv(ForeignEnv):
    """The engine of `toy_library` as an environment."""

    def __init__(self, gold: str | None = None, deadline_s: float = 20.0) -> None:
        pool = TOY.pool(None, {}, 512)
        tasks = by_content("lamps", asked(TOY, pool, "tasks"))
        super().__init__(TOY, pool, tasks, max_turns=3, version="1", success_at=1.0, gold=gold, deadline_s=deadline_s)

    def _opened(self, answer: dict[str, Any]) -> Reply:
        return Reply("".join(answer["messages"]))

    def respond(self, action: str) -> Reply:
        answer = self._call("act", action=action)
        if "messages" in answer:
            return Reply("".join(answer["messages"]))
        return self._verdict(answer["reward"], {})


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    monkeypatch.syspath_prepend(HERE)


def test_it_keeps_the_contract_and_its_gold_is_checked() -> None:
    lamp = LampEnv(gold="test_foreign:spoken")
    check_text_env(lamp, samples=2)
    assert lamp.gold(lamp.tasks("test")[0]) == lamp.tasks("test")[:1]
    assert LampEnv().gold(lamp.tasks("test")[0]) is None
    lamp.close()


@pytest.mark.parametrize(("word", "kind"), [("crash", "died"), ("hang", "deadline"), ("raise", "raised")])
def test_what_fails_in_the_library_is_a_failure_and_the_next_episode_is_whole(word: str, kind: str) -> None:
    lamp = LampEnv(deadline_s=1.0 if word == "hang" else 20.0)
    task = lamp.tasks("train")[0]
    lamp.reset(options={"task_id": task})
    _, reward, terminated, truncated, info = lamp.step(word)
    assert (reward, terminated, truncated, info["failure"]["kind"]) == (0.0, False, True, kind)
    lamp.reset(options={"task_id": task})
    _, reward, terminated, _, info = lamp.step(task)
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert "failure" not in info
    lamp.close()


def test_a_reward_below_the_line_is_no_success() -> None:
    lamp = LampEnv()
    lamp.reset(seed=0)
    _, reward, terminated, _, info = lamp.step("")
    assert (reward, terminated, info["success"]) == (0.25, True, False)
    lamp.close()


def test_splits_go_by_content() -> None:
    tasks = asked(TOY, TOY.pool(None, {}, 512), "tasks")
    assert len(tasks) == 20  # 40 names, each content twice
    splits = by_content("lamps", tasks)
    homes = {task: split for split, names in splits.items() for task in names}
    assert homes.keys() == {task["id"] for task in tasks}
    more = by_content("lamps", [*tasks, *first_of_each((f"more {n}", f"more {n}") for n in range(100))])
    assert all(task in more[split] for task, split in homes.items())  # others move none of them
    # a tenth is as likely as any other: 7, 1 and 2 of 10 tenths, within four standard deviations of 4,000 draws
    many = by_content("many", first_of_each((str(n), n) for n in range(4000)))
    for split, bucket in BUCKETS.items():
        share = len(bucket) / 10
        assert abs(len(many[split]) - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5
    with pytest.raises(ValueError, match="1 different tasks among those that were looked at"):
        by_content("lamp", tasks[:1])


def test_contents_are_the_same_in_every_order_and_process() -> None:
    class Card:
        def __init__(self, rank: int) -> None:
            self.rank, self.played = rank, print

    one, two = {"b": {3, 1, 2}, "a": (Card(1), "x")}, {"a": [Card(1), "x"], "b": {2, 3, 1}}
    assert digest(plain(one)) == digest(plain(two))
    assert plain(one)["a"] == [{"is": "Card", "rank": 1}, "x"]  # no address, no code
    assert digest(plain(one)) != digest(plain({**one, "a": [Card(2), "x"]}))
    assert plain(list(range(5000))) == "5000 entries"
    deep: list[Any] = []
    deep.append(deep)
    assert "list" in str(plain(deep))


def test_a_missing_library_names_the_command() -> None:
    pool = TOY.pool(None, {"missing": "toy_that_is_not_there"}, 512)
    with pytest.raises(NotInstalledError, match="pip install toy_that_is_not_there"):
        asked(TOY, pool, "facts")
    with pytest.raises(ValueError, match="names the interpreter that has toy_that"):
        TOY.pool("/no/such/python", {}, 512)


def test_a_broken_environment_is_told_from_a_missing_library() -> None:
    with pytest.raises(RuntimeError, match="Toy: No module named 'another'") as raised:
        asked(TOY, TOY.pool(None, {"missing": "another"}, 512), "facts")
    assert not isinstance(raised.value, NotInstalledError)


@pytest.mark.parametrize("place", ["spoken", "test_foreign:spokn", "no_such_module:spoken", ":"])
def test_a_name_that_nothing_answers_to_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="the function"):
        named(place, "the function")


def test_keys_of_endpoints_stay_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "looks.py").write_text(
        "import os\nclass Looks:\n    verbs = ('facts',)\n    facts = lambda self: dict(os.environ)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    library = Library("Looks", "looks", "looks:Looks")
    assert "secret" not in asked(library, library.pool(None, {}, 512), "facts").values()
    assert "secret" in os.environ.values()
