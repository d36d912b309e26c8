"""Arguments and options that several verbs share, and how specifications are made from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from engine.errors import InputError
from engine.index.device import settle
from engine.store.store import Store
from kernels import Device

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a store.", show_default=False)]
LayerOption = Annotated[str, typer.Option("--layer", "-l", help="Layer to use: fc7 or fc8.")]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the index, if not its layer's.", show_default=False)
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:0 or cuda:0,1. `auto` says what it chose.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on standard output.")]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Folder of the pictures (10/103169.jpg).", show_default=False)
]

_Spec = TypeVar("_Spec", bound=BaseModel)


def make_spec(kind: Callable[..., _Spec], **values: object) -> _Spec:
    """A specification from options; InputError in one line for the first value that does not fit."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") + ": " if first["loc"] else ""
        raise InputError(f"{option}{first['msg'].removeprefix('Value error, ')}") from None


def device_facts(device: Device) -> tuple[str, str]:
    """The device as it stands in every report."""
    return "device", f"{device} ({device.why})" if device.why else str(device)


def index_folder(store: Path, layer: str, name: str | None) -> Path:
    """Where the index over a layer lies."""
    return store / "indices" / (name or layer)


__all__ = ["Store", "device_facts", "index_folder", "make_spec", "settle"]
