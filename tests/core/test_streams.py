"""A method is any number of streams, a rule, a strength: each case beside its equation written out without a cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.errors import EngineError, ModelError, UsageError
from acd_core.methods import rules, table
from acd_core.methods.rules import Moment
from acd_core.methods.table import Learnt, Method, Slot, Stream, add_method
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import layer_names
from acd_core.model.interventions import Change, acting, by_rows
from tests.core.test_experts import TARGETS, merged, random_expert
from tests.core.tiny import family, stock_greedy

NEW = 12
FAMILIES = ["llama", "gemma", "gpt2"]
FIRST, SECOND = "the lazy dog jumps over user data", "answer about the fox"
ASKED = ["hello world", [{"role": "user", "content": "the quick brown fox jumps over a lazy dog " * 3}], "user data?"]


@dataclass(frozen=True)
class Steering:
    """A vector added to the output of one layer: what steering methods do to the residual stream."""

    layer: int
    vector: tuple[float, ...]

    @property
    def id(self) -> str:
        return f"steering {self.layer} {hash(self.vector)}"

    def check(self, backbone: Backbone) -> None:
        layer_names(backbone.model, [self.layer])

    def changes(self, model: Any) -> Mapping[str, Change]:
        return {layer_names(model, [self.layer])[self.layer]: lambda _, out: out + torch.tensor(self.vector).to(out)}

    def always(self, model: Any) -> Any:
        """A copy of `model` that is steered in every forward, by a hook of its own."""
        twin = copy.deepcopy(model)
        (name,) = layer_names(twin, [self.layer]).values()
        vector = torch.tensor(self.vector)
        twin.get_submodule(name).register_forward_hook(
            lambda _, __, out: (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector
        )
        return twin


def steering(backbone: Backbone, seed: int = 0, size: float = 2.0) -> Steering:
    drawn = torch.randn(backbone.embedding_width, generator=torch.Generator().manual_seed(seed)) * size
    return Steering(2, tuple(drawn.tolist()))


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Method]]:
    """Methods of a test's own, gone after it."""
    before = dict(table._known)
    yield lambda name, *streams, **more: add_method(Method(name, streams, "z of a test's own", **more))
    table._known.clear()
    table._known.update(before)


@pytest.fixture(params=FAMILIES)
def each(request: pytest.FixtureRequest) -> tuple[Any, Any, Backbone]:
    model, tokenizer = family(request.param)
    return model, tokenizer, Backbone.wrap(model, tokenizer, request.param)


def written_out(
    streams: Sequence[tuple[Any, Sequence[int]]],
    join: Callable[[list[torch.Tensor], list[int]], torch.Tensor],
    ends: frozenset[int],
) -> list[int]:
    """(model, prompt ids) of each stream, every token from forwards of its own without a cache."""
    said: list[int] = []
    with torch.no_grad():
        while len(said) < NEW:
            rows = [
                model(torch.tensor([[*ids, *said]]), use_cache=False).logits[0, -1].float() for model, ids in streams
            ]
            token = int(join(rows, said).argmax())
            if token in ends:
                break
            said.append(token)
    return said


def held_to(lm: ContrastiveLM, method: str, wanted: Sequence[list[int]], **settings: Any) -> None:
    """Together, one by one, and over known prefixes."""
    together = lm.generate(ASKED, max_tokens=NEW, method=method, **settings)
    alone = [lm.generate(item, max_tokens=NEW, method=method, **settings) for item in ASKED]
    for at, reply in enumerate(wanted):
        assert list(together[at].token_ids) == reply
        assert list(alone[at].token_ids) == reply
    assert len({token for reply in wanted for token in reply}) >= 8, "the model echoes: the identity would be vacuous"


def test_two_contrasts_at_once(each: tuple[Any, Any, Backbone], add: Callable[..., Method]) -> None:
    model, _, backbone = each
    add("two-contrasts", Stream(), Stream(FIRST, weight=0.4), Stream(SECOND, weight=0.1), alpha=0.5)
    with ContrastiveLM(backbone) as lm:
        ids = [[lm.chat.layout(item, text).ids for text in (None, FIRST, SECOND)] for item in ASKED]
        wanted = [
            written_out(
                [(model, each) for each in three],
                lambda rows, _: (rows[0] - 0.4 * rows[1] - 0.1 * rows[2]) / 0.5,
                lm.backbone.eos_ids,
            )
            for three in ids
        ]
        held_to(lm, "two-contrasts", wanted)
        assert lm.engine.counters.most_rows == 9
        plain = [stock_greedy(model, list(three[0]), NEW) for three in ids]
        assert wanted != plain
        held_to(lm, "two-contrasts", plain, alpha=0.0)


