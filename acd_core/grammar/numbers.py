"""Numbers of a JSON schema, so that llguidance holds them exactly: bounds, constants, divisors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

from acd_core.grammar.disjoint import kinds
from acd_core.grammar.schemas import SHARING, is_number, nodes

EXACT_INTEGERS = 2**53
"""Up to here every integer is a double."""
_NUMBERS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_LARGEST_COEFFICIENT = 2**32
_BOUNDS = (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1))
# Decimal places of the number next to 0 that an exclusive bound of 0 leaves. llguidance nests a group for each, and its
# regexes do not nest 100 deep.
_PLACES_AT_ZERO = 40


def inexact_number(schema: Any) -> float | None:
    """Return a number of `schema` for which llguidance would enforce its neighbour, or None.

    It is an integer that a double cannot hold, or a fraction in a constant that is not read to the last digit.
    """
    for _, node in nodes(schema):
        for key in _NUMBERS:
            for value in _numbers(node[key]) if key in node else ():
                if isinstance(value, int) and (abs(value) >= 10**300 or int(float(value)) != value):
                    return value
                if isinstance(value, float) and key in ("const", "enum") and not read_exactly(value):
                    return value
    return None


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(each)


def read_exactly(value: float) -> bool:
    """Whether llguidance reads the written `value` as this double. Its parser takes the digits as one double and scales
    it by a power of ten as another, and only where both are exact the result is sure."""
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    coefficient, scale = int("".join(map(str, digits))), int(exponent)
    return coefficient <= EXACT_INTEGERS and scale >= -22 and (scale <= 22 or coefficient <= 1)


def make_bounds_exact(out: dict[str, Any]) -> None:
    """Rewrite the bounds of `out`, so that llguidance holds them exactly.

    Beside an exclusive whole number and another bound within the same unit it allows the whole number itself (0 for
    `exclusiveMinimum: 0, maximum: 0.5`). Which bounds meet shows only once references and parts are merged, so each
    such one becomes an inclusive one right inside.
    """
    if "number" not in kinds(out):
        return
    for plain, exclusive, inward in _BOUNDS:
        if out.get(exclusive) is True and is_number(out.get(plain)):  # draft 4
            out[exclusive] = out.pop(plain)
        elif out.get(exclusive) is False:
            del out[exclusive]
        for name in (plain, exclusive):
            if isinstance(out.get(name), float) and not read_exactly(out[name]):
                out[name] = _next_inside(out[name], inward)
        inside = _inside(out.get(exclusive), inward, out.get("type") == "integer")
        if inside is not None:
            del out[exclusive]
            known = out[plain] if is_number(out.get(plain)) else inside
            out[plain] = max(known, inside) if inward > 0 else min(known, inside)


def _inside(value: Any, inward: int, integer: bool) -> float | None:
    """Return the first number inside an exclusive bound that llguidance does not hold; None for one that it holds.

    Between the two lies nothing of up to 15 digits, beyond 0 nothing above 1e-40.
    """
    if not is_number(value) or value != int(value):
        return None
    size = abs(value)
    if EXACT_INTEGERS <= size < 2**63:  # llguidance adds 1, which a double of this size does not show
        return int(math.nextafter(value, inward * math.inf))
    if integer or value * inward < 0 or size >= EXACT_INTEGERS:
        return None
    places = _PLACES_AT_ZERO if not size else max(k for k in range(17) if not k or size * 10**k < EXACT_INTEGERS)
    return float(Decimal(value) + inward * Decimal(1).scaleb(-places)) if places else int(value) + inward


def _next_inside(value: float, inward: int) -> float:
    """Return the next number inside the bound that llguidance reads to the last digit."""
    inside = Context(prec=15, rounding=ROUND_CEILING if inward > 0 else ROUND_FLOOR)
    short = float(inside.plus(Decimal(repr(value))))
    # So small or large that no digits are read exactly: a little further in than the reading can be wrong.
    return (
        short
        if read_exactly(short)
        else float(inside.fma(abs(Decimal(short)), Decimal(inward) / 10**14, Decimal(short)))
    )


def multiples_meet_beyond(schema: Mapping[str, Any]) -> bool:
    """Whether several `multipleOf` of `schema` may hold together and have a common multiple that is too large.

    llguidance makes them one by their least common multiple, in 32 bits, and says nothing of one beyond those.
    """
    found = {node["multipleOf"] for _, node in nodes(schema) if is_number(node.get("multipleOf"))}
    meeting = any(key in node for _, node in nodes(schema) for key in SHARING)
    if len(found) < 2 or not meeting:
        return False
    exact = [Decimal(repr(value)).copy_abs() for value in found]
    places = max(0, *(-int(value.normalize().as_tuple().exponent) for value in exact))
    return math.lcm(*(int(value.scaleb(places)) for value in exact)) >= _LARGEST_COEFFICIENT
