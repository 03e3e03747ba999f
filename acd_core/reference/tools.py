"""Tool turns: tools in OpenAI form, requests that fit one of them, and the calls that answer them."""

from __future__ import annotations

import random
from typing import Any

from acd_core.reference.everyday_phrases import (
    ANIMALS,
    CODE_LANGUAGES,
    FOODS,
    JOBS,
    LANGUAGES,
    NAMES,
    PLACES,
    SENTENCES,
    SUBJECTS,
    THINGS,
)
from acd_core.reference.tool_forms import (
    ARCHETYPES,
    FILL_FORMS,
    PARAMETERS,
    RESULT_REPLIES,
    RESULTS,
    TOOL_VERBS,
    WEATHER,
)
from acd_core.reference.words import foreign_text, invented_name, invented_word, number

Tool = dict[str, Any]
Call = dict[str, Any]


def _argument(rng: random.Random, kind: str) -> tuple[Any, str]:
    """A value and the text that stands for it in the request."""
    if kind == "number":
        value: Any = int(number(rng)) if rng.random() < 0.95 else -rng.randint(1, 99)
    elif kind == "small":
        value = rng.randint(1, 12)
    elif kind == "hour":
        value = rng.randint(1, 23)
    elif kind == "minute":
        value = rng.randint(10, 59)
    elif kind == "decimal":
        value = round(rng.uniform(1, 10 ** rng.randint(1, 3)), rng.randint(1, 2))
    elif kind in ("switch", "shuffle"):
        value = rng.random() < 0.5
        return value, {"switch": ("off", "on"), "shuffle": ("without", "with")}[kind][int(value)]
    elif kind == "place":
        value = rng.choice(
            (
                rng.choice(PLACES),
                invented_name(rng),
                rng.choice(PLACES) + ", " + rng.choice(("CA", "TX", "UK", "NY", "Spain")),
            )
        )
    elif kind == "person":
        value = rng.choice((rng.choice(NAMES), f"{rng.choice(NAMES)} {invented_name(rng)}", invented_name(rng)))
    elif kind == "company":
        value = rng.choice(
            (
                f"{invented_name(rng)} Ltd",
                foreign_text(rng),
                invented_name(rng) + " " + invented_name(rng),
                foreign_text(rng),
            )
        )
    elif kind == "email":
        value = f"{invented_word(rng)}@{invented_word(rng)}.{rng.choice(('com', 'org', 'net'))}"
    elif kind == "symbol":
        value = invented_word(rng).upper()[: rng.randint(3, 5)]
    elif kind == "word":
        value = invented_word(rng)
    elif kind == "foreign":
        value = foreign_text(rng)
    elif kind == "topic":
        value = rng.choice(
            (
                rng.choice(SUBJECTS),
                rng.choice(THINGS),
                f"{invented_word(rng)} {rng.choice(THINGS)}",
                f"{rng.choice(THINGS)} in {rng.choice(PLACES)}",
            )
        )
    elif kind == "task":
        value = (
            rng.choice(("buy", "call", "clean", "fix", "visit", "paint"))
            + " "
            + rng.choice((rng.choice(NAMES), "the " + rng.choice(THINGS), invented_word(rng)))
        )
    else:
        pools: dict[str, tuple[str, ...]] = {
            "unit": ("celsius", "fahrenheit"),
            "sentence": SENTENCES,
            "language": LANGUAGES,
            "room": ("kitchen", "bedroom", "bathroom", "hall", "garage", "office", "attic"),
            "color": ("green", "black", "red", "purple", "blonde", "silver", "brown"),
            "animals": ANIMALS,
            "style": ("pirate", "formal", "cowboy", "poetic", "Shakespearean", "cheerful", "robot", invented_word(rng)),
            "currency": ("dollars", "yen", "pounds", "francs", "pesos"),
            "food": FOODS,
            "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
            "code": CODE_LANGUAGES,
            "job": JOBS,
        }
        value = rng.choice(pools[kind])
    return value, str(value)


