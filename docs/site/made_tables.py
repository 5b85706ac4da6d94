"""Write what repeats the code into the pages of docs/, and settings into the estimators' docstrings.

    make reference

A comment says what a table is made of, and the table below it is written anew:

    <!-- settings: vfl.party.sections.PartySection -->         all keys of a model (pydantic)
    <!-- settings: vfl.party.sections.DataSection: id, label -->     some of them
    <!-- request: vfl.online.schema.ScoreRequest -->           keys and meanings alone
    <!-- figures: vfl.online.metrics.FIGURES -->               of a monitor: name, labels, meaning
    <!-- entries: vfl.party.ledger.Entry -->                   its kinds, by their docstrings

Values and defaults are the fields', meanings their `description`. Keys that a model has from another
one with a table of its own on the page stand there alone. Tables of messages and of exit codes are known
by their first line: what a message reveals, and its direction, are those of its docstring, what a code
means is that of vfl/errors.py. Which messages stand where, when each is sent, and what to do, is by
hand.
"""

import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vfl.errors import EXIT_CODES
from vfl.jobs.reveals import message_types, reveals
from vfl.learn.params import BoostParams, GlmParams
from vfl.net.wire import Message
from vfl.party.config_words import describe_allowed, resolve_reference

DOCS = Path(__file__).resolve().parents[1]
COMMAND = "make reference"
_MADE = re.compile(
    r"^<!-- (settings|request|figures|entries): ([\w.]+)(?:: ([\w, ]+))? -->\n\n(?:\|.*\n)*",
    re.MULTILINE,
)
_MESSAGES = re.compile(r"^\| message \| direction \| sent \| reveals \|\n(?:\|.*\n)*", re.MULTILINE)
_CODES = re.compile(
    r"^\| code \| meaning \| [^|]+ \|\n\| ---: \| --- \| --- \|\n(?:\|.*\n)*", re.MULTILINE
)
_CODE_ROW = re.compile(r"^\| ([0-9]+) \| [^|]+ \| ((?:[^|]+ )?)\|$", re.MULTILINE)
_ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
_CODE = re.compile(
    r"`[^`]*`"  # that is code already
    r'|\b[a-z_]+ = (?:true|false|"[^"]*"|[0-9.]*[0-9])'
    r'|"[^"]*"|\b[a-z0-9]+(?:_[a-z0-9]+)+\b|\b[a-z+]+://[^\s,;)]*|\{[a-z, ]+\}'
)
_PAGE = re.compile(r"\(docs/(\w+\.md)\)")
_SECTION = re.compile(r"(?<!\[)\[[a-z.]+\]")

_ESTIMATORS: dict[str, type[BaseModel]] = {
    **dict.fromkeys(("trees.py", "pooled_trees.py"), BoostParams),
    **dict.fromkeys(("linear.py", "pooled_linear.py"), GlmParams),
}
_OTHERWISE = {"init_model"}  # an estimator takes a model there, a job file its name
_HEADS = {
    "settings": ("key", "value", "default", "meaning"),
    "request": ("key of the request", "meaning"),
    "figures": ("figure", "labels", "meaning"),
    "entries": ("entry", "stands for"),
}


def made(text: str) -> str:
    """The text of a page with its tables as the code has them. Raises ValueError for what is none."""
    for found in re.finditer(r"^<!-- \w+: vfl\..*", text, re.MULTILINE):
        if not _MADE.match(text, found.start()):
            raise ValueError(f"{found[0]} is no comment that a table is made by")
    marked = [model_of(found[2]) for found in _MADE.finditer(text) if found[1] == "settings"]

    def table(found: re.Match[str]) -> str:
        kind, name, keys = found.groups()
        if kind == "figures":
            rows = _figures(name, text)
        elif kind == "entries":
            rows = _entries(name, text)
        else:
            rows = _settings(model_of(name), marked, keys.split(", ") if keys else None, text)
        if kind == "request":
            rows = ([key, meaning] for key, _, _, meaning in rows)
        begin, head = found[0][: found[0].index("-->") + 3], _HEADS[kind]
        was_there = "" if "\n|" in found[0] else "\n"
        return "\n".join([begin, "", *map(_line, [head, ["---"] * len(head), *rows]), was_there])

    text = _CODES.sub(_code_table, _MADE.sub(table, text))
    return _MESSAGES.sub(_message_table, text)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _named(name: str) -> object:
    module, _, what = name.rpartition(".")
    return getattr(importlib.import_module(module), what, None)


def model_of(name: str) -> type[BaseModel]:
    """The model of that name. Raises ValueError where there is none."""
    model = _named(name)
    if not inspect.isclass(model) or not issubclass(model, BaseModel):
        raise ValueError(f"{name} is no model of settings")
    return model


