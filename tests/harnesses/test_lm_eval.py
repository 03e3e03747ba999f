"""lm-evaluation-harness itself, offline, over our LM: its numbers are those of the joined distribution."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

lm_eval = pytest.importorskip("lm_eval", reason='needs the extra "lm-eval"')
import datasets  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from acd_core import ContrastiveLM, PromptPair  # noqa: E402
from acd_core.errors import ContextLengthError, UsageError  # noqa: E402
from acd_integrations.lm_eval import ContrastiveHarnessLM, ConversationText, conversation  # noqa: E402
from tests.core import tiny  # noqa: E402
from tests.harnesses.conftest import LURE, MakeLM  # noqa: E402

KEPT, OTHER = "Answer with the colour.", "Answer with a number."
COLOURS = [
    {"question": "What colour is fresh snow?", "choices": ["white", "green", "a dark red"], "answer": 0},
    {"question": "What colour is a ripe lemon?", "choices": ["blue", "yellow"], "answer": 1},
    {"question": "What colour is a clear sky?", "choices": ["brown", "blue", "pink"], "answer": 1},
]


def task(output_type: str, docs: Sequence[dict[str, Any]], **config: Any) -> dict[str, Any]:
    return {
        "task": f"offline_{output_type}",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(list(docs))},
        "test_split": "test",
        "output_type": output_type,
        **config,
    }


def colours(**config: Any) -> dict[str, Any]:
    fields = {"doc_to_text": "Q: {{question}}\nA:", "doc_to_choice": "choices", "doc_to_target": "answer"}
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    return task("multiple_choice", COLOURS, **fields, metric_list=metrics, **config)


def evaluate(model: Any, asked: dict[str, Any], **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    known = TaskManager(include_defaults=False)  # its own thousands of tasks take seconds to list
    found = lm_eval.simple_evaluate(
        model=model, tasks=[asked], task_manager=known, bootstrap_iters=0, verbosity="ERROR", **options
    )
    return found["results"][asked["task"]], found["samples"][asked["task"]]


@pytest.fixture(autouse=True)
def _no_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness lists the machine's drivers and packages in every result, by many subprocesses; all else is real."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def request(*arguments: Any) -> Instance:
    return Instance("loglikelihood", {}, arguments, 0)


@pytest.fixture(scope="module")
def lm() -> Iterator[ContrastiveLM]:
    model, tokenizer = tiny.family("qwen2")
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(KEPT, OTHER)) as made:
        yield made


def joined(
    lm: ContrastiveLM, prompts: Sequence[Sequence[int]], said: Sequence[int], alpha: float
) -> tuple[float, bool]:
    """The oracle: stock forwards over whole rows, joined by hand."""
    rows = []
    for prompt in prompts:
        with torch.no_grad():
            logits = lm.backbone.model(torch.tensor([[*prompt, *said]])).logits[0].float()
        rows.append(logits[len(prompt) - 1 : -1])
    scores = rows[0] if len(rows) == 1 else (rows[0] - alpha * rows[1]) / (1 - alpha)
    logs = scores.log_softmax(-1)[range(len(said)), list(said)]
    return float(logs.sum()), bool((scores.argmax(-1) == torch.tensor(said)).all())


@pytest.mark.parametrize("method", ["none", "acd"])
@pytest.mark.parametrize("templated", [False, True])
def test_the_harness_reports_the_likelihoods_of_the_joined_distribution(
    lm: ContrastiveLM, method: str, templated: bool
) -> None:
    result, samples = evaluate(
        ContrastiveHarnessLM(lm, method=method, alpha=0.3), colours(), apply_chat_template=templated
    )
    encode, right = lm.token_ids, 0
    for sample in samples:
        doc = sample["doc"]
        context = f"Q: {doc['question']}\nA:"
        expected = []
        for choice in doc["choices"]:
            if templated:
                prompts = [lm.chat.layout(context, prompt).ids for prompt in (KEPT, OTHER)]
                prompts = prompts if method == "acd" else [lm.chat.layout(context).ids]
                expected.append(joined(lm, prompts, encode(choice), 0.3))
            else:
                texts = [f"{prompt}\n\n{context}" for prompt in (KEPT, OTHER)] if method == "acd" else [context]
                expected.append(joined(lm, [encode(text) for text in texts], encode(" " + choice), 0.3))
        for (logprob, greedy), (oracle, oracle_greedy) in zip(sample["filtered_resps"], expected, strict=True):
            assert logprob == pytest.approx(oracle, abs=1e-3)
            assert greedy == oracle_greedy
        right += max(range(len(expected)), key=lambda at: expected[at][0]) == doc["answer"]
    assert result["acc,none"] == pytest.approx(right / len(COLOURS))


def test_few_shot_turns_and_a_begun_answer_reach_the_model_as_such(lm: ContrastiveLM) -> None:
    """The harness's own few-shot prompt, as turns, equals the conversation written by hand."""
    model = ContrastiveHarnessLM(lm)
    shots = [{"question": "What colour is coal?", "choices": ["black", "white"], "answer": 0}]
    config = {"samples": shots, "sampler": "first_n"}
    _, samples = evaluate(
        model,
        colours(fewshot_config=config, gen_prefix="It is"),
        num_fewshot=1,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        system_instruction="Be brief.",
    )
    context = samples[0]["arguments"][0][0]
    turns = json.loads(context)
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert turns[-1]["content"].strip() == "It is" and turns[-1].get("prefix", True)
    choice = COLOURS[0]["choices"][0]
    begun = [*turns[:-1], {"role": "assistant", "content": "It is"}]
    ids = lm.token_ids("It is " + choice)[len(lm.token_ids("It is")) :]
    prompts = [lm.chat.layout(begun, prompt).ids for prompt in (KEPT, OTHER)]
    assert samples[0]["filtered_resps"][0][0] == pytest.approx(joined(lm, prompts, ids, lm.pair.alpha)[0], abs=1e-3)


