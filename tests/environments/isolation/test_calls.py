"""Calls to an object in another interpreter: what they return, and that nothing it does costs more than one error."""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote_pool import LONG, descendants, failure, pool

from environments.isolation.frames import MAX_FRAME
from environments.isolation.pool import Limits, Worker, WorkerPool
from environments.isolation.processes import processes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(scope="module")
def home() -> Iterator[WorkerPool]:
    with pool(limits=Limits(memory_mb=256)) as made:
        yield made


@pytest.fixture
def worker(home: WorkerPool) -> Iterator[Worker]:
    made = home.spawn()
    yield made
    made.close()


# ---------------------------------------------------------------- answers

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(value=JSON)
def test_what_is_sent_is_what_arrives(home: WorkerPool, value: Any) -> None:
    """Lone surrogates, control characters, huge integers: all that JSON can carry."""
    worker = home.take()
    assert worker.call("echo", LONG, value=value) == value
    home.give(worker)


def test_a_megabyte_fits(worker: Worker) -> None:
    text = "\ud800é" * 500_000
    assert worker.call("echo", LONG, value=text) == text


def test_an_object_keeps_its_state_and_has_it_alone(home: WorkerPool) -> None:
    first, second = home.spawn(), home.spawn()
    assert [first.call("count", LONG) for _ in range(3)] == [1, 2, 3]
    assert second.call("count", LONG) == 1
    first.close()
    second.close()


def test_an_object_is_warmed_once_and_called_after_the_fork_in_each_process(home: WorkerPool) -> None:
    first, second = home.spawn(), home.spawn()
    facts = [each.call("facts", LONG) for each in (first, second)]
    assert [fact["forks"] for fact in facts] == [[first.pid], [second.pid]]
    assert [fact["warmed"] for fact in facts] == [1, 1]
    assert facts[0]["parent"] == facts[1]["parent"]
    first.close()
    second.close()


@pytest.mark.parametrize("name", ["ValueError", "SystemExit", "KeyboardInterrupt"])
def test_what_is_raised_comes_as_an_error_and_the_worker_goes_on(worker: Worker, name: str) -> None:
    error = failure(lambda: worker.call("raises", LONG, name=name, text="so \ud800 what"))
    assert (error.kind, error.remote_type, error.remote_message) == ("raised", name, "so \ud800 what")
    assert "in raises" in error.remote_traceback
    assert f"{name}: so \ud800 what" in str(error)
    assert worker.alive
    assert worker.call("count", LONG) == 1


@pytest.mark.parametrize("verb", ["not_a_verb", "_secret", "__init__", "forked", "nothing"])
def test_only_verbs_can_be_called(worker: Worker, verb: str) -> None:
    """`_secret` is listed among the target's verbs, and still private."""
    error = failure(lambda: worker.call(verb, LONG))
    assert error.remote_type == "AttributeError"
    assert repr(verb) in str(error)
    assert "echo" in str(error)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x"])
def test_an_argument_that_is_no_json_is_the_callers_mistake(worker: Worker, value: Any) -> None:
    with pytest.raises(TypeError):
        worker.call("echo", LONG, value=value)
    assert worker.call("count", LONG) == 1


def test_an_argument_beyond_the_limit_is_the_callers_mistake(worker: Worker) -> None:
    with pytest.raises(ValueError, match="are allowed"):
        worker.call("echo", LONG, value="x" * MAX_FRAME)
    assert worker.call("count", LONG) == 1


@pytest.mark.parametrize(
    ("verb", "arguments", "kind"),
    [
        ("unreadable", {}, "TypeError"),
        ("unsent", {}, "ValueError"),
        ("wide", {"size": MAX_FRAME + 1}, "ValueError"),
        ("dig", {}, "RecursionError"),
        ("echo", {"wrong": 1}, "TypeError"),
        ("balloon", {}, "MemoryError"),
        ("sink", {"size": 65 << 20}, "OSError"),
    ],
)
def test_what_cannot_be_answered_is_raised_and_the_worker_goes_on(
    worker: Worker, verb: str, arguments: dict[str, Any], kind: str
) -> None:
    assert failure(lambda: worker.call(verb, LONG, **arguments)).remote_type == kind
    assert worker.call("count", LONG) == 1


def test_what_is_printed_does_not_reach_the_answers(worker: Worker) -> None:
    assert worker.call("chatter", LONG, size=100_000) == "printed"
    assert worker.call("count", LONG) == 1


