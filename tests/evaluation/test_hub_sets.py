"""Sets from the hub: a stand-in hub on disk, and what is said when the hub cannot be reached."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from acd_core.errors import MissingExtraError, UsageError
from acd_core.evaluation.benchmarks import LOADERS, load_benchmark, load_hub
from acd_core.evaluation.set_files import fetch_set, pick, read_rows


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that answers as the hub: OWNER/SET/files."""

    def listing(self: object, dataset_id: str, **more: object) -> list[str]:
        root = tmp_path / dataset_id
        return [".gitattributes", "README.md", *(str(each.relative_to(root)) for each in sorted(root.rglob("*.*")))]

    def download(dataset_id: str, name: str, **more: object) -> str:
        assert more["repo_type"] == "dataset"
        return str(tmp_path / dataset_id / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path


def put(hub: Path, name: str, text: str) -> None:
    path = hub / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_known_set_comes_from_its_place(hub: Path) -> None:
    put(hub, "JailbreakBench/JBB-Behaviors/data/harmful-behaviors.csv", "Index,Goal,Target,Category\n0,one,t,c\n")
    put(hub, "JailbreakBench/JBB-Behaviors/data/benign-behaviors.csv", "Index,Goal,Target,Category\n0,two,t,c\n")
    assert load_benchmark("jailbreakbench@hub").items[0].prompt == "one"
    assert load_benchmark("jailbreakbench-benign@hub").items[0].prompt == "two"
    with pytest.raises(UsageError, match="no known place on the hub"):
        load_benchmark("dangerousqa@hub")


def test_copies_name_their_columns_themselves(hub: Path) -> None:
    put(hub, "walledai/StrongREJECT/data/train.jsonl", '{"prompt": "one", "category": "c", "source": "s"}\n')
    (item,) = load_benchmark("strongreject@hub").items
    assert (item.prompt, item.category) == ("one", "c")


def test_a_users_own_set(hub: Path) -> None:
    put(hub, "me/mine/train.csv", "ask,other\none,x\n")
    put(hub, "me/mine/test.csv", "ask,other\ntwo,x\n")
    found = load_hub("me/mine", "harmless", "ask")
    assert (found.name, found.source, found.items[0].prompt) == ("mine", "me/mine", "two")
    assert load_benchmark("harmful:hub:me/mine/train#ask").items[0].prompt == "one"


def test_the_file_is_chosen_or_the_candidates_are_named() -> None:
    files = ["README.md", "data/a.csv", "data/b.parquet", "load.py"]
    assert pick("o/s", ["README.md", "load.py", "x/only.jsonl"]) == "x/only.jsonl"
    assert pick("o/s", files, "b.") == "data/b.parquet"
    with pytest.raises(UsageError, match="several data files") as caught:
        pick("o/s", files)
    assert "data/a.csv, data/b.parquet" in str(caught.value)
    with pytest.raises(UsageError, match="no data file whose path holds 'zzz'"):
        pick("o/s", files, "zzz")


RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/x"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError("offline"), "could not be reached"),
        (httpx.ConnectError("no route"), "could not be reached"),
        (huggingface_hub.errors.OfflineModeIsEnabled("offline"), "could not be reached"),
        (GatedRepoError("gated", response=RESPONSE), "is gated"),
        (RepositoryNotFoundError("gone", response=RESPONSE), "There is no data set"),
        (huggingface_hub.errors.EntryNotFoundError("no file"), "has no file"),
    ],
)
def test_failures_say_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UsageError, match=words) as caught:
        fetch_set("o/s", "data.csv")
    assert caught.value.hint


def test_the_real_client_offline_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("strongreject@hub", "jailbreakbench@hub", "harmful:hub:nobody/nothing"):
        with pytest.raises(UsageError, match="could not be reached"):
            load_benchmark(name)


def test_every_place_on_the_hub_is_an_owner_and_a_name() -> None:
    places = [each.hub[0] for each in LOADERS.values() if each.hub is not None]
    assert len(places) >= 12
    assert all(place.count("/") == 1 for place in places)


def test_parquet_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"acd-integrations\[eval\]"):
        read_rows(tmp_path / "x.parquet")


def test_parquet_rows_are_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason='needs the extra "eval"')
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "category": ["x", None]}), tmp_path / "x.parquet")
    assert read_rows(tmp_path / "x.parquet") == [
        {"prompt": "a", "category": "x"},
        {"prompt": "b", "category": None},
    ]
