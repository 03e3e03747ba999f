"""Steering: the equations by hand, where it acts, by request, alone as in a batch, in a folder that can be trusted."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, LMSpec, PromptPair
from acd_core.artifacts import learnt, steering
from acd_core.artifacts.learnt_files import kind_of, method_for
from acd_core.artifacts.steering import AddedVectors, Steering, transition_score
from acd_core.chat import Chat
from acd_core.chat.instruction_end import InstructionEnd
from acd_core.errors import ExpertError, ModelError, UsageError
from acd_core.methods import prompts
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import layer_names
from acd_core.model.interventions import RequestRow, acting, by_rows
from acd_core.spec import expert_key
from tests.core.test_experts import random_expert
from tests.core.test_methods import roomy
from tests.core.tiny import TEMPLATES, family, stock_greedy, tokenizer

NEW = 10
ASKED: list[Any] = [
    "hello world",
    [{"role": "user", "content": "the quick brown fox jumps over a lazy dog " * 3}],
    [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "safe systems"},
        {"role": "user", "content": "the fox"},
    ],
    [{"role": "user", "content": "user data?"}, {"role": "assistant", "content": "answer"}],
]
FAMILIES = ["llama", "gemma", "gpt2"]


def drawn(seed: int, *shape: int, size: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * size


def scans(backbone: Backbone, threshold: float = 0.0, **more: Any) -> Steering:
    width = backbone.embedding_width
    made: dict[str, Any] = {"strength": 2.0, "read": (1, 2), "transitions": drawn(1, 2, width), "threshold": threshold}
    return Steering(
        "scans", (1, 2), drawn(0, 2, width), **{**made, **more}, base_model=backbone.model_id,
        fingerprint=backbone.fingerprint,
    )  # fmt: skip


def alphasteer(backbone: Backbone, **more: Any) -> Steering:
    width = backbone.embedding_width
    made: dict[str, Any] = {"strength": 0.5, "readers": drawn(2, 2, width, size=0.2)}
    return Steering(
        "alphasteer", (1, 2), drawn(0, 2, width), **{**made, **more}, base_model=backbone.model_id,
        fingerprint=backbone.fingerprint,
    )  # fmt: skip


@pytest.fixture(params=FAMILIES)
def each(request: pytest.FixtureRequest) -> tuple[Any, Any, Backbone]:
    model, made = family(request.param)
    return model, made, Backbone.wrap(model, made, request.param)


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


# -- equations -----------------------------------------------------------------------------------------------------


def test_the_equations_by_hand() -> None:
    vectors = torch.tensor([[0.6, 0.8]])
    one = Steering("scans", (1,), vectors, 2.0, (1,), torch.tensor([[1.0, 0.0]]))
    assert one.added(0, torch.tensor([[5.0, 5.0]])).tolist() == pytest.approx([1.2, 1.6])
    other = Steering("alphasteer", (1,), vectors, 0.5, readers=torch.tensor([[2.0, -1.0]]))
    # w . h = 2 * 3 - 4 = 2, then 0.5 * 2 * r; and w . h = 0
    assert other.added(0, torch.tensor([[3.0, 4.0], [1.0, 2.0]])).flatten().tolist() == pytest.approx([0.6, 0.8, 0, 0])
    # the mean of cos 0.6 and cos -1
    over, reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, -1.0]])
    assert transition_score(over, reference) == pytest.approx(-0.2)
    assert transition_score(torch.zeros(1, 2), torch.ones(1, 2)) == 0.0
    assert math.isnan(transition_score(torch.tensor([[math.inf, 0.0]]), torch.ones(1, 2)))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_where_an_instruction_ends(name: str) -> None:
    made = tokenizer(name)
    made.chat_template = TEMPLATES[name]
    chat = Chat(made)
    end = InstructionEnd.of(chat)
    mark = {
        "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi": "<|end|>",
        "mistral": "[/INST]", "llama2": "[/INST]",
    }[name]  # fmt: skip
    for text in ("hello world", "x" + mark, "user data?\n"):
        ids = chat.layout(text).ids
        place = end.place(ids)
        assert place == len(ids) - 1
        assert str(made.decode(list(end.ids))).strip().startswith(mark)
        assert end.place((*ids, *chat.encode_text("Sure hello"))) == place
    assert end.place((1, 2, 3)) == 2


# -- where it acts -------------------------------------------------------------------------------------------------


def test_a_span_of_positions_and_rows_beside_it_bit_for_bit(each: tuple[Any, Any, Backbone]) -> None:
    model, _, backbone = each
    ids = torch.randint(20, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    vector = drawn(4, backbone.embedding_width)
    before = hooks(model)
    made = [AddedVectors.of(backbone, f"{span}", {1: vector}, span) for span in ((4, None), (0, 3))]
    with torch.inference_mode():
        plain = backbone.forward(ids, layers=(1, 2))
        mixed = backbone.forward(ids, interventions=by_rows([[made[0]], [], [made[1]]]), layers=(1, 2))
        again = backbone.forward(ids)
    assert torch.equal(mixed.states[1][0, :4], plain.states[1][0, :4])
    torch.testing.assert_close(mixed.states[1][0, 4:], plain.states[1][0, 4:] + vector)
    torch.testing.assert_close(mixed.states[1][2, :3], plain.states[1][2, :3] + vector)
    assert torch.equal(mixed.states[1][2, 3:], plain.states[1][2, 3:])
    for layer in (1, 2):
        assert torch.equal(mixed.states[layer][1], plain.states[layer][1])
    assert torch.equal(mixed.logits[1], plain.logits[1])
    assert torch.equal(again.logits, plain.logits)
    assert hooks(model) == before
    with pytest.raises(ModelError, match="given none"), acting(model, [(made[0], None)]):
        pass
    assert hooks(model) == before


def test_another_thread_may_meet_a_hook_that_is_half_registered() -> None:
    """torch enters a hook and only then that it wants keywords: a forward in between calls it without them."""
    backbone = Backbone.wrap(*family("llama"), "llama")
    made = AddedVectors.of(backbone, "one", {1: drawn(4, backbone.embedding_width)}, (0, None))
    (name,) = made.vectors
    layer, found = backbone.model.get_submodule(name), []
    with acting(backbone.model, [(made, None)], lambda: torch.arange(3)[None]):
        hook = list(layer._forward_hooks.values())[-1]
        states = torch.zeros(1, 3, backbone.embedding_width)
        thread = threading.Thread(target=lambda: found.append(hook(layer, (states,), states)))  # type: ignore[call-arg]
        thread.start()
        thread.join()
        assert not torch.equal(hook(layer, (states,), {}, states), states)  # type: ignore[call-arg, arg-type]
    assert found == [None]


def test_spans_count_what_a_cache_holds() -> None:
    from transformers import DynamicCache

    backbone = Backbone.wrap(*family("llama"), "llama")
    ids = torch.randint(20, 300, (1, 9), generator=torch.Generator().manual_seed(0))
    made = AddedVectors.of(backbone, "late", {1: drawn(4, backbone.embedding_width)}, (6, None))
    with torch.inference_mode():
        whole = backbone.forward(ids, interventions=[(made, None)]).logits[:, -1]
        cache = DynamicCache(config=backbone.model.config)
        for part in ids.split(4, dim=1):
            found = backbone.forward(part, cache=cache, interventions=[(made, None)]).logits[:, -1]
    torch.testing.assert_close(found, whole)


def test_alphasteer_reads_the_last_token_and_adds_at_all(each: tuple[Any, Any, Backbone]) -> None:
    """As the authors' layers do it: what the last token's state gives is added at every token of the prompt."""
    _, _, backbone = each
    made = alphasteer(backbone)
    ids = torch.randint(20, 300, (1, 9), generator=torch.Generator().manual_seed(0))
    row = RequestRow(lambda: backbone.embed(ids), 6, (1, 2), 1, (3,))
    with torch.inference_mode():
        plain = backbone.forward(ids, layers=(1,), only_layers=True).states[1]
        acts = made.for_request(backbone, row)
        found = backbone.forward(ids, layers=(1, 2), interventions=[(acts, None)])
        first = made.added(0, plain[0, -1])
    assert isinstance(acts, AddedVectors)
    assert acts.span == (0, 9)
    torch.testing.assert_close(found.states[1], plain + first)
    steered = found.states[2] - acts.vectors[layer_names(backbone.model, [2])[2]]
    torch.testing.assert_close(made.added(1, steered[0, -1]), acts.vectors[layer_names(backbone.model, [2])[2]])


# -- in replies ----------------------------------------------------------------------------------------------------


def written_out(lm: ContrastiveLM, item: Any, prompt: str | None, made: Steering) -> list[int]:
    """The reply without the engine: class and vectors from whole forwards, hooks of the test's own, no cache."""
    model, chat = lm.backbone.model, lm.chat
    ids = list(chat.layout(item, prompt).ids)
    begun = isinstance(item, list) and item[-1]["role"] == "assistant"
    bare = chat.layout(item[:-1] if begun else item).ids
    end = InstructionEnd.of(chat)
    names = layer_names(model, [1, 2])
    vectors: dict[str, torch.Tensor] = {}
    handles = []

    @torch.no_grad()
    def states(sequence: list[int]) -> dict[int, torch.Tensor]:
        return lm.backbone.forward(torch.tensor([sequence]), layers=(1, 2), only_layers=True).states

    start, stop = end.place(ids), None
    if made.kind == "scans":
        assert made.transitions is not None
        found = states([*bare, *chat.encode_text("Sure")])
        cosines = [
            torch.cosine_similarity(found[layer][0, end.place(bare)] - found[layer][0, -1], reference, dim=0)
            for layer, reference in zip((1, 2), made.transitions)
        ]
        sigma = -1.0 if float(sum(cosines)) / 2 < made.threshold else 1.0
        vectors = {names[layer]: sigma * made.strength * made.vectors[layer - 1] for layer in (1, 2)}
    else:
        assert made.readers is not None
        start, stop = 0, len(ids)

    def hook(name: str, at: int) -> Any:
        def added(_: Any, __: Any, output: Any) -> Any:
            whole = output[0] if isinstance(output, tuple) else output
            if made.readers is not None:  # the prompt comes first and whole
                last = whole[0, len(ids) - 1]
                vectors[name] = made.strength * (last @ made.readers[at]) * made.vectors[at]
            changed = whole.clone()
            changed[:, start:stop] += vectors[name]
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return added

    said: list[int] = []
    with torch.no_grad():
        for at, name in enumerate(names.values()):
            handles.append(model.get_submodule(name).register_forward_hook(hook(name, at)))
        try:
            while len(said) < NEW:
                token = int(model(torch.tensor([[*ids, *said]]), use_cache=False).logits[0, -1].argmax())
                if token in lm.backbone.eos_ids:
                    break
                said.append(token)
        finally:
            for handle in handles:
                handle.remove()
    return said


