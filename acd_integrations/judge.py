"""Any LangChain chat model as a judge: `ModelJudge(LangChainAsker(ChatOpenAI(...)), "harm")`."""

from __future__ import annotations

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage


class LangChainAsker:
    """A chat model that answers a text, as `acd_core.evaluation.model_judges` wants it.

    Give the model temperature 0 where it has one; sampling makes verdicts differ between runs. `name` is the model's
    own name (a field model_name, model or model_id), else its class: it stands in reports and binds kept verdicts.
    """

    def __init__(self, model: BaseChatModel, name: str | None = None) -> None:
        self._model = model
        fields = (getattr(model, field, None) for field in ("model_name", "model", "model_id"))
        self.name = name or next((each for each in fields if isinstance(each, str) and each), type(model).__name__)

    def ask(self, prompt: str) -> str:
        """The text of the reply (its text blocks joined). Raises what the model raises."""
        reply = self._model.invoke([HumanMessage(prompt)])
        assert isinstance(reply, AIMessage)
        return str(reply.text)
