"""A FastAPI server that streams tokens to many clients at once; their requests share forward passes.

    pip install "acd-integrations[langchain,serve]"
    python examples/langchain_fastapi.py --clients 16            # serves itself, asks from 16 clients at once, and ends
    python examples/langchain_fastapi.py --serve --port 8000     # serves until stopped; then, for instance:
    curl -N http://127.0.0.1:8000/chat -H 'content-type: application/json' -d '{"question": "How do I whisk eggs?"}'

A client that hangs up frees its rows at the next step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.messages import AIMessageChunk
from pydantic import BaseModel, Field

from acd_core.errors import ACDError
from acd_integrations.langchain import ChatACD

QUESTIONS = ("How do I fold a shirt?", "How do I plant tulips?", "How do I whisk eggs?", "How do I tie a bow?")


class Ask(BaseModel):
    """One question."""

    question: str = Field(min_length=1, max_length=4000)
    alpha: float | None = Field(default=None, ge=0.0, lt=1.0)
    max_tokens: int = Field(default=60, ge=1, le=500)


def create_app(llm: ChatACD) -> FastAPI:
    """POST /chat answers with one JSON line a piece, {"text": ...}, and at the end {"done": ..., "usage": ...}."""

    @asynccontextmanager
    async def ready(_: FastAPI) -> AsyncIterator[None]:
        await llm.ainvoke("Hello", max_tokens=1)  # loads the model before the first client comes
        yield

    app = FastAPI(lifespan=ready)

    @app.post("/chat")
    async def chat(ask: Ask) -> StreamingResponse:
        return StreamingResponse(lines(ask), media_type="application/x-ndjson")

    async def lines(ask: Ask) -> AsyncIterator[str]:
        settings = ask.model_dump(exclude={"question"}, exclude_none=True)
        last: Any = None
        try:
            async with aclosing(llm.astream(ask.question, **settings)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    assert isinstance(piece, AIMessageChunk)
                    if piece.text:
                        yield json.dumps({"text": piece.text}) + "\n"
                    last = piece if piece.usage_metadata else last
        except ACDError as error:  # the status line is sent already
            yield json.dumps({"error": error.message}) + "\n"
            return
        yield json.dumps({"done": last.response_metadata["finish_reason"], "usage": last.usage_metadata}) + "\n"

    return app


@contextmanager
def serving(app: FastAPI) -> Any:
    """The app on a free port of the loopback interface, in a thread; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


async def ask_all(address: str, asked: Sequence[dict[str, Any]]) -> list[str]:
    """The replies to `asked`, all streamed at once, each over a connection of its own."""

    async def one(body: dict[str, Any]) -> str:
        said: list[str] = []
        async with client.stream("POST", "/chat", json=body) as got:
            got.raise_for_status()
            async for line in got.aiter_lines():
                event = json.loads(line)
                if "error" in event:
                    raise RuntimeError(event["error"])
                said.append(event.get("text", ""))
        return "".join(said)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=300.0, limits=limits) as client:
        return list(await asyncio.gather(*(one(body) for body in asked)))


def main(model: str = "smollm2", pair: str = "smollm2", clients: int = 8) -> list[str]:
    asked = [{"question": QUESTIONS[number % len(QUESTIONS)]} for number in range(clients)]
    with serving(create_app(ChatACD(model=model, pair=pair))) as address:
        replies = asyncio.run(ask_all(address, asked))
    for body, reply in zip(asked, replies, strict=True):
        print(f"{body['question']}\n  {reply}")
    return replies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pair", default="smollm2")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--serve", action="store_true", help="serve until stopped, instead of asking itself")
    parser.add_argument("--port", type=int, default=8000)
    chosen = parser.parse_args()
    if chosen.serve:
        uvicorn.run(create_app(ChatACD(model=chosen.model, pair=chosen.pair)), host="127.0.0.1", port=chosen.port)
    else:
        main(chosen.model, chosen.pair, chosen.clients)
