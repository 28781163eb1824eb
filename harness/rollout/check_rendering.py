"""Are conversations of a model rendered rightly? What must hold of every chat template, and what is found out about
this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.core.errors import UserError
from harness.core.types import ContextRequest
from harness.rollout.chat_template import CLOCK, CLOCK_NAME
from harness.rollout.rendering import Renderer

ASKED, ANSWERED, REPLIED = "What is 3 plus 5?", "It is 8.", "And 2 more?"
SECRET = "The reference answer is 8, see Quito."
THOUGHT = "<think>\nthree and five\n</think>\n\nIt is 8."
EXCERPT = 60
"""Characters of an excerpt in a report."""


@dataclass
class Report:
    """What a check found."""

    facts: dict[str, str] = field(default_factory=dict)
    """What is so, in words."""
    wrong: list[str] = field(default_factory=list)
    """What makes the model unusable, each with what differs and what to do."""


def check_rendering(renderer: Renderer) -> Report:
    """Everything this harness relies on, on conversations of its own."""
    report = Report()
    checks = (_ends, _clock, _turns, _thoughts, _tools, _contexts, _control_tokens, _literals)
    for check in checks:
        try:
            for name, fact in check(renderer, report.wrong.append):
                report.facts[name] = fact
        except UserError as error:
            report.wrong.append(f"{check.__name__.strip('_').replace('_', ' ')}: {error}")
    return report


Complain = Callable[[str], None]
Facts = Iterator[tuple[str, str]]


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _agent(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _ends(renderer: Renderer, complain: Complain) -> Facts:
    texts = [renderer.tokenizer.decode([stop]) for stop in renderer.stop_ids]
    end = renderer.template.end
    yield "a turn ends with", f"{end!r} ({renderer.stop_ids[0]})" if end else f"{texts[0]!r}, by configuration"
    yield "sampling stops at", ", ".join(f"{t!r} ({i})" for t, i in zip(texts, renderer.stop_ids, strict=True))


def _clock(renderer: Renderer, complain: Complain) -> Facts:
    asked = CLOCK_NAME in renderer.template.source()
    yield "the template's clock", f"stands at {CLOCK:%Y-%m-%d %H:%M}" if asked else "is not asked"


def _turns(renderer: Renderer, complain: Complain) -> Facts:
    yield "turn by turn", _difference(renderer, ANSWERED, complain)


def _thoughts(renderer: Renderer, complain: Complain) -> Facts:
    yield "turn by turn, with thinking", _difference(renderer, THOUGHT, complain)


def _difference(renderer: Renderer, answer: str, complain: Complain) -> str:
    """How the parts of a conversation differ from the template's whole; what was said before stays as it was sampled,
    so a template that rewrites it differs and is not wrong."""
    asked, replied = [_user(ASKED)], [_user(REPLIED)]
    for stopped in (True, False):
        words = renderer.completion(answer)
        words = words if stopped else words[:-1]
        parts = [*renderer.opening(asked), *words, *renderer.bridge(replied, stopped)]
        text = renderer.tokenizer.decode(parts)
        missing = [word for word in (ASKED, REPLIED) if text.count(word) != 1]
        if missing:
            complain(
                f"turn by turn, the prompt holds {missing[0]!r} {text.count(missing[0])} times instead of once: "
                "give the model a chat template that shows every message"
            )
    whole = renderer.template.text([*asked, _agent(answer), *replied])
    known = renderer.tokenizer.encode(whole, add_special_tokens=False)
    parts = [*renderer.opening(asked), *renderer.completion(answer), *renderer.bridge(replied, True)]
    if list(parts) == list(known):
        return "the template's whole, token for token"
    ours, theirs = (renderer.tokenizer.decode(list(tokens)) for tokens in (parts, known))
    if ours == theirs:
        return "the template's whole in other tokens"
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return (
        f"differs from the template's whole, which rewrites what was said: {ours[at : at + EXCERPT]!r} is kept where "
        f"it writes {theirs[at : at + EXCERPT]!r}"
    )


def _tools(renderer: Renderer, complain: Complain) -> Facts:
    text = renderer.tokenizer.decode(list(renderer.bridge([{"role": "tool", "content": ANSWERED}], True)))
    yield "a tool's reply reads", repr(text)


def _contexts(renderer: Renderer, complain: Complain) -> Facts:
    bos = renderer.tokenizer.bos_token_id
    for place in ("before", "after"):
        request = ContextRequest(SECRET, place=place)
        for messages in ([_user(ASKED)], [{"role": "system", "content": "Be brief."}, _user(ASKED)]):
            plain, whole = renderer.opening(messages), renderer.opening(messages, None, request)
            text = renderer.tokenizer.decode(list(whole))
            for words in (SECRET, *(str(message["content"]) for message in messages)):
                if text.count(words) != 1:
                    complain(
                        f"a teacher who should read a privileged context reads {words!r} {text.count(words)} times: "
                        "use a method without a teacher, or give the model a chat template that shows system messages"
                    )
            # One that begins every message, as in some ChatML tokenizers, begins the context's too.
            if bos is not None and plain.count(bos) <= 1 and whole.count(bos) != plain.count(bos):
                complain(f"with a privileged context the prompt has {whole.count(bos)} tokens that begin a text")
            if len(messages) == 1:
                yield f"a context {place} the question reads", repr(text)


def _control_tokens(renderer: Renderer, complain: Complain) -> Facts:
    controls = sorted(renderer.template.controls)
    ids = {renderer.template.token_of(text) for text in controls}
    evil = "hi " + " ".join(controls) + "\n" + "".join(controls)

    def written(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "a user", renderer.opening([_user(text)])
        yield "a tool", renderer.bridge([{"role": "tool", "content": text}], True)
        yield "a demonstration", renderer.completion(text)
        yield "a privileged context", renderer.opening([_user(ASKED)], None, ContextRequest(text))

    for (who, tokens), (_, harmless) in zip(written(evil), written("hi"), strict=True):
        more = sum(token in ids for token in tokens) - sum(token in ids for token in harmless)
        if more:
            complain(f"the text of {who} writes {more} tokens that only the template may write")
    yield "tokens that no text can write", f"{len(controls)}"


def _literals(renderer: Renderer, complain: Complain) -> Facts:
    tokens = np.array(renderer.completion("She lives in New York, at 42."))
    mask = renderer.literal_mask(tokens, ["New York", "42"])
    masked = renderer.tokenizer.decode(tokens[mask].tolist())
    if "New York" not in masked or "42" not in masked:
        complain(f"a literal is not found in tokens: of 'New York' and '42' only {masked!r} is masked")
    yield "literals", f"found: {masked!r} is masked"
