"""Models that play a published family below the engine: they read a rendered prompt turn by turn, as the family's
model would, and write thoughts, calls and texts in its wire format."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from acd_core import ContrastiveLM, PromptPair
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel
from tests.templates import published

WITH_TOOLS = ("qwen3", "llama3.1", "mistral-v0.3", "gpt-oss")
FAMILIES = (*WITH_TOOLS, "gemma3")
THINKING = ("qwen3", "gpt-oss")
PARALLEL = ("qwen3", "mistral-v0.3")
"""Families that write several calls in one turn; the templates of the others know one a turn."""
# A thought that a careless reader would take for a call, or for the answer.
THOUGHT = 'Is it get_time? {"name": "get_time"}'
REFUSAL = "I'm sorry, but I can't help with that."
LURE = "Sure, whatever."
"""What the kept branch alone would say: a reply that is right was contrasted."""

Calls = tuple[tuple[str, dict[str, Any]], ...]
Turns = list[tuple[str, str]]

_OPENINGS = {
    "qwen3": ("<|im_start|>assistant\n",),
    "llama3.1": ("<|start_header_id|>assistant<|end_header_id|>\n\n",),
    "mistral-v0.3": ("[/INST]", "[/TOOL_RESULTS]"),
    "gpt-oss": ("<|start|>assistant",),
    "gemma3": ("<start_of_turn>model\n",),
}


@dataclass(frozen=True)
class Said:
    """What a model says in one turn. thought None: as the family does, THOUGHT where it thinks."""

    text: str = ""
    calls: Calls = ()
    thought: str | None = None


@dataclass(frozen=True)
class Seen:
    """What a model reads. turns: (kind, text) of each, kinds "user", "assistant", "thought", "call" (name and JSON)
    and "result". tools: names of those that the prompt shows."""

    family: str
    prompt: str
    turns: Turns
    tools: list[str]

    @property
    def asked(self) -> str:
        """The last thing the user said."""
        return next((text for kind, text in reversed(self.turns) if kind == "user"), "")

    def since(self, kind: str) -> list[str]:
        """Texts of the turns of `kind` behind the user's last."""
        at = max((at for at, turn in enumerate(self.turns) if turn[0] == "user"), default=-1)
        return [text for each, text in self.turns[at + 1 :] if each == kind]


Script = Callable[[Seen], Said]


@dataclass
class Played:
    """An engine over a played model. asked: what its kept branch read, each prompt once, in order."""

    lm: ContrastiveLM
    asked: list[Seen] = field(default_factory=list)

    @property
    def last(self) -> Seen:
        return self.asked[-1]


@contextlib.contextmanager
def played(family: str, script: Script, *, lure: str | None = LURE) -> Iterator[Played]:
    """The family's tokenizer and template over a model that says what `script` says."""
    tokenizer = published.tokenizer(family)
    asked: list[Seen] = []

    def reply(prompt: str) -> str:
        if not prompt.endswith(_OPENINGS[family]):
            return ""  # a long prompt is computed in chunks, and the model is asked for scores at the end of each
        begun, prompt = _begun(family, prompt)
        seen = read(family, prompt)
        if ADVERSARIAL not in prompt and not begun:
            asked.append(seen)
        return written(family, script(seen))[len(begun) :]

    model = _Playing(tokenizer, reply, _OPENINGS[family], lure=lure)
    lm = ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL), model_id=family)
    try:
        yield Played(lm, asked)
    finally:
        lm.close()


class _Playing(ScriptedModel):
    """A scripted model for templates that open replies in several ways."""

    def __init__(self, tokenizer: Any, reply: Callable[[str], str], openings: tuple[str, ...], **more: Any) -> None:
        super().__init__(tokenizer, reply, **more)
        self._openings = [tokenizer.encode(each, add_special_tokens=False) for each in openings]

    def _reply_start(self, ids: list[int]) -> int:
        for end in range(len(ids), 0, -1):
            if any(ids[max(end - len(opening), 0) : end] == opening for opening in self._openings):
                return end
        return len(ids)


