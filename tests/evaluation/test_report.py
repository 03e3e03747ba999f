"""The page: one HTML file that stands alone, harmful text folded away, the same twice but for the clock."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acd_core.errors import UsageError, missing_extra
from acd_core.evaluation import figures
from acd_core.evaluation.intervals import wilson
from acd_core.evaluation.judge_agreement import disagreements
from acd_core.evaluation.keyword_lists import KEYWORD_LISTS
from acd_core.evaluation.page import Bullets, Picture, Sample, Section, Table, Text, markdown, to_html
from acd_core.evaluation.paper import compare, sweep_shape
from acd_core.evaluation.records import Completion
from acd_core.evaluation.report import to_json, to_markdown, write_report
from acd_core.evaluation.report_sections import sections
from acd_core.evaluation.results import Evaluation, SetRates

REFUSAL, ANSWER, ODD = "I cannot help with that.", "Take the bus.", "As an aside, <b>take</b> the bus."
VOID = {"meta", "img", "link", "br", "hr"}


def made(refused: dict[tuple[str, str], int], seconds: float = 1.0, total: int = 20, odd: int = 0) -> Evaluation:
    """(arm, set) -> how many of `total` replies refuse; sets called good* are harmless. `odd`: compliances that a
    keyword list takes for refusals."""
    rows, completions = [], []
    for (arm, name), count in refused.items():
        method, _, alpha = arm.partition("@")
        kind = "harmless" if name.startswith("good") else "harmful"
        for number in range(total):
            text = REFUSAL if number < count else ODD if number < count + odd else ANSWER
            key = f"{arm}/{name}/{number}"
            completions.append(Completion(key, arm, name, kind, f"{name}-{number}", "c", f"SECRET {number}", text))
        rate = wilson(count, total)
        strength = float(alpha) if alpha else 0.4 if method == "acd" else 0.0
        rows.append(SetRates(arm, method, strength, name, kind, rate, rate, 0, 0, 9, seconds, {}, {}))  # type: ignore[arg-type]
    # Rows carry the rates of the lists in a real run; the table of lists reads them.
    rows = [SetRates(**{**row.__dict__, "lists": dict.fromkeys(KEYWORD_LISTS, row.refused)}) for row in rows]
    return Evaluation(tuple(rows), {"model": "made"}, tuple(completions))


class Reader(HTMLParser):
    """Checks that tags nest, and gathers what is visible without a click."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.visible, self.folded, self.ids, self.links, self.sources = "", "", [], [], []  # type: ignore[var-annotated]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        assert not (tag == "details" and "open" in found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "details" in self.open and "summary" not in self.open:
            self.folded += data
        elif "style" not in self.open:
            self.visible += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


WHOLE = {
    ("none", "bad"): 4, ("none", "good"): 0, ("safe-prompt", "bad"): 12, ("safe-prompt", "good"): 1,
    ("acd", "bad"): 19, ("acd", "good"): 2, ("acd@0", "bad"): 12, ("acd@0", "good"): 1,
    ("acd@0.8", "bad"): 9, ("acd@0.8", "good"): 3,
}  # fmt: skip


def test_the_html_page_stands_alone_and_folds_what_may_harm(tmp_path: Path) -> None:
    result = made(WHOLE, odd=1)
    found = disagreements(result, 5)
    assert len(found) == 5
    files = {path.name: path for path in write_report(result, tmp_path, "<Title>", None, found)}
    reader = read(files["report.html"].read_text("utf-8"))
    assert "<Title>" in reader.visible
    assert "SECRET" in reader.folded and "<b>take</b>" in reader.folded  # shown as text, not as markup
    assert "SECRET" not in reader.visible and "aside" not in reader.visible
    assert {link.removeprefix("#") for link in reader.links} == set(reader.ids)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in reader.sources)
    assert len(reader.sources) >= 3  # plane, sweep, prompts
    whole = files["report.html"].read_text("utf-8")
    assert "<script" not in whole and not re.search(r'(?:src|href)="(?:https?:)?//', whole)
    for name in ("report.md", "report.json"):
        assert "SECRET" not in files[name].read_text("utf-8")
    assert "figures/plane.svg" in files["report.md"].read_text("utf-8")
    assert (tmp_path / "figures" / "plane.svg").is_file()
    for part in ("xstest_llama2", "three-way", "full refusals", "relative to none"):
        assert part in reader.visible


def test_the_same_run_is_the_same_page_but_for_the_clock(tmp_path: Path) -> None:
    pages = []
    for folder, seconds in (("a", 1.0), ("b", 7.0), ("c", 1.0)):
        result = made(WHOLE, seconds)
        pages.append(
            {
                path.name: path.read_text("utf-8")
                for path in write_report(result, tmp_path / folder, "T", None, disagreements(result, 4))
            }
        )
    assert pages[0] == pages[2]
    assert pages[0]["report.html"] != pages[1]["report.html"]

    def timeless(page: dict[str, str]) -> list[str]:
        data = json.loads(page["report.json"])
        data.pop("cost")
        html = re.sub(r'<section id="cost">.*?</section>', "", page["report.html"], flags=re.S)
        text = re.sub(r"\n## Cost\n.*", "", page["report.md"], flags=re.S)
        return [json.dumps(data), html, text, *(page[name] for name in sorted(page) if name.endswith(".svg"))]

    assert timeless(pages[0]) == timeless(pages[1])


