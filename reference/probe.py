"""How well the reference model tells harm: `python -m reference.probe --model DIR [--development]`.

A logistic regression on the hidden state of the last prompt token, fitted on train-side requests only. Needs
scikit-learn (a development extra). `--development` reports on held-out train-side slices and leaves the eval sets alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from acd_core.bundled import REFERENCE_MODEL_DIR
from reference import evaluation_sets as sets
from reference.permissive import data_folder
from reference.systems import LLAMA_SAFE_SHORT
from reference.train_data import make_grammar

Array = NDArray[np.float32]


@torch.inference_mode()
def features(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], system: str = "", size: int = 50
) -> Array:
    """Hidden states of the last prompt token, (prompts, layers + 1, hidden)."""
    lead = [{"role": "system", "content": system}] if system else []
    texts = [
        tokenizer.apply_chat_template(
            [*lead, {"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found: dict[int, Array] = {}
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        inputs = tokenizer(
            [str(texts[number]) for number in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        states = model(**inputs, output_hidden_states=True).hidden_states
        stacked = torch.stack([state[:, -1] for state in states], 1).float().numpy()
        found.update(zip(chosen, stacked))
    return np.stack([found[number] for number in range(len(texts))])


def training_requests(count: int, data: Path, seed: int = 99) -> tuple[list[str], list[str]]:
    """(harmful, harmless) train-side requests. data: the folder of the public training data."""
    grammar = make_grammar(seed, data)
    harmful = [text for text, _ in grammar.harmful_prompts] + [grammar.request(True).text for _ in range(count)]
    return harmful, [grammar.request(False).text for _ in range(count + len(grammar.harmful_prompts))]


def fitted(states: Array, harmful: int) -> Any:
    """A logistic regression on `states` (requests, hidden), of which the first `harmful` are of harmful requests."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.arange(len(states)) < harmful
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=300)).fit(states, labels.astype(int))


def report(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    harmful: dict[str, list[str]],
    harmless: dict[str, list[str]],
    contrast: tuple[list[str], list[str]] | None,
    data: Path,
    count: int = 2500,
    system: str = "",
) -> dict[str, Any]:
    """AUC of every harmful set against every harmless one, and the harmless rate at 3% and 5% over-refusal.

    For the last layer and the best one. data: the folder of the public training data, which the probe is fitted on.
    """
    from sklearn.metrics import roc_auc_score

    bad, good = training_requests(count, data)
    train_x = features(model, tokenizer, bad + good, system)
    hidden = {name: features(model, tokenizer, prompts, system) for name, prompts in {**harmful, **harmless}.items()}
    pair = tuple(features(model, tokenizer, prompts, system) for prompts in contrast) if contrast else None
    layers: dict[str, Any] = {}
    for layer in range(1, train_x.shape[1]):
        probe = fitted(train_x[:, layer], len(bad))
        score = {name: probe.decision_function(values[:, layer]) for name, values in hidden.items()}
        result: dict[str, Any] = {}
        for safe in harmless:
            result[safe] = {
                name: round(
                    float(
                        roc_auc_score([0] * len(score[safe]) + [1] * len(score[name]), np.r_[score[safe], score[name]])
                    ),
                    4,
                )
                for name in harmful
            }
            for share in (0.03, 0.05):
                cut = np.quantile(score[safe], 1 - share)
                result[safe][f"harmless_rate_at_{share:.2f}"] = round(
                    float(np.mean([np.mean(score[name] > cut) for name in harmful])), 4
                )
        if pair:
            low, high = (probe.decision_function(values[:, layer]) for values in pair)
            result["xstest_auc"] = round(float(roc_auc_score([0] * len(low) + [1] * len(high), np.r_[low, high])), 4)
        layers[str(layer)] = result
    last = str(train_x.shape[1] - 1)
    first = next(iter(harmless))
    best = max(layers, key=lambda layer: float(np.mean([layers[layer][first][name] for name in harmful])))
    return {"last_layer": layers[last], "best_layer": {"layer": int(best), **layers[best]}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=REFERENCE_MODEL_DIR)
    parser.add_argument("--data", type=Path, help="folder that holds train/ and eval/ (else ACD_REFERENCE_DATA)")
    parser.add_argument(
        "--development", action="store_true", help="held-out train-side slices only; the eval sets stay unread"
    )
    parser.add_argument(
        "--safe-prompt", action="store_true", help="probe under the short safe prompt instead of no system text"
    )
    options = parser.parse_args()
    training = data_folder("train", options.data)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if options.development:
        harmful = {"permissive": sets.held_out_permissive(options.data), "grammar_topics": sets.held_out_grammar()}
        harmless = {"held_out_everyday": sets.held_out_everyday()}
        contrast = None
    else:
        harmful = sets.report_sets(options.data)
        harmless = {
            "everyday": sets.everyday(),
            "held_out_everyday": sets.held_out_everyday(),
            "alpaca_eval": sets.alpaca_eval(options.data),
        }
        contrast = sets.xstest(options.data)
    system = LLAMA_SAFE_SHORT if options.safe_prompt else ""
    print(json.dumps(report(model, tokenizer, harmful, harmless, contrast, training, system=system), indent=1))


if __name__ == "__main__":
    main()
