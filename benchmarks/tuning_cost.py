"""What a tuning step costs beside one plain forward and backward of the same rows, and what the whole recipe takes.

    python benchmarks/tuning_cost.py                                      # bundled model and 0.5B shape, quick
    python benchmarks/tuning_cost.py --shapes 3b 8b --layers 4            # so many layers of a large shape
    python benchmarks/tuning_cost.py --shapes 0.5b 3b 8b --device cuda --batch 32 --recipe 8b --out out/gpu

Random bf16 weights of the named shape with the bundled tokenizer; the rows are the bundled anchor pairs (replies of
real length). Two yardsticks, on the very rows of the step, gradients for the soft vectors only, weights frozen:

- plain: what a soft-prompt tuner that knows nothing of the task does: logits at every position, cross-entropy over the
  reply tokens in float32, every row with its own copy of the prefix;
- lean: the same with logits at the reply's positions only, and on a CPU the attention whose backward is quick.

A step of ours runs two prompts, so twice a lean forward and backward is what it would cost without any sharing.
Times and memory are taken interleaved in one process; ratios are medians over steps of the ratio at the same step.
Writes Markdown and JSON with the machine and the versions to --out. `--recipe` adds the whole recipe for one shape.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.initialization import no_init_weights

from acd_core import ContrastiveLM
from acd_core.bundled import REFERENCE_ANCHORS, REFERENCE_MODEL_DIR
from acd_core.evaluation.page import table
from acd_core.evaluation.report import machine
from acd_core.model.backbone import Backbone
from acd_core.tuning import anchors, tune
from acd_core.tuning.examples import Row
from acd_core.tuning.objectives import OBJECTIVES
from acd_core.tuning.pair_run import PairRun
from acd_core.tuning.progress import Bar
from acd_core.tuning.settings import TuneSettings
from acd_core.tuning.validation import Validator

REFERENCE = "reference"
SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "3b": {"model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
           "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
           "tie_word_embeddings": True},
    "8b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
           "tie_word_embeddings": False},
}  # fmt: skip
"""Qwen2.5-0.5B, Llama-3.2-3B and Llama-3.1-8B, in numbers."""

PAIRS = REFERENCE_ANCHORS
MIB = 2**20


def backbone_of(shape: str, layers: Sequence[str], device: str) -> Backbone:
    """A frozen bf16 model of `shape`, with as many layers as `layers_of` says and the bundled tokenizer."""
    if shape == REFERENCE:
        return Backbone.load(REFERENCE, dtype="bfloat16", device=device)
    facts = dict(SHAPES[shape])
    facts["num_hidden_layers"] = layers_of(shape, layers)
    config = AutoConfig.for_model(
        facts.pop("model_type"), **facts, max_position_embeddings=8192,
        eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.tie_weights()  # left out with the initial weights
    fill(model)
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_MODEL_DIR)
    tokenizer.eos_token = None  # replies have the asked length
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Backbone.wrap(model, tokenizer, f"random-{shape}")


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Random matrices, quickly: one block of normal numbers, over and over. Norms stay ones, biases become zeros."""
    block = torch.randn(2**20, dtype=torch.bfloat16, device=next(model.parameters()).device) * 0.02
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            flat = parameter.view(-1)
            for start in range(0, len(flat), len(block)):
                part = flat[start : start + len(block)]
                part.copy_(block[: len(part)])
        elif name.endswith("bias"):
            parameter.zero_()


def without_out(words: Sequence[str]) -> list[str]:
    """The words of a command line but for --out and its folder, which is a place on one machine."""
    pairs = zip(words, ["", *words])
    return [word for word, before in pairs if "--out" not in (word, before) and not word.startswith("--out=")]


def layers_of(shape: str, asked: Sequence[str]) -> int:
    """Layers of `shape` under --layers: "N" for every shape, "shape=N" for one. The bundled model is always whole."""
    if shape == REFERENCE:
        return 6
    whole = int(SHAPES[shape]["num_hidden_layers"])
    wanted = {key: int(number) for key, _, number in (each.rpartition("=") for each in asked)}
    return min(whole, wanted.get(shape, wanted.get("", whole)))


def layers_text(shape: str, asked: Sequence[str]) -> str:
    whole = layers_of(shape, ())
    return "all" if layers_of(shape, asked) == whole else f"{layers_of(shape, asked)} of {whole}"


