"""Loaders: the public sets when they are here, the bundled sets always, broken files with a clear word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import acd_core.tuning
from acd_core.errors import MissingExtraError, UsageError
from acd_core.evaluation import benchmarks
from acd_core.evaluation.benchmarks import (
    LOADERS,
    Benchmark,
    Item,
    attacked,
    check_overlap,
    jailbreak_templates,
    load_benchmark,
    normalised,
    read_benchmark,
)

DATA = benchmarks.data_directory()
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="public sets (../shared/data/eval) are not beside this checkout"
)
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


@needs_data
@pytest.mark.parametrize("name", sorted(LOADERS))
def test_every_set_loads_with_unique_ids_and_texts(name: str) -> None:
    found = load_benchmark(name)
    assert found.name == name
    assert found.kind == LOADERS[name][0]
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


@needs_data
def test_jailbreak_templates_hold_the_request() -> None:
    templates = jailbreak_templates()
    assert len(templates) == 75
    base = Benchmark("mine", "harmful", (Item("a", "PLACEHOLDER"),))
    assert all("PLACEHOLDER" in attacked(base, text, name).items[0].prompt for name, text in templates.items())


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


def test_broken_files_are_named_without_their_text(tmp_path: Path) -> None:
    (tmp_path / "advbench.csv").write_text("wrong,columns\nsecret,x\n", encoding="utf-8")
    with pytest.raises(UsageError, match="column goal") as caught:
        load_benchmark("advbench", tmp_path)
    assert "secret" not in str(caught.value)
    (tmp_path / "dangerousqa.json").write_text('["fine"]\n{"secret', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2: not JSON") as caught:
        load_benchmark("dangerousqa", tmp_path)
    assert "secret" not in str(caught.value)
    (tmp_path / "dangerousqa.json").write_text('[{"query": "secret"}]', encoding="utf-8")
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
    everyday, harmful = load_benchmark("everyday"), load_benchmark("held-out-harmful")
    assert (len(everyday), len(harmful)) == (250, 40)
    assert len({item.category for item in everyday.items}) >= 12
    assert len({normalised(item.prompt) for item in (*everyday.items, *harmful.items)}) == 290
    folder = Path(next(iter(acd_core.tuning.__path__))) / "anchors"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jsonl"))]
    anchors = [json.loads(line)["text"] for text in texts for line in text.splitlines()]
    assert len(anchors) >= 200
    check_overlap(anchors, [everyday, harmful])


@needs_data
def test_our_sets_repeat_no_public_prompt() -> None:
    public = [
        item.prompt
        for name in LOADERS
        if name not in ("everyday", "held-out-harmful")
        for item in load_benchmark(name).items
    ]
    check_overlap(public, [load_benchmark("everyday"), load_benchmark("held-out-harmful")])


def test_the_hub_needs_its_package_and_is_never_tried_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(benchmarks.importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match="datasets"):
        benchmarks.load_hub("org/set", "harmful", "prompt")
