"""Settings as people write them: paths, one stop string, near misses of names, another library's names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core.tools import FunctionTool

from acd_core.errors import DeadlineError, UsageError
from acd_core.lm import ContrastiveLM
from acd_integrations.llama_index import ACDLLM
from tests.llama_index.contract import ASK, get_weather, run
from tests.llama_index.subjects import LONG, scripted_lm

WEATHER = FunctionTool.from_defaults(get_weather)


@pytest.fixture
def lm() -> Iterator[ContrastiveLM]:
    with scripted_lm() as opened:
        yield opened


def test_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = {"model": str(tmp_path / "m"), "pair": str(tmp_path / "pair"), "expert": str(tmp_path / "e")}
    for settings in (
        {"model": tmp_path / "m", "pair": tmp_path / "pair", "expert": tmp_path / "e"},
        {"model": "~/m", "pair": "~/pair", "expert": "~/e"},
        {"model": Path("~/m"), "pair": Path("~/pair"), "expert": Path("~/e")},
    ):
        made, changed = ACDLLM(**settings), ACDLLM(model="x")
        for name, value in settings.items():
            setattr(changed, name, value)
        for llm in (made, changed, ACDLLM(model="x").model_copy(update=settings)):
            assert {name: getattr(llm, name) for name in wanted} == wanted
            assert llm.to_payload()["model_name"] == "m"
    with pytest.raises(Exception, match=str(tmp_path / "m")):
        ACDLLM(model="~/m").complete("hi")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("modell", "model"),
        ("temprature", "temperature"),
        ("max_new_tokens", "max_tokens"),
        ("model_name", "model"),
        ("stop_sequences", "stop"),
        ("request_timeout", "timeout"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(wrong: str, meant: str, lm: ContrastiveLM) -> None:
    with pytest.raises(UsageError, match=f"ACDLLM has no setting {wrong!r}") as caught:
        ACDLLM(**{"model": "reference", wrong: 1})
    assert caught.value.hint is not None and f"Did you mean {meant!r} instead of {wrong!r}?" in caught.value.hint
    if meant != "model":
        with pytest.raises(UsageError, match=f"Did you mean {meant!r} instead of {wrong!r}"):
            ACDLLM.from_lm(lm).chat(ASK, **{wrong: 1})
    with pytest.raises(UsageError, match=r"ACDLLM. model[\s\S]*help\(acd_integrations.llama_index.ACDLLM\)"):
        ACDLLM()


def test_a_timeout_is_kept_and_an_impossible_one_called_by_its_name(lm: ContrastiveLM) -> None:
    for ask in (lambda: ACDLLM(model="m", timeout=0), lambda: ACDLLM.from_lm(lm).chat(ASK, timeout=0)):
        with pytest.raises(UsageError, match=r"timeout: .*greater than 0") as caught:
            ask()
        assert "deadline_s" not in str(caught.value)
    with scripted_lm(step_s=0.02) as slow:
        for call in (
            lambda: ACDLLM.from_lm(slow, timeout=0.05).chat(ASK),
            lambda: ACDLLM.from_lm(slow).chat(ASK, timeout=0.05),
            lambda: list(ACDLLM.from_lm(slow).stream_chat(ASK, timeout=0.05)),
            lambda: run(ACDLLM.from_lm(slow, timeout=0.05).achat(ASK)),
        ):
            with pytest.raises(DeadlineError):
                call()


def test_one_stop_string_or_several(lm: ContrastiveLM) -> None:
    wanted = LONG.partition("garden")[0]
    for stop in ("garden", ["garden"], ("garden", "zzz")):
        assert ACDLLM.from_lm(lm, stop=stop).chat(ASK).message.content == wanted
        assert ACDLLM.from_lm(lm).chat(ASK, stop=stop).message.content == wanted


def test_a_call_that_was_cut_off_is_not_told_to_be_forced(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    asked = "What is the weather in Paris?"
    for required in (False, True):
        response = llm.chat_with_tools([WEATHER], user_msg=asked, tool_required=required, max_tokens=20)
        with pytest.raises(UsageError, match="cut off") as caught:
            llm.get_tool_calls_from_response(response)
        assert caught.value.hint is not None
        assert "max_tokens" in caught.value.hint and "tool_required" not in caught.value.hint
        assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    response = llm.chat_with_tools([WEATHER], user_msg="Hello!")
    with pytest.raises(UsageError, match="tool_required"):
        llm.get_tool_calls_from_response(response)
    json.dumps(llm.to_payload())


def test_every_setting_of_the_contrast_is_a_setting_here_and_in_langchain(lm: ContrastiveLM) -> None:
    from acd_core.params import ContrastParams
    from acd_integrations.langchain import ChatACD

    for adapter in (ACDLLM, ChatACD):
        assert set(ContrastParams.model_fields) <= set(adapter.model_fields)
    llm = ACDLLM.from_lm(lm, rescale=False)
    assert llm._params({}).contrast.rescale is False
    assert llm._params({"rescale": True}).contrast.rescale is True
    assert llm.to_payload()["rescale"] is False
    assert ACDLLM.from_lm(lm)._params({}).contrast.rescale is True
