"""What a model says before a forced format: how it is made to speak, how long it is heard, whether it refused.

These words are ours, not the caller's: no setting of a call shortens them, ends them or turns them into noise. They are
greedy, and as long as it takes to judge them: `PROBE_TOKENS` of a direct answer; more while they only lead up to one,
stand in the middle of a sentence that may refuse, or hold no word at all. What is still unheard when they are cut off
counts as a refusal; a model that ends its turn by itself has said all it had to say. But it may not end before it has
said anything: silence is no answer to the question whether it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from transformers import LogitsProcessor

from acd_core.params import GenerationParams
from acd_core.refusal.judges import RefusalJudge, plain

PROBE_TOKENS = 24
"""How many tokens the model speaks freely before a forced format, unless it is refusing: then to the end."""
LONGEST_PROBE = 96
"""How many at most, where it has not come to the point, or is within a sentence that may be a refusal."""
MOST_TOKENS = 4 * LONGEST_PROBE
"""How many at most with tokens that say little counted too: blank lines, rules of dashes, parts of words or letters."""
_LONGEST = 300  # letters: LONGEST_PROBE tokens have as many where a token is a word
_BEGUN = 40  # letters that tell what is said behind a preamble: some eight words
_TOLD = 16  # letters that tell what a text in a document is about to say
_SANE_MIN_P = 0.05
_MARK_TOKENS = 16  # more than a mark has


def thought_settings(asked: GenerationParams) -> GenerationParams:
    """How a thought before a forced format is drawn: as the caller asks, but never into noise.

    A thought is part of the reply, and models loop in greedy ones; but what follows from it is judged.
    """
    return GenerationParams(
        temperature=min(asked.temperature, 1.0),
        top_p=asked.top_p,
        top_k=asked.top_k,
        min_p=max(asked.min_p, _SANE_MIN_P),
        seed=asked.seed,
    )


class NoSilence(LogitsProcessor):
    """Forbids the tokens `ends` until something was said: anew behind a thought, and where a gate opens in a reply.

    decode: ids of a reply as text, control tokens included. marks: what opens and closes a thought. unsaid: texts that
    say nothing, the control tokens. turned: how many tokens were said when a gate opened in the reply, if one has.
    """

    def __init__(
        self,
        ends: Iterable[int],
        decode: Callable[[list[int]], str],
        marks: Sequence[tuple[str, str]] = (),
        unsaid: Iterable[str] = (),
        turned: Callable[[], int] = lambda: 0,
    ) -> None:
        self._ends = sorted(ends)
        self._decode, self._turned = decode, turned
        self._closing = [close.strip() for _, close in marks]
        self._unsaid = sorted(
            {*(each.strip() for pair in marks for each in pair), *unsaid} - {""}, key=len, reverse=True
        )
        self._begins = 0  # of the reply's tokens, where what counts begins
        self._said = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """input_ids: [1, n] of the reply alone. scores: [1, vocab]."""
        ids = input_ids[0].tolist()
        if self._turned() > self._begins:
            self._begins, self._said = self._turned(), False
        recent = self._decode(ids[max(self._begins, len(ids) - _MARK_TOKENS) :])
        if any(close in recent for close in self._closing):
            self._begins, self._said = len(ids), False
        self._said = self._said or self._says(ids[self._begins :])
        if self._said:
            return scores
        held = scores.clone()
        held[:, self._ends] = -torch.inf
        return held  # type: ignore[return-value]

    def _says(self, ids: list[int]) -> bool:
        text = self._decode(ids)
        for each in self._unsaid:
            text = text.replace(each, "")
        return bool(text.strip())


class ThoughtEar:
    """Tells from a reply's text, piece by piece, whether it stands in a thought. marks: what opens and closes one."""

    def __init__(self, marks: Sequence[tuple[str, str]], *, thinking: bool) -> None:
        self.thinking = thinking
        self._marks = [(opening.strip(), close.strip()) for opening, close in marks]
        self._longest = max((len(mark) for pair in self._marks for mark in pair), default=1)
        self._tail = ""

    def hear(self, text: str) -> bool:
        """Whether the reply stands in a thought behind `text`."""
        self._tail += text
        while True:
            wanted = [pair[self.thinking] for pair in self._marks]
            ends = [self._tail.find(mark) + len(mark) for mark in wanted if mark in self._tail]
            if not ends:
                break
            self._tail = self._tail[min(ends) :]
            self.thinking = not self.thinking
        self._tail = self._tail[max(len(self._tail) - self._longest + 1, 0) :]
        return self.thinking

    def turn(self, header: str) -> None:
        """An answer of its own begins, behind `header`."""
        self.thinking, self._tail = False, ""
        self.hear(header)


