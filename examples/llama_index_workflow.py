"""A Workflow that answers two questions at once and streams both; their tokens share the engine's forward passes.

python examples/llama_index_workflow.py
"""

import asyncio

from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from llama_index_shared import model_of_command_line


class Piece(Event):
    question: str
    text: str


class Both(Workflow):
    @step
    async def answer(self, ctx: Context, start: StartEvent) -> StopEvent:
        async def one(question: str) -> str:
            text = ""
            async for response in await start.llm.astream_complete(question):
                ctx.write_event_to_stream(Piece(question=question, text=response.delta or ""))
                text = response.text
            return text

        return StopEvent(result=list(await asyncio.gather(*(one(question) for question in start.questions))))


async def main() -> None:
    llm = await model_of_command_line(__doc__, max_tokens=32).aload()
    counters = llm.lm.engine.counters  # of everything in the process that uses this model
    rows, forwards = counters.decoded_rows, counters.decode_forwards
    handler = Both().run(llm=llm, questions=["How do I sharpen a knife?", "How do I repair a chair?"])
    pieces = 0
    async for event in handler.stream_events():
        pieces += isinstance(event, Piece)
    for text in await handler:
        print("-", text)
    print(f"{pieces} pieces; {counters.decoded_rows - rows} rows in {counters.decode_forwards - forwards} forwards")


if __name__ == "__main__":
    asyncio.run(main())
