"""One tokenizer's chat template: what it can do, asked once by rendering, and renderings that lose and forge nothing.

A template may refuse a conversation, leave out a part of it in silence, or build a control token out of harmless
pieces of text; a normaliser may make one out of other letters. So renderings are compared with others of the same
shape: one of marks shows what was left out, and one whose texts stand apart shows which control tokens, as ids, are the
template's own.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from acd_core.chat.control_tokens import (
    ControlTokens,
    Ids,
    composed_tokens,
    join_outside_runs,
    marks_from_escapes,
    strings_in,
    strip_marks,
)
from acd_core.chat.conversation import OURS as OURS_KEY
from acd_core.chat.conversation import (
    Message,
    Tools,
    Turns,
    Way,
    is_continued,
    join_texts,
    merge_roles,
    user_first,
    ways,
)
from acd_core.chat.encoding import END, SLOT, Encoded, Encoder
from acd_core.chat.probes import A_CALL, PLACES, PROBE_TOOL, ToolPlace, conversation_of_marks, shape_of
from acd_core.errors import TemplateError
from acd_core.locks import lazy

_KEPT = 1024


class Rendering(NamedTuple):
    """What a template wrote, marks in it, and its ids: all control tokens in them are the template's own."""

    text: str
    encoded: Encoded


