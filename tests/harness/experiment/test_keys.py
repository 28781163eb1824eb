"""A spec is recorded with its runs: a key in it is refused, and the refusal does not repeat it."""

from __future__ import annotations

from typing import Any

import pytest
from experiments import GRPO, small

from harness.core.errors import UserError

PLACES: list[dict[str, Any]] = [
    {"environment": {"options": {"user_endpoint": {"api_key": "geheim77"}}}},
    {"backend": {"plug": "harness.backends.torch:TorchBackend", "options": {"api_key": "geheim77"}}},
    {
        "methods": [
            GRPO.model_copy(update={"options": {"endpoint": {"api_key": "geheim77"}}}).model_dump(exclude_none=True)
        ]
    },
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: next(iter(place)))
def test_a_key_in_a_spec_is_refused(place: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        small(**place)
    assert "geheim77" not in str(caught.value)


def test_the_word_for_no_key_is_none() -> None:
    assert small(environment={"options": {"user_endpoint": {"api_key": "none"}}}).environment.options