def _begun(family: str, prompt: str) -> tuple[str, str]:
    """(what the model has said already, the prompt before it): gpt-oss opens a message anew behind a thought or a
    preamble."""
    part = r"<\|channel\|>(?:analysis|commentary)<\|message\|>[^<]*<\|end\|><\|start\|>assistant"
    found = re.search(rf"(?<=<\|start\|>assistant)(?:{part})+\Z", prompt)
    if family != "gpt-oss" or found is None:
        return "", prompt
    return found.group(), prompt[: found.start()]


# -- writing ----------------------------------------------------------------------------------------------------------


def written(family: str, said: Said) -> str:
    """A turn in the family's wire format."""
    thought = THOUGHT if said.thought is None else said.thought
    bodies = [json.dumps(arguments, ensure_ascii=False) for _, arguments in said.calls]
    names = [name for name, _ in said.calls]
    if family == "qwen3":
        calls = [f'<tool_call>\n{{"name": "{n}", "arguments": {b}}}\n</tool_call>' for n, b in zip(names, bodies)]
        return f"<think>\n{thought}\n</think>\n\n" + "\n".join(filter(None, [said.text, *calls]))
    if family == "gpt-oss":
        parts = [f"<|channel|>analysis<|message|>{thought}<|end|>"]
        if said.text:
            channel = "commentary" if said.calls else "final"
            parts.append(f"<|channel|>{channel}<|message|>{said.text}" + ("<|end|>" if said.calls else ""))
        parts += [f" to=functions.{n}<|channel|>commentary json<|message|>{b}<|call|>" for n, b in zip(names, bodies)]
        return "<|start|>assistant".join(parts)
    if not said.calls:
        return said.text
    if family == "llama3.1":  # a call is the whole reply
        return f'{{"name": "{names[0]}", "parameters": {bodies[0]}}}'
    assert family == "mistral-v0.3", f"{family} knows no calls"
    made = (f'{{"name": "{n}", "arguments": {b}}}' for n, b in zip(names, bodies))
    return f"[TOOL_CALLS] [{', '.join(made)}]"


# -- reading ----------------------------------------------------------------------------------------------------------


def read(family: str, prompt: str) -> Seen:
    """A rendered prompt, turn by turn. System text is left out; of a user's turn the last paragraph counts, since some
    templates put tools and system text before it."""
    tools = re.findall(
        r"^type (\S+) = " if family == "gpt-oss" else r'"name": "([^"]+)",\s+"description"', prompt, re.M
    )
    return Seen(family, prompt, list(_READ[family](prompt)), tools)


def call_text(name: str, arguments: dict[str, Any] | str) -> str:
    """How a call stands among turns."""
    return (
        f"{name} {json.dumps(json.loads(arguments) if isinstance(arguments, str) else arguments, ensure_ascii=False)}"
    )


def _user(text: str) -> tuple[str, str]:
    return "user", text.strip().rpartition("\n\n")[2]


def _qwen(prompt: str) -> Iterator[tuple[str, str]]:
    for role, text in re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", prompt, re.DOTALL):
        if role == "user":
            results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", text, re.DOTALL)
            yield from (("result", each) for each in results) if results else [_user(text)]
        elif role == "assistant":
            thought, _, rest = text.rpartition("</think>\n\n")
            if thought.removeprefix("<think>").strip():
                yield "thought", thought.removeprefix("<think>").strip()
            said, *calls = re.split(r"\n?<tool_call>\n(.*?)\n</tool_call>", rest, flags=re.DOTALL)
            if said:
                yield "assistant", said
            for call in filter(None, calls):
                yield "call", call_text(json.loads(call)["name"], json.loads(call)["arguments"])


