"""One description of what is loaded: every door takes all of it, and what it says before loading holds after it."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, Policy, PromptPair
from acd_core.cli.chat import chat
from acd_core.cli.demo import demo
from acd_core.cli.evaluate import evaluate
from acd_core.cli.loading import engine_options, pair_for
from acd_core.engine import EngineOptions
from acd_core.errors import PairError, UsageError
from acd_core.spec import CALL_SETTINGS, LMSpec
from acd_integrations.langchain import ChatACD
from acd_integrations.llama_index import ACDLLM
from tests.core.gated import gate, open_lm
from tests.core.tiny import family

ROOT = Path(__file__).parents[2]
FIELDS = {field.name for field in dataclasses.fields(LMSpec)}
# A value of each that is not the default's. The tiny model below is loaded with all of them at once.
VALUES: dict[str, Any] = {
    "method": "rose",
    "alpha": 0.25,
    "gate": 0.5,
    "gate_floor": 0.5,
    "recheck": 8,
    "policy": Policy(max_temperature=0.5),
    "namespace": "tenant",
    "dtype": "float32",
    "device": "cpu",
    "options": {"max_rows": 6},
    "deterministic": True,
    "generation_defaults": False,
    "allow_adversarial": True,
}
NAMED_BY_FOLDER = {"model", "pair", "expert", "revision"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model, and a gated pair for it."""
    root = tmp_path_factory.mktemp("spec")
    for part in family("llama"):
        part.save_pretrained(root / "model")
    with open_lm(found=gate(0.5)) as lm:
        assert lm.pair is not None
        lm.pair.save(root / "pair")
    return {"model": str(root / "model"), "pair": str(root / "pair")}


@pytest.fixture
def open_all() -> Iterator[list[ContrastiveLM]]:
    opened: list[ContrastiveLM] = []
    yield opened
    for lm in opened:
        lm.close()


def settings_of(lm: ContrastiveLM) -> dict[str, Any]:
    """The settings that a ContrastiveLM was made with, under their names in a spec."""
    return {
        "method": lm.method,
        "alpha": lm.alpha,
        "gate": lm.gate_rules.setting,
        "gate_floor": lm.gate_rules.floor,
        "recheck": lm.gate_rules.recheck,
        "policy": lm.policy,
        "namespace": lm.namespace,
        "dtype": str(lm.backbone.dtype).removeprefix("torch."),
        "device": str(lm.backbone.device),
        "options": {"max_rows": lm.engine.options.max_rows},
        "deterministic": lm.deterministic,
        "generation_defaults": lm.generation_defaults,
        "allow_adversarial": lm.allow_adversarial,
    }


# -- the doors ---------------------------------------------------------------------------------------------------------


def test_it_is_what_a_contrastive_lm_is_loaded_with() -> None:
    taken = inspect.signature(ContrastiveLM.from_pretrained).parameters
    assert set(taken) == FIELDS == set(VALUES) | NAMED_BY_FOLDER
    for field in dataclasses.fields(LMSpec):
        if field.name not in ("model", "recheck"):
            assert taken[field.name].default == field.default, field.name


def test_loading_hands_over_every_setting(folders: dict[str, str], open_all: list[ContrastiveLM]) -> None:
    open_all.append(LMSpec(**folders, **VALUES).load())
    assert settings_of(open_all[0]) == VALUES
    with pytest.raises(UsageError, match="max_row'"):
        LMSpec(**folders, options={"max_row": 6}).load()