def test_a_flood_of_output_is_stopped_and_the_next_call_may_print_again() -> None:
    with pool(limits=Limits(file_mb=1)) as home:
        worker = home.spawn()
        assert failure(lambda: worker.call("chatter", LONG, size=3 << 20)).remote_type == "OSError"
        assert worker.call("chatter", LONG, size=1 << 18) == "printed"


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("verb", ["loop", "power"])
def test_an_endless_loop_was_busy(home: WorkerPool, verb: str) -> None:
    """Or it was held: a crowded machine gave it too little of a processor to show it."""

    def busy() -> bool:
        worker = home.spawn()
        error = failure(lambda: worker.call(verb, 0.5))
        assert error.kind == "deadline"
        assert error.busy == (error.cpu_s >= 0.25)
        assert not worker.alive
        assert worker.pid not in processes()
        return error.busy or error.held

    assert any(busy() for _ in range(10))


@pytest.mark.parametrize(("verb", "arguments"), [("sleep", {"seconds": 600}), ("halt", {})])
def test_one_that_waits_was_not(home: WorkerPool, verb: str, arguments: dict[str, Any]) -> None:
    worker = home.spawn()
    error = failure(lambda: worker.call(verb, 0.3, **arguments))
    assert (error.kind, error.busy) == ("deadline", False)
    assert worker.pid not in processes()
    assert failure(lambda: worker.call("count", LONG)).kind == "closed"


@pytest.mark.parametrize(
    ("verb", "arguments", "text"),
    [
        ("exit", {"status": 3}, "exit status 3"),
        ("exit", {"status": 0}, "exit status 0"),
        ("die", {}, "SIGKILL"),
        ("crash", {}, "SIGSEGV"),
        ("hide", {}, "died in 'hide'"),
    ],
)
def test_a_process_that_ends_says_how(home: WorkerPool, verb: str, arguments: dict[str, Any], text: str) -> None:
    worker = home.spawn()
    error = failure(lambda: worker.call(verb, LONG, **arguments))
    assert error.kind == "died"
    assert text in str(error)
    assert error.crashed == (text == "SIGSEGV")
    assert worker.pid not in processes()


def test_an_error_quotes_the_last_output_of_its_own_call(home: WorkerPool) -> None:
    worker = home.spawn()
    worker.call("run", LONG, code="print('of an earlier call')")
    error = failure(lambda: worker.call("run", LONG, code="print('a' * 9_000 + 'the end'); import os; os._exit(1)"))
    assert str(error).endswith("the end")
    assert "earlier" not in str(error)
    assert len(str(error)) < 3_000


@pytest.mark.parametrize(
    "frame",
    [
        "garbage!",  # announces more than a frame may have
        "\0\0\0\x05hello",
        "\0\0\0\x02[]",
        '\0\0\0\x0b{"number":2',
        '\0\0\0\x15{"ok":1,"number":999}',
        '\0\0\0\x0c{"number":1}',
        "\0\0\x27\x10" + "[" * 10_000,
    ],
)
def test_what_is_no_answer_breaks_the_protocol(home: WorkerPool, frame: str) -> None:
    worker = home.spawn()
    error = failure(lambda: worker.call("garbage", LONG, frame=frame))
    assert error.kind == "protocol"
    assert worker.pid not in processes()


def test_an_answer_put_into_the_stream_beforehand_is_not_taken_for_the_next_calls(home: WorkerPool) -> None:
    worker = home.spawn()
    assert worker.call("forge", LONG) == "forged"  # code inside can say what it likes, once
    assert failure(lambda: worker.call("count", LONG)).kind == "protocol"


def test_an_answer_in_pieces_waits_for_its_rest(home: WorkerPool) -> None:
    worker = home.spawn()
    error = failure(lambda: worker.call("garbage", 0.5, frame='\0\0\0\x15{"ok":'))
    assert error.kind == "deadline"


def test_forks_of_forks_end_with_their_worker() -> None:
    with pool(limits=Limits(sandbox=False)) as home:
        worker = home.spawn()
        assert worker.sandbox.startswith("none: ")
        first = worker.call("facts", LONG)["parent"]
        assert failure(lambda: worker.call("bomb", 0.5)).kind == "deadline"
        assert descendants(first) == set()
        assert home.spawn().call("count", LONG) == 1


def test_a_process_that_left_its_family_ends_with_its_worker() -> None:
    with pool(limits=Limits(sandbox=False)) as home:
        worker = home.spawn()
        left = worker.call("daemon", LONG)
        assert left in processes()
        worker.close()
        assert left not in processes()


def test_an_interrupt_in_a_call_closes_the_worker(home: WorkerPool) -> None:
    """Its answer may still come, and must not be taken for the next one's."""
    worker = home.spawn()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.call("sleep", LONG, seconds=600)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not worker.alive
    assert worker.pid not in processes()


def test_errors_can_be_pickled(worker: Worker) -> None:
    """As they are between our own processes."""
    error = failure(lambda: worker.call("raises", LONG, name="ValueError", text="x"))
    error.busy = True
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)
