"""What the policy did in an episode, as text: where its messages stand, and the bare transcript of actions and
replies."""

from __future__ import annotations

import numpy as np

from harness.types import Episode


def transcript(episode: Episode) -> str:
    """The agent's actions and the replies between them, one after another on lines of their own.

    Opening messages (everything before the first action) and whatever follows the last action are left out: the
    teacher has read the first, and the last may hold the outcome.
    """
    acted = acted_at(episode)
    if not acted:
        return ""
    texts = [str(message["content"] or "").strip() for message in episode.messages[acted[0] : acted[-1] + 1]]
    return "\n".join(text for text in texts if text)


def acted_at(episode: Episode) -> list[int]:
    """Places in `episode.messages` of the messages the policy wrote.

    An environment may open with a message in the assistant's name ("Hi! How can I help you?"): where the sampled
    turns are recorded, only that many last assistant messages are the policy's.
    """
    places = [place for place, message in enumerate(episode.messages) if message["role"] == "assistant"]
    sampled_turns = len(np.unique(episode.sequence.turns[episode.sequence.mask]))
    return places[-sampled_turns:] if sampled_turns else places
