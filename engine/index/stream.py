"""Indices of a store that is being ingested, in the same command."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from engine.errors import EngineError
from engine.index.build import BuildReport, build_index
from engine.index.spec import IndexSpec
from engine.progress import Progress, silent
from engine.store.store import Store
from kernels import Device


def build_next(path: Path, layers: Sequence[str], *, device: Device, progress: Progress = silent) -> BuildReport:
    """Build an index over the first of some layers of a store that was just ingested, all chosen by its size.

    What fails changes nothing of the store; the EngineError says which commands go on, for all of the layers.
    """
    try:
        return build_index(Store.open(path), IndexSpec(layer=layers[0]), device=device, progress=progress)
    except EngineError as error:
        left = [shlex.join(["mirsearch", "build", str(path), "--layer", layer]) for layer in layers]
        goes_on = " and ".join(f"`{words}`" for words in left)
        raise type(error)(f"{error} The photos are in {path} and stay there; it goes on with {goes_on}.") from error