@pytest.mark.parametrize("adapter", [ChatACD, ACDLLM])
def test_the_adapters_take_every_setting(adapter: type[Any], folders: dict[str, str]) -> None:
    """All but the adversarial prompt alone, which no application may serve."""
    assert FIELDS - set(adapter.model_fields) == {"allow_adversarial"}
    assert adapter(model="m", options=EngineOptions(max_rows=6)).options["max_rows"] == 6
    for_the_model = {name: VALUES[name] for name in VALUES if name not in {*CALL_SETTINGS, "allow_adversarial"}}
    llm = adapter(**folders, revision="main", expert="e", recheck=8, **for_the_model)
    spec = llm._spec()
    with_each_call = {"policy", "namespace"}
    for name in {*for_the_model, "model", "pair", "revision", "expert", "recheck"} - with_each_call:
        assert getattr(spec, name) == getattr(llm, name) != getattr(LMSpec(), name), name


@pytest.mark.parametrize("adapter", [ChatACD, ACDLLM])
def test_an_adapter_over_an_open_model_keeps_what_it_was_made_with(
    adapter: type[Any], folders: dict[str, str], open_all: list[ContrastiveLM]
) -> None:
    lm = LMSpec(**folders, deterministic=True, options={"max_rows": 6}).load()
    open_all.append(lm)
    assert adapter.from_lm(lm).deterministic is True
    for same in (lm.engine.options, {"max_rows": 6}):
        assert adapter.from_lm(lm, options=same).lm is lm
    for other in ({"deterministic": False}, {"options": {"max_rows": 7}}):
        with pytest.raises(UsageError, match=next(iter(other))):
            adapter.from_lm(lm, **other)


def test_lm_eval_takes_every_setting(folders: dict[str, str], open_all: list[ContrastiveLM]) -> None:
    pytest.importorskip("lm_eval", reason='needs the extra "lm-eval"')
    from acd_integrations import lm_eval

    harness = lm_eval.ContrastiveHarnessLM(**folders, **VALUES)
    open_all.append(harness.lm)
    for_calls = {"alpha": None, "gate": None}  # the harness's defaults for every call, so that they are no model's own
    assert settings_of(harness.lm) == {**VALUES, **for_calls}
    asked = harness._params
    assert (asked.method, asked.contrast.alpha, asked.contrast.gate, asked.contrast.recheck) == ("rose", 0.25, 0.5, 8)
    with pytest.raises(UsageError, match="deterministic"):
        lm_eval.ContrastiveHarnessLM(harness.lm, deterministic=True)
    with pytest.raises(UsageError, match="no_such"):
        lm_eval.ContrastiveHarnessLM(**folders, no_such=1)


def test_inspect_takes_every_setting(folders: dict[str, str], open_all: list[ContrastiveLM]) -> None:
    pytest.importorskip("inspect_ai", reason='needs the extra "inspect"')
    from acd_integrations import inspect_ai as provider

    api = provider.ContrastiveAPI("name", **folders, **VALUES)
    open_all.append(api.load())
    assert settings_of(open_all[0]) == {**VALUES, "alpha": None, "gate": None}
    assert (api._defaults.contrast.alpha, api._defaults.contrast.gate) == (0.25, 0.5)
    with pytest.raises(UsageError, match="namespace"):
        provider.ContrastiveAPI("name", lm=open_all[0], namespace="x")


def test_garak_takes_every_setting() -> None:
    pytest.importorskip("garak", reason='needs the extra "garak", in an environment of its own')
    from acd_integrations import garak as plugin

    assert FIELDS - set(plugin.ContrastiveGenerator.DEFAULT_PARAMS) == {"model"}  # which is --target_name


def test_the_verbs_take_every_setting_that_means_something_to_one_person_at_a_terminal() -> None:
    of_an_operator = {"policy", "namespace", "gate_floor"}  # bounds for the calls of others
    assert FIELDS - set(inspect.signature(chat).parameters) == of_an_operator | {"options", "allow_adversarial"}
    # One row a method: --methods and --alphas in the place of method and alpha, --engine of options.
    assert FIELDS - set(inspect.signature(evaluate).parameters) == of_an_operator | {"method", "alpha", "options"}
    assert {"methods", "alphas", "engine"} <= set(inspect.signature(evaluate).parameters)
    # Fixed columns: what they are made of, and where.
    assert {"model", "pair", "device", "dtype"} <= set(inspect.signature(demo).parameters)


