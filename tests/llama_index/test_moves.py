"""Whatever moves an ACDLLM - copies, pickles, dicts, other processes, changed fields - keeps the very weights and
settings, or refuses with an error of ours."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import PromptTemplate

from acd_core.artifacts.pair import PromptPair
from acd_core.errors import EngineClosedError, UsageError
from acd_core.lm import ContrastiveLM
from acd_integrations.llama_index import ACDLLM
from tests.core.gated import open_lm
from tests.llama_index.contract import ASK, collected, run
from tests.llama_index.subjects import LONG, LURE, scripted_lm
from tests.scripted import ADVERSARIAL, SAFE

PLACE = {"device": "cpu", "dtype": "float32", "max_tokens": 6}


@pytest.fixture
def lm() -> Iterator[ContrastiveLM]:
    with scripted_lm() as opened:
        yield opened


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model and a pair on disk."""
    where = tmp_path_factory.mktemp("saved")
    with open_lm() as lm:
        lm.backbone.model.save_pretrained(where / "tiny")
        lm.backbone.tokenizer.save_pretrained(where / "tiny")
    PromptPair.from_texts("Be harmless.", "Be harmful.").save(where / "pair")
    return where / "tiny", where / "pair"


@pytest.fixture
def named(folders: tuple[Path, Path]) -> Iterator[ACDLLM]:
    llm = ACDLLM(model=folders[0], pair=folders[1], **PLACE)
    yield llm
    llm.lm.close()


# -- changed fields ----------------------------------------------------------------------------------------------------


def test_a_changed_field_is_the_setting_of_the_next_call(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    assert llm.chat(ASK).message.content == LONG
    llm.alpha = 0.0
    assert llm.chat(ASK).message.content == LURE
    llm.alpha, llm.stop = 0.4, "garden"  # one string, as in the constructor
    assert llm.stop == ["garden"]
    assert llm.chat(ASK).message.content == LONG.partition("garden")[0]
    llm.max_tokens = 0
    with pytest.raises(UsageError, match="max_tokens"):
        llm.chat(ASK)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "elsewhere"),
        ("pair", None),
        ("expert", "e"),
        ("dtype", "float16"),
        ("device", "meta"),
        ("revision", "r"),
        ("gate_floor", 0.5),
        ("generation_defaults", False),
    ],
)
def test_what_was_made_from_a_model_keeps_that_model_or_refuses(lm: ContrastiveLM, name: str, value: Any) -> None:
    llm = ACDLLM.from_lm(lm)
    changed = llm.model_copy(update={name: value})
    for call in (changed.chat, changed.stream_chat):
        with pytest.raises(UsageError, match=name):
            call(ASK)
    with pytest.raises(UsageError, match=name):
        run(changed.achat(ASK))
    with pytest.raises(UsageError, match=name):
        ACDLLM.from_lm(lm, **{name: value})
    setattr(changed, name, getattr(llm, name))
    assert changed.chat(ASK).message.content == LONG
    own = PromptPair.from_texts(SAFE, ADVERSARIAL)  # another object, the same texts
    assert llm.model_copy(update={"pair": own, "dtype": "float32", "device": "cpu"}).lm is lm


def test_another_method_over_the_same_weights(lm: ContrastiveLM) -> None:
    plain = ACDLLM.from_lm(lm, method="none")
    assert plain.chat(ASK).message.content == LURE
    assert plain.lm is lm
    llm = ACDLLM.from_lm(lm)
    room = llm.metadata.context_window
    llm.method = "none"
    assert llm.chat(ASK).message.content == LURE
    plainly = lm.facts_for("none")
    assert llm.metadata.context_window == plainly.max_input_tokens - plainly.frame_tokens > room
    assert llm.chat(ASK, method="acd").message.content == LONG


