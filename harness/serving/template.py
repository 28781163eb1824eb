"""Chat messages to prompt tokens by the model's own chat template."""

from __future__ import annotations

import json
from typing import Any

from harness.protocols.backend import ConversationRenderer
from harness.serving.requests import ChatRequest, Message, RequestError, ToolCall

PROBE = {
    "type": "function",
    "function": {"name": "probe_of_template", "description": "", "parameters": {"type": "object", "properties": {}}},
}


class ChatTemplate:
    """A model's own chat template, asked once what it can show."""

    def __init__(self, renderer: ConversationRenderer) -> None:
        self.renderer = renderer
        asked = {"role": "user", "content": "?"}
        called = {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call00000", "type": "function", "function": {"name": "probe_of_template", "arguments": {}}}
            ],
        }
        self.shows_tools = self._shows([asked], [PROBE])
        self.shows_calls = self._shows(
            [asked, called, {"role": "tool", "content": "?", "tool_call_id": "call00000", "name": "probe_of_template"}],
            None,
        )

    def tokens(self, request: ChatRequest) -> tuple[int, ...]:
        """The prompt, up to where the model's next message begins.

        Tools are passed on where the template shows them; a past tool call of a model whose template does not show
        calls reads as the JSON text it came from. RequestError where the template refuses the messages, or where they
        hold half a surrogate pair, which no tokenizer takes.
        """
        messages = [self._plain(message) for message in request.messages]
        tools = request.offered if self.shows_tools else None
        text = json.dumps([messages, tools], ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            raise RequestError(
                f"the messages hold {half}, half a surrogate pair, which is no character", "messages"
            ) from None
        try:
            return self.renderer.opening(messages, tools)
        except Exception as error:  # templates raise what they like, e.g. for roles that do not alternate
            raise RequestError(
                f"the model's chat template does not take these messages: {error}", "messages"
            ) from error

    def _plain(self, message: Message) -> dict[str, Any]:
        role = "system" if message.role == "developer" else message.role
        plain: dict[str, Any] = {"role": role, "content": message.text()}
        calls = [{"name": call.function.name, "arguments": _arguments(call)} for call in message.tool_calls or ()]
        if calls and self.shows_calls:
            pairs = zip(message.tool_calls or (), calls, strict=True)
            plain["tool_calls"] = [
                {"id": call.id, "type": "function", "function": function} for call, function in pairs
            ]
        elif calls:
            plain["content"] = "\n".join(
                filter(None, [plain["content"], *(json.dumps(call, ensure_ascii=False) for call in calls)])
            )
        if message.tool_call_id is not None and self.shows_calls:
            plain["tool_call_id"] = message.tool_call_id
        return plain

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        return str(
            self.renderer.tokenizer.apply_chat_template(
                messages, tools=tools or None, add_generation_prompt=True, tokenize=False
            )
        )

    def _shows(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> bool:
        try:
            return "probe_of_template" in self._render(messages, tools)
        except Exception:
            return False


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise RequestError(
            f"tool_calls: arguments must be the text of a JSON object, got {call.function.arguments[:200]!r}",
            "messages",
        )
    return arguments
