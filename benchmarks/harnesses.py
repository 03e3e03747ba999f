"""Other people's harnesses measure us, offline, plain beside ACD: lm-evaluation-harness, Inspect and garak.

    python -m benchmarks.harnesses --garak-python ../venv-garak/bin/python
    python -m benchmarks.harnesses --prompts 10 --only inspect --out out/harnesses.md

Every number is the harness's own count over our plug-in (acd_integrations/{lm_eval,inspect_ai,garak}.py):

- lm-eval: share of prompts refused (rule judge as the task's metric; held-out harmful and everyday prompts, bundled),
  TruthfulQA's MC1 accuracy by log-likelihood on the joined distribution (where --data or ACD_DATA names a folder with
  truthfulqa.csv), and bits per byte of the bundled demo documents, as plain text without a chat format;
- Inspect: the same two sets as tasks with a scorer, samples run concurrently;
- garak: the probes in its wheel, its own two refusal detectors. They are keyword lists that disagree with each other
  (Prefixes looks at the start of the reply, MitigationBypass anywhere): "passed" is the share they call a refusal.

garak wants datasets<4, so it runs in an environment of its own (--garak-python; made as the head of
tests/harnesses/test_garak.py says) and is left out without one. Prompts and replies go to a temporary folder that is
removed. Writes OUT, and the same as JSON beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from acd_core.evaluation.benchmarks import load_benchmark
from acd_core.evaluation.multiple_choice import read_truthfulqa
from acd_core.evaluation.page import table
from acd_core.evaluation.report import machine
from acd_core.lm import ContrastiveLM
from acd_core.refusal.judges import RefusalJudge

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "acd_core/bundled/demo_documents"
SETS = {"held-out-harmful": "more is better", "everyday": "less is better"}
DETECTORS = ("mitigation.Prefixes", "mitigation.MitigationBypass")


@dataclass
class Line:
    """One measure of one harness: method -> its number (and its standard error, where the harness gives one)."""

    harness: str
    measure: str
    prompts: int
    reading: str
    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


class Lines:
    """All measures, in the order in which they came."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, str], Line] = {}

    def add(
        self, method: str, harness: str, measure: str, prompts: int, reading: str, value: float, error: Any = None
    ) -> None:
        line = self.lines.setdefault((harness, measure), Line(harness, measure, prompts, reading))
        line.values[method] = value
        if isinstance(error, float):
            line.errors[method] = error


def with_lm_eval(asked: argparse.Namespace, lines: Lines) -> None:
    """generate_until with our judge as the metric; multiple choice and perplexity on the joined distribution."""
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    from acd_integrations.lm_eval import ContrastiveHarnessLM

    judge = RefusalJudge()

    def task(name: str, docs: list[dict[str, Any]], output_type: str, metric: str, **config: Any) -> dict[str, Any]:
        return {
            "task": name,
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(docs)},
            "test_split": "test",
            "output_type": output_type,
            "metric_list": [{"metric": metric}],
            **config,
        }

    def refused(doc: dict[str, Any], replies: list[str]) -> dict[str, float]:
        return {"refused": float(judge.judge(doc["text"], replies[0]).refused)}

    tasks, readings = [], {}
    for name, reading in SETS.items():
        docs = [{"text": item.prompt} for item in load_benchmark(name).sample(asked.prompts, asked.seed).items]
        made = task(name, docs, "generate_until", "refused", doc_to_text="text", doc_to_target="")
        made |= {"process_results": refused, "generation_kwargs": {"until": [], "max_gen_toks": asked.max_tokens}}
        made["metric_list"] = [{"metric": "refused", "aggregation": "mean", "higher_is_better": reading[0] == "m"}]
        tasks.append(made)
        readings[name] = f"share refused, {reading}"
    truthfulqa = asked.data / "truthfulqa.csv" if asked.data is not None else None
    if truthfulqa is not None and truthfulqa.is_file():
        docs = [
            {"text": each.prompt, "choices": [each.choices[at] for at in each.best_choices]}
            for each in read_truthfulqa(truthfulqa).sample(asked.prompts, asked.seed).questions
        ]
        fields = {"doc_to_text": "text", "doc_to_choice": "choices", "doc_to_target": 0}
        tasks.append(task("truthfulqa-mc1", docs, "multiple_choice", "acc", **fields))
        readings["truthfulqa-mc1"] = "accuracy, more is better"
    docs = [{"text": path.read_text(encoding="utf-8").strip()} for path in sorted(DOCUMENTS.glob("*.txt"))]
    fields = {"doc_to_text": "", "doc_to_target": "text"}
    tasks.append(task("documents", docs, "loglikelihood_rolling", "bits_per_byte", **fields))
    readings["documents"] = "bits per byte, less is better"

    with ContrastiveLM.from_pretrained(asked.model, asked.pair) as lm:
        for method in asked.methods:
            result = lm_eval.simple_evaluate(
                ContrastiveHarnessLM(lm, method=method, alpha=asked.alpha),
                tasks=tasks,
                task_manager=TaskManager(include_defaults=False),
                apply_chat_template=True,
                bootstrap_iters=0,
                verbosity="ERROR",
            )
            for name, found in result["results"].items():
                key = next(key for key in found if key.endswith(",none") and "_stderr" not in key)
                error = found.get(key.replace(",none", "_stderr,none"))
                count = result["n-samples"][name]["effective"]
                lines.add(method, "lm-eval", name, count, readings[name], float(found[key]), error)


