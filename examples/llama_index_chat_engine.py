"""A chat over documents that remembers what was said.

python examples/llama_index_chat_engine.py
"""

from llama_index.core import VectorStoreIndex
from llama_index.core.memory import ChatMemoryBuffer
from llama_index_shared import MiniLM, library_documents, model_of_command_line


def main() -> None:
    llm = model_of_command_line(__doc__, max_tokens=48)
    index = VectorStoreIndex.from_documents(library_documents(), embed_model=MiniLM())
    memory = ChatMemoryBuffer.from_defaults(token_limit=600, tokenizer_fn=llm.token_ids)
    chat = index.as_chat_engine(chat_mode="context", memory=memory, similarity_top_k=1)
    for message in ("When does the repair cafe take place?", "What do most visitors bring?"):
        print(f"you: {message}\nbot: ", end="")
        for piece in chat.stream_chat(message).response_gen:
            print(piece, end="", flush=True)
        print()
    print(f"{len(memory.get_all())} messages in memory")


if __name__ == "__main__":
    main()
