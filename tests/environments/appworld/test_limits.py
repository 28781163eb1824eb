"""The limits on a block: it is interrupted wherever it stands, but never in a transaction, and nothing outside it ever
is.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from environments.appworld.inside.limits import Clock, TimeUpError, bounded_output


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGPROF)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def ring_from(moment: int, diary: list[str]) -> bool:
    """A timed call of a block with a transaction in it, its clock ringing at every opcode from a moment on; False where
    it has fewer.
    """
    clock, opcodes = Clock(1_000.0), itertools.count()
    rang = False

    def traced(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal rang
        frame.f_trace_opcodes = True
        if event == "opcode" and next(opcodes) >= moment:
            rang = True
            clock._on_signal(signal.SIGPROF, frame)
        return traced

    def transaction() -> None:
        diary.append("begun")
        diary.append("ended")

    def block() -> str:
        whole()
        return "done"

    whole = clock.shielded(transaction)
    sys._getframe().f_trace_opcodes = True  # from 3.12 on, what a frame asks for later is heard at the next settrace
    sys.settrace(traced)
    try:
        assert clock.timed(block) == "done"
        diary.append("done")
    except TimeUpError:
        diary.append("time")
    finally:
        sys.settrace(None)
    return rang


def test_a_signal_at_any_moment_cuts_the_block_or_nothing() -> None:
    """Also while the clock is wound up and stopped: an error that came out of there would end the process that serves
    the block.
    """
    seen = set()
    for moment in itertools.count():
        diary: list[str] = []
        rang = ring_from(moment, diary)
        seen.add(tuple(diary))
        assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
        if not rang:
            break
    assert seen == {("time",), ("begun", "ended", "time"), ("begun", "ended", "done")}


def test_a_block_that_catches_the_first_interruption_gets_another() -> None:
    caught = []

    def block() -> None:
        while len(caught) < 3:
            try:
                while True:
                    pass
            except TimeUpError:
                caught.append(1)
        while True:
            pass

    with pytest.raises(TimeUpError):
        Clock(0.02).timed(block)
    assert len(caught) == 3


def test_a_block_of_transactions_alone_is_interrupted_behind_one() -> None:
    clock, done = Clock(0.02), [0, 0]

    def transaction() -> None:
        done[0] += 1
        sum(range(100_000))
        done[1] += 1

    def block() -> None:
        whole = clock.shielded(transaction)
        while True:
            whole()

    with pytest.raises(TimeUpError):
        clock.timed(block)
    assert done[0] == done[1] > 0
    clock.shielded(transaction)()  # outside a timed call nothing is interrupted


def test_what_another_process_spends_for_a_block_counts() -> None:
    """A hundred seconds, of which each transaction takes thirty elsewhere: the fourth is the last, and ends whole."""
    clock, done = Clock(100.0), []

    def transaction() -> None:
        clock.charge(30.0)
        done.append(len(done))

    def block() -> None:
        whole = clock.shielded(transaction)
        while len(done) < 10:
            whole()

    with pytest.raises(TimeUpError):
        clock.timed(block)
    assert done == [0, 1, 2, 3]


def test_what_is_timed_may_fail_and_give_back() -> None:
    clock = Clock(100.0)
    assert clock.timed(divmod, 7, 2) == (3, 1)
    assert clock.timed(sorted, [1, 2], reverse=True) == [2, 1]
    with pytest.raises(ZeroDivisionError):
        clock.timed(divmod, 7, 0)


def test_output_is_bounded_on_each_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with bounded_output(10):
        print("123456789")
        print("123456789", file=sys.stderr)
        with pytest.raises(RuntimeError, match="print less"):
            print("x")
    print("more")
    assert capsys.readouterr() == ("123456789\nmore\n", "123456789\n")
