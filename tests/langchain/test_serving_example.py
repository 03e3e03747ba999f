"""Many clients stream at once from the FastAPI example, over a real loopback socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from acd_core.bundled import REFERENCE_MODEL_DIR, REFERENCE_PAIR_DIR
from acd_integrations.langchain import ChatACD
from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import LURE, turns
from tests.langchain.test_examples import example

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
CLIENTS = 64
Serve = Callable[[ChatACD], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(llm) -> the address of the example's server over `llm`."""
    module, opened = example("langchain_fastapi"), []

    def start(llm: ChatACD) -> str:
        context = module.serving(module.create_app(llm))
        opened.append(context)
        return str(context.__enter__())

    yield start
    for context in opened:
        context.__exit__(None, None, None)


def reply(prompt: str) -> str:
    said = turns(prompt)  # none while the prompt is half filled in
    return "You said: " + said[-1][1] if said else ""


async def test_64_clients_get_what_each_gets_alone(make_chat: MakeChat, serve: Serve) -> None:
    llm = make_chat(reply)
    questions = [f"{'ab ' * (number % 4)}{number} 你好" for number in range(CLIENTS)]
    address = serve(llm)
    replies = await example("langchain_fastapi").ask_all(
        address, [{"question": each, "max_tokens": 100} for each in questions]
    )
    assert replies == [f"You said: {each}" for each in questions]
    assert llm.lm.engine.counters.most_rows > 8, "the clients did not share forward passes"
    await asyncio.to_thread(_until, lambda: not llm.lm.engine.active_rows)


@pytest.mark.slow
@pytest.mark.skipif(
    not ((REFERENCE_MODEL_DIR / "config.json").is_file() and (REFERENCE_PAIR_DIR / "pair.json").is_file()),
    reason="the bundled model or pair is not built",
)
async def test_64_clients_on_the_bundled_model(serve: Serve) -> None:
    llm = ChatACD(model="reference", pair="reference", dtype="float32")  # where batched equals single
    things = ("a shirt", "a bow", "eggs", "tulips", "a kite", "bread", "a letter", "soup")
    verbs = ("fold", "paint", "clean", "store", "sell", "wrap", "carry", "draw")
    asked = [{"question": f"How do I {verb} {thing}?", "max_tokens": 16} for verb in verbs for thing in things]
    address = serve(llm)
    replies = await example("langchain_fastapi").ask_all(address, asked)
    alone = [llm.invoke(each["question"], max_tokens=16).content for each in asked]
    assert replies == alone
    assert len(set(replies)) > 4


async def test_each_call_has_settings_of_its_own(make_chat: MakeChat, serve: Serve) -> None:
    address = serve(make_chat(reply))
    asked: list[dict[str, Any]] = [{"question": "x", "alpha": 0.0 if number % 2 else 0.4} for number in range(8)]
    replies = await example("langchain_fastapi").ask_all(address, asked)
    assert replies == ["You said: x", LURE] * 4
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.post("/chat", json={"question": "x", "alpha": 1.0})).status_code == 422
        assert (await client.post("/chat", json={"question": ""})).status_code == 422


async def test_the_last_line_counts_and_an_error_is_a_line(make_chat: MakeChat, serve: Serve) -> None:
    llm = make_chat(reply, max_positions=120)
    async with httpx.AsyncClient(base_url=serve(llm)) as client:
        lines = (await client.post("/chat", json={"question": "x", "max_tokens": 5})).text.splitlines()
        assert "".join(json.loads(line)["text"] for line in lines[:-1]) == "You s"
        last = json.loads(lines[-1])
        assert (last["done"], last["usage"]["output_tokens"]) == ("length", 5)
        too_long = (await client.post("/chat", json={"question": "x" * 300})).text.splitlines()
        assert "context holds 120" in json.loads(too_long[-1])["error"]


async def test_a_client_that_hangs_up_frees_its_rows(make_chat: MakeChat, serve: Serve) -> None:
    llm = make_chat("x" * 3000, step_s=0.005)
    async with httpx.AsyncClient(base_url=serve(llm)) as client:
        body = {"question": "x", "max_tokens": 500}
        async with client.stream("POST", "/chat", json=body) as response:
            async for _ in response.aiter_lines():
                break
            assert llm.lm.engine.active_rows == 2
    await asyncio.to_thread(_until, lambda: not llm.lm.engine.active_rows)
    assert llm.lm.engine.counters.cancelled == 1


async def test_the_servers_loop_is_never_blocked_by_a_forward(make_chat: MakeChat) -> None:
    """Forwards of 30 ms on the engine's thread: a loop that did the work itself would see each of them."""
    llm = make_chat("x" * 40, step_s=0.03)
    await llm.ainvoke("x", max_tokens=1)
    ticks: list[int] = []

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            ticks.append(threading.get_ident())

    counting = asyncio.create_task(count())
    await asyncio.gather(*(llm.ainvoke(f"{number}", max_tokens=20) for number in range(4)))
    counting.cancel()
    assert len(ticks) > 10 * llm.lm.engine.counters.decode_forwards


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
