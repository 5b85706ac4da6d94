"""What a setting may be, in the words of errors and of docs/configuration.md."""

import pytest

from vfl.party.config_words import PARTY_NAME, describe_allowed


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 65536}, "a whole number from 1 to 65,536"),
        ({"type": "number", "minimum": -1e6, "maximum": 1000}, "a number from -1,000,000 to 1000"),
        ({"type": "number", "exclusiveMinimum": 1e-6}, "a number above 0.000001"),
        (
            {"type": "integer", "minimum": 0.0, "exclusiveMaximum": 2**63},
            "a whole number of at least 0 and below 2^63",
        ),
        ({"enum": ["a", "b", "c"]}, '"a", "b" or "c"'),
        (
            {"type": "array", "items": {"type": "string", "pattern": PARTY_NAME}},
            "a list of names of up to 32 lower-case letters, digits and hyphens, starting with a letter",
        ),
        (
            {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            "a list of lists of numbers",
        ),
        ({"type": "object", "additionalProperties": {"enum": [1]}}, "a section, each value 1"),
        ({"type": "object", "additionalProperties": {"type": "object"}}, "a section"),
        ({"anyOf": [{"format": "path", "type": "string"}, {"type": "null"}]}, "a path in quotes"),
    ],
)
def test_what_a_value_may_be_in_words(allowed, words):
    assert describe_allowed(allowed, {}) == words