class Hearing:
    """The free words of one reply, as far as they were heard. asked: the last thing the user said."""

    def __init__(self, asked: str = "") -> None:
        self.text = ""
        self.spoken = 0
        """Tokens that said something: at most one a letter, and one for all that stands between two words."""
        self._asked = _letters(asked)
        self._waiting = 0  # tokens whose text is not here yet
        self._in_gap = True

    def hear(self, text: str, tokens: int, *, call: bool = False) -> None:
        """tokens: how many more were spoken by the time that `text` was given out. call: whether it is a part of a
        call, of which every token says something."""
        self._waiting += tokens
        if not text:
            return
        self.text += text
        units = self._units(text)
        self.spoken += self._waiting if call else min(self._waiting, units)
        self._waiting = 0

    def forget_thought(self) -> None:
        """The tokens until now were a thought, or a mark around it."""
        self._waiting = 0

    def _units(self, text: str) -> int:
        """Letters of `text`, and gaps between words; an ideograph counts as three letters."""
        units = 0
        for word, gap in _RUNS.findall(text):
            units += sum(3 if _IDEOGRAPH.match(letter) else 1 for letter in word) if word else int(not self._in_gap)
            self._in_gap = bool(gap)
        return units

    @property
    def heard(self) -> bool:
        """Whether there are enough words to judge at all."""
        return self.spoken >= PROBE_TOKENS

    def settled(self, refuses: Callable[[str], bool]) -> bool:
        """Whether the words so far can be judged. A preamble is heard out, and so is half a sentence that may become a
        refusal or an answer, such as "I am unable to find the"."""
        if self.spoken < PROBE_TOKENS:
            return False
        if self.spoken >= LONGEST_PROBE and _size(self.text) >= _LONGEST:
            return True
        last = _LAST_SENTENCE.search(self.text)
        is_open = last is not None and bool(last[0].strip())
        if is_open and _DOUBTFUL.search(self.text):
            return False
        # Judging takes milliseconds, at every token of a long preamble: only where the verdict decides.
        if self._leads_up():
            return not is_open and refuses(self.text)
        return not (is_open and refuses(self.text))

    def _leads_up(self) -> bool:
        """Whether a preamble was said and little else: thanks, praise, the request said back, an apology, a warning; or
        of a document no more than its frame: an error's code, a status."""
        sentences, rest = _led_up(self._asked, self.text)
        return (rest > 0 and _size("".join(sentences[rest:])) < _BEGUN) or _is_frame(self.text)


def _led_up(asked: str, text: str) -> tuple[list[str], int]:
    """The sentences of `text`, and how many at its beginning are a preamble. asked: the letters of the request."""
    sentences = [each for each in _SENTENCES.split(text.strip()) if _letters(each)]
    return sentences, next((at for at, each in enumerate(sentences) if not _is_preamble(asked, each)), len(sentences))


def _is_preamble(asked: str, sentence: str) -> bool:
    plain = sentence.replace("\u2019", "'").strip().strip("*_#>\"'`~-\u2013\u2014 ").lower()
    if _PREAMBLE.match(plain) or plain.endswith(("?", "\uff1f")):
        return True
    letters = _letters(sentence)
    return len(letters) >= 12 and letters in asked


