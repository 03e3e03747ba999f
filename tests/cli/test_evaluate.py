"""`acd evaluate` from outside: a page out of nothing but a model, gone on with after a kill, mistakes said early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acd_core.bundled import REFERENCE_MODEL_DIR
from tests.cli.conftest import save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_a_page_out_of_bundled_and_own_prompts(acd, tiny: Path, tmp_path: Path):
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"prompt": f"Say {word}."}) + "\n" for word in ("a", "b", "c")), encoding="utf-8")
    quiz = tmp_path / "quiz.jsonl"
    quiz.write_text(json.dumps({"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}), encoding="utf-8")
    out = tmp_path / "page"
    line = (
        *("evaluate", "-m", str(tiny), "--methods", "none, rose@0.3", "--sets", f"held-out-harmful,harmless:{own}"),
        *("--limit", "2", "--max-tokens", "3", "--choices", str(quiz), "--out", str(out), "--device", "cpu"),
    )
    result = acd(*line)
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"page: {out / 'report.html'}" in result.stdout
    assert "rose@0.3 on own: 2 of 2" in result.stderr
    kept = {
        name: (out / name).read_bytes() for name in ("completions.jsonl", "scores.jsonl", "report.html", "report.md")
    }
    rows = [json.loads(each) for each in kept["completions.jsonl"].splitlines()]
    assert len(rows) == 2 * 2 * 2
    assert all(row["prompt"] not in result.output for row in rows)
    assert "quiz accuracy" in kept["report.md"].decode()

    # As a kill leaves it: half of a last line. What is whole is not made again, and the page is the same but for cost.
    (out / "completions.jsonl").write_bytes(kept["completions.jsonl"][:-9])
    again = acd(*line)
    assert again.exit_code == 0, again.output
    lines = [json.loads(each) for each in (out / "completions.jsonl").read_bytes().splitlines()]
    assert [row["key"] for row in lines] == [row["key"] for row in rows]
    assert lines[:-1] == rows[:-1]
    assert lines[-1]["completion"] == rows[-1]["completion"]
    assert (out / "scores.jsonl").read_bytes() == kept["scores.jsonl"]
    text = (out / "report.md").read_text("utf-8")
    assert text.split("## Cost")[0] == kept["report.md"].decode().split("## Cost")[0]


def test_limits_of_the_engine(acd, tiny: Path, tmp_path: Path):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"prompt": "Say a."}) + "\n", encoding="utf-8")
    line = (
        *("evaluate", "-m", str(tiny), "--methods", "rose@0.3", "--sets", f"harmless:{own}", "--alphas", "none"),
        *("--max-tokens", "3", "--no-utility", "--device", "cpu", "--out", str(tmp_path / "page")),
    )
    assert acd(*line, "--engine", "max_rows=2,prefix_bytes=0").exit_code == 0
    unknown = acd(*line, "--engine", "rows=2")
    assert (unknown.exit_code, "max_rows" in unknown.stderr) == (2, True)


JUDGE = """
class Asker:
    name = "strict-judge"
    def ask(self, prompt):
        if "FIRST" in prompt:
            return "VERDICT: FIRST"
        return "VERDICT: harmful" if "VERDICT: harmful" in prompt else "VERDICT: full_refusal"
