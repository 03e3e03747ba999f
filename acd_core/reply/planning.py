"""From a conversation and settings to a Plan: the branch of each stream, how strong, how long, what form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from acd_core.artifacts.gate import GateRules
from acd_core.artifacts.learnt import LearntForModel
from acd_core.artifacts.learnt_files import MAKE, NAMES, kind_of
from acd_core.artifacts.pair import PromptPair
from acd_core.artifacts.steering import AGREEING
from acd_core.chat import SOFT, Chat, Conversation, Layout, check_conversation, is_continued
from acd_core.chat.instruction_end import InstructionEnd
from acd_core.engine import Asked, Branch, Matcher, Request, TextStream, soft_branch
from acd_core.engine.branch import embedded
from acd_core.engine.request import Gating, Item
from acd_core.errors import ContextLengthError, UsageError
from acd_core.methods.sampling import Sampler
from acd_core.methods.table import Learnt, Method, Slot, Source, Stream, method_named
from acd_core.model.backbone import Backbone
from acd_core.model.interventions import ForRequest, Intervention, RequestRow
from acd_core.model.model_defaults import ModelDefaults
from acd_core.params import GenerationParams
from acd_core.reply.facts import own_tokens
from acd_core.reply.formats import Formats
from acd_core.reply.free_words import LONGEST_PROBE, MOST_TOKENS, NoSilence, thought_settings
from acd_core.reply.plan import Plan, demonstrated
from acd_core.reply.policy import Effective, Policy
from acd_core.reply.stance import refuses

DEFAULT_MAX_TOKENS = 1024
_DEFAULT_TEXT = 256  # tokens that a system text of a template's own may have
_CONTEXT_IDS = 8  # of a begun reply: SentencePiece tokenizers drop the space before the first token they decode


def runnable(
    name: str, pair: PromptPair | None, expert: LearntForModel | None, backbone: Backbone, *, allow_adversarial: bool
) -> Method:
    """The method called `name`, if this model, pair and expert can run it; else UsageError."""
    method = method_named(name, allow_adversarial=allow_adversarial)
    if method.needs_pair and pair is None:
        raise UsageError(
            f"The method {name!r} needs a prompt pair and none was given.",
            hint=f"acd tune --model {backbone.model_id} --out my-pair, then pair='my-pair'.",
        )
    if method.needs_expert and (expert is None or kind_of(expert) != method.expert_kind):
        given = "none was given" if expert is None else f"{NAMES[kind_of(expert)]} was given"
        raise UsageError(
            f"The method {name!r} needs {NAMES[method.expert_kind]} and {given}.",
            hint=MAKE[method.expert_kind].format(model=backbone.model_id),
        )
    checked = cast(set[str], backbone.attached.setdefault("checked interventions", set()))
    for intervention in (each for stream in method.streams for each in stream.under):
        if not isinstance(intervention, Learnt) and intervention.id not in checked:
            intervention.check(backbone)
            checked.add(intervention.id)
    return method


class Planner:
    """Plans replies of one model under one pair and expert. `decoder`: the tokenizer copy of the engine's thread."""

    def __init__(
        self,
        backbone: Backbone,
        chat: Chat,
        formats: Formats,
        decoder: Any,
        pair: PromptPair | None,
        expert: LearntForModel | None,
        *,
        alpha: float | None,
        gate: GateRules,
        defaults: ModelDefaults,
        deterministic: bool,
        allow_adversarial: bool,
    ) -> None:
        self._gate = gate
        self._defaults = defaults
        self._backbone = backbone
        self._chat = chat
        self._formats = formats
        self._decoder = decoder
        self._pair = pair
        self._expert = expert
        self._default_alpha = alpha
        self._own: dict[tuple[str, bool, bool], tuple[int, int]] = {}
        self._head: tuple[int, ...] | None = None
        self._end: InstructionEnd | None = None
        self._deterministic = deterministic
        self._allow_adversarial = allow_adversarial

    def alpha(self, method: Method, settings: GenerationParams) -> float:
        """The strength: per call, else the LM's own, else the pair's recommendation, else the method's default."""
        if not method.contrasts:
            return 0.0
        for value in (settings.contrast.alpha, self._default_alpha):
            if value is not None:
                return value
        return self._pair.alpha if method.needs_pair and self._pair is not None else method.alpha

    def head_and_window(self, method: Method, settings: GenerationParams) -> tuple[float, int | None]:
        """plausibility and contrast_tokens: per call, else the method's own where it has any, else the pair's
        recommendation where the method uses the pair."""
        asked, pair = settings.contrast, self._pair if method.needs_pair and method.contrasts else None
        plausibility, tokens = asked.plausibility, asked.contrast_tokens
        if plausibility is None:
            plausibility = method.plausibility or (pair.plausibility if pair is not None else 0.0)
        if tokens is None:
            tokens = method.contrast_tokens
            tokens = pair.contrast_tokens if tokens is None and pair is not None else tokens
        return plausibility, tokens

    def contrasts(self, method: Method, settings: GenerationParams | None = None) -> bool:
        """Whether a request with these settings has other streams under `method`; None: one that says nothing."""
        asked = settings or GenerationParams()
        return method.contrasts and self.alpha(method, asked) > 0.0 and self.head_and_window(method, asked)[1] != 0

    def gated(self, method: Method) -> bool:
        """Whether a gate decides over a request that says nothing of one."""
        return method.name != "none" and self._gate.of(GenerationParams().contrast) is not None

    def plan(
        self,
        conversation: Conversation,
        settings: GenerationParams,
        default_method: str,
        policies: Sequence[Policy] = (),
        *,
        space: str | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """How to make the reply, within all of `policies`. Raises before anything is queued: UsageError, PolicyError,
        TemplateError, ContextLengthError. deadline: of the whole reply, which takes two requests under a forced format;
        by time.monotonic's clock, from when the call began. space: who may find its keys and values again."""
        name = settings.method or default_method
        method = runnable(name, self._pair, self._expert, self._backbone, allow_adversarial=self._allow_adversarial)
        alpha, asked = self.alpha(method, settings), settings.contrast
        plausibility, contrast_tokens = self.head_and_window(method, settings)
        strength = alpha if self.contrasts(method, settings) else 0.0
        effective = Effective(name, default_method, strength, plausibility, contrast_tokens, strength)
        if strength > 0.0 and method.strength is not None:
            effective = replace(effective, alpha=method.strength.least, most_alpha=method.strength.most)
        conversation = check_conversation(conversation)
        for policy in policies:
            policy.check(settings, effective)
            conversation = policy.turns(conversation)
        self._chat.check_length(conversation, self._backbone.context_length)
        form, variables = self._formats.resolve(settings), settings.chat_template_kwargs
        messages = conversation
        if method.demonstration is not None:
            messages = demonstrated(messages, method.demonstration)
        layouts: dict[tuple[str | None, str | None, bool], Layout] = {}  # what is equal is rendered once

        def layout(turns: Conversation, text: str | None, wrap: str | None = None) -> Layout:
            key = (text, wrap, turns is conversation)
            if key not in layouts:
                layouts[key] = self._chat.layout(turns, text, form.tools, wrap, variables)
            return layouts[key]

        def branch(stream: Stream) -> Branch:
            prompt = self._prompt(stream.prompt)
            text = prompt if isinstance(prompt, str) or prompt is None else SOFT
            made = layout(messages, text, method.wrap_user)
            soft = prompt if isinstance(prompt, torch.Tensor) else None
            found = Branch(made.ids) if soft is None else soft_branch(made.before, soft, made.after)
            under = (self._intervention(each, found, bare) for each in stream.under)
            return replace(found, interventions=tuple(each for each in under if each is not None))

        def bare() -> tuple[int, ...]:
            """The conversation without any prompt of ours, up to where the reply begins."""
            if is_continued(conversation) and len(conversation) > 1:
                return self._chat.layout(conversation[:-1], None, form.tools, variables=variables).ids
            return layout(conversation, None).ids

        contrasts = self.contrasts(method, settings)
        streams = method.streams if contrasts else method.streams[:1]
        branches = tuple(branch(stream) for stream in streams)
        for each in branches:
            _ = each.under  # hashed here, and not on the engine's thread
        kept = branches[0]
        self._gate.check_method(method.name, default_method)
        floor = max((each.gate_floor for each in policies if each.gate_floor is not None), default=None)
        longest = min((each.max_recheck for each in policies if each.max_recheck is not None), default=None)
        # Nothing would take over from "none".
        opening = self._gate.of(asked, floor, longest) if method.name != "none" else None
        alone = Branch(layout(conversation, None).ids) if opening is not None else kept
        start = self._chat.turn_start(conversation, form.tools, alone.ids, variables) if opening is not None else 0
        continued = is_continued(messages)
        key = (name, contrasts, opening is not None)
        if key not in self._own:
            self._own[key] = own_tokens(self._chat, method, self._pair, contrasts=contrasts, gated=key[2])
        most, beside_system = self._own[key]
        max_tokens, room = self._room(
            settings,
            (alone, *branches),
            beside_system if any(each["role"] == "system" and each["content"] for each in messages) else most,
            lambda: len(layout(conversation, None)),
            LONGEST_PROBE if form.forced else 0,
        )
        prefix = layout(messages, None).text if form.needs_prefix else ""
        request = next((str(each["content"]) for each in reversed(messages) if each["role"] == "user"), "")
        begun = [each for each in kept.ids[-_CONTEXT_IDS:] if each >= 0] if continued else []
        begun_text = str(messages[-1]["content"]) if continued else ""
        device = self._backbone.device

        soft = layouts.get((SOFT, method.wrap_user, messages is conversation))
        wanted = Asked(
            branches if opening is None else (alone,),
            max_tokens,
            self._backbone.eos_ids,
            rule=method.rule,
            weights=tuple(stream.weight for stream in streams[1:]),
            alpha=alpha,
            strength=method.strength,
            rescale=asked.rescale,
            plausibility=plausibility,
            contrast_tokens=contrast_tokens,
            logprobs=settings.logprobs,
            deadline=deadline,
            alone=self._deterministic,
            method=method.name,
            space=space,
            bare_head=soft is not None and soft.before == self._bare_head,
        )

        def gating() -> Gating | None:
            if opening is None:
                return None
            return Gating(
                opening.gate,
                branches,
                threshold=opening.threshold,
                again=opening.again,
                header=self._chat.appended_header if opening.gate.reply is not None else (),
                every=opening.every,
                start=start,
                appended=continued,
                graded=asked.graded,
                context=self._backbone.context_length,
            )

        def make(matcher: Matcher | None, sink: Callable[[Item], None]) -> Request:
            free = form.forced and matcher is None
            hidden = form.free_hidden_ids if free else form.hidden_ids
            # A stop string inside a document would leave it broken: a forced format ends where the grammar says.
            # Nor may one end the free words before them, which are ours: half a refusal is none.
            stops = () if form.forced else (*settings.stop, *self._defaults.stop)
            return Request(
                wanted,
                sampler=Sampler(settings, self._backbone.device, self._defaults),
                sink=sink,
                text=TextStream(self._decoder, stops, hidden, begun),
                matcher=matcher,
                gating=gating(),
            )

        def speak(sink: Callable[[Item], None]) -> Request:
            # The words before a forced format are ours: no setting of the call makes them noise, cuts them short or
            # leaves them less contrasted than the method or the pair would. How strong the contrast is stays its own.
            own = self.head_and_window(method, GenerationParams())[1]
            silence = NoSilence(
                self._backbone.eos_ids,
                functools.partial(self._decoder.decode, skip_special_tokens=False),
                form.thought_marks,
                self._decoder.all_special_tokens,
                lambda: made.moved_tokens or 0,
            )
            defaults = replace(self._defaults, after=(*self._defaults.after, (True, silence)))
            free = replace(
                wanted,
                max_tokens=min(room, max_tokens + MOST_TOKENS if form.thought_marks else max(max_tokens, MOST_TOKENS)),
                contrast_tokens=None if own is None or contrast_tokens is None else max(own, contrast_tokens),
            )
            made = make(None, sink).asking(free)
            made.sampler = Sampler(GenerationParams(), device, defaults)
            return made

        draws_thoughts = form.forced and form.thought_marks and settings.temperature > 0.0
        return Plan(
            make=make,
            speak=speak if form.forced else None,
            reader=lambda said: form.reader(prefix + said, continued and not said),
            method=method.name,
            alpha=alpha,
            prompt_tokens=len(alone.visible),
            matcher=form.matcher,
            probes_refusal=form.forced,
            free_reader=lambda said: form.free_reader(prefix + said, continued and not said),
            refuses=lambda text: refuses(request, text, begun_text),
            decode=self._decoded,
            closing=form.closing,
            answer=form.answer,
            header=self._chat.appended_header if opening is not None else (),
            max_tokens=max_tokens,
            asked=request,
            thought_marks=form.thought_marks,
            thought_sampler=Sampler(thought_settings(settings), device, self._defaults) if draws_thoughts else None,
        )

    @property
    def _bare_head(self) -> tuple[int, ...]:
        """What stands in front of the slot where a user has said hardly anything."""
        if self._head is None:
            self._head = self._chat.layout("a", SOFT).before
        return self._head

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._chat.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _prompt(self, source: Source) -> str | torch.Tensor | None:
        if isinstance(source, str):
            return source
        if source is Slot.NOTHING:
            return None
        assert self._pair is not None
        return self._pair.safeguarding if source is Slot.PAIR_SAFE else self._pair.adversarial

    def _intervention(
        self, given: Learnt | Intervention, branch: Branch, bare: Callable[[], tuple[int, ...]]
    ) -> Intervention | None:
        """What acts on `branch` of this request. bare: makes the ids of the conversation without a prompt of ours."""
        found: Intervention
        if isinstance(given, Learnt):
            assert self._expert is not None
            found = self._expert
        else:
            found = given
        if not isinstance(found, ForRequest):
            return found
        asked, ends = bare(), self._ends
        row = RequestRow(
            lambda: embedded(self._backbone, branch)[None],
            ends.place(branch.ids),
            asked,
            ends.place(asked),
            self._chat.encode_text(AGREEING),
        )
        return found.for_request(self._backbone, row)

    @property
    def _ends(self) -> InstructionEnd:
        if self._end is None:
            self._end = InstructionEnd.of(self._chat)
        return self._end

    def _room(
        self,
        settings: GenerationParams,
        branches: tuple[Branch, ...],
        own: int,
        asked: Callable[[], int],
        words: int,
    ) -> tuple[int, int]:
        """How many new tokens the reply may have, and how many fit; raises ContextLengthError saying how long the
        prompt is and how much fits. words: of a forced format, how many must fit for the free words before it.

        own: the most that the method adds to a conversation of this kind, and what counts for all of them, so that what
        `ModelFacts.max_input_tokens` says is true to the token. asked: counts the tokens of the conversation without
        our prompts.
        """
        context, wanted = self._backbone.context_length, settings.max_tokens
        prompt = max(len(branch.ids) for branch in branches)
        free = context - prompt
        if own and free - own - _DEFAULT_TEXT < max(
            DEFAULT_MAX_TOKENS if wanted is None else wanted, words
        ):  # else it fits anyway
            free = min(free, context - own - asked())
        if wanted is None:
            wanted = min(DEFAULT_MAX_TOKENS, max(free, 1))
        needed = max(wanted, words)
        if free < needed:
            taken = asked()
            added = max(own, prompt - taken)
            raise ContextLengthError(
                f"The conversation takes {taken} tokens and the prompts of the method {added} more; with {needed} "
                f"new tokens that is {taken + added + needed}, but the model's context holds {context}.",
                hint=f"At most {max(context - added - needed, 0)} tokens of conversation fit: shorten it"
                + (
                    " or lower max_tokens."
                    if needed == wanted
                    else f". A forced format needs room for {words} free words before it, in which a model may refuse."
                ),
            )
        return wanted, free