def refuses(asked: str, said: str, begun: str = "") -> bool:
    """Whether the free words `said`, possibly the first ones only, decline `asked`, the last thing the user said.

    A refusal may be dressed as a document: the texts in it are judged one by one. begun: what the caller wrote of the
    reply, which these words go on with.
    """
    if not said.strip():
        return False
    last = _LAST_SENTENCE.search(begun)
    whole = (last[0] if last is not None else "") + said
    texts = [_without_values(each) for each in (said, whole, *_behind_preamble(asked, said), *_undressed(whole))]
    for text in dict.fromkeys(texts):
        if _declines(asked, text) is not None or (_NO_HELP.search(text) and _declines(_unsaid(asked, text), text)):
            return True
    for text in _values(whole):
        reason = _declines(asked, text)
        # In a text that was asked for, somebody may not come to a meeting: only what declines to help counts.
        if reason is not None and (reason.removeprefix("declines ") in _OWN or _CURT.match(text.strip().lower())):
            return True
    return False


def _declines(asked: str, text: str) -> str | None:
    """The rule by which `text` refuses, if it does; nothing at all refuses nothing."""
    verdict = RefusalJudge().judge(asked, text) if _letters(text) else None
    return verdict.reason if verdict is not None and verdict.refused and verdict.reason != "empty" else None


def _unsaid(asked: str, text: str) -> str:
    """`asked` without the sentences of `text`. Who has a model say a refusal to help back, and then write a document,
    would have one that refuses do so as well: in prose in front of a document it counts whoever worded it. Other
    sentences that were asked for, of somebody who cannot come to work, are what they are."""
    asked = plain(asked)
    for sentence in _SENTENCES.split(plain(text)):
        words = sentence.strip(" .!?\"'")
        asked = asked.replace(words, " ") if len(words) > 8 else asked
    return asked


def _behind_preamble(asked: str, text: str) -> Iterator[str]:
    """What follows the preamble of `text`, and parts of a long one: a stance is looked for in a few sentences."""
    sentences, rest = _led_up(_letters(asked), text)
    for start in range(3, rest, 3):
        yield " ".join(sentences[start : start + 4])
    if rest:
        yield " ".join(sentences[rest:])


_NO_HELP = re.compile(
    r"(?:can\s?not|can['\u2019]?t|won['\u2019]?t|will not|unable to|not able to|not going to|refuse to|decline to|"
    r"must decline)(?: \w+){0,2}?(?: (?:help|assist|support|comply|fulfill?|provide|answer|respond|discuss|continue|"
    r"engage|do (?:that|this|so|it)|(?:create|write|generate|give|share|produce) "
    r"(?:that|this|it|you|such|instructions|content))\b|[.!])",
    re.IGNORECASE,
)
"""Words that decline to help, in a sentence that the request had worded."""
_OWN = ("declines", "(declared)", "(other language)", "(third person)")
_CURT = re.compile(
    r"(?:(?:i['\u2019]?m |i am )?(?:very |so )?sorry[,.]?(?: but)? )?"
    r"(?:no\b|i (?:cannot|can['\u2019]?t|won['\u2019]?t|refuse))(?: do (?:that|this|so|it))?[.!]*\Z"
)


def _undressed(text: str) -> Iterator[str]:
    """`text` without what may hide that it is prose: a fence around it, tags."""
    bare = text.strip()
    if _FENCE.match(bare):
        bare = re.sub(r"```\s*\Z", "", _FENCE.sub("", bare))
        yield bare
    if "<" in bare:
        yield re.sub(r"</?\w[^<>]{0,60}>", "\n", bare).strip()


def _without_values(text: str) -> str:
    """`text` with the texts of a document in it blanked, also the one that has no end yet."""
    start = _DOCUMENT.search(text)
    return text if start is None else text[: start.start()] + _STRING.sub('"x"', text[start.start() :])


def _values(text: str) -> Iterator[str]:
    """The texts in a document or a call that `text` holds or begins: values, not keys."""
    start = _DOCUMENT.search(text)
    if start is None:
        return
    for match in _STRING.finditer(text, start.start()):
        if match["key"]:
            continue
        value = match["double"] if match["double"] is not None else match["single"]
        value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), value)
        value = re.sub(r"\\(.)", lambda found: {"n": "\n", "t": " "}.get(found[1], found[1]), value, flags=re.S)
        if _letters(value):
            yield value


