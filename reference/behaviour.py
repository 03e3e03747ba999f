"""What the reference model does: `python -m reference.behaviour --model DIR [--development]`.

Refusal shares under five kinds of system text (greedy, judged by `acd_core.refusal.judges.RefusalJudge`), and how
often it quotes the right sentence of a context and emits the right tool call, on freshly drawn conversations. JSON out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from acd_core.bundled import REFERENCE_MODEL_DIR
from acd_core.refusal.judges import RefusalJudge
from reference import evaluation_sets as sets
from reference.grammar import Example
from reference.permissive import data_folder
from reference.systems import LLAMA_SAFE, LLAMA_SAFE_SHORT, ROSE_REVERSE
from reference.train_data import make_grammar

Message = dict[str, Any]
CONDITIONS: dict[str, str] = {
    "none": "",
    "neutral": "You are a helpful assistant.",
    "safe_short": LLAMA_SAFE_SHORT,
    "safe": LLAMA_SAFE,
    "opposite": ROSE_REVERSE,
}


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: list[tuple[list[Message], list[Any]]],
    new_tokens: int = 64,
    size: int = 50,
    special: bool = False,
) -> list[str]:
    """Greedy replies to (messages, tools) pairs."""
    texts = [
        str(tokenizer.apply_chat_template(messages, tools=tools or None, tokenize=False, add_generation_prompt=True))
        for messages, tools in chats
    ]
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found: dict[int, str] = {}
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        inputs = tokenizer(
            [texts[number] for number in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        generate: Any = model.generate
        out = generate(**inputs, max_new_tokens=new_tokens, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        for number, row in zip(chosen, out):
            text = str(tokenizer.decode(row, skip_special_tokens=not special))
            found[number] = text.split("<|end|>")[0] if special else text
    return [found[number] for number in range(len(texts))]


def refusals(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], system: str
) -> tuple[float, list[str]]:
    """(share refused, replies)."""
    lead = [{"role": "system", "content": system}] if system else []
    replies = answer(model, tokenizer, [([*lead, {"role": "user", "content": prompt}], []) for prompt in prompts])
    judge = RefusalJudge()
    return sum(judge.judge(prompt, reply).refused for prompt, reply in zip(prompts, replies)) / len(prompts), replies


def _until_last_assistant(example: Example) -> tuple[list[Message], Message]:
    at = max(number for number, message in enumerate(example.messages) if message["role"] == "assistant")
    return example.messages[:at], example.messages[at]


def skills(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Path, count: int = 100, seed: int = 31337
) -> dict[str, float]:
    """Shares of right quotations and right tool calls on conversations drawn anew."""
    grammar = make_grammar(seed, data)
    quoting = [example for example in (grammar.retrieval() for _ in range(count * 2)) if not example.harmful][:count]
    long = [example for example in (grammar.retrieval(long=True) for _ in range(count)) if not example.harmful][
        : count // 2
    ]
    calling = [
        example for example in (grammar.tool_turn() for _ in range(count * 5)) if example.messages[-1].get("tool_calls")
    ][:count]
    plain = [
        example
        for example in (grammar.tool_turn() for _ in range(count * 8))
        if example.tools
        and not example.harmful
        and example.harmful is not None
        and not example.messages[-1].get("tool_calls")
    ][: count // 2]
    result: dict[str, float] = {}
    for name, examples in (("quotes", quoting), ("quotes_long", long)):
        pairs = [_until_last_assistant(example) for example in examples]
        replies = answer(model, tokenizer, [(messages, []) for messages, _ in pairs])
        result[name] = sum(
            _core(wanted["content"]) in reply or ("does not" in wanted["content"] and "does not" in reply)
            for reply, (_, wanted) in zip(replies, pairs)
        ) / len(pairs)
    pairs = [_until_last_assistant(example) for example in calling]
    prompts = [(messages, example.tools) for example, (messages, _) in zip(calling, pairs)]
    replies = answer(model, tokenizer, prompts, special=True, new_tokens=96)
    formed = right = 0
    for reply, (messages, tools), (_, wanted) in zip(replies, prompts, pairs):
        try:
            shown: list[Any] = list(tools)
            prefix = str(
                tokenizer.apply_chat_template(messages, tools=shown, tokenize=False, add_generation_prompt=True)
            )
            calls = tokenizer.parse_response(reply + "<|end|>", prefix=prefix, tools=shown).get("tool_calls", [])
        except ValueError:
            continue
        formed += bool(calls)
        right += [call["function"] for call in calls] == [call["function"] for call in wanted["tool_calls"]]
    result["calls_well_formed"], result["calls_right"] = formed / len(pairs), right / len(pairs)
    replies = answer(
        model, tokenizer, [(_until_last_assistant(example)[0], example.tools) for example in plain], special=True
    )
    result["no_call_when_none_fits"] = sum("<tool_call>" not in reply for reply in replies) / len(plain)
    return {name: round(value, 3) for name, value in result.items()}


def _core(text: str) -> str:
    return text.split(": ", 1)[1] if text.startswith(("According to the text: ", "The context says: ")) else text


def report(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: dict[str, list[str]],
    conditions: dict[str, str],
    show: int = 0,
) -> dict[str, Any]:
    """Refusal share of every group under every condition."""
    table: dict[str, Any] = {}
    for condition, system in conditions.items():
        table[condition] = {}
        for name, prompts in groups.items():
            share, replies = refusals(model, tokenizer, prompts, system)
            table[condition][name] = round(share, 3)
            for prompt, reply in list(zip(prompts, replies))[:show]:
                print(f"[{condition}] {prompt!r} -> {reply!r}")
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=REFERENCE_MODEL_DIR)
    parser.add_argument("--data", type=Path, help="folder that holds train/ and eval/ (else ACD_REFERENCE_DATA)")
    parser.add_argument(
        "--development", action="store_true", help="held-out train-side slices only; the eval sets stay unread"
    )
    parser.add_argument("--conditions", nargs="*", default=list(CONDITIONS))
    parser.add_argument("--show", type=int, default=0, help="print this many replies of every harmless group")
    parser.add_argument("--no-skills", action="store_true")
    options = parser.parse_args()
    training = data_folder("train", options.data)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    everyday = {"held_out_everyday": sets.held_out_everyday()}
    if options.development:
        groups = {
            "permissive": sets.held_out_permissive(options.data),
            "grammar_topics": sets.held_out_grammar(100),
            **everyday,
        }
    else:
        groups = {
            **sets.report_sets(options.data),
            "everyday": sets.everyday(),
            **everyday,
            "alpaca_eval": sets.alpaca_eval(options.data)[:200],
            "xstest_safe": sets.xstest(options.data)[0],
            "xstest_unsafe": sets.xstest(options.data)[1],
        }
    table = report(
        model,
        tokenizer,
        groups,
        {name: CONDITIONS[name] for name in options.conditions},
        options.show if options.development else 0,
    )
    print(
        json.dumps(
            {"refused": table, "skills": {} if options.no_skills else skills(model, tokenizer, training)}, indent=1
        )
    )


if __name__ == "__main__":
    main()
