"""Whatever moves a ChatACD - copies, pickles, saved chains, other processes, changed fields - keeps the very weights
and settings, or refuses with an error of ours."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps, loads
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField

from acd_core import PromptPair
from acd_core.errors import EngineClosedError, UsageError
from acd_integrations.langchain import ChatACD
from tests.core.gated import open_lm
from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import LURE
from tests.scripted import ADVERSARIAL, SAFE

TEXT = "Hello there."
HI = "hello"
PLACE = {"device": "cpu", "dtype": "float32", "max_tokens": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model on disk."""
    where = tmp_path_factory.mktemp("models") / "tiny"
    with open_lm() as lm:
        lm.backbone.model.save_pretrained(where)
        lm.backbone.tokenizer.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("pairs") / "pair"
    PromptPair.from_texts("Be harmless.", "Be harmful.").save(where)
    return where


@pytest.fixture
def named(folder: Path, pair_folder: Path) -> Iterator[ChatACD]:
    llm = ChatACD(model=folder, pair=pair_folder, **PLACE)
    yield llm
    llm.lm.close()


# -- changed fields ----------------------------------------------------------------------------------------------------


def test_a_changed_field_is_the_setting_of_the_next_call(make_chat: MakeChat) -> None:
    llm = make_chat(TEXT)
    assert llm.invoke(HI).content == TEXT
    llm.alpha = 0.0
    assert llm.invoke(HI).content == LURE
    llm.alpha = 0.4
    llm.stop = "there"  # as in the constructor
    assert llm.stop == ["there"]
    assert llm.invoke(HI).content == "Hello "
    llm.max_tokens = 0
    with pytest.raises(UsageError, match="max_tokens"):
        llm.invoke(HI)


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
def test_what_was_made_from_a_model_keeps_that_model_or_refuses(make_chat: MakeChat, name: str, value: Any) -> None:
    llm = make_chat(TEXT)
    changed = llm.model_copy(update={name: value})
    with pytest.raises(UsageError, match=name):
        changed.invoke(HI)
    with pytest.raises(UsageError, match=name):
        list(changed.stream(HI))
    with pytest.raises(UsageError, match=name):
        ChatACD.from_lm(llm.lm, **{name: value})
    assert llm.invoke(HI).content == TEXT
    own = PromptPair.from_texts(SAFE, ADVERSARIAL)  # another object, the same texts
    assert llm.model_copy(update={"pair": own, "dtype": "float32", "device": "cpu"}).invoke(HI).content == TEXT


def test_names_that_do_not_exist_are_refused_wherever_they_are_set(make_chat: MakeChat) -> None:
    llm = make_chat(TEXT)
    with pytest.raises(UsageError, match="'alpha' instead of 'aplha'"):
        llm.model_copy(update={"aplha": 0.0})
    with pytest.raises(UsageError, match="'alpha' instead of 'aplha'"):
        llm.aplha = 0.0
    with pytest.raises(UsageError, match="'alpha' instead of 'aplha'"):
        llm.invoke(HI, aplha=0.0)


def test_a_model_or_pair_set_after_use_is_what_answers(named: ChatACD, folder: Path, tmp_path: Path) -> None:
    first = named.lm
    texts = named.invoke(HI).content
    other = tmp_path / "other"
    PromptPair.from_texts("Be kind.", "Be very very unkind.").save(other)
    named.pair = other
    assert named.lm is not first and named.lm.backbone is first.backbone
    assert named.lm.pair is not None and named.lm.pair.safeguarding == "Be kind."
    named.pair = None
    assert named.lm.pair is None
    assert named.invoke(HI).response_metadata["acd"]["method"] == "none"
    named.pair = PromptPair.from_texts("Be harmless.", "Be harmful.")
    assert named.invoke(HI).content == texts
    first.close()


# -- copies ------------------------------------------------------------------------------------------------------------


def test_copies_are_independent_in_settings_and_share_the_rest(make_chat: MakeChat) -> None:
    cache, limiter = InMemoryCache(), InMemoryRateLimiter(requests_per_second=1000)
    llm = make_chat(TEXT, stop=["x"], cache=cache, rate_limiter=limiter, chat_template_kwargs={"a": [1]}, tags=["t"])
    for twin in (copy.deepcopy(llm), llm.model_copy(deep=True)):
        assert (twin.cache, twin.rate_limiter, twin.pair) == (cache, limiter, llm.pair)
        assert twin.lm is llm.lm
        twin.stop.append("there")
        twin.chat_template_kwargs["a"].append(2)
        twin.tags.append("u")
        twin.alpha = 0.0
        assert (llm.stop, llm.chat_template_kwargs, llm.tags, llm.alpha) == (["x"], {"a": [1]}, ["t"], None)
    assert copy.copy(llm).lm is llm.lm
    chain = copy.deepcopy(ChatPromptTemplate.from_messages([("user", "{q}")]) | llm.bind(alpha=0) | StrOutputParser())
    llm.chat_template_kwargs = None
    assert chain.invoke({"q": HI}) == LURE