def _schema(rng: random.Random, name: str, description: str, parameters: dict[str, str]) -> Tool:
    properties: dict[str, Any] = {}
    for key, kind in parameters.items():
        properties[key] = {"type": kind}
        if rng.random() < 0.2:
            properties[key]["description"] = f"The {key.replace('_', ' ')}."
    body: Any = (
        {"properties": properties, "type": "object"}
        if rng.random() < 0.5
        else {"type": "object", "properties": properties}
    )
    if parameters:
        body["required"] = list(parameters)
    return {"type": "function", "function": {"name": name, "description": description, "parameters": body}}


def _invented(rng: random.Random) -> tuple[str, str, dict[str, tuple[str, str]], tuple[str, ...]]:
    verb, noun = rng.choice(TOOL_VERBS), rng.choice((rng.choice(THINGS).replace(" ", "_"), invented_word(rng)))
    chosen = rng.sample(PARAMETERS, rng.choice((0, 1, 1, 2, 2, 3)))
    words = noun.replace("_", " ")
    if not chosen:
        return (
            f"{verb}_{noun}",
            f"{verb.capitalize()} the {words}.",
            {},
            (f"{verb.capitalize()} the {words}.", f"Please {verb} the {words}", f"Can you {verb} the {words}?"),
        )
    form = rng.choice(FILL_FORMS)
    pairs = " and ".join(f"{name} {{{name}}}" for name, _, _ in chosen)
    request = (
        form.replace("{pairs}", pairs)
        .replace("{verb}", verb)
        .replace("{Verb}", verb.capitalize())
        .replace("{noun}", words)
    )
    return (
        f"{verb}_{noun}",
        f"{verb.capitalize()} a {words}.",
        {name: (kind, value) for name, kind, value in chosen},
        (request,),
    )


def _restyle(rng: random.Random, name: str) -> str:
    """Some tools get another name, so that the name has to be read from the list."""
    if rng.random() < 0.7 or name.startswith("magic"):
        return name
    return rng.choice(
        (
            f"{name}_{invented_word(rng)}",
            f"{invented_word(rng)}_{name}",
            "".join(part.capitalize() for part in name.split("_")),
            f"{name}_v{rng.randint(2, 9)}",
        )
    )


def tool_result(rng: random.Random) -> str:
    """An invented tool result."""
    return rng.choice(RESULTS).format(
        n=number(rng), adj=rng.choice(WEATHER), p=rng.choice(PLACES), w=invented_word(rng), name=rng.choice(NAMES)
    )


def result_reply(rng: random.Random, result: str) -> str:
    """A reply that quotes a tool's result."""
    return rng.choice(RESULT_REPLIES).format(r=result.rstrip(".") if rng.random() < 0.5 else result)


def tool_set(rng: random.Random, count: int) -> list[Tool]:
    """Some tools that no request belongs to."""
    tools = []
    for _ in range(count):
        name, description, parameters, _ = rng.choice(ARCHETYPES) if rng.random() < 0.5 else _invented(rng)
        tools.append(
            _schema(rng, _restyle(rng, name), description, {key: kind for key, (kind, _) in parameters.items()})
        )
    return tools


def tool_request(rng: random.Random) -> tuple[list[Tool], str, list[Call]]:
    """Tools, a request that fits one of them, and the call (now and then two calls of the same tool)."""
    name, description, parameters, requests = rng.choice(ARCHETYPES) if rng.random() < 0.6 else _invented(rng)
    shown = _restyle(rng, name)
    twice = bool(parameters) and rng.random() < 0.08
    texts, calls = [], []
    for _ in range(2 if twice else 1):
        arguments, words = {}, {}
        for key, (_, kind) in parameters.items():
            arguments[key], words[key] = _argument(rng, kind)
        texts.append(rng.choice(requests).format(**words))
        calls.append({"type": "function", "function": {"name": shown, "arguments": arguments}})
    tools = [
        tool for tool in tool_set(rng, rng.choice((0, 0, 1, 1, 2, 3))) if tool["function"]["name"] not in (shown, name)
    ]
    tools.insert(
        rng.randint(0, len(tools)),
        _schema(rng, shown, description, {key: kind for key, (kind, _) in parameters.items()}),
    )
    return tools, " ".join(texts), calls
