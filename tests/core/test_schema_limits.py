"""A schema costs its own request at most: limits before compilation, and a trial in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core.errors import EngineError, UsageError
from acd_core.grammar import trials
from acd_core.grammar.cache import OncePerKey
from acd_core.grammar.compiler import Grammar
from acd_core.grammar.dialect import rule_of
from acd_core.grammar.limits import (
    DEEPEST,
    MOST_REPEATED,
    check_functions,
    check_shapes,
    count_signs,
    is_cheap,
    json_of,
)
from tests.scripted import HERMES, make_tokenizer

TOKENIZER = make_tokenizer(HERMES)
GRAMMAR = Grammar(TOKENIZER, len(TOKENIZER), [TOKENIZER.vocab["<|im_end|>"]])


def of(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


def nested(depth: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def holding_itself() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    schema["properties"]["again"] = schema
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (of(nested(10_000)), f"deeper than {DEEPEST}"),
        (holding_itself(), "holds itself"),
        (of({"enum": [f"v{i}" for i in range(60_000)]}), "more than 50000 values"),
        (of({"enum": ["x" * 60_000 + str(i) for i in range(9)]}), "bytes"),
        (of({"const": "x" * 100_000}), "letters"),
        (of({"type": "string", "pattern": "^(((a{100}){100}){100})$"}), "signs"),
        (of({"type": "array", "minItems": 2**40}), "minItems"),
        (of({"type": "integer", "multipleOf": 1_000_003}), "multipleOf 1000003"),
        (of({"enum": [float("nan")]}), "/properties/a/enum/0 is nan"),
        ({"type": "object", "properties": {1: {}}}, "/properties has a key that is int"),
        (of({"const": "\ud800"}), "surrogate"),
        (of({"const": 10**5000}), "digits"),
        (of({"required": "b"}), "/properties/a/required"),
        ({"type": "object", "properties": [1]}, "/properties is list"),
        (of({"enum": "x"}), "/properties/a/enum is str"),
        (of({"type": 3}), "/properties/a/type is int"),
        (of({"anyOf": {"a": 1}}), "/properties/a/anyOf is dict"),
        (of({"anyOf": [3]}), "/properties/a/anyOf/0 is int"),
        (of({"items": "string"}), "/properties/a/items is str"),
        (of({"minimum": "3"}), "/properties/a/minimum is str"),
        (of({"multipleOf": True}), "/properties/a/multipleOf is bool"),
        (of({"pattern": 3}), "/properties/a/pattern is int"),
        (of(None), "/properties/a is null"),
    ],
)
def test_what_is_beyond_the_limits_is_refused_by_name(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        GRAMMAR.for_schema(schema)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("abc", 3, 3),
        (r"(a{10}){10}", 100, 100),
        (r"a{2,}b{5,7}", 7, 9),
        (r"[{9}]{3}\{9\}", 6, 6),
        (r"(?:x|yz{4}){2}", 14, 14),
    ],
)
def test_counts_of_a_pattern(pattern: str, least: int, most: int) -> None:
    assert (count_signs(pattern), count_signs(pattern, at_most=True)) == (least, most)


def test_a_huge_count_is_counted_and_not_made() -> None:
    assert count_signs("(" * 300 + "a" + "){99999999}" * 300) > MOST_REPEATED


def test_what_needs_a_trial() -> None:
    plain = [
        of({"type": "string", "pattern": "^[A-Z]{3}[0-9]{1,9}$"}),
        of({"type": "integer", "multipleOf": 1_000_000}),
    ]
    costly = [
        of({"type": "integer", "multipleOf": 31_536_000}),
        of({"type": "string", "allOf": [{"pattern": f"{c}.*{c}"} for c in "abcdefghijklmnop"]}),
        of({"oneOf": [{"const": number} for number in range(40)]}),
        of({"type": "string", "pattern": "^a{5000}$"}),
    ]
    assert [is_cheap(json.dumps(each)) for each in plain] == [True, True]
    assert not any(is_cheap(json.dumps(each)) for each in costly)


def test_a_schema_that_takes_minutes_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """39 seconds and 2 GB here, were it compiled in this process; meanwhile others are served."""
    monkeypatch.setattr(trials, "WALL_SECONDS", 12.0)
    failure: list[BaseException] = []

    def hostile() -> None:
        try:
            GRAMMAR.for_schema(of({"type": "integer", "multipleOf": 31_536_000}))
        except UsageError as error:
            failure.append(error)

    thread = threading.Thread(target=hostile)
    thread.start()
    served = 0
    while thread.is_alive() and served < 20:
        GRAMMAR.for_schema(of({"type": "string", "maxLength": served}))
        served += 1
    assert served > 1
    thread.join()
    assert "too costly" in str(failure[0])
    # The process that tried it is gone; the next one is as good.
    spec = GRAMMAR.for_schema(of({"type": "string", "pattern": "^b{2000}$"}))
    assert torch.isfinite(spec.matcher().mask(torch.zeros(len(TOKENIZER)))).any()


def test_a_tried_schema_is_the_same_as_an_untried_one() -> None:
    schema = of({"oneOf": [{"const": number} for number in range(40)]})
    text = json.dumps(schema)
    assert not is_cheap(text)
    assert GRAMMAR._trials.rule(text, "JSON schema") == rule_of(text, "JSON schema")
    with pytest.raises(UsageError, match="branches 0 and 1 may both fit"):
        GRAMMAR.for_schema(of({"oneOf": [{"type": "string"}] * 40}))


def test_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    GRAMMAR._trials.close()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineError, match="none can be started here"):
        GRAMMAR.for_schema(of({"type": "string", "pattern": "^c{2000}$"}))
    GRAMMAR.for_schema(of({"type": "string", "pattern": "^c{20}$"}))


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
         "$defs": {name: {"allOf": [{"$ref": f"#/$defs/{name}"}] * 6} for name in "ab"}},
        {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "discriminator": {"propertyName": "t"},
         "$defs": {name: {"anyOf": [{"$ref": f"#/$defs/{name}"}] * 12} for name in "ab"}},
        {"properties": {"a": {}}, "anyOf": [{"$ref": "#/$defs/a"}],
         "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 30}}},
    ],
)  # fmt: skip
def test_parts_that_name_each_other_are_read_in_bounded_steps(schema: dict[str, Any]) -> None:
    """Followed to the depth of twelve they are 6^12 steps and more: this test would not end."""
    with pytest.raises(UsageError):
        rule_of(json_of(schema, "JSON schema"), "JSON schema")


def test_a_long_chain_of_references_is_followed() -> None:
    chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(500)}
    rule = rule_of(json_of({"$ref": "#/$defs/d0", "$defs": {**chain, "d500": {"type": "null"}}}, "schema"), "schema")
    assert '"d500": {"type": "null"}' in rule


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ({"name": 3}, "name"),
        ({"name": "f", "description": 3}, "description"),
        ({"name": "f", "strict": "yes"}, "strict"),
        ({"name": "f", "parameters": []}, "parameters"),
        ({"name": "f", "parameters": {"properties": {"x": {"required": "x"}}}}, "/properties/x/required"),
        ({"name": "f", "parameters": holding_itself()}, "holds itself"),
        ({"name": "f", "parameters": {"properties": {"x": {"enum": [float("inf")]}}}}, "/enum/0 is inf"),
        ({"name": "f", "parameters": {"properties": {None: {}}}}, "NoneType"),
    ],
)
def test_fields_of_tools_that_are_of_odd_kinds(function: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_functions([{"type": "function", "function": function}])
    assert field in str(refused.value)
    check_functions([{"type": "function", "function": {"name": "f", "description": None, "parameters": None}}])


def test_what_a_template_only_shows_is_not_refused_as_unenforceable() -> None:
    """A null is how servers in Go write what they leave out; and nothing holds a free call to its schema."""
    odd = {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "multipleOf": 1_000_003},
            "b": {"type": "string", "pattern": "^(a{1000}){1000}$"},
            "c": {"type": "array", "items": None, "maxItems": 2**40},
        },
        "required": None,
        "additionalProperties": None,
    }
    check_functions([{"type": "function", "function": {"name": "f", "parameters": odd}}])
    with pytest.raises(UsageError, match="required is null"):
        GRAMMAR.for_tools([{"type": "function", "function": {"name": "f", "parameters": odd}}])


@pytest.mark.parametrize("within", ["enum", "anyOf", "items", "prefixItems"])
def test_a_long_name_before_many_values_takes_no_memory(within: str) -> None:
    values = {"type": "object", "properties": {"x" * 60_000: {within: [True] * 20_000}}}
    tracemalloc.start()
    try:
        check_functions([{"type": "function", "function": {"name": "f", "parameters": values}}])
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_made_once_whoever_asks() -> None:
    made: list[str] = []
    cache: OncePerKey[str] = OncePerKey(len, most=2, room=10)
    begun, go = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        go.wait(10)
        made.append("a")
        return "a"

    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("a", slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    assert cache.get("b", lambda: "b") == "b"  # nobody else waits
    go.set()
    for thread in threads:
        thread.join()
    assert found == ["a"] * 4
    assert made == ["a"]


def test_an_interrupt_of_one_who_makes_is_not_for_those_who_wait() -> None:
    cache: OncePerKey[str] = OncePerKey(len, most=2, room=10)
    begun, go, found = threading.Event(), threading.Event(), list[Any]()

    def interrupted() -> str:
        begun.set()
        go.wait(10)
        raise KeyboardInterrupt

    def wait() -> None:
        found.append(cache.get("a", lambda: "a"))

    def make() -> None:
        with pytest.raises(KeyboardInterrupt):
            cache.get("a", interrupted)

    threads = [threading.Thread(target=each) for each in (make, wait, wait)]
    threads[0].start()
    begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.1)
    go.set()
    for thread in threads:
        thread.join()
    assert found == ["a", "a"]


def test_what_is_wrong_is_kept_and_what_was_bad_luck_is_not() -> None:
    cache: OncePerKey[str] = OncePerKey(len, most=2, room=10)
    asked: list[int] = []

    def failing(error: Exception) -> Any:
        def make() -> str:
            asked.append(1)
            raise error

        return make

    for _ in range(2):
        with pytest.raises(UsageError, match="bad") as failure:
            cache.get("bad", failing(UsageError("bad", hint="better")))
        assert failure.value.hint == "better"
    assert len(asked) == 1
    for _ in range(2):
        with pytest.raises(EngineError):
            cache.get("luck", failing(EngineError("luck")))
    assert len(asked) == 3


def test_room_is_kept() -> None:
    cache: OncePerKey[str] = OncePerKey(len, most=3, room=10)
    made: list[str] = []

    def get(key: str, size: int) -> None:
        cache.get(key, lambda: made.append(key) or "x" * size)  # type: ignore[func-returns-value]

    for key in ("a", "b", "c", "a", "d", "a", "b"):
        get(key, 1)  # "b" was used least when "d" came
    assert made == ["a", "b", "c", "d", "b"]
    get("large", 9)
    get("a", 1)
    assert made[-2:] == ["large", "a"]


def test_the_process_ends_with_its_pipe() -> None:
    code = "from acd_core.grammar.trial_process import serve; serve()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.close()
    begun = time.monotonic()
    assert child.wait(60) == 0
    assert time.monotonic() - begun < 60


COSTLY = of({"type": "string", "pattern": "^d{2000}$"})


def an_idle_child() -> subprocess.Popen[bytes]:
    GRAMMAR.for_schema(COSTLY)
    return GRAMMAR._trials._idle[-1]._child


def ask_beside(asked: list[Any]) -> threading.Thread:
    def ask() -> None:
        try:
            asked.append(GRAMMAR.for_schema(COSTLY))
        except Exception as error:
            asked.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_child_that_somebody_ends_is_no_fault_of_the_schema() -> None:
    child, asked = an_idle_child(), list[Any]()
    assert os.getsid(child.pid) != os.getsid(0)  # an interrupt from the keyboard does not reach it
    os.kill(child.pid, signal.SIGSTOP)
    thread = ask_beside(asked)
    time.sleep(0.2)
    os.kill(child.pid, signal.SIGKILL)
    thread.join()
    assert not isinstance(asked[0], Exception), asked


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_machine_that_is_too_busy_condemns_no_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    child, asked = an_idle_child(), list[Any]()
    os.kill(child.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(trials, "WALL_SECONDS", 0.3)
        ask_beside(asked).join()
    assert type(asked[0]) is EngineError  # which is not kept, as a UsageError would be
    GRAMMAR.for_schema(COSTLY)


def test_a_program_that_is_no_interpreter_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GRAMMAR._trials.close()
    program, mark = tmp_path / "service", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    for executable in (str(program), "", None):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(EngineError, match="no Python interpreter"):
            GRAMMAR.for_schema(COSTLY)
    assert not mark.exists()


def test_a_script_without_a_guard_is_not_run_again_and_ends_in_silence(tmp_path: Path) -> None:
    """Neither a module beside it that is called as one of Python's."""
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    script = tmp_path / "scripts" / "main.py"
    script.parent.mkdir()
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
        "print('begun', flush=True)\n"
        "from tests.core.test_schema_limits import COSTLY, GRAMMAR\n"
        "GRAMMAR.for_schema(COSTLY)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun\n", "")


def test_schemas_by_dependency_are_looked_at_too() -> None:
    """What the rewriting walks into, the limits have walked through before."""
    for wrong in ({"oneOf": 3}, {"properties": []}, 3):
        with pytest.raises(UsageError, match="dependencies"):
            check_shapes({"type": "object", "dependencies": {"a": wrong}}, "JSON schema")
    check_shapes({"type": "object", "dependencies": {"a": ["b"], "c": {"type": "string"}, "d": True}}, "JSON schema")
