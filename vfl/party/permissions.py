"""Who besides this account can write to a party's folders: nobody should.

Who can write to the store can put in alignments and checkpoints and cut the ledger; who can write to the
folder of keys or of pinned certificates can pin another one. Modes are what counts. An access list
(POSIX) cannot give more than the group's bits, which are its mask, so that it is seen as well.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

from vfl.errors import DataError, IdentityError
from vfl.party.config import Party
from vfl.party.store import Store

SETTING = "others_may_write"  # of [party]
_ACCESS_LIST = "system.posix_acl_access"


def check_store(party: Party) -> None:
    """Raises DataError when others can write to the store, unless the party file says that they may."""
    if not party.party.others_may_write and (found := _first(Store(party.party.store).folders)):
        raise DataError(_refused("a folder of the store", *found))


def check_keys(party: Party) -> None:
    """Raises IdentityError when others can write where keys and pinned certificates lie, unless the
    party file says that they may."""
    if party.party.others_may_write:
        return
    files = [file for peer in party.peers.values() for file in (peer.certificate, peer.ca, peer.crl)]
    pinned = [file for file in files if file is not None]
    folders = dict.fromkeys(path.parent for path in (party.party.identity, *pinned))
    if found := _first([*folders, *pinned]):
        raise IdentityError(_refused("keys and certificates", *found))


def writers(path: Path) -> str | None:
    """Who besides this account and root can write to a file or folder, in words; None for nobody.

    A group whose only member is the owner, with the owner's own name, is nobody else (systems on which
    files are made with umask 002). Raises OSError when there is no such file.
    """
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH:
        return f"anybody (mode {mode:03o})"
    if mode & stat.S_IWGRP and not (_private(found) and not _has_access_list(path)):
        return f"group {_group(found.st_gid)} (mode {mode:03o})"
    if os.geteuid() not in (0, found.st_uid) and found.st_uid != 0:
        return f"its owner, account {_account(found.st_uid)}"
    return None


def _first(paths: Iterable[Path]) -> tuple[Path, str] | None:
    """The first to which others can write, and who; what is not there is left to who needs it."""
    for path in paths:
        try:
            who = writers(path)
        except OSError:
            continue
        if who is not None:
            return path, who
    return None


def _refused(what: str, path: Path, who: str) -> str:
    mend = "chown it to this account" if who.startswith("its owner") else f"run chmod go-w {path}"
    return (
        f"{path} ({what}) can be written by {who}, who could change it unseen: {mend}, or set "
        f"{SETTING} = true in [party] where modes mean nothing or all of them are trusted "
        "(docs/operations.md)"
    )


def _private(found: os.stat_result) -> bool:
    """Whether the file's group is its owner's own. Group 0 is not: in containers many are in it."""
    try:
        owner, group = pwd.getpwuid(found.st_uid), grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    return (
        group.gr_gid == owner.pw_gid != 0
        and group.gr_name == owner.pw_name
        and set(group.gr_mem) <= {owner.pw_name}
    )


def _has_access_list(path: Path) -> bool:
    try:
        return hasattr(os, "getxattr") and bool(os.getxattr(path, _ACCESS_LIST))
    except OSError:  # there is none, or no such thing here
        return False


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _account(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
