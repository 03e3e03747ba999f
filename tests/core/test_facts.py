"""What is told of a model before its weights are loaded is what the loaded model says."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import bundled
from acd_core.artifacts import pair_files
from acd_core.artifacts.pair import PromptPair
from acd_core.errors import ContextLengthError, ModelError
from acd_core.lm import ContrastiveLM
from acd_core.methods.table import METHODS
from acd_core.model import on_disk
from acd_core.model.backbone import Backbone
from acd_core.reply.facts import read_facts
from tests.core.tiny import family

ROOT = Path(__file__).parents[2]
FAMILIES = ("llama", "mistral", "gemma2", "opt")
RUNNABLE = [name for name, method in METHODS.items() if not method.guarded and not method.needs_expert]


def saved(name: str, folder: Path) -> Path:
    model, tokenizer = family(name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def soft_pair(lm: ContrastiveLM) -> PromptPair:
    width = lm.backbone.embedding_width
    return PromptPair.from_tensors(torch.randn(5, width), torch.randn(9, width), backbone=lm.backbone)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    found = {name: saved(name, root / name) for name in FAMILIES}
    # Textual methods take more than the 512 positions of the tiny models: they spell most words letter by letter.
    found["roomy"] = saved("llama", root / "roomy")
    config = json.loads((found["roomy"] / "config.json").read_text())
    (found["roomy"] / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_facts_before_loading_are_those_of_the_loaded_model(name: str, folders: dict[str, Path]) -> None:
    folder = str(folders[name])
    with ContrastiveLM.from_pretrained(folder, dtype="float32") as lm:
        pair = soft_pair(lm)
        for method in RUNNABLE:
            with ContrastiveLM(lm.backbone, pair, method) as other:
                assert read_facts(folder, pair, method) == other.facts, method
        assert read_facts(folder) == lm.facts
        assert lm.facts.own_tokens == 0
        assert lm.max_input_tokens == lm.context_length


@pytest.mark.parametrize("method", ["none", "acd", "rose", "self-reminder", "in-context-defense"])
def test_the_longest_input_fits_to_the_token(method: str, folders: dict[str, Path]) -> None:
    """A conversation of `max_input_tokens` less one leaves room for a token; own tokens are what the method takes."""
    with ContrastiveLM.from_pretrained(str(folders["roomy"]), dtype="float32") as lm:
        pair = soft_pair(lm)
        with ContrastiveLM(lm.backbone, pair, method) as other:
            assert (other.facts.own_tokens > 0) == (method != "none")
            frame = lm.count_tokens([{"role": "user", "content": ""}])
            asked = [{"role": "user", "content": "~" * (other.max_input_tokens - 1 - frame)}]
            assert other.count_tokens(asked) == other.max_input_tokens - 1
            assert other.generate(asked, max_tokens=1).usage.completion_tokens == 1
            longer = [{"role": "user", "content": asked[0]["content"] + "~~"}]
            with pytest.raises(ContextLengthError) as caught:
                other.generate(longer, max_tokens=1)
            own = other.facts.own_tokens
            assert f"takes {other.count_tokens(longer)} tokens and the prompts of the method {own} more" in str(
                caught.value
            )


def test_no_weights_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in folders["llama"].iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    assert read_facts(str(bare)) == read_facts(str(folders["llama"]))
    with pytest.raises(ModelError):
        Backbone.load(str(bare))
    with pytest.raises(ModelError, match="no model folder"):
        read_facts("./nowhere")


def test_counting_a_long_text_warns_of_nothing(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = family("llama")
    tokenizer.model_max_length = 32
    with ContrastiveLM.from_model(model, tokenizer) as lm, caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").addHandler(caplog.handler)
        try:
            assert len(lm.token_ids("hello there " * 100)) > 32
            assert lm.count_tokens([{"role": "user", "content": "hello there " * 100}]) > 32
        finally:
            logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "sequence length" not in caplog.text
    assert not tokenizer.deprecation_warnings, "the caller's tokenizer was changed"


# -- plain JSON, without transformers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_json_alone_gives_the_same_context(name: str, folders: dict[str, Path]) -> None:
    folder = on_disk.model_folder(folders[name])
    assert folder == folders[name]
    assert on_disk.context_length(folder) == read_facts(str(folder)).context_length


@pytest.mark.parametrize(
    ("config", "tokenizer", "wanted"),
    [
        ({"max_position_embeddings": 128}, {}, 128),
        ({"text_config": {"max_position_embeddings": 64}, "max_position_embeddings": 9}, {}, 64),
        ({"n_positions": 32}, {"model_max_length": 7}, 32),
        ({}, {"model_max_length": 77}, 77),
        ({}, {"model_max_length": 10**30}, None),
        ({"max_position_embeddings": "many"}, {}, None),
        ([], {}, None),
    ],
)
def test_context_lengths(config: Any, tokenizer: Any, wanted: int | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert on_disk.context_length(tmp_path) == wanted


def test_lengths_of_pairs(tmp_path: Path) -> None:
    soft = PromptPair(torch.randn(5, 8), torch.randn(9, 8)).save(tmp_path / "soft")
    assert pair_files.pair_length(soft) == 9
    assert pair_files.pair_length(PromptPair.from_texts("a", "b").save(tmp_path / "texts")) == 0
    assert on_disk.pair_folder(tmp_path / "soft") == soft


def test_names() -> None:
    assert on_disk.model_folder("reference") == bundled.REFERENCE_MODEL_DIR
    assert on_disk.model_folder("no/such-model") is None
    assert on_disk.model_folder("./nowhere") is None
    assert [on_disk.is_hub_id(name) for name in ("a/b", "a", "a/b/c", "./a", "/a/b", "a/..", None)] == [
        True, False, False, False, False, False, False,
    ]  # fmt: skip


def test_it_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from acd_core.model import on_disk as d; d.context_length(d.model_folder('reference'));"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