def test_a_strength_of_each_token(each: tuple[Any, Any, Backbone], add: Callable[..., Method]) -> None:
    model, _, backbone = each

    def fading(moment: Moment) -> float:
        return moment.alpha / (1 + len(moment.said))

    def where_they_part(moment: Moment) -> torch.Tensor:
        return rules.divergence(moment.kept[None], moment.others[0][None])[0]

    add("fading", Stream(), Stream(FIRST), alpha=0.6, strength=fading)
    add("adaptive-alpha", Stream(), Stream(FIRST), alpha=0.6, strength=where_they_part)
    with ContrastiveLM(backbone) as lm:
        ids = [[lm.chat.layout(item, text).ids for text in (None, FIRST)] for item in ASKED]

        def reference(alpha: Callable[[list[torch.Tensor], list[int]], float]) -> list[list[int]]:
            def join(rows: list[torch.Tensor], said: list[int]) -> torch.Tensor:
                return rows[0] - alpha(rows, said) * rows[1]

            return [written_out([(model, one) for one in two], join, lm.backbone.eos_ids) for two in ids]

        parted = reference(lambda rows, _: 0.5 * float((rows[0].softmax(-1) - rows[1].softmax(-1)).abs().sum()))
        faded = reference(lambda _, said: 0.6 / (1 + len(said)))
        constant = reference(lambda *_: 0.6)
        held_to(lm, "fading", faded)
        held_to(lm, "adaptive-alpha", parted)
        assert len({str(faded), str(parted), str(constant)}) == 3


def test_an_adapter_on_the_kept_stream_without_a_contrast(
    each: tuple[Any, Any, Backbone], add: Callable[..., Method]
) -> None:
    model, _, backbone = each
    expert = random_expert(backbone, TARGETS.get(backbone.model_id, TARGETS["llama"]))
    add("adapter-alone", Stream(under=(Learnt.EXPERT,)))
    with ContrastiveLM(backbone, expert=expert) as lm:
        twin = merged(model, expert)
        wanted = [stock_greedy(twin, list(lm.chat.layout(item).ids), NEW) for item in ASKED]
        held_to(lm, "adapter-alone", wanted)
        assert lm.generate("hello", max_tokens=4, method="adapter-alone").report.contrasted_tokens == 0
        plain = [stock_greedy(model, list(lm.chat.layout(item).ids), NEW) for item in ASKED]
        held_to(lm, "none", plain)  # over prefixes of the same ids that were computed under the adapter
        assert plain != wanted


def test_steering_acts_on_its_stream_only(each: tuple[Any, Any, Backbone], add: Callable[..., Method]) -> None:
    model, _, backbone = each
    vector = steering(backbone)
    twin = vector.always(model)
    add("steered", Stream(under=(vector,)))
    add("against-steered", Stream(), Stream(under=(vector,)), alpha=0.5)
    with ContrastiveLM(backbone) as lm:
        ids = [list(lm.chat.layout(item).ids) for item in ASKED]
        wanted = [stock_greedy(twin, each, NEW) for each in ids]
        held_to(lm, "steered", wanted)
        against = [
            written_out([(model, each), (twin, each)], lambda rows, _: rows[0] - 0.5 * rows[1], lm.backbone.eos_ids)
            for each in ids
        ]
        held_to(lm, "against-steered", against)
        held_to(lm, "none", [stock_greedy(model, each, NEW) for each in ids])
        assert len({str(wanted), str(against), str([stock_greedy(model, each, NEW) for each in ids])}) == 3