def median_threshold(backbone: Backbone) -> float:
    """A threshold with requests of ASKED on both sides of it."""
    chat = Chat(backbone.tokenizer)
    end = InstructionEnd.of(chat)
    made, found = scans(backbone), []
    with torch.inference_mode():
        for item in ASKED:
            begun = isinstance(item, list) and item[-1]["role"] == "assistant"
            ids = chat.layout(item[:-1] if begun else item).ids
            row = RequestRow(lambda: torch.zeros(0), 0, ids, end.place(ids), chat.encode_text("Sure"))
            found.append(made.score(backbone, row))
    ordered = sorted(found)
    return (ordered[1] + ordered[2]) / 2


@pytest.mark.parametrize("kind", ["scans", "safe-scans", "alphasteer"])
def test_a_reply_is_the_equation_alone_and_in_a_mixed_batch(kind: str) -> None:
    model, made = roomy()
    backbone = Backbone.wrap(model, made, "roomy")
    given = alphasteer(backbone) if kind == "alphasteer" else scans(backbone, median_threshold(backbone))
    prompt = prompts.SAFE_PROMPT if kind == "safe-scans" else None
    before = hooks(model)
    with ContrastiveLM(backbone, expert=given, method=kind) as lm:
        wanted = [written_out(lm, item, prompt, given) for item in ASKED]
        together = [list(reply.token_ids) for reply in lm.generate(ASKED, max_tokens=NEW)]
        alone = [list(lm.generate(item, max_tokens=NEW).token_ids) for item in ASKED]  # over known prefixes
        plain = [stock_greedy(model, list(lm.chat.layout(item, prompt).ids), NEW) for item in ASKED]
        assert together == wanted
        assert alone == wanted
        assert [list(reply.token_ids) for reply in lm.generate(ASKED[:3], max_tokens=NEW, method="none")] == [
            stock_greedy(model, list(lm.chat.layout(item).ids), NEW) for item in ASKED[:3]
        ]
        assert sum(one != other for one, other in zip(wanted, plain)) >= 3, "steering changes nothing"
        reply = lm.generate(ASKED[0], max_tokens=NEW, logprobs=0)
        assert reply.logprobs is not None
        scored = lm.loglikelihood(ASKED[0], list(reply.token_ids))
        assert scored.logprobs == pytest.approx([one.logprob for one in reply.logprobs], abs=1e-4)
    assert hooks(model) == before


