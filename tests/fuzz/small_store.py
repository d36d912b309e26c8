"""A store of a few rows with everything a store can have, and what it says read with NumPy, json and xxhash alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from engine.errors import EngineError
from engine.store.change import remove
from engine.store.store import Store
from engine.store.verify import verify_store
from engine.store.writer import StoreWriter

ROWS = 5
DIMS = {"a": 3, "b": 2}
Files = dict[str, bytes]


def rows_of(layer: str, start: int, stop: int, *, version: int = 0) -> npt.NDArray[np.float32]:
    """Made-up rows of a layer."""
    dim = DIMS[layer]
    return (np.arange(start * dim, stop * dim).reshape(-1, dim) / 7 + version).astype(np.float32)


def ids_of(start: int, stop: int) -> npt.NDArray[np.int64]:
    """Their photo ids."""
    return np.arange(start, stop, dtype=np.int64) * 10 + 7


def write_block(writer: StoreWriter, start: int, stop: int, key: str = "") -> None:
    """Give a writer the rows start to stop."""
    place = writer.reserve(stop - start)
    layers = {name: rows_of(name, start, stop) for name in DIMS}
    writer.write(place, ids_of(start, stop), layers, key=key, refused=[("x.dat", 3, "é\n is damaged")] if key else ())


def make(path: Path) -> Files:
    """Write it; its files."""
    with StoreWriter(path, DIMS) as writer:
        for start, stop in ((0, 2), (2, 4), (4, ROWS)):
            write_block(writer, start, stop)
        writer.query_set("a", rows_of("a", 0, 2), np.array([[7, 17], [17, 27]]), np.zeros((2, 2), np.float32), "l2")
        writer.quarantine(b'{"source": "1.dat", "photo_id": 1, "reason": "empty"}\n')
        writer.finish(["/somewhere/é", "other"])
    remove(path, [17, 47])
    return files_of(path)


def files_of(path: Path) -> Files:
    """Every file of a folder, but for the lock."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != ".lock"}


def put(path: Path, files: Files) -> None:
    """Make a folder hold these files and no others."""
    for file in path.iterdir():
        if file.name not in files and file.name != ".lock":
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    for name, data in files.items():
        (path / name).write_bytes(data)


def xxh3(data: bytes) -> str:
    """The checksum that manifests speak of."""
    return str(xxhash.xxh3_64(data).hexdigest())


def signed(document: dict[str, Any]) -> bytes:
    """A JSON document with its own checksum, as the format has it."""
    bare = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    return (json.dumps(bare | {"digest": xxh3(text.encode())}, indent=1, sort_keys=True) + "\n").encode()


def opened(path: Path) -> Store | None:
    """The store, or None when it is refused, in one line."""
    try:
        return Store.open(path)
    except EngineError as error:
        assert str(error).strip() and "\n" not in str(error)
        return None


def found_damage(path: Path) -> list[str] | None:
    """The files that `verify` finds damaged; None when it refuses the store."""
    try:
        report = verify_store(path)
    except EngineError as error:
        assert str(error).strip() and "\n" not in str(error)
        return None
    assert all(damage.reason and "\n" not in damage.reason for damage in report.damage)
    return [damage.file for damage in report.damage]


def looked_at(path: Path, store: Store) -> None:
    """What an open store gives must be what NumPy reads from its files, as the manifest names them."""
    document = json.loads((path / "manifest.json").read_bytes())
    rows = document["rows"]
    ids = np.load(path / "photo_ids.npy", allow_pickle=False)
    assert store.photo_ids.tobytes() == ids.tobytes()
    assert len(store) == len(ids) == rows
    assert set(store.layers) == set(document["layers"])
    for name, layer in document["layers"].items():
        array = np.load(path / layer["file"], allow_pickle=False)
        given = store.layer(name)
        assert given.shape == array.shape == (rows, layer["dim"])
        assert given.dtype == array.dtype == np.float32
        assert given.tobytes() == array.tobytes()
    gone = set(np.load(path / "removed.npy", allow_pickle=False).tolist()) if document.get("removed") else set()
    assert set(np.flatnonzero(store.removed).tolist() if store.removed is not None else []) == gone
    for layer in document.get("query_sets", {}):
        queries_looked_at(path, store, layer, document["query_sets"][layer])


def queries_looked_at(path: Path, store: Store, layer: str, said: dict[str, Any]) -> None:
    """The same for a query set, which may be refused when it is asked for."""
    try:
        queries = store.query_set(layer)
    except EngineError as error:
        assert "\n" not in str(error)
        return
    assert queries is not None
    for array, file in ((queries.queries, said["queries"]), (queries.neighbors, said["neighbors"])):
        true = np.load(path / file, allow_pickle=False)
        assert (array.shape, array.tobytes()) == (true.shape, true.tobytes())
        assert xxh3(true.tobytes()) == said["xxh3"][file]


def sums_hold(path: Path) -> bool:
    """Whether every header is as the format words it, and every checksum that of the bytes it speaks of."""
    document = json.loads((path / "manifest.json").read_bytes())
    rows, start = document["rows"], 0
    try:
        held = _sum(path / "photo_ids.npy", (rows,), "<i8", document) == document["photo_ids_xxh3"]
        for layer in document["layers"].values():
            array, start = _array(path / layer["file"], (rows, layer["dim"]), "<f4", document), 0
            for count, said in zip(document["block_rows"], layer["xxh3"], strict=True):
                held &= xxh3(array[start : start + count].tobytes()) == said
                start += count
        if removed := document.get("removed"):
            held &= _sum(path / "removed.npy", (removed["count"],), "<i8", document) == removed["xxh3"]
        for name, known in document.get("query_sets", {}).items():
            shapes = {"queries": ((known["count"], document["layers"][name]["dim"]), "<f4"),
                      "neighbors": ((known["count"], known["k"]), "<i8"),
                      "distances": ((known["count"], known["k"]), "<f4")}  # fmt: skip
            for kind, (shape, dtype) in shapes.items():
                if file := known.get(kind):
                    held &= _sum(path / file, shape, dtype, document) == known["xxh3"].get(file, "")
        return bool(held) and xxh3((path / "quarantine.jsonl").read_bytes()) == document.get("quarantine_xxh3")
    except (OSError, ValueError):
        return False


def _sum(file: Path, shape: tuple[int, ...], dtype: str, document: dict[str, Any]) -> str:
    return xxh3(_array(file, shape, dtype, document).tobytes())


def _array(file: Path, shape: tuple[int, ...], dtype: str, document: dict[str, Any]) -> Any:
    """The array of a file by NumPy, its header in the words and of the length of the format; ValueError for others.

    NumPy needs most of a second for some damaged headers, so they are compared first.
    """
    size = document.get("header_bytes", 128)  # as it was in version 1
    words = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(size - 11) + b"\n"
    data = file.read_bytes()
    if data[:size] != b"\x93NUMPY\1\0" + (size - 10).to_bytes(2, "little") + words:
        raise ValueError("another header")
    array = np.load(file, allow_pickle=False)
    grows = dtype == "<f4" and (file.parent / "ingest.journal").exists()
    if len(data) != size + array.nbytes and not (grows and len(data) > size + array.nbytes):
        raise ValueError("another length")
    return array
