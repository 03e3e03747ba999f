"""What a contrasted token costs, beside every other way of making it: ratios measured in one run, interleaved, medians.

    python benchmarks/decoding_cost.py                              # 120M bf16, the quick set
    python benchmarks/decoding_cost.py --size 10m --dtype float32
    python benchmarks/decoding_cost.py --size 8b --device cuda --batches 1 8 32 --rounds 5

Random weights of the named shape with the bundled tokenizer. Every figure is time / plain `model.generate` of the same
number of tokens. Writes Markdown and JSON with the machine and the versions in the header to --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.gate import HEADS, Gate, Levels
from acd_core.bundled import REFERENCE_MODEL_DIR
from acd_core.chat import SOFT
from acd_core.engine import EngineOptions
from acd_core.engine.static import Decode
from acd_core.evaluation.page import table
from acd_core.evaluation.report import machine
from acd_core.model.hidden_states import layer_count
from acd_core.tuning.reading import layers_read

SIZES: dict[str, dict[str, int]] = {
    "10m": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4,
            "num_key_value_heads": 4, "vocab_size": 8192},
    "120m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
             "num_key_value_heads": 12, "vocab_size": 32000},
    "500m": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151936},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
ARMS: dict[str, dict[str, Any]] = {
    "engine_plain": {"method": "sp"},  # the safeguarding prompt alone
    "engine_acd": {},  # both branches
    "gated, closed": {"gate": True, "recheck": 32},  # the model alone, read again every 32 tokens
}
"""What our engine is measured with: a name -> settings of `generate`. benchmarks/gpu_checks.py checks the same ones."""

MORE_ARMS: dict[str, dict[str, Any]] = {
    "gated, closed, no re-check": {"gate": True, "recheck": 0},
    "gated, open": {"gate": 1.0},  # opens for every request: both branches, and the reading before them
}
"""Measured too, but not with --arms-only: benchmarks/on_gpu.sh has no time for them."""

SOFT_VECTORS = 20
ALPHA = 0.4


def never_opening(model: Any) -> Gate:
    """A random reading of the layers that learnt gates read; it opens only where a call says gate=1.0."""
    count, width = layer_count(model), model.config.hidden_size
    layers = layers_read(count)
    weights = torch.randn(len(HEADS), len(layers), width, generator=torch.Generator().manual_seed(2), device="cpu")
    levels = Levels(harmless=(0.0,), harmful=(1.0,), threshold=1e9)
    return Gate(layers, weights, (0.0, 0.0, 0.0), levels, levels)


class Bench:
    """One model of a shape, with everything that is compared on it."""

    def __init__(self, size: str, dtype: str, device: str, decode: Decode = "auto") -> None:
        self.device = device
        self.options = EngineOptions(decode=decode)
        self.tokenizer = AutoTokenizer.from_pretrained(REFERENCE_MODEL_DIR)
        torch.manual_seed(0)
        config = LlamaConfig(
            **SIZES[size], max_position_embeddings=8192, tie_word_embeddings=False, initializer_range=0.05,
            eos_token_id=None, bos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        with torch.device(device):
            # In its dtype from the start: an 8B shape in float32 would not fit every card.
            self.model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
        self.model.generation_config.eos_token_id = None
        self.tokenizer.eos_token = None  # replies have the asked length
        self.lm = self._lm(None)
        generator = torch.Generator().manual_seed(1)
        vectors = [torch.randn(SOFT_VECTORS, config.hidden_size, generator=generator) * 0.05 for _ in range(2)]
        self.pair = PromptPair.from_tensors(
            *vectors, backbone=self.lm.backbone, alpha=ALPHA, gate=never_opening(self.model)
        )
        self.acd = self._lm(self.pair)

    def _lm(self, pair: PromptPair | None) -> ContrastiveLM:
        # gate=False: only a call that asks for the gate has it.
        return ContrastiveLM.from_model(self.model, self.tokenizer, pair, options=self.options, gate=False)

    def prompt(self, tokens: int, number: int = 0) -> str:
        """A text whose layout has about `tokens` tokens, different for every number."""
        words = f"{number} number {number} lists plain words about gardens, bread, trains and weather "
        words *= tokens // 8 + 2
        ids = self.tokenizer.encode(words, add_special_tokens=False)[: max(tokens - 8, 1)]
        return str(self.tokenizer.decode(ids))

    def embeds(self, prompts: list[str], soft: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(kept, other) prompt embeddings [batch, tokens, width]; prompts of equal length."""
        rows: list[list[torch.Tensor]] = [[], []]
        for prompt in prompts:
            layout = self.acd.chat.layout(prompt, SOFT if soft else None)
            parts = (layout.before, layout.after)
            before, after = (self.acd.backbone.embed(torch.tensor(list(part))) for part in parts)
            for index, vectors in enumerate((self.pair.safeguarding, self.pair.adversarial)):
                middle = [vectors.to(before.device, before.dtype)] if soft else []  # type: ignore[union-attr]
                rows[index].append(torch.cat([before, *middle, after]))
        shortest = min(row.shape[0] for row in rows[0])
        return torch.stack([r[-shortest:] for r in rows[0]]), torch.stack([r[-shortest:] for r in rows[1]])

    # -- the ways -----------------------------------------------------------------------------------------------------

    def plain_generate(self, prompts: list[str], new: int) -> None:
        """transformers' generate, one branch, greedy."""
        kept, _ = self.embeds(prompts, True)
        mask = torch.ones(kept.shape[:2], dtype=torch.long, device=kept.device)
        self.model.generate(inputs_embeds=kept, attention_mask=mask, max_new_tokens=new, do_sample=False)

    def cfg_processor(self, prompts: list[str], new: int) -> None:
        """transformers' CFG processor at the same strength: two forwards a token (ids only, so textual prompts)."""
        ids = [list(self.lm.chat.layout(prompt).ids) for prompt in prompts]
        shortest = min(map(len, ids))
        batch = torch.tensor([row[-shortest:] for row in ids], device=self.device)
        self.model.generate(
            batch, attention_mask=torch.ones_like(batch), max_new_tokens=new, do_sample=False,
            guidance_scale=1 / (1 - ALPHA), negative_prompt_ids=batch.roll(1, 1),
            negative_prompt_attention_mask=torch.ones_like(batch),
        )  # fmt: skip

    @torch.inference_mode()
    def two_cached_passes(self, prompts: list[str], new: int) -> None:
        """Two separate cached forwards a token."""
        inputs = list(self.embeds(prompts, True))
        caches = [DynamicCache(config=self.model.config) for _ in inputs]
        for _ in range(new):
            safe, opposite = (
                self.model(inputs_embeds=x, past_key_values=cache, logits_to_keep=1).logits[:, -1].float()
                for x, cache in zip(inputs, caches)
            )
            token = (safe - ALPHA * opposite).argmax(-1)
            inputs = [self.acd.backbone.embed(token[:, None])] * 2

    @torch.inference_mode()
    def two_passes_without_cache(self, prompts: list[str], new: int) -> None:
        """The published ROSE script's way: the whole sequence again for every token."""
        kept, other = self.embeds(prompts, True)
        for _ in range(new):
            safe, opposite = (self.model(inputs_embeds=x, use_cache=False).logits[:, -1].float() for x in (kept, other))
            said = self.acd.backbone.embed((safe - ALPHA * opposite).argmax(-1)[:, None])
            kept, other = torch.cat([kept, said], 1), torch.cat([other, said], 1)

    def arm(self, name: str, prompts: list[str], new: int) -> None:
        """Our engine with the settings of an arm; a gate has to stand as the arm's name says."""
        replies = self.acd.generate(prompts, max_tokens=new, **{**ARMS, **MORE_ARMS}[name])
        opened = {None if reply.report.gate is None else reply.report.gate.opened for reply in replies}
        if opened != {name.endswith("open") if name.startswith("gated") else None}:
            raise RuntimeError(f"{name}: whether its gates opened: {opened}")

    def ways(self) -> dict[str, Callable[[list[str], int], None]]:
        """Every way by its name: work on (prompts, new tokens)."""
        others = (self.plain_generate, self.cfg_processor, self.two_cached_passes, self.two_passes_without_cache)
        return {
            **{way.__name__: way for way in others},
            **{name: partial(self.arm, name) for name in (*ARMS, *MORE_ARMS)},
        }