def test_the_sign_follows_the_class_and_parts_the_caches() -> None:
    model, made = roomy()
    backbone = Backbone.wrap(model, made, "roomy")
    toward, away = scans(backbone, -1.5), scans(backbone, 1.5)
    with ContrastiveLM(backbone, expert=toward) as one, ContrastiveLM(backbone, expert=away) as two:
        assert one.engine is two.engine
        replies = {}
        for name, lm in (("toward", one), ("away", two), ("toward again", one), ("away again", two)):
            replies[name] = lm.generate(ASKED[1], max_tokens=NEW, namespace="shared").token_ids
        assert replies["toward"] == replies["toward again"] == tuple(written_out(one, ASKED[1], None, toward))
        assert replies["away"] == replies["away again"] == tuple(written_out(two, ASKED[1], None, away))
        assert replies["toward"] != replies["away"]
    row = RequestRow(lambda: torch.zeros(0), 3, (5, 6, 7, 8), 3, (9,))
    up, down, later = (
        given.for_request(backbone, place)
        for given, place in ((toward, row), (away, row), (toward, dataclasses.replace(row, start=4)))
    )
    assert len({up.id, down.id, later.id}) == 3
    for name, vector in up.vectors.items():  # type: ignore[attr-defined]
        assert torch.equal(vector, -down.vectors[name])  # type: ignore[attr-defined]


