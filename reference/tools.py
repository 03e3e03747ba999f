"""Tool turns: tools in OpenAI form, requests that fit one of them, and the calls that answer them.

Values are drawn from open lists (words of the harmless prompts, invented names, foreign text), so that an argument can
only be had by copying it from the request.
"""

from __future__ import annotations

import json
from typing import Any

from reference.everyday_phrases import ANIMALS, CODE_LANGUAGES, FOODS, JOBS, LANGUAGES, PLACES, TOPICS
from reference.material import Material, upper
from reference.tool_forms import (
    ARCHETYPES,
    ERROR_REPLIES,
    ERRORS,
    FILL_FORMS,
    FORM_REQUESTS,
    PAIR_FORMS,
    PARAMETERS,
    RESULT_REPLIES,
    RESULTS,
    SINGLE_FORMS,
    TOOL_NAMES,
    TOOL_VERBS,
    WEATHER,
)
from reference.words import foreign_text, invented_name, invented_word, number

Tool = dict[str, Any]
Call = dict[str, Any]
_STRINGS = (
    "place",
    "person",
    "company",
    "topic",
    "word",
    "symbol",
    "food",
    "remark",
    "job",
    "email",
    "foreign",
    "sentence",
)
_POOLS: dict[str, tuple[str, ...]] = {
    "unit": ("celsius", "fahrenheit"),
    "language": LANGUAGES,
    "room": ("kitchen", "bedroom", "bathroom", "hall", "garage", "office", "attic"),
    "color": ("green", "black", "red", "purple", "blonde", "silver", "brown", "blue", "grey", "white"),
    "animals": ANIMALS,
    "style": ("Pirate", "formal", "cowboy", "poetic", "Shakespearean", "cheerful", "robot"),
    "currency": ("dollars", "yen", "pounds", "francs", "pesos"),
    "food": FOODS,
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "code": CODE_LANGUAGES,
    "job": JOBS,
    "topic": TOPICS,
}
_CLOSED = ("unit", "day")


def _text(material: Material, kind: str) -> str:
    """A string of a kind."""
    rng = material.rng
    if kind == "place":
        town = rng.choice(
            (
                rng.choice(PLACES),
                material.person(),
                invented_name(rng),
                f"{material.person()} {upper(material.thing())}",
            )
        )
        return (
            town
            if rng.random() < 0.7
            else f"{town}, {rng.choice(('CA', 'TX', 'UK', 'NY', 'Spain', 'OH', rng.choice(PLACES)))}"
        )
    if kind == "person":
        return (
            material.person()
            if rng.random() < 0.45
            else f"{material.person()} {rng.choice((invented_name(rng), material.person()))}"
        )
    if kind == "company":
        return rng.choice(
            (
                f"{invented_name(rng)} Ltd",
                foreign_text(rng),
                f"{material.person()} {upper(material.thing())}",
                foreign_text(rng),
            )
        )
    if kind == "email":
        return f"{rng.choice((material.person().lower(), invented_word(rng)))}@{material.thing().replace(' ', '')}.{rng.choice(('com', 'org', 'net'))}"
    if kind == "symbol":
        return invented_word(rng).upper()[: rng.randint(2, 5)]
    if kind == "foreign":
        return foreign_text(rng)
    if kind == "remark":
        return rng.choice(
            (
                material.things(),
                f"a {material.things()} from {rng.choice(PLACES)}",
                f"a {rng.choice(JOBS)}",
                material.thing(),
            )
        )
    if kind == "sentence":
        return material.sentence()
    if kind == "task":
        return (
            f"{rng.choice(('buy', 'call', 'clean', 'fix', 'visit', 'paint'))} {rng.choice((material.person(), 'the ' + material.thing(), invented_word(rng)))}"
            if rng.random() < 0.6
            else material.everyday_phrase()
        )
    if kind in _POOLS and (kind in _CLOSED or rng.random() < 0.45):
        return rng.choice(_POOLS[kind])
    if kind == "topic":
        return rng.choice(
            (
                material.thing(),
                material.things(),
                f"{material.thing()} in {rng.choice(PLACES)}",
                f"{invented_word(rng)} {material.thing()}",
                material.everyday_phrase(),
            )
        )
    return (
        rng.choice((material.thing(), invented_word(rng), material.things()))
        if kind != "word"
        else rng.choice((invented_word(rng), material.thing()))
    )


