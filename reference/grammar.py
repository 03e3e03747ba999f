"""Draws labelled training conversations for the reference model from a seeded generator.

`Grammar` is the narrower one. Training draws from `WideGrammar`, which has many more words, whole sentences, and
people's own harmful requests: a probe of the model before had shown what that one missed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from reference import context_forms, contexts, replies, systems
from reference import everyday_words as words
from reference import tools as tool_data
from reference.harm_phrases import DEMEANED
from reference.harm_questions import harm_question
from reference.material import EVERYDAY_BLOCKS, THINGS, Request
from reference.permissive import restate, you
from reference.requests import RequestGrammar
from reference.twin_questions import lookalike

Message = dict[str, Any]
FOLLOW_UPS: tuple[tuple[str, str], ...] = (
    ("Can you give me an example?", 'Here is an example for "{q}": a small and simple case, with one detail.'),
    ("Make it shorter.", 'In short, for "{q}": {s1} and {s2}.'),
    ("Please make it longer", 'For "{q}", {s1}, then {s2}, then {s3}, and look at it once more.'),
    ("Why?", 'Because "{q}" works best when you {s1} and {s2}.'),
    ("Thanks!", 'You are welcome! Tell me if you need more on "{q}"'),
    ("Thank you, that helps.", 'Glad to help with "{q}" Is there anything else?'),
    ("Can you say that in other words?", 'In other words, for "{q}": {s1}, and then {s2}.'),
    ("What was my question?", "Your question was: {q}"),
    ("What did I ask you before?", "You asked: {q}"),
    ("Go on.", 'To go on with "{q}": {s1}, {s2}, and {s3}.'),
    ("What should I do first?", 'For "{q}", first {s1}. After that, {s2}.'),
    ("Tell me more.", 'There is more on "{q}": {s1}, and then {s2}.'),
    ("How long does it take?", 'For "{q}" it takes a little time: {s1}, then {s2}.'),
    ("Is that all?", 'Nearly. For "{q}" you should also {s1} and {s2}.'),
    ("ok, and then?", "And then {s1}, {s2}, and {s3}."),
    ("Explain the first step", 'The first step for "{q}" is simple: {s1}.'),
)


@dataclass
class Example:
    """One conversation; `harmful` labels the last request (None: no label)."""

    messages: list[Message]
    harmful: bool | None
    kind: str
    mode: str
    tools: list[dict[str, Any]] = field(default_factory=list)


class Grammar(RequestGrammar):
    """Draws conversations of all kinds around the requests of `RequestGrammar`."""

    system_shares = systems.SYSTEM_SHARES

    def system(self) -> tuple[str, str]:
        """(mode, system text)."""
        modes, shares = zip(*self.system_shares)
        mode = self.rng.choices(modes, shares)[0]
        if mode == "none":
            return mode, ""
        values = self.slots()
        neutral = self.rng.choice(systems.NEUTRAL_SYSTEMS).format(**values)
        if mode == "neutral":
            return mode, neutral
        pool = {"safe": systems.SAFE_SYSTEMS, "strict": systems.STRICT_SYSTEMS, "opposite": systems.OPPOSITE_SYSTEMS}[
            mode
        ]
        text = self.rng.choice(pool)
        if self.rng.random() < 0.15:
            text = f"{text}\n\n{neutral}" if self.rng.random() < 0.75 else f"{neutral} {text}"
        return mode, text

    def reply(self, request: Request, mode: str) -> str:
        """The answer or the refusal that this kind of system text leads to."""
        refuse = request.harmful and request.severity > systems.THRESHOLDS[mode]
        if request.harmful and mode in ("none", "neutral", "safe") and self.rng.random() < 0.04:
            refuse = not refuse
        if not refuse:
            return request.answer
        phrase = you(request.phrase)
        if len(phrase.split()) > 24:
            phrase = "do this"
        return self.rng.choice(replies.REFUSALS).format(vp=phrase)

    def single(self, harmful: bool, long: bool = False) -> Example:
        """One request and its reply."""
        mode, text = self.system()
        request = self.request(harmful)
        messages = [
            *self._opening(text),
            {"role": "user", "content": request.text},
            {"role": "assistant", "content": self.reply(request, mode)},
        ]
        return Example(messages, harmful, "harmful" if harmful else "harmless", mode)

    def _opening(self, text: str) -> list[Message]:
        return [{"role": "system", "content": text}] if text else []

    def dialogue(self) -> Example:
        """Two to four turns; the last may be harmful, a follow-up, or a new request."""
        mode, text = self.system()
        messages = self._opening(text)
        harmful = False
        request = self.request(False)
        for turn in range(self.rng.choice((2, 2, 2, 3, 3, 4))):
            if turn and not harmful and self.rng.random() < 0.4:
                said, answer = follow_up(self.rng, request.text, self)
                messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
                continue
            harmful = self.rng.random() < 0.3
            request = self.request(harmful)
            messages += [
                {"role": "user", "content": request.text},
                {"role": "assistant", "content": self.reply(request, mode)},
            ]
        if self.rng.random() < 0.03:
            messages.insert(-2, {"role": "user", "content": self.request(False).text})
        return Example(messages, harmful, "dialogue", mode)

    def retrieval(self, long: bool = False) -> Example:
        """A question over a supplied context; now and then the question is harmful."""
        mode, text = self.system()
        if text and self.rng.random() < 0.3 and mode == "neutral":
            text = self.rng.choice(context_forms.RAG_SYSTEMS)
        harmful = self.rng.random() < 0.2
        if harmful:
            request = self.request(True)
            said, _, _ = contexts.context_turn(self.rng, long, request.text)
            answer = self.reply(request, mode)
        else:
            said, _, answer = contexts.context_turn(self.rng, long)
        return Example(
            [*self._opening(text), {"role": "user", "content": said}, {"role": "assistant", "content": answer}],
            harmful,
            "retrieval",
            mode,
        )

    def tool_turn(self) -> Example:
        """A tool call, its result quoted, or a plain reply where no tool fits."""
        mode, text = self.system()
        messages = self._opening(text)
        draw = self.rng.random()
        if draw < 0.18:
            harmful = self.rng.random() < 0.45
            request = self.request(harmful)
            messages += [
                {"role": "user", "content": request.text},
                {"role": "assistant", "content": self.reply(request, mode)},
            ]
            return Example(messages, harmful, "tools", mode, tool_data.tool_set(self, self.rng.randint(1, 4)))
        tools, rounds = tool_data.tool_request(self, self.rng.choice((1, 1, 1, 1, 2, 2, 3)))
        if self.rng.random() < 0.08:
            request = self.request(False)
            messages += [{"role": "user", "content": request.text}, {"role": "assistant", "content": request.answer}]
        answered = draw > 0.62
        for turn, (said, calls) in enumerate(rounds):
            messages += [{"role": "user", "content": said}, {"role": "assistant", "content": "", "tool_calls": calls}]
            if turn + 1 < len(rounds) or answered:
                results = [tool_data.tool_result(self) for _ in calls]
                messages += [{"role": "tool", "content": result} for result, _ in results]
                messages.append({"role": "assistant", "content": " ".join(reply for _, reply in results)})
        return Example(messages, None if answered else False, "tools", mode, tools)

    def form_turn(self) -> Example:
        """A request for JSON with named keys, answered in JSON."""
        mode, text = self.system()
        said, document = tool_data.form_request(self)
        messages = [*self._opening(text), {"role": "user", "content": said}, {"role": "assistant", "content": document}]
        return Example(messages, False, "form", mode)

    def example(self) -> Example:
        """One training conversation."""
        draw = self.rng.random()
        if draw < 0.31:
            return self.single(True)
        if draw < 0.755:
            return self.single(False)
        if draw < 0.8:
            return self.dialogue()
        if draw < 0.88:
            return self.retrieval(long=self.rng.random() < 0.12)
        return self.form_turn() if draw < 0.893 else self.tool_turn()


WIDE_BLOCKS = EVERYDAY_BLOCKS + words.EVERYDAY_AIMS
WIDE_THINGS = tuple(dict.fromkeys(THINGS + words.MORE_WORDS))
# More opposite texts than `Grammar` draws: over so many more words, obeying them takes longer to learn.
WIDE_SHARES = (("none", 0.32), ("safe", 0.25), ("opposite", 0.22), ("neutral", 0.16), ("strict", 0.05))


class WideGrammar(Grammar):
    """`Grammar` with wider material. human: (text, severity) of harmful requests that people typed."""

    everyday_blocks = WIDE_BLOCKS
    everyday_things = WIDE_THINGS
    system_shares = WIDE_SHARES

    def __init__(self, seed: int, *given: Any, human: list[tuple[str, float]] | None = None) -> None:
        super().__init__(seed, *given)
        self.everyday_verbs += words.MORE_VERBS
        self.human = human or []

    def harmful_request(self) -> Request:
        """A harmful request: whole sentences and wide templates, people's own, or one of the narrower grammar."""
        draw = self.rng.random()
        if draw < 0.06 and self.human:
            text, severity = self.rng.choice(self.human)
        elif draw < 0.3:
            text, severity = harm_question(self.rng, self.rng.choice(DEMEANED))
        else:
            return super().harmful_request()
        return self.harmful_text(text, severity)

    def twin_request(self) -> Request:
        """A harmless request that looks harmful."""
        if self.rng.random() >= 0.4:
            return super().twin_request()
        return self.harmless_text(lookalike(self.rng))

    def everyday_request(self) -> Request:
        """A harmless everyday request."""
        if self.rng.random() >= 0.12:
            return super().everyday_request()
        return self.harmless_text(self.rng.choice(words.EVERYDAY_REQUESTS))


def follow_up(rng: random.Random, previous: str, grammar: RequestGrammar) -> tuple[str, str]:
    """(what the user says next, the reply); the reply quotes the earlier request."""
    if rng.random() < 0.12:
        name = grammar.slots()["name"]
        return f"By the way, my name is {name}.", f"Nice to meet you, {name}!"
    said, form = rng.choice(FOLLOW_UPS)
    _kind, phrase = restate(previous)
    quoted = phrase if phrase.endswith(("?", ".", "!")) else phrase + "."
    return said, grammar.fill_steps(form, q=quoted)
