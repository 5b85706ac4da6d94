"""What a party that follows the protocol can work out from what a run shows it, beside guessing."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfl.leakage.measuring import Measured, measure
    from vfl.leakage.success import Success

__all__ = ["Measured", "Success", "measure"]
_MODULES = {"Measured": "measuring", "measure": "measuring", "Success": "success"}


def __getattr__(name: str) -> object:
    # Attacks take SciPy, which a host that only counts its sums need not wait for.
    if name in __all__:
        return getattr(import_module(f"vfl.leakage.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'vfl.leakage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "import_module"})
