"""One row, two rows: counts in messages are said by `counted`, which knows the singular."""

import ast
import re
from pathlib import Path

VFL = Path(__file__).parents[1] / "vfl"
COUNTED = frozenset(
    (
        *(
            "row",
            "id",
            "byte",
            "column",
            "tree",
            "iteration",
            "level",
            "coefficient",
            "split",
            "message",
        ),
        *(
            "line",
            "match",
            "seal",
            "session",
            "key",
            "day",
            "minute",
            "hour",
            "score",
            "host",
            "party",
            "job",
            "file",
        ),
        *(
            "cell",
            "group",
            "rule",
            "node",
            "table",
            "alignment",
            "model",
            "entry",
            "category",
            "connection",
        ),
        *(
            "candidate",
            "attempt",
            "problem",
            "argument",
            "name",
            "value",
            "time",
            "date",
            "peer",
            "batch",
        ),
    )
)
SEVERAL = {  # never one: a constant above 1, a bound that was exceeded, what several rows have in common
    "{len(self.ids):,} ids,",  # of a repr, as the next
    "{len(self.rows):,} rows)",
    "{len(rows):,} levels, more than",
    "{len(rows):,} rows are too many: at most",
    "{size:,} bytes, over its",
    "{len(tagged.body):,} bytes, over",
    "{len(data):,} bytes, over",
    "{repeated:,} rows share their id,",
    "{_MOST:,} bytes",
    "{_MOST:,} bytes, not",
    "{most:,} rows joined to one row breaks",
    "{_MAX_LINKS} times: start anew",
    "{len(names):,} categories, over",
    "{len(distinct):,} categories, over",
    "{_ROWS_A_COLUMN} rows a column (fewer levels or more rows)",
    "{rows:,} rows leave",
    "{rows:,} rows and",
    "{self.rows:,} rows are too many for",
    "{len(offered.candidates):,} split candidates are more than",
    "{len(ordered):,} split candidates are more than",
    "{rows:,} rows leave no bit beside the sign",
    "{matrix.rows:,} rows and numbers of",
    "{MAX_HOSTS} hosts of different names are due",
    "{MAX_HOSTS} hosts",
    "{len(ids):,} ids, more than the",
    "{len(levels):,} columns;",
    "{fixed(value, 1)} times",
    "{speed:,.0f} rows a second",
    "{len(importance)} columns",
    "{len(broken)} rules",
}


def plurals(tree: ast.AST) -> list[str]:
    """A count in an f-string, and the plural behind it."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for number, text in zip(node.values, node.values[1:], strict=False):
            if not (isinstance(number, ast.FormattedValue) and isinstance(text, ast.Constant)):
                continue
            counts = isinstance(number.value, ast.Call) and ast.unparse(number.value).startswith("len(")
            if not counts and "," not in ast.unparse(number.format_spec or ast.Constant("")):
                continue
            noun = re.match(r" (?:[a-z-]+ )?([a-z]+s)\b", str(text.value))
            one = noun and (noun[1][:-3] + "y" if noun[1].endswith("ies") else noun[1][:-1])
            if {one, (one or "").removesuffix("e")} & COUNTED:
                found.append(f"{ast.unparse(ast.JoinedStr([number]))[2:-1]}{str(text.value).rstrip()}")
    return found


def test_counts_know_the_singular() -> None:
    said = {}
    for path in sorted(VFL.rglob("*.py")):
        if path.is_relative_to(VFL / "crypto"):  # what it says are faults of vfl itself
            continue
        for text in plurals(ast.parse(path.read_text("utf-8"))):
            if text not in SEVERAL:
                said[text] = path.name
    assert said == {}, "say it with vfl.text.counted, or list it above if it can never be one"


def test_what_the_test_above_finds() -> None:
    code = 'f"{n:,} rows of {m:,} late ids: {k:,} matches, {len(t)} entries, {x} rows, {p:,} says"'
    assert plurals(ast.parse(code)) == [
        *("{n:,} rows of", "{m:,} late ids:", "{k:,} matches,", "{len(t)} entries,")
    ]
