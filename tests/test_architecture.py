"""The house rules that a reader should be able to rely on, held by reading the source and not by running it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for package in ("acd_core", "acd_integrations") for p in (ROOT / package).rglob("*.py"))
CORE = [p for p in SOURCES if p.is_relative_to(ROOT / "acd_core")]

# From the ground up; a room imports only from rooms below it or from itself. ARCHITECTURE.md shows the same list.
ROOMS = (
    ("acd_core.errors", "acd_core.locks", "acd_core.bundled"),
    ("acd_core.params", "acd_core.files", "acd_core.refusal"),
    ("acd_core.chat", "acd_core.model", "acd_core.toolcalls"),
    ("acd_core.artifacts", "acd_core.grammar", "acd_core.methods"),
    ("acd_core.engine",),
    ("acd_core.reply",),
    ("acd_core.identity", "acd_core.lm"),
    ("acd_core.spec",),
    ("acd_core.tuning",),
    ("acd_core.evaluation",),
    ("acd_core.cli",),
    ("acd_core",),  # the package itself: names of what lies below
    ("acd_integrations.shared",),
    ("acd_integrations.langchain", "acd_integrations.llama_index"),
    ("acd_integrations",),  # the harness plug-ins, and what uses both adapters
)
FLOOR = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
FRAMEWORKS = ("langchain", "langchain_core", "langgraph", "llama_index", "acd_integrations")
LONGEST_FILE = 450


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """The longest listed room that `module` lives in; None for modules that are not ours."""
    if module.partition(".")[0] not in ("acd_core", "acd_integrations"):
        return None
    if module == "acd_core":
        return module
    fitting = [room for room in FLOOR if room != "acd_core" and (module == room or module.startswith(room + "."))]
    return max(fitting, key=len) if fitting else f"(no room) {module}"


def imports(path: Path, *, lazy: bool = True) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, as deep as reading can resolve it; `lazy` includes those in functions."""
    module = module_of(path)
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    nodes = ast.walk(tree) if lazy else iter(_at_import(tree.body))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], base]).rstrip(".")
            for alias in node.names:
                yield node.lineno, _existing(base, alias.name)


def _at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: not function bodies, not `if TYPE_CHECKING`."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from _at_import([n for n in getattr(node, field, []) if isinstance(n, ast.stmt)])
        for handler in getattr(node, "handlers", []):
            yield from _at_import(handler.body)


def _existing(base: str, name: str) -> str:
    """`from base import name`: the submodule if there is one, else the module that holds the name."""
    path = ROOT.joinpath(*base.split("."), name)
    return f"{base}.{name}" if path.with_suffix(".py").exists() or path.is_dir() else base


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_no_framework(path: Path) -> None:
    found = [f"{path.name}:{line} {name}" for line, name in imports(path) if name.partition(".")[0] in FRAMEWORKS]
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_room_imports_only_from_rooms_below_it(path: Path) -> None:
    module = module_of(path)
    home = room_of(module)
    assert home in FLOOR, f"{module} is in no room of the table"
    wrong = []
    for line, name in imports(path):
        target = room_of(name)
        if target is None or target == home:
            continue
        if target not in FLOOR or FLOOR[target] >= FLOOR[home]:
            wrong.append(f"{path.name}:{line} {home} -> {name}")
    assert not wrong


def test_the_check_of_rooms_sees_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above is only as good as its reading of import statements."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    room = tmp_path / "acd_core" / "decoding"
    room.mkdir(parents=True)
    (tmp_path / "acd_core" / "lm.py").write_text("")
    file = room / "rules.py"
    file.write_text(
        "from .. import lm\nfrom acd_core.lm import X\n"
        "def f():\n    import acd_core.lm as y\n    import langchain_core\n"
    )
    assert [name for _, name in imports(file)] == ["acd_core.lm", "acd_core.lm", "acd_core.lm", "langchain_core"]
    assert [name for _, name in imports(file, lazy=False)] == ["acd_core.lm", "acd_core.lm"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_stay_readable(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{lines} lines: split it along its nouns"
    assert path.stem not in ("utils", "helpers", "manager", "common"), "a file is named after what is in it"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_executes_what_it_reads(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert not {name for _, name in imports(path)} & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            where = f"{path.name}:{node.lineno} {called}"
            assert called not in ("eval", "exec", "yaml.load"), where
            if called == "torch.load":
                assert {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only") == "True", where
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code":
                    assert ast.unparse(keyword.value) == "False", f"{path.name}:{node.lineno}"
                if keyword.arg == "use_safetensors":
                    assert ast.unparse(keyword.value) == "True", f"{path.name}:{node.lineno}"
        # Options gathered in a dict before the call: {"trust_remote_code": ...}
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                    assert ast.unparse(value) == "False", f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_what_makes_floats_names_their_type(path: Path) -> None:
    """torch's default dtype is the process's, and a model that is loaded in another thread changes it meanwhile."""
    makers = ("linspace", "logspace", "zeros", "ones", "empty", "full", "eye", "rand", "randn")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in [f"torch.{maker}" for maker in makers]:
            assert "dtype" in {keyword.arg for keyword in node.keywords}, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_only_the_backbone_calls_the_model(path: Path) -> None:
    """What acts on rows, what is read and what a model supports are seen to in one place: `Backbone.forward`."""
    called = [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    found = [name for name in called if re.search(r"(^|\.)model(\.forward)?$", name)]
    assert found == (["self.model"] if path.name == "backbone.py" else [])


def test_the_command_line_starts_without_torch() -> None:
    """`acd --help` and a typing mistake must answer at once."""
    heavy = ("torch", "transformers", *FRAMEWORKS)
    code = f"import sys, acd_core.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("room", [room for room in FLOOR if "." in room])
def test_architecture_md_says_in_one_line_what_a_room_holds(room: str) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    told = [line for line in without_blocks(text).splitlines() if re.match(rf"[|*-] +`{re.escape(room)}`\W", line)]
    assert len(told) == 1, "one line of the table, or of a list, begins with the room"
    assert len(re.findall(r"[a-z]{2,}", told[0].partition(f"`{room}`")[2])) >= 3


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PATH = re.compile(r"(?<![\w./{@<-])(?:[\w.-]+/)+[\w-]+\.(?:py|md|jsonl?|sh|toml|txt|svg|html|yml)\b")


def paths_in(text: str) -> set[str]:
    """Every path of a file that a text names, in prose, code and links; addresses of the web and patterns are none."""
    return set(PATH.findall(re.sub(r"\w+://\S+", "", text)))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_file_that_a_page_names_exists(page: Path) -> None:
    named = paths_in(page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists() and not (page.parent / name).exists()] == []


def test_the_check_of_paths_sees_them() -> None:
    text = "`acd_core/gone.py` and [it](../docs/gate.md), see https://a.org/b.md or tests/{a,b}/c.py; acd_core/old.py."
    assert paths_in(text) == {"acd_core/gone.py", "../docs/gate.md", "acd_core/old.py"}


def test_architecture_md_shows_the_rooms_in_this_order() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- rooms -->\n```text\n(.*?)```", text, re.S)
    assert block, "the list of rooms is gone"
    shown = [line.split() for line in block[1].splitlines() if line.strip()]
    assert [sorted(line) for line in shown] == [sorted(rooms) for rooms in reversed(ROOMS)]
