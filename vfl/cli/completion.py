"""What shells complete: commands, options, files, and the names of what a party keeps."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.errors import ConfigError, VflError
from vfl.terminal.streams import stdout

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from vfl.party.kinds import DocumentKind

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]
_STAMP = 3  # words at the end of a name that say when it was made


@main.command(short_help="Print what a shell needs to complete vfl's commands.")
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what a shell needs to complete commands, options, files, and the names of the models,
    alignments and unfinished runs of the party file on the line.

    \b
    bash  put  eval "$(vfl completion bash)"  into ~/.bashrc
    zsh   put  eval "$(vfl completion zsh)"  into ~/.zshrc, after compinit
    fish  run  vfl completion fish > ~/.config/fish/completions/vfl.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"nothing is known about completion in {shell}")
    stdout.write(kind(main, {}, "vfl", "_VFL_COMPLETE").source() + "\n")


def names_of(*kinds: "DocumentKind", jobs: bool = False, paths: bool = False) -> Completer:
    """Completes the names of documents in the store of the party file that is on the line.

    `jobs`: also those of jobs, which stand for the newest document; `paths`: also files.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        del param
        if paths and "/" in incomplete:
            return [CompletionItem(incomplete, type="file")]
        names = _names(_party_of(ctx), kinds)
        given = {_job_of(name): "the newest" for name in names} if jobs else {}
        found = {**given, **dict.fromkeys(names)}
        return [
            CompletionItem(name, help=told)
            for name, told in sorted(found.items())
            if name and name.startswith(incomplete)
        ]

    return complete


def _party_of(ctx: click.Context) -> object:
    """The party file on a line, which ends with an option that has no value yet."""
    given: object = ctx.params.get("party")
    if given is None:  # click gives up arguments where an option lacks its value
        names = [one.name for one in ctx.command.params if isinstance(one, click.Argument)]
        given = dict(zip(names, ctx.args, strict=False)).get("party")
    return given


def _names(party: object, kinds: "Iterable[DocumentKind]") -> list[str]:
    """The names of documents; none while the line has no party file that can be read."""
    if not isinstance(party, str | Path):
        return []
    from vfl.party.config import load_party
    from vfl.party.store import Store

    with contextlib.suppress(VflError, OSError):
        store = Store(load_party(Path(party)).party.store)
        return sorted({name for kind in kinds for name in store.names(kind)})
    return []


def _job_of(name: str) -> str:
    """The job, or given name, of which the document of a full name is."""
    words = name.rsplit("-", _STAMP)
    return words[0] if len(words) == _STAMP + 1 else ""
