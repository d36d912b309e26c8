"""Opening the files of an index: that they are all of one index, whole, and what they hold."""

from pathlib import Path

import numpy as np

from engine.errors import IndexUnusableError
from engine.index.manifest import NAME, IndexManifest, Part
from engine.index.parts import sum_file
from engine.index.reduce import Reduction
from engine.store import npy
from kernels import CodeKind, Codes, Kernels, code_width

CHECKED_ON_OPENING = 512 << 20  # bytes: files up to here are read against their checksum, in a tenth of a second


def which(path: Path) -> tuple[int, ...]:
    """What tells an index from the one that takes its place: its folder and its manifest; () where there is none."""
    try:
        entries = path.stat(), (path / NAME).stat()
    except OSError:
        return ()
    return tuple(number for entry in entries for number in (entry.st_ino, entry.st_mtime_ns))


def check_parts(path: Path, manifest: IndexManifest) -> None:
    """IndexUnusableError unless every file has its length, and every small one its checksum."""
    for file, expected in manifest.parts.items():
        try:
            size = (path / file).stat().st_size
        except OSError as error:
            raise IndexUnusableError(f"{path / file}: {error.strerror}. Build the index again.") from error
        if size != expected.bytes:
            raise IndexUnusableError(
                f"{path / file}: {size:,} bytes, expected {expected.bytes:,}. Build the index again."
            )
        if size <= CHECKED_ON_OPENING:
            _check_part(path, file, expected)


def _check_part(path: Path, file: str, expected: Part) -> None:
    """IndexUnusableError unless a file of an index has the checksum that its manifest promises."""
    if sum_file(path / file) != expected:
        raise IndexUnusableError(f"{path / file}: does not match its checksum. Build the index again.")


def open_reduction(path: Path, manifest: IndexManifest, kernels: Kernels) -> Reduction | None:
    """The reduction of an index, its axes where the kernels work; None where all rows are compared."""
    if "axes.npy" not in manifest.parts:
        return None
    shape = (manifest.dim, manifest.spec.reduced or 1)
    axes = np.ascontiguousarray(npy.open_rows(path / "axes.npy", shape, "<f4"), np.float32)
    explained = float(manifest.training.get("explained_variance", 0))
    there = kernels.to_device(axes)
    return Reduction(axes=there, unit=manifest.spec.metric == "cosine", explained=explained, scale=manifest.scale)


def open_codes(path: Path, name: str, manifest: IndexManifest, kernels: Kernels) -> Codes | None:
    """The codes `sketch` or `refine` of an index, where the device reads them fastest; None where it has none."""
    if f"{name}.npy" not in manifest.parts:
        return None
    spec, dim = manifest.spec, manifest.dim if name == "refine" else manifest.spec.reduced or 1
    kind: CodeKind = spec.refine if name == "refine" and spec.refine != "none" else "uint8"
    shape = manifest.rows, code_width(kind, dim)
    values = npy.open_rows(path / f"{name}.npy", shape, "<f2" if kind == "float16" else "|u1")
    scale = np.ascontiguousarray(npy.open_rows(path / f"{name}_scale.npy", (3, manifest.rows), "<f4"))
    low, step, norm2 = scale
    return kernels.resident(Codes(values, low, step, norm2, dim if kind == "uint4" else None))
