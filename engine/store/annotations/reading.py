"""One chunk of annotation files read into a part: an Arrow file that is there whole or not at all.

A part is named after what it was made from and carries its own checksum, so that a run that was interrupted finds the
parts it wrote and reads only the rest.
"""

import gc
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from engine.errors import InputError
from engine.store.annotations.flickr import Annotation, parse
from engine.store.annotations.loading import LARGEST, load
from engine.store.annotations.mapping import FieldMap
from engine.store.annotations.originals import read_exif_text, read_tags
from engine.store.annotations.rows import table_of
from engine.store.annotations.schema import FORMAT_VERSION
from engine.store.annotations.sources import Chunk, Item
from engine.store.annotations.usual_rows import read_usual
from engine.store.durable import disk_errors, part_of, publish
from engine.store.listed import Refused
from engine.version import VERSION

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"mirsearch-part"
_SAID = ("files", "bytes_read", "failed", "not_understood", "dropped", "paths")  # what a part says beside its rows
_USUAL = 1 << 16  # few files are longer
READER_VERSION = 2  # another one reads the same files in another way


@dataclass(frozen=True, kw_only=True)
class Task:
    """A chunk to read, and the folder of the parts."""

    chunk: Chunk
    folder: Path
    mapping: FieldMap | None = None


@dataclass(kw_only=True)
class Part:
    """What came of a chunk.

    file: name of the part; "" when it has no rows. photo_ids: (rows,) int64. said: (rows,) bool, whether the file says
    anything. files, bytes_read: what was read. failed: documents that hold nothing but a failure of the API.
    not_understood: others in which no field was found. dropped: by field, files with a value of it that cannot be
    read. paths: for each path of the user's map, files in which it stands. resumed: whether the part was there.
    """

    number: int
    file: str
    photo_ids: npt.NDArray[np.int64]
    said: npt.NDArray[np.bool_]
    files: int = 0
    bytes_read: int = 0
    failed: int = 0
    not_understood: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    paths: list[int] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    resumed: bool = False


def read_chunk(task: Task) -> Part:
    """Read a chunk, or find its part; refusals are in it. EngineError when the part cannot be written."""
    # Objects by the million, none of them in a circle: to look for circles takes a sixth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _read_chunk(task)
    finally:
        if collecting:
            gc.enable()


def _read_chunk(task: Task) -> Part:
    import pyarrow as pa

    key = _key(task)
    found = _find(task, key)
    if found is not None:
        return found
    part = Part(number=task.chunk.number, file="", photo_ids=np.empty(0, np.int64), said=np.empty(0, np.bool_))
    part.paths = [0] * len(task.mapping.written) if task.mapping else []
    place, items = task.chunk.place, task.chunk.items
    refused: dict[int, InputError] = {}
    documents = _contents(task.chunk, refused)
    read, table = _rows(task, documents, part, refused)
    part.photo_ids = np.array([items[i].photo_id for i in read], np.int64)
    part.said = table.column("annotated").to_numpy()
    part.files, part.bytes_read = len(read), sum(len(documents[i]) for i in read)
    part.refused = [
        Refused(source=os.path.join(place, items[i].name), photo_id=items[i].photo_id, reason=str(error))  # noqa: PTH118
        for i, error in sorted(refused.items())
    ]
    _write(task, key, part, table.set_column(0, table.schema.field(0), pa.array(part.photo_ids)))
    return part


def _contents(chunk: Chunk, refused: dict[int, InputError]) -> list[bytes]:
    """The bytes of the files of a chunk; `refused` grows by those that cannot be read."""
    documents: list[bytes] = []
    # A name within an open folder is found in half the time of a path.
    folder = _opened(chunk.place)
    place = chunk.place if folder is None else ""
    try:
        for i, item in enumerate(chunk.items):
            try:
                data = item.data
                if data is None:
                    data = bytes_of(os.path.join(place, item.name), item.size, folder)  # noqa: PTH118
                documents.append(data)
            except InputError as error:
                documents.append(b"")
                refused[i] = error
    finally:
        if folder is not None:
            os.close(folder)
    return documents


def _opened(place: str) -> int | None:
    """A handle of a folder; None for an archive, or where whoever opens the files in it will say why."""
    try:
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _rows(
    task: Task, documents: Sequence[bytes], part: Part, refused: dict[int, InputError]
) -> "tuple[list[int], pa.Table]":
    """Rows of the documents that can be read and their places, ascending; `refused` grows by the others."""
    import pyarrow as pa

    items = task.chunk.items
    # A mapping file looks elsewhere, and MIRFLICKR's own files are no JSON.
    usual = [i for i, item in enumerate(items) if item.kind == "json" and task.mapping is None and i not in refused]
    quick = read_usual([documents[i] for i in usual])
    part.failed, part.not_understood = quick.failed, quick.not_understood
    read = [usual[at] for at in quick.at.tolist()]
    others: list[int] = []
    annotations: list[Annotation] = []
    for i in sorted(set(range(len(items))) - set(read) - set(refused)):
        try:
            annotations.append(read_item(items[i], documents[i], task.mapping, part))
            others.append(i)
        except InputError as error:
            refused[i] = error
    if not others:
        return read, quick.table
    order = np.argsort([*read, *others])
    table = pa.concat_tables([quick.table, table_of([0] * len(others), annotations)]).take(order)
    return sorted([*read, *others]), table