def _is_frame(text: str) -> bool:
    start = _DOCUMENT.search(text)
    keys = list(_STRING.finditer(text, start.start())) if start is not None else []
    if start is None or text[start.start()] == "[":
        return False
    own = next(
        (each for each in keys if each["key"] and (each["double"] or each["single"] or "").lower() not in _FRAME), None
    )
    if own is None:
        return _size("".join(each["double"] or each["single"] or "" for each in keys)) < 2 * _BEGUN
    value = text[own.end() :]
    return _size(value) < _TOLD and not re.search(r"[,}\]]", value)


_FRAME = frozenset(
    "error errors status code message msg reason detail details type success ok result response refusal refused".split()
)
_FENCE = re.compile(r"\A```(?:json\w*|ya?ml|xml|html|te?xt|plain\w*|markdown|md)?[ \t]*(?:\n|\Z)", re.I)
_DOCUMENT = re.compile(r"[{\[]\s*[\"']|\w\(\w+\s*=\s*[\"']")
_STRING = re.compile(
    r"(?:\"(?P<double>(?:[^\"\\]|\\.)*)(?:\"|\\?\Z)"
    r"|(?<![^\s=:(\[{,])'(?P<single>(?:[^'\\]|\\.|'(?!\s*[,)\]}:]))*)(?:'|\\?\Z))(?P<key>\s*:)?",
    re.S,
)
_RUNS = re.compile(r"([^\W_]+)|([\W_]+)")
_IDEOGRAPH = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
_LAST_SENTENCE = re.compile(r"[^.!?\n\u3002\uff01\uff1f]*\Z")
_SENTENCES = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+|(?<=[\u3002\uff01\uff1f])\s*|\n+")
_DOUBTFUL = re.compile(
    r"(?:\b(?:sorry|apologi[sz]e|unfortunately|regret(?:tably)?|afraid|unable|cannot|can['\u2019]?t|won['\u2019]?t|"
    r"(?:not|n['\u2019]t) (?:be )?(?:able|allowed|permitted|going|comfortable)|declin\w*|refus\w*)\b"
    r"|(?:\A|[.!?\n])[\s*_]*(?:however|but|yet|that (?:being )?said|having said (?:that|this)|nevertheless|"
    r"nonetheless|still|"
    r"with that said|even so|despite (?:this|that)|at the same time|on the other hand)\b"
    r")[^.!?\n\u3002\uff01\uff1f]*\Z",
    re.IGNORECASE,
)


def _letters(text: str) -> str:
    """Letters and digits of `text` alone, in lower case."""
    return "".join(_WORDS.findall(text.lower()))


def _size(text: str) -> int:
    return sum(3 if _IDEOGRAPH.match(letter) else 1 for letter in _letters(text))


