"""A harness of verifiers that starts no program: the conversation itself, one reply of the model for each message.

verifiers finds it by the name `sibling_chat` (`install`), or in a taskset's own module. Its tasks have no tools.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx
import verifiers.v1 as vf

__all__ = ["SiblingChat"]
ID = "sibling_chat"


class SiblingChatConfig(vf.HarnessConfig):  # type: ignore[misc]  # the library is not there when types are checked
    """It has no settings of its own."""


class SiblingChat(vf.Harness[SiblingChatConfig]):  # type: ignore[misc]
    """One request with the whole conversation; what the model replies is the agent's turn."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
    ) -> Any:
        """Ask the model once, as every harness does through verifiers' own endpoint."""
        system, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message.model_dump(exclude_none=True) for message in prompt or []]
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
            answer = await client.post(
                f"{endpoint.rstrip('/')}/chat/completions",
                headers={"Authorization": f"Bearer {secret}"},
                json={"model": ctx.model, "messages": messages},
            )
        failed = answer.status_code != 200
        return vf.ProgramResult(int(failed), "", answer.text if failed else "")


def install() -> str:
    """Let verifiers find this harness by name; the name."""
    sys.modules.setdefault(ID, sys.modules[__name__])
    return ID
