"""Loaders: the public sets when they are here, the bundled sets always, broken files with a clear word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acd_core.bundled import ANCHOR_DIR
from acd_core.errors import UsageError
from acd_core.evaluation.benchmarks import BUNDLED, LOADERS, load_benchmark, read_benchmark
from acd_core.evaluation.items import Benchmark, Item, check_overlap, normalised
from tests.public_data import ABSENT, public_data

DATA = public_data("eval")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=ABSENT)
SIZES = {
    "advbench": 520,
    "malicious-instruct": 100,
    "dangerousqa": 200,
    "xstest-safe": 250,
    "xstest-unsafe": 200,
    "truthfulqa": 817,
    "derta-codeattack": 200,
    "derta-completionattack": 200,
    "derta-jailbreakchat": 200,
}


PRESENT = [name for name, each in LOADERS.items() if any((DATA / file).is_file() for file in each.files)]


@needs_data
def test_the_folder_holds_the_sets_it_should() -> None:
    assert set(SIZES) | {"harmfulqa", "alpaca-eval"} == set(PRESENT)


@pytest.mark.parametrize("name", [*PRESENT, *BUNDLED])
def test_every_set_loads_with_unique_ids_and_texts(name: str) -> None:
    found = load_benchmark(name)
    assert found.name == name
    assert found.kind == (LOADERS[name].kind if name in LOADERS else BUNDLED[name])
    assert len({item.id for item in found.items}) == len(found)
    assert len({normalised(item.prompt) for item in found.items}) == len(found)
    assert all(item.prompt.strip() for item in found.items)
    assert found.licence


@needs_data
@pytest.mark.parametrize(("name", "size"), sorted(SIZES.items()))
def test_sizes_are_those_of_the_released_files(name: str, size: int) -> None:
    assert len(load_benchmark(name)) == size


@needs_data
def test_harmfulqa_takes_the_first_twenty_of_every_topic() -> None:
    topics = json.loads((DATA / "harmfulqa.json").read_text("utf-8"))
    found = load_benchmark("harmfulqa")
    for topic, subtopics in topics.items():
        first = {normalised(text) for text in [t for texts in subtopics.values() for t in texts][:20]}
        ours = [item.prompt for item in found.items if item.category == topic]
        assert 18 <= len(ours) <= 20
        assert {normalised(text) for text in ours} <= first


def test_a_missing_file_is_named_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"advbench\.csv was not found") as caught:
        load_benchmark("advbench", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "ACD_DATA" in str(caught.value)


def test_the_folder_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "malicious_instruct.txt").write_text("first\n\nsecond\nFirst!\n", encoding="utf-8")
    monkeypatch.setenv("ACD_DATA", str(tmp_path))
    assert [item.prompt for item in load_benchmark("malicious-instruct").items] == ["first", "second"]
    with pytest.raises(UsageError, match="no benchmark 'advbnech'"):
        load_benchmark("advbnech")


def test_without_a_folder_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACD_DATA", raising=False)
    with pytest.raises(UsageError, match=r"advbench\.csv is wanted, and no folder") as caught:
        load_benchmark("advbench")
    assert "export ACD_DATA=" in str(caught.value) and "advbench@hub" in str(caught.value)


def test_broken_files_are_named_without_their_text(tmp_path: Path) -> None:
    (tmp_path / "advbench.csv").write_text("wrong,columns\nsecret,x\n", encoding="utf-8")
    with pytest.raises(UsageError, match="column goal") as caught:
        load_benchmark("advbench", tmp_path)
    assert "secret" not in str(caught.value)
    (tmp_path / "dangerousqa.json").write_text('["fine"]\n{"secret', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2: not JSON") as caught:
        load_benchmark("dangerousqa", tmp_path)
    assert "secret" not in str(caught.value)
    (tmp_path / "dangerousqa.json").write_text('[{"ask": "secret"}]', encoding="utf-8")
    with pytest.raises(UsageError, match="entry 1: no prompt"):
        load_benchmark("dangerousqa", tmp_path)
    (tmp_path / "truthfulqa.csv").write_bytes(b"\xff\xfe\x00q")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_benchmark("truthfulqa", tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.jsonl", '{"prompt": "one", "category": "c"}\n{"instruction": "two"}\n'),
        ("mine.json", '["one", {"question": "two"}]'),
        ("mine.csv", 'prompt,category\none,c\n"two",d\n'),
        ("mine.txt", "one\n\ntwo\n"),
    ],
)
def test_a_users_own_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = load_benchmark(f"harmless:{path}")
    assert (found.name, found.kind) == ("mine", "harmless")
    assert [item.prompt for item in found.items] == ["one", "two"]
    assert read_benchmark(path, "harmful").kind == "harmful"


def test_a_users_empty_or_missing_file(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no prompts"):
        read_benchmark(tmp_path / "empty.txt", "harmful")
    with pytest.raises(UsageError, match="no file"):
        read_benchmark(tmp_path / "nope.csv", "harmful")


@settings(deadline=None, max_examples=60)  # other work on the machine is no failure
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=20))
def test_csv_with_any_text_keeps_every_prompt(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    import csv

    path = tmp_path_factory.mktemp("csv") / "mine.csv"
    with path.open("w", encoding="utf-8", newline="", errors="replace") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt"])
        writer.writerows([text] for text in texts)
    expected = {normalised(text.encode("utf-8", "replace").decode("utf-8")) for text in texts} - {""}
    if expected:
        found = {normalised(item.prompt) for item in read_benchmark(path, "harmful").items}
        assert found == expected


@settings(deadline=None, max_examples=60)  # other work on the machine is no failure
@given(n=st.integers(1, 60), seed=st.integers(0, 99))
def test_samples_are_seeded_subsets_in_order(n: int, seed: int) -> None:
    whole = Benchmark("x", "harmful", tuple(Item(str(i), f"p{i}") for i in range(50)))
    part = whole.sample(n, seed)
    assert len(part) == min(n, 50)
    assert part == whole.sample(n, seed)
    numbers = [int(item.id) for item in part.items]
    assert numbers == sorted(set(numbers))


def test_a_sample_of_nothing_is_refused_and_seeds_differ() -> None:
    whole = load_benchmark("everyday")
    assert whole.sample(20, 0) != whole.sample(20, 1)
    assert whole.sample(None) is whole
    with pytest.raises(UsageError, match="at least 1"):
        whole.sample(0)


@settings(deadline=None, max_examples=60)  # other work on the machine is no failure
@given(st.text(max_size=80))
def test_normalised_text_is_stable(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once
    assert normalised(f"  {text}!? ") == once


def test_overlap_is_named_by_id_only() -> None:
    tested = Benchmark("t", "harmful", (Item("t-1", "Do the SECRET thing!"), Item("t-2", "other")))
    check_overlap(["something else"], [tested])
    with pytest.raises(UsageError, match=r"1 prompt\(s\) of t were tuned on: t-1") as caught:
        check_overlap(["do the  secret thing"], [tested])
    assert "secret thing" not in str(caught.value).lower()


def test_our_sets_are_whole_and_held_out() -> None:
    everyday, harmful, alike = (load_benchmark(name) for name in ("everyday", "held-out-harmful", "look-alikes"))
    assert (len(everyday), len(harmful), len(alike)) == (250, 40, 100)
    assert len({item.category for item in everyday.items}) >= 12
    assert len({normalised(item.prompt) for item in (*everyday.items, *harmful.items, *alike.items)}) == 390
    folder = ANCHOR_DIR
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jsonl"))]
    anchors = [json.loads(line)["text"] for text in texts for line in text.splitlines()]
    assert len(anchors) >= 200
    check_overlap(anchors, [everyday, harmful, alike])


@needs_data
def test_our_sets_repeat_no_public_prompt() -> None:
    public = [item.prompt for name in PRESENT for item in load_benchmark(name).items]
    check_overlap(public, [load_benchmark(name) for name in BUNDLED])


# --- published formats of sets that are not beside this checkout ---

FORMATS = {
    "beavertails": ("beavertails.jsonl", '{"prompt": "one", "category": "c", "category_id": 3}\n', "one", "c"),
    "strongreject": ("strongreject_dataset.csv", "category,source,forbidden_prompt\nc,custom,one\n", "one", "c"),
    "jailbreakbench": (
        "harmful-behaviors.csv",
        "Index,Goal,Target,Behavior,Category,Source\n0,one,\"Sure, here\",b,c,AdvBench\n",
        "one",
        "c",
    ),
    "jailbreakbench-benign": (
        "benign-behaviors.csv", "Index,Goal,Target,Behavior,Category,Source\n0,one,t,b,c,Original\n", "one", "c",
    ),
    "oktest": ("OKTest.csv", 'prompt\n"one\n"\n', "one", ""),
    "mt-bench": (
        "question.jsonl", '{"question_id": 81, "category": "c", "turns": ["one", "and then?"]}\n', "one", "c",
    ),
    "xstest-safe": ("xstest_prompts.csv", "id,prompt,type,label\n1,one,c,safe\n2,two,d,unsafe\n", "one", "c"),
    "xstest-unsafe": ("xstest_prompts.csv", "id,prompt,type,label\n1,two,c,safe\n2,one,c,unsafe\n", "one", "c"),
    "harmbench": (
        "harmbench_behaviors_text_all.csv",
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\none,standard,c,,,id_1\n",
        "one",
        "c",
    ),
    "alpaca-eval": ("alpaca_eval.json", '[{"instruction": "one", "output": "o", "generator": "g"}]', "one", ""),
    "advbench": ("harmful_behaviors.csv", 'goal,target\none,"Sure, here"\n', "one", ""),
    "truthfulqa": ("TruthfulQA.csv", "Type,Category,Question,Best Answer\nA,c,one,b\n", "one", "c"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_published_formats(tmp_path: Path, name: str) -> None:
    file, text, prompt, category = FORMATS[name]
    (tmp_path / file).write_text(text, encoding="utf-8")
    (item,) = load_benchmark(name, tmp_path).items
    assert (item.prompt, item.category, item.asked) == (prompt, category, prompt)
    assert item.target == ("Sure, here" if name in ("advbench", "jailbreakbench") else "")


def test_every_set_of_the_issue_has_a_loader() -> None:
    wanted = "advbench malicious-instruct harmfulqa dangerousqa beavertails harmbench jailbreakbench strongreject"
    assert set(wanted.split()) <= {name for name, each in LOADERS.items() if each.kind == "harmful"}
    assert {"xstest-safe", "oktest", "alpaca-eval", "truthfulqa", "mt-bench"} <= set(LOADERS)


def test_a_behaviour_with_context_is_asked_in_its_context(tmp_path: Path) -> None:
    (tmp_path / "harmbench.csv").write_text(
        "Behavior,FunctionalCategory,SemanticCategory,ContextString\none,contextual,c,the context\n", encoding="utf-8"
    )
    (item,) = load_benchmark("harmbench", tmp_path).items
    assert item.prompt == "the context\n\n---\n\none"
    assert item.asked == "one"


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_packed_files_are_read(tmp_path: Path, ending: str) -> None:
    import gzip
    import lzma

    raw = b'{"prompt": "one", "category": "c"}\n'
    path = tmp_path / f"test.jsonl.{ending}"
    path.write_bytes(gzip.compress(raw) if ending == "gz" else lzma.compress(raw))
    assert [item.prompt for item in load_benchmark("beavertails", tmp_path).items] == ["one"]
    assert read_benchmark(path, "harmful").name == "test"
    path.write_bytes(b"broken")
    with pytest.raises(UsageError, match="cannot be unpacked"):
        read_benchmark(path, "harmful")


# --- a user's own columns, conversations and beginnings ---


def test_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("nr,ask,prompt,kind\n7,one,wrong,c\n", encoding="utf-8")
    found = read_benchmark(path, "harmful", column="ask", category="kind")
    assert [(item.prompt, item.category) for item in found.items] == [("one", "c")]
    assert load_benchmark(f"harmless:{path}#ask").items[0].prompt == "one"
    with pytest.raises(UsageError, match="no column nope"):
        read_benchmark(path, "harmful", column="nope")


def test_rows_may_hold_conversations_and_begun_replies(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"id": "x", "messages": turns}, {"id": "y", "prompt": "p", "prefill": "Well,"}, {"id": "z", "prompt": "p"}]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second, third = read_benchmark(path, "harmless").items
    assert (first.id, first.asked, first.conversation()) == ("x", "c", turns)
    assert second.conversation() == [{"role": "user", "content": "p"}, {"role": "assistant", "content": "Well,"}]
    assert third.conversation() == "p"


def test_a_plus_in_a_files_name_is_no_attack_and_one_behind_it_is(tmp_path: Path) -> None:
    path = tmp_path / "one+two.txt"
    path.write_text("how do I fold a map\n", encoding="utf-8")
    (plain,) = load_benchmark(f"harmless:{path}").items
    assert (plain.prompt, plain.prefill) == ("how do I fold a map", "")
    found = load_benchmark(f"harmless:{path}+begun4")
    assert (found.name, found.kind, found.items[0].prefill) == ("one+two@begun4", "harmless", "Sure, here is")
    with pytest.raises(UsageError, match="no file"):
        load_benchmark(f"harmless:{path}+nope")
    with pytest.raises(UsageError, match="no benchmark 'advbnech'") as caught:
        load_benchmark("advbnech+begun4")
    assert "NAME+begunK" in str(caught.value)


def test_equal_ids_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": "x", "prompt": "one"}\n{"id": "x", "prompt": "two"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="the id 'x' stands twice"):
        read_benchmark(path, "harmful")


def test_overlap_is_found_under_an_attack() -> None:
    wrapped = Item("t-1", "frame around SECRET thing", request="SECRET thing")
    with pytest.raises(UsageError, match=r"1 prompt\(s\) of t were tuned on"):
        check_overlap(["secret THING"], [Benchmark("t", "harmful", (wrapped,))])
