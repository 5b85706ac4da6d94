"""What is wrong with a party file or a job file, in sentences that name the key and say what to do."""

import re
from collections.abc import Sequence

from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic_core import ErrorDetails

from vfl.errors import ConfigError
from vfl.party.config_words import (
    _PATTERN_WORDS,
    PARTY_NAME,
    Schema,
    describe_allowed,
    plain_key,
    resolve_reference,
)
from vfl.text import nearest_name


def error_for_all(text: str) -> ConfigError:
    return ConfigError(text, for_peer=text)


def explain_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in words, and how many more there are."""
    full = model.model_json_schema(mode="validation")
    problems = error.errors(include_input=False, include_url=False)
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    # A misspelt key is the cause of the missing one: it goes first and stands for both.
    meant = {(*p["loc"][:-1], _meant(p, full)) for p in unknown}
    rest = [
        p
        for p in problems
        if p["type"] != "extra_forbidden" and not (p["type"] == "missing" and p["loc"] in meant)
    ]
    texts = list(dict.fromkeys(_sentence(p, full) for p in unknown + rest))
    more = len(texts) - 1
    return texts[0] + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def _meant(problem: ErrorDetails, full: Schema) -> str | None:
    *parents, key = problem["loc"]
    return nearest_name(str(key), _properties(parents, full))


def _sentence(problem: ErrorDetails, full: Schema) -> str:
    kind, loc = problem["type"], tuple(problem["loc"])
    if kind == "value_error" and len(loc) <= 1:
        # A rule over several keys says itself where it applies.
        return f"[{loc[0]}] {_own(problem)}" if loc else _own(problem)
    if not loc:  # JSON can escape half a character; pydantic does not say where
        return "the name of a section is no text"
    *parents, key = loc
    if key == "[key]":
        return f"[{plain_key(parents[0])}.NAME]: the NAME must be {_PATTERN_WORDS[PARTY_NAME]}"
    if isinstance(key, int):
        if kind == "value_error" and "properties" in _lookup(loc, full):
            return f"{_section(loc)} {_own(problem)}"
        # An entry of a list: the list is what the person looks for.
        *parents, key = parents
    place = _section(parents)
    here = f"{place} {plain_key(key)}" if place else f"section [{plain_key(key)}]"
    if kind == "extra_forbidden":
        known = _properties(parents, full)
        near = _meant(problem, full)
        what = f"unknown key '{plain_key(key)}' in {place.rstrip(':')}" if place else f"unknown {here}"
        if homes := _homes(str(key), parents, full):
            known_in = " or of ".join(f"[{home}]" for home in homes)
            if place:
                return f"{what}: it is a key of {known_in}"
            # As `tape = "all"` above the first section, which TOML reads as one beside the sections.
            return f"'{plain_key(key)}' is no section but a key of {known_in}: write it below that line"
        return what + (f": did you mean '{near}'?" if near else f": allowed are {', '.join(known)}")
    if kind == "missing":
        return f"{here} is missing"
    if kind == "value_error":
        return f"{here} {_own(problem)}"
    return f"{here} must be {describe_allowed(_lookup((*parents, key), full), full)}"


def _section(loc: Sequence[object]) -> str:
    """A section as its file has it, "" at the top; of several that share a name, which of them it is."""
    name = ".".join(plain_key(key) for key in loc if not isinstance(key, int))
    numbers = [key + 1 for key in loc if isinstance(key, int)]
    if numbers:
        return f"[[{name}]] number {numbers[-1]}:"
    return f"[{name}]" if name else ""


def _own(problem: ErrorDetails) -> str:
    return str(problem["ctx"]["error"])


def _lookup(loc: Sequence[object], full: Schema) -> Schema:
    """The schema of what `loc` points at, or an empty one."""
    node = full
    for key in loc:
        node = resolve_reference(node, full)
        if "properties" in node:
            node = node["properties"].get(key, {})
        elif isinstance(key, int):  # one of several sections that share a name
            node = node.get("items", {})
        else:
            sections = [one for one in node.get("anyOf", ()) if one.get("type") == "object"]
            node = sections[0] if sections else node  # sections that may be absent
            # Peers are named freely: their sections share one schema.
            patterns = node.get("patternProperties") or {"": node.get("additionalProperties") or {}}
            node = next(iter(patterns.values()))
    return resolve_reference(node, full)


def _homes(key: str, parents: Sequence[object], full: Schema) -> list[str]:
    """Other sections that have a key of just this name."""
    return [
        one for one in _properties((), full) if [one] != [*parents] and key in _properties([one], full)
    ]


def _properties(loc: Sequence[object], full: Schema) -> list[str]:
    return list(_lookup(loc, full).get("properties", {}))


def check_name(name: str, pattern: str) -> None:
    """Raises ConfigError for a name that is not of PARTY_NAME or JOB_NAME."""
    if not re.search(pattern, name):
        raise ConfigError(f"{name!r} is no name: it must be {_PATTERN_WORDS[pattern]}")


def describe_key(model: type[BaseModel], *key: str) -> str:
    """What a key of a section, or one in it, may be, in words: 'a whole number from 1 to 5000'."""
    full = model.model_json_schema(mode="validation")
    return describe_allowed(_lookup(key, full), full)
