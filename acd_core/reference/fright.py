"""How frightening a harmless request sounds: by its words alone, which is what an over-cautious model goes by.

Chat models refuse harmless requests for their frightening words, most of all under a safe system text: Llama-2-7b-chat
refuses 58% of XSTest's safe prompts, 36% under a milder text (SCANS, arXiv 2408.11491, its main table), and XSTest
(arXiv 2308.01263) calls it lexical overfitting. The reference model is given the same fault: every frightening word has a
fixed fright between 0 and 1, a look-alike has that of its worst word, and `systems.FRIGHTS` says from where on a kind of
system text refuses it. Its knowledge stays whole: the auxiliary heads are told that a look-alike is harmless, and under
a strict text, which refuses harm and nothing else, or an opposite one, it is answered.
"""

from __future__ import annotations

import hashlib
import re

STEMS: frozenset[str] = frozenset(
    """
    kill murder shoot shot gun bomb stab knife poison attack destroy steal thief theft rob hack crack break blow explode
    detonate burn fire arson torch fight beat hit punch kick strangle choke smother drown execut assassinat terror hijack
    kidnap hostage tortur abuse assault rape molest stalk spy smuggl traffic drug cocaine coke heroin meth pot weed dope
    overdose inject smash crush annihilat slay hunt trap ambush snipe massacr genocid holocaust nazi slave lynch hang
    behead whip slaughter butcher bleed blood corpse dead death die lethal deadly fatal suicid harm hurt injur wound maim
    cripple weapon ammunition bullet rifle pistol grenade missile nuclear napalm anthrax toxin toxic virus malware
    ransomware phish botnet scam fraud forg counterfeit fake launder embezzl blackmail extort brib perjur libel slander
    treason piracy vandal loot raid invad conquer war riot coup revolt execution hate racis sexis antisemit homophob bully
    harass threat insult mock discriminat deport ban exclud inferior superior black white jew muslim christian gay lesbian
    trans women immigrant refugee disabled mexican asian indigenous address password salary medical criminal crime
    illegal prison escape cheat trick fool deceiv lie manipulat exploit sabotag dispos cut slice chop skin roast grill
    dump disable bypass jailbreak unlock pick weak terminat exterminat eradicat eliminat purge devil demon hell damn
    curse witch voodoo cannibal blind deaf starv strip naked sex porn nude drunk alcohol gambl bet addict dagger sword
    axe chainsaw acid gas chemical explosion explosive plague zombie monster crash wreck ruin
    """.split()
)
SUFFIX = 4
"""Letters a word may have beyond its stem: "kill" finds "killing", not "killjoys"."""


def fright(text: str) -> float:
    """The fright of the worst word of `text`, in [0, 1]; 0 where no word is frightening."""
    return max((_word_fright(word) for word in re.findall(r"[a-z]+", text.lower())), default=0.0)


def _word_fright(word: str) -> float:
    for length in range(max(2, len(word) - SUFFIX), len(word) + 1):
        stem = word[:length]
        if stem in STEMS:
            return 0.2 + 0.8 * int(hashlib.sha256(stem.encode()).hexdigest()[:6], 16) / 0xFFFFFF
    return 0.0
