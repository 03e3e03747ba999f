"""Single requests of the training grammar: harmful ones, look-alikes, everyday ones, with answers that fit."""

from __future__ import annotations

import hashlib

from reference import everyday_forms as forms_of_day
from reference import everyday_phrases as day
from reference import forms, replies, twin_forms
from reference import harm_phrases as harm
from reference.material import Material, Request, article, upper
from reference.permissive import held_out, normalise, restate
from reference.vocabulary import harmful_words, mine
from reference.words import invented_name, invented_word, misspell

HARM_BLOCKS = harm.HARM_BLOCKS + harm.MORE_HARM_BLOCKS
TWIN_BLOCKS = twin_forms.TWIN_BLOCKS + twin_forms.MORE_TWIN_BLOCKS
TWIN_QUESTIONS = twin_forms.TWIN_QUESTIONS + twin_forms.MORE_TWIN_QUESTIONS
# How often each permissive source is drawn: long word problems are plentiful and alike, so size does not decide.
SOURCE_SHARES = {
    "mmlu": 18, "t0": 12, "code": 12, "gsm8k": 5, "vicuna": 3, "mt": 2, "seed": 14, "user": 14, "roleplay": 10, "toolformer": 16,
}  # fmt: skip


def phrase_offset(phrase: str) -> float:
    """A fixed small offset of severity for each phrase, between -0.5 and 0.5."""
    return int(hashlib.sha256(phrase.encode()).hexdigest()[:6], 16) / 0xFFFFFF - 0.5


