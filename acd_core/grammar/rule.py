"""One JSON schema as a rule of a grammar, in llguidance's notation."""

from __future__ import annotations

import json

from acd_core.errors import UsageError
from acd_core.grammar.dialect import enforceable
from acd_core.grammar.limits import check_costs, check_shapes

# One way to write whitespace: a model that is free in it can go on with newlines forever. These are the separators of
# Python's json and of Jinja's tojson, in which chat models saw their schemas and calls.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NO_NUMBERED_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}


def rule_of(schema: str, what: str) -> str:
    """The rule of `schema`, a JSON text within the limits of `schema_limits`. what: how to call it in a complaint.

    Raises UsageError for what cannot be enforced, by name.
    """
    content = json.loads(schema)
    check_shapes(content, what)
    check_costs(content, what)
    try:
        asked, numbered_escapes = enforceable(content, what)
    except RecursionError:
        raise UsageError(
            f"The {what} is too deep: its references or parts lead too far into each other.",
            hint="Fewer definitions that lead to further ones.",
        ) from None
    style = _JSON_STYLE if numbered_escapes else {**_JSON_STYLE, **_NO_NUMBERED_ESCAPES}
    return "%json " + json.dumps({**asked, "x-guidance": style})