def test_options_of_the_verbs() -> None:
    assert engine_options("") is None
    assert engine_options("max_rows=32, decode=eager") == {"max_rows": 32, "decode": "eager"}
    for wrong in ("max_rows", "=3", "max_rows="):
        with pytest.raises(UsageError, match="--engine"):
            engine_options(wrong)
    assert [pair_for(*each) for each in (("reference", ""), ("reference", "p"), ("x", ""))] == ["reference", "p", None]


# -- a value among values ----------------------------------------------------------------------------------------------


def test_specs_that_name_the_same_are_equal() -> None:
    vectors = torch.ones(2, 4), torch.zeros(2, 4)
    pairs = [PromptPair(*vectors), PromptPair(*(each.clone() for each in vectors)), PromptPair(*reversed(vectors))]
    first, twin, other = (LMSpec("m", pair) for pair in pairs)
    assert first == twin != other
    assert len({first, twin, other}) == 2
    assert LMSpec("m", options={"max_rows": 64}) != LMSpec("m")
    assert LMSpec("m", options=EngineOptions()) == LMSpec("m", options=dataclasses.asdict(EngineOptions()))
    assert LMSpec("m", policy={"max_stops": 3}) == LMSpec("m", policy=Policy(max_stops=3)) != LMSpec("m")
    for name, value in VALUES.items():
        assert LMSpec("m").replace(**{name: value}) != LMSpec("m"), name


def test_it_can_be_sent_to_another_process(folders: dict[str, str]) -> None:
    spec = LMSpec(**folders, **VALUES)
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301
    code = (
        "import pickle, sys; spec = pickle.load(sys.stdin.buffer); print(sorted(spec.identity().items()));"
        "assert spec.file_facts() is not None and not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(spec), capture_output=True, check=True, cwd=ROOT
    )
    assert done.stdout.decode().strip() == str(sorted(spec.identity().items()))


def test_a_spec_that_cannot_be_is_refused_when_it_is_made() -> None:
    with pytest.raises(UsageError, match="options is 3"):
        LMSpec(options=3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="policy"):
        LMSpec(policy={"no_such": 1})
    with pytest.raises(PairError):
        LMSpec("m", "./nowhere").with_artifacts()


# -- facts and identity ------------------------------------------------------------------------------------------------


def test_facts_before_loading_are_those_after(folders: dict[str, str], open_all: list[ContrastiveLM]) -> None:
    for settings in ({}, {"pair": folders["pair"]}, {"pair": folders["pair"], "method": "none"}):
        spec = LMSpec(folders["model"], **settings)
        lm = spec.load()
        open_all.append(lm)
        assert (spec.facts(), spec.method_name) == (lm.facts, lm.method)
        files = spec.file_facts()
        assert files is not None
        assert (files.context_length, bool(files.mentions_tools)) == (lm.context_length, lm.renders_tools)
        assert spec.pair_length() == (lm.pair.length if lm.pair is not None else 0)
    assert LMSpec("no/such-model").file_facts() is None
    assert LMSpec(expert="e").method_name == "safedecoding"


def test_an_identity_is_the_same_before_and_after_loading(folders: dict[str, str]) -> None:
    spec = LMSpec(**folders)
    before = spec.identity()
    with spec.load() as lm:
        lm.generate("hello", max_tokens=2)
        assert spec.identity(lm) == before
        with torch.no_grad():
            next(lm.backbone.model.parameters()).add_(1.0)
        assert spec.identity(lm) != before == spec.identity()
        with torch.no_grad():
            next(lm.backbone.model.parameters()).sub_(1.0)


def test_what_changes_replies_changes_the_identity_and_limits_do_not() -> None:
    plain = LMSpec("m").identity()
    for name, value in VALUES.items():
        changed = LMSpec("m").replace(**{name: value}).identity()
        assert (changed == plain) is (name == "options"), name
