"""What a schema allows, in words."""

import json
from typing import Any

from vfl.party.ids import STEP
from vfl.party.reading import SEPARATOR, SEPARATOR_WORDS
from vfl.text import either

PARTY_NAME = r"^[a-z][a-z0-9-]{0,31}$"
PLACE = r"^[0-9a-f]{64}$"
JOB_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
CLUSTER = r"^(tls|tcp)://(\[[0-9a-fA-F:]+\]|[^\[\]/:@\s]+):[0-9]{1,5}$"


def plain_key(key: object) -> str:
    """A key as a terminal can take it, since a job's keys may come from a peer."""
    text = "".join(c if c.isprintable() else "?" for c in str(key))
    return text if len(text) <= 40 else text[:40] + "..."


_PATTERN_WORDS = {
    PARTY_NAME: "up to 32 lower-case letters, digits and hyphens, starting with a letter",
    JOB_NAME: "up to 64 lower-case letters, digits, dots, hyphens and underscores, "
    "starting with a letter or digit",
    CLUSTER: "tls://host:port (or tcp://127.0.0.1:port)",
    PLACE: "64 hexadecimal digits in small letters",
    SEPARATOR: SEPARATOR_WORDS,
    f"^({STEP})$": '"nfkc", "trim", "upper", "digits", "alnum", "nozeros", "vin", "plate", "date", '
    '"date:dmy", "date:mdy", "phone" or "phone:33" (or another country code)',
}


Schema = dict[str, Any]
"""A JSON Schema, or a part of one."""


def resolve_reference(node: Schema, full: Schema) -> Schema:
    """The schema that a reference leads to."""
    for option in node.get("anyOf", ()):
        if "$ref" in option:  # a section that may be absent
            return resolve_reference(option, full)
    if "$ref" in node:
        target: Schema = full["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return target
    return node


def describe_allowed(node: Schema, full: Schema) -> str:
    """What a value may be, in words: 'a whole number from 1 to 5000'."""
    if "anyOf" in node:
        return _any_of([option for option in node["anyOf"] if option.get("type") != "null"], full)
    if "enum" in node or "const" in node:
        values = node.get("enum") or [node["const"]]
        return either([json.dumps(v) for v in values])
    kind = node.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(node)
    if kind == "string":
        if node.get("format") in _FORMATS:
            return _FORMATS[node["format"]]
        if "pattern" in node:
            return _PATTERN_WORDS[node["pattern"]]
        if "maxLength" in node:
            return f"text of {node.get('minLength', 0)} to {node['maxLength']} characters"
        return "non-empty text in quotes" if node.get("minLength") else "text in quotes"
    if kind == "array":
        return _array(node, full)
    if kind == "object":
        each = describe_allowed(node.get("additionalProperties") or {}, full)
        known = "section" not in each and each != _UNKNOWN
        return f"a section, each value {each}" if known else "a section"
    return "true or false" if kind == "boolean" else _UNKNOWN


_UNKNOWN = "something else"
_FORMATS = {
    "date": "a date such as 2027-12-31, without quotes",
    "path": "a path in quotes",
    "host:port": "host:port in quotes",
}
_SEVERAL = {
    "a number": "numbers",
    "a whole number": "whole numbers",
    "a path": "paths",
    "a list": "lists",
    "a pair": "pairs",
    "up to": "names of up to",
}


def _any_of(options: list[Schema], full: Schema) -> str:
    """One option or another; lists by name are not described twice."""
    words = list(dict.fromkeys(describe_allowed(option, full) for option in options))
    for i, option in enumerate(options[1:], 1):
        if option.get("additionalProperties") == options[i - 1]:
            words[i] = "a section of such"
    return either(words)


def _array(node: Schema, full: Schema) -> str:
    """A list, or a pair, of what its items are."""
    pair = node.get("minItems") == node.get("maxItems") == 2
    items = node.get("items") or {}
    each = describe_allowed((node.get("prefixItems") or [items])[0], full)
    for one, several in _SEVERAL.items():
        if each.startswith(one):
            each = several + each.removeprefix(one)
            break
    what = "a pair" if pair else "a list"
    return what if each == _UNKNOWN else f"{what} of {each}"


def _bound(number: float) -> str:
    """A number as people write it: 65,536, and 2^63 for what nobody would read."""
    if isinstance(number, int) or number.is_integer():
        whole = int(number)  # some versions of pydantic have 0.0 for 0
        if whole >= 1 << 31 and whole & (whole - 1) == 0:
            return f"2^{whole.bit_length() - 1}"
        return f"{whole:,}" if abs(whole) >= 10_000 else str(whole)
    return f"{number:.9f}".rstrip("0")


def _range(node: Schema) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f" from {_bound(least)} to {_bound(most)}"
    parts = [
        f" {words} {_bound(bound)}"
        for words, bound in (
            ("of at least", least),
            ("above", above),
            ("of at most", most),
            ("below", below),
        )
        if bound is not None
    ]
    return " and".join(parts)
