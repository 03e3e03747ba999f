"""`acd chat` over a pipe: every line a turn, only replies on stdout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from acd_core.lm import ContrastiveLM
from acd_core.params import GenerationParams
from acd_core.spec import LMSpec

FIXED = ("--max-tokens", "8", "--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def lm(tiny: Path, tiny_pair: Path):
    with ContrastiveLM.from_pretrained(str(tiny), str(tiny_pair), device="cpu", dtype="float32") as lm:
        yield lm


def expected(lm: ContrastiveLM, turns: list[str], system: str = "", **settings) -> list[str]:
    """What the same conversation gives through the front door."""
    messages = [{"role": "system", "content": system}] if system else []
    replies = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        replies.append(lm.generate(messages, GenerationParams.of(max_tokens=8, **settings)).text)
        messages.append({"role": "assistant", "content": replies[-1]})
    return replies


def typed(acd, tiny: Path, tiny_pair: Path, *lines: str, options: tuple[str, ...] = ()) -> str:
    result = acd(
        "chat", "--model", str(tiny), "--pair", str(tiny_pair), *FIXED, *options, lines="".join(f"{x}\n" for x in lines)
    )
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_two_turns_are_one_conversation(acd, lm, tiny, tiny_pair, stream: str):
    printed = typed(acd, tiny, tiny_pair, "Hello", "And then?", options=(stream,))
    assert printed == "".join(f"{reply}\n" for reply in expected(lm, ["Hello", "And then?"]))


def test_reset_and_system(acd, lm, tiny, tiny_pair):
    printed = typed(acd, tiny, tiny_pair, "Hello", "/reset", "Hello", "/system Be brief.", "Hello")
    first = expected(lm, ["Hello"])[0]
    assert printed == f"{first}\n{first}\n{expected(lm, ['Hello'], system='Be brief.')[0]}\n"


def test_alpha_and_method_change_on_the_way(acd, lm, tiny, tiny_pair):
    printed = typed(acd, tiny, tiny_pair, "/alpha 0.9", "Hello", "/reset", "/method none", "Hello", "/quit", "never")
    strong = expected(lm, ["Hello"], alpha=0.9)[0]
    alone = expected(lm, ["Hello"], method="none")[0]
    assert printed == f"{strong}\n{alone}\n"


def test_empty_lines_are_no_turns(acd, lm, tiny, tiny_pair):
    assert typed(acd, tiny, tiny_pair, "", "  ", "Hello") == f"{expected(lm, ['Hello'])[0]}\n"


def test_a_bad_line_on_a_pipe_ends_the_run(acd, tiny, tiny_pair):
    arguments = ("chat", "--model", str(tiny), "--pair", str(tiny_pair), *FIXED)
    assert acd(*arguments, lines="/alpha 1\nHello\n").exit_code == 2
    assert acd(*arguments, lines="/fly\n").exit_code == 2
    assert acd(*arguments, lines="x" * 9000 + "\n").exit_code == 2  # longer than the context


def test_settings_of_the_model_reach_it(acd, tiny, tmp_path):
    """A generation_config that changes the reply counts, or not, as --generation-defaults says."""
    folder = tmp_path / "penalised"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "repetition_penalty": 50.0}))
    replies = {}
    for followed in (True, False):
        spec = LMSpec(str(folder), device="cpu", dtype="float32", generation_defaults=followed)
        with spec.load() as lm:
            replies[followed] = expected(lm, ["Hello"])[0]
    assert replies[True] != replies[False]
    arguments = ("chat", "--model", str(folder), *FIXED, "--deterministic", "--revision", "main", "--recheck", "4")
    for followed, option in ((True, "--generation-defaults"), (False, "--no-generation-defaults")):
        result = acd(*arguments, option, lines="Hello\n")
        assert (result.exit_code, result.stdout) == (0, f"{replies[followed]}\n"), result.output
