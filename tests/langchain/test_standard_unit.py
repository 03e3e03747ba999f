"""langchain-tests' unit suite, without overrides."""

from __future__ import annotations

from typing import Any

from langchain_tests.unit_tests import ChatModelUnitTests

from acd_integrations.langchain import ChatACD


class TestChatACD(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatACD]:
        return ChatACD

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "reference", "pair": "reference"}


class TestChatACDByHubId(ChatModelUnitTests):
    """A model that is not on this machine: nothing of the unit suite may need it."""

    @property
    def chat_model_class(self) -> type[ChatACD]:
        return ChatACD

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "nobody/has-this-model", "pair": "nobody/has-this-pair", "method": "acd", "alpha": 0.5}