def test_a_class_that_cannot_be_read_is_harmful(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.wrap(*family("llama"), "llama")
    given = scans(backbone, 1.5)
    monkeypatch.setattr(steering, "transition_score", lambda *_: math.nan)
    acts = given.for_request(backbone, RequestRow(lambda: torch.zeros(0), 1, (5, 6), 1, (9,)))
    vectors = acts.vectors  # type: ignore[attr-defined]
    torch.testing.assert_close(next(iter(vectors.values())), given.strength * given.vectors[0])
    broken = RequestRow(lambda: torch.full((1, 3, backbone.embedding_width), math.nan), 1, (5, 6), 1, (9,))
    with pytest.raises(ExpertError, match="not finite"):
        alphasteer(backbone).for_request(backbone, broken)


def test_steering_behind_a_soft_prompt_and_a_rule() -> None:
    """A stream of one's own: soft vectors and steering, against the plain conversation."""
    from acd_core.methods import table
    from acd_core.methods.table import Learnt, Method, Slot, Stream, add_method

    backbone = Backbone.wrap(*roomy(), "roomy")
    pair = PromptPair.from_tensors(*(drawn(n, n, backbone.embedding_width) for n in (5, 6)), backbone=backbone)
    add_method(
        Method("soft-steered", (Stream(Slot.PAIR_SAFE, under=(Learnt.EXPERT,)), Stream()), "z of a test's own",
               alpha=0.3, expert_kind="alphasteer")
    )  # fmt: skip
    try:
        with ContrastiveLM(backbone, pair, expert=alphasteer(backbone), method="soft-steered") as lm:
            together = lm.generate(ASKED, max_tokens=NEW)
            assert [lm.generate(item, max_tokens=NEW).token_ids for item in ASKED] == [
                each.token_ids for each in together
            ]
            other = lm.generate(ASKED[0], max_tokens=NEW, method="sp-null", alpha=0.3).token_ids
            assert other != together[0].token_ids
    finally:
        del table._known["soft-steered"]


# -- how it is given -----------------------------------------------------------------------------------------------


def test_a_folder_is_saved_loaded_and_checked(tmp_path: Path) -> None:
    backbone = Backbone.wrap(*roomy(), "roomy")
    for made in (scans(backbone, 0.25, metrics={"auc": 0.9}), alphasteer(backbone)):
        folder = made.save(tmp_path / made.kind)
        found = learnt.load(folder)
        assert isinstance(found, Steering)
        assert found.id == made.id
        assert (found.kind, found.layers, found.threshold) == (made.kind, made.layers, made.threshold)
        assert found.metrics == made.metrics
        assert found.digest == learnt.digest(folder) is not None
        assert kind_of(folder) == kind_of(found) == made.kind
        assert method_for(None, str(folder)) == method_for(None, found) == made.kind
        assert LMSpec(expert=str(folder)).method_name == made.kind
        assert expert_key(found) == made.id
        loaded = LMSpec(expert=folder).with_artifacts().expert
        assert isinstance(loaded, Steering)
        with ContrastiveLM(backbone, expert=folder) as lm:
            assert lm.method == made.kind
            assert lm.generate("hello", max_tokens=4).report.method == made.kind
        with pytest.raises(ExpertError, match="made for 'roomy'"):
            ContrastiveLM(Backbone.wrap(*family("llama"), "other"), expert=folder)
    assert method_for(None, None) == "none"
    assert method_for("a pair", str(tmp_path / "scans")) == "acd"
    again = scans(backbone, 0.5).save(tmp_path / "scans")
    assert Steering.load(again).threshold == 0.5
    random_expert(backbone, ("q_proj",)).save(tmp_path / "lora")
    assert (kind_of(tmp_path / "lora"), kind_of("nowhere")) == ("lora", "lora")
    assert learnt.digest(tmp_path / "lora")
    with pytest.raises(ExpertError, match=r"holds 'steering.json'"):
        random_expert(backbone, ("q_proj",)).save(tmp_path / "scans")
    shutil.copy(tmp_path / "lora" / "adapter_config.json", tmp_path / "scans")
    with pytest.raises(ExpertError, match="a LoRA adapter"):
        learnt.load(tmp_path / "scans")
    with pytest.raises(ExpertError, match="There is no expert"):
        learnt.load(tmp_path / "nowhere")


def test_what_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    backbone = Backbone.wrap(*family("llama"), "llama")
    width = backbone.embedding_width
    good: dict[str, Any] = {"kind": "scans", "layers": (1,), "vectors": torch.zeros(1, width), "strength": 1.0,
                            "read": (1,), "transitions": torch.zeros(1, width)}  # fmt: skip
    for wrong, what in (
        ({"kind": "other"}, "the kind 'other'"),
        ({"strength": 0.0}, "strength 0.0"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"layers": (0,)}, "layers \\[0\\]"),
        ({"layers": (1, 2)}, "shape"),
        ({"transitions": None}, "not the tensors of scans"),
        ({"readers": torch.zeros(1, width)}, "not the tensors of scans"),
        ({"vectors": torch.full((1, width), math.inf)}, "not finite"),
    ):
        with pytest.raises(ExpertError, match=what):
            Steering(**{**good, **wrong})
    with pytest.raises(ExpertError, match="reach layer 99"):
        dataclasses.replace(scans(backbone), layers=(1, 99), fingerprint=None).check(backbone)
    with pytest.raises(ExpertError, match="beyond what float32"):
        dataclasses.replace(scans(backbone), strength=3e38).check(backbone)

    folder = scans(backbone).save(tmp_path / "s")
    main, text = folder / "steering.json", (folder / "steering.json").read_text()
    for name, value in (("format_version", 99), ("layers", "1"), ("strength", "1"), ("metrics", [])):
        main.write_text(json.dumps({**json.loads(text), name: value}))
        with pytest.raises(ExpertError, match=name.replace("_", " ")):
            Steering.load(folder)
    main.write_text(json.dumps({**json.loads(text), "kind": "alphasteer"}))
    with pytest.raises(ExpertError, match="not the tensors"):
        Steering.load(folder)
    main.write_text(text)
    weights = folder / "steering.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ExpertError, match="is not the one"):
        Steering.load(folder)
    assert learnt.digest(folder) is None
    weights.unlink()
    with pytest.raises(ExpertError, match="lacks"):
        Steering.load(folder)
    main.write_text('{"mine": 1}')
    with pytest.raises(ExpertError, match="not ours"):
        steering.FOLDER.check_target(folder)


def test_a_method_says_what_kind_it_needs() -> None:
    backbone = Backbone.wrap(*roomy(), "roomy")
    for method, given, what in (
        ("scans", None, "needs SCANS' steering and none was given"),
        ("scans", random_expert(backbone, ("q_proj",)), "needs SCANS' steering and a LoRA adapter was given"),
        ("scans", alphasteer(backbone), "needs SCANS' steering and AlphaSteer's steering was given"),
        ("alphasteer", scans(backbone), "needs AlphaSteer's steering and SCANS' steering was given"),
        ("safedecoding", scans(backbone), "needs a LoRA adapter and SCANS' steering was given"),
    ):
        with pytest.raises(UsageError, match=what):
            ContrastiveLM(backbone, expert=given, method=method)