def _argument(material: Material, kind: str) -> tuple[Any, str]:
    """A value and the text that stands for it in the request."""
    rng = material.rng
    value: Any
    if kind == "number":
        value = int(number(rng)) if rng.random() < 0.95 else -rng.randint(1, 99)
    elif kind in ("small", "hour", "minute"):
        value = rng.randint(*{"small": (1, 12), "hour": (1, 23), "minute": (10, 59)}[kind])
    elif kind == "decimal":
        value = round(rng.uniform(1, 10 ** rng.randint(1, 3)), rng.randint(1, 2))
    elif kind in ("switch", "shuffle"):
        value = rng.random() < 0.5
        return value, {"switch": ("off", "on"), "shuffle": ("without", "with")}[kind][int(value)]
    elif kind == "list":
        value = (
            [_text(material, "word") for _ in range(rng.randint(2, 4))]
            if rng.random() < 0.5
            else [rng.randint(1, 99) for _ in range(rng.randint(2, 5))]
        )
        return value, ", ".join(str(item) for item in value)
    else:
        value = _text(material, kind)
    return value, str(value)


def _schema(material: Material, name: str, description: str, parameters: dict[str, tuple[str, str]]) -> Tool:
    """A tool as frameworks write it, with now and then a title, a description or bounds that do not matter."""
    rng = material.rng
    properties: dict[str, Any] = {}
    titled = rng.random() < 0.1
    for key, (kind, value_kind) in parameters.items():
        fields: dict[str, Any] = {"type": kind}
        if kind == "array":
            fields["items"] = {"type": rng.choice(("string", "integer"))}
        if titled:
            fields["title"] = upper(key.replace("_", " "))
        if kind in ("integer", "number") and rng.random() < 0.12:
            fields |= rng.choice(
                ({"minimum": -100000}, {"exclusiveMaximum": 100000, "exclusiveMinimum": -1000}, {"maximum": 100000})
            )
        if rng.random() < 0.2:
            fields["description"] = rng.choice(
                (
                    f"The {key.replace('_', ' ')}.",
                    f"the {key} to use",
                    f"{upper(key)} of the {material.thing()}, as said by the user",
                )
            )
        if value_kind == "unit" and rng.random() < 0.5:
            fields["enum"] = ["celsius", "fahrenheit"]
        items = list(fields.items())
        rng.shuffle(items)
        properties[key] = dict(items)
    body: dict[str, Any] = {"properties": properties, "type": "object"}
    if parameters:
        body["required"] = list(parameters)
    items = list(body.items())
    rng.shuffle(items)
    return {"type": "function", "function": {"name": name, "description": description, "parameters": dict(items)}}


def _parameters(material: Material) -> dict[str, tuple[str, str]]:
    """Up to three parameters; some have names that occur nowhere else."""
    rng = material.rng
    found: dict[str, tuple[str, str]] = {}
    for name, kind, value in rng.sample(PARAMETERS, rng.choice((0, 1, 1, 1, 2, 2, 3))):
        shown = name
        if rng.random() < 0.4:
            shown = "_".join((material.thing() if rng.random() < 0.7 else invented_word(rng)).split()[:2])
            draw = rng.random()
            if draw < 0.5:
                kind, value = "string", rng.choice(_STRINGS)
            elif draw < 0.85:
                kind, value = rng.choice((("integer", "number"), ("number", "decimal"), ("integer", "small")))
            elif draw < 0.93:
                kind, value = "array", "list"
        elif rng.random() < 0.1:
            shown = f"{name}_{rng.choice(('id', 'value', 'text', 'of_' + name))}"
        found[shown] = (kind, value)
    return found


def _invented(material: Material) -> tuple[str, str, dict[str, tuple[str, str]], tuple[str, ...]]:
    """A tool nobody has, and a request for it."""
    rng = material.rng
    verb, words = (
        rng.choice(TOOL_VERBS),
        rng.choice((material.thing(), material.thing(), material.things(), invented_word(rng))),
    )
    name = f"{verb}_{words.replace(' ', '_')}" if rng.random() < 0.7 else f"{words.replace(' ', '_')}_{verb}er"
    chosen = _parameters(material)
    described = rng.choice(
        (
            f"{upper(verb)} the {words}.",
            f"{upper(verb)} a {words}.",
            f"A tool to {verb} {words}",
            f"{upper(verb)}s {words} and returns the result.",
        )
    )
    if not chosen:
        requests = (
            f"{upper(verb)} the {words}.",
            f"Please {verb} the {words}",
            f"Can you {verb} the {words}?",
            "Use {tool}.",
            "Call {tool}() please",
            "What is the value of {tool}()? Use the tool.",
            f"{verb} {words}",
        )
        return name, described, {}, (rng.choice(requests),)
    if len(chosen) == 1 and rng.random() < 0.6:
        form = rng.choice(SINGLE_FORMS).replace("{value}", "{" + next(iter(chosen)) + "}")
    else:
        pair = rng.choice(PAIR_FORMS)
        shown = [
            pair.replace("{name}", key.replace("_", " ") if rng.random() < 0.5 else key).replace(
                "{value}", "{" + key + "}"
            )
            for key in chosen
        ]
        form = rng.choice(FILL_FORMS).replace(
            "{pairs}", " and ".join(shown) if rng.random() < 0.5 else ", ".join(shown)
        )
    return (
        name,
        described,
        chosen,
        (form.replace("{verb}", verb).replace("{Verb}", upper(verb)).replace("{noun}", words),),
    )


