"""A LoRA expert: PEFT's own figures, its own rows only, nothing left on the model, and a folder that can be trusted."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM
from acd_core.artifacts.lora import Expert, linear_size
from acd_core.engine import Asked, Branch, EngineOptions, Request, TextStream
from acd_core.engine.choosing import constrain, join
from acd_core.errors import ExpertError, UsageError
from acd_core.methods import rules
from acd_core.methods.sampling import Sampler
from acd_core.model.backbone import Backbone
from acd_core.params import GenerationParams
from tests.core.tiny import applied, family, stock_greedy

ASKED = [
    "hello world",
    [{"role": "user", "content": "the quick brown fox jumps over a lazy dog " * 3}],
    [{"role": "system", "content": "answer about data"}, {"role": "user", "content": "user data?"}],
]
NEW = 12
TARGETS = {"llama": ("q_proj", "v_proj"), "gpt-neox": ("query_key_value",), "gpt2": ("c_attn",), "phi3": ("qkv_proj",)}


def random_expert(backbone: Backbone, ends: tuple[str, ...], seed: int = 0, size: float = 0.3) -> Expert:
    """An expert of rank 4 whose changes are large enough to change every reply."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, module in backbone.model.named_modules():
        found = linear_size(module)
        if found is not None and name.rpartition(".")[2] in ends:
            down, up = (torch.randn(shape, generator=generator) * size for shape in ((4, found[0]), (found[1], 4)))
            weights[name] = (down, up)
    return Expert(weights, 4, 8.0, base_model=backbone.model_id, fingerprint=backbone.fingerprint)


def merged(model: Any, expert: Expert) -> Any:
    """A copy of the model with the expert added into its weights: what the hooks must amount to."""
    import copy

    twin = copy.deepcopy(model)
    modules = dict(twin.named_modules())
    with torch.no_grad():
        for name, (down, up) in expert.weights.items():
            delta = up @ down * expert.scale
            weight = modules[name].weight
            weight += delta if weight.shape == delta.shape else delta.T
    return twin


@pytest.fixture(params=sorted(TARGETS))
def each(request: pytest.FixtureRequest) -> tuple[Any, Any, Backbone, Expert]:
    model, tokenizer = family(request.param)
    backbone = Backbone.wrap(model, tokenizer, request.param)
    return model, tokenizer, backbone, random_expert(backbone, TARGETS[request.param])