def read_item(item: Item, data: bytes, mapping: FieldMap | None, part: Part | None = None) -> Annotation:
    """What one file says. InputError with the reason when it is to be set aside. part: where it is counted."""
    if item.kind != "json":
        return read_tags(data) if item.kind == "tags" else read_exif_text(data)
    document = load(data)
    dropped = set[str]()
    mapped = mapping.part(document, part.paths if part else None) if mapping else None
    annotation = parse(document, mapped, dropped)
    if part is not None:
        for name in dropped:
            part.dropped[name] = part.dropped.get(name, 0) + 1
    if not annotation and part is not None:
        failed = document.get("stat") == "fail" or any(
            isinstance(value, dict) and value.get("stat") == "fail" for value in document.values()
        )
        part.failed += failed
        part.not_understood += not failed
    return annotation


def bytes_of(path: str, size: int = 0, folder: int | None = None) -> bytes:
    """The content of an annotation file; InputError when it cannot be read or is too long.

    size: how long it is thought to be, 0 if that is not known. folder: a handle of the folder that `path` begins in.
    """
    try:
        # Python's file objects take as long again as the system calls.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        try:
            # What comes short of what was asked for is all there is.
            data = os.read(handle, min(size, LARGEST) + 1 if size else _USUAL)
            while (
                (not size or len(data) > size) and data and len(data) <= LARGEST and (more := os.read(handle, _USUAL))
            ):
                data += more
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})") from error
    if len(data) > LARGEST:
        raise InputError(f"more than {LARGEST:,} bytes, which is the most that is read")
    return data


def _key(task: Task) -> str:
    """What the part is named after: everything that what is in it depends on."""
    found = xxhash.xxh3_128()
    reader = [VERSION, FORMAT_VERSION, READER_VERSION, task.mapping.digest if task.mapping else "", task.chunk.place]
    found.update(json.dumps(reader).encode())
    for item in task.chunk.items:
        found.update(f"\0{item.name}\0{item.kind}\0{item.photo_id}".encode(errors="surrogateescape"))
        found.update(f"\0{item.size} {item.changed} {item.touched}".encode())
        if item.data is not None:
            found.update(len(item.data).to_bytes(8, "little") + item.data)
    return found.hexdigest()


def _find(task: Task, key: str) -> Part | None:
    """The part of a run that was interrupted; None when there is none that is whole."""
    import pyarrow as pa

    for path in task.folder.glob(f"{key}-*.arrow"):
        data = path.read_bytes()
        if xxhash.xxh3_64_hexdigest(data) != path.stem.partition("-")[2]:
            path.unlink()
            continue
        with pa.ipc.open_file(data) as file:
            said = json.loads((file.schema.metadata or {})[METADATA])
            rows = file.read_all().select(["photo_id", "annotated"])
        refused = [Refused(**one) for one in said.pop("refused")]
        return Part(
            number=task.chunk.number, file=path.name, photo_ids=rows.column(0).to_numpy(),
            said=rows.column(1).to_numpy(), refused=refused, resumed=True, **said,
        )  # fmt: skip
    return None


def _write(task: Task, key: str, part: Part, table: "pa.Table") -> None:
    import pyarrow as pa

    said: dict[str, Any] = {name: getattr(part, name) for name in _SAID}
    said["refused"] = [asdict(one) for one in part.refused]
    table = table.replace_schema_metadata({METADATA: json.dumps(said).encode()})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    part.file = f"{key}-{xxhash.xxh3_64_hexdigest(data)}.arrow"
    path = task.folder / part.file
    with disk_errors(task.folder):
        part_of(path).write_bytes(data)
        publish(path)


def part_table(folder: Path, file: str) -> "pa.Table":
    """The rows of a part."""
    import pyarrow as pa

    with pa.OSFile(str(folder / file), "r") as source, pa.ipc.open_file(source) as opened:
        return opened.read_all().replace_schema_metadata(None)


def refusals(parts: Sequence[Part]) -> list[Refused]:
    """All refusals, in the order of the sources."""
    return [one for part in sorted(parts, key=lambda part: part.number) for one in part.refused]
