"""Regular expressions: what has to match to its end does, without a newline behind it.

To Python's `re` a `$` also matches before a newline at the end. pydantic (Rust's `regex`) and pyarrow
(RE2) take it for the end alone.
"""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from msgspec import inspect as types
from pydantic import Field, TypeAdapter, ValidationError

import vfl
from vfl.jobs.offer import Name, Offer, OfferedName
from vfl.net import wire
from vfl.net.wire import WireError
from vfl.party import config
from vfl.party.config import Job
from vfl.party.config_values import to_the_end
from vfl.party.config_words import JOB_NAME, PARTY_NAME
from vfl.party.store import Store

_CALLS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}


def modules() -> list[ModuleType]:
    names = [found.name for found in pkgutil.walk_packages(vfl.__path__, "vfl.")]
    return [importlib.import_module(name) for name in ["vfl", *names]]


MODULES = modules()


def has_dollar(pattern: str | bytes, flags: int = 0) -> bool:
    """Whether a pattern of Python's `re` has a `$`, by its own parser."""
    tree = re._parser.parse(pattern, flags)  # type: ignore[attr-defined]

    def walk(node: Any) -> bool:
        if isinstance(node, tuple) and len(node) == 2 and str(node[0]) == "AT":
            return str(node[1]) == "AT_END"
        parts = node if isinstance(node, list | tuple) else getattr(node, "data", ())
        return any(walk(part) for part in parts)

    return walk(tree)


def calls_of(module: ModuleType) -> Iterator[tuple[str, ast.Call, str]]:
    """Calls of `re` in a module, where they are, and the function's name."""
    path = Path(module.__file__ or "")
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _CALLS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
        ):
            yield f"{path.name}:{node.lineno}", node, node.func.attr


def test_the_walk_knows_a_dollar() -> None:
    for pattern in ("a$", "^a$", "(a$)", "a|b$", "(?:x(y$)?)", b"a$"):
        assert has_dollar(pattern)
    for pattern in (r"a\Z", "[$]", r"\$", "a"):
        assert not has_dollar(pattern)
    assert re.search("^a$", "a\n") and not re.search(to_the_end("^a$"), "a\n")


def test_no_pattern_of_python_ends_before_a_newline() -> None:
    """Neither a `$` nor `re.match`, which does not look at the end at all; `fullmatch` is exact."""
    seen = 0
    for module in MODULES:
        for where, call, name in calls_of(module):
            assert name != "match", f"{where}: use fullmatch"
            seen += 1
            if name == "fullmatch":
                continue
            source = ast.Expression(call.args[0])
            try:
                pattern = eval(compile(source, where, "eval"), dict(vars(module)))  # noqa: S307
                dollar = has_dollar(pattern)
            except NameError:  # put together when it is needed
                dollar = "$" in ast.unparse(source)
            assert not dollar, f"{where}: use \\Z or fullmatch"
    assert seen > 20


def test_compiled_patterns_are_asked_for_the_whole() -> None:
    for module in MODULES:
        compiled = {name for name, value in vars(module).items() if isinstance(value, re.Pattern)}
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                asked = f"{module.__name__}: {node.value.id}.{node.attr}"
                assert node.value.id not in compiled or node.attr != "match", asked


def structs() -> list[type[msgspec.Struct]]:
    found, open_ = set(), [msgspec.Struct]
    while open_:
        for kind in open_.pop().__subclasses__():
            if kind not in found:
                found.add(kind)
                open_.append(kind)
    return [kind for kind in found if kind.__module__.startswith("vfl.")]


def patterns_in(info: object, seen: set[int]) -> Iterator[str]:
    """Patterns anywhere in what msgspec knows of a type."""
    if isinstance(info, types.StrType) and info.pattern is not None:
        yield info.pattern
    if id(info) in seen:
        return
    seen.add(id(info))
    for name in getattr(info, "__struct_fields__", ()):
        value = getattr(info, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, types.Type | types.Field):
                yield from patterns_in(part, seen)