def test_copies_made_before_the_first_call_share_what_is_loaded_later(folder: Path) -> None:
    one = ChatACD(model=str(folder), **PLACE)
    other = one.model_copy(update={"alpha": 0.1})
    assert one.lm is other.lm
    chosen = one.configurable_fields(alpha=ConfigurableField(id="alpha"))
    assert chosen.invoke(HI, config={"configurable": {"alpha": 0.3}}).content == one.invoke(HI).content
    one.lm.close()


# -- pickles and other processes ---------------------------------------------------------------------------------------


def test_a_pickle_holds_names_and_loads_the_same(named: ChatACD) -> None:
    named.alpha = 0.7
    said = named.invoke(HI).content
    fresh = pickle.loads(pickle.dumps(named))  # noqa: S301 - our own bytes
    assert (fresh.model, fresh.pair, fresh.alpha) == (named.model, named.pair, 0.7)
    assert fresh._get_llm_string() == named._get_llm_string()
    assert fresh.invoke(HI).content == said


def test_a_pair_in_memory_goes_along(folder: Path) -> None:
    llm = ChatACD(model=str(folder), pair=PromptPair.from_texts("a", "b"), **PLACE)
    fresh = pickle.loads(pickle.dumps(llm))  # noqa: S301 - our own bytes
    assert fresh._get_llm_string() == llm._get_llm_string()
    assert fresh.invoke(HI).content == llm.invoke(HI).content
    llm.lm.close()


def _answer(llm: ChatACD, pipe: Any) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    pipe.send(llm.invoke(HI).content)


def test_another_process_gives_the_same_answer(named: ChatACD) -> None:
    said = named.invoke(HI).content
    here, there = multiprocessing.Pipe()
    for way in ("spawn", "fork"):
        process = multiprocessing.get_context(way).Process(target=_answer, args=(named, there))
        process.start()
        assert here.poll(120), f"{way}: no answer"
        assert here.recv() == said, way
        process.join(30)


def test_what_was_made_from_a_model_stays_in_its_process(make_chat: MakeChat) -> None:
    llm = make_chat(TEXT)
    for moved in (llm, llm.bind(alpha=0.1), ChatPromptTemplate.from_messages([("user", "{q}")]) | llm):
        with pytest.raises(UsageError, match="another process"):
            pickle.dumps(moved)
    with pytest.raises(UsageError, match="held in memory"):  # its name may stand for other weights
        ChatACD(**llm.model_dump(exclude={"pair", "expert"}))
    with pytest.raises(ValueError, match="held in memory"):
        ChatACD.model_validate_json(llm.model_dump_json())


# -- closing -----------------------------------------------------------------------------------------------------------


async def test_a_closed_engine_opens_again_where_a_name_says_what_it_was(named: ChatACD) -> None:
    said = named.invoke(HI).content
    twin = copy.deepcopy(named)
    named.lm.close()
    assert named.invoke(HI).content == said
    assert twin.lm is named.lm
    named.lm.close()
    assert "".join(str(piece.content) for piece in named.stream(HI)) == said
    named.lm.close()
    assert (await named.ainvoke(HI)).content == said
    named.lm.close()
    assert "".join([str(piece.content) async for piece in named.astream(HI)]) == said


async def test_a_closed_model_of_the_callers_says_so(make_chat: MakeChat) -> None:
    llm = make_chat(TEXT)
    llm.lm.close()
    with pytest.raises(EngineClosedError, match=r"closed[\s\S]*from_lm"):
        llm.invoke(HI)
    with pytest.raises(EngineClosedError, match="closed"):
        list(llm.stream(HI))
    with pytest.raises(EngineClosedError, match="closed"):
        await llm.ainvoke(HI)
    with pytest.raises(EngineClosedError, match="closed"):
        llm.model_copy().get_num_tokens("x")
    with pytest.raises(EngineClosedError, match="closed"):
        ChatACD.from_lm(llm.lm_holder.given)


# -- saved chains ------------------------------------------------------------------------------------------------------


def _loaded(text: str) -> Any:
    return loads(
        text,
        allowed_objects="core",
        valid_namespaces=["acd_integrations"],
        additional_import_mappings=ChatACD.saved_as(),
    )


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_a_saved_chain_answers_the_same(named: ChatACD) -> None:
    named.stop = ["zzz"]
    named.chat_template_kwargs = {"enable_thinking": False}
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | named.bind(alpha=0.2) | StrOutputParser()
    text = dumps(chain)
    again = _loaded(text)
    assert again.invoke({"q": HI}) == chain.invoke({"q": HI})
    held = again.steps[1].bound
    assert isinstance(held, ChatACD)
    assert held._get_llm_string() == named._get_llm_string()
    with pytest.raises(ValueError, match="allowed_objects"):  # LangChain's own word, and it names what to do
        loads(text, allowed_objects="core")


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_a_saved_chain_that_cannot_be_says_what_to_do(make_chat: MakeChat, folder: Path) -> None:
    in_memory = ChatACD(model=str(folder), pair=PromptPair.from_texts("a", "b"))
    for llm, said in ((make_chat(TEXT), "from_lm"), (in_memory, "pair=folder")):
        assert dumpd(llm)["type"] == "not_implemented"  # tracers ask for this, so that it must not raise
        with pytest.raises(NotImplementedError, match=said):
            _loaded(dumps(llm | StrOutputParser()))
