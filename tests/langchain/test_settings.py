"""Settings as people write them: paths, one stop string, near misses of names, another library's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from acd_core import PromptPair
from acd_core.errors import UsageError
from acd_integrations.langchain import ChatACD
from tests.langchain.conftest import MakeChat


def test_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    PromptPair.from_texts("a", "b").save(tmp_path / "pair")
    wanted = {"model": str(tmp_path / "m"), "pair": str(tmp_path / "pair"), "expert": str(tmp_path / "e")}
    for settings in (
        {"model": tmp_path / "m", "pair": tmp_path / "pair", "expert": tmp_path / "e"},
        {"model": "~/m", "pair": "~/pair", "expert": "~/e"},
        {"model": Path("~/m"), "pair": Path("~/pair"), "expert": Path("~/e")},
    ):
        made, changed = ChatACD(**settings), ChatACD()
        for name, value in settings.items():
            setattr(changed, name, value)
        for llm in (made, changed, ChatACD().model_copy(update=settings)):
            assert {name: getattr(llm, name) for name in wanted} == wanted
            assert llm._identifying_params["pair_files"] is not None
    with pytest.raises(Exception, match=str(tmp_path / "m")):
        ChatACD(model="~/m").invoke("hi")
    for name in ("owner/name", "reference", "a~b", "./here", Path("here")):
        assert ChatACD(model=name).model == str(name)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("modell", "model"),
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("model_name", "model"),
        ("stop_sequences", "stop"),
        ("request_timeout", "timeout"),
        ("aplha", "alpha"),
        ("chat_template_kwarg", "chat_template_kwargs"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(wrong: str, meant: str, make_chat: MakeChat) -> None:
    with pytest.raises(UsageError) as caught:
        ChatACD(**{wrong: 1})
    assert caught.value.message == f"ChatACD has no setting {wrong!r}."
    assert caught.value.hint is not None and f"Did you mean {meant!r} instead of {wrong!r}?" in caught.value.hint
    if meant != "model":
        with pytest.raises(UsageError, match=f"Did you mean {meant!r} instead of {wrong!r}"):
            make_chat().invoke("hi", **{wrong: 1})


def test_a_name_that_resembles_none_is_told_them_all() -> None:
    with pytest.raises(UsageError, match=r"no setting 'zzz'\.[\s\S]*Known: .*alpha.*temperature") as caught:
        ChatACD(zzz=1)
    assert "Did you mean" not in str(caught.value)
    assert "GenerationParams" not in str(caught.value)  # the settings of ChatACD are more than those


def test_a_value_of_the_wrong_kind_names_the_class_to_look_at() -> None:
    with pytest.raises(UsageError, match=r"ChatACD. model[\s\S]*help\(acd_integrations.langchain.ChatACD\)"):
        ChatACD(model=3)


@pytest.mark.parametrize("value", [0, -1.5])
def test_an_impossible_timeout_is_called_by_its_name(value: float, make_chat: MakeChat) -> None:
    llm = make_chat()
    llm.timeout = value
    for ask in (
        lambda: ChatACD(timeout=value),
        lambda: make_chat().invoke("hi", timeout=value),
        lambda: llm.invoke("hi"),
    ):
        with pytest.raises(UsageError, match=r"timeout: .*greater than 0") as caught:
            ask()
        assert "deadline_s" not in str(caught.value)
    with pytest.raises(UsageError, match=r"deadline_s: .*greater than 0"):
        make_chat().invoke("hi", deadline_s=value)


def test_one_stop_string_or_several(make_chat: MakeChat) -> None:
    text = "one, two, three"
    for stop in ("two", ["two"], ("two", "zzz")):
        assert make_chat(text, stop=stop).invoke("hi").content == "one, "
        assert make_chat(text).invoke("hi", stop=stop).content == "one, "
        assert make_chat(text).bind(stop=stop).invoke("hi").content == "one, "
        assert "".join(str(piece.content) for piece in make_chat(text).stream("hi", stop=stop)) == "one, "
    for wrong in ("", [""], [3]):
        with pytest.raises(UsageError, match="stop"):
            ChatACD(stop=wrong)
        with pytest.raises(UsageError, match="stop"):
            make_chat().invoke("hi", stop=wrong)


def test_a_model_beside_a_model(make_chat: MakeChat) -> None:
    llm = make_chat()
    for name, value in (("model", "x"), ("pair", "p"), ("expert", "e"), ("lm_holder", None)):
        given: dict[str, Any] = {name: value}
        with pytest.raises(UsageError, match=name):
            ChatACD.from_lm(llm.lm, **given)
