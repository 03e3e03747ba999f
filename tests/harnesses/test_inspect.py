"""Inspect itself, offline, over our provider."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

inspect_ai = pytest.importorskip("inspect_ai", reason='needs the extra "inspect"')
from inspect_ai import Task  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.log import EvalLog  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    ResponseSchema,
    get_model,
)
from inspect_ai.scorer import includes  # noqa: E402
from inspect_ai.solver import generate, use_tools  # noqa: E402
from inspect_ai.tool import Tool, ToolFunction, ToolInfo, ToolParams, tool  # noqa: E402
from inspect_ai.util import json_schema  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from acd_core import ContrastiveLM  # noqa: E402
from acd_core.errors import UsageError  # noqa: E402
from acd_integrations.inspect_ai import ContrastiveAPI  # noqa: E402
from tests.harnesses.conftest import LURE, MakeLM  # noqa: E402
from tests.langchain.standard_script import call, turns  # noqa: E402


@tool
def add() -> Tool:
    async def execute(a: int, b: int) -> str:
        """Add two numbers.

        Args:
            a: The first number.
            b: The second number.
        """
        return str(a + b)

    return execute


ADD = ToolInfo(
    name="add",
    description="Add two numbers.",
    parameters=ToolParams(properties={"a": {"type": "integer"}, "b": {"type": "integer"}}, required=["a", "b"]),
)


def model_over(lm: ContrastiveLM, **settings: Any) -> Model:
    return get_model("acd/scripted", memoize=False, lm=lm, **{"alpha": 0.5, **settings})


def run(task: Task, model: Model, folder: Path, **options: Any) -> EvalLog:
    log = inspect_ai.eval(task, model=model, log_dir=str(folder), display="none", **options)[0]
    assert log.status == "success", log.error
    return log


def accuracy(log: EvalLog) -> float:
    assert log.results is not None
    return float(log.results.scores[0].metrics["accuracy"].value)


def test_the_entry_point_leads_here() -> None:
    assert ("acd", "acd_integrations.inspect_ai") in {(p.name, p.value) for p in entry_points(group="inspect_ai")}
    api = get_model("acd/reference", memoize=False).api
    assert isinstance(api, ContrastiveAPI) and api._lm is None  # nothing is loaded before it is asked


def test_an_evaluation_scores_higher_under_contrast(make_lm: MakeLM, tmp_path: Path) -> None:
    lm = make_lm(lambda prompt: "snow" if "white" in prompt else "lemon")
    asked = [("Name something white.", "snow"), ("Name something yellow.", "lemon")]
    task = Task(
        dataset=[Sample(input=question, target=answer) for question, answer in asked],
        solver=[generate()],
        scorer=includes(),
    )
    assert accuracy(run(task, model_over(lm, method="none"), tmp_path)) == 0.0
    contrasted = run(task, model_over(lm), tmp_path)
    assert accuracy(contrasted) == 1.0
    output = contrasted.samples[0].output
    assert output.metadata["acd"]["method"] == "acd" and output.metadata["acd"]["alpha"] == 0.5
    assert output.usage.total_tokens == lm.count_tokens("Name something white.".join(["", ""])) or output.usage
    assert contrasted.stats.model_usage["acd/scripted"].output_tokens > 0


def test_samples_share_forward_passes(make_lm: MakeLM, tmp_path: Path) -> None:
    """Eight samples at once take fewer forwards than eight replies have tokens: the engine joins them."""
    lm = make_lm("a reply of some length", step_s=0.01)
    task = Task(dataset=[Sample(input=f"Question {n}", target="a") for n in range(8)], solver=[generate()])
    log = run(task, model_over(lm), tmp_path)
    said = sum(sample.output.usage.output_tokens for sample in log.samples)
    assert said == 8 * len(lm.token_ids("a reply of some length"))
    assert lm.backbone.model.forwards < said / 2


def test_inspect_runs_the_tool_the_model_calls(make_lm: MakeLM, tmp_path: Path) -> None:
    def answer(prompt: str) -> str:
        role, text = turns(prompt)[-1]
        return f"The sum is {text}." if role == "tool" else call("add", {"a": 2, "b": 3})

    task = Task(
        dataset=[Sample(input="What is 2 + 3?", target="The sum is 5.")],
        solver=[use_tools(add()), generate()],
        scorer=includes(),
    )
    log = run(task, model_over(make_lm(answer)), tmp_path)
    assert accuracy(log) == 1.0
    assert [message.role for message in log.samples[0].messages] == ["user", "assistant", "tool", "assistant"]


async def test_a_forced_tool_is_called(make_lm: MakeLM) -> None:
    model = model_over(make_lm("I would rather talk."))
    output = await model.generate("What is 2 + 3?", tools=[ADD], tool_choice=ToolFunction("add"))
    assert output.stop_reason == "tool_calls"
    assert [made.function for made in output.message.tool_calls] == ["add"]
    assert set(output.message.tool_calls[0].arguments) == {"a", "b"}


async def test_the_generate_config_is_obeyed(make_lm: MakeLM) -> None:
    model = model_over(make_lm("one two three four"))

    async def ask(**config: Any) -> Any:
        return await model.generate("Count.", config=GenerateConfig(**config))

    assert (await ask(stop_seqs=[" three"])).completion == "one two"
    cut = await ask(max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    marked = (await ask(logprobs=True, top_logprobs=2)).choices[0].logprobs.content
    assert "".join(mark.token for mark in marked) == "one two three four"
    assert all(len(mark.top_logprobs) == 2 and mark.logprob <= 0.0 for mark in marked)
    several = await ask(num_choices=3, temperature=1.0, seed=4)
    assert len(several.choices) == 3
    assert several.usage.output_tokens >= 3
    assert (await ask(extra_body={"acd": {"method": "none"}})).completion == LURE
    with pytest.raises(UsageError, match="alfa"):
        await ask(extra_body={"acd": {"alfa": 1}})
    with pytest.raises(UsageError, match="frequency_penalty"):
        await ask(frequency_penalty=0.5)
    assert (await ask(frequency_penalty=0.0)).completion == "one two three four"


async def test_choices_with_a_seed_differ_and_come_again(make_lm: MakeLM) -> None:
    model = model_over(make_lm("one two three four"))
    config = GenerateConfig(num_choices=4, temperature=30.0, seed=1, max_tokens=6)
    first, again = [await model.generate("Count.", config=config) for _ in range(2)]
    texts = [choice.message.text for choice in first.choices]
    assert texts == [choice.message.text for choice in again.choices]
    assert len(set(texts)) > 1


async def test_a_schema_is_enforced(make_lm: MakeLM) -> None:
    class Fruit(BaseModel):
        name: str

    schema = ResponseSchema(name="fruit", json_schema=json_schema(Fruit))
    output = await model_over(make_lm("no JSON here")).generate(
        "Name one.", config=GenerateConfig(response_schema=schema)
    )
    Fruit.model_validate_json(output.completion)


async def test_what_does_not_fit_ends_as_inspect_has_it(make_lm: MakeLM) -> None:
    model = model_over(make_lm("short", max_positions=256))
    assert (await model.generate("word " * 300)).stop_reason == "model_length"


async def test_conversations_arrive_whole(make_lm: MakeLM) -> None:
    lm = make_lm("fine")
    await model_over(lm).generate(
        [
            ChatMessageSystem(content="Be brief."),
            ChatMessageUser(content=[ContentText(text="Hello"), ContentText(text=" you")]),
            ChatMessageAssistant(content="Hi."),
            ChatMessageUser(content=""),
        ]
    )
    kept = next(prompt for prompt in lm.backbone.model.prompts if "ADVERSARIAL" not in prompt)
    roles, texts = zip(*turns(kept))
    assert roles == ("system", "user", "assistant", "user")
    assert texts[0].endswith("Be brief.") and texts[2:] == ("Hi.", "") and "Hello" in texts[1]
    image = ChatMessageUser(content=[ContentImage(image="data:image/png;base64,")])
    with pytest.raises(UsageError, match="image"):
        await model_over(lm).generate([image])


def test_a_name_is_a_pair_unless_a_pair_is_given() -> None:
    assert (ContrastiveAPI("my-pair")._spec.pair, ContrastiveAPI("my-pair")._model) == ("my-pair", None)
    given = ContrastiveAPI("org/model", pair=None, method="rose")
    assert (given._spec.pair, given._model) == (None, "org/model")
    with pytest.raises(UsageError, match="alfa"):
        ContrastiveAPI("my-pair", alfa=1)


def test_the_bundled_pair_loads_its_model() -> None:
    api = ContrastiveAPI("reference", max_tokens=4)
    try:
        lm = api.load()
        assert lm.model_id == "reference" and lm.method == "acd" and lm is api.load()
    finally:
        api.close()
