"""A line of [data] put into a party file, all else as it was."""

import os
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.errors import DataError
from vfl.party.party_text import change_party, with_line

LINE = 'ignore = ["a", "b"]'
TEXT = """# Of the bureau.
[party]
name = "bureau"  # as in its certificate

[data] # the table
path = "x.csv"
id = "plate"

[policy]
ignore = ["another key"]
"""


def test_a_line_is_added_below_its_heading():
    assert with_line(TEXT, LINE) == TEXT.replace("the table\n", f"the table\n{LINE}\n")


@pytest.mark.parametrize(
    "before", ['ignore = ["z"]', 'ignore = [\n  "z", # why\n  "]",\n]', "  ignore = []  # none yet"]
)
def test_a_line_takes_the_place_of_its_own_key(before):
    text = TEXT.replace('id = "plate"', f'{before}\nid = "plate"')
    assert with_line(text, LINE) == TEXT.replace('id = "plate"', f'{LINE}\nid = "plate"')


def test_what_cannot_be_done_without_harm_is_left_to_a_person(tmp_path):
    assert with_line('[party]\nname = "x"\n', LINE) is None
    path = tmp_path / "party.toml"
    path.write_text('data = { path = "x.csv" }\n')
    with pytest.raises(DataError, match="by hand"):
        change_party(path, LINE)
    assert path.read_text() == 'data = { path = "x.csv" }\n'


def test_a_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "party.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    change_party(path, LINE)
    assert path.stat().st_mode & 0o777 == 0o640 and LINE in path.read_text()


def test_a_file_that_is_not_to_be_changed_is_left_with_what_to_do(tmp_path):
    path = tmp_path / "party.toml"
    path.write_text(TEXT)
    path.chmod(0o444)
    with pytest.raises(DataError, match=r"read-only \(mode 444\); run chmod u\+w .* by hand"):
        change_party(path, LINE)
    assert path.read_text() == TEXT and path.stat().st_mode & 0o777 == 0o444


def test_a_link_stays_one_and_lines_end_as_they_did(tmp_path):
    path, link = tmp_path / "real.toml", tmp_path / "party.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    link.symlink_to(path)
    change_party(link, LINE)
    wanted = TEXT.replace("the table\n", f"the table\n{LINE}\n").replace("\n", "\r\n")
    assert link.is_symlink() and path.read_bytes() == b"\xef\xbb\xbf" + wanted.encode()


def test_a_file_stays_its_owners(tmp_path):
    if os.geteuid():
        pytest.skip("only root can give files away")
    path = tmp_path / "party.toml"
    path.write_text(TEXT)
    os.chown(path, 1234, 2345)
    change_party(path, LINE)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_a_file_that_would_change_hands_is_left(tmp_path, monkeypatch):
    path = tmp_path / "party.toml"
    path.write_text(TEXT)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(DataError, match="another account's or group's; run this under its owner"):
        change_party(path, LINE)
    assert path.read_text() == TEXT


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8), max_size=4))
def test_whatever_the_names_all_else_is_the_same(names):
    import json

    line = f"ignore = {json.dumps(names, ensure_ascii=False)}"
    found = with_line(TEXT, line)
    assert found is not None
    document, before = tomllib.loads(found), tomllib.loads(TEXT)
    assert document["data"].pop("ignore") == names
    assert document == before