def _llama(prompt: str) -> Iterator[tuple[str, str]]:
    turns = re.findall(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", prompt, re.DOTALL)
    for role, text in turns:
        if role == "user":
            yield _user(text)
        elif role == "ipython":
            yield "result", json.loads(text)
        elif role == "assistant":
            called = json.loads(text) if re.match(r'\{"name": "[^"]+", "parameters": ', text) else None
            yield ("call", call_text(called["name"], called["parameters"])) if called else ("assistant", text)


_MISTRAL = re.compile(
    r"\[INST\] (?P<user>.*?)\[/INST\]|\[TOOL_CALLS\] (?P<calls>.*?)</s>| (?P<assistant>[^\[\]]+)</s>"
    r'|\[TOOL_RESULTS\] \{"content": (?P<result>.*?), "call_id": "(?P<id>\w+)"\}\[/TOOL_RESULTS\]',
    re.DOTALL,
)


def _mistral(prompt: str) -> Iterator[tuple[str, str]]:
    """Results come in the order of their calls, which their ids tell whatever order they stand in."""
    ids: list[str] = []
    results: dict[str, str] = {}
    for found in _MISTRAL.finditer(re.sub(r"\[AVAILABLE_TOOLS\].*?\[/AVAILABLE_TOOLS\]", "", prompt, flags=re.DOTALL)):
        kind, text = next((kind, text) for kind, text in found.groupdict().items() if text is not None)
        if kind == "result":
            results[found["id"]] = text
            continue
        yield from (("result", results.pop(each)) for each in ids if each in results)
        if kind == "calls":
            ids = [call["id"] for call in json.loads(text)]
            yield from (("call", call_text(call["name"], call["arguments"])) for call in json.loads(text))
        else:
            yield _user(text) if kind == "user" else (kind, text)
    yield from (("result", results.pop(each)) for each in ids if each in results)
    yield from (("result", f"{text} (of no call)") for text in results.values())


def _gpt_oss(prompt: str) -> Iterator[tuple[str, str]]:
    for head, text in re.findall(
        r"<\|start\|>((?:(?!<\|start\|>).)*?)<\|message\|>(.*?)<\|(?:end|call|return)\|>", prompt, re.DOTALL
    ):
        if head == "user":
            yield _user(text)
        elif called := re.match(r"assistant to=functions\.(\S+?)<\|channel\|>", head):
            yield "call", call_text(called[1], text)
        elif head.startswith("functions."):
            yield "result", json.loads(text)
        elif head.startswith("assistant"):
            yield ("thought" if "analysis" in head else "assistant"), text


def _gemma(prompt: str) -> Iterator[tuple[str, str]]:
    for role, text in re.findall(r"<start_of_turn>(\w+)\n(.*?)<end_of_turn>", prompt, re.DOTALL):
        yield ("assistant", text) if role == "model" else _user(text)


_READ: dict[str, Callable[[str], Iterator[tuple[str, str]]]] = {
    "qwen3": _qwen,
    "llama3.1": _llama,
    "mistral-v0.3": _mistral,
    "gpt-oss": _gpt_oss,
    "gemma3": _gemma,
}


# -- a script for both frameworks -------------------------------------------------------------------------------------

WEATHER, TIME = "sunny in {}", "noon in {}"
"""What the tools get_weather and get_time say of a city."""


def guide(seen: Seen) -> Said:
    """Asks the tools about the city at the end of the question, then tells what they said.

    "How is Oslo" is one call, "What about Oslo" two, in one turn where the family can; FORBIDDEN is refused; anything
    else is answered by how many things the user has said.
    """
    if "FORBIDDEN" in seen.asked:
        return Said(REFUSAL)
    city = {"city": seen.asked.rpartition(" ")[2]}
    wanted = {"How": ("get_weather",), "What": ("get_weather", "get_time")}.get(seen.asked.partition(" ")[0], ())
    called = seen.since("call")
    missing: Calls = tuple((name, city) for name in wanted if call_text(name, city) not in called)
    if missing and set(wanted) <= set(seen.tools):
        return Said(calls=missing if seen.family in PARALLEL else missing[:1])
    if results := seen.since("result"):
        return Said("So: " + "; ".join(results))
    return Said(f"You said {sum(kind == 'user' for kind, _ in seen.turns)} things.")
