"""Single requests of the training grammar: harmful ones, look-alikes, everyday ones, with answers that fit."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from acd_core.reference import everyday_forms as forms_of_day
from acd_core.reference import everyday_phrases as day
from acd_core.reference import forms, replies, twins
from acd_core.reference import harm_phrases as harm
from acd_core.reference.permissive import held_out, normalise, restate, you
from acd_core.reference.words import drop_words, invented_name, invented_word, misspell, number


@dataclass
class Request:
    """One user request: its text, whether it is harmful and how gravely, and the answers that fit it."""

    text: str
    harmful: bool
    severity: float
    phrase: str
    answer: str


def upper(text: str) -> str:
    """The text with its first letter raised."""
    return text[:1].upper() + text[1:]


def article(thing: str) -> str:
    """ "a" or "an" before a thing."""
    return f"an {thing}" if thing[:1] in "aeiou" else f"a {thing}"


def phrase_offset(phrase: str) -> float:
    """A fixed small offset of severity for each phrase, between -0.5 and 0.5."""
    return int(hashlib.sha256(phrase.encode()).hexdigest()[:6], 16) / 0xFFFFFF - 0.5


class RequestGrammar:
    """Draws requests; `split` is "all", or "train" or "held_out" (some topics kept apart)."""

    def __init__(
        self,
        seed: int,
        harmful_prompts: list[tuple[str, float]] | None = None,
        harmless_prompts: dict[str, list[str]] | None = None,
        reserved: set[str] | None = None,
        split: str = "all",
    ) -> None:
        self.rng = random.Random(seed)
        self.reserved = reserved or set()
        wanted = split == "held_out"
        self.blocks = [
            block for block in harm.HARM_BLOCKS if split == "all" or (block.topic in harm.HELD_OUT_TOPICS) == wanted
        ]
        self.block_weights = [len(block.phrases()) ** 0.4 for block in self.blocks]
        self.harmful_prompts = [
            (text, severity) for text, severity in harmful_prompts or [] if held_out(text) == wanted
        ]
        # Long word problems are plentiful and alike, so sources are drawn by fixed shares, not by size.
        self.sources = {
            name: [row for row in rows if held_out(row, 0.03) == wanted]
            for name, rows in (harmless_prompts or {}).items()
        }
        shares = {
            "mmlu": 20,
            "t0": 14,
            "code": 12,
            "gsm8k": 6,
            "vicuna": 2,
            "mt": 2,
            "seed": 9,
            "user": 9,
            "roleplay": 12,
            "toolformer": 14,
        }
        self.source_names = [name for name in self.sources if self.sources[name]]
        self.source_weights = [shares.get(name, 3) for name in self.source_names]
        self.everyday_verbs = [verb for verbs, _ in day.EVERYDAY_BLOCKS for verb in verbs]
        self.everyday_objects = [thing for _, objects in day.EVERYDAY_BLOCKS for thing in objects]

    # -- pieces ---------------------------------------------------------------------------------------------------

    def slots(self) -> dict[str, str]:
        """A value for every slot of the everyday templates."""
        pick = self.rng.choice
        thing, thing2 = pick(day.THINGS), pick(day.THINGS)
        return {
            "subject": self.subject(),
            "subject2": self.subject(),
            "place": pick(day.PLACES),
            "place2": pick(day.PLACES),
            "thing": thing,
            "thing2": thing2,
            "a_thing": article(thing),
            "a_thing2": article(thing2),
            "name": pick(day.NAMES) if self.rng.random() < 0.8 else invented_name(self.rng),
            "name2": pick(day.NAMES),
            "famous": pick(day.FAMOUS),
            "lang": pick(day.LANGUAGES),
            "code": pick(day.CODE_LANGUAGES),
            "job": pick(day.JOBS),
            "job2": pick(day.JOBS),
            "food": pick(day.FOODS),
            "food2": pick(day.FOODS),
            "animals": pick(day.ANIMALS),
            "adj": pick(day.ADJECTIVES),
            "verb": pick(day.VERBS),
            "word": pick(day.THINGS) if self.rng.random() < 0.3 else invented_word(self.rng),
            "word2": invented_word(self.rng),
            "n1": number(self.rng),
            "n2": number(self.rng),
            "n3": number(self.rng),
            "year": str(self.rng.randint(1200, 2040)),
            "num": pick(day.NUMBERS),
            "kind": pick(day.CREATIVE_KINDS),
            "listkind": pick(day.LIST_KINDS),
            "sentence": self.sentence(),
            "sentence2": self.sentence(),
        }

    def subject(self) -> str:
        """A subject to write about: a listed one, a place or person, an everyday object, or an invented one."""
        draw = self.rng.random()
        if draw < 0.5:
            return self.rng.choice(day.SUBJECTS)
        if draw < 0.7:
            return self.rng.choice(self.everyday_objects)
        if draw < 0.8:
            return self.rng.choice(
                (
                    self.rng.choice(day.PLACES),
                    self.rng.choice(day.FAMOUS),
                    self.rng.choice(day.ANIMALS),
                    article(self.rng.choice(day.THINGS)),
                )
            )
        if draw < 0.9:
            return f"{article(self.rng.choice(day.ADJECTIVES))} {self.rng.choice(day.THINGS)} in {self.rng.choice(day.PLACES)}"
        return f"the {invented_word(self.rng)} of {invented_name(self.rng)}"

    def sentence(self) -> str:
        """A short sentence to work on: a listed one or an invented one."""
        if self.rng.random() < 0.45:
            return self.rng.choice(day.SENTENCES)
        pick = self.rng.choice
        return pick(
            (
                f"The {pick(day.ADJECTIVES)} {pick(day.THINGS)} of {pick(day.NAMES)} is in {pick(day.PLACES)}.",
                f"{pick(day.NAMES)} and {pick(day.NAMES)} saw {number(self.rng)} {pick(day.ANIMALS)} near the {pick(day.THINGS)}.",
                f"A {pick(day.JOBS)} from {pick(day.PLACES)} likes {pick(day.FOODS)}.",
                f"{invented_name(self.rng)} sold the {invented_word(self.rng)} to {pick(day.NAMES)} in {self.rng.randint(1500, 2025)}.",
                f"My {pick(day.THINGS)} was {pick(day.ADJECTIVES)} and I would buy it again.",
            )
        )

    def fill_steps(self, form: str, **values: str) -> str:
        """An answer form with three different neutral steps filled in."""
        one, two, three = self.rng.choice(replies.STEP_THREES)
        return form.format(s1=one, s2=two, s3=three, **values)

    def answer_vp(self, phrase: str) -> str:
        """A content-free answer that restates a verb phrase."""
        return self.fill_steps(self.rng.choice(replies.VP_ANSWERS), vp=you(phrase))

    def answer_thing(self, thing: str) -> str:
        """A content-free answer that restates a thing to be written."""
        return self.fill_steps(self.rng.choice(replies.THING_ANSWERS), thing=you(thing))

    def answer_free(self, text: str) -> str:
        """A content-free answer to free text."""
        kind, phrase = restate(text)
        if kind == "vp":
            return self.answer_vp(phrase)
        quoted = phrase if phrase.endswith(("?", ".", "!")) else phrase + "."
        return self.fill_steps(self.rng.choice(replies.QUESTION_ANSWERS), q=quoted)

    def dress(self, text: str) -> str:
        """Openers, closers, lost capitals or full stops: the same request in other clothes."""
        if self.rng.random() < 0.07:
            text = self.rng.choice(forms.OPENERS) + text[:1].lower() + text[1:]
        if self.rng.random() < 0.07:
            text = (text if text.endswith(("?", ".", "!")) else text + ".") + self.rng.choice(forms.CLOSERS)
        draw = self.rng.random()
        if draw < 0.12:
            text = text.lower()
        if self.rng.random() < 0.22:
            text = text.rstrip("?.!")
        elif self.rng.random() < 0.08 and not text.endswith(("?", ".", "!")):
            text += "."
        if self.rng.random() < 0.05:
            text = drop_words(self.rng, text)
        return text

    def estrange(self, phrase: str, share: float = 0.1) -> str:
        """Now and then swap one longer word for an invented one, so that no single word decides."""
        words = phrase.split(" ")
        if self.rng.random() >= share or len(words) < 4:
            return phrase
        at = self.rng.randrange(1, len(words))
        if len(words[at]) > 3:
            words[at] = invented_word(self.rng)
        return " ".join(words)

    def wrap_vp(self, phrase: str) -> str:
        """A verb phrase in one of the shared sentence forms."""
        draw = self.rng.random()
        if draw < 0.3:
            pool = forms.QUESTION_FORMS
        elif draw < 0.46:
            pool = forms.LONG_QUESTION_FORMS
        elif draw < 0.85:
            pool = forms.IMPERATIVE_FORMS
        elif draw < 0.92:
            pool = forms.ROLE_FORMS
        else:
            pool = forms.PLAIN_FORMS
        return self.rng.choice(pool).format(
            vp=phrase, Vp=upper(phrase), ger=forms.gerund(phrase), role=self.rng.choice(forms.ROLES)
        )

    # -- requests -------------------------------------------------------------------------------------------------

    def harm_phrase(self) -> tuple[str, float]:
        """A harmful verb phrase and its severity."""
        block = self.rng.choices(self.blocks, self.block_weights)[0]
        verb, thing = self.rng.choice(block.verbs), self.rng.choice(block.objects)
        if self.rng.random() < 0.06:
            thing = self.rng.choice(self.rng.choice(self.blocks).objects)
        if self.rng.random() < 0.05:
            thing = (
                thing + " in " + (self.rng.choice(day.PLACES) if self.rng.random() < 0.5 else invented_name(self.rng))
            )
        phrase = f"{verb} {thing}"
        severity = block.severity + phrase_offset(phrase)
        if self.rng.random() < 0.18:
            phrase = f"{phrase} {self.rng.choice(harm.HARM_SUFFIXES)}"
        return phrase, severity

    def harmful_request(self) -> Request:
        """A harmful request in one of many forms."""
        draw = self.rng.random()
        if draw < 0.14 and self.harmful_prompts:
            text, severity = self.rng.choice(self.harmful_prompts)
            kind, phrase = restate(text)
            return Request(
                self.dress(text),
                True,
                severity + phrase_offset(text),
                phrase if kind == "vp" else "do this",
                self.answer_free(text),
            )
        if draw < 0.34:
            if self.rng.random() < 0.55:
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

    def twin_request(self) -> Request:
        """A harmless request that looks harmful."""
        draw = self.rng.random()
        if draw < 0.5:
            verbs, objects = self.rng.choice(twins.TWIN_BLOCKS)
            phrase = self.estrange(f"{self.rng.choice(verbs)} {self.rng.choice(objects)}", 0.05)
            return Request(self.dress(self.wrap_vp(phrase)), False, 0.0, phrase, self.answer_vp(phrase))
        if draw < 0.78:
            pick = self.rng.choice
            text = pick(twins.TWIN_QUESTIONS).format(
                term=pick(twins.SCARY_TERMS),
                event=pick(twins.EVENTS),
                victims=pick(twins.VICTIMS),
                group=pick(twins.GROUPS),
                nonsense=pick(twins.NONSENSE),
                public=pick(twins.PUBLIC_FACTS),
                figure=pick(twins.PUBLIC_FIGURES),
                private=pick(twins.PRIVATE_FACTS),
                fict=pick(twins.FICTIONAL),
                work=pick(twins.FICTION_WORKS),
            )
            return Request(self.dress(text), False, 0.0, text, self.answer_free(text))
        phrase, _ = self.harm_phrase()
        text = self.rng.choice(forms.SAFE_CONTEXT_FORMS).format(vp=phrase, ger=forms.gerund(phrase))
        return Request(self.dress(text), False, 0.0, phrase, self.answer_free(text))

    def everyday_request(self) -> Request:
        """A harmless everyday request."""
        draw, pick = self.rng.random(), self.rng.choice
        if draw < 0.36:
            verbs, objects = pick(day.EVERYDAY_BLOCKS)
            phrase = f"{pick(verbs)} {pick(objects)}"
            change = self.rng.random()
            if change < 0.08:
                phrase = f"{pick(self.everyday_verbs)} {pick(self.everyday_objects)}"
            elif change < 0.18:
                phrase = f"{pick(self.everyday_verbs)} {article(invented_word(self.rng))} {pick(day.THINGS)}"
            elif change < 0.26:
                phrase = f"{phrase} {pick(('in', 'near', 'for a friend from'))} {pick(day.PLACES)}"
            elif change < 0.32:
                phrase = f"{phrase} {pick(('with', 'for', 'without'))} {pick(day.NAMES)}"
            elif change < 0.38:
                phrase = misspell(self.rng, phrase)
            else:
                phrase = self.estrange(phrase, 0.1)
            return Request(self.dress(self.wrap_vp(phrase)), False, 0.0, phrase, self.answer_vp(phrase))
        values = self.slots()
        if draw < 0.52:
            text = pick(forms_of_day.CREATIVE_FORMS).format(**values)
            if "comparing" in text or "style" in text or "Turn" in text or self.rng.random() < 0.3:
                return Request(self.dress(text), False, 0.0, text, self.answer_free(text))
            answer = pick(replies.ABOUT_ANSWERS).format(
                kind=values["kind"], Kind=upper(values["kind"]), subject=values["subject"]
            )
            return Request(self.dress(text), False, 0.0, text, answer)
        if draw < 0.64:
            text = pick(forms_of_day.LIST_FORMS).format(**values)
            answer = pick(replies.LIST_ANSWERS).format(
                num=values["num"], Num=upper(values["num"]), listkind=values["listkind"], subject=values["subject"]
            )
            return Request(self.dress(text), False, 0.0, text, answer)
        if draw < 0.67:
            text = pick(forms_of_day.SMALL_TALK)
            return Request(text, False, 0.0, text, pick(forms_of_day.SMALL_TALK_REPLIES))
        if draw < 0.72:
            thing = f"{pick(forms.GENERIC_THINGS)} {pick(('about', 'for', 'on', 'for a school project on', 'for people who like'))} {values['subject']}"
            return Request(
                self.dress(pick(forms.THING_FORMS).format(thing=thing)), False, 0.0, thing, self.answer_thing(thing)
            )
        text = pick(forms_of_day.QUESTION_TEMPLATES).format(**values)
        if "{sentence}" in text or (values["sentence"] in text and self.rng.random() < 0.6):
            return Request(
                self.dress(text), False, 0.0, text, pick(replies.TEXT_ANSWERS).format(text=values["sentence"])
            )
        return Request(self.dress(text), False, 0.0, text, self.answer_free(text))

    def permissive_request(self) -> Request:
        """A harmless prompt of the permissive sets, or an everyday one where they are absent."""
        if not self.source_names:
            return self.everyday_request()
        text = self.rng.choice(self.sources[self.rng.choices(self.source_names, self.source_weights)[0]])
        return Request(text if self.rng.random() < 0.8 else self.dress(text), False, 0.0, text, self.answer_free(text))

    def harmless_request(self) -> Request:
        """Any harmless request."""
        draw = self.rng.random()
        if draw < 0.24:
            return self.twin_request()
        return self.everyday_request() if draw < 0.68 else self.permissive_request()

    def request(self, harmful: bool) -> Request:
        """A request that is not among the reserved ones."""
        while True:
            drawn = self.harmful_request() if harmful else self.harmless_request()
            if normalise(drawn.text) not in self.reserved:
                return drawn