def test_rows_under_an_expert_are_those_of_the_merged_model(each: tuple[Any, Any, Backbone, Expert]) -> None:
    model, _, backbone, first = each
    second = random_expert(backbone, tuple({name.rpartition(".")[2] for name in first.weights}), seed=1)
    ids = torch.randint(20, 300, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = model(ids).logits
        with applied(model, [None, first, second, first]) as any_row:
            mixed = model(ids).logits
        assert any_row
        after = model(ids).logits
        wanted = [model(ids).logits[0], *(merged(model, one)(ids).logits[i] for i, one in ((1, first), (2, second)))]
    for row in range(3):
        torch.testing.assert_close(mixed[row], wanted[row], atol=2e-4, rtol=1e-4)
    assert torch.equal(after, plain)
    assert not torch.allclose(mixed[1:], plain[1:], atol=1e-2)


def test_other_threads_use_the_model_as_it_is(each: tuple[Any, Any, Backbone, Expert]) -> None:
    model, _, _, expert = each
    ids = torch.tensor([[30, 31, 32]])
    found: list[torch.Tensor] = []

    def elsewhere() -> None:
        with torch.inference_mode():
            found.append(model(ids).logits)

    with torch.inference_mode():
        plain = model(ids).logits
        with applied(model, [expert]):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
    assert torch.equal(found[0], plain)


def test_no_hook_stays_not_even_after_an_error(each: tuple[Any, Any, Backbone, Expert]) -> None:
    model, _, _, expert = each

    def hooks() -> int:  # transformers leaves some of its own where hidden states were asked for before
        return sum(len(module._forward_hooks) for module in model.modules())

    before = hooks()

    def fail() -> None:
        with applied(model, [expert]):
            assert hooks() > before
            model(torch.tensor([[10**6]]))  # no such token

    with pytest.raises(IndexError):
        fail()
    assert hooks() == before
    with applied(model, [None, None]) as any_row:
        assert not any_row
        assert hooks() == before


def two_models(base: Any, expert: Any, ids: list[int], first: int, ends: frozenset[int]) -> list[int]:
    """SafeDecoding written out: two models without a cache, the rule on the first tokens, then the base alone."""
    reply: list[int] = []
    alpha, rescale = torch.tensor([[0.75]]), torch.tensor([[True]])
    with torch.no_grad():
        while len(reply) < NEW:
            now = torch.tensor([[*ids, *reply]])
            scores = base(now, use_cache=False).logits[:, -1].float()
            if len(reply) < first:
                scores = rules.intersect(scores, expert(now, use_cache=False).logits[:, -1].float(), alpha, rescale)
            token = int(scores.argmax())
            if token in ends:
                break
            reply.append(token)
    return reply


def test_safedecoding_is_two_models_then_one(each: tuple[Any, Any, Backbone, Expert]) -> None:
    model, tokenizer, _, expert = each
    twin = merged(model, expert)
    differ = 0
    with ContrastiveLM.from_model(model, tokenizer, expert=expert) as lm:
        assert lm.method == "safedecoding"
        replies = lm.generate(ASKED, max_tokens=NEW)
        again = [lm.generate(item, max_tokens=NEW) for item in ASKED]  # now with known prefixes
        for item, reply, repeated in zip(ASKED, replies, again):
            ids = list(lm.chat.layout(item).ids)
            assert list(reply.token_ids) == two_models(model, twin, ids, 2, lm.backbone.eos_ids)
            assert repeated.token_ids == reply.token_ids
            assert reply.report.contrasted_tokens == min(2, len(reply.token_ids) + 1)
            differ += list(reply.token_ids) != stock_greedy(model, ids, NEW)
        longer = lm.generate(ASKED[0], max_tokens=NEW, contrast_tokens=6)
        ids = list(lm.chat.layout(ASKED[0]).ids)
        assert list(longer.token_ids) == two_models(model, twin, ids, 6, lm.backbone.eos_ids)
        off = lm.generate(ASKED[0], max_tokens=NEW, alpha=0.0)
        assert list(off.token_ids) == stock_greedy(model, ids, NEW)
    assert differ, "the expert changes nothing: the identity would be vacuous"


def test_two_experts_and_other_methods_share_one_engine_and_stay_apart() -> None:
    model, tokenizer = family("llama")
    backbone = Backbone.wrap(model, tokenizer, "llama")
    experts = [random_expert(backbone, TARGETS["llama"], seed) for seed in (0, 1)]
    with ContrastiveLM(backbone, expert=experts[0]) as first, ContrastiveLM(backbone, expert=experts[1]) as second:
        assert first.engine is second.engine
        settings: list[tuple[ContrastiveLM, dict[str, Any]]] = [
            (lm, chosen | {"max_tokens": NEW})
            for lm in (first, second)
            for chosen in ({"contrast_tokens": 8}, {"method": "adacd"}, {"method": "self-cd"}, {"method": "none"})
        ]
        alone = [lm.generate(ASKED[0], **chosen).token_ids for lm, chosen in settings]
        together: list[tuple[int, ...]] = [()] * len(settings)

        def ask(place: int) -> None:
            lm, chosen = settings[place]
            together[place] = lm.generate(ASKED[0], **chosen).token_ids

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(settings))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == alone
    assert alone[0] != alone[4], "two experts, one reply"
    assert alone[1:4] == alone[5:]


def test_decoding_at_fixed_shapes_gives_way_to_expert_rows() -> None:
    model, tokenizer = family("llama")
    replies = []
    for decode in ("eager", "static"):
        backbone = Backbone.wrap(model, tokenizer, "llama")
        expert = random_expert(backbone, TARGETS["llama"])
        with ContrastiveLM(backbone, expert=expert, options=EngineOptions(decode=decode)) as lm:  # type: ignore[arg-type]
            replies.append([reply.token_ids for reply in lm.generate(ASKED, max_tokens=NEW, contrast_tokens=5)])
    assert replies[0] == replies[1]


def test_log_likelihoods_run_under_the_expert_too() -> None:
    model, tokenizer = family("llama")
    backbone = Backbone.wrap(model, tokenizer, "llama")
    with ContrastiveLM(backbone, expert=random_expert(backbone, TARGETS["llama"])) as lm:
        reply = lm.generate(ASKED[0], max_tokens=NEW, logprobs=0)
        found = lm.loglikelihood(ASKED[0], reply.token_ids)
        assert reply.logprobs is not None
        assert found.logprobs == pytest.approx([each.logprob for each in reply.logprobs], abs=2e-4)
        assert found.is_greedy


class _Only:
    """A grammar that takes only some tokens."""

    finished = False

    def __init__(self, *tokens: int) -> None:
        self.tokens = list(tokens)

    def mask(self, scores: torch.Tensor) -> torch.Tensor:
        kept = torch.full_like(scores, -torch.inf)
        kept[self.tokens] = scores[self.tokens]
        return kept

    def consume(self, token_id: int) -> None: ...


