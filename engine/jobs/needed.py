"""Packages that a GPU host may lack: imported where they are used, with a line that says how to install them."""

import importlib
from typing import Any

from engine.errors import DependencyError


def need(module: str, package: str) -> Any:
    """The module; DependencyError says which package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(f"{package} cannot be imported ({error}). Install it: pip install {package}") from error