def test_rows_beside_a_steered_one_are_untouched_bit_for_bit(each: tuple[Any, Any, Backbone]) -> None:
    model, _, backbone = each
    vector, ids = steering(backbone), torch.randint(20, 300, (4, 9), generator=torch.Generator().manual_seed(0))
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with torch.inference_mode():
        plain = backbone.forward(ids).logits
        mixed = backbone.forward(ids, interventions=by_rows([[], [vector], [], [vector]])).logits
        whole = backbone.forward(ids, interventions=[(vector, None)]).logits
        assert torch.equal(backbone.forward(ids).logits, plain)
    assert torch.equal(mixed[[0, 2]], plain[[0, 2]])
    assert torch.equal(mixed[[1, 3]], whole[[1, 3]])
    torch.testing.assert_close(whole, vector.always(model)(ids).logits)
    assert not torch.allclose(whole, plain, atol=1e-2)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_interventions_on_one_row_act_in_order(each: tuple[Any, Any, Backbone]) -> None:
    model, _, backbone = each
    expert = random_expert(backbone, TARGETS.get(backbone.model_id, TARGETS["llama"]))
    vector, ids = steering(backbone), torch.randint(20, 300, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = backbone.forward(ids, interventions=by_rows([[expert, vector], [vector], [expert]])).logits
        wanted = (vector.always(merged(model, expert)), vector.always(model), merged(model, expert))
        for row, twin in enumerate(wanted):
            torch.testing.assert_close(found[row], twin(ids).logits[row], atol=2e-4, rtol=1e-4)


def test_a_read_layer_is_read_behind_the_interventions(each: tuple[Any, Any, Backbone]) -> None:
    _, _, backbone = each
    vector, ids = steering(backbone), torch.randint(20, 300, (2, 5), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain = backbone.forward(ids, layers=(2,), only_layers=True)
        found = backbone.forward(ids, layers=(2,), interventions=by_rows([[vector], []]))
    assert plain.logits is None
    torch.testing.assert_close(found.states[2][0], plain.states[2][0] + torch.tensor(vector.vector))
    assert torch.equal(found.states[2][1], plain.states[2][1])


def test_the_scorer_means_what_the_engine_does(add: Callable[..., Method]) -> None:
    model, tokenizer = family("llama")
    backbone = Backbone.wrap(model, tokenizer, "llama")
    vector = steering(backbone)
    add(
        "everything",
        Stream(under=(vector,)),
        Stream(FIRST, weight=2.0),
        Stream(Slot.PAIR_ADVERSARIAL, under=(vector,)),
        alpha=0.5,
        strength=lambda moment: moment.alpha if len(moment.said) % 2 else 0.1,
    )
    with ContrastiveLM(backbone, PromptPair.from_texts(SECOND, FIRST)) as lm:
        for item in ASKED:
            reply = lm.generate(item, max_tokens=NEW, method="everything", logprobs=0)
            assert reply.logprobs is not None
            scored = lm.loglikelihood(item, list(reply.token_ids), method="everything")
            assert scored.is_greedy
            assert scored.logprobs == pytest.approx([each.logprob for each in reply.logprobs], abs=1e-4)


def test_a_strength_that_fails_harms_no_other_request(add: Callable[..., Method]) -> None:
    model, tokenizer = family("llama")

    def failing(moment: Moment) -> float:
        if len(moment.said) == 3:
            raise ZeroDivisionError("no strength here")
        return 0.4

    add("failing", Stream(), Stream(FIRST), alpha=0.4, strength=failing)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        alone = lm.generate(ASKED[1], max_tokens=NEW, method="none").token_ids
        stream = lm.stream(ASKED[1], max_tokens=NEW, method="none")
        next(stream)
        with pytest.raises((EngineError, ZeroDivisionError), match="no strength here"):
            lm.generate(ASKED[0], max_tokens=NEW, method="failing")
        last = list(stream)[-1]
        assert last.generation.token_ids == alone
    assert lm.engine.active_rows == 0


def test_what_cannot_be_is_refused(add: Callable[..., Method]) -> None:
    model, tokenizer = family("llama")
    with pytest.raises(UsageError, match="3 streams; the rule 'intersect' joins 1 to 2"):
        Method("odd", (Stream(), Stream(), Stream()), "z", rule=rules.INTERSECT)
    with pytest.raises(UsageError, match="a method 'acd' already"):
        add("acd", Stream())
    backbone = Backbone.wrap(model, tokenizer, "llama")
    add("too-deep", Stream(under=(Steering(99, steering(backbone).vector),)))
    with pytest.raises(ModelError, match="99"), ContrastiveLM(backbone) as lm:
        lm.generate("hello", method="too-deep")


def test_no_hook_outlives_a_forward_that_fails(each: tuple[Any, Any, Backbone]) -> None:
    model, _, backbone = each
    before = sum(len(module._forward_hooks) for module in model.modules())
    with pytest.raises(IndexError), acting(model, [(steering(backbone), None)]):
        model(torch.tensor([[10**6]]))  # no such token
    assert sum(len(module._forward_hooks) for module in model.modules()) == before
