"""What is said of a query over files: why it cannot be run, and what in it is another at each run.

DuckDB's own words are never passed on, as they quote cells: of them an error takes the names of columns,
tables and functions alone.
"""

import json
import re
from collections.abc import Iterator, Sequence

from vfl.text import in_words

_NO_COLUMN = re.compile(r'^Binder Error: Referenced column "([^"\n]+)" not found')
_OF_A_TABLE = re.compile(r'^Binder Error: .+ does not have a column named "([^"\n]+)"')
_NAMED = (
    (_NO_COLUMN.pattern, "there is no column '{}'"),
    (r'^Binder Error: Referenced table "([^"\n]+)" not found', "there is no table '{}'"),
    (_OF_A_TABLE.pattern, "there is no column '{}'"),
    (r'^Binder Error: Column "([^"\n]+)" in \w+ list not found', "there is no column '{}'"),
    (
        r'^Binder Error: Column "([^"\n]+)" does not exist on \w+ side of join',
        "column '{}' is not on both sides of the join",
    ),
    (
        r'^Binder Error: Ambiguous reference to column name "([^"\n]+)"',
        "column '{}' is in several tables: say of which, as in data.column",
    ),
    (
        r'^Binder Error: column "([^"\n]+)" must appear in the GROUP BY',
        "column '{}' is neither in group by nor in an aggregate such as max()",
    ),
    (
        r"^Binder Error: No function matches the given name and argument types '(\w+|\W{1,3})\(",
        "{} takes no values of such types: cast(column as double) makes numbers of text",
    ),
    (r"^Catalog Error: Table with name (\w+) does not exist", "there is no table '{}'"),
    (
        r"^Catalog Error: (?:\w+ )?Function with name (\w+) does not exist",
        "DuckDB knows no function '{}'",
    ),
)
_SAID = (
    (r"^Binder Error: aggregate function calls cannot be nested", "one aggregate is inside another"),
    (
        r"^Binder Error: Cannot compare values of type|^Binder Error: Cannot mix values of type",
        "it compares or mixes values of different types: cells of text files stay text until it casts "
        "them, as in cast(age as integer)",
    ),
    (
        r"Values were not provided for the following parameters",
        "it has a parameter (? or $1), which nothing fills in: write the value itself",
    ),
    (r"Division by zero", "it divides by zero: nullif(divisor, 0) makes the value missing"),
    (
        r"More than one row returned by a subquery",
        "a subquery that stands for a single value has several rows",
    ),
)
_KINDS = {
    "Parser": "{} is no SQL that DuckDB knows",
    "Binder": "{} does not fit the types of the columns, or does not tell them apart",
    "Catalog": "{} names something that is not there",
    "Conversion": "{} turns a value into a type that cannot hold it: try_cast makes it missing",
    "Out of Range": "{} makes a number that is too large for its type",
    "Invalid Input": "{} gives a function a value that it cannot take",
    "Permission": "{} reads more than the tables that [data] names, which a query may not",
    "Not implemented": "{} needs something that DuckDB cannot do with such a type",
}


def kind_of_error(error: Exception) -> str | None:
    """The kind of an error of DuckDB, such as "Out of Memory"; None for another one."""
    found = re.search(r"\A(?:INTERNAL )?([A-Z][A-Za-z ]*) Error: ", str(error))
    return found[1] if found else None


def what_is_wrong(error: Exception, query: str, tables: Sequence[str], *, lines: bool) -> str:
    """Why DuckDB refuses a query over these tables. `lines`: it numbers the lines of `query`."""
    text = str(error)
    at = re.search(r"^LINE (\d+):", text, re.M)
    where = f"line {at[1]}" if at and lines else "it"
    for pattern, words in _NAMED:
        if (found := re.search(pattern, text)) is None:
            continue
        # Behind a table's name it is a column's; elsewhere it may be text, which is a cell's.
        quoted = f'"{found[1]}"' in query and not _OF_A_TABLE.search(text)
        if quoted and " no " in words:
            place = _place(query, found[1], int(at[1])) if at and lines else where
            return f"{place} has a name in double quotes that is not there: text takes single ones"
        known = f": a query has {', '.join(tables)}" if "no table" in words else ""
        return words.format(found[1]) + known
    for pattern, words in _SAID:
        if re.search(pattern, text):
            return words
    return _KINDS.get(kind_of_error(error) or "", "{} cannot be run").format(where)


def missing_column(error: Exception) -> str | None:
    """The column that no table has, or its table does not, where that is the error; else None."""
    found = _NO_COLUMN.search(str(error)) or _OF_A_TABLE.search(str(error))
    return found[1] if found else None


def _place(query: str, name: str, line: int) -> str:
    """Where a name in double quotes stands, by line and sign of it, each from 1."""
    lines = query.split("\n")
    at = lines[line - 1].find(f'"{name}"') if line <= len(lines) else -1
    return f"line {line}" + (f", character {at + 1}," if at >= 0 else "")


_DRAWN = frozenset(
    {
        *("random", "rand", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "uuid_generate_v4"),
        *("uuid_string", "nextval", "txid_current", "clock_timestamp", "newid"),
    }
)
_BARE = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
_DATED = _BARE | {
    *("now", "today", "get_current_timestamp", "transaction_timestamp", "get_current_time"),
    *("current_localtime", "current_localtimestamp", "statement_timestamp", "getdate", "sysdate"),
}


def changing_parts(parsed: str) -> list[str]:
    """What is said of a query that gives something else whenever it runs, by its tree as JSON."""
    return _said_of(frozenset(_called(json.loads(parsed))))


def changing_words(query: str) -> list[str]:
    """The same of a query in the SQL of some database, as far as its words tell."""
    bare = re.sub(
        r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", " ", query, flags=re.S
    ).lower()
    called = {*re.findall(r"\b(\w+)\s*\(\s*\)", bare)}
    names = called & (_DRAWN | _DATED) | {*re.findall(r"\b\w+\b", bare)} & _BARE
    if re.search(r"\btablesample\b(?!.*\brepeatable\b)", bare, re.S):
        names |= {_SAMPLE}
    return _said_of(names)


def _said_of(names: frozenset[str] | set[str]) -> list[str]:
    said = []
    for found, what in (
        (
            names & {*_DRAWN, _SAMPLE},
            "other rows or values whenever the table is read: what is scored is not what was trained "
            "on; hash() of the id draws the same each time",
        ),
        (names & _DATED, "other values on another day: write the day itself, as in date '2027-01-01'"),
    ):
        if found:
            make = "makes" if len(found) == 1 else "make"
            said.append(f"{in_words(sorted(found))} {make} {what}")
    return said


_SAMPLE = "a sample"


def _called(tree: object) -> Iterator[str]:
    """The names of all functions in a tree, with brackets or without, and samples."""
    if isinstance(tree, list):
        for branch in tree:
            yield from _called(branch)
    if not isinstance(tree, dict):
        return
    if isinstance(name := tree.get("function_name"), str):
        # age(moment) counts up to now.
        alone = name.lower() == "age" and len(tree.get("arguments") or ()) == 1
        yield "now" if alone else name.lower()
    names = tree.get("column_names")
    if isinstance(names, list) and len(names) == 1 and str(names[0]).lower() in _BARE:
        yield str(names[0]).lower()
    sample = tree.get("sample")
    if isinstance(sample, dict) and sample.get("seed") == -1:
        yield _SAMPLE
    for branch in tree.values():
        yield from _called(branch)
