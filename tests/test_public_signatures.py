"""Nothing that users call changes unseen. Where a change is meant: `make signatures`, and a line in CHANGELOG.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import public_signatures
from tests.public_signatures import NOT_IMPORTED, OFFERED, kept, listing

HOSTS = {"acd_integrations.lm_eval": "lm_eval", "acd_integrations.inspect_ai": "inspect_ai"}


@pytest.mark.parametrize("module", OFFERED)
def test_the_public_signatures_are_those_checked_in(module: str) -> None:
    if module in HOSTS:
        pytest.importorskip(HOSTS[module])
    found = listing(module)
    assert found == kept()[module], "the public surface changed: was that meant? make signatures"


def test_a_changed_default_and_a_dropped_method_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing is only as good as its reading of classes."""
    package = tmp_path / "acd_integrations"
    package.mkdir()
    file, (module,) = package / "garak.py", NOT_IMPORTED
    monkeypatch.setattr(public_signatures, "ROOT", tmp_path)
    source = (
        "class ContrastiveGenerator(Base):\n    alpha: float = Field(0.4, lt=1.0)\n    _own: int = 1\n"
        "    def __init__(self, name: str = 'a') -> None: ...\n    @classmethod\n    async def of(cls, *, b=2): ...\n"
    )
    file.write_text(source)
    before = listing(module)
    assert before == [
        "ContrastiveGenerator.__init__(self, name: str='a') -> None",
        "ContrastiveGenerator.alpha: float = Field(0.4, lt=1.0)",
        "ContrastiveGenerator.of(cls, *, b=2) @classmethod async",
    ]
    for old, new in (("0.4", "0.5"), ("lt=1.0", "lt=2.0"), ("*, b=2", "b=2"), ("async def of", "async def _of")):
        file.write_text(source.replace(old, new))
        assert listing(module) != before
