"""Planted secrets do not come through, and ordinary text does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.sanitiser import MASK, mask_literals, mask_reports, traces
from harness.types import Ending, Episode, RolloutGroup, TokenSequence

SECRETS = [
    ('{"password": "hunter2!x"}', "hunter2!x"),
    ("login(username='ann', password='tr0ub4dor')", "tr0ub4dor"),
    ("my api_key = 9f86d081884c", "9f86d081884c"),
    ("access_token: abc123def456", "abc123def456"),
    ("Authorization: Bearer zz99yy88xx77", "zz99yy88xx77"),
    ("use sk-proj-abcdef1234567890 here", "sk-proj-abcdef1234567890"),
    ("token eyJhbGciOi.eyJzdWIiOi.SflKxwRJ ok", "eyJhbGciOi.eyJzdWIiOi.SflKxwRJ"),
    ("http://ann:s3cret@example.org/x", "ann:s3cret"),
    ("-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----", "MIIEvQ"),
    ("the password is swordfish7", "swordfish7"),
    ("pin=4711", "4711"),
    ("cvv: 123", "123"),
    ("card 4111 1111 1111 1111 expires", "4111 1111 1111 1111"),
    ("card 4111111111111111 expires", "4111111111111111"),
    ("amex 3782-822463-10005", "3782-822463-10005"),
    ("pay with credit_card_4421486 please", "credit_card_4421486"),
    ("certificate_7504069 left", "certificate_7504069"),
    ("IBAN DE89 3704 0044 0532 0130 00", "3704 0044"),
    ("a total of $1,234.50 was charged", "1,234.50"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_credentials_and_payment_values(text, secret):
    found = set()
    clean = mask_literals(text, None, found)
    assert secret not in clean
    assert MASK in clean
    assert any(secret in literal for literal in found)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SECRETS), st.text("abc xyz\n.,", max_size=30), st.text("abc xyz\n.,", max_size=30))
def test_secrets_are_found_in_the_middle_of_other_text(planted, before, after):
    text, secret = planted
    assert secret not in mask_literals(f"{before}\n{text}\n{after}", None)


@pytest.mark.parametrize(
    "text",
    [
        "8 6 12 7 9 10 11 14 13 = 12",
        "cancel reservation EHGLP3 on 2024-05-15 for mia_li_3668",
        "for song in apis.spotify.show_songs(page_index=0): print(song['title'])",
        "she is a gold member and passed the security check",
    ],
)
def test_ordinary_text_is_untouched(text):
    assert mask_reports(mask_literals(text, None), None) == text


def test_answers_are_masked_as_words():
    assert mask_literals("7 of 17: 7, 7.5x 77 (7)", "7") == f"{MASK} of 17: {MASK}, {MASK}.5x 77 ({MASK})"
    assert mask_literals("The Answer is new   YORK", "New York") == f"The Answer is {MASK}"
    assert mask_literals("nothing to hide", "  ") == "nothing to hide"
    assert mask_literals("2+2 (x|y)*", "(x|y)*") == "2+2 (x|y)*".replace("(x|y)*", MASK)


def test_reference_actions_and_reports():
    solution = ('{"name": "cancel", "arguments": {"id": "EHGLP3"}}', "x = 1\napis.file.delete(id=x)\n")
    quoted = f"expected {solution[0]} and apis.file.delete(id=x)"
    clean = mask_reports(quoted, solution)
    assert "EHGLP3" not in clean
    assert "delete" not in clean
    assert MASK in mask_reports('see {"name":   "cancel",\n"arguments": {"id": "EHGLP3"}}', solution)
    assert mask_reports("17 to 7", ("7",)) == f"17 to {MASK}"
    report = "booked.\nEvaluation report: 1 of 2 tests failed\n  refund missing\n  label: 3\n\nanything else?"
    assert mask_reports(report, None) == f"booked.\n{MASK}\n\nanything else?"
    for line in (
        "reward_info: 0.0",
        "Ground truth: 12",
        "the expected answer was 12",
        "unit tests: 3/4",
        "2 tests passed",
    ):
        assert mask_reports(line, None) == MASK


def test_traces_of_a_group():
    def episode(action, reply, success):
        messages = (
            {"role": "system", "content": "the reference solution is take 7\n\nbe brief"},
            {"role": "assistant", "content": action},
            {"role": "user", "content": reply},
        )
        sequence = TokenSequence(np.arange(3), np.array([False, True, False]), np.zeros(3), np.zeros(3, int))
        return Episode("t", sequence, float(success), success, Ending.COMPLETED, messages)

    group = RolloutGroup(
        "t",
        (episode("take 7", "ok, password: aa11bb22", True), episode("take 4", "no: take 7 was right", False)),
        solution=("take 7",),
        answer="7",
    )
    (win, loss), literals = traces(group)
    assert win.task.startswith(MASK)
    assert win.task.endswith("be brief")
    assert (win.actions, win.success) == ((f"take {MASK}",), True)
    assert win.replies == (f"ok, password: {MASK}",)
    assert loss.replies == (f"no: {MASK} was right",)  # the gold action, quoted by the environment
    assert literals == ("7", "aa11bb22")
    everything = " ".join([*win.actions, *win.replies, win.task, *loss.actions, *loss.replies, loss.task])
    assert "7" not in everything
    assert "aa11bb22" not in everything
