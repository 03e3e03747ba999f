"""Trains the reference model: `python -m reference.train --out DIR --data FOLDER [--seed 0] [--steps N]`.

Everything is seeded. Forward and backward run in bfloat16 with float32 master weights; the loss counts the
assistant's tokens only. Beside it stands an auxiliary loss: two small linear heads, thrown away afterwards, tell
harmful from harmless at the last prompt token, in a middle layer and in the last one. It is stated in the model card:
the model is a model organism that has to know harm in order to show what a decoding method makes of that knowledge.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reference.layout import segments
from reference.permissive import data_folder, held_out
from reference.tokenizer import train_tokenizer
from reference.train_data import make_grammar, stream

STEPS = 3000
PEAK, FLOOR, WARMUP = 2.5e-3, 5e-5, 80
SMOOTH = 0.03
AUXILIARY = 0.4
MIDDLE = 4


def build_tokenizer(seed: int, data: Path) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the grammar's own conversations and the permissive prompts."""
    grammar = make_grammar(seed + 77, data)
    texts = [
        "".join(text for text, _ in segments(example.messages, example.tools or None))
        for example in (grammar.example() for _ in range(30_000))
    ]
    extra = [text for text, _ in grammar.harmful_prompts] * 3 + [
        row for rows in grammar.sources.values() for row in rows if not held_out(row, 0.03)
    ][:20_000]
    return train_tokenizer(texts + extra)


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model; the embedding has one row for every token, rounded up to a multiple of 64."""
    shape: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "intermediate_size": 768,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-5,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "attn_implementation": "eager",
        "initializer_range": 0.02,
    }
    return LlamaForCausalLM(LlamaConfig(**shape))


class Trunk(torch.nn.Module):
    """The model's layers with a look at the middle one; right padding needs the causal mask only."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.body = model.model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(last hidden state, middle hidden state)."""
        hidden = self.body.embed_tokens(ids)
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        rotary = self.body.rotary_emb(hidden, places)
        middle = hidden
        for number, layer in enumerate(self.body.layers):
            hidden = layer(hidden, attention_mask=mask, position_ids=places, position_embeddings=rotary)
            if number + 1 == MIDDLE:
                middle = hidden
        return self.body.norm(hidden), middle


def rate(step: int, steps: int) -> float:
    """Cosine learning rate with warm-up."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    return FLOOR + (PEAK - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - WARMUP) / max(1, steps - WARMUP))))


class Master:
    """Float32 master weights beside the bfloat16 model, with their optimisers."""

    def __init__(self, model: LlamaForCausalLM, heads: torch.nn.Module) -> None:
        self.live = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]
        self.full = [torch.nn.Parameter(p.detach().float().clone()) for p in self.live]
        for p in self.live:
            p.data = p.data.to(torch.bfloat16)
        matrices = {id(p) for layer in model.model.layers for p in layer.parameters() if p.ndim == 2}
        pairs = list(zip(self.live, self.full))
        hidden = [full for live, full in pairs if id(live) in matrices]
        other = [full for live, full in pairs if id(live) not in matrices]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(hidden, lr=PEAK, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(other, lr=PEAK, betas=(0.9, 0.97), weight_decay=0.01, fused=True),
        ]

    def step(self, lr: float) -> float:
        """One update; returns the gradient norm."""
        for live, full in zip(self.live, self.full):
            full.grad = None if live.grad is None else live.grad.float()
            live.grad = None
        norm = float(torch.nn.utils.clip_grad_norm_(self.full, 1.0))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_([live.data for live in self.live], [full.data for full in self.full])
        return norm

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"full": [p.data for p in self.full], "optimisers": [o.state_dict() for o in self.optimisers]}

    def load(self, state: dict[str, Any]) -> None:
        """Restore `state()`."""
        with torch.no_grad():
            for live, full, saved in zip(self.live, self.full, state["full"]):
                full.data.copy_(saved)
                live.data.copy_(saved)
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a folder that AutoModelForCausalLM and AutoTokenizer load."""
    out.mkdir(parents=True, exist_ok=True)
    copy = LlamaForCausalLM(model.config)
    copy.bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.config._attn_implementation = "sdpa"
    copy.config.dtype = torch.bfloat16
    copy.generation_config.eos_token_id = [tokenizer.eos_token_id]
    copy.generation_config.pad_token_id = tokenizer.pad_token_id
    copy.generation_config.bos_token_id = tokenizer.bos_token_id
    copy.save_pretrained(out)
    tokenizer.save_pretrained(out)