asker = Asker()
"""


def test_a_judge_of_ones_own_stands_beside_the_rules(acd, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a_judge_of_mine.py").write_text(JUDGE, encoding="utf-8")
    people = (
        "prompt,completion,final_label\nHow?,I cannot help with that.,2_full_refusal\nHow?,Like so.,1_full_compliance\n"
    )
    (tmp_path / "people.csv").write_text(people, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = ("evaluate", "-m", str(tiny), "--methods", "none,rose", "--limit", "2", "--max-tokens", "3")
    result = acd(*line, "--judge", "a_judge_of_mine:asker", "--labelled", "people.csv", "--out", "page")
    assert result.exit_code == 0, (result.output, result.exception)
    data = json.loads(Path("page/report.json").read_text("utf-8"))
    said = data["judge_models"]
    assert said["judges"] == {"harm": "strict-judge, harm v1", "refusal": "strict-judge, refusal v1"}
    assert all(row["refused"]["value"] == row["harmful"]["value"] == 1.0 for row in said["rows"])
    assert said["agreement"]["total"] == 12
    rules, model = data["calibration"]
    assert (rules["file"], rules["refusal"]["value"], model["refusal"]["value"]) == ("people.csv", 1.0, 0.5)
    page = Path("page/report.md").read_text("utf-8")
    assert "found: partial refusal" in page
    assert "harmful, by the model" in page
    assert "win rate against none" in page
    # It always prefers what comes first, and so says nothing about which is better.
    (none, rose) = data["utility"]["arms"]
    assert none["wins"] is None
    assert (rose["wins"]["wins"], rose["wins"]["losses"]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--methods", "no-such"), "no-such"),
        (("--methods", "ap"), "--allow-adversarial"),
        (("--methods", "opposite-prompt"), "opposite-prompt"),
        (("--methods", "rose@2"), "alpha in [0, 1)"),
        (("--sets", "no-such"), "There is no benchmark"),
        (("--sets", "harmful:/no/such.jsonl"), "/no/such.jsonl"),
        (("--data", "/no/such/folder"), "/no/such/folder"),
        (("--alphas", "0.2,2"), "'2' is no strength"),
        (("--choices", "/no/such.jsonl"), "/no/such.jsonl"),
        (("--judge", "no_such_module_of_mine:asker"), "no_such_module_of_mine"),
        (("--labelled", "/no/such.csv"), "/no/such.csv"),
        (("--judge", "json:dumps"), "without name and ask(prompt)"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(acd, tmp_path: Path, arguments: tuple[str, ...], words: str):
    result = acd("evaluate", "-m", "./no-such-model", "--out", str(tmp_path / "page"), *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr.replace("\n", "")
    assert not (tmp_path / "page").exists()


def test_which_methods_run_without_being_named():
    from acd_core.evaluation.paper import ABLATION, OPPOSITE_PROMPT
    from acd_core.evaluation.study import SWEEP, chosen_arms
    from acd_core.methods.table import METHODS

    def names(*given: str, pair: float | None = 0.4, **more) -> list[str]:
        settings = {"pair_alpha": pair, "expert": False, "allow_adversarial": False, **more}
        return [arm.name for arm in chosen_arms(given, None, **settings)]

    plain = names()
    assert "acd" in plain and "safedecoding" not in plain and "ap" not in plain
    assert [name for name in plain if name.startswith("acd@")] == [f"acd@{alpha:g}" for alpha in SWEEP if alpha != 0.4]
    assert set(names("all")) - set(plain) == set(ABLATION)
    for kind, given in (("lora", True), ("scans", "scans"), ("alphasteer", "alphasteer")):
        assert set(names(expert=given)) - set(plain) == {
            name for name, method in METHODS.items() if method.needs_expert and method.expert_kind == kind
        }
    assert set(names(allow_adversarial=True)) - set(plain) == {"ap", OPPOSITE_PROMPT}
    assert set(names(pair=None)) == {
        name for name, method in METHODS.items() if not (method.needs_pair or method.needs_expert)
    }
    assert names("none", "acd@0.3 plausibility=0.1") == ["none", "acd@0.3 plausibility=0.1"]
    (opposite,) = chosen_arms([OPPOSITE_PROMPT], None, pair_alpha=None, expert=False, allow_adversarial=True)
    assert opposite.name == OPPOSITE_PROMPT and opposite.system
    swept = chosen_arms(["acd"], [0.2, 0.4], pair_alpha=0.4, expert=False, allow_adversarial=False)
    assert [arm.name for arm in swept] == ["acd", "acd@0.2"]


def test_sets_under_a_folder_are_found_and_sampled(tmp_path: Path):
    from acd_core.evaluation.study import chosen_questions, chosen_sets

    (tmp_path / "advbench.csv").write_text(
        "goal,target\n" + "".join(f"aim {n},yes\n" for n in range(9)), encoding="utf-8"
    )
    (tmp_path / "truthfulqa.csv").write_text(
        "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
        "x,y,Why?,Because,Because; For a reason,No reason; Never,\n",
        encoding="utf-8",
    )
    found = chosen_sets([], str(tmp_path), 4, 0)
    assert {(each.name, len(each)) for each in found} == {
        ("held-out-harmful", 4), ("advbench", 4), ("everyday", 4), ("look-alikes", 4), ("truthfulqa", 1),
    }  # fmt: skip
    assert [each.kind for each in found] == sorted(each.kind for each in found)
    assert found == chosen_sets([], str(tmp_path), 4, 0)
    assert {each.name for each in chosen_sets([], None, 4, 0)} == {"held-out-harmful", "everyday", "look-alikes"}
    questions, ours = chosen_questions([], str(tmp_path), 4, 0)
    assert (ours.name, len(ours.questions)) == ("general-questions", 4)
    assert questions.questions[0].choices == ("Because.", "For a reason.", "No reason.", "Never.")


def test_alone_it_measures_the_bundled_model(acd, tmp_path: Path):
    if not (REFERENCE_MODEL_DIR / "config.json").is_file():
        pytest.skip("the bundled reference model is not in this checkout")
    out = tmp_path / "page"
    result = acd("evaluate", "--limit", "2", "--max-tokens", "4", "--methods", "none,acd", "--out", str(out))
    assert result.exit_code == 0, (result.output, result.exception)
    data = json.loads((out / "report.json").read_text("utf-8"))
    assert [each["arm"] for each in data["summaries"]] == ["none", "acd"]
    assert data["utility"]["base"] == "none"
    assert (out / "report.html").is_file()
