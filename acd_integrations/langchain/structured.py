"""Structured output for ChatACD: schemas in, parsers out, and refusals as errors of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, ClassVar, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import ValidationError

from acd_core.errors import RefusalError, UsageError, one_line
from acd_core.grammar.disjoint import kinds
from acd_core.grammar.schemas import at, mapped, place_of
from acd_core.params import shown
from acd_integrations.shared.calls import checked_tools

Method = Literal["json_schema", "function_calling", "json_mode"]
METHODS = ("json_schema", "function_calling", "json_mode")
_WRAPPED = "value"  # the one argument of a call that stands for a value which is no object
_NO_SCHEMA = (ValueError, TypeError, AttributeError, LookupError, RecursionError)  # of LangChain's own conversions
_OF_SCHEMAS = frozenset({"type", "properties", "$ref", "$defs", "anyOf", "oneOf", "allOf", "enum", "const", "items"})
_OF_FUNCTIONS = frozenset({"parameters", "input_schema", "schema", "toolSpec", "function"})


def tool_choice_of(choice: Any, names: Sequence[str]) -> str | None:
    """LangChain's and the providers' ways to write a tool choice as ours: None, "auto", "none", "required" or a name.

    Raises UsageError for a name that is not among the tools, or a form that is not known.
    """
    if choice is None or choice is False:
        return None
    if choice is True or (isinstance(choice, str) and choice == "any"):
        return "required"
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        inner = name if name is not None else choice.get("type")
        if not isinstance(inner, Mapping):
            return tool_choice_of(inner, names)
    elif isinstance(choice, str) and (choice in names or choice in ("auto", "none", "required")):
        return str(choice)
    raise UsageError(
        f"tool_choice is {shown(choice)}, which is not among the tools: {', '.join(names) or 'none were given'}.",
        hint="Use 'auto', 'none', 'any' (or 'required', or True), or the name of a tool.",
    )


def tools_of(tools: Sequence[Any], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Tools of any of LangChain's kinds, OpenAI-style; `strict` in each as it says, or as the tool says if None.

    Raises UsageError for what is no tool.
    """
    converted = []
    for tool in checked_tools(tools):
        try:
            out = _tool_of_schema(tool) if _is_schema(tool) and "title" in tool else convert_to_openai_tool(tool)
        except _NO_SCHEMA as error:
            raise UsageError(f"{shown(tool)} cannot be used as a tool: {one_line(error, 160)}") from error
        function = out.get("function")
        if not isinstance(function, Mapping) or not function.get("name"):
            raise UsageError(
                f"The tool ({shown(tool)}) is not a function tool; only those can be called from a local model.",
                hint="Give a function, a BaseTool, a Pydantic class, or an OpenAI-style function dict.",
            )
        # Not LangChain's own `strict`: it would also make every argument required.
        wanted = bool(function.get("strict")) if strict is None else strict
        plain = {key: value for key, value in function.items() if key != "strict"}
        converted.append({**out, "function": {**plain, "strict": True} if wanted else plain})
    return converted


def schema_of(schema: Any) -> tuple[str, dict[str, Any]]:
    """(name, JSON schema) of a Pydantic class (v1 or v2), a TypedDict, a JSON schema, an OpenAI function or format."""
    if isinstance(schema, Mapping):
        return _schema_of_dict(schema)
    try:
        converted = convert_to_json_schema(schema)
    except _NO_SCHEMA as error:
        raise UsageError(
            f"{shown(schema)} is no schema: {one_line(error, 160)}",
            hint="Give a Pydantic class, a TypedDict, or a JSON schema.",
        ) from error
    name = str(converted.get("title") or "reply")
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        # LangChain's conversion writes references out, which never ends for a schema that contains itself.
        converted = schema.model_json_schema()
    return name, converted


