"""What holds for every test: no network, no hub, and torch small enough for two cores."""

from __future__ import annotations

import os

# Before anything imports transformers: a name that is no local folder must fail at once, as for an offline user.
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1"
)
# Tiny models gain nothing from a second thread, and on a busy machine torch's threads wait for each other: 40 times
# slower was measured.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import pytest_socket

from tests.public_data import BESIDE_THE_CHECKOUT

if BESIDE_THE_CHECKOUT.is_dir():
    os.environ.setdefault("ACD_DATA", str(BESIDE_THE_CHECKOUT))


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup() -> None:
    """Loopback and unix sockets only (event loops and a local server need those)."""
    pytest_socket.socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output of the command line does not depend on where the tests run."""
    for name in ("FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


def pytest_report_header() -> str:
    from importlib.metadata import version

    return " ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pydantic"))