def test_generation_is_better_under_contrast_by_the_harness_s_own_count(make_lm: MakeLM) -> None:
    scripted = make_lm(lambda prompt: "snow" if "white" in prompt else "lemon\nQ: and")
    docs = [{"q": "Name something white.", "a": "snow"}, {"q": "Name something yellow.", "a": "lemon"}]
    asked = task(
        "generate_until",
        docs,
        doc_to_text="{{q}}",
        doc_to_target="{{a}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 24},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    for method, score in (("none", 0.0), ("acd", 1.0)):
        model = ContrastiveHarnessLM(scripted, method=method, alpha=0.5)
        result, samples = evaluate(model, asked, apply_chat_template=True)
        assert result["exact_match,none"] == score
        assert method == "acd" or [sample["resps"] for sample in samples] == [[[LURE]], [[LURE]]]


def test_every_token_of_a_long_text_is_scored_once(lm: ContrastiveLM) -> None:
    model = ContrastiveHarnessLM(lm)
    room = lm.max_input_tokens - lm.count_tokens([{"role": "text", "content": ""}])
    short, long = "the quick brown fox", "the quick brown fox jumps over a lazy dog. " * 40
    ids = lm.token_ids(long)
    assert room < len(ids) < 2 * room, "the text should need two windows"
    found = model.loglikelihood_rolling([request(short), request(long)], disable_tqdm=True)
    prompts = [list(lm.chat.layout([{"role": "text", "content": ""}], prompt).ids) for prompt in (KEPT, OTHER)]
    assert found[0] == pytest.approx(joined(lm, prompts, lm.token_ids(short), lm.pair.alpha)[0], abs=1e-3)
    first = joined(lm, prompts, ids[:room], lm.pair.alpha)[0]
    whole = joined(lm, prompts, ids[-room:], lm.pair.alpha)[0]
    seen_before = joined(lm, prompts, ids[-room:room], lm.pair.alpha)[0]
    assert found[1] == pytest.approx(first + whole - seen_before, abs=2e-2)


def test_a_text_out_of_nothing_follows_what_starts_a_text(lm: ContrastiveLM) -> None:
    """As the harness's own models have it: the first token is conditioned on the BOS, or else the EOS token."""
    plain = ContrastiveHarnessLM(lm, method="none")
    start = lm.backbone.tokenizer.bos_token_id
    expected = joined(lm, [[start]], lm.token_ids("a lazy dog"), 0.0)[0]
    assert plain.loglikelihood_rolling([request("a lazy dog")], disable_tqdm=True)[0] == pytest.approx(
        expected, abs=1e-3
    )
    assert plain.loglikelihood([request("", "a lazy dog")], disable_tqdm=True)[0][0] == pytest.approx(
        expected, abs=1e-3
    )


def test_perplexity_comes_out_of_the_harness(lm: ContrastiveLM) -> None:
    text = "a lazy dog answers questions"
    asked = task("loglikelihood_rolling", [{"text": text}], doc_to_text="", doc_to_target="text")
    asked["metric_list"] = [{"metric": "word_perplexity"}]
    model = ContrastiveHarnessLM(lm)
    total = model.loglikelihood_rolling([request(text)], disable_tqdm=True)[0]
    result, _ = evaluate(model, asked)
    assert result["word_perplexity,none"] == pytest.approx(math.exp(-total / len(text.split())), rel=1e-6)


@given(st.text(max_size=30), st.text(min_size=1, max_size=20))
def test_tokens_of_a_continued_text_are_those_of_the_whole(before: str, after: str) -> None:
    model = _plain()
    turns, said = model._pair(before, after)
    begun, encode = turns[-1]["content"], model.lm.token_ids
    ids = encode(said) if isinstance(said, str) else list(said)
    tokenizer = model.lm.backbone.tokenizer
    assert not begun.endswith(" ")
    assert tokenizer.decode([*encode(begun), *ids]) == tokenizer.decode(encode(before + after))


@given(
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()}), min_size=1),
    st.booleans(),
)
def test_turns_survive_the_harness_s_string(turns: list[dict[str, str]], new_turn: bool) -> None:
    text = _plain().apply_chat_template(turns, add_generation_prompt=new_turn)
    back = conversation(text)
    assert [{key: turn[key] for key in ("role", "content")} for turn in back] == turns
    asks_anew = back[-1]["role"] == "user" or back[-1].get("prefix") is False
    assert asks_anew is (new_turn or turns[-1]["role"] == "user")
    # A context that only looks like one of ours is a text.
    assert conversation(str.__str__(text) + "") == [{"role": "text", "content": str(text)}]


