"""What tests are made of: small stores, `.dat` files, and the publisher's reader as the oracle.

Everything is a function of its arguments: no files of its own, no state, no time.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.store.dat import relative_path
from engine.store.store import Store
from engine.store.writer import StoreWriter
from kernels import Device

Array = npt.NDArray[Any]
CPU = Device(kind="cpu", why="asked for")
DAT_BYTES = 20_400


def publishers_reader(content: bytes) -> tuple[Array, Array]:
    """(fc7, fc8), each 1 × n, as the publisher's reader gives them: `=q`, 1000 floats, `=q`, 4096 floats.

    Unpacks through Python floats, as the original does: every finite float32 survives that bit for bit.
    """
    offset, layers = 0, []
    for _ in range(2):
        (dim,) = struct.unpack_from("=q", content, offset)
        layers.append(np.array([struct.unpack_from(f"={dim}f", content, offset + 8)], np.float32))
        offset += 8 + 4 * dim
    fc8, fc7 = layers
    return fc7, fc8


def dat_bytes(fc7: npt.ArrayLike, fc8: npt.ArrayLike, *, dims: tuple[int, int] = (1000, 4096)) -> bytes:
    """One file's bytes, put together with `struct`, not with the code under test. dims: what the headers say."""
    layer7, layer8 = (np.ascontiguousarray(layer, "<f4").tobytes() for layer in (fc7, fc8))
    return struct.pack("=q", dims[0]) + layer8 + struct.pack("=q", dims[1]) + layer7


def photo_layers(photo_id: int, version: int = 0) -> tuple[Array, Array]:
    """fc7 (4096,) and fc8 (1000,) of a made-up photo, by exact integer arithmetic: the same on every machine."""
    base = photo_id * 7919 + version * 104_729
    fc7 = ((np.arange(4096, dtype=np.int64) * 2654435761 + base) % 4093 - 2600).clip(0) / 64
    fc8 = ((np.arange(1000, dtype=np.int64) * 40503 + base) % 997 - 498) / 32
    return fc7.astype(np.float32), fc8.astype(np.float32)


def photo_bytes(photo_id: int, version: int = 0) -> bytes:
    """The file of a made-up photo; another `version` has other content."""
    return dat_bytes(*photo_layers(photo_id, version))


def write_photo(root: Path, photo_id: int, content: bytes | None = None) -> Path:
    """Write a photo where the publisher puts it: ROOT/10/103169.dat."""
    path = root / relative_path(photo_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(photo_id) if content is None else content)
    return path


def write_photos(root: Path, photo_ids: Iterable[int]) -> Path:
    """Write made-up photos in the publisher's layout; the folder they lie in."""
    for photo_id in photo_ids:
        write_photo(root, photo_id)
    return root


def make_store(
    path: Path,
    layers: Mapping[str, Array],
    photo_ids: Sequence[int] | Array | None = None,
    *,
    block_rows: int = 256,
    sources: Sequence[str] = ("made up",),
) -> Store:
    """A store of any layers (n, dim), so that few dimensions do for an index; ids 1000, 1007, … unless given."""
    rows = len(next(iter(layers.values())))
    ids = np.arange(rows) * 7 + 1000 if photo_ids is None else np.asarray(photo_ids)
    with StoreWriter(path, {name: data.shape[1] for name, data in layers.items()}) as writer:
        for start in range(0, rows, block_rows):
            part = np.s_[start : start + block_rows]
            place = writer.reserve(len(ids[part]))
            writer.write(
                place, ids[part].astype(np.int64), {name: data[part].astype("<f4") for name, data in layers.items()}
            )
        writer.finish(list(sources))
    return Store.open(path)


def clustered(rows: int, dim: int, *, seed: int = 0, clusters: int = 50, relu: bool = False) -> Array:
    """Rows (n, dim) float32 that look like features: clusters of unlike sizes, a falling spectrum, uneven lengths."""
    random = np.random.default_rng(seed)
    spectrum = (1 + np.arange(dim)) ** -0.7
    centres = random.standard_normal((clusters, dim)) * spectrum * 3
    member = np.minimum(random.geometric(3 / clusters, rows), clusters) - 1
    data = (centres[member] + random.standard_normal((rows, dim)) * spectrum) @ np.linalg.qr(
        random.standard_normal((dim, dim))
    )[0]
    data *= random.uniform(0.5, 2, (rows, 1))
    return np.asarray(data.clip(0) if relu else data, np.float32)


def files_below(root: Path) -> dict[str, str]:
    """SHA-256 of every regular file below a folder, by relative path."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flip_bit(path: Path, bit: int) -> None:
    """Flip one bit of a file in place; again, and it is as before."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ (1 << (bit % 8))]))


def truncate(path: Path, length: int) -> None:
    """Cut or stretch (with zeros) a file to a length."""
    os.truncate(path, length)


def oracle_scores(query: Array, rows: Array, metric: str) -> Array:
    """Scores (n,) of rows (n, d) for a query (d,), in float64, from the textbook; zero vectors have cosine 0."""
    q, r = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return np.asarray(-((r - q) ** 2).sum(axis=1))
    dots = r @ q
    if metric == "ip":
        return np.asarray(dots)
    lengths = np.sqrt((r * r).sum(axis=1)) * np.sqrt(q @ q)
    return np.asarray(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0))


def recall(found_scores: Array, true_scores: Array, *, tolerance: float = 1e-6) -> float:
    """Share of answers (n, k) as good as the k-th true score of their query: fair to ties. Scores: best first."""
    worst = true_scores[:, -1:]
    slack = tolerance * np.maximum(np.abs(worst), 1)
    return float((found_scores >= worst - slack).mean())
