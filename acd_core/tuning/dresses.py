"""How applications dress a request: system texts, retrieval templates, tool lists, earlier turns, long documents.

A reading learnt from bare questions sleeps inside a retrieval template, because what a model's header tokens hold
depends on all that stands before them. So every anchor is seen in several dresses. All texts are ours, but for widely
used retrieval wordings of the frameworks' older releases. Documents are about everyday matters, some of them grave, so
that a grave document does not make a request harmful.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from acd_core.errors import TuningError
from acd_core.tuning.anchors import AnchorPair

Messages = list[dict[str, Any]]

DOCUMENTS = (
    "The bicycle shed behind the library is open from seven in the morning until nine in the evening. Members get a "
    "key card at the front desk for a deposit of ten euros. Lost cards are replaced once a year free of charge.",
    "Tomatoes need six hours of sun a day. Water them at the root in the morning and never over the leaves, or mildew "
    "will follow. Pinch out the side shoots once the plants are knee-high.",
    "Police reported three burglaries in the old town last week. In each case the thieves came through a cellar window "
    "while the owners were at work. Residents are asked to lock their cellars and to report strangers.",
    "The quarterly report shows revenue of 4.2 million, up eight per cent. Shipping costs rose by a third after the "
    "harbour strike. The board proposes to keep the dividend at last year's level.",
    "Carbon monoxide has no smell. Headache and dizziness are the first signs of poisoning. Open the windows, leave "
    "the house and call the emergency number. A detector should hang in every room with a stove.",
    "Version 3.1 of the scheduler drops support for the old queue format. Run the migration once before the upgrade. "
    "Workers that are killed during the migration pick up their tasks after a restart.",
    "The siege lasted from March to October. When the walls fell, the garrison laid down its arms, and the town was "
    "spared on payment of a ransom. Chroniclers put the dead at nine hundred.",
    "Guests may check in from three o'clock. Breakfast is served in the garden room until half past ten. Dogs are "
    "welcome for a small fee; please keep them on a lead in the corridors.",
    "Employees accrue two days of leave a month. Requests go to the team lead at least two weeks ahead. Unused days "
    "lapse at the end of March of the following year.",
    "Two men were sentenced on Tuesday for selling counterfeit medicines over the internet. The court heard that the "
    "tablets held nothing but chalk. Pharmacists advise buying from licensed shops only.",
)

SYSTEM_TEXTS = (
    "You are the assistant of a garden centre. Answer customers' questions briefly and kindly.",
    "You are an experienced software engineer. Give correct, concise answers with code where it helps.",
    "You are a travel agent's chat assistant. Today is Friday. Keep replies under 100 words.",
    "Answer in plain English. If you do not know something, say that you do not know.",
    "You are HomeHelper, the voice of a smart home. Be warm, use short sentences.",
    "You are a tutor for pupils aged 14 to 18. Explain step by step and check understanding.",
    "You are a customer support agent of an online bank. Be polite and factual. Never ask for passwords.",
    "Follow the user's instructions exactly and reply with the result only.",
    "You are a creative writing partner with a sense of humour.",
    "You are an expert analyst. Structure every answer with a heading, bullet points and a conclusion.",
)

TOOLS = (
    ("search_web", "Search the web for a query.", {"query": "string", "limit": "integer"}),
    ("get_weather", "Current weather of a city.", {"city": "string"}),
    ("send_email", "Send an email.", {"to": "string", "subject": "string", "body": "string"}),
    ("run_python", "Run Python code and return its output.", {"code": "string"}),
    ("book_table", "Book a table in a restaurant.", {"name": "string", "time": "string", "guests": "integer"}),
    ("read_file", "Read a file of the workspace.", {"path": "string"}),
    ("create_ticket", "Open a ticket in the help desk.", {"title": "string", "priority": "string"}),
    ("convert_units", "Convert a value from one unit to another.", {"value": "number", "unit": "string"}),
)

TURNS = (
    ("Hi, can you help me with something?", "Of course! What would you like help with?"),
    ("What is the capital of Portugal?", "The capital of Portugal is Lisbon."),
    (
        "Give me a tip for sleeping better.",
        "Go to bed at the same time every day, keep the room cool and dark, and put screens away an hour before.",
    ),
    (
        "How do I boil an egg?",
        "Put the egg into boiling water. Six minutes give a soft yolk, ten a hard one. Cool it in cold water.",
    ),
    ("Thanks, that was useful.", "You're welcome! Is there anything else you would like to know?"),
    (
        "Write one sentence about autumn.",
        "The leaves drift down in gold and copper, and the air smells of rain and apples.",
    ),
)

RETRIEVAL = (
    # LangChain's former default of RetrievalQA.
    "Use the following pieces of context to answer the question at the end. If you don't know the answer, just say "
    "that you don't know, don't try to make up an answer.\n\n{context}\n\nQuestion: {request}\nHelpful Answer:",
    "Answer the question based only on the following context:\n{context}\n\nQuestion: {request}",
    "Documents:\n\n{context}\n\nUsing the documents above, respond to this request: {request}",
    "<documents>\n{context}\n</documents>\n\n<question>{request}</question>\n\nAnswer the question. Quote the "
    "documents where they help.",
    "{request}\n\nHere is some background that may help you:\n{context}",
    "[Source 1]\n{context}\n\n[User]\n{request}\n\n[Instructions]\nAnswer the user from the sources.",
)

RETRIEVAL_SYSTEM = (
    "You answer questions of our staff. Use these excerpts of the handbook where they help:\n\n{context}",
    "You are an assistant for question answering. Context retrieved for the current question:\n{context}",
)

FRAMES = (
    "Question: {request}\nAnswer:",
    "Please carry out the following task.\n\nTask: {request}\n\nResult:",
    "A user writes: {request}\nWrite the best reply you can.",
)


@dataclass(frozen=True)
class Dress:
    """One way to send a request. kind: its family. before: the messages in front of the user turn. template: that turn,
    with the request in place of REQUEST."""

    name: str
    kind: str
    before: tuple[dict[str, Any], ...] = ()
    template: str = "{request}"

    def wear(self, request: str) -> Messages:
        """The messages, as an application would send them."""
        return [*self.before, _user(self.template.replace(REQUEST, request))]


REQUEST = "{request}"
BARE = Dress("bare", "bare")
BARE_SHARE = 0.6
"""Of the anchors of a pair that is tuned in dresses, how many stay as they are."""
BEGUN_SHARE = 0.2
"""Of the refusals a pair learns from, how many follow a reply that is already under way."""
LONGEST = 40
"""Words that a dress may add to an anchor of a pair: every step computes them anew for every row."""


def tool_list(names: Sequence[int], style: int) -> str:
    """A system text that lists tools, as templates and agents write them. style 0: JSON; 1: one line a tool."""
    chosen = [TOOLS[index] for index in names]
    if style == 0:
        functions = [
            {
                "name": name,
                "description": about,
                "parameters": {"type": "object", "properties": {key: {"type": kind} for key, kind in fields.items()}},
            }
            for name, about, fields in chosen
        ]
        return (
            "You have access to the following functions:\n"
            + "\n".join(json.dumps(each) for each in functions)
            + '\n\nTo call one, reply with JSON {"name": ..., "arguments": {...}} and nothing else.'
        )
    lines = "\n".join(f"- {name}({', '.join(fields)}): {about}" for name, about, fields in chosen)
    return f"Answer the following questions as best you can. You have access to the following tools:\n\n{lines}"


def dresses(seed: int = 0) -> tuple[Dress, ...]:
    """The dresses that anchors wear while a reading or a pair is learnt; the bare request is the first."""
    rng = random.Random(seed)
    made: list[Dress] = [BARE]

    def context(count: int) -> str:
        return "\n\n".join(rng.sample(DOCUMENTS, count))

    def add(kind: str, *before: dict[str, Any], template: str = REQUEST) -> None:
        made.append(Dress(f"{kind} {sum(each.kind == kind for each in made)}", kind, before, template))

    for text in SYSTEM_TEXTS:
        add("system text", _system(text))
    for index, template in enumerate(RETRIEVAL):
        for count in (1, 2 + index % 2):
            add("retrieval", template=template.replace("{context}", context(count)))
    for index, template in enumerate(RETRIEVAL_SYSTEM):
        add("retrieval", _system(template.replace("{context}", context(2 + index))))
    for style in (0, 1, 0, 1):
        add("tools", _system(tool_list(sorted(rng.sample(range(len(TOOLS)), rng.randint(2, 5))), style)))
    for count in (1, 1, 2, 2, 3):
        turns = [message for pair in rng.sample(TURNS, count) for message in (_user(pair[0]), _assistant(pair[1]))]
        head = [_system(rng.choice(SYSTEM_TEXTS))] if count == 2 else []
        add("later turn", *head, *turns)
    for frame in FRAMES:
        add("frame", template=frame)
    for template in (RETRIEVAL[0], RETRIEVAL[2]):
        filled = template.replace("{context}", context(6))
        add("long", _system(rng.choice(SYSTEM_TEXTS)), template=filled)
    return tuple(made)


def dress_named(name: str, seed: int = 0) -> Dress:
    """The dress of that name among `dresses(seed)`. Raises TuningError for an unknown one."""
    found = _by_name(seed).get(name)
    if found is None:
        raise TuningError(f"There is no dress {name!r}.", hint=f"Dresses: {', '.join(_by_name(seed))}.")
    return found


@functools.cache
def _by_name(seed: int) -> dict[str, Dress]:
    return {dress.name: dress for dress in dresses(seed)}


def dressed(pairs: Sequence[AnchorPair], begun: Mapping[str, str], seed: int) -> tuple[AnchorPair, ...]:
    """`pairs` in dresses, one each: some stay bare, none gets a long one.

    begun: by instruction id, how the model itself replies; some refusals follow the start of that reply, so that a pair
    learns to turn around in the middle (DeRTa's harmful prefixes, Yuan et al., arXiv 2407.09121).
    """
    short = [dress for dress in dresses() if len(str(dress.wear(""))) < 8 * LONGEST and dress is not BARE]
    kinds = sorted({dress.kind for dress in short} - {"bare"})
    worn = []
    for index, pair in enumerate(pairs):
        rng = random.Random(f"{seed}/{pair.id}/{pair.label}/{index}")
        dress = BARE
        if rng.random() >= BARE_SHARE:
            kind = rng.choice(kinds)
            dress = rng.choice([each for each in short if each.kind == kind])
        start = ""
        said = begun.get(pair.id, "").split()
        if pair.label == "refused" and len(said) >= 8 and rng.random() < BEGUN_SHARE:
            start = " ".join(said[: rng.randint(3, min(24, len(said) - 1))])
        worn.append(replace(pair, dress=dress.name, begun=start))
    return tuple(worn)


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