class Bench:
    """The tuner's own run of one objective on one model, and the two yardsticks on the rows of its steps."""

    def __init__(self, backbone: Backbone, objective: str, batch: int) -> None:
        pairs = anchors.load_pairs(PAIRS)
        some = [anchors.bundled_instructions(name)[:1] for name in ("validation_safe", "validation_unsafe")]
        settings = TuneSettings(batch=batch, micro=batch, checkpointing=False)  # as the yardsticks: all rows at once
        self.run = PairRun(
            backbone, OBJECTIVES[objective], settings, anchors.split_pairs(pairs),
            (some[0], some[1]), anchors.default_judge(), None, objective, "bundled",
        )  # fmt: skip
        # No validation here, not even the first decoding.
        self.run.validator.measure_plain = lambda: None  # type: ignore[assignment,method-assign,return-value]
        self.run.loop.start(Bar("", 0, shown=False), resume=False)
        self.backbone = backbone

    def rows(self, step: int) -> list[Row]:
        return self.run.batches.rows(step)

    def tokens(self, step: int) -> int:
        """Tokens of the step's rows with the soft prompt and the template's head, replies whole: what plain runs."""
        prefix = len(self.run.encoder.before) + len(self.run.prompts.tensors["safe"])
        return sum(prefix + len(row.example) - 1 for row in self.rows(step))

    def step(self, step: int) -> None:
        """One step of the tuner: both prompts' gradients, clipping, AdamW."""
        self.run.loop.state.step = step
        self.run.loop.step()

    def plain(self, step: int) -> None:
        self._forward_backward(self.backbone, self.rows(step), lean=False)

    def lean(self, step: int) -> None:
        self._forward_backward(self.run.view, self.rows(step), lean=True)

    def _forward_backward(self, backbone: Backbone, rows: Sequence[Row], lean: bool) -> None:
        """One forward and backward of the rows behind one soft prompt."""
        soft = self.run.prompts.tensors["safe"].detach().clone().requires_grad_(True)
        before, device = list(self.run.encoder.before), backbone.device
        bodies = [[*row.example.request.after, *row.example.reply[:-1]] for row in rows]
        longest = max(map(len, bodies))
        ids = torch.tensor([[*body, *[0] * (longest - len(body))] for body in bodies], device=device)
        head = backbone.embed(torch.tensor([before] * len(rows), device=device))
        vectors = soft.to(backbone.dtype).expand(len(rows), -1, -1)
        embeds = torch.cat([head, vectors, backbone.embed(ids)], 1)
        prefix = len(before) + len(soft)
        labels = torch.full((len(rows), prefix + longest), -100)
        seen = torch.zeros(len(rows), prefix + longest, dtype=torch.long)
        for index, row in enumerate(rows):
            start = prefix + len(row.example.request.after) - 1
            labels[index, start : start + len(row.example.reply)] = torch.tensor(row.example.reply)
            seen[index, : prefix + len(bodies[index])] = 1
        first = prefix + min(len(row.example.request.after) for row in rows) - 1 if lean else 0
        kept = torch.arange(first, prefix + longest, device=device)
        logits = backbone.model(
            inputs_embeds=embeds, attention_mask=seen.to(device), use_cache=False,
            logits_to_keep=kept if lean else 0,
        ).logits  # fmt: skip
        loss = cross_entropy(logits.float().flatten(0, 1), labels[:, first:].flatten().to(device), ignore_index=-100)
        torch.autograd.grad(loss, soft)


WAYS = ("step", "plain", "lean")