def test_no_pattern_of_a_message_or_a_file_lets_a_newline_through() -> None:
    found = set()
    for kind in structs():
        found |= set(patterns_in(types.type_info(kind), set()))
    assert {to_the_end(JOB_NAME), to_the_end(PARTY_NAME)} <= found
    for pattern in found:
        assert not has_dollar(pattern), pattern


@pytest.mark.parametrize("kind", [Name, OfferedName])
def test_a_name_with_a_newline_is_none(kind: Any) -> None:
    assert msgspec.convert("registry", kind) == "registry"
    for name in ("registry\n", "registry\r", "\nregistry", "registry\n\n", "registry\x00", ""):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(name, kind)


@pytest.mark.parametrize("field", ["alignment", "model", "hosts", "fingerprints", "matching"])
def test_an_offer_with_a_newline_in_a_name_is_malformed(field: str) -> None:
    good = {
        "task": "align",
        "run": bytes(32),
        "hosts": ["registry"],
        "normalise": [],
        "alignment": "a",
        "model": "m",
        "fingerprints": {"registry": "ab" * 32},
        "matching": {"extends": "a"},
    }
    bad: dict[str, list[Any]] = {
        "alignment": ["a\n"],
        "model": ["m\n"],
        "hosts": [["registry\n"]],
        "fingerprints": [{"registry\n": "ab" * 32}, {"registry": "ab" * 32 + "\n"}],
        "matching": [{"extends": "a\n"}],
    }
    encode = msgspec.msgpack.encode
    assert isinstance(wire.decode(encode(["Offer", good]), [Offer]), Offer)
    for value in bad[field]:
        with pytest.raises(WireError, match="a malformed Offer"):
            wire.decode(encode(["Offer", {**good, field: value}]), [Offer])


def test_no_pattern_of_the_two_files_lets_a_newline_through() -> None:
    """In the schema `$` is the end, as editors take it; so does pydantic."""
    words = {
        "registry",
        *("nfkc", "trim", "upper", "digits", "alnum", "nozeros", "vin", "plate", "date", "date:dmy"),
        *("phone", "phone:33", ";", "tls://scheduler:8786"),
    }
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                found.add(node["pattern"])
            found.update(node.get("patternProperties", ()))
        for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(part)

    for kind in ("party", "job"):
        walk(config.schema("party" if kind == "party" else "job"))
    assert {JOB_NAME, PARTY_NAME} <= found
    for pattern in found:
        adapter = TypeAdapter(Annotated[str, Field(pattern=pattern)])
        matching = [word for word in words if re.fullmatch(pattern, word)]
        assert matching, pattern
        for word in matching:
            assert adapter.validate_python(word) == word
            for end in ("\n", "\r", "\r\n", "\u2028", "\n\n"):
                with pytest.raises(ValidationError):
                    adapter.validate_python(word + end)


def test_a_job_with_a_newline_in_a_name_is_refused() -> None:
    job = {"name": "x", "purpose": "p", "model": "glm", "family": "logistic"}
    glm = {"scores": "hidden", "coordinator": "umpire"}
    Job.model_validate({"job": job, "glm": glm})
    for changed in (
        {"job": {**job, "name": "x\n"}, "glm": glm},
        {"job": job, "glm": {**glm, "coordinator": "umpire\n"}},
    ):
        with pytest.raises(ValidationError):
            Job.model_validate(changed)


def test_to_pyarrow_a_dollar_is_the_end() -> None:
    found = pc.match_substring_regex(pa.array(["7", "7\n"]), "^[0-9]+$")
    assert found.to_pylist() == [True, False]


def test_a_document_with_a_newline_in_its_name_is_not_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("model", "a", {})
    path = store.path("model", "a")
    path.with_name("b\n.json").write_bytes(path.read_bytes())
    assert store.names("model") == ["a"]
