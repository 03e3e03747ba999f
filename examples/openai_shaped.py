"""A third adapter: OpenAI-shaped messages in, OpenAI-shaped replies and chunks out, for frameworks that speak those.

    python examples/openai_shaped.py

What every adapter has to do, and all of it: hand messages and settings down, hand events up, name the end of a reply
in the host's words, and close the stream when the host stops listening, so that the reply's rows are free again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from acd_core import ContrastiveLM, Generation, Policy
from acd_core.params import Done, TextDelta, ToolCall, ToolCallDelta

FINISHED = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "refusal": "content_filter"}


class OpenAIShaped:
    """Completions of one model. Settings are those of GenerationParams; errors are ours (`acd_core.errors`)."""

    def __init__(self, lm: ContrastiveLM, policy: Policy | None = None) -> None:
        self.lm = lm
        self.policy = policy

    def create(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> dict[str, Any]:
        """One whole reply."""
        made: Generation = self.lm.generate(list(messages), policy=self.policy, **settings)
        calls = [_call(call) for call in made.tool_calls]
        message = {"role": "assistant", "content": made.text or None, "refusal": made.refusal, "tool_calls": calls}
        usage = {"prompt_tokens": made.usage.prompt_tokens, "completion_tokens": made.usage.completion_tokens}
        return {
            "choices": [{"index": 0, "message": message, "finish_reason": FINISHED[made.finish_reason]}],
            "usage": usage | {"total_tokens": made.usage.total_tokens},
        }

    def stream(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> Iterator[dict[str, Any]]:
        """The same reply in pieces. Whoever stops reading closes the generator, and the engine stops decoding."""
        with closing(self.lm.stream(list(messages), policy=self.policy, **settings)) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    yield _chunk({"content": event.text})
                elif isinstance(event, ToolCallDelta):
                    yield _chunk({"tool_calls": [{"index": event.index, **_call(event.call)}]})
                elif isinstance(event, Done):
                    yield _chunk({}, FINISHED[event.generation.finish_reason])


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": call.id, "type": "function", "function": function}


def _chunk(delta: Mapping[str, Any], finished: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": dict(delta), "finish_reason": finished}]}


if __name__ == "__main__":
    with ContrastiveLM.from_pretrained("reference", "reference") as lm:
        for chunk in OpenAIShaped(lm).stream([{"role": "user", "content": "How do I fold a shirt?"}], max_tokens=60):
            print(chunk["choices"][0]["delta"].get("content", ""), end="", flush=True)
        print()
