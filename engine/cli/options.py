"""Arguments and options that several verbs share, and how specifications are made from them.

What it takes to run a verb is imported by the functions that need it: the help of all verbs imports this module.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from engine.errors import InputError

if TYPE_CHECKING:
    from kernels import Device

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a store.", show_default=False)]
LayerOption = Annotated[
    str | None, typer.Option("--layer", "-l", help="Layer to use.", show_default="fc7, the only one, or that of --name")
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the index, if not its layer's.", show_default=False)
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:0 or cuda:0,1. `auto` says what it chose.")
]
PhotoOption = Annotated[
    list[int] | None,
    typer.Option("--photo", min=0, max=(1 << 63) - 1, help="Photo id; repeatable.", show_default=False),
]
DatOption = Annotated[list[Path] | None, typer.Option("--dat", help="A .dat file; repeatable.", show_default=False)]
IdsFileOption = Annotated[
    Path | None, typer.Option("--ids-file", help="Photo ids, one a line (or .npy).", show_default=False)
]
ProbesOption = Annotated[int | None, typer.Option("--probes", help="Lists visited.", show_default="the index's")]
RerankOption = Annotated[
    int | None, typer.Option("--rerank", help="Candidates compared again.", show_default="the index's")
]
ExactOption = Annotated[bool, typer.Option("--exact", help="Compare with every row; needs no index.")]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", help="Of the layers of --layer fc7+fc8: 0.7,0.3.", show_default="equal ones"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on standard output.")]


def _check_images(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise InputError(f"--images {folder}: not a folder, expected the folder that holds 0/123.jpg")
    return folder


ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images", help="Folder of the pictures (10/103169.jpg).", show_default=False, callback=_check_images
    ),
]

_Spec = TypeVar("_Spec")


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
# Options whose names are not those of the values that they give.
_CALLED = {"k": "-k", "neighbours": "-k", "pq_bits": "--bits"}


def wrong_usage(option: str, problem: str) -> typer.BadParameter:
    """What to raise for a value that its option cannot have, whatever the store: Typer's own error, exit code 2.

    option: the name of the parameter.
    """
    return typer.BadParameter(problem, param_hint=_CALLED.get(option, "--" + option.replace("_", "-")))


def parse_size(text: str, option: str) -> int:
    """Bytes of `500MB`, `1.5 GiB`, `2000000`; wrong usage of the option for anything else."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]i?|)b?\s*", text.lower())
    count = round(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if count < 1:
        raise wrong_usage(option, f"{text!r}: expected a size such as 500MB or 1.5GiB")
    return count


def make_spec(kind: Callable[..., _Spec], **values: object) -> _Spec:
    """A specification (a pydantic model) from options.

    Wrong usage names the first value that cannot be; InputError says which do not go together.
    """
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"]:
            raise wrong_usage(str(first["loc"][0]), first["msg"].removeprefix("Value error, ")) from None
        raise InputError(first["msg"].removeprefix("Value error, ")) from None


def refuse_empty_words(words: Sequence[str], arguments: Sequence[str]) -> None:
    """InputError where a word of the command line is empty: as a path it would mean the current folder.

    arguments: what the verb calls those of its words that belong to no option.
    """
    for number, word in enumerate(words):
        option, sign, value = word.partition("=")
        if not word:
            before = words[number - 1] if number else ""
            where = before if before.startswith("-") else " or ".join(arguments) or "argument"
        elif option.startswith("--") and sign and not value:
            where = option
        else:
            continue
        raise InputError(f"{where} '': an empty word, expected a name or value. The current folder is called `.`")


def settle(device: str, *, needs_faiss: bool = True) -> "Device":
    """The device that an option means, used as the GPU options say; see `engine.index.device.settle`."""
    from engine.cli.gpu_options import gpu_options
    from engine.index import device as devices
    from kernels import parse_device

    try:
        parse_device(device)
    except ValueError as error:
        raise wrong_usage("device", str(error).removeprefix("device ")) from None
    return devices.settle(device, needs_faiss=needs_faiss, gpu=gpu_options())


def device_facts(device: "Device") -> tuple[str, str]:
    """The device as it stands in every report."""
    return "device", f"{device} ({device.why})" if device.why else str(device)


def index_folder(store: Path, layer: str | None, name: str | None) -> tuple[str, Path]:
    """The layer that is meant and the folder of its index, which need not exist unless it was named."""
    from engine.index.build import check_name
    from engine.index.manifest import check_layer_of, read_index_manifest

    if name is None:
        layer = known_layer(store, layer)
        check_layer_of(store / "indices" / layer, layer)
        return layer, store / "indices" / layer
    check_name(name)
    folder = store / "indices" / name
    indexed = read_index_manifest(folder).spec.layer
    if layer not in (None, indexed):
        raise InputError(f"--layer {layer}: index {name} is over {indexed}. Leave --layer out, or name another index.")
    return indexed, folder


def several_layers(store: Path, layer: str | None, name: str | None, weights: str | None) -> list[str]:
    """The layers of `fc7+fc8`, each known to the store; [] when one layer is meant."""
    from engine.index.manifest import check_layer_of

    if layer is None or "+" not in layer:
        if weights is not None:
            raise InputError(f"--weights {weights}: of several layers, such as --layer fc7+fc8; this is one")
        return []
    if name is not None:
        raise InputError(f"--name {name}: {layer} are searched through the indices named after them. Leave --name out.")
    layers = [known_layer(store, one) for one in layer.split("+")]
    for one in layers:
        check_layer_of(store / "indices" / one, one)
    return layers


def parse_weights(text: str) -> list[float]:
    """The numbers of `0.7,0.3`; wrong usage where they are none."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise wrong_usage("weights", f"{text!r}: expected numbers such as 0.7,0.3") from None


def known_layer(store: Path, layer: str | None) -> str:
    """The layer that is asked for, or else fc7, or else the only one; InputError names those that the store has."""
    from engine.store.commit import settle_store
    from engine.store.manifest import read_manifest

    settle_store(store)
    layers = read_manifest(store).layers
    if layer is None and "fc7" not in layers and len(layers) != 1:
        raise InputError(f"--layer: which? This store has {', '.join(sorted(layers))}")
    layer = layer or ("fc7" if "fc7" in layers else next(iter(layers)))
    if layer not in layers:
        raise InputError(f"layer {layer!r}: this store has {', '.join(sorted(layers))}")
    return layer


def chosen(layer: str, name: str | None) -> list[str]:
    """The options that mean this index again."""
    return ["--name", name] if name and name != layer else ["--layer", layer]
