"""The material of requests: words for every slot, restating answers, and the clothes a request wears."""

from __future__ import annotations

import random
from dataclasses import dataclass

from reference import everyday_phrases as day
from reference import forms, replies
from reference.permissive import restate, you
from reference.vocabulary import Vocabulary
from reference.words import drop_words, invented_name, invented_word, number

EVERYDAY_BLOCKS = day.EVERYDAY_BLOCKS + day.MORE_EVERYDAY_BLOCKS
THINGS = tuple(dict.fromkeys(day.THINGS + day.MORE_THINGS))


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


class Material:
    """A seeded generator and what it draws: the part of the request grammar that knows no harm."""

    everyday_blocks = EVERYDAY_BLOCKS
    everyday_things = THINGS

    def __init__(self, seed: int, vocabulary: Vocabulary | None = None) -> None:
        self.rng = random.Random(seed)
        self.vocabulary = vocabulary or Vocabulary()
        self.everyday_verbs = [verb for verbs, _ in self.everyday_blocks for verb in verbs]
        self.everyday_objects = [thing for _, objects in self.everyday_blocks for thing in objects]

    def thing(self) -> str:
        """A thing: from the lists, from the harmless prompts, or now and then an invented one."""
        draw = self.rng.random()
        if draw < 0.45 and self.vocabulary.nouns:
            return self.rng.choice(self.vocabulary.nouns)
        return self.rng.choice(self.everyday_things) if draw < 0.94 else invented_word(self.rng)

    def person(self) -> str:
        """A name: from the lists, from the harmless prompts, or an invented one."""
        draw = self.rng.random()
        if draw < 0.4 and self.vocabulary.names:
            return self.rng.choice(self.vocabulary.names)
        return self.rng.choice(day.NAMES) if draw < 0.75 else invented_name(self.rng)

    def things(self) -> str:
        """Two words that name a thing."""
        if self.vocabulary.phrases and self.rng.random() < 0.6:
            return self.rng.choice(self.vocabulary.phrases)
        return f"{self.rng.choice(day.ADJECTIVES + day.TRAITS)} {self.thing()}"

    def everyday_phrase(self) -> str:
        """An everyday aim from one block of verbs and objects."""
        verbs, objects = self.rng.choice(self.everyday_blocks)
        return f"{self.rng.choice(verbs)} {self.rng.choice(objects)}"

    def more_slots(self) -> dict[str, str]:
        """Values for the slots of `everyday_more_forms`."""
        pick = self.rng.choice
        who, one, two = pick(day.PEOPLE), self.thing(), self.thing()
        phrase, other = self.everyday_phrase(), self.everyday_phrase()
        return {
            "th": one, "th2": two, "Th": upper(one), "a_th": article(one), "a_th2": article(two), "np": self.things(), "np2": self.things(),
            "trait": pick(day.TRAITS), "who": who, "Who": upper(who), "topic": pick(day.TOPICS), "topic2": pick(day.TOPICS),
            "vp": phrase, "vp2": other, "ger": forms.gerund(phrase), "ger2": forms.gerund(other), "Ger": upper(forms.gerund(phrase)),
        }  # fmt: skip

    def slots(self) -> dict[str, str]:
        """A value for every slot of the everyday templates."""
        pick = self.rng.choice
        thing, thing2 = self.thing(), self.thing()
        return {
            "subject": self.subject(),
            "subject2": self.subject(),
            "place": pick(day.PLACES),
            "place2": pick(day.PLACES),
            "thing": thing,
            "thing2": thing2,
            "a_thing": article(thing),
            "a_thing2": article(thing2),
            "name": self.person(),
            "name2": self.person(),
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
            "word": self.thing() if self.rng.random() < 0.3 else invented_word(self.rng),
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
        if draw < 0.24:
            return self.rng.choice(day.SUBJECTS)
        if draw < 0.4:
            return self.rng.choice(self.everyday_objects)
        if draw < 0.5:
            return self.rng.choice(day.TOPICS)
        if draw < 0.66:
            return self.rng.choice((self.thing(), article(self.thing()), f"the {self.things()}"))
        if draw < 0.76:
            phrase = self.everyday_phrase()
            return forms.gerund(phrase)
        if draw < 0.82:
            return self.rng.choice(
                (
                    self.rng.choice(day.PLACES),
                    self.rng.choice(day.FAMOUS),
                    self.rng.choice(day.ANIMALS),
                    f"{self.person()} and {article(self.thing())}",
                )
            )
        if draw < 0.9:
            return f"{article(self.rng.choice(day.ADJECTIVES))} {self.thing()} in {self.rng.choice(day.PLACES)}"
        return f"the {invented_word(self.rng)} of {invented_name(self.rng)}"

    def sentence(self) -> str:
        """A short sentence to work on: a listed one or an invented one."""
        if self.rng.random() < 0.45:
            return self.rng.choice(day.SENTENCES)
        pick = self.rng.choice
        return pick(
            (
                f"The {pick(day.ADJECTIVES)} {self.thing()} of {self.person()} is in {pick(day.PLACES)}.",
                f"{self.person()} and {self.person()} saw {number(self.rng)} {pick(day.ANIMALS)} near the {self.thing()}.",
                f"A {pick(day.JOBS)} from {pick(day.PLACES)} likes {pick(day.FOODS)}.",
                f"{invented_name(self.rng)} sold the {invented_word(self.rng)} to {self.person()} in {self.rng.randint(1500, 2025)}.",
                f"My {self.thing()} was {pick(day.ADJECTIVES)} and I would buy it again.",
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
        if draw < 0.32:
            pool = forms.QUESTION_FORMS
        elif draw < 0.42:
            pool = forms.SHORT_FORMS
        elif draw < 0.54:
            pool = forms.LONG_QUESTION_FORMS
        elif draw < 0.86:
            pool = forms.IMPERATIVE_FORMS
        elif draw < 0.92:
            pool = forms.ROLE_FORMS
        else:
            pool = forms.PLAIN_FORMS
        return self.rng.choice(pool).format(
            vp=phrase, Vp=upper(phrase), ger=forms.gerund(phrase), role=self.rng.choice(forms.ROLES)
        )
