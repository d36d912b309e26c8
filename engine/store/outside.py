"""The folder of a store is the store's own: nothing that a verb writes for its user may take a place in it."""

from pathlib import Path

from engine.errors import InputError


def check_outside(store: Path, *files: Path, but: Path | None = None) -> None:
    """InputError for a file or folder that is to be written and is, or lies in, the folder of a store.

    but: a folder of the store for such things. Of a link both count, where it lies and where it leads.
    """
    inside = store.resolve()
    for file in files:
        for place in (file.resolve(), file.parent.resolve() / file.name):
            if place.is_relative_to(inside) and not (but is not None and place.is_relative_to(but.resolve())):
                raise InputError(f"{file}: lies in the folder of the store itself. Choose another one.")