def with_inspect(asked: argparse.Namespace, lines: Lines) -> None:
    """The same two sets as Inspect tasks; the scorer is our judge, the means are Inspect's."""
    import inspect_ai
    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
    from inspect_ai.solver import TaskState, generate

    judge = RefusalJudge()

    @scorer(metrics=[mean(), stderr()])
    def refused() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            return Score(value=float(judge.judge(state.input_text, state.output.completion).refused))

        return score

    with ContrastiveLM.from_pretrained(asked.model, asked.pair) as lm, tempfile.TemporaryDirectory() as folder:
        for method in asked.methods:
            model = get_model(f"acd/{lm.model_id}", memoize=False, lm=lm, method=method, alpha=asked.alpha)
            for name, reading in SETS.items():
                items = load_benchmark(name).sample(asked.prompts, asked.seed).items
                task = Task(
                    name=name,
                    dataset=[Sample(input=item.prompt, id=item.id) for item in items],
                    solver=[generate()],
                    scorer=refused(),
                    config=GenerateConfig(max_tokens=asked.max_tokens),
                )
                (log,) = inspect_ai.eval(task, model=model, log_dir=folder, display="none")
                if log.status != "success" or log.results is None:
                    raise RuntimeError(f"Inspect's run of {name} ended with {log.status}.")
                metrics = log.results.scores[0].metrics
                reading = f"share refused, {reading}"
                value, error = float(metrics["mean"].value), float(metrics["stderr"].value)
                lines.add(method, "inspect", name, len(items), reading, value, error)


def with_garak(asked: argparse.Namespace, lines: Lines) -> None:
    """garak's command line over our generator, in garak's environment. Only its report's eval entries are read."""
    for method in asked.methods:
        with tempfile.TemporaryDirectory() as folder:
            options = {"pair": asked.pair, "method": method, "alpha": asked.alpha, "max_tokens": asked.max_tokens}
            run = {"soft_probe_prompt_cap": asked.prompts, "generations": 1, "seed": asked.seed}
            Path(folder, "run.json").write_text(json.dumps({"run": run}))
            command = [asked.garak_python, "-m", "acd_integrations.garak", "--config", f"{folder}/run.json"]
            command += ["--target_type", "acd", "--target_name", asked.model, "--spec", asked.garak_spec]
            command += ["--detectors", ",".join(DETECTORS), "--report_prefix", "run"]
            command += ["--generator_options", json.dumps({"acd": options})]
            homes = {f"XDG_{kind}_HOME": str(Path(folder, kind)) for kind in ("DATA", "CONFIG", "CACHE")}
            done = subprocess.run(command, cwd=ROOT, env={**os.environ, **homes}, capture_output=True)
            reports = list(Path(folder).rglob("run.report.jsonl"))
            if done.returncode or not reports:
                raise RuntimeError(f"garak ended with {done.returncode} and {len(reports)} reports (method {method}).")
            entries = [json.loads(line) for line in reports[0].read_text(encoding="utf-8").splitlines()]
        for entry in entries:
            if entry["entry_type"] == "eval" and entry["total_evaluated"]:
                measure = f"{entry['probe']}, {entry['detector']}"
                value = entry["passed"] / entry["total_evaluated"]
                lines.add(method, "garak", measure, entry["total_evaluated"], "share passed, more is better", value)


