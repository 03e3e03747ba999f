"""lm-evaluation-harness measures a model under any decoding method, its log-likelihoods on the joined distribution.

    python -m acd_integrations.lm_eval run --model acd --model_args model=reference,pair=reference --tasks mmlu
    lm_eval.simple_evaluate(model=ContrastiveHarnessLM("reference", "reference", alpha=0.3), tasks=[...])

The harness has no plug-in discovery: importing this module registers "acd", and the first form does so before it starts
the harness's own command line. With `--apply_chat_template` a context is a conversation; without it, it is plain text
that the model continues with no chat format (the method's prompts stand before it all the same).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

from acd_core.errors import missing_extra
from acd_core.params import GenerationParams
from acd_core.spec import LMSpec
from acd_integrations.shared.settings import check_none_beside

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from tqdm import tqdm
except ImportError as error:  # pragma: no cover - depends on the installation
    raise missing_extra("lm-eval", "lm-eval") from error

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

_REQUESTS_AT_ONCE = 64
"""Log-likelihoods between two movements of the progress bar; the core packs them into forwards by length."""


class ConversationText(str):
    """A conversation as JSON: the harness wants a string from `apply_chat_template`, and hands it back as a context."""


class ContrastiveHarnessLM(LM):
    """The model "acd" of lm-evaluation-harness.

    model: a folder, hub id, "reference", or a ContrastiveLM that is there already. Other settings: those of
    `acd_core.spec.LMSpec`, max_gen_toks for tasks that name none, and every field of GenerationParams (method, ...) and
    ContrastParams as a default. batch_size is taken for the harness's sake: the engine batches by itself.
    Raises UsageError for an unknown setting, and for one of a spec beside a ContrastiveLM, which has its own;
    ContextLengthError for a context that does not fit (nothing is cut off).
    """

    def __init__(
        self,
        model: Union[str, ContrastiveLM] = "reference",
        pair: Any = None,
        *,
        dtype: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        max_gen_toks: int = 256,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        own, for_calls = LMSpec.split(settings)
        self._params = GenerationParams.of(None, **for_calls)
        self._max_gen_toks = max_gen_toks
        if isinstance(model, str):
            spec = LMSpec(model, pair, self._params.method, dtype=dtype, device=device or "auto", revision=revision)
            self.lm = spec.replace(**own).load()
        else:
            check_none_beside(own)
            self.lm = model

    @property
    def tokenizer_name(self) -> str:
        return self.lm.model_id

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return str(self.lm.backbone.tokenizer.chat_template) if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as JSON; without a generation prompt the last one is an answer begun, which is continued."""
        turns = [dict(turn) for turn in chat_history]
        if add_generation_prompt and turns and turns[-1]["role"] == "assistant":
            turns[-1]["prefix"] = False  # type: ignore[assignment]
        return ConversationText(json.dumps(turns, ensure_ascii=False))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Replies, in order; all requests with the same settings are decoded together."""
        groups: dict[GenerationParams, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(self._settings(request.args[1]), []).append(place)
        replies = [""] * len(requests)
        with tqdm(total=len(requests), desc="acd generate_until", disable=disable_tqdm) as bar:
            for params, places in groups.items():
                conversations = [conversation(requests[place].args[0]) for place in places]
                for number, reply in self.lm.generate_each(conversations, params):
                    place = places[number]
                    replies[place] = reply.text
                    self.cache_hook.add_partial("generate_until", requests[place].args, reply.text)
                    bar.update()
        return replies

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, whether greedy decoding would say it) of each (context, continuation)."""
        results: list[tuple[float, bool]] = []
        with tqdm(total=len(requests), desc="acd loglikelihood", disable=disable_tqdm) as bar:
            for start in range(0, len(requests), _REQUESTS_AT_ONCE):
                batch = requests[start : start + _REQUESTS_AT_ONCE]
                pairs = [self._pair(*request.args[:2]) for request in batch]
                found = self.lm.loglikelihoods(pairs, self._params)
                results += [(each.logprob, each.is_greedy) for each in found]
                for request, result in zip(batch, results[start:]):
                    self.cache_hook.add_partial("loglikelihood", request.args, result)
                bar.update(len(batch))
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts without context.

        A text longer than the model's context is scored in windows, as by the harness's own models: every token once,
        and the last window is full, so that its first tokens are context only.
        """
        results = []
        nothing = [{"role": "text", "content": ""}]
        room = self.lm.max_input_tokens - self.lm.count_tokens(nothing)
        for request in tqdm(requests, desc="acd loglikelihood_rolling", disable=disable_tqdm):
            ids = self.lm.token_ids(request.args[0])
            ends = [min(start + room, len(ids)) for start in range(0, len(ids), room)]
            windows = [ids[max(0, end - room) : end] for end in ends]
            found = self.lm.loglikelihoods([(nothing, window) for window in windows], self._params)
            fresh = [end - start for start, end in zip([0, *ends], ends)]
            total = sum(sum(each.logprobs[-count:]) for each, count in zip(found, fresh))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            results.append(total)
        return results

    def _settings(self, gen_kwargs: dict[str, Any]) -> GenerationParams:
        given = dict(normalize_gen_kwargs(gen_kwargs, self._max_gen_toks))
        stops = [text for text in given.pop("until") if text]
        if not given.pop("do_sample"):
            given["temperature"] = 0.0
        return GenerationParams.of(self._params, stop=stops, max_tokens=given.pop("max_gen_toks"), **given)

    def _pair(self, context: str, continuation: str) -> tuple[Any, Union[str, Sequence[int]]]:
        """What the scorer takes. Where a text goes on (no new turn), tokens are those of the whole, and spaces at the
        end of the context belong to the continuation, both as the harness has it."""
        turns = conversation(context)
        last = turns[-1]
        if last["role"] == "user" or not last.get("prefix", True):
            return turns, continuation
        begun = last["content"].rstrip(" ")
        continuation = last["content"][len(begun) :] + continuation
        known, whole = self.lm.token_ids(begun), self.lm.token_ids(begun + continuation)
        joined = whole[: len(known)] == known and len(whole) > len(known)
        return [*turns[:-1], {**last, "content": begun}], whole[len(known) :] if joined else continuation


def conversation(context: str) -> list[dict[str, Any]]:
    """A context of the harness as messages: the turns it was made of, or one text to be continued."""
    if isinstance(context, ConversationText):
        turns: list[dict[str, Any]] = json.loads(context)
        return turns
    return [{"role": "text", "content": context}]


register_model("acd")(ContrastiveHarnessLM)

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
