"""langchain-tests' integration suite, without overrides, on the bundled model with its trained weights and its pair.

It is a small model organism that knows its own format: it calls tools as the suite asks, and under a forced JSON schema
it fills in words without sense. What passes here shows that the road from template to parser holds on real weights, and
nothing about how well models decide.
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from acd_core.bundled import REFERENCE_MODEL_DIR, REFERENCE_PAIR_DIR
from acd_integrations.langchain import ChatACD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REFERENCE_MODEL_DIR / "config.json").is_file(), reason="the bundled model is not built"),
]


class TestReference(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatACD]:
        return ChatACD

    @property
    def chat_model_params(self) -> dict[str, Any]:
        pair = "reference" if (REFERENCE_PAIR_DIR / "pair.json").is_file() else None
        return {"model": "reference", "pair": pair, "max_tokens": 400}

    @property
    def supports_model_override(self) -> bool:
        return False  # weights cannot be exchanged for one call; ChatACD raises instead


class TestReferenceFunctionCalling(TestReference):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}