def _restyle(material: Material, name: str) -> str:
    """Many tools get another name, so that the name has to be read from the list."""
    if material.rng.random() < 0.4:
        return name
    camel = "".join(upper(part) for part in name.split("_"))
    return material.rng.choice(TOOL_NAMES).format(
        n=name, N=name.upper(), c=camel, d=material.rng.randint(2, 9), w=invented_word(material.rng)
    )


def _drawn(material: Material) -> tuple[str, str, dict[str, tuple[str, str]], tuple[str, ...]]:
    return material.rng.choice(ARCHETYPES) if material.rng.random() < 0.5 else _invented(material)


def _facts(material: Material) -> dict[str, str]:
    rng = material.rng
    return {
        "n": number(rng), "adj": rng.choice(WEATHER) if rng.random() < 0.5 else rng.choice((material.thing(), "fine", "open")),
        "p": _text(material, "place"), "w": rng.choice((invented_word(rng), material.thing(), material.things())), "name": material.person(),
    }  # fmt: skip


def tool_result(material: Material) -> tuple[str, str]:
    """An invented tool result or, at times, an error, and the reply that quotes it."""
    rng = material.rng
    failed = rng.random() < 0.16
    result = rng.choice(ERRORS if failed else RESULTS).format(**_facts(material))
    quoted = result.rstrip(".") if rng.random() < 0.5 else result
    return result, rng.choice(ERROR_REPLIES if failed else RESULT_REPLIES).format(r=quoted)


def tool_set(material: Material, count: int) -> list[Tool]:
    """Some tools that no request belongs to."""
    tools = []
    for _ in range(count):
        name, description, parameters, _ = _drawn(material)
        tools.append(_schema(material, _restyle(material, name), description, parameters))
    return tools


def tool_request(material: Material, turns: int = 1) -> tuple[list[Tool], list[tuple[str, list[Call]]]]:
    """Tools and `turns` requests that fit them, each with its calls (now and then two: of one tool or of two tools)."""
    rng = material.rng
    wanted = [_drawn(material) for _ in range(2 if rng.random() < 0.15 else 1)]
    shown = [_restyle(material, name) for name, *_ in wanted]
    known = {description for _, description, _, _ in wanted}
    tools = [
        tool
        for tool in tool_set(material, rng.choice((0, 0, 1, 1, 2, 3)))
        if tool["function"]["name"] not in shown and tool["function"]["description"] not in known
    ]
    for name, (_, description, parameters, _) in zip(shown, wanted):
        tools.insert(rng.randint(0, len(tools)), _schema(material, name, description, parameters))
    rounds: list[tuple[str, list[Call]]] = []
    for _ in range(turns):
        draw = rng.random()
        which = rng.randrange(len(wanted))
        plan = (
            [which, which]
            if draw < 0.06 and wanted[which][2]
            else [0, 1]
            if draw < 0.4 and len(wanted) == 2
            else [which]
        )
        texts, calls = [], []
        for number_of in plan:
            _, _, parameters, requests = wanted[number_of]
            arguments, words = {}, {}
            for key, (_, kind) in parameters.items():
                arguments[key], words[key] = _argument(material, kind)
            texts.append(rng.choice(requests).replace("{tool}", shown[number_of]).format(**words))
            calls.append({"type": "function", "function": {"name": shown[number_of], "arguments": arguments}})
        said = rng.choice((" ", " ", " And ", " Then ")).join(texts)
        rounds.append(
            (
                f"{said} {rng.choice(('Use the tool.', 'Please use the tools.', 'Thanks!'))}"
                if rng.random() < 0.06
                else said,
                calls,
            )
        )
    return tools, rounds


def form_request(material: Material) -> tuple[str, str]:
    """A request for JSON with some keys, and the JSON: values are copied from the request."""
    rng = material.rng
    values: dict[str, Any] = {}
    parts = []
    for _ in range(rng.randint(1, 4)):
        key = "_".join(material.thing().split()[:2]) if rng.random() < 0.5 else rng.choice(PARAMETERS)[0]
        value, shown = _argument(material, rng.choice((*_STRINGS, "number", "decimal", "small")))
        values[key] = value
        parts.append(
            f"{key.replace('_', ' ')} {shown}" if rng.random() < 0.5 else f"The {key.replace('_', ' ')} is {shown}."
        )
    keys = ", ".join(values)
    return rng.choice(FORM_REQUESTS).format(keys=keys, said=" ".join(parts)), json.dumps(values, ensure_ascii=False)
