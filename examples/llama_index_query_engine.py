"""From a folder of documents to answers: chunks, MiniLM embeddings, a vector index, a query engine over ACD.

python examples/llama_index_query_engine.py
"""

from llama_index.core import VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index_shared import MiniLM, library_documents, model_of_command_line

QUESTIONS = (
    "How long does the battery of the hedge trimmer last?",
    "Where does the first aid box hang?",
    "How many liters does the Dabble paint mixer hold?",
)


def main() -> None:
    llm = model_of_command_line(__doc__, max_tokens=48)
    splitter = SentenceSplitter(chunk_size=120, chunk_overlap=0, tokenizer=llm.token_ids)
    index = VectorStoreIndex.from_documents(library_documents(), embed_model=MiniLM(), transformations=[splitter])
    engine = index.as_query_engine(similarity_top_k=1)
    for question in QUESTIONS:
        answer = engine.query(question)
        name = answer.source_nodes[0].node.metadata["file_name"]
        print(f"Q: {question}\nA: {answer}   [{name}]")

    streaming = index.as_query_engine(similarity_top_k=1, streaming=True)
    print("streamed:", end=" ")
    for piece in streaming.query(QUESTIONS[0]).response_gen:
        print(piece, end="|", flush=True)
    print()


if __name__ == "__main__":
    main()
