"""Our own referees for puzzles with many right answers, where the library's take moves or numbers that are not allowed.

Each takes the answer and the item, and says whether the whole answer is one right solution. A move that cannot be made
is a wrong answer, not one to be passed over: a plan of every possible move would else solve everything.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

Entry = Mapping[str, Any]

_ARITHMETIC = re.compile(r"[\d\s+\-*/()]{1,300}", re.ASCII)
_AGENT = re.compile(r"Agent\[(\d+\.\d), ?(\d+\.\d)\]", re.ASCII)
_BOX_MOVE = re.compile(r"move\((box_\w+), ?(?:square\[(\d+\.\d), ?(\d+\.\d)\]|(target_\w+))\)", re.ASCII)
_JUG_MOVE = re.compile(r"(fill|empty) ([A-Z])|pour ([A-Z])->([A-Z])", re.ASCII)
_DISK_MOVE = re.compile(r"Move disk (\d{1,4}) from Peg (\d{1,4}) to Peg (\d{1,4})\.?", re.ASCII)
_CAR_MOVE = re.compile(r"([A-Z])([+-])([1-5])", re.ASCII)
_BUTTONS = re.compile(r"[A-Z](?:\s*(?:→|->|,|\s)\s*[A-Z]){0,500}", re.ASCII)
_LETTER_DIGIT = re.compile(r"([A-Z])\s*=\s*(\d)", re.ASCII)
_ZEROS_AND_ONES = re.compile(r"[01](?:[ \t]+[01])*", re.ASCII)


def parsed(text: str) -> Any:
    """The JSON value that the whole text is; None where it is none, or where an object names a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _values(answer: str) -> tuple[Fraction, Counter[int]] | None:
    """The value of a formula of whole numbers, + - * / and brackets, and the numbers in it; None for anything else."""
    if _ARITHMETIC.fullmatch(answer) is None or "//" in answer or "**" in answer:
        return None
    try:
        tree = ast.parse(answer.strip(), mode="eval").body
        used: Counter[int] = Counter()
        return _value(tree, used), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.AST, used: Counter[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, used)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, used), _value(node.right, used)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
    raise ValueError("no sum, difference, product or quotient of whole numbers")


def _makes(answer: str, numbers: list[int], target: int) -> bool:
    found = _values(answer)
    return found is not None and found[0] == target and found[1] == Counter(numbers)


def countdown(answer: str, entry: Entry) -> bool:
    """Every number once, the value exactly the target."""
    return _makes(answer, entry["metadata"]["numbers"], entry["metadata"]["target"])


def puzzle24(answer: str, entry: Entry) -> bool:
    """The item's four numbers once each, the value exactly 24."""
    return _makes(answer, entry["metadata"]["numbers"], 24)


def cryptarithm(answer: str, entry: Entry) -> bool:
    """Every letter named once, digits all different, no leading zero unless allowed, the sum right."""
    found = [_LETTER_DIGIT.fullmatch(part.strip()) for part in answer.split(",")]
    pairs = [(part[1], part[2]) for part in found if part is not None]
    digit = dict(pairs)
    metadata = entry["metadata"]
    words = [*metadata["words_letters"], metadata["result_letters"]]
    if not len(digit) == len(pairs) == len(found) == len(set(digit.values())) or set(digit) != set("".join(words)):
        return False
    if not metadata.get("allow_leading_zero", False) and any(digit[word[0]] == "0" for word in words):
        return False
    *terms, total = (int("".join(map(digit.__getitem__, word))) for word in words)
    return sum(terms) == total


def coloured(answer: str, entry: Entry) -> bool:
    """A colour of those allowed for every vertex and for nothing else, no edge with two equal ends."""
    puzzle, colours = entry["metadata"]["puzzle"], parsed(answer)
    if not isinstance(colours, dict) or set(colours) != set(map(str, puzzle["vertices"])):
        return False
    if not all(type(colour) is int and colour in puzzle["color_options"] for colour in colours.values()):
        return False
    return all(colours[str(one)] != colours[str(other)] for one, other in puzzle["edges"])


def kakurasu(answer: str, entry: Entry) -> bool:
    """A grid of 0 and 1 alone whose weighted sums are those asked for."""
    lines = answer.strip().splitlines()
    if not all(_ZEROS_AND_ONES.fullmatch(line.strip()) for line in lines):
        return False
    rows = [[int(cell) for cell in line.split()] for line in lines]
    metadata = entry["metadata"]
    if [len(row) for row in rows] != [metadata["n_cols"]] * metadata["n_rows"]:
        return False

    def sums(grid: list[list[int]]) -> list[int]:
        return [sum(place * cell for place, cell in enumerate(row, start=1)) for row in grid]

    columns = [list(column) for column in zip(*rows, strict=True)]
    return sums(rows) == list(metadata["row_sums"]) and sums(columns) == list(metadata["col_sums"])