def seconds(work: Callable[[], Any], device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    started = clock()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return clock() - started


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def peak(work: Callable[[], Any], device: str) -> float:
    """MiB that `work` needed at most beyond what was held before it. On a CPU see `give_back_at_once`."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - held) / MIB
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    held_kib = _status("VmRSS")
    work()
    return (_status("VmHWM") - held_kib) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def give_back_at_once() -> None:
    """Freed tensors go back to the system at once, so that resident size is what is held and not what malloc keeps.
    It slows allocation down; memory is therefore measured in a process of its own, after the times."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 65536)  # M_MMAP_THRESHOLD: every block above 64 KiB is a mapping
    libc.mallopt(-1, 65536)  # M_TRIM_THRESHOLD


def measure(backbone: Backbone, objective: str, asked: argparse.Namespace, memory: bool) -> dict[str, Any]:
    """Every way at steps 0, 1, ...: medians over steps; a way's ratio is taken at the same step."""
    bench = Bench(backbone, objective, asked.batch)
    ways: dict[str, Callable[[int], None]] = {name: getattr(bench, name) for name in WAYS}
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    meter: Callable[..., float] = peak if memory else partial(seconds, clock=CLOCKS[asked.clock])
    # Memory: the step with the most tokens. Time: several, as their lengths differ.
    steps = [max(range(asked.steps), key=bench.tokens)] if memory else range(asked.steps)
    # Thrown away. On a GPU every new shape loads kernels and asks for memory once; on a CPU one step is warm enough.
    for step in steps if asked.device.startswith("cuda") else [0]:
        for work in ways.values():
            work(step)
    for step in steps:
        for name, work in ways.items():
            taken[name].append(meter(lambda work=work, step=step: work(step), asked.device))  # type: ignore[misc]
        print(f"\r  {objective}: step {step}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    found: dict[str, Any] = {name: statistics.median(values) for name, values in taken.items()}
    for base in WAYS[1:]:
        found[f"step / {base}"] = statistics.median(a / b for a, b in zip(taken["step"], taken[base]))
    found["tokens"] = round(statistics.median(bench.tokens(step) for step in range(asked.steps)))
    found["rows in memory"] = bench.run.loop.state.memory.get("micro")
    return found


def shape_rows(shape: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an objective: seconds, MiB and ratios of one shape."""
    backbone = backbone_of(shape, asked.layers, asked.device)
    facts = {
        "shape": shape,
        "layers": layers_text(shape, asked.layers),
        "parameters, M": round(sum(p.numel() for p in backbone.model.parameters()) / 1e6),
        "batch": asked.batch,
    }
    times = {name: measure(backbone, name, asked, False) for name in asked.objective}
    if asked.device.startswith("cuda"):
        memories = {name: measure(backbone, name, asked, True) for name in asked.objective}
        del backbone
    else:
        del backbone
        gc.collect()
        memories = in_child(shape, asked)
    return [
        {
            **facts,
            "objective": name,
            "tokens": times[name]["tokens"],
            **{f"{way}, s": times[name][way] for way in WAYS},
            **{f"step / {base}": times[name][f"step / {base}"] for base in WAYS[1:]},
            **{f"{way}, MiB": memories[name][way] for way in WAYS},
            **{f"step / {base}, memory": memories[name][f"step / {base}"] for base in WAYS[1:]},
            "rows in memory": memories[name]["rows in memory"],
        }
        for name in asked.objective
    ]


def in_child(shape: str, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The memory measurement of one shape in a fresh process (CPU)."""
    command = [sys.executable, __file__, "--memory-of", shape, "--device", asked.device, "--batch", str(asked.batch),
               "--steps", str(asked.steps), "--threads", str(asked.threads), "--objective", *asked.objective,
               "--layers", *asked.layers]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def recipe(shape: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The whole recipe as `acd tune` runs it, part by part: the replies, the default steps, the validation decoding.

    --instructions of each kind under three prompts: the paper's 600 pairs by default. Random weights refuse nothing, so
    the replies are generated and timed, but tuning learns from the bundled pairs of the same instructions.
    """
    backbone = backbone_of(shape, asked.layers, asked.device)
    settings = TuneSettings(**({"steps": asked.recipe_steps} if asked.recipe_steps else {}))
    safe, unsafe = (anchors.bundled_instructions(kind)[: asked.instructions] for kind in ("safe", "unsafe"))
    wanted = {each.text for each in (*safe, *unsafe)}
    pairs = [pair for pair in anchors.load_pairs(PAIRS) if pair.text in wanted]
    validation = tuple(anchors.bundled_instructions(f"validation_{kind}")[: asked.validation]
                       for kind in ("safe", "unsafe"))  # fmt: skip
    with ContrastiveLM.from_model(backbone.model, backbone.tokenizer) as lm:
        made = seconds(lambda: anchors.generate_anchors(lm, safe, unsafe), asked.device)
    print(f"  recipe: replies {made:.1f} s", file=sys.stderr, flush=True)
    rows = []
    for objective in asked.objective:
        with decoding_timed(asked.device) as spent:
            tuning = seconds(lambda name=objective: tune(  # type: ignore[misc]
                backbone, pairs, objective=name, steps=settings.steps, validation=validation,
            ), asked.device)  # fmt: skip
        decoding = sum(spent)
        print(f"  recipe: {objective} {tuning:.1f} s, {decoding:.1f} of them decoding", file=sys.stderr, flush=True)
        rows.append({
            "shape": shape, "layers": layers_text(shape, asked.layers),
            "objective": objective, "steps": settings.steps, "batch": settings.batch, "replies": len(pairs),
            "replies, s": made,
            "steps, s": tuning - decoding, "decodings": len(spent), "validation decoding, s": decoding,
            "tuning, s": tuning, "recipe without validation, s": made + tuning - decoding, "recipe, s": made + tuning,
        })  # fmt: skip
    return rows


@contextlib.contextmanager
def decoding_timed(device: str) -> Iterator[list[float]]:
    """While it is open, the seconds of every decoding of the validation split are added to the list."""
    spent: list[float] = []
    methods = {name: getattr(Validator, name) for name in ("measure", "measure_plain")}

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            kept: list[Any] = []
            spent.append(seconds(lambda: kept.append(method(*args, **named)), device))
            return kept[0]

        return call

    try:
        for name, method in methods.items():
            setattr(Validator, name, timed(method))
        yield spent
    finally:
        for name, method in methods.items():
            setattr(Validator, name, method)


def lines_of(rows: Sequence[dict[str, Any]], heads: Sequence[str]) -> str:
    cells = [[f"{row[h]:.3g}" if isinstance(row[h], float) else str(row[h]) for h in heads] for row in rows]
    return table(heads, cells)


TIMES = ["shape", "layers", "parameters, M", "objective", "batch", "tokens", "step, s", "plain, s", "lean, s",
         "step / plain", "step / lean"]  # fmt: skip
MEMORY = ["shape", "layers", "objective", "batch", "rows in memory", "step, MiB", "plain, MiB", "lean, MiB",
          "step / plain, memory", "step / lean, memory"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=[REFERENCE, *SHAPES], default=[REFERENCE, "0.5b"])
    parser.add_argument("--layers", nargs="*", default=[], help="N or SHAPE=N: only so many; the report says so")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=8, help="rows a step (the tuner's own default is 32)")
    parser.add_argument("--steps", type=int, default=4, help="measured steps; batches repeat their lengths every 4")
    parser.add_argument("--objective", nargs="*", choices=OBJECTIVES, default=["joint", "paper"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--recipe", choices=[REFERENCE, *SHAPES], help="the whole recipe for this shape as well")
    parser.add_argument("--recipe-steps", type=int, help="fewer steps than the default; the report says so")
    parser.add_argument("--instructions", type=int, default=100, help="of each kind, for the recipe")
    parser.add_argument("--validation", type=int, help="so many validation requests of each kind in the recipe; "
                        "all by default")  # fmt: skip
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: the process's own seconds, where "
                        "others use the machine (with --threads 1, no GPU)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--memory-of", choices=[REFERENCE, *SHAPES], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.memory_of:
        give_back_at_once()
        backbone = backbone_of(asked.memory_of, asked.layers, asked.device)
        print(json.dumps({name: measure(backbone, name, asked, True) for name in asked.objective}))
        return
    on_gpu = asked.device.startswith("cuda")
    how = "torch.cuda.max_memory_allocated above what was held before"
    if not on_gpu:
        how = "VmHWM above VmRSS, reset before each way, in a process whose malloc gives memory back at once"
    header = {**machine(), "dtype": "bfloat16", "device": asked.device, "threads": torch.get_num_threads(),
              "measured steps": asked.steps, "clock": asked.clock, "memory": how,
              "load before": f"{os.getloadavg()[0]:.2f}",
              "command": shlex.join(["python", "benchmarks/tuning_cost.py", *without_out(sys.argv[1:])])}  # fmt: skip
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": header, "steps": [], "recipe": []}
    for shape in asked.shapes:
        print(shape, file=sys.stderr, flush=True)
        found["steps"] += shape_rows(shape, asked)
        write(found, asked.out)
    if asked.recipe:
        found["recipe"] = recipe(asked.recipe, asked)
    print(write(found, asked.out))


def write(found: dict[str, Any], out: Path) -> str:
    """What is measured so far, as tuning_cost.md and .json; gives the Markdown."""
    parts = ["# Cost of tuning", "\n".join(f"- {name}: {value}" for name, value in found["machine"].items())]
    if found["machine"]["clock"] == "cpu":
        parts += [
            "Others used the machine: seconds of steps are the process's own, and only their ratios mean anything."
        ]
    if found["steps"]:
        parts += ["## A step", STEP_NOTE, lines_of(found["steps"], TIMES)]
        parts += ["## Peak memory of a step, beyond the weights", lines_of(found["steps"], MEMORY)]
    if found["recipe"]:
        parts += ["## The whole recipe", RECIPE_NOTE, lines_of(found["recipe"], [*found["recipe"][0]])]
    if not found["machine"]["device"].startswith("cuda"):
        parts += [NO_GPU]
    text = "\n\n".join(parts) + "\n"
    (out / "tuning_cost.md").write_text(text)
    (out / "tuning_cost.json").write_text(json.dumps(found, indent=1) + "\n")
    return text


STEP_NOTE = """\
`plain` and `lean` are one forward and backward of the step's rows under one soft prompt: `plain` with logits at every
position, `lean` with logits at the reply's positions only and, on a CPU, attention with a quick backward. A step of
ours runs both prompts. `tokens`: of the rows, each with its prefix. Ratios are medians of ratios at the same step.
Where `layers` says fewer than the shape has, the figures are of that smaller model; nothing is extrapolated."""

RECIPE_NOTE = """\
As `acd tune` runs it, part by part. Random weights refuse nothing, so their replies are generated and timed, but
tuning learns from the bundled pairs of the same instructions."""

NO_GPU = """\
No GPU was at hand, so its target (the 8B shape, the whole recipe under 60 s) is not measured here. The command:

    python benchmarks/tuning_cost.py --shapes 0.5b 3b 8b --device cuda --batch 32 --recipe 8b --out out/gpu"""


if __name__ == "__main__":
    main()