def test_settings_of_a_task_become_ours(lm: ContrastiveLM) -> None:
    model = ContrastiveHarnessLM(lm, alpha=0.2, max_gen_toks=17)
    greedy = model._settings({"until": ["\n", ""], "do_sample": False, "temperature": 0.7})
    assert (greedy.temperature, greedy.stop, greedy.max_tokens, greedy.contrast.alpha) == (0.0, ("\n",), 17, 0.2)
    drawn = model._settings({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 5})
    assert (drawn.temperature, drawn.top_p, drawn.max_tokens) == (0.7, 0.9, 5)
    with pytest.raises(UsageError, match="num_beams"):
        model._settings({"num_beams": 4})
    with pytest.raises(UsageError, match="alfa"):
        ContrastiveHarnessLM(lm, alfa=0.2)


def test_what_does_not_fit_is_said_and_not_cut(lm: ContrastiveLM) -> None:
    with pytest.raises(ContextLengthError, match="512"):
        ContrastiveHarnessLM(lm).loglikelihood([request("word " * 600, "end")], disable_tqdm=True)


def test_the_name_acd_is_known_to_the_harness() -> None:
    assert get_model("acd") is ContrastiveHarnessLM
    assert isinstance(_plain().apply_chat_template([{"role": "user", "content": "x"}]), ConversationText)


_made: list[ContrastiveHarnessLM] = []


def _plain() -> ContrastiveHarnessLM:
    """One LM for all examples of the properties: only its tokenizer is used."""
    if not _made:
        _made.append(ContrastiveHarnessLM(ContrastiveLM.from_model(*tiny.family("qwen2"))))
    return _made[0]