def quantum_lock(answer: str, entry: Entry) -> bool:
    """Buttons of the item alone, as many as in the shortest solution, each one active when pressed, the target reached.

    A button that is not active does nothing, so a sequence with one could be shorter without it.
    """
    metadata = entry["metadata"]
    text = answer.strip()
    if len(text) > 2_000 or _BUTTONS.fullmatch(text) is None:
        return False
    pressed = re.findall("[A-Z]", text)
    buttons = {button["name"]: button for button in metadata["buttons"]}
    value, colour = metadata["initial_value"], metadata["initial_state"]
    if len(pressed) != len(metadata["solution_path"]) or not set(pressed) <= set(buttons):
        return False
    for name in pressed:
        button = buttons[name]
        if button["active_state"] not in (colour, "any"):
            return False
        amount = button["value"]
        value = {"add": value + amount, "subtract": value - amount, "multiply": value * amount}[button["type"]]
        colour = "green" if colour == "red" else "red"
    return bool(value == metadata["target_value"])


def jugs(answer: str, entry: Entry) -> bool:
    """A JSON list of moves as the question writes them, after which a jug holds the target."""
    moves, puzzle = parsed(answer), entry["metadata"]["puzzle"]
    if not isinstance(moves, list) or not all(isinstance(move, str) for move in moves):
        return False
    size = {chr(ord("A") + place): capacity for place, capacity in enumerate(puzzle["jug_capacities"])}
    held = dict.fromkeys(size, 0)
    for move in moves:
        found = _JUG_MOVE.fullmatch(move)
        if found is None or not {jug for jug in (found[2], found[3], found[4]) if jug} <= set(size):
            return False
        if found[1]:
            held[found[2]] = size[found[2]] if found[1] == "fill" else 0
        elif found[3] == found[4]:
            return False
        else:
            poured = min(held[found[3]], size[found[4]] - held[found[4]])
            held[found[3]] -= poured
            held[found[4]] += poured
    return puzzle["target"] in held.values()


def hanoi(answer: str, entry: Entry) -> bool:
    """One move a line, each allowed, no more of them than the reference has, and the tower on its peg."""
    metadata = entry["metadata"]
    pegs: dict[int, list[int]] = {peg: [] for peg in range(1, metadata["num_pegs"] + 1)}
    pegs[metadata["start_peg"]] = list(range(metadata["num_disks"], 0, -1))
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    if len(lines) > metadata["solution_length"]:
        return False
    for line in lines:
        found = _DISK_MOVE.fullmatch(line)
        if found is None:
            return False
        disk, start, end = map(int, found.groups())
        if start not in pegs or end not in pegs or pegs[start][-1:] != [disk] or any(d < disk for d in pegs[end][-1:]):
            return False
        pegs[end].append(pegs[start].pop())
    return bool(len(pegs[metadata["target_peg"]]) == metadata["num_disks"])


def rush_hour(answer: str, entry: Entry) -> bool:
    """Moves `F+1 K+1 M-1`, each car the whole way over free squares of the 6 by 6 board, and AA at the exit."""
    moves = [_CAR_MOVE.fullmatch(move) for move in answer.replace(",", " ").split()]
    cells: dict[str, set[tuple[int, int]]] = {}
    for place, label in enumerate(entry["metadata"]["board_config"]):
        if label != "o":
            cells.setdefault(label, set()).add(divmod(place, 6))
    taken = set().union(*cells.values())
    for move in moves:
        if move is None or move[1] not in cells:
            return False
        car = cells[move[1]]
        across, step = len({row for row, _ in car}) == 1, 1 if move[2] == "+" else -1
        for _ in range(int(move[3])):
            moved = {(row, column + step) if across else (row + step, column) for row, column in car}
            if any(not 0 <= row < 6 or not 0 <= column < 6 for row, column in moved) or moved & (taken - car):
                return False
            taken = (taken - car) | moved
            cells[move[1]] = car = moved
    return cells["A"] == {(2, 4), (2, 5)}


def boxes_lifted(answer: str, entry: Entry) -> bool:
    """A JSON list of steps, each move one that its agent can make, and no box left."""
    steps = parsed(answer)
    squares = {place: list(items) for place, items in entry["metadata"]["initial_state"].items()}
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return False
    if not all(_lift(squares, str(agent), move) for step in steps for agent, move in step.items()):
        return False
    return not any(item.startswith("box_") for items in squares.values() for item in items)


def _lift(squares: dict[str, list[str]], agent: str, move: Any) -> bool:
    """Make one agent's move; whether it could be made."""
    where, what = _AGENT.fullmatch(agent), _BOX_MOVE.fullmatch(move) if isinstance(move, str) else None
    if where is None or what is None:
        return False
    here = squares.get(f"{where[1]}_{where[2]}", [])
    if what[1] not in here:
        return False
    if what[4] is not None:
        if what[4] not in here or what[4][len("target_") :] != what[1][len("box_") :]:
            return False
        here.remove(what[1])
        here.remove(what[4])
        return True
    there = squares.get(f"{what[2]}_{what[3]}")
    steps = sorted((abs(float(where[1]) - float(what[2])), abs(float(where[2]) - float(what[3]))))
    if there is None or steps != [0.0, 1.0]:
        return False
    here.remove(what[1])
    there.append(what[1])
    return True
