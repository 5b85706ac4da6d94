"""Stage the pages of the site: those of the repository with links that fit, and those made from code.

    python docs/site/stage.py FOLDER

Pages of docs/ lie at the root of the site, README.md and its like beside them. A link to a file that is
no page is one to a copy of it, a link to a folder without a README is none. References are made from the
code as it is: commands (click), the Python interface (docstrings), types of messages (`Reveals:`).
Ends with an error that names page and link where a link leads nowhere, and where tables are not those of
the code (made_tables.py).
"""

import argparse
import html
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from made_tables import COMMAND, direction, old_pages

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = ("retail", "disease_risk")
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "data_samples/README.md": "data_samples.md",
    **{f"scenarios/{name}/README.md": f"scenarios/{name}.md" for name in SCENARIOS},
}
"""Pages outside docs/, and where they lie in the site."""
_LINK = re.compile(r"(\]\()([^)\s]+)(\))|((?:src|href)=\")([^\"]+)(\")")
_CODE = re.compile(r"^(```|~~~).*?^\1\s*?$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_MADE = re.compile(r"^<!-- (\w+): [\w.:, ]+ -->\n\n((?:\|.*\n)+)", re.MULTILINE)
_BLOCK = '<div class="made \\1" markdown>\n\n\\2\n</div>\n'  # for tables.css
STYLES = "tables.css"
_MOST = 2 << 20  # bytes of a file that is copied because a page links to it


def pages() -> dict[Path, Path]:
    """All pages of the repository by their files, with their places in the site."""
    found = {ROOT / source: Path(target) for source, target in PAGES.items()}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        found[path] = path.relative_to(ROOT / "docs")
    return found


def links(text: str) -> Iterator[re.Match[str]]:
    """The links of a page, outside code."""
    code = [found.span() for found in _CODE.finditer(text)]
    for found in _LINK.finditer(text):
        if not any(start <= found.start() < stop for start, stop in code):
            yield found


def target_of(found: re.Match[str]) -> str:
    return found[2] or found[5]


def is_outside(target: str) -> bool:
    """Whether a link leads to another site."""
    return bool(re.match(r"[a-z]+:", target))


def stage(folder: Path) -> list[str]:
    """Write all pages into a folder, which is emptied first. What is wrong with links, a line each."""
    shutil.rmtree(folder, ignore_errors=True)
    known = pages()
    old = [path.relative_to(ROOT) for path in old_pages()]
    wrong = [f"{path} does not say what the code does: run {COMMAND}" for path in old]
    for source, place in known.items():
        text, faults = _rewritten(source, place, known, folder)
        wrong += faults
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_bars(_MADE.sub(_BLOCK, text)), encoding="utf-8")
    shutil.copy(Path(__file__).with_name(STYLES), folder)
    for name, text in references().items():
        path = folder / "reference" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return wrong


def _rewritten(
    source: Path, place: Path, known: dict[Path, Path], folder: Path
) -> tuple[str, list[str]]:
    text, parts, wrong, end = source.read_text("utf-8"), [], [], 0
    for found in links(text):
        target = target_of(found)
        if is_outside(target) or target.startswith("#"):
            continue
        name, sign, anchor = target.partition("#")
        path = (source.parent / name).resolve()
        if path.is_dir() and (path / "README.md") in known:
            path /= "README.md"
        parts.append(text[end : found.start()])
        end = found.end()
        if path in known:
            there = known[path]
        elif path.is_file() and path.is_relative_to(ROOT) and path.stat().st_size <= _MOST:
            there = _copied(path, folder)
        elif path.is_dir() and found[2]:
            before, _, words = parts[-1].rpartition("[")
            parts[-1] = before + words  # without a link
            continue
        elif path.parent == ROOT / "docs" / "reference" and path.name in REFERENCES:
            there = path.relative_to(ROOT / "docs")
        else:
            wrong.append(f"{source.relative_to(ROOT)}: {target} leads nowhere")
            there = place
        before, after = (found[1], found[3]) if found[2] else (found[4], found[6])
        parts.append(f"{before}{os.path.relpath(there, place.parent)}{sign}{anchor}{after}")
    return "".join([*parts, text[end:]]), wrong


def _bars(text: str) -> str:
    """Bars in code within tables as GitHub shows them: there they are escaped, and seen without that."""
    lines = []
    for line in text.split("\n"):
        if line.startswith("|") and "\\|" in line:
            line = re.sub(
                r"`([^`\n]*\\\|[^`\n]*)`",
                lambda found: f"<code>{html.escape(found[1]).replace(chr(92) + '|', '&#124;')}</code>",
                line,
            )
        lines.append(line)
    return "\n".join(lines)


def _copied(path: Path, folder: Path) -> Path:
    """Where a copy of a file lies in the site."""
    inside = path.relative_to(ROOT)
    place = inside.relative_to("docs") if inside.parts[0] == "docs" else Path("files") / inside
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return place


