"""libsodium where it cannot be loaded."""

import builtins
import importlib
import sys
from typing import Any
from unittest import mock

import pytest

from vfl.errors import DataError


def test_a_full_temporary_folder_is_named() -> None:
    load = builtins.__import__

    def full(name: str, *rest: Any) -> object:
        if name == "rbcl":
            raise OSError(28, "No space left on device")
        return load(name, *rest)

    with mock.patch.dict(sys.modules), mock.patch.object(builtins, "__import__", full):
        del sys.modules["vfl.crypto.sodium"]
        with pytest.raises(DataError, match=r"^libsodium .* No space left on device; make room there"):
            importlib.import_module("vfl.crypto.sodium")
