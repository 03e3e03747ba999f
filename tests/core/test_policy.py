"""What an operator locks, no call loosens: bounds held against what a call comes to, whichever way it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from acd_core import ContrastiveLM, Policy
from acd_core.engine import Request
from acd_core.errors import PolicyError, UsageError
from tests.core.gated import BEGUN, TURNS, gate, open_lm

HI = "hello"
METHODS = ("acd", "sp", "rose", "adacd", "safe-prompt", "none")
SHARES = st.sampled_from([0.3, 0.4, 0.7, 1.0])


@pytest.fixture(scope="module")
def lm() -> Iterator[ContrastiveLM]:
    with open_lm(found=gate(0.5)) as found:
        yield found


def request_of(lm: ContrastiveLM, policy: Policy, **call: Any) -> Request:
    plan = lm._plan(HI, lm._asked(None, {**call, "policy": policy}))
    return plan.make(None, lambda _: None)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


policies = st.fixed_dictionaries(
    {},
    optional={
        "as_served": st.booleans(),
        "methods": st.sets(st.sampled_from(METHODS), min_size=1),
        "min_alpha": st.floats(0.0, 0.9),
        "max_plausibility": st.floats(0.0, 0.9),
        "min_contrast_tokens": st.integers(1, 50),
        "gate_floor": SHARES,
        "max_recheck": st.integers(1, 64),
        "logprobs": st.booleans(),
        "template_variables": st.sets(st.sampled_from(["enable_thinking", "custom"])),
        "max_temperature": st.floats(0.0, 2.0),
        "repetition_penalty": st.just((0.9, 1.3)),
        "max_stops": st.integers(0, 3),
    },
)
calls = st.fixed_dictionaries(
    {},
    optional={
        "method": maybe(st.sampled_from(METHODS)),
        "alpha": maybe(st.floats(0.0, 0.99)),
        "plausibility": maybe(st.floats(0.0, 0.99)),
        "contrast_tokens": maybe(st.integers(0, 100)),
        "rescale": st.booleans(),
        "gate": maybe(st.booleans() | SHARES),
        "recheck": maybe(st.integers(0, 100)),
        "graded": st.booleans(),
        "temperature": st.floats(0.0, 3.0),
        "repetition_penalty": maybe(st.floats(0.5, 2.0)),
        "logprobs": maybe(st.integers(0, 3)),
        "stop": st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=5),
        "chat_template_kwargs": st.dictionaries(st.sampled_from(["enable_thinking", "custom"]), st.booleans()),
    },
)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies, calls)
@example({"min_alpha": 0.0, "min_contrast_tokens": 5}, {"alpha": 0.0})
def test_no_call_weakens_what_is_locked(lm: ContrastiveLM, bounds: dict[str, Any], call: dict[str, Any]) -> None:
    """Read off the request that the engine would get, not off the policy."""
    policy = Policy(**bounds)
    try:
        request = request_of(lm, policy, **call)
    except PolicyError:
        return
    method = call.get("method") or lm.method
    contrasted = len((request.gating or request).branches) > 1
    assert policy.methods is None or method in policy.methods
    if policy.bounds_contrast:
        assert method != "none"
    if policy.min_alpha is not None:
        assert request.alpha >= policy.min_alpha
        assert contrasted or policy.min_alpha == 0.0
        assert not (request.gating and request.gating.graded)
    if policy.max_plausibility is not None:
        assert request.asked.plausibility <= policy.max_plausibility
    if policy.min_contrast_tokens is not None:
        assert contrasted
        assert request.asked.contrast_tokens is None or request.asked.contrast_tokens >= policy.min_contrast_tokens
    if request.gating is not None:
        opens = request.gating
        if policy.gate_floor is not None:
            assert opens.threshold <= opens.gate.threshold(policy.gate_floor)
            assert opens.again <= opens.gate.threshold(policy.gate_floor, reply=True)
        if policy.max_recheck is not None:
            assert 1 <= opens.every <= policy.max_recheck
    if policy.max_temperature is not None:
        strength = 1.0 if request.asked.rescale else 1.0 - request.alpha
        assert call.get("temperature", 0.0) <= policy.max_temperature * strength + 1e-9
    if not policy.logprobs:
        assert request.asked.logprobs is None
    assert len(call.get("stop", ())) <= policy.max_stops
    if policy.template_variables is not None or policy.as_served:
        assert set(call.get("chat_template_kwargs", ())) <= set(policy.template_variables or ())
    if policy.as_served:
        served = request_of(lm, Policy(gate_floor=policy.gate_floor))
        for name in ("alpha", "plausibility", "contrast_tokens", "rescale"):
            assert getattr(request.asked, name) == getattr(served.asked, name)
        assert method == lm.method
        assert request.gating is not None
        assert served.gating is not None
        for name in ("threshold", "again", "every", "graded"):
            assert getattr(request.gating, name) == getattr(served.gating, name)


def test_two_policies_hold_together(lm: ContrastiveLM) -> None:
    with open_lm(found=gate(0.5), policy=Policy(min_alpha=0.3)) as strict:
        assert strict.generate(HI, max_tokens=1, alpha=0.35).text == lm.generate(HI, max_tokens=1, alpha=0.35).text
        with pytest.raises(PolicyError, match=r"alpha is 0\.2; the operator's policy allows at least 0\.3"):
            strict.generate(HI, alpha=0.2)
        with pytest.raises(PolicyError, match=r"at least 0\.5"):
            strict.generate(HI, alpha=0.4, policy=Policy(min_alpha=0.5))
        with pytest.raises(PolicyError):  # a laxer one beside it takes nothing away
            strict.generate(HI, alpha=0.2, policy=Policy(min_alpha=0.0))


@pytest.mark.parametrize("road", ["generate", "batch", "each", "stream", "likelihood", "distributions"])
def test_every_road_is_held(lm: ContrastiveLM, road: str) -> None:
    call: dict[str, Any] = {"alpha": 0.0, "policy": Policy(as_served=True)}
    roads = {
        "generate": lambda: lm.generate(HI, **call),
        "batch": lambda: lm.generate([HI, HI], **call),
        "each": lambda: list(lm.generate_each([HI], **call)),
        "stream": lambda: list(lm.stream(HI, **call)),
        "likelihood": lambda: lm.loglikelihood(HI, "the", **call),
        "distributions": lambda: list(lm.distributions([(HI, "the")], **call)),
    }
    with pytest.raises(PolicyError, match="alpha"):
        roads[road]()


async def test_every_async_road_is_held(lm: ContrastiveLM) -> None:
    call: dict[str, Any] = {"method": "none", "policy": Policy(as_served=True)}
    with pytest.raises(PolicyError, match="method"):
        await lm.agenerate(HI, **call)
    with pytest.raises(PolicyError, match="method"):
        async for _ in lm.astream(HI, **call):
            pass


def test_log_probabilities(lm: ContrastiveLM) -> None:
    none = Policy(logprobs=False)
    with pytest.raises(PolicyError, match="log-prob"):
        lm.generate(HI, logprobs=0, policy=none)
    with pytest.raises(PolicyError, match="log-likelihoods"):
        lm.loglikelihood(HI, "the", policy=none)
    assert lm.generate(HI, max_tokens=1, policy=none).logprobs is None


def test_begun_replies_and_raw_text(lm: ContrastiveLM) -> None:
    closed = Policy(begun_replies=False, raw_text=False)
    insists = [BEGUN[0], {**BEGUN[1], "prefix": True}]
    over = [BEGUN[0], {**BEGUN[1], "prefix": False}]
    whole, begun = lm.generate(over, max_tokens=4), lm.generate(insists, max_tokens=4)
    assert whole.usage.prompt_tokens > begun.usage.prompt_tokens  # the end of the turn and a new header
    for policy, as_ in ((closed, whole), (Policy(), begun), (Policy(begun_replies=True), begun)):
        found = lm.generate(BEGUN, max_tokens=4, policy=policy)
        assert (found.token_ids, found.usage.prompt_tokens) == (as_.token_ids, as_.usage.prompt_tokens)
    with pytest.raises(PolicyError, match="begun"):
        lm.generate(insists, policy=closed)
    with pytest.raises(PolicyError, match="role 'text'"):
        lm.generate([*TURNS, {"role": "text", "content": "the"}], policy=closed)
    assert lm.generate([{"role": "text", "content": "the"}], max_tokens=1, policy=Policy()).text is not None


def test_sizes(lm: ContrastiveLM) -> None:
    loop: dict[str, Any] = {"type": "object"}
    loop["properties"] = {"a": loop}
    for call, name in (
        ({"stop": ["x"] * 129}, "stop strings is 129"),
        ({"stop": ["x" * 9000]}, "9000 letters"),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 2**21}}]}, "size of tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": loop}}}, "size of tools"),
    ):
        with pytest.raises(PolicyError, match=name):
            lm.generate(HI, **call)
    with pytest.raises(PolicyError, match="12 bytes long; the operator's policy allows 11 bytes"):
        lm.generate("h\u00e9llo world", policy=Policy(max_prompt_bytes=11))
    assert lm.generate("h\u00e9llo world", max_tokens=1, policy=Policy(max_prompt_bytes=12)).token_ids


def test_impossible_policies() -> None:
    for bounds, name in (
        ({"methods": ["acdc"]}, "no method 'acdc'"),
        ({"min_alpha": 1.0}, "min_alpha"),
        ({"gate_floor": 0.0}, "gate_floor"),
        ({"repetition_penalty": (2.0, 1.0)}, "least, most"),
        ({"colour": "red"}, "colour"),
        ({"max_temperature": float("nan")}, "max_temperature"),
    ):
        with pytest.raises(UsageError, match=name):
            Policy(**bounds)
    with pytest.raises(UsageError, match="policy is a str"):
        Policy.of("strict")  # type: ignore[arg-type]
    frozen = Policy(min_alpha=0.2)
    with pytest.raises(ValidationError):
        frozen.min_alpha = 0.0  # type: ignore[misc]
    assert Policy.of({"min_alpha": 0.2}) == frozen
    assert Policy(**frozen.model_dump(mode="json")) == frozen
    assert len({Policy(methods={"acd", "rose"}), Policy(methods=["rose", "acd"])}) == 1


def test_a_served_policy_keeps_the_first_settings() -> None:
    served = Policy(as_served=True).serving({"alpha": 0.5, "method": "acd"})
    assert served.serving({"alpha": 0.0}) is served
    assert served.begun_replies is served.raw_text is False
    assert Policy(begun_replies=True).serving({}).begun_replies is True
    assert Policy().serving({}, begun_replies=True).begun_replies is True