# --- Made from code. ------------------------------------------------------------------------------


def references() -> dict[str, str]:
    """The pages that are made from code, by file."""
    return {name: make() for name, make in REFERENCES.items()}


def commands() -> str:
    """All commands as `--help` says them."""
    import click

    from vfl.cli import main

    lines = [
        "# Commands",
        "",
        "All commands of `vfl`, as `vfl COMMAND --help` says them. What they print, and what they do to",
        "each other, is in the [guide](../guide.md) and in [operations](../operations.md).",
        "",
    ]

    def add(command: click.Command, context: click.Context, level: int) -> None:
        name = context.command_path
        lines.extend([f"{'#' * level} {name}", "", "```", command.get_help(context), "```", ""])
        if isinstance(command, click.Group):
            for one in command.list_commands(context):
                sub = command.get_command(context, one)
                if sub is not None and not sub.hidden:
                    add(sub, click.Context(sub, context, one, terminal_width=100), min(level + 1, 4))

    add(main, click.Context(main, info_name="vfl", terminal_width=100), 2)
    return "\n".join(lines)


def python_interface() -> str:
    """What `import vfl` has, from docstrings."""
    import vfl

    lines = [
        "# Python interface",
        "",
        "What `import vfl` has, from its docstrings; [From Python](../python.md) shows how it is used.",
        "",
    ]
    for name in sorted(vfl.__all__):
        found = getattr(vfl, name)
        if not inspect.isclass(found) and not inspect.isfunction(found):
            continue
        lines += [f"## vfl.{name}", "", *_signed(f"vfl.{name}", found), *_described(found)]
        if inspect.isclass(found):
            for method, of in _methods(found):
                lines += [f"**{name}.{method}**", "", *_signed(method, of), *_described(of)]
    return "\n".join(lines)


def _methods(kind: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties that vfl itself defines and describes."""
    for name, found in inspect.getmembers(kind):
        of = found.fget if isinstance(found, property) else found
        if name.startswith("_") or not getattr(of, "__module__", "").startswith("vfl"):
            continue
        if getattr(of, "__doc__", None):
            yield name, of


def _signed(name: str, found: object) -> list[str]:
    try:
        return ["```python", f"{name}{_short(found)}", "```", ""]
    except (TypeError, ValueError):
        return []


def _described(found: object) -> list[str]:
    """A docstring in numpy's form: its words, and a table for each section of names."""
    lines: list[str] = []
    rows: list[list[str]] | None = None
    for line in (inspect.getdoc(found) or "").splitlines():
        if re.fullmatch("-{3,}", line) and lines:
            title = lines.pop()
            lines += [f"{title}:", "", "| name | what | |", "| --- | --- | --- |"]
            rows = []
        elif rows is None:
            lines.append(_plain(line))
        elif line.startswith(" ") and rows:
            rows[-1][2] = f"{rows[-1][2]} {line.strip()}".strip()
        elif " : " in line or (line and not line.startswith(" ")):
            name, _, kind = line.partition(" : ")
            rows.append([name, kind, ""])
        if rows is not None and not line:
            lines += [*_table(rows), ""]
            rows = None
    return [*lines, *_table(rows or []), ""]


def _table(rows: list[list[str]]) -> list[str]:
    return [f"| `{name}` | {_plain(kind)} | {_plain(said)} |" for name, kind, said in rows]


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is, but for code."""
    return re.sub(r"([<>*_|\[\]])(?=(?:[^`]*`[^`]*`)*[^`]*$)", r"\\\1", text)


def _short(found: object) -> str:
    """A signature, a parameter a line where it is long."""
    signature = inspect.signature(found)  # type: ignore[arg-type]
    bare = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=signature.empty))
    if len(text) <= 80:
        return text
    return "(\n" + "".join(f"    {one},\n" for one in bare) + ")"


def messages() -> str:
    """All types of messages by name, with what each reveals."""
    from vfl.jobs.reveals import message_types, reveals

    lines = [
        "# Types of messages",
        "",
        "Every message that one party can send to another, by name, as the code defines it;",
        "[Messages](../messages.md) has them in the order of a job, with when each is sent.",
        "",
        "| message | direction | module | reveals |",
        "| --- | --- | --- | --- |",
    ]
    for name, kind in sorted(message_types().items()):
        reveal = reveals(kind).replace("|", "\\|")
        lines.append(f"| `{name}` | {direction(kind)} | `{kind.__module__}` | {reveal} |")
    return "\n".join([*lines, ""])


REFERENCES = {"commands.md": commands, "python.md": python_interface, "messages.md": messages}
"""The pages of reference/, each with what makes it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/site/pages"))
    wrong = stage(parser.parse_args().folder)
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
