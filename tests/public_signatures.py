"""What users can call, as it is written in the source: `python -m tests.public_signatures` renews the checked-in text.

Read from the source and not from `inspect.signature`, which shows the hosts' wrappers (`*args, **kwargs`) around the
adapters' methods and leaves out the bounds of settings; and garak's plug-in cannot be imported beside the others.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LISTING = Path(__file__).with_suffix(".txt")
# Module -> the name it offers; "" for all that its __all__ names.
OFFERED = {
    "acd_core": "",
    "acd_core.tuning": "",
    "acd_integrations.langchain": "ChatACD",
    "acd_integrations.llama_index": "ACDLLM",
    "acd_integrations.lm_eval": "ContrastiveHarnessLM",
    "acd_integrations.inspect_ai": "ContrastiveAPI",
    "acd_integrations.garak": "ContrastiveGenerator",
}
NOT_IMPORTED = ("acd_integrations.garak",)


def listing(module: str) -> list[str]:
    """One line for everything that `module` offers, in the order of names."""
    name = OFFERED[module]
    if module in NOT_IMPORTED:
        files = (ROOT / module.partition(".")[0]).rglob("*.py")
        return _class_lines(name, [each for each in files if f"\nclass {name}(" in f"\n{each.read_text()}"])
    found = importlib.import_module(module)
    return [line for each in ([name] if name else sorted(found.__all__)) for line in _lines(each, getattr(found, each))]


def kept() -> dict[str, list[str]]:
    """The listing as it is checked in: module -> its lines."""
    found: dict[str, list[str]] = {}
    for block in LISTING.read_text(encoding="utf-8").split("\n\n"):
        module, *lines = block.splitlines()
        found[module.strip("[]")] = lines
    return found


def _lines(name: str, offered: Any) -> list[str]:
    if isinstance(offered, type):
        ours = [
            each for each in offered.__mro__ if each.__module__.partition(".")[0] in ("acd_core", "acd_integrations")
        ]
        # What hosts and pydantic bring along is theirs to change: only what our own classes say is listed.
        return _class_lines(
            offered.__name__, [Path(inspect.getfile(each)) for each in ours], [c.__name__ for c in ours]
        )
    if callable(offered):
        wanted = ast.parse(Path(inspect.getfile(offered)).read_text(encoding="utf-8")).body
        node = next(n for n in wanted if isinstance(n, ast.FunctionDef) and n.name == offered.__name__)
        return [f"{name}{_signature(node)}"]
    return [f"{name} = {sorted(offered) if isinstance(offered, dict) else repr(offered)}"]


def _class_lines(name: str, files: list[Path], classes: list[str] | None = None) -> list[str]:
    """The members of a class and of its bases that are ours, the nearest definition of each."""
    members: dict[str, str] = {}
    for file, own in reversed(list(zip(files, classes or [name]))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == own).body
        members.update(member for node in body for member in _member(node))
    return [f"{name}.{member}{text}" for member, text in sorted(members.items())]


def _member(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Name and text of a public member; a constructor counts, a field is written with its default and bounds."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if node.name == "__init__" or not node.name.startswith("_"):
            kinds = [f" @{ast.unparse(each)}" for each in node.decorator_list]
            kinds += [" async"] * isinstance(node, ast.AsyncFunctionDef)
            yield node.name, _signature(node) + "".join(kinds)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
        if isinstance(node.value, ast.Call):  # a sentence for people is no part of a signature
            node.value.keywords = [each for each in node.value.keywords if each.arg != "description"]
        default = f" = {ast.unparse(node.value)}" if node.value else ""
        yield node.target.id, f": {ast.unparse(node.annotation)}{default}"
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
        yield node.targets[0].id, f" = {ast.unparse(node.value)}"


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){back}"


if __name__ == "__main__":
    text = "\n\n".join("\n".join([f"[{module}]", *listing(module)]) for module in OFFERED) + "\n"
    LISTING.write_text(text, encoding="utf-8")
    print(f"{LISTING.name}: {len(text.splitlines())} lines")