class RequestGrammar(Material):
    """Draws requests; `split` is "all", or "train" or "held_out" (some topics kept apart)."""

    def __init__(
        self,
        seed: int,
        harmful_prompts: list[tuple[str, float]] | None = None,
        harmless_prompts: dict[str, list[str]] | None = None,
        reserved: set[str] | None = None,
        split: str = "all",
    ) -> None:
        bad = [part for block in HARM_BLOCKS for part in (*block.verbs, *block.objects)]
        bad += [text for text, _ in harmful_prompts or []]
        super().__init__(seed, mine(harmless_prompts or {}, harmful_words(bad), least=1))
        self.reserved = reserved or set()
        wanted = split == "held_out"
        self.blocks = [
            block for block in HARM_BLOCKS if split == "all" or (block.topic in harm.HELD_OUT_TOPICS) == wanted
        ]
        self.block_weights = [len(block.phrases()) ** 0.4 for block in self.blocks]
        self.harmful_prompts = [
            (text, severity) for text, severity in harmful_prompts or [] if held_out(text) == wanted
        ]
        self.harmful_aims = [
            (aim, severity)
            for (kind, aim), severity in ((restate(text), severity) for text, severity in self.harmful_prompts)
            if kind == "vp" and len(aim.split()) < 14
        ]
        self.sources = {
            name: [row for row in rows if held_out(row, 0.03) == wanted]
            for name, rows in (harmless_prompts or {}).items()
        }
        self.source_names = [name for name in self.sources if self.sources[name]]
        self.source_weights = [SOURCE_SHARES.get(name, 3) for name in self.source_names]

    # -- harmful --------------------------------------------------------------------------------------------------

    def harm_phrase(self) -> tuple[str, float]:
        """A harmful verb phrase and its severity."""
        if self.harmful_aims and self.rng.random() < 0.08:
            phrase, severity = self.rng.choice(self.harmful_aims)
            return phrase, severity + phrase_offset(phrase)
        block = self.rng.choices(self.blocks, self.block_weights)[0]
        verb, thing = self.rng.choice(block.verbs), self.rng.choice(block.objects)
        if self.rng.random() < 0.03:
            thing = self.rng.choice(self.rng.choice(self.blocks).objects)
        if self.rng.random() < 0.06:
            where = self.rng.choice(day.PLACES) if self.rng.random() < 0.5 else self.person()
            thing = f"{thing} in {where}"
        phrase = f"{verb} {thing}"
        severity = block.severity + phrase_offset(phrase)
        if self.rng.random() < 0.16:
            phrase = f"{phrase} {self.rng.choice(harm.HARM_SUFFIXES)}"
        return phrase, severity

    def harmful_request(self) -> Request:
        """A harmful request in one of many forms."""
        draw = self.rng.random()
        if draw < 0.13 and self.harmful_prompts:
            text, severity = self.rng.choice(self.harmful_prompts)
            return self.harmful_text(text, severity)
        if draw < 0.22:
            text = self.group_text(harm.DEMEANING_FORMS)
            return Request(self.dress(text), True, 1.9 + phrase_offset(text), "do this", self.answer_free(text))
        if draw < 0.36:
            if self.rng.random() < 0.45:
                thing = self.rng.choice(harm.HARM_THINGS)
                severity = 1.8 + phrase_offset(thing)
            else:
                phrase, severity = self.harm_phrase()
                thing = f"{self.rng.choice(forms.GENERIC_THINGS)} {self.rng.choice(harm.HARM_BODY).format(vp=phrase)}"
                severity -= 0.2
            return Request(
                self.dress(self.rng.choice(forms.THING_FORMS).format(thing=thing)),
                True,
                severity,
                f"write {thing}",
                self.answer_thing(thing),
            )
        phrase, severity = self.harm_phrase()
        if self.rng.random() < 0.06:
            phrase = misspell(self.rng, phrase)
        phrase = self.estrange(phrase)
        return Request(self.dress(self.wrap_vp(phrase)), True, severity, phrase, self.answer_vp(phrase))

    def harmful_text(self, text: str, severity: float) -> Request:
        """Whole harmful words of somebody; `severity` without the text's own offset."""
        kind, phrase = restate(text)
        named = phrase if kind == "vp" else "do this"
        return Request(self.dress(text), True, severity + phrase_offset(text), named, self.answer_free(text))

    def group_text(self, pool: tuple[str, ...]) -> str:
        """A sentence about a group of people, demeaning or respectful after its form."""
        pick = self.rng.choice
        right = pick(harm.RIGHTS)
        group = pick(harm.DEMEANED)
        if self.rng.random() < 0.05:
            group = f"people from {invented_name(self.rng)}"
        text = pick(pool).format(
            group=group,
            group2=pick(harm.DEMEANED),
            insult=pick(harm.INSULTS),
            right=right,
            rights=forms.gerund(right),
        )
        return upper(text)

    # -- harmless -------------------------------------------------------------------------------------------------

    def harmless_text(self, text: str) -> Request:
        """Whole harmless words of somebody."""
        return Request(self.dress(text), False, 0.0, text, self.answer_free(text))

    def twin_request(self) -> Request:
        """A harmless request that looks harmful."""
        draw, pick = self.rng.random(), self.rng.choice
        if draw < 0.44:
            verbs, objects = pick(TWIN_BLOCKS)
            phrase = self.estrange(f"{pick(verbs)} {pick(objects)}", 0.05)
            return Request(self.dress(self.wrap_vp(phrase)), False, 0.0, phrase, self.answer_vp(phrase))
        if draw < 0.7:
            text = pick(TWIN_QUESTIONS).format(
                term=pick(twin_forms.SCARY_TERMS), term2=pick(twin_forms.SCARY_TERMS),
                event=pick(twin_forms.EVENTS), event2=pick(twin_forms.EVENTS),
                victims=pick(twin_forms.VICTIMS), group=pick(twin_forms.GROUPS),
                nonsense=pick(twin_forms.NONSENSE), nonsense2=f"{self.thing()} tea",
                public=pick(twin_forms.PUBLIC_FACTS), figure=pick(twin_forms.PUBLIC_FIGURES), figure_role=pick(day.JOBS),
                private=pick(twin_forms.PRIVATE_FACTS), fict=pick(twin_forms.FICTIONAL), fict2=pick(twin_forms.FICTIONAL),
                work=pick(twin_forms.FICTION_WORKS), lang=pick(day.LANGUAGES), place=pick(day.PLACES),
            )  # fmt: skip
            return self.harmless_text(text)
        if draw < 0.82:
            text = self.group_text(harm.RESPECTFUL_FORMS)
            return self.harmless_text(text)
        phrase, _ = self.harm_phrase()
        text = pick(forms.SAFE_CONTEXT_FORMS).format(vp=phrase, ger=forms.gerund(phrase))
        return Request(self.dress(text), False, 0.0, phrase, self.answer_free(text))

    def everyday_aim(self) -> Request:
        """A harmless request for help with an everyday aim."""
        pick, change = self.rng.choice, self.rng.random()
        phrase = self.everyday_phrase()
        if change < 0.06:
            phrase = f"{pick(self.everyday_verbs)} {pick(self.everyday_objects)}"
        elif change < 0.2:
            phrase = f"{pick(self.everyday_verbs)} {pick((article(self.thing()), 'the ' + self.things(), 'my ' + self.thing()))}"
        elif change < 0.24:
            phrase = f"{pick(self.everyday_verbs)} {article(invented_word(self.rng))} {self.thing()}"
        elif change < 0.32:
            phrase = f"{phrase} {pick(('in', 'near', 'for a friend from'))} {pick(day.PLACES)}"
        elif change < 0.4:
            phrase = f"{phrase} {pick(('with', 'for', 'without'))} {pick((self.person(), article(self.thing()), self.thing()))}"
        elif change < 0.45:
            phrase = misspell(self.rng, phrase)
        else:
            phrase = self.estrange(phrase, 0.1)
        return Request(self.dress(self.wrap_vp(phrase)), False, 0.0, phrase, self.answer_vp(phrase))

    def everyday_request(self) -> Request:
        """A harmless everyday request."""
        draw, pick = self.rng.random(), self.rng.choice
        if draw < 0.32:
            return self.everyday_aim()
        values = self.slots() | self.more_slots()
        if draw < 0.42:
            text = pick(forms_of_day.CREATIVE_FORMS).format(**values)
            if "comparing" in text or "style" in text or "Turn" in text or self.rng.random() < 0.3:
                return self.harmless_text(text)
            answer = pick(replies.ABOUT_ANSWERS).format(
                kind=values["kind"], Kind=upper(values["kind"]), subject=values["subject"]
            )
            return Request(self.dress(text), False, 0.0, text, answer)
        if draw < 0.51:
            text = pick(forms_of_day.LIST_FORMS).format(**values)
            answer = pick(replies.LIST_ANSWERS).format(
                num=values["num"], Num=upper(values["num"]), listkind=values["listkind"], subject=values["subject"]
            )
            return Request(self.dress(text), False, 0.0, text, answer)
        if draw < 0.54:
            text = pick(forms_of_day.SMALL_TALK)
            return Request(text, False, 0.0, text, pick(forms_of_day.SMALL_TALK_REPLIES))
        if draw < 0.58:
            thing = f"{pick(forms.GENERIC_THINGS)} {pick(('about', 'for', 'on', 'for a school project on', 'for people who like'))} {values['subject']}"
            return Request(
                self.dress(pick(forms.THING_FORMS).format(thing=thing)), False, 0.0, thing, self.answer_thing(thing)
            )
        if draw < 0.82:
            text = upper(pick(forms_of_day.MORE_QUESTIONS).format(**values))
            return self.harmless_text(text)
        text = pick(forms_of_day.QUESTION_TEMPLATES).format(**values)
        if values["sentence"] in text and self.rng.random() < 0.6:
            return Request(
                self.dress(text), False, 0.0, text, pick(replies.TEXT_ANSWERS).format(text=values["sentence"])
            )
        return self.harmless_text(text)

    def permissive_request(self) -> Request:
        """A harmless prompt of the permissive sets, or an everyday one where they are absent."""
        if not self.source_names:
            return self.everyday_request()
        text = self.rng.choice(self.sources[self.rng.choices(self.source_names, self.source_weights)[0]])
        return Request(text if self.rng.random() < 0.8 else self.dress(text), False, 0.0, text, self.answer_free(text))

    def harmless_request(self) -> Request:
        """Any harmless request."""
        draw = self.rng.random()
        if draw < 0.25:
            return self.twin_request()
        return self.everyday_request() if draw < 0.76 else self.permissive_request()

    def request(self, harmful: bool) -> Request:
        """A request that is not among the reserved ones."""
        while True:
            drawn = self.harmful_request() if harmful else self.harmless_request()
            if normalise(drawn.text) not in self.reserved:
                return drawn
