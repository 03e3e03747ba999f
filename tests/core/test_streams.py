"""A method is any number of streams, a rule, a strength: each case beside its equation written out without a cache."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, LMSpec, Policy, PromptPair
from acd_core.engine import EngineOptions
from acd_core.errors import EngineError, ModelError, PolicyError, UsageError
from acd_core.identity import identity, reply_facts
from acd_core.methods import rules, table
from acd_core.methods.rules import Moment, Strength
from acd_core.methods.table import Learnt, Method, Slot, Stream, add_method
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import LayerReading, layer_names
from acd_core.model.interventions import Change, acting, by_rows
from acd_core.params import GenerationParams
from acd_core.reply import scoring
from tests.core.gated import ALWAYS, gate, open_lm
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

    add("fading", Stream(), Stream(FIRST), alpha=0.6, strength=Strength(fading, 0.0, 0.6, "fading"))
    add("adaptive-alpha", Stream(), Stream(FIRST), alpha=0.6, strength=Strength(where_they_part, 0.0, 0.999, "parted"))
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
        strength=Strength(lambda moment: moment.alpha if len(moment.said) % 2 else 0.1, 0.1, 0.5, "odd"),
    )
    with ContrastiveLM(backbone, PromptPair.from_texts(SECOND, FIRST)) as lm:
        for item in ASKED:
            reply = lm.generate(item, max_tokens=NEW, method="everything", logprobs=0)
            assert reply.logprobs is not None
            scored = lm.loglikelihood(item, list(reply.token_ids), method="everything")
            assert scored.is_greedy
            assert scored.logprobs == pytest.approx([each.logprob for each in reply.logprobs], abs=1e-4)


def test_a_rule_or_strength_that_fails_harms_no_other_request(add: Callable[..., Method]) -> None:
    model, tokenizer = family("llama")

    def failing(moment: Moment) -> float:
        if len(moment.said) == 3:
            raise ZeroDivisionError("no strength here")
        return 0.4

    def breaking(*_: torch.Tensor) -> torch.Tensor:
        raise ValueError("broken rule")

    add("failing", Stream(), Stream(FIRST), alpha=0.4, strength=Strength(failing, 0.0, 0.9, "failing"))
    add("odd-rule", Stream(), Stream(FIRST), alpha=0.4, rule=rules.Rule("odd", breaking))
    add("endless", Stream(), Stream(FIRST), alpha=0.4, strength=Strength(lambda _: math.nan, 0.0, 0.9, "nan"))
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        alone = lm.generate(ASKED[1], max_tokens=NEW, method="none").token_ids
        stream = lm.stream(ASKED[1], max_tokens=NEW, method="none")
        next(stream)
        for method, what in (("failing", "no strength here"), ("odd-rule", "broken rule"), ("endless", "nan")):
            with pytest.raises(EngineError, match=f"method '{method}' failed .*{what}"):
                lm.generate(ASKED[0], max_tokens=NEW, method=method)
        last = list(stream)[-1]
        assert last.generation.token_ids == alone
    assert lm.engine.active_rows == 0


def test_what_cannot_be_is_refused(add: Callable[..., Method]) -> None:
    model, tokenizer = family("llama")
    with pytest.raises(UsageError, match="3 streams; the rule 'intersect' joins 1 to 2"):
        Method("odd", (Stream(), Stream(), Stream()), "z", rule=rules.INTERSECT)
    two = (Stream(), Stream(FIRST))
    for wrong, what in (
        ({"alpha": 0.0}, "alpha 0.0 with 2 streams"),
        ({"alpha": -0.5}, "alpha -0.5"),
        ({"alpha": math.nan}, "alpha nan"),
        ({"alpha": 1.5}, "alpha 1.5"),
        ({"alpha": 0.4, "plausibility": 2.0}, "plausibility 2.0"),
        ({"alpha": 0.4, "contrast_tokens": 0}, "contrast_tokens 0"),
        ({"alpha": 0.4, "streams": (Stream(), Stream(weight=1.0), Stream(weight=-1.0))}, "sum above 0"),
        ({"alpha": 0.4, "streams": (Stream(), Stream(weight=math.nan))}, "weights"),
        ({"alpha": 0.4, "streams": (Stream(weight=2.0), Stream())}, "weights"),
        ({"streams": (Stream(),), "alpha": 0.4}, "alpha 0.4 with 1 streams"),
        ({"streams": (Stream(Slot.PAIR_ADVERSARIAL),)}, "is not guarded"),
    ):
        with pytest.raises(UsageError, match=what):
            Method("odd", **{"streams": two, "source": "z", **wrong})
    for bounds in ((0.5, 0.4), (-0.1, 0.4), (0.0, 1.0), (math.nan, 0.4)):
        with pytest.raises(UsageError, match="bounds"):
            Strength(lambda moment: moment.alpha, *bounds, "odd")
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


def test_one_prompt_under_two_interventions_is_scored_twice(add: Callable[..., Method]) -> None:
    """Neighbours of the same ids share one computation; under another intervention they are no neighbours."""
    backbone = Backbone.wrap(*family("llama"), "llama")
    case = scoring._Case
    with ContrastiveLM(backbone) as lm:
        made = []
        for name, under in (("first", steering(backbone, 0)), ("second", steering(backbone, 1))):
            add(name, Stream(under=(under,)))
            request = lm._planner.plan(ASKED[0], GenerationParams(max_tokens=3), name).make(None, print)
            made.append(case(request, tuple(lm.token_ids("the fox jumps"))))
        together = [found.logprob for _, found in lm._scorer._scored(iter(made), scoring._likelihood)]
        alone = [next(lm._scorer._scored(iter([one]), scoring._likelihood))[1].logprob for one in made]
    assert together == pytest.approx(alone, abs=1e-4)
    assert abs(alone[0] - alone[1]) > 0.1


def test_a_token_of_strength_zero_is_the_kept_streams_own(add: Callable[..., Method]) -> None:
    model, tokenizer = family("llama")
    never = Strength(lambda _: 0.0, 0.0, 0.5, "never")
    for rule in (rules.CONTRAST, rules.ADAPTIVE, rules.INTERSECT):
        add(f"never-{rule.name}", Stream(), Stream(FIRST), alpha=0.5, rule=rule, strength=never)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        for item in ASKED:
            plain = stock_greedy(model, list(lm.chat.layout(item).ids), NEW)
            for rule in rules.RULES:
                assert list(lm.generate(item, max_tokens=NEW, method=f"never-{rule}").token_ids) == plain


def test_an_operators_bounds_hold_for_what_a_strength_may_give(add: Callable[..., Method]) -> None:
    model, tokenizer = family("llama")
    pair = Stream(), Stream(FIRST)
    add("may-vanish", *pair, alpha=0.5, strength=Strength(lambda _: 0.0, 0.0, 0.5, "may vanish"))
    add("stays", *pair, alpha=0.5, strength=Strength(lambda _: 0.0, 0.3, 0.999, "stays"))
    with ContrastiveLM.from_model(model, tokenizer) as lm:

        def asked(method: str, policy: Policy, **settings: Any) -> Any:
            return lm.generate("hello", max_tokens=2, method=method, policy=policy, **settings)

        for policy in (Policy(min_alpha=0.3), Policy(min_contrast_tokens=2)):
            with pytest.raises(PolicyError):
                asked("may-vanish", policy)
            assert asked("stays", policy).report.contrasted_tokens == 2
        with pytest.raises(PolicyError):
            asked("stays", Policy(max_temperature=1.0), temperature=0.8, rescale=False)
        assert asked("stays", Policy(max_temperature=1.0), temperature=0.8).finish_reason == "length"


def test_another_method_of_the_same_name_has_another_identity(add: Callable[..., Method]) -> None:
    lm = ContrastiveLM.from_model(*family("llama"))
    seen = []
    for more in ({"alpha": 0.4}, {"alpha": 0.5}, {"alpha": 0.4, "plausibility": 0.1}):
        table._known.pop("mine", None)
        add("mine", Stream(), Stream(FIRST), **more)
        facts = reply_facts(identity(lm), GenerationParams(method="mine"))
        seen.append((str(facts), str(LMSpec(method="mine").identity())))
    assert len({one for one, _ in seen}) == len({two for _, two in seen}) == 3
    assert "own method" not in reply_facts(identity(lm), GenerationParams(method="rose"))
    lm.close()


def test_what_a_module_is_given_by_keyword_is_its_input() -> None:
    backbone = Backbone.wrap(*family("llama"), "llama")
    seen: list[tuple[int, ...]] = []

    class Reading(Steering):
        def changes(self, model: Any) -> Mapping[str, Change]:
            def read(given: torch.Tensor, output: torch.Tensor) -> None:
                seen.append((tuple(given.shape), given is output))

            return {"model.layers.0.self_attn": read, "model.layers.0.mlp.down_proj": read}

    ids = torch.tensor([[30, 31, 32]])
    with torch.inference_mode():
        backbone.forward(ids, interventions=[(Reading(1, ()), None)])
        width = backbone.model.config.intermediate_size
        assert seen == [((1, 3, backbone.embedding_width), False), ((1, 3, width), False)]
        with pytest.raises(ModelError, match=r"'model[.]no_such'"):
            backbone.forward(ids, interventions=[(_Elsewhere(1, ()), None)])


class _Elsewhere(Steering):
    def changes(self, model: Any) -> Mapping[str, Change]:
        return {"model.no_such": lambda _, output: output}


def test_readers_of_two_rows_stay_two() -> None:
    backbone = Backbone.wrap(*family("llama"), "llama")
    seen: dict[str, tuple[int, ...]] = {}
    first = LayerReading((1,), lambda _, out: seen.__setitem__("first", tuple(out.shape)))
    second = LayerReading((1,), lambda _, out: seen.__setitem__("second", tuple(out.shape)))
    with torch.inference_mode():
        backbone.forward(torch.ones(3, 4, dtype=torch.long), interventions=by_rows([[first], [second], [second]]))
    assert seen == {"first": (1, 4, 48), "second": (2, 4, 48)}


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_three_streams_under_a_gate_and_few_rows(rows: int, add: Callable[..., Method]) -> None:
    add("two-contrasts", Stream(), Stream(FIRST, weight=0.4), Stream(SECOND, weight=0.1), alpha=0.5)
    backbone = Backbone.wrap(*family("llama"), "llama")
    with ContrastiveLM(backbone) as lm:
        wanted = [reply.token_ids for reply in lm.generate(ASKED, max_tokens=NEW, method="two-contrasts")]
    with open_lm(found=gate(ALWAYS), options=EngineOptions(max_rows=rows)) as lm:
        found = lm.generate(ASKED, max_tokens=NEW, method="two-contrasts")
        assert [reply.token_ids for reply in found] == wanted
        assert all(reply.report.gate.opened_at == 0 for reply in found)
    assert lm.engine.active_rows == 0