def _schema_of_dict(schema: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """LangChain's own conversion keeps a JSON schema only where it lists properties; here it is kept in any case."""
    if schema.get("type") == "json_schema" and isinstance(schema.get("json_schema"), Mapping):
        schema = schema["json_schema"]
    if "name" in schema and isinstance(schema.get("schema"), Mapping):
        return str(schema["name"]), dict(schema["schema"])
    if _is_schema(schema):
        return str(schema.get("title") or schema.get("name") or "reply"), dict(schema)
    if schema.get("type") == "function" and "function" not in schema:  # a tool of the Responses API
        schema = {key: value for key, value in schema.items() if key != "type"}
    try:
        function = convert_to_openai_tool(schema)["function"]
        name = str(function["name"])
    except _NO_SCHEMA as error:
        raise UsageError(
            f"{shown(schema)} is no schema: {one_line(error, 160)}",
            hint="Give a JSON schema, an OpenAI function, or a Pydantic class.",
        ) from error
    described = {"description": function["description"]} if function.get("description") else {}
    return name, {"title": name, **described, **(function.get("parameters") or {"type": "object", "properties": {}})}


def _is_schema(schema: Any) -> bool:
    """Whether a dict is a JSON schema, and no function or tool of a provider."""
    if not isinstance(schema, Mapping) or schema.get("type") == "function" or _OF_FUNCTIONS & schema.keys():
        return False
    return bool(_OF_SCHEMAS & schema.keys()) or ("title" in schema and "name" not in schema)


def _tool_of_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema as a tool whose arguments it describes. Raises ValueError for one that allows no object."""
    name, parameters = _schema_of_dict(schema)
    if "object" not in kinds(parameters):
        raise ValueError("the arguments of a tool are an object, and its schema allows none")
    return _tool(name, parameters)


def _tool(name: str, parameters: Mapping[str, Any], description: Any = None) -> dict[str, Any]:
    """An OpenAI-style tool. What `parameters` say of the whole moves to where a model looks for it."""
    described = description or parameters.get("description")
    rest = {key: value for key, value in parameters.items() if key not in ("title", "description")}
    function = {"name": name, **({"description": described} if described else {}), "parameters": rest}
    return {"type": "function", "function": function}


def _only_objects(schema: Any, root: Mapping[str, Any], depth: int = 8) -> bool:
    """Whether every value that fits is an object, as far as can be seen."""
    if not isinstance(schema, Mapping) or not depth:
        return False
    if kinds(schema) == {"object"} or ("type" not in schema and "properties" in schema):
        return True
    place = place_of(schema.get("$ref"))
    if place is not None:
        return _only_objects(at(root, place), root, depth - 1)
    for key, enough in (("allOf", any), ("anyOf", all), ("oneOf", all)):
        parts = schema.get(key)
        if isinstance(parts, list) and parts and enough(_only_objects(part, root, depth - 1) for part in parts):
            return True
    return False


def _wrapped(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An object whose one property is a value of `schema`; definitions and references keep their meaning."""
    lifted = {} if "$id" in schema else {key: schema[key] for key in ("$defs", "definitions") if key in schema}

    def moved(_: Any, part: Any) -> Any:
        if not isinstance(part, Mapping):
            return part
        out = mapped(part, moved)
        place = place_of(out.get("$ref"))
        if place is not None and (not place or place[0] not in lifted):
            out["$ref"] = f"#/properties/{_WRAPPED}{out['$ref'][1:]}"
        return out

    inner: dict[str, Any] = dict(schema) if "$id" in schema else moved((), schema)
    found = {key: inner.pop(key) for key in lifted}
    return {"type": "object", "properties": {_WRAPPED: inner}, "required": [_WRAPPED], **found}


class _Checked:
    """Mixed into a parser: says why there is nothing to parse - the model refused, or the reply was cut off."""

    is_json: ClassVar[bool] = True

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = result[0].message if isinstance(result[0], ChatGeneration) else None
        refusal = message.additional_kwargs.get("refusal") if message is not None else None
        if refusal is not None:  # it may be empty
            raise RefusalError(str(refusal))
        # The last chunk of a stream carries the finish reason: from there on nothing is partial any more.
        finish = message.response_metadata.get("finish_reason") if message is not None else None
        partial = partial and finish is None
        value = None
        try:
            if self.is_json and not partial:
                json.loads(result[0].text)  # the parsers below would complete JSON that was cut off
            value = super().parse_result(result, partial=partial)  # type: ignore[misc]
        except (OutputParserException, ValueError) as error:
            if finish == "length":
                raise _cut_off(result[0].text) from error
            if isinstance(error, OutputParserException):
                raise
            raise OutputParserException(f"The reply is not JSON: {error}", llm_output=result[0].text) from error
        if value is None and not partial and not self.is_json:
            if finish == "length":
                raise _cut_off(result[0].text)
            raise OutputParserException("The reply holds no such call.", llm_output=result[0].text)
        return value


def _cut_off(text: str) -> OutputParserException:
    return OutputParserException(
        "The reply was cut off by max_tokens before its JSON was complete. Raise max_tokens.", llm_output=text
    )


class _Json(_Checked, JsonOutputParser):
    """JSON as dicts."""


class _Pydantic(_Checked, PydanticOutputParser[Any]):
    """JSON as an instance of a Pydantic class."""


class _KeyTools(_Checked, JsonOutputKeyToolsParser):
    """The arguments of the call, as a dict."""

    is_json: ClassVar[bool] = False


class _PydanticTools(_Checked, PydanticToolsParser):
    """The arguments of the call, as an instance of a Pydantic class."""

    is_json: ClassVar[bool] = False


class _Value(_KeyTools):
    """The arguments of the call, or the one value that they wrap; as an instance of a class, if there is one."""

    wrapped: bool
    made_of: Any = None

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        found = super().parse_result(result, partial=partial)
        if self.wrapped and found is not None:
            if _WRAPPED not in found:
                return None  # not yet
            found = found[_WRAPPED]
        if self.made_of is None or (found is None and partial):
            return found
        try:
            return self.made_of.model_validate(found)
        except ValidationError as error:
            if partial:
                return None
            raise OutputParserException(f"The call does not fit: {error}", llm_output=result[0].text) from error


def binding(schema: Any, method: str) -> tuple[dict[str, Any], Runnable[Any, Any]]:
    """(what to bind to the model, the parser of its reply) for one of METHODS."""
    if not isinstance(method, str) or method not in METHODS:
        raise UsageError(f"Unknown method {shown(method)}.", hint=f"One of {', '.join(METHODS)}.")
    if schema is None and method != "json_mode":
        raise UsageError(f"The method {method!r} needs a schema.", hint="Give one, or use method='json_mode'.")
    note = {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    if method == "function_calling":
        tool, parser = _called(schema, is_class)
        name = tool["function"]["name"] if isinstance(tool, dict) else convert_to_openai_tool(tool)["function"]["name"]
        return {"tools": [tool], "tool_choice": name, "parallel_tool_calls": False, **note}, parser
    parser = _Pydantic(pydantic_object=schema) if is_class else _Json()
    if method == "json_mode":
        return {"response_format": {"type": "json_object"}, **(note if schema is not None else {})}, parser
    name, json_schema = schema_of(schema)
    response_format = {"type": "json_schema", "json_schema": {"name": name, "schema": json_schema, "strict": True}}
    return {"response_format": response_format, **note}, parser


def _called(schema: Any, is_class: bool) -> tuple[Any, Runnable[Any, Any]]:
    """(the tool whose call is the reply, the parser of it). A value that is no object is the call's one argument."""
    name, parameters = schema_of(schema)
    usable = re.sub(r"[^\w.:/-]+", "_", name).strip("_") or "reply"
    wrapped = not _only_objects(parameters, parameters)
    if is_class and not wrapped and usable == name:
        return schema, _PydanticTools(tools=[schema], first_tool_only=True)
    tool = _tool(usable, _wrapped(parameters) if wrapped else parameters, parameters.get("description"))
    made_of = schema if is_class and hasattr(schema, "model_validate") else None
    return tool, _Value(key_name=usable, first_tool_only=True, wrapped=wrapped, made_of=made_of)


def with_raw(llm: Runnable[Any, Any], parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """{"raw", "parsed", "parsing_error"}: a refusal or a reply that does not parse lands in parsing_error."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    nothing = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([nothing], exception_key="parsing_error")
