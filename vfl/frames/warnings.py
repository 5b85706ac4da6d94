"""Warnings that point at the line which called the package."""

import os
import sys
import warnings
from pathlib import Path

from vfl.errors import VflWarning

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def warn(text: str, category: type[Warning] = VflWarning) -> None:
    """Warn where the package was called from, however deep inside it that is found out."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(text, category, stacklevel=level)