def seconds(work: Callable[[], Any], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(ways: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every way, one after the other in every round, after one round that is thrown away."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, work in ways.items():
            used = seconds(work, device)
            if round_:
                taken[name].append(used)
        print(f"\r  round {round_}/{rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return taken


def ratios(taken: dict[str, list[float]], base: str) -> dict[str, float]:
    """Median over rounds of time / the base's time of the same round."""
    return {name: statistics.median(a / b for a, b in zip(times, taken[base])) for name, times in taken.items()}


def single_stream(bench: Bench, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """batch x prompt: every way, as a multiple of plain generate."""
    ways = bench.ways()
    if asked.skip_slow:
        del ways["two_passes_without_cache"]
    if asked.arms_only:
        ways = {name: way for name, way in ways.items() if name in ("plain_generate", *ARMS)}
    for length in asked.prompts:
        for batch in asked.batches:
            counter = iter(range(10**9))

            def prompts(batch: int = batch, length: int = length, counter: Any = counter) -> list[str]:
                return [bench.prompt(length, next(counter)) for _ in range(batch)]  # new ones: no prefix is reused

            taken = interleaved(
                {name: (lambda way=way: way(prompts(), asked.new)) for name, way in ways.items()},
                asked.rounds,
                asked.device,
            )
            speed = statistics.median(batch * asked.new / t for t in taken["plain_generate"])
            mode = bench.acd.engine.decode_mode[0]
            yield {"prompt": length, "batch": batch, **ratios(taken, "plain_generate"), "plain tok/s": speed,
                   "engine's steps": mode}  # fmt: skip


def concurrency(bench: Bench, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """n callers with ragged prompts at once: throughput against plain generate one by one, and ACD one by one."""
    for callers in asked.callers:
        counter = iter(range(10**6, 10**9))
        lengths = [32 + 96 * index // max(callers - 1, 1) for index in range(callers)]

        def prompts(lengths: list[int] = lengths, counter: Any = counter) -> list[str]:
            return [bench.prompt(length, next(counter)) for length in lengths]

        def together() -> None:
            asked_ = prompts()
            threads = [
                threading.Thread(target=bench.acd.generate, args=(one,), kwargs={"max_tokens": asked.new})
                for one in asked_
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        ways = {
            "plain one by one": lambda: [bench.plain_generate([one], asked.new) for one in prompts()],
            "acd one by one": lambda: [bench.arm("engine_acd", [one], asked.new) for one in prompts()],
            "acd together": together,
        }
        taken = interleaved(ways, max(1, asked.rounds // 2), asked.device)
        found = ratios(taken, "acd together")
        yield {"callers": callers, **{f"speed-up over {n}": found[n] for n in found if n != "acd together"}}


def settle(lm: ContrastiveLM) -> None:
    """Wait until the engine holds no row: what a reply leaves in the prefix store is saved after its last word."""
    while lm.engine.active_rows or lm.engine.queued:
        time.sleep(0.002)


def first_token(lm: ContrastiveLM, messages: Any) -> float:
    """Seconds from the call to the first token: a reply of one token, so that no held-back text is counted."""
    settle(lm)
    started = time.perf_counter()
    lm.generate(messages, max_tokens=1)
    taken = time.perf_counter() - started
    settle(lm)
    return taken


def conversation(bench: Bench, asked: argparse.Namespace) -> dict[str, float]:
    """Time to the first token at turn 10 with the prefix store, over the same without."""

    def tenth(reuse: bool, number: int) -> float:
        settle(bench.acd)
        bench.acd.engine.prefixes.max_bytes = EngineOptions().prefix_bytes if reuse else 0
        bench.acd.engine.prefixes.clear()
        messages: list[dict[str, str]] = []
        for turn in range(10):
            messages.append({"role": "user", "content": bench.prompt(48, number * 100 + turn)})
            if turn == 9:
                return first_token(bench.acd, messages)
            reply = bench.acd.generate(messages, max_tokens=24)
            settle(bench.acd)
            messages.append({"role": "assistant", "content": reply.text})
        raise AssertionError

    pairs = [(tenth(True, n), tenth(False, n)) for n in range(1, asked.rounds + 1)]
    bench.acd.engine.prefixes.max_bytes = EngineOptions().prefix_bytes
    return {
        "turn 10, reuse on / off": statistics.median(on / off for on, off in pairs),
        "on, ms": 1e3 * statistics.median(on for on, _ in pairs),
        "off, ms": 1e3 * statistics.median(off for _, off in pairs),
    }


def stored_prompt(bench: Bench, asked: argparse.Namespace) -> dict[str, float]:
    """Prefill of a 200-vector pair with a 64-token user turn: keys and values known, over computed."""
    width = bench.model.config.hidden_size
    pair = PromptPair.from_tensors(
        torch.randn(200, width) * 0.05, torch.randn(200, width) * 0.05, backbone=bench.lm.backbone
    )
    with ContrastiveLM.from_model(bench.model, bench.tokenizer, pair) as lm:
        pairs = []
        for number in range(asked.rounds + 1):
            lm.engine.prefixes.clear()
            computed = first_token(lm, bench.prompt(64, 7000 + 2 * number))
            known = first_token(lm, bench.prompt(64, 7001 + 2 * number))
            pairs.append((known, computed))
        return {"200-vector pair, known / computed": statistics.median(a / b for a, b in pairs[1:])}


def adapter(bench: Bench, asked: argparse.Namespace) -> dict[str, float]:
    """ChatACD.invoke over the engine itself, 128 tokens."""
    from acd_integrations.langchain import ChatACD

    chat = ChatACD.from_lm(bench.acd, max_tokens=128)
    counter = iter(range(10**9, 2 * 10**9))
    taken = interleaved(
        {
            "engine": lambda: bench.acd.generate(bench.prompt(64, next(counter)), max_tokens=128),
            "ChatACD.invoke": lambda: chat.invoke(bench.prompt(64, next(counter))),
        },
        max(asked.rounds, 3),
        asked.device,
    )
    return {"ChatACD.invoke / engine": ratios(taken, "engine")["ChatACD.invoke"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="120m")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--prompts", type=int, nargs="*", default=[64])
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--new", type=int, default=128, help="new tokens of a reply")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-slow", action="store_true", help="leave out the passes without cache")
    parser.add_argument("--arms-only", action="store_true", help="plain_generate and ARMS, nothing else")
    parser.add_argument("--decode", choices=get_args(Decode), default="auto", help="how the engine's steps run")
    parser.add_argument("--only", nargs="*", default=["single", "concurrency", "conversation", "stored", "adapter"])
    parser.add_argument("--out", type=Path, default=Path("out/decoding_cost"))
    asked = parser.parse_args()
    bench = Bench(asked.size, asked.dtype, asked.device, asked.decode)
    header = {**machine(), "size": asked.size, "dtype": asked.dtype, "device": asked.device, "new tokens": asked.new,
              "rounds": asked.rounds, "threads": torch.get_num_threads()}  # fmt: skip
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, part in PARTS.items():
        if name not in asked.only:
            continue
        made = part(bench, asked)
        if isinstance(made, dict):
            found[name] = made
        else:
            rows = found[name] = []
            for row in made:
                rows.append(row)
                write(header, found, asked.out)
        header["decode"] = ": ".join(bench.acd.engine.decode_mode)
        write(header, found, asked.out)
        print(section(name, found[name]), flush=True)
    print(asked.out / "decoding_cost.md")


PARTS: dict[str, Callable[[Bench, argparse.Namespace], Any]] = {
    "single": single_stream, "concurrency": concurrency, "conversation": conversation, "stored": stored_prompt,
    "adapter": adapter,
}  # fmt: skip


def section(name: str, found: Any) -> str:
    """One part as Markdown."""
    rows = found if isinstance(found, list) else [found]
    heads = list(rows[0])
    cells = [[f"{row[h]:.3g}" if isinstance(row[h], float) else str(row[h]) for h in heads] for row in rows]
    return "\n".join([f"## {name}", "", (PARTS[name].__doc__ or "").strip(), "", table(heads, cells), ""])


def write(header: dict[str, Any], found: dict[str, Any], out: Path) -> None:
    """What is measured so far, as decoding_cost.md and .json."""
    lines = ["# Cost of decoding", "", *(f"- {name}: {value}" for name, value in header.items()), ""]
    (out / "decoding_cost.md").write_text("\n".join([*lines, *(section(name, part) for name, part in found.items())]))
    (out / "decoding_cost.json").write_text(json.dumps({"machine": header, **found}, indent=1, default=str))


if __name__ == "__main__":
    main()
