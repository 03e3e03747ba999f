"""langchain-tests' integration suite, without overrides, on the bundled model with its trained weights.

It is a small model organism: everything here that needs no tools and no forced form.
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

    # What needs tools or forced forms runs on the scripted model (test_standard.py). This model copies arguments too
    # unreliably (see its card), and the pair of the paper's losses refuses some of the suite's harmless questions.
    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return False  # weights cannot be exchanged for one call; ChatACD raises instead