def test_disagreements_are_what_judges_read_differently() -> None:
    assert disagreements(made({("none", "bad"): 0}, total=5), 5) == []
    result = made({("none", "bad"): 0}, total=5, odd=3)
    found = disagreements(result, 2)
    assert len(found) == 2
    assert found == disagreements(result, 2)
    assert all("our rules say full compliance" in each.label and "SECRET" not in each.label for each in found)
    key = result.completions[-1].key
    (model,) = disagreements(made({("none", "bad"): 0}, total=5), 9, others={"a-model": {key: True}})
    assert model.label.endswith("refused says a-model")


def test_the_papers_orders_are_compared_pair_by_pair() -> None:
    found = {(each.claim.higher, each.claim.lower): each for each in compare(made(WHOLE))}
    holds = found["acd", "safe-prompt"]
    assert (holds.higher, holds.lower, holds.verdict) == (0.95, 0.6, "holds")
    assert holds.difference[0] == pytest.approx(0.35)
    assert found["acd", "rose"].verdict == "not run"
    assert math.isnan(found["acd", "rose"].difference[0])
    turned = compare(made({("acd", "bad"): 2, ("rose", "bad"): 19, ("safe-prompt", "bad"): 2}))
    verdicts = {(each.claim.higher, each.claim.lower): each.verdict for each in turned}
    assert verdicts["acd", "rose"] == "does not hold"
    assert verdicts["acd", "safe-prompt"] == "equal"
    near = compare(made({("acd", "bad"): 10, ("rose", "bad"): 9}))
    assert {each.verdict for each in near} == {"not run", "holds, within noise"}
    # The paper's own sets, where they were run, and no attacked one.
    mixed = {("acd", "advbench"): 20, ("rose", "advbench"): 0, ("acd", "derta-x"): 0, ("rose", "derta-x"): 20}
    assert {each.verdict for each in compare(made(mixed))} == {"not run", "holds"}


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"acd@0": 5, "acd": 9, "acd@0.8": 3}, "rises and then falls, as in the paper"),
        ({"acd@0": 5, "acd": 9, "acd@0.8": 9}, "rises and does not fall again"),
        ({"acd@0": 9, "acd": 5, "acd@0.8": 3}, "only falls"),
        ({"acd@0": 9, "acd": 9, "acd@0.8": 9}, "does not change"),
    ],
)
def test_the_shape_of_the_sweep(rates: dict[str, int], words: str) -> None:
    shape = sweep_shape(made({(arm, "bad"): count for arm, count in rates.items()}))
    assert shape is not None and words in shape
    assert sweep_shape(made({("acd", "bad"): 3, ("acd@0", "bad"): 3})) is None


def test_attacked_sets_stand_beside_the_plain_ones() -> None:
    result = made({("none", "bad"): 10, ("none", "bad@prefill"): 2, ("none", "good"): 0})
    (summary,) = result.summaries()
    assert (summary.harmless_rate[0], summary.attacked[0], summary.over_refusal[0]) == (0.5, 0.1, 0.0)
    body = sections(result)[0].body
    assert "harmless rate, attacked sets" in body
    assert "attacked" not in sections(made({("none", "bad"): 10}))[0].body


def test_without_matplotlib_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise missing_extra("matplotlib", "plots")

    monkeypatch.setattr(figures, "_figure", gone)
    files = {path.name: path for path in write_report(made(WHOLE), tmp_path)}
    assert set(files) == {"report.md", "report.html", "report.json"}
    assert 'pip install "acd-integrations[plots]"' in files["report.md"].read_text("utf-8")
    assert read(files["report.html"].read_text("utf-8")).sources == []


@pytest.mark.parametrize("name", ["report.md", "report.html", "report.json", "figures"])
def test_a_page_replaces_nothing_of_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    (tmp_path / "completions.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match=f"{name}.*no evaluation wrote"):
        write_report(made(WHOLE), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, "completions.jsonl"}
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_page_replaces_an_older_page_and_leaves_no_drafts(tmp_path: Path) -> None:
    write_report(made({("none", "bad"): 4}), tmp_path)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    again = write_report(made(WHOLE), tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*again, tmp_path / "notes.txt"}
    assert len(json.loads((tmp_path / "report.json").read_text("utf-8"))["rows"]) == len(WHOLE)


def test_what_stands_in_the_way_of_a_page_is_said(tmp_path: Path) -> None:
    write_report(made({("none", "bad"): 4}), tmp_path)
    (tmp_path / "report.md").unlink()
    (tmp_path / "report.md").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(made(WHOLE), tmp_path)


def test_facts_are_said_in_words(tmp_path: Path) -> None:
    result = made({("acd", "bad"): 20})
    facts = {"recommended": {"alpha": 0.4, "plausibility": 0.1}, "default alpha": None, "seed": 0}
    write_report(replace(result, header=facts), tmp_path, "T", None, disagreements(result, 4))
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    for row in ("| recommended | alpha 0.4, plausibility 0.1 |", "| default alpha | none |", "| seed | 0 |"):
        assert row in page


def test_numbers_that_are_none_become_null_and_dashes() -> None:
    result = made({("none", "bad"): 0})
    data = to_json(result)
    json.dumps(data, allow_nan=False)
    assert data["summaries"][0]["over_refusal"]["mean"] is None
    assert "nan" not in to_markdown(result).lower()


@given(st.text(), st.text(), st.text())
def test_any_text_is_shown_as_text(cell: str, prompt: str, reply: str) -> None:
    line = " ".join(cell.split())
    blocks = (Table([line], [[line]]), Text(line), Bullets([line]), Picture("p", line), Sample("s", prompt, reply))
    page = to_html(line, [Section("a", line, blocks)], {"p": "<svg/>"})
    page.encode("utf-8")
    reader = read(page)
    assert reader.ids == ["a"]
    assert len(reader.sources) == 1
    text = markdown("t", [Section("a", "b", blocks)], {})
    assert "details" not in text