def test_names_that_do_not_exist_are_refused_wherever_they_are_set(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    for wrong in (
        lambda: llm.model_copy(update={"aplha": 0.0}),
        lambda: setattr(llm, "aplha", 0.0),
        lambda: llm.chat(ASK, aplha=0.0),
        lambda: ACDLLM(model="reference", aplha=0.0),
    ):
        with pytest.raises(UsageError, match="'alpha' instead of 'aplha'"):
            wrong()


def test_a_model_or_pair_set_after_use_is_what_answers(named: ACDLLM, tmp_path: Path) -> None:
    first, said = named.lm, named.complete("hello").text
    PromptPair.from_texts("Be kind.", "Be very very unkind.").save(tmp_path / "other")
    named.pair = tmp_path / "other"
    assert named.lm is not first and named.lm.backbone is first.backbone
    assert named.lm.pair is not None and named.lm.pair.safeguarding == "Be kind."
    for texts in (("Be kind.", "Be mean."), ("Be harmless.", "Be harmful.")):
        named.pair = PromptPair.from_texts(*texts)  # the second may stand where the first stood in memory
        assert named.lm.pair is not None and named.lm.pair.adversarial == texts[1]
    assert named.complete("hello").text == said
    first.close()


# -- copies ------------------------------------------------------------------------------------------------------------


def test_copies_are_independent_in_settings_and_share_the_model(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm, stop=["x"], chat_template_kwargs={"a": [1]})
    for twin in (copy.deepcopy(llm), llm.model_copy(deep=True)):
        assert twin.lm is lm
        twin.stop.append("garden")
        twin.chat_template_kwargs["a"].append(2)
        twin.alpha = 0.0
        assert (llm.stop, llm.chat_template_kwargs, llm.alpha) == (["x"], {"a": [1]}, None)
    for twin in (copy.copy(llm), llm.model_copy(update={"alpha": 0.2})):
        assert twin.lm is lm


def test_copies_made_before_the_first_call_share_what_is_loaded_later(folders: tuple[Path, Path]) -> None:
    one = ACDLLM(model=str(folders[0]), **PLACE)
    others = [one.model_copy(update={"alpha": 0.1}), copy.copy(one), copy.deepcopy(one)]
    assert all(other.lm is one.lm for other in others)
    one.lm.close()


# -- pickles, dicts and other processes --------------------------------------------------------------------------------


def _answer(llm: ACDLLM, pipe: Any) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    pipe.send((llm.complete("hello").text, llm.alpha, llm.system_prompt))


def test_a_pickle_and_another_process_give_the_same_answer(named: ACDLLM) -> None:
    named.alpha, named.system_prompt = 0.7, "Talk like a gardener."
    wanted = (named.complete("hello").text, 0.7, "Talk like a gardener.")
    fresh = pickle.loads(pickle.dumps(named))  # noqa: S301 - our own bytes
    assert (fresh.complete("hello").text, fresh.alpha, fresh.system_prompt) == wanted
    assert fresh.to_payload() == named.to_payload()
    here, there = multiprocessing.Pipe()
    for way in ("spawn", "fork"):
        process = multiprocessing.get_context(way).Process(target=_answer, args=(named, there))
        process.start()
        assert here.poll(120), f"{way}: no answer"
        assert here.recv() == wanted, way
        process.join(30)


def test_a_dict_gives_the_same_answer(named: ACDLLM) -> None:
    named.alpha, named.stop = 0.7, "zzz"
    before = named.to_payload()
    for again in (ACDLLM.from_dict(named.to_dict()), ACDLLM.from_json(named.to_json())):
        assert again.to_payload() == before
        assert again.complete("hello").text == named.complete("hello").text


def test_what_was_made_from_a_model_stays_in_its_process() -> None:
    """Even without a pair, where nothing but the weights could differ."""
    with scripted_lm(lure=None) as lm:
        bare = ContrastiveLM(lm.backbone)
        for llm in (ACDLLM.from_lm(lm), ACDLLM.from_lm(bare)):
            with pytest.raises(UsageError, match="pickled"):
                pickle.dumps(llm)
            with pytest.raises(UsageError, match="held in memory"):  # its name may stand for other weights
                ACDLLM.from_dict(llm.to_dict())
            with pytest.raises(UsageError, match="held in memory"):
                ACDLLM.from_json(llm.to_json())


def test_a_setting_that_cannot_be_sent_is_not_left_out() -> None:
    llm = ACDLLM(model="reference", completion_to_prompt=lambda prompt: f"[{prompt}]")
    with pytest.raises(UsageError, match="completion_to_prompt"):
        pickle.dumps(llm)
    assert llm.completion_to_prompt("x") == "[x]"
    with pytest.raises(UsageError, match=r"pair\.save"):
        pickle.dumps(ACDLLM(model="reference", pair=PromptPair.from_texts("a", "b")))
    kept = pickle.loads(pickle.dumps(ACDLLM(model="m", query_wrapper_prompt=PromptTemplate("<{query_str}>"))))  # noqa: S301
    assert kept.query_wrapper_prompt.format(query_str="q") == "<q>"


# -- closing -----------------------------------------------------------------------------------------------------------


def test_a_closed_engine_opens_again_where_a_name_says_what_it_was(named: ACDLLM) -> None:
    said = named.complete("hello").text
    twin = copy.deepcopy(named)
    for again in (
        lambda: named.complete("hello").text,
        lambda: list(named.stream_complete("hello"))[-1].text,
        lambda: run(named.acomplete("hello")).text,
        lambda: run(collected(named.astream_complete("hello")))[-1].text,
    ):
        named.lm.close()
        assert again() == said
    assert twin.lm is named.lm


def test_a_closed_model_of_the_callers_says_so(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    room = llm.metadata.context_window
    lm.close()
    for call in (
        lambda: llm.complete("hello"),
        lambda: llm.stream_complete("hello"),
        lambda: run(llm.acomplete("hello")),
        lambda: run(collected(llm.astream_complete("hello"))),
        lambda: llm.model_copy().token_ids("x"),
        lambda: ACDLLM.from_lm(lm),
    ):
        with pytest.raises(EngineClosedError, match=r"closed[\s\S]*from_lm"):
            call()
    assert llm.metadata.context_window == room