def _figures(where: str, page: str) -> Iterator[list[str]]:
    """Name, labels and meaning of each figure of a monitor."""
    figures = _named(where)
    if not isinstance(figures, dict):
        raise ValueError(f"{where} is no table of figures")
    for name, (meaning, labels) in figures.items():
        yield [f"`{name}`", ", ".join(f"`{label}`" for label in labels), _written(meaning, page)]


def _entries(name: str, page: str) -> Iterator[list[str]]:
    """Tag and docstring of each kind of entry."""
    kind = _named(name)
    if not inspect.isclass(kind) or not issubclass(kind, msgspec.Struct):
        raise ValueError(f"{name} is no class of entries")
    for one in kind.__subclasses__():
        said = " ".join((inspect.getdoc(one) or "").split())
        yield [f"`{one.__struct_config__.tag}`", _written(said[:1].lower() + said[1:].rstrip("."), page)]


def _settings(
    model: type[BaseModel], marked: list[type[BaseModel]], keys: list[str] | None, page: str
) -> Iterator[list[str]]:
    """Key, value, default and meaning of each field."""
    schema = model.model_json_schema()
    elsewhere = {
        key
        for other in marked
        if issubclass(model, other) and other is not model
        for key in other.model_fields
    }
    for name in keys or [name for name in model.model_fields if name not in elsewhere]:
        field = model.model_fields[name]
        key = field.alias or name
        if not field.description:
            raise ValueError(f"{model.__name__}.{name} has no description")
        value = describe_allowed(resolve_reference(schema["properties"][key], schema), schema)
        yield [f"`{key}`", _written(value, page), _default(field), _written(field.description, page)]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    long = type(default) is int and default >= 10_000
    return f"`{default:_}`" if long else f"`{json.dumps(default, default=str)}`"


def _written(text: str, page: str) -> str:
    """A description as Markdown: what one writes into a file as code, sections of the page as links."""
    parts, end = [], 0
    for found in _CODE.finditer(text):
        parts += [_linked(text[end : found.start()], page), f"`{found[0].strip('`')}`"]
        end = found.end()
    return "".join([*parts, _linked(text[end:], page)])


def _linked(text: str, page: str) -> str:
    def section(found: re.Match[str]) -> str:
        name = found[0]
        alone = len(re.findall(rf"^### {re.escape(name)}$", page, re.MULTILINE)) == 1
        return f"[{name}](#{name[1:-1].replace('.', '')})" if alone else name

    return _SECTION.sub(section, _PAGE.sub(r"([more](\1))", text))


def _message_table(table: re.Match[str]) -> str:
    def row(found: re.Match[str]) -> str:
        name, sent = found.groups()
        kind = message_types().get(name)
        if kind is None:
            raise ValueError(f"{name} is no message")
        return f"| `{name}` | {direction(kind)} | {sent} | {reveals(kind)} |"

    return _ROW.sub(row, table[0])


def _code_table(table: re.Match[str]) -> str:
    codes = [int(found[1]) for found in _CODE_ROW.finditer(table[0])]
    if codes != list(EXIT_CODES):
        raise ValueError(f"a table of exit codes has {codes}, not {list(EXIT_CODES)}")
    return _CODE_ROW.sub(lambda row: f"| {row[1]} | {EXIT_CODES[int(row[1])]} | {row[2]}|", table[0])


def direction(kind: type[Message]) -> str:
    """Who sends a message to whom, as 'guest -> host'; ValueError where its docstring does not say."""
    way = re.match("[A-Za-z]+ -> [A-Za-z]+", inspect.getdoc(kind) or "")
    if way is None:
        raise ValueError(f"the docstring of {kind.__name__} does not begin with a direction")
    return way[0].lower()


def documented(text: str, model: type[BaseModel]) -> str:
    """The source of estimators, what their docstrings say of settings being their descriptions."""

    def parameter(found: re.Match[str]) -> str:
        name = found[2]
        if name not in model.model_fields or name in _OTHERWISE:
            return found[0]
        words = model.model_fields[name].description or ""
        lines = textwrap.wrap(words, 97, break_on_hyphens=False, break_long_words=False)
        return found[1] + "".join(f"        {line}\n" for line in lines)

    return re.sub(
        r"^(    (\w+) : .*, default=.*\n)(?:        .+\n)+", parameter, text, flags=re.MULTILINE
    )


def old_pages() -> dict[Path, str]:
    """The files that do not say what the code does, with what they should be."""
    found = {path: _page(path) for path in sorted(DOCS.rglob("*.md"))}
    for name, model in _ESTIMATORS.items():
        path = DOCS.parent / "vfl" / "estimators" / name
        found[path] = documented(path.read_text("utf-8"), model)
    return {path: text for path, text in found.items() if path.read_text("utf-8") != text}


def _page(path: Path) -> str:
    try:
        return made(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.relative_to(DOCS.parent)}: {error}") from None


def main() -> None:
    for path, text in old_pages().items():
        path.write_text(text, "utf-8")
        print(path.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
