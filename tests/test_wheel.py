"""The wheel as a stranger gets it: built, installed into a bare environment, run where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from acd_core import ContrastiveLM

pytest.importorskip("hatchling", reason='needs the extra "dev"')
ROOT = Path(__file__).parents[1]
SAY = """
import acd_core, acd_integrations
from acd_core import ContrastiveLM
with ContrastiveLM.from_pretrained("reference", "reference", device="cpu", dtype="float32") as lm:
    print(acd_core.__file__, acd_integrations.__file__, sep="\\n")
    print(lm.generate("How do I bake bread?", max_tokens=12).text)
"""


def run(*command: str | Path, cwd: Path) -> str:
    quiet = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=quiet, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that holds the wheel, over the packages that are installed here."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=os.name != "nt")
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    python = commands / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel, cwd=folder)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # Folders named in a .pth file come last, and .pth files in them are not read: an editable checkout stays out.
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return commands


def test_it_holds_the_package_and_nothing_of_its_making(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"acd_core", "acd_integrations"}
    checked_in = [
        str(path.relative_to(ROOT))
        for package in ("acd_core", "acd_integrations")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert set(checked_in) == {name for name in names if ".dist-info/" not in name}


def test_its_commands_answer_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert "doctor" in run(installed / "acd", "--help", cwd=tmp_path)
    told = run(
        installed / "acd", "doctor", "--model", "reference", "--pair", "reference", "--device", "cpu", cwd=tmp_path
    )
    assert "fits" in told
    assert "trial" in told


def test_it_replies_as_the_checkout_does(installed: Path, tmp_path: Path) -> None:
    core, adapters, *reply = run(installed / "python", "-c", SAY, cwd=tmp_path).splitlines()
    assert not Path(core).is_relative_to(ROOT)
    assert not Path(adapters).is_relative_to(ROOT)
    with ContrastiveLM.from_pretrained("reference", "reference", device="cpu", dtype="float32") as lm:
        assert "\n".join(reply) == lm.generate("How do I bake bread?", max_tokens=12).text != ""
