"""What shells are told to complete a command line with."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from commands import command
from federation import Party
from kept_parties import copy_parties

from vfl.cli import main

CLAIMS, LINEAR = "claims-20261128-234030-38f3b4", "linear-20261128-234032-4d904d"
HIDDEN, EVERY = "hidden-20261128-234035-31aba4", "every-20261128-234025-e5a0b5"


@pytest.fixture(scope="module")
def insurer(tmp_path_factory: pytest.TempPathFactory) -> Party:
    return copy_parties("v1", tmp_path_factory.mktemp("kept"))["insurer"]


def completed(*words: str) -> list[str]:
    """What the last word, which may be empty, can become."""
    *before, last = words
    found = ShellComplete(main, {}, "vfl", "_VFL_COMPLETE").get_completions(before, last)
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in found]


def test_commands_and_options() -> None:
    assert {"align", "models", "status", "completion"} <= {*completed("")}
    assert completed("tra") == ["train"]
    assert completed("models", "") == ["<file>", "remove", "show"]
    assert completed("models", "sh") == ["<file>", "show"]
    assert completed("models", "remove", "insurer.toml", "--y") == ["--yes"]
    assert completed("completion", "") == ["bash", "zsh", "fish"]
    assert completed("nothing", "") == completed("")
    assert "--json" in completed("alignments", "insurer.toml", "--")
    assert completed("online", "tok") == ["<file>", "token"]
    assert completed("train", "") == ["<file>"]


def test_names_are_those_of_the_party_file_on_the_line(insurer: Party) -> None:
    file = str(insurer.file)
    jobs = ["claims", CLAIMS, "hidden", HIDDEN, "linear", LINEAR]
    for words in (["score", file], ["report", file], ["models", "show", file], ["tariff", file]):
        assert completed(*words, "--model", "") == jobs, words
    assert completed("models", "remove", file, "--model", "") == [CLAIMS, HIDDEN, LINEAR]
    assert completed("score", file, "--model", "li") == ["linear", LINEAR]
    assert completed("score", file, "--model=li") == ["linear", LINEAR]
    assert completed("score", file, "--model", "./li") == ["<file>"]
    assert completed("train", file, "job.toml", "--alignment", "e") == ["every", EVERY]
    assert completed("align", file, "--extend", "every-") == [EVERY]
    assert completed("alignments", "remove", file, "--alignment", "e") == [EVERY]
    assert completed("oneway", file, "--model", "cl") == ["claims", CLAIMS]
    assert completed("runs", "remove", file, "--run", "") == []


def test_without_a_party_file_that_can_be_read_there_are_no_names(
    insurer: Party, tmp_path: Path
) -> None:
    assert completed("score", "--model", "") == []
    assert completed("score", str(tmp_path / "none.toml"), "--model", "") == []
    broken = tmp_path / "broken.toml"
    broken.write_text("[party")
    assert completed("score", str(broken), "--model", "") == []


def test_a_shell_is_answered_by_the_command_itself(
    insurer: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_VFL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"vfl score {insurer.file} --model li")
    monkeypatch.setenv("COMP_CWORD", "4")
    done = command()
    assert done.code == 0 and done.err == ""
    assert done.out.splitlines() == ["plain,linear", f"plain,{LINEAR}"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_take_what_is_printed(shell: str) -> None:
    script = command("completion", shell).ok().out
    assert "_VFL_COMPLETE" in script
    if (program := shutil.which(shell)) is None:
        return
    done = subprocess.run([program, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if shell == "bash":
        told = subprocess.run(
            [program, "-c", f"{script}\ncomplete -p vfl"], capture_output=True, text=True, check=True
        )
        assert "_vfl_completion" in told.stdout


def test_another_shell_is_none_that_is_known() -> None:
    command("completion", "tcsh").failed(2, "must be bash, zsh or fish")