@pytest.mark.parametrize(("grammar", "left"), [((0, 6), [0]), ((5, 6), [5, 6])])
def test_a_grammar_that_takes_no_common_token_is_filled_by_the_model_alone(
    grammar: tuple[int, ...], left: list[int]
) -> None:
    kept = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0]])
    request = Request(
        Asked((Branch((1,)), Branch((1,))), 4, frozenset(), rule=rules.INTERSECT, alpha=0.75, contrast_tokens=1),
        sampler=Sampler(GenerationParams(), torch.device("cpu")),
        sink=lambda _: None,
        text=TextStream(None),
        matcher=_Only(*grammar),
    )
    scores = constrain(request, join([request], kept, [[kept[0]]])[0], kept[0])
    assert (scores > -torch.inf).nonzero()[:, 0].tolist() == left
    if left == [5, 6]:
        assert scores[left].tolist() == kept[0, left].tolist()


def test_without_an_expert_the_method_says_how_to_make_one() -> None:
    model, tokenizer = family("llama")
    with pytest.raises(UsageError, match="acd expert --model tiny"):
        ContrastiveLM(Backbone.wrap(model, tokenizer, "tiny"), method="safedecoding")


# -- the folder --


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Any, Expert, Path]:
    model, tokenizer = family("llama")
    backbone = Backbone.wrap(model, tokenizer, "llama")
    expert = random_expert(backbone, TARGETS["llama"])
    return model, tokenizer, expert, expert.save(tmp_path / "expert")


def test_saved_and_loaded_it_is_the_same(saved: tuple[Any, Any, Expert, Path]) -> None:
    model, tokenizer, expert, folder = saved
    loaded = Expert.load(folder)
    assert (loaded.id, loaded.scale, loaded.fingerprint) == (expert.id, expert.scale, expert.fingerprint)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["expert"]
    with ContrastiveLM.from_model(model, tokenizer, expert=folder) as lm:
        assert lm.expert is not None
        assert lm.expert.id == expert.id
    expert.save(folder)  # an adapter that is there is replaced
    assert Expert.load(folder).id == expert.id


def test_it_opens_in_peft(saved: tuple[Any, Any, Expert, Path]) -> None:
    peft = pytest.importorskip("peft")
    import copy

    model, _, expert, folder = saved
    ids = torch.tensor([[30, 31, 32, 33]])
    with torch.inference_mode():
        with applied(model, [expert]):
            ours = model(ids).logits
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(folder))(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_an_adapter_that_peft_made_is_an_expert(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import copy

    model, tokenizer = family("llama")
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["k_proj", "o_proj"], use_rslora=True, bias="none")
    other = peft.get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    other.eval().save_pretrained(tmp_path / "theirs")
    expert = Expert.load(tmp_path / "theirs")
    expert.check(Backbone.wrap(model, tokenizer, "llama"))
    ids = torch.tensor([[30, 31, 32, 33]])
    with torch.inference_mode():
        with applied(model, [expert]):
            ours = model(ids).logits
        torch.testing.assert_close(ours, other(ids).logits, atol=1e-4, rtol=1e-4)


def test_it_is_refused_by_another_model(saved: tuple[Any, Any, Expert, Path]) -> None:
    folder = saved[3]
    model, tokenizer = family("qwen2")
    with pytest.raises(ExpertError, match="was made for 'llama'"):
        ContrastiveLM.from_model(model, tokenizer, expert=folder)
    (folder / "expert.json").unlink()  # an adapter of unknown origin is held to its shapes
    model, tokenizer = family("gpt2")
    with pytest.raises(ExpertError, match="no linear module"):
        ContrastiveLM.from_model(model, tokenizer, expert=folder)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("adapter_config.json", None, "no adapter_config.json"),
        ("adapter_config.json", b"{", "cannot be read"),
        ("adapter_config.json", {"peft_type": "PROMPT_TUNING"}, "only plain LoRA"),
        ("adapter_config.json", {"use_dora": True}, "use_dora True"),
        ("adapter_config.json", {"r": 8}, "rank 8"),
        ("adapter_model.safetensors", None, "lacks adapter_model.safetensors"),
        ("adapter_model.safetensors", b"short", "damaged"),
        ("expert.json", {"format_version": 99}, "format version 99"),
    ],
)
def test_a_folder_that_cannot_be_trusted(
    saved: tuple[Any, Any, Expert, Path], file: str, content: Any, said: str
) -> None:
    path = saved[3] / file
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    with pytest.raises(ExpertError, match=said):
        Expert.load(saved[3])


def test_nothing_else_is_overwritten(saved: tuple[Any, Any, Expert, Path], tmp_path: Path) -> None:
    expert = saved[2]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(ExpertError, match="not an adapter"):
        expert.save(tmp_path / "notes")
    assert (tmp_path / "notes" / "diary.txt").read_text() == "mine"
