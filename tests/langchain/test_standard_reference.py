"""langchain-tests' integration suite, without overrides, on the bundled model with its trained weights.

It is a small model organism. It knows the format of calls; where a test wants a certain argument, it must copy it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

import acd_core
from acd_integrations.langchain import ChatACD

REFERENCE = Path(acd_core.__file__).parent / "reference"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REFERENCE / "model" / "config.json").is_file(), reason="the bundled model is not built"),
]


class TestReference(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatACD]:
        return ChatACD

    @property
    def chat_model_params(self) -> dict[str, Any]:
        pair = "reference" if (REFERENCE / "pair" / "pair.json").is_file() else None
        return {"model": "reference", "pair": pair, "max_tokens": 200}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # weights cannot be exchanged for one call; ChatACD raises instead


class TestReferenceFunctionCalling(TestReference):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}
