"""What a schema allows, in words."""

import json
from typing import Any

from vfl.party.ids import STEP
from vfl.party.reading import SEPARATOR, SEPARATOR_WORDS

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
    f"^({STEP})$": '"nfkc" or "trim" or "upper" or "digits" or "alnum" or "nozeros" or "vin" or '
    '"plate" or "date" or "date:dmy" or "date:mdy" or "phone" or "phone:33" (or another country code)',
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
        options = [describe_allowed(o, full) for o in node["anyOf"] if o.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "enum" in node or "const" in node:
        values = node.get("enum") or [node["const"]]
        return " or ".join(json.dumps(v) for v in values)
    kind = node.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(node)
    if kind == "string":
        if node.get("format") == "date":
            return "a date such as 2027-12-31, without quotes"
        if "pattern" in node:
            return _PATTERN_WORDS[node["pattern"]]
        if "maxLength" in node:
            return f"text of {node.get('minLength', 0)} to {node['maxLength']} characters"
        return "non-empty text in quotes" if node.get("minLength") else "text in quotes"
    if kind == "array":
        items = describe_allowed(node.get("items", {}), full)
        items = items.replace("a number", "numbers") if items.startswith("a number") else items
        return f"a list of {items}" if items != "something else" else "a list"
    return {"boolean": "true or false", "object": "a section"}.get(str(kind), "something else")


def _range(node: Schema) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}" if most < 1e6 else f" from {least} to {most}"
    parts = [
        # Some versions of pydantic have 0.0 for 0.
        f" {words} {f'{bound:g}' if isinstance(bound, float) else bound}"
        for words, bound in (
            ("of at least", least),
            ("above", above),
            ("of at most", most),
            ("below", below),
        )
        if bound is not None
    ]
    return " and".join(parts)
