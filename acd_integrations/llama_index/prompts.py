"""The prompt settings that LlamaIndex's classes inherit: system_prompt, query_wrapper_prompt and the two `_to_prompt`s.

Honoured alike by every way in, streamed or not. LlamaIndex's own `_extend_messages` knows the system prompt only, so
that the others are lost on every chat model.
"""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.generic_utils import messages_to_prompt as default_messages_to_prompt
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.llms.llm import default_completion_to_prompt

from acd_core.errors import UsageError
from acd_core.params import shown
from acd_integrations.llama_index.structured import StructuredPrediction


class OwnPrompts(StructuredPrediction):
    """Lays the prompts of the class around what the caller sends."""

    def _with_own_prompts(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """A chat with the system prompt in front, unless it stands there, and through messages_to_prompt if set."""
        prepared = list(messages)
        if prepared and self.system_prompt and not self._opens_with_system_prompt(prepared):
            prepared.insert(0, ChatMessage(role=MessageRole.SYSTEM, content=self.system_prompt))
        if prepared and self.messages_to_prompt not in (None, default_messages_to_prompt):
            prepared = [ChatMessage(role=MessageRole.USER, content=self.messages_to_prompt(prepared))]
        return prepared

    def _opens_with_system_prompt(self, messages: Sequence[ChatMessage]) -> bool:
        first = messages[0]
        return first.role == MessageRole.SYSTEM and first.content == self.system_prompt

    def _completion(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        """A completion's prompt as one user turn. `formatted` prompts already hold the system and wrapper texts."""
        if not isinstance(prompt, str):
            raise UsageError(f"prompt is {shown(prompt)}, not text.", hint="Send messages by chat.")
        message = ChatMessage(role=MessageRole.USER, content=prompt)
        return [message] if formatted else self._extend_messages([message])

    def _extend_messages(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        """Lay completion_to_prompt, query_wrapper_prompt and system_prompt around a templated prompt.

        LlamaIndex calls this in predict, stream, apredict, astream and structured prediction.
        """
        extended = list(messages)
        to_prompt = self.completion_to_prompt
        if to_prompt not in (None, default_completion_to_prompt) and [m.role for m in extended] == [MessageRole.USER]:
            extended[0] = _with_text(extended[0], to_prompt(extended[0].content or ""))
        if self.query_wrapper_prompt is not None:
            for index in range(len(extended) - 1, -1, -1):
                if extended[index].role == MessageRole.USER:
                    text = self.query_wrapper_prompt.format(query_str=extended[index].content or "")
                    extended[index] = _with_text(extended[index], text)
                    break
        return super()._extend_messages(extended)


def _with_text(message: ChatMessage, text: str) -> ChatMessage:
    return ChatMessage(role=message.role, content=text, additional_kwargs=message.additional_kwargs)
