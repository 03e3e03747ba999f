"""What the packaging promises: every extra that an error or a page names exists and brings what is missing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for package in ("acd_core", "acd_integrations") for p in (ROOT / package).rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py"), ROOT / "Makefile"]


@pytest.fixture(scope="module")
def extras() -> dict[str, set[str]]:
    """Extra -> the packages it brings, those of extras within it included."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def packages(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in declared[extra]:
            inner = re.match(r"acd-integrations\[(.+)\]", requirement)
            found |= set().union(*map(packages, inner[1].split(","))) if inner else {_name(requirement)}
        return found

    return {extra: packages(extra) for extra in declared}


def _name(requirement: str) -> str:
    return re.split(r"[\[>=<~;! ]", requirement)[0].lower().replace("_", "-")


def hints(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Package and extra of every call of `missing_extra`; a loop's variable stands for each package of the loop."""
    loops: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Tuple):
            loops[node.target.id] = [each.value for each in node.iter.elts if isinstance(each, ast.Constant)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("missing_extra"):
            package, extra = node.args
            names = loops[package.id] if isinstance(package, ast.Name) else [ast.literal_eval(package)]
            yield from ((name, ast.literal_eval(extra)) for name in names)


def test_an_extra_that_an_error_names_brings_the_missing_package(extras: dict[str, set[str]]) -> None:
    told = [(path.name, *hint) for path in SOURCES for hint in hints(ast.parse(path.read_text(encoding="utf-8")))]
    assert {("set_files.py", "pyarrow", "eval"), ("gguf_files.py", "accelerate", "gguf")} <= set(told)
    assert [hint for hint in told if _name(hint[1]) not in extras.get(hint[2], ())] == []


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_an_extra_that_a_text_names_exists(path: Path, extras: dict[str, set[str]]) -> None:
    named = re.findall(r"(?:acd-integrations|\.)\[([a-z][\w,-]*)\]", path.read_text(encoding="utf-8"))
    assert {extra for each in named for extra in each.split(",")} <= set(extras)


def test_every_extra_is_used(extras: dict[str, set[str]]) -> None:
    """An extra whose packages nothing imports promises something that is not there."""
    imported = {"lm_eval": "lm-eval", "inspect_ai": "inspect-ai", "llama_index": "llama-index-core"}
    used: set[str] = {"accelerate", "peft"}  # transformers imports them: device maps, GGUF files, adapters
    for path in [*SOURCES, *(ROOT / "examples").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                names += [ast.literal_eval(node.args[0])] if isinstance(node.args[0], ast.Constant) else []
            tops = {name.partition(".")[0] for name in names}
            used |= {imported.get(top, top.replace("_", "-")) for top in tops}
    assert {extra: packages - used for extra, packages in extras.items() if extra != "dev" and packages - used} == {}
