"""docs/templates.md says what the templates say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates import published
from tests.templates.page import page


@pytest.mark.skipif(not published.names(), reason=published.ABSENT)
def test_the_page_is_up_to_date() -> None:
    assert (Path(__file__).parents[2] / "docs" / "templates.md").read_text(encoding="utf-8") == page()
