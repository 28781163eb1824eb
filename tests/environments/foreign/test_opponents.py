"""Players of the other seats."""

from __future__ import annotations

import random
from collections import Counter

from environments.foreign.opponents import bracketed


def test_it_takes_a_move_of_the_last_line_that_lists_any() -> None:
    read = "Say '[4]' for the middle.\nBoard\nMoves: '[1]', '[ 7 ]', '[take 2]'\nGo!"
    moves = Counter(bracketed(read, random.Random(seed)) for seed in range(300))
    assert moves.keys() == {"[1]", "[ 7 ]", "[take 2]"}
    # 100 each of 300 draws, within four standard deviations (8.2)
    assert all(abs(count - 100) < 33 for count in moves.values())
    assert bracketed("nothing", random.Random(0)) == "[0]"
    assert bracketed(read, random.Random(5)) == bracketed(read, random.Random(5))
