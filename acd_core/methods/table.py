"""The decoding-time methods as rows of one table. A method is data (`method.py`): to add one, add a row.

Every row says how far it is what its source describes (`Fidelity`); `docs/methods.md` is made of these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from acd_core.errors import UsageError
from acd_core.methods import prompts, rules
from acd_core.methods.method import Fidelity, Learnt, Method, Slot, Source, Stream
from acd_core.params import shown

__all__ = [
    "METHODS",
    "Fidelity",
    "Learnt",
    "Method",
    "Slot",
    "Source",
    "Stream",
    "add_method",
    "method_named",
    "own_method_key",
]

_ROSE = "ROSE, arXiv 2402.11889, equation 2: z(safe prompt) - alpha z(reverse prompt)"

_PLACE = (
    "the soft prompts stand in the system slot of the chat template, where the paper puts them in front of the "
    "instruction (its I_S and I_A)"
)
_LABEL_FREE = (
    "around every request, where the paper knows which prompts are safe; the texts are ours, since the paper's were "
    "not at hand and no repository was found"
)

_SCANS = (
    "one threshold, fixed on held-out requests, where the authors' SCANS_llama.py has one for each test set; the "
    "strength follows from the distance of the classes (theirs is 3.5 or 4, by model); anchors are ours"
)

_DERTA = (
    "the adapter learns from hundreds of the model's own replies to our anchors, where the authors have 66 000 rows; "
    "each kind of rows weighs alike, where they take one mean over all tokens; the refusal token is the first of the "
    "refusals in use, where their code has the one id 19701 (`acd_core/tuning/turning.py`)"
)

_ROWS = (
    Method(
        "none",
        (Stream(),),
        "the model alone: z",
        fidelity=Fidelity.FAITHFUL,
    ),
    Method(
        "safe-prompt",
        (Stream(prompts.SAFE_PROMPT),),
        "Llama-2's default system prompt (Touvron et al. 2023), z(safe prompt); papers' 'Base'",
        fidelity=Fidelity.FAITHFUL,
    ),
    Method(
        "self-reminder",
        (Stream(),),
        "Xie et al., Nature Machine Intelligence 2023, official Remind template: z(reminder, query, reminder)",
        wrap_user=prompts.SELF_REMINDER_PREFIX + "{}" + prompts.SELF_REMINDER_SUFFIX,
        fidelity=Fidelity.FAITHFUL,
    ),
    Method(
        "self-reminder-system",
        (Stream(prompts.SELF_REMINDER_SYSTEM.strip()),),
        "Self-Reminder as SafeDecoding and DeepInception run it: prefix in the system slot, suffix after the query",
        wrap_user="{}" + prompts.SELF_REMINDER_SYSTEM_SUFFIX,
        fidelity=Fidelity.VARIANT,
        departs="from Xie et al.: 'AI' for 'ChatGPT', the first half in the system slot; from SafeDecoding's code (its "
        "Self-Reminder baseline): the blank before that half is stripped",
    ),
    Method(
        "in-context-defense",
        (Stream(),),
        "Wei et al., arXiv 2310.06387: z(refused demonstration, query); one demonstration, its text is ours",
        demonstration=(prompts.ICD_DEMONSTRATION.user, prompts.ICD_DEMONSTRATION.assistant),
        fidelity=Fidelity.SIMPLIFIED,
        departs="one demonstration, where the paper takes k; its texts are ours, in the shape of SafeDecoding's code "
        "(its ICD baseline), since the authors have no repository",
    ),
    Method(
        "contextual-prompting",
        (Stream(),),
        "exaggerated-safety prompting, contextual strategy, Ray and Bhalani, arXiv 2405.05418: z(setting, query)",
        wrap_user=prompts.CONTEXTUAL_FRAME,
        fidelity=Fidelity.VARIANT,
        departs=f"{_LABEL_FREE}; one general setting, where the paper states the one that makes the question harmless",
    ),
    Method(
        "few-shot-prompting",
        (Stream(),),
        "exaggerated-safety prompting, few-shot strategy, Ray and Bhalani, arXiv 2405.05418: z(examples, query)",
        wrap_user=prompts.FEW_SHOT_FRAME,
        fidelity=Fidelity.VARIANT,
        departs=f"{_LABEL_FREE}; three examples in the user turn, of ours",
    ),
    Method(
        "instructive-null",
        (Stream(prompts.SAFE_PROMPT), Stream()),
        "Instructive Decoding, arXiv 2311.00233, null instruction: z(safe prompt) - alpha z(no prompt); "
        "nID in arXiv 2406.16743",
        alpha=0.4,
        fidelity=Fidelity.VARIANT,
        departs="a safe prompt in the place of the task's instruction, and alpha 0.4, as in ACD, where the authors' "
        "code takes 0.3",
    ),
    Method(
        "instructive-opposite",
        (Stream(prompts.SAFE_PROMPT), Stream(prompts.INSTRUCTIVE_OPPOSITE)),
        "Instructive Decoding, arXiv 2311.00233: z(prompt) + epsilon z(noisy prompt), epsilon = -alpha = -0.3, "
        "'opposite' noisy instruction",
        alpha=0.3,
        fidelity=Fidelity.VARIANT,
        departs="a safe prompt in the place of the task's instruction, and both in the system slot, where the authors' "
        "code puts the instruction before the input",
    ),
    Method(
        "rose",
        (Stream(prompts.SAFE_PROMPT), Stream(prompts.MANUAL_REVERSE)),
        f"{_ROSE}, manual-reverse prompt, its text as four public re-implementations have it; oID in arXiv 2406.16743",
        alpha=0.5,
        fidelity=Fidelity.FAITHFUL,
    ),
    Method(
        "rose-opposite-replace",
        (Stream(prompts.SAFE_PROMPT), Stream(prompts.OPPOSITE_REPLACE)),
        f"{_ROSE}, opposite-replace prompt; its text is ours, generated from a table of antonyms",
        alpha=0.5,
        fidelity=Fidelity.VARIANT,
        departs="the text of the reverse prompt: the paper defines it (key words swapped for antonyms), and no source "
        "prints it",
    ),
    Method(
        "rose-rand-words",
        (Stream(prompts.SAFE_PROMPT), Stream(prompts.RAND_WORDS)),
        f"{_ROSE}, rand-words prompt; its text is ours, drawn from our own word list with seed 0",
        alpha=0.5,
        fidelity=Fidelity.VARIANT,
        departs="the text of the reverse prompt: the paper defines it (random words), and no source prints it; here as "
        "many words as the safe prompt has",
    ),
    Method(
        "self-cd",
        (Stream(), Stream(prompts.SELF_CD_SAFE)),
        "Self-CD, arXiv 2401.17633: y - r (y - y'), y = z(safety prompt), y' = z(no prompt), r = 1 / (1 - alpha) = "
        "2.5; it lowers refusals of every kind",
        alpha=0.6,
        fidelity=Fidelity.FAITHFUL,
    ),
    Method(
        "adacd",
        (Stream(), Stream(prompts.ADACD_REFUSE)),
        "AdaCD, arXiv 2604.17132 (as the authors' code computes it): zp + r (zp - z) where both branches agree, else "
        "zp - r (zp - z); zp = z(refusing prompt), z = z(no prompt), r = 1 / (1 - alpha) = 4.5, tokens with "
        "p < 0.01 max p dropped, first 10 tokens",
        alpha=1.0 - 1.0 / 4.5,
        rule=rules.ADAPTIVE,
        plausibility=0.01,
        contrast_tokens=10,
        fidelity=Fidelity.FAITHFUL,
    ),
    Method(
        "safedecoding",
        (Stream(), Stream(under=(Learnt.EXPERT,))),
        "SafeDecoding, arXiv 2402.08983: p + a (p' - p) over the c = 5 or more tokens common to both top k, p' under "
        "the expert, a = alpha / (1 - alpha) = 3, first m = 2 tokens, then the model alone",
        alpha=0.75,
        rule=rules.INTERSECT,
        contrast_tokens=2,
        fidelity=Fidelity.SIMPLIFIED,
        departs="the rule and constants are those of the authors' code; the expert (`acd expert`) learns from "
        "instructions of ours instead of their 36 seed questions, and our rules accept its refusals, where they ask "
        "GPT-4",
    ),
    Method(
        "adapter",
        (Stream(under=(Learnt.EXPERT,)),),
        "z under a LoRA adapter, Hu et al., arXiv 2106.09685, section 4.1: W x + s B A x; one that is trained, or "
        "several fused by weights (`lora_fusion`)",
        fidelity=Fidelity.FAITHFUL,
    ),
    Method(
        "scans",
        (Stream(under=(Learnt.EXPERT,)),),
        "SCANS, arXiv 2408.11491, section 3.3: z with h + sigma alpha v in the middle layers, sigma = -1 where the "
        "request reads as harmless, else +1",
        expert_kind="scans",
        fidelity=Fidelity.VARIANT,
        departs=_SCANS,
    ),
    Method(
        "safe-scans",
        (Stream(prompts.SAFE_PROMPT, under=(Learnt.EXPERT,)),),
        "SCANS, arXiv 2408.11491, section 3.3, where a safe text has raised over-refusal: z(safe prompt) with "
        "h + sigma alpha v in the middle layers",
        expert_kind="scans",
        fidelity=Fidelity.VARIANT,
        departs=f"{_SCANS}; the class is read of the conversation without the safe text",
    ),
    Method(
        "alphasteer",
        (Stream(under=(Learnt.EXPERT,)),),
        "AlphaSteer, arXiv 2506.07022, section 3: z with h + lambda Delta h, Delta = Delta~ P, P onto the null space "
        "of harmless states",
        expert_kind="alphasteer",
        fidelity=Fidelity.VARIANT,
        departs="the refusal direction is the harmful minus the harmless anchors, where the authors ship vectors of "
        "their own; the middle third of the layers and one null space share, where their const.py lists both "
        "by model; no jailbreaks among the harmful requests",
    ),
    Method(
        "tsdi",
        (Stream(prompts.SAFE_PROMPT, under=(Learnt.EXPERT,)),),
        "Token-level Safety-Debiased Inference, arXiv 2502.02153: z(safe prompt) - s b, b the mean of "
        "log p(safe prompt, r) - log p(r) over random prompts r (`acd train tsdi`)",
        expert_kind="tsdi",
        fidelity=Fidelity.VARIANT,
        departs="the bias is a safe text's, against the model without it, where the paper's is that of aligned weights "
        "against the model before; random prompts are words of harmless requests, where the paper draws from MMLU; "
        "one bias for all positions, the mean over the first 8; known to us from the abstract and summaries only",
    ),
    Method(
        "derta",
        (Stream(under=(Learnt.EXPERT,)),),
        "DeRTa, arXiv 2407.09121: z under a LoRA adapter trained to refuse at any position, -log P(r | q, h_<k) - "
        "sum_t log P(refusal | q, h_<t) beside helpful replies (`acd train derta`)",
        fidelity=Fidelity.SIMPLIFIED,
        departs=_DERTA,
    ),
    Method(
        "derta-acd",
        (Stream(Slot.PAIR_SAFE, under=(Learnt.EXPERT,)), Stream(Slot.PAIR_ADVERSARIAL)),
        "ours: DeRTa's adapter (arXiv 2407.09121) on the kept stream of ACD (arXiv 2406.16743, section 3.2): "
        "z'(SP) - alpha z(AP), z' under the adapter",
        alpha=0.4,
        fidelity=Fidelity.VARIANT,
        departs=f"a combination that neither paper has; {_DERTA}; {_PLACE}",
    ),
    Method(
        "sp",
        (Stream(Slot.PAIR_SAFE),),
        "the safeguarding prompt alone: z(SP) (ablation of arXiv 2406.16743); with the pair of `acd train dro` it is "
        "DRO, arXiv 2401.18018, section 4: SP of least L_r + 0.01 L_h + 0.001 L_U",
        fidelity=Fidelity.VARIANT,
        departs=f"{_PLACE}; DRO is Simplified: requests are our anchors, and our rules read off one greedy reply a "
        "setting whether one is complied with, where the authors draw 20 and ask Llama Guard too",
    ),
    Method(
        "acd",
        (Stream(Slot.PAIR_SAFE), Stream(Slot.PAIR_ADVERSARIAL)),
        "Adversarial Contrastive Decoding, arXiv 2406.16743, section 3.2: z(SP) - alpha z(AP)",
        alpha=0.4,
        fidelity=Fidelity.VARIANT,
        departs=f"{_PLACE}; a pair is tuned by the paper's losses only by `acd tune --objective paper`; the pair's "
        "gate decides when it acts, unless gate=False",
    ),
    Method(
        "sp-null",
        (Stream(Slot.PAIR_SAFE), Stream()),
        "ablation of arXiv 2406.16743: z(SP) - alpha z(no prompt)",
        alpha=0.4,
        fidelity=Fidelity.VARIANT,
        departs=_PLACE,
    ),
    Method(
        "sp-opposite",
        (Stream(Slot.PAIR_SAFE), Stream(prompts.MANUAL_REVERSE)),
        "ablation of arXiv 2406.16743: z(SP) - alpha z(opposite prompt)",
        alpha=0.4,
        fidelity=Fidelity.VARIANT,
        departs=f"{_PLACE}; the opposite prompt is ROSE's",
    ),
    Method(
        "safe-ap",
        (Stream(prompts.SAFE_PROMPT), Stream(Slot.PAIR_ADVERSARIAL)),
        "ablation of arXiv 2406.16743: z(safe prompt) - alpha z(AP)",
        alpha=0.4,
        fidelity=Fidelity.VARIANT,
        departs=_PLACE,
    ),
    Method(
        "null-ap",
        (Stream(), Stream(Slot.PAIR_ADVERSARIAL)),
        "ablation of arXiv 2406.16743: z(no prompt) - alpha z(AP)",
        alpha=0.4,
        fidelity=Fidelity.VARIANT,
        departs=_PLACE,
    ),
    Method(
        "ap",
        (Stream(Slot.PAIR_ADVERSARIAL),),
        "the adversarial prompt alone: z(AP) (ablation of arXiv 2406.16743)",
        guarded=True,
        fidelity=Fidelity.VARIANT,
        departs=_PLACE,
    ),
)

_known: dict[str, Method] = {method.name: method for method in _ROWS}
METHODS: Mapping[str, Method] = MappingProxyType(_known)
"""All methods by name."""


def own_method_key(name: str | None) -> str | None:
    """`Method.key` of a method that was added to the table; None for one of this file, whose name is enough."""
    method = _known.get(name or "")
    return None if method is None or method in _ROWS else method.key


def add_method(method: Method) -> Method:
    """Add a method of one's own to this process's table; from then on its name can be given wherever a method's can.

    Raises UsageError for a name that is taken.
    """
    if method.name in _known:
        raise UsageError(
            f"There is a method {method.name!r} already: {_known[method.name].source}.", hint="Choose another name."
        )
    _known[method.name] = method
    return method


def method_named(name: str, *, allow_adversarial: bool = False) -> Method:
    """The row called `name`. Raises UsageError for an unknown name, and for a guarded one without the explicit flag."""
    method = METHODS.get(name)
    if method is None:
        raise UsageError(f"Unknown method {shown(name)}.", hint=f"Methods: {', '.join(METHODS)}.")
    if method.guarded and not allow_adversarial:
        raise UsageError(
            f"The method {name!r} decodes under the adversarial prompt alone, which makes the model less safe.",
            hint="It exists for the ablation: acd evaluate --allow-adversarial.",
        )
    return method
