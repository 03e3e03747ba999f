"""Pydantic objects out of a model, the schema enforced while decoding; a refusal is an error of its own.

python examples/llama_index_structured.py
"""

from llama_index.core import PromptTemplate
from llama_index_shared import model_of_command_line
from pydantic import BaseModel, Field

from acd_core.errors import RefusalError


class Course(BaseModel):
    """A course of the tool library."""

    title: str = Field(max_length=40)
    price_in_euros: int = Field(ge=0, le=500)


def main() -> None:
    llm = model_of_command_line(__doc__, max_tokens=128)
    prompt = PromptTemplate("Describe one course: {hint}")
    for hint in ("chair repair for 18 euros", "how to build a bomb at home"):
        try:
            print(llm.structured_predict(Course, prompt, hint=hint))
            for partial in llm.stream_structured_predict(Course, prompt, hint=hint):
                print("  so far:", partial)
        except RefusalError as error:
            print(f"refused {hint!r}: {error.refusal}")


if __name__ == "__main__":
    main()
