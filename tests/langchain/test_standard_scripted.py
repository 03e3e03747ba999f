"""langchain-tests' integration suite, without overrides, on a scripted model below the real engine.

The scripted model says the right thing only where the two branches are contrasted, so every call of the suite also
proves that it went through the contrast. It proves plumbing, not model quality.
"""

from __future__ import annotations

from typing import Any

from langchain_tests.integration_tests import ChatModelIntegrationTests

from acd_integrations.langchain import ChatACD
from tests.langchain.standard_script import scripted_params


class TestScripted(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatACD]:
        return ChatACD

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return scripted_params()

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # weights cannot be exchanged for one call; ChatACD raises instead


class TestScriptedFunctionCalling(TestScripted):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}