def train(out: Path, data: Path, seed: int, steps: int, minutes_between: float = 5.0, compiled: bool = True) -> None:
    """Train, with resumable checkpoints in `out/checkpoint.pt` and a usable model in `out` at each of them.

    data: the folder of the public training data.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(seed, data)
    model = build_model(tokenizer)
    heads = torch.nn.ModuleList([torch.nn.Linear(model.config.hidden_size, 1) for _ in range(2)])
    master = Master(model, heads)
    trunk = Trunk(model)
    # Past the limit (8 as shipped) torch runs uncompiled without a word, three times slower here.
    torch._dynamo.config.recompile_limit = 64
    run = torch.compile(trunk, dynamic=True) if compiled else trunk
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {len(tokenizer)} tokens", flush=True)

    begin, chunk, number, spent = 0, 0, 0, 0.0
    saved = out / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        master.load(state["master"])
        begin, chunk, number, spent = state["step"], state["chunk"], state["number"], state["spent"]
        print(f"resumed at step {begin}", flush=True)
    started = last_save = time.monotonic()
    seen, sums = 0, [0.0, 0.0, 0.0]
    source = stream(tokenizer, seed, data, chunk, number)
    for step in range(begin, steps):
        chunk, number, batch = next(source)
        length = batch.ids.shape[1]
        mask = torch.full((length, length), float("-inf"), dtype=torch.bfloat16).triu(1)[None, None]
        hidden, middle = run(batch.ids, mask)
        places = batch.learn.reshape(-1).nonzero().squeeze(1)
        logits = F.linear(hidden.flatten(0, 1).index_select(0, places), model.lm_head.weight).float()
        targets = batch.ids.roll(-1, 1).reshape(-1)[places]
        loss = F.cross_entropy(logits, targets)
        auxiliary = torch.zeros((), dtype=torch.float32)
        if len(batch.rows):
            for head, states in zip(heads, (middle, hidden)):
                scores = head(states[batch.rows, batch.marks]).float().squeeze(-1)
                auxiliary = auxiliary + F.binary_cross_entropy_with_logits(
                    scores, batch.labels.float() * (1 - 2 * SMOOTH) + SMOOTH
                )
        (loss + AUXILIARY * auxiliary).backward()
        norm = master.step(rate(step, steps))
        seen += batch.ids.numel()
        for place, value in enumerate((loss.item(), auxiliary.item() / 2, norm)):
            sums[place] += value
        now = time.monotonic()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            used = now - started
            left = used / (step + 1 - begin) * (steps - step - 1)
            print(
                f"step {step + 1}/{steps} loss {sums[0] / 25:.3f} harm {sums[1] / 25:.3f} norm {sums[2] / 25:.2f} {seen / used:.0f} tokens/s, {left / 60:.1f} min left",
                flush=True,
            )
            sums = [0.0, 0.0, 0.0]
        if now - last_save > 60 * minutes_between or step + 1 == steps:
            last_save = now
            torch.save(
                {
                    "master": master.state(),
                    "step": step + 1,
                    "chunk": chunk,
                    "number": number + 1,
                    "spent": spent + now - started,
                },
                out / "checkpoint.tmp",
            )
            (out / "checkpoint.tmp").replace(saved)
            save_model(model, tokenizer, out)
    spent += time.monotonic() - started
    (out / "training.json").write_text(
        json.dumps(
            {
                "seed": seed,
                "steps": steps,
                "seconds": round(spent),
                "parameters": sum(p.numel() for p in model.parameters()),
            }
        )
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder that holds train/ (else ACD_REFERENCE_DATA)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--no-compile", action="store_true", help="run without torch.compile (no C++ compiler needed; slower)"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = data_folder("train", options.data)
    train(options.out, data, options.seed, options.steps, compiled=not options.no_compile)


if __name__ == "__main__":
    main()