class ChatTemplate:
    """Renders conversations by one tokenizer's template, or by the right one of several named ones.

    tokenizer: never changed; rendering takes no lock, so an endless template blocks nobody but its own callers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._base_variables: dict[str, Any] = {}
        self._base_variables = self._needed_variables()
        self.supports_system_role = SLOT in (
            self._probe([{"role": "system", "content": SLOT}, _user_turn("probe")]) or ""
        )
        self.merges_roles = self._probe([_user_turn("a"), _user_turn("b")]) is None
        self.tool_place = self._find_tool_place()
        self._shown_with_tools: dict[bool, tuple[bool, bool]] = {}
        self._left_out_by_shape: dict[bytes, tuple[str, ...]] = {}
        self._repairs_that_helped: dict[frozenset[Any], Way] = {}
        written, with_tools = self._probe_renderings()
        self._control = ControlTokens(tokenizer, composed_tokens(tokenizer, written, with_tools))
        self.encoder = Encoder(tokenizer, self._control, written)

    @property
    def renders_tools(self) -> bool:
        """Whether the template shows tools to the model."""
        return self.tool_place is not None

    def render(
        self,
        messages: Turns,
        tools: Sequence[Mapping[str, Any]] = (),
        prompt: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the text of `rendering`."""
        return self.rendering(messages, tools, prompt, variables).text

    def rendering(
        self,
        messages: Turns,
        tools: Sequence[Mapping[str, Any]] = (),
        prompt: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """Return the conversation as the template writes it, ready for the reply, and its ids.

        messages: checked and canonical, not marked. prompt: a text of ours, or SLOT, for the system slot. Where the
        template refuses the conversation, or leaves out a part of it, the repairs of `conversation` are tried.
        Raises TemplateError where none of them helps: with the template's own complaint, or with what it leaves out.
        """
        return self._repair_and_render(messages, tools, prompt, variables)[1]

    def repairs(self, messages: Turns, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[str, ...]:
        """Return names of the repairs without which the template does not render this conversation whole. Raises as
        `render`."""
        return self._repair_and_render(messages, tools, None, None)[0]

    def _repair_and_render(
        self,
        messages: Turns,
        tools: Sequence[Mapping[str, Any]],
        prompt: str | None,
        variables: Mapping[str, Any] | None,
    ) -> tuple[tuple[str, ...], Rendering]:
        refused: Exception | None = None
        lost: tuple[str, ...] = ()
        given = dict(variables or {})
        continues = is_continued(messages)
        roles = ", ".join(str(message["role"]) for message in messages[:12])
        if tools and self._takes_first_for_user:
            messages = user_first(messages, [])[0]
        if prompt is not None:
            messages = self.place_system(messages, "", ours=True)
        kinds: frozenset[Any] = frozenset(
            (each["role"], len(each.get("tool_calls") or ()), bool(each["content"])) for each in messages
        ) | {("prompt", prompt is not None), ("tools", bool(tools))}
        natively = any(self._shows_calls_and_results(bool(tools)))
        for names, turns, offered in ways(
            messages, [dict(tool) for tool in tools], known=self._repairs_that_helped.get(kinds), natively=natively
        ):
            if self.merges_roles:
                turns = merge_roles(turns)
            if continues and not is_continued(turns):
                continue
            try:
                text = self._render_dressed(turns, offered, prompt, given, self._control.mark)
                found = self._left_out(shape_of(turns), len(offered), json.dumps(given, default=str))
                made = None if found else self._without_forgery(text, turns, offered, prompt, given)
            except Exception as error:
                refused = refused or error
                continue
            if made is not None:
                if names:
                    _remember(self._repairs_that_helped, kinds, names)
                return names, made
            lost = lost or found
        if lost:
            raise TemplateError(
                f"The chat template leaves out a part of this conversation: {', '.join(lost)}.",
                hint=f"Roles in order were: {roles}.",
            )
        if isinstance(refused, TemplateError):
            raise refused
        raise TemplateError(
            f"The chat template cannot render this conversation: {' '.join(str(refused).split())[:200]}",
            hint=f"Roles in order were: {roles}",
        ) from refused

    def place_system(self, messages: Turns, text: str, *, ours: bool = False) -> Turns:
        """Return `messages` with `text` in front of the system text; without a system role, in front of the first user
        turn.

        ours: only the place is prepared; the text comes into it after marking.
        """
        more = {OURS_KEY: True} if ours else {}
        if self.supports_system_role:
            if messages[0]["role"] == "system":
                return [{**messages[0], "content": join_texts(text, messages[0]["content"]), **more}, *messages[1:]]
            return [{"role": "system", "content": text, **more}, *messages]
        if not any(message["role"] == "user" for message in messages):
            messages = user_first(messages, [])[0]
        for index, message in enumerate(messages):
            if message["role"] == "user":
                placed = {**message, "content": join_texts(text, message["content"]), **more}
                return [*messages[:index], placed, *messages[index + 1 :]]
        raise TemplateError(
            "The model has no system role and the conversation no user turn, so the prompt has no place.",
            hint="Start the conversation with a user message.",
        )

    def mark(self, value: Any) -> Any:
        """Return `value` with marks around control tokens in every string of it, dict keys included."""
        return self._control.mark(value)

    # -- one rendering -----------------------------------------------------------------------------------------------

    def _without_forgery(
        self, text: str, turns: Turns, tools: Tools, prompt: str | None, variables: dict[str, Any]
    ) -> Rendering:
        """Return the marked rendering `text` if all control tokens among its ids are the template's own; else one whose
        texts are encoded as plain text.

        What they are is seen from the same conversation with harmless texts.
        """
        made, encoder = Rendering(text, self.encoder.encode(text)), self.encoder
        texts = [turns, tools, variables, None if prompt == SLOT else prompt]
        if (
            encoder.literal
            and not self._control.may_form_control_token(texts)
            and made.encoded.controls == encoder.spelled_ids(text)
        ):
            return made

        def apart(ids: Ids) -> str:
            return self._render_dressed(turns, tools, prompt, variables, lambda value: self._control.apart(value, ids))

        kept = apart("kept")
        harmless = apart("disguised") if _has_ids(turns) else kept
        own = encoder.encode(encoder.with_fillers(harmless)).controls
        if made.encoded.controls == own and (encoder.literal or self._controls_stand_in_own_text(made, kept, texts)):
            return made
        own = encoder.encode_apart(join_outside_runs(harmless)).controls
        for ids in ("kept", "apart") if harmless is not kept else ("kept",):
            guarded = join_outside_runs(kept if ids == "kept" else apart("apart"))
            made = Rendering(guarded, encoder.encode_apart(guarded))
            if made.encoded.controls == own:
                return made
        raise TemplateError(
            "A text of this conversation becomes a control token in this template, whatever is done to keep it apart.",
            hint="Look at ids of calls and at fields beside role and content for pieces of control tokens.",
        )

    def _controls_stand_in_own_text(self, made: Rendering, apart: str, texts: Sequence[Any]) -> bool:
        """Return whether no control token of a rendering covers a character that came from outside, as the same
        rendering with texts apart tells.

        Where the template looked into the texts, so that the two differ, no text may make a control token by itself.
        """
        text = strip_marks(made.text.replace(SLOT, ""))
        if strip_marks(apart.replace(SLOT, "")) != text:
            return not any(map(self.encoder.makes_control_token, strings_in(texts)))
        outside = self.encoder.outside_flags(apart)
        return not any(
            outside[at] and not text[at].isspace() for start, end in made.encoded.places for at in range(start, end)
        )

    def _render_dressed(
        self,
        turns: Turns,
        tools: Tools,
        prompt: str | None,
        variables: dict[str, Any],
        dress: Callable[[Any], Any],
    ) -> str:
        messages = []
        for turn in turns:
            message = dress({key: value for key, value in turn.items() if key != OURS_KEY})
            if OURS_KEY in turn and prompt is not None:
                message["content"] = join_texts(prompt if prompt == SLOT else dress(prompt), message["content"])
            messages.append(message)
        return self._render_marked(
            messages, [dress(tool) for tool in tools], {key: dress(value) for key, value in variables.items()}
        )

    def _render_marked(self, messages: Turns, tools: Tools, variables: Mapping[str, Any]) -> str:
        """Return what the template writes of marked messages, ready for the reply."""
        continues = is_continued(messages)
        plain = [{key: value for key, value in message.items() if key != "prefix"} for message in messages]
        if continues:
            # A mark of ours at the end of the text: what the template writes after it closes the turn and is cut off.
            plain[-1]["content"] += END
        text = self._apply_template(plain, tools, variables, not continues)
        if continues:
            text, end, _ = text.rpartition(END)
            if not end:
                raise TemplateError(
                    "The chat template does not show the end of the last assistant message, so it cannot be continued.",
                    hint='Mark that message "prefix": False to ask for a new turn, or leave it out.',
                )
        elif messages[-1]["role"] == "assistant" and not text.endswith(self.opening):
            text += self.opening  # some templates open a reply behind a user's turn only
        return text

    def _apply_template(self, messages: Turns, tools: Tools, variables: Mapping[str, Any], opens: bool) -> str:
        more: dict[str, Any] = {**self._base_variables}
        if tools and self.tool_place is not None:
            messages, shown = self.tool_place.with_tools(messages, tools)
            more.update(shown)
        text = self._tokenizer.apply_chat_template(
            messages,
            tools=more.pop("tools", None),
            tokenize=False,
            add_generation_prompt=opens,
            **{**more, **variables},
        )
        return marks_from_escapes(str(text))

    def _shows_calls_and_results(self, tools: bool) -> tuple[bool, bool]:
        """Return whether the template shows a call, and its result; the one for tools may be another."""
        known = self._shown_with_tools.get(tools)
        if known is not None:
            return known
        found = (False, False)
        for arguments in ({"zqkey": "zqvalue"}, '{"zqkey": "zqvalue"}'):
            call = {"id": "zqcall000", "type": "function", "function": {"name": "zqname", "arguments": arguments}}
            turns = [_user_turn("a"), {"role": "assistant", "content": "", "tool_calls": [call]}]
            turns.append({"role": "tool", "tool_call_id": "zqcall000", "content": "zqresult"})
            text = self._probe(turns, self.tool_place if tools else None)
            if text is not None:
                found = ("zqname" in text, "zqresult" in text)
                break
        self._shown_with_tools[tools] = found
        return found

    @lazy
    def _takes_first_for_user(self) -> bool:
        """Whether the template shows the first turn beside the tools as the user's, whosever it is (Llama 3.1, 4)."""
        if self.tool_place is None:
            return False
        first, other = (
            self._probe([{"role": role, "content": "zqfirst"}, _user_turn("zq")], self.tool_place)
            for role in ("assistant", "user")
        )
        return first is not None and first == other

    @lazy
    def opening(self) -> str:
        """What the template writes to open a reply; empty where a user's turn ends with it."""
        try:
            asked, without = (self._apply_template([_user_turn("a")], [], {}, opens) for opens in (True, False))
        except Exception:
            asked = without = ""
        same = next((at for at, (a, b) in enumerate(zip(asked, without)) if a != b), min(len(asked), len(without)))
        return asked[same:]

    # -- nothing lost ------------------------------------------------------------------------------------------------

    def _left_out(self, shape: tuple[Any, ...], tools: int, variables: str) -> tuple[str, ...]:
        """Return what the template leaves out of any conversation of this shape; asked once.

        Callers' texts are not kept.
        """
        key = blake2b(repr((shape, tools, variables)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        found = self._left_out_by_shape.get(key)
        if found is None:
            found = self._find_left_out(shape, tools, variables)
            _remember(self._left_out_by_shape, key, found)
        return found

    def _find_left_out(self, shape: tuple[Any, ...], tools: int, variables: str) -> tuple[str, ...]:
        """Return what the template leaves out of any conversation of this shape, in words."""
        turns, wanted = conversation_of_marks(shape)
        offered = [PROBE_TOOL] * tools
        placed = any(OURS_KEY in turn for turn in turns)
        try:
            text = self._render_dressed(
                turns, offered, "zqprompt" if placed else None, json.loads(variables), self._control.mark
            )
        except Exception:
            return ()  # it looks into the texts: the rendering itself went well
        if self._shows_calls_and_results(bool(tools)) == (False, True):  # Granite 3, LFM2: their own way
            wanted = {mark: what for mark, what in wanted.items() if what != A_CALL}
        if placed:
            wanted["zqprompt"] = "the prompt"
        if tools:
            wanted["probe_tool_name"] = "the tools"
        return tuple(dict.fromkeys(what for mark, what in wanted.items() if mark not in text))

    # -- what the template can do ------------------------------------------------------------------------------------

    def _probe(self, messages: Turns, place: ToolPlace | None = None, **variables: Any) -> str | None:
        """Return a rendering, with the probe's tool at `place`; None where the template refuses it."""
        if place is not None:
            messages, shown = place.with_tools(messages, [PROBE_TOOL])
            variables = {**shown, **variables}
        options = {"tokenize": False, "add_generation_prompt": True, **self._base_variables, **variables}
        try:
            return str(self._tokenizer.apply_chat_template(messages, **options))
        except Exception:
            return None

    def _needed_variables(self) -> dict[str, Any]:
        """Return the variables without which the template renders nothing at all (Firefunction 2 has some)."""
        if self._probe([_user_turn("probe")]) is not None:
            return {}
        needed: dict[str, Any] = {"functions": "[]", "datetime": datetime.date.today().isoformat()}
        return needed if self._probe([_user_turn("probe")], **needed) is not None else {}

    def _probe_renderings(self) -> tuple[list[str], list[str]]:
        """Return what the template writes of harmless conversations; and of some with tools."""
        call = {"id": "zqcall000", "type": "function", "function": {"name": "zq", "arguments": {}}}
        reply: dict[str, Any] = {"role": "assistant", "content": "zq"}
        used = [
            {**reply, "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "zq", "tool_call_id": call["id"]},
        ]
        asked: list[Turns] = [
            [_user_turn("zq")],
            [{"role": "system", "content": "zq"}, _user_turn("zq"), reply, _user_turn("zq")],
        ]
        asked += [[_user_turn("zq"), reply, _user_turn("zq")], [_user_turn("zq"), *used]]
        plain = [text for turns in asked if (text := self._probe(turns)) is not None]
        if self.tool_place is None:
            return plain, []
        with_tools = [self._probe(turns, self.tool_place) for turns in (asked[0], asked[-1])]
        return plain, [text for text in with_tools if text is not None]

    def _find_tool_place(self) -> ToolPlace | None:
        for place in PLACES:
            text = self._probe([_user_turn("probe")], place)
            if text is not None and "probe_tool_name" in text:
                return place
        return None


def _remember(store: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep `value`; the oldest goes where there are too many."""
    store[key] = value
    if len(store) > _KEPT:
        store.pop(next(iter([*store])), None)  # of a copy: other threads remember things too


def _has_ids(turns: Sequence[Message]) -> bool:
    """Return whether a conversation holds ids of calls."""
    return any(turn.get("tool_calls") or turn.get("tool_call_id") or turn.get("id") for turn in turns)


def _user_turn(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