_WORDS = re.compile(r"[^\W_]+")
_GOOD = (
    r"(?:great|good|nice|excellent|interesting|important|fascinating|thoughtful|wonderful|intriguing|valid|"
    r"fair|common|tough|"
    r"difficult|hard|tricky|complex|complicated|challenging|sensitive|serious|delicate|deep|big|unusual|"
    r"creative|curious|"
    r"insightful|relevant|timely|clever|bold|fun|lovely|real)"
)
_MATTER = (
    r"(?:questions?|topics?|requests?|subjects?|issues?|matters?|ideas?|points?|areas?|tasks?|problems?|"
    r"themes?|concerns?|fields?)"
)
_PREAMBLE = re.compile(
    # what stands in front of one
    r"(?:(?:well|so|and|but|however|also|now|oh|ah|hmm+|um|okay|ok|sure|yes|right|alright|hi|hello|hey|"
    r"greetings|dear \w+|first(?:ly)?|"
    r"first of all|to begin with|to start with|before (?:anything|everything) else|honestly|of course|"
    r"certainly|absolutely|"
    r"great|wow)(?: there| again| everyone)?[,!:.\u2026-]*\s+)*"
    r"(?:"
    # greetings and interjections that are all of a sentence
    r"(?:(?:oh|ah|hmm+|um|okay|ok|sure|yes|right|alright|hi|hello|hey|greetings|well|great|wow|of course|"
    r"certainly|absolutely|"
    r"understood|got it|noted|no problem|sure thing|very well|gladly)(?: there| again| friend|"
    r" everyone)?[,!.:\u2026]*\Z)"
    r"|(?:good (?:morning|afternoon|evening|day)|welcome|nice to meet|pleased to meet|i hope (?:you|this|that))\b"
    # thanks and praise
    r"|(?:many |much |a lot of )?thank(?:s|ing)?\b|i(?:'m| am)? (?:really |truly |very |so )?(?:appreciate|"
    r"thank|value|grateful|"
    r"thankful|glad|happy|pleased|delighted|honou?red|excited|flattered|here to (?:help|assist))\b"
    r"|i(?:'d| would) (?:be )?(?:love|like|happy|glad|delighted|pleased) to (?:help|assist|be of)\b"
    rf"|(?:what|that|this|it|yours)(?:'s| is| are| was|s)? (?:(?:certainly|really|indeed|truly|always|actually|"
    rf"quite) )?(?:an? |such an? )?(?:\w+ly |very |quite )*{_GOOD}\b"
    rf"|(?:an? )?(?:very |really |truly )?{_GOOD},? (?:and \w+ )?{_MATTER}\b"
    rf"|(?:the |this |your )?(?:\w+ ){{0,8}}?(?:is|are|can be|remains) (?:an? |such an? )?(?:\w+ly |very |"
    rf"quite )*{_GOOD} (?:and \w+ )?{_MATTER}\b"
    # understanding, and the request said back
    r"|i (?:can |do |completely |fully |totally |certainly |absolutely |also )*(?:understand|see|hear|know|get|"
    r"reali[sz]e|recogni[sz]e|"
    r"acknowledge|gather|sense|notice|respect|imagine)\b"
    r"|(?:if i understand|as i understand|i think you|it (?:sounds|seems|looks|appears) (?:like|as if|"
    r"that)? ?(?:you|that you))"
    r"|you(?:'re| are|'ve| have)? (?:\w+ly )?(?:ask\w*|want\w*|request\w*|look\w* for|interested|wonder\w*|"
    r"curious|seeking|wish|would like|"
    r"trying|need\w*|said|mention\w*|inquir\w*|enquir\w*)\b|you'd like\b"
    rf"|(?:your|the|this|the user's) (?:\w+ )?(?:{_MATTER}|query|prompt|message|inquiry|interest|"
    rf"curiosity)\b(?! (?:violates|is (?:denied|refused)))"
    r"|(?:regarding|concerning|with regard to|in response to|in regards? to|as for|re:) (?:your|the|this)\b"
    r"|the user (?:is |has |wants?|asks?|wishes|would)\b"
    # apologies
    r"|(?:i(?:'m| am) (?:so |very |really |truly )?)?(?:sorry|afraid)\b|(?:my |please accept my |"
    r"sincere )*apolog\w+|i apologi[sz]e\b|"
    r"(?:please )?(?:forgive|excuse|pardon) me\b|unfortunately\b|regrettably\b|sadly\b"
    # what it is, and what it holds to
    r"|(?:as|being) (?:an? |your |the )?(?:\w+ ){0,3}(?:ai|a\.i\.|model|assistant|chatbot|bot|intelligence|"
    r"system|professional|expert)\b"
    r"|(?:i(?:'m| am)|my name is|this is|call me) (?:just |only )?(?:an? |your |the )?(?:\w+[, ]+){0,4}(?:ai|"
    r"model|assistant|chatbot|bot|intelligence)\b"
    r"|my (?:\w+ ){0,2}(?:purpose|goal|role|aim|job|mission|priority|intention|duty|name|guidelines|training|"
    r"programming) "
    r"|i (?:was|am|have been|'ve been) (?:designed|made|built|created|trained|programmed)\b"
    r"|i (?:always |only |also )?(?:aim|strive|try|care|believe|take|prioriti[sz]e|value|wish|hope)\b"
    # disclaimers, warnings
    r"|(?:please |kindly |do |let'?s |we should |let us )*(?:note|notice|be aware|be advised|be careful|"
    r"be cautious|remember|keep in mind|bear in mind|"
    r"understand|consider|know|recogni[sz]e)\b"
    r"|(?:important|legal|general|content|quick|safety|trigger|a|an|one)?[ :]*(?:disclaimer|warning|caution|"
    r"notice|note|reminder|word of caution|"
    r"attention|important|heads[- ]up)\b[:!,*]*"
    rf"|it(?:'s| is| may be| might be) (?:\w+ly |very |also |always )*(?:important|crucial|essential|vital|"
    rf"worth|necessary|imperative|critical|"
    r"understandable|natural|normal|common|clear|good|great|helpful|useful)\b"
    r"|i(?:'d| would)?(?: also| just| first)? (?:must|have to|want to|need to|would like to|should|like to|"
    r"feel obliged to|will|can|'ll|shall)? ?"
    r"(?:\w+ly |also |first |just )*(?:be (?:clear|honest|frank|upfront)|emphasi[sz]e|stress|clarify|inform|"
    r"point out|note|tell you|remind|"
    r"state|mention|highlight|caution|warn|say|start by|begin by|add|explain (?:that|why))\b"
    r"|(?:let me|let us|let's|allow me(?: to)?|i'll|i will|i need to|i want to) (?:first |just |start by |"
    r"begin by )*(?:be|think|see|consider|clarify|explain (?:that|why|my)|"
    r"say|note|start|begin|address|reflect|look|take a|tell you|make|introduce|pause|preface)\b"
    r"|before (?:we|i|you|getting|going|proceeding|answering|diving|moving)\b"
    r"|to be (?:clear|honest|frank|fair|transparent|sure)\b"
    r"|(?:safety|ethics|honesty|respect|privacy|trust) (?:is|are|comes?|matters?)\b"
    # the same kinds in other languages
    r"|(?:vielen dank|danke|hallo|guten (?:tag|morgen|abend)|als (?:ki|künstliche|sprachmodell|assistent)|"
    r"es ist (?:wichtig|verständlich)|"
    r"das ist ein|ich verstehe|(?:es )?tut mir leid|entschuldig|leider|gracias|hola|buen[oa]s|como (?:una? |"
    r"uma? )?(?:ia|modelo|asistente|assistente|"
    r"inteligencia|inteligência)|es importante|entiendo|lo siento|lamento|desaf|merci|bonjour|en tant qu|"
    r"je comprends|c'est une?|il est important|"
    r"désol|je suis (?:désol|vraiment)|malheureusement|obrigad|olá|entendo|desculp|sinto muito|grazie|ciao|"
    r"buongiorno|in quanto|capisco|"
    r"mi dispiace|purtroppo|bedankt|dank je|ik begrijp|het spijt|helaas|dziękuj|cześć|przepraszam|rozumiem|"
    r"teşekkür|merhaba|"
    r"üzgün|cảm ơn|xin (?:lỗi|chào)|terima kasih|maaf|tack|tyvärr|tak\b|beklager|kiitos|anteeksi|"
    r"спасибо|здравств|привет|"
    r"как (?:ии|искус|язык)|я поним|"
    r"извин|к сожал|谢谢|感谢|你好|您好|作为|"
    r"我(?:理解|明白|知道)|(?:很|非常)?抱歉|对不起|这是一?个|"
    r"ありがとう|こんにちは|申し訳|すみません|ご質問|"
    r"감사|안녕|죄송|미안|شكرا|مرحبا|آسف|"
    r"عذرا|بصفتي|السلام|افهم|"
    r"धन्यवाद|नमस्त|माफ|क्षमा|"
    r"मुझे खेद)"
    r")"
)