HARNESSES: dict[str, tuple[str, Callable[[argparse.Namespace, Lines], None]]] = {
    "lm-eval": ("lm_eval", with_lm_eval),
    "inspect": ("inspect_ai", with_inspect),
    "garak": ("garak", with_garak),
}


def page(asked: argparse.Namespace, lines: Sequence[Line], facts: dict[str, str]) -> str:
    """The Markdown: one table, a row a measure."""

    def cell(line: Line, method: str) -> str:
        if method not in line.values:
            return "not measured"
        error = f" ± {line.errors[method]:.3f}" if method in line.errors else ""
        return f"{line.values[method]:.3f}{error}" if line.values[method] < 1000 else f"{line.values[method]:.0f}"

    rows = [
        [line.harness, line.measure, str(line.prompts), line.reading, *(cell(line, each) for each in asked.methods)]
        for line in lines
    ]
    head = ["harness", "measure", "prompts", "reads as", *asked.methods]
    return "\n\n".join(
        [
            "# Measured by other harnesses",
            ", ".join(f"{name} {value}" for name, value in facts.items()),
            table(head, rows),
            "± is the harness's own standard error.",
        ]
    )


def version(package: str, python: str) -> str:
    """The version of `package` in the environment of `python`."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "not installed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--pair", default="reference")
    parser.add_argument("--methods", nargs="+", default=["none", "safe-prompt", "acd"])
    parser.add_argument("--alpha", type=float, default=None, help="strength of the contrast; none: the pair's own")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("ACD_DATA"), help="folder of public sets; none: bundled sets alone"
    )
    parser.add_argument("--prompts", type=int, default=100, help="prompts of every set, where it has more")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(HARNESSES), default=list(HARNESSES))
    parser.add_argument("--garak-python", default=sys.executable, help="the interpreter of garak's environment")
    parser.add_argument("--garak-spec", default="probes.dan.Ablation_Dan_11_0,probes.donotanswer.MaliciousUses")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/harnesses.md")
    asked = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    facts = {**machine(), "model": asked.model, "pair": asked.pair, "alpha": str(asked.alpha or "the pair's own")}
    facts |= {"new tokens": str(asked.max_tokens), "seed": str(asked.seed)}
    asked.garak_python = os.path.abspath(asked.garak_python)  # garak starts in the project's folder
    lines = Lines()
    for name in asked.only:
        package, measure = HARNESSES[name]
        facts[name] = version(package, asked.garak_python if name == "garak" else sys.executable)
        if facts[name] == "not installed":
            print(f"{name}: {package} is not installed, left out", file=sys.stderr)
            continue
        began = time.monotonic()
        measure(asked, lines)
        facts[f"{name} took"] = f"{time.monotonic() - began:.0f} s"
        print(f"{name}: {facts[f'{name} took']}", file=sys.stderr)
    text = page(asked, list(lines.lines.values()), facts)
    print(text)
    document = {"facts": facts, "lines": [asdict(line) for line in lines.lines.values()]}
    for path, content in ((asked.out, text), (asked.out.with_suffix(".json"), json.dumps(document, indent=1))):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(content + "\n", encoding="utf-8")
        beside.replace(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
