"""Members of a zip: as places in its file where they are stored, as a stream in order of photo id in any case."""

import os
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.store.archives.directory import Directory, read_directory, take
from engine.store.archives.members import BATCH, Batch, DamagedError, Findings, Members
from engine.store.dat import RECORD_BYTES

_PART = 64  # members that a thread takes at a time


def list_zip(path: bytes) -> Members:
    """List the members of a zip that are records of photos and stored as they are, in the directory's order.

    `compressed` says how many more are deflated, and need `stream`. Refusals are as with `list_tar`. The checksums
    of members are not looked at here, `stream` does.
    """
    findings, directory = Findings(archive=path), _nothing()
    handle = -1
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        directory = read_directory(handle, findings)
    except OSError as error:
        findings.stop(DamagedError(f"it cannot be read ({error.strerror})"))
    except DamagedError as error:
        findings.stop(error)
    finally:
        if handle >= 0:
            os.close(handle)
    stored = np.flatnonzero(~directory.deflated)
    names = b"".join(directory.name(i) + b"\0" for i in stored.tolist())
    ends = np.flatnonzero(np.frombuffer(names, np.uint8) == 0)
    return Members(
        photo_ids=directory.photo_ids[stored], offsets=directory.at[stored],
        name_at=np.append(0, ends + 1)[: len(stored)].astype(np.int64), names=np.frombuffer(names, np.uint8),
        refused=findings.refused, ignored=findings.ignored, compressed=len(directory.deflated) - len(stored),
    )  # fmt: skip


def stream_zip(path: bytes, *, threads: int) -> Generator[Batch, None, None]:
    """All records of a zip, stored or deflated, their checksums checked, in ascending order of photo id."""
    findings, directory = Findings(archive=path), _nothing()
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (bytes: names may not be text)
            directory = read_directory(file.fileno(), findings)
            yield from _inflate(file.fileno(), directory, findings, threads)
    except OSError as error:
        findings.stop(DamagedError(f"it cannot be read ({error.strerror})"))
    except DamagedError as error:
        findings.stop(error)
    if findings.refused or findings.ignored:
        none = _nothing()
        room = np.empty((0, RECORD_BYTES), np.uint8)
        yield _batch(none, room, np.zeros(0, np.bool_), findings, int(directory.packed.sum()))


class _Room:
    """Records of one batch, and what each thread found wrong with its part of them."""

    def __init__(self) -> None:
        self.records = np.empty((BATCH, RECORD_BYTES), np.uint8)
        self.reasons: list[Future[list[str | None]]] = []


def _inflate(handle: int, directory: Directory, findings: Findings, threads: int) -> Iterator[Batch]:
    """Batch by batch; while one is used the next is read."""
    directory = take(directory, np.argsort(directory.photo_ids, kind="stable"))
    inflater, rooms = _inflater(), [_Room(), _Room()]
    n = len(directory.photo_ids)
    with ThreadPoolExecutor(max(1, threads), "unzip") as pool:

        def begin(batch: int) -> None:
            room = rooms[batch % 2]
            room.reasons = [
                pool.submit(_read, handle, take(directory, np.arange(start, min(start + _PART, n))),
                            room.records[start % BATCH :], inflater)
                for start in range(batch * BATCH, min((batch + 1) * BATCH, n), _PART)
            ]  # fmt: skip

        try:
            begin(0)
            for batch in range(-(-n // BATCH)):
                reasons = [reason for part in rooms[batch % 2].reasons for reason in part.result()]
                begin(batch + 1)
                here = take(directory, np.arange(batch * BATCH, min((batch + 1) * BATCH, n)))
                for i in (i for i, reason in enumerate(reasons) if reason):
                    findings.refuse(here.name(i), int(here.photo_ids[i]), reasons[i] or "")
                good = np.array([reason is None for reason in reasons], np.bool_)
                position = int(directory.packed[: (batch + 1) * BATCH].sum())
                yield _batch(here, rooms[batch % 2].records, good, findings, position)
        finally:
            pool.shutdown(cancel_futures=True)


def _batch(
    members: Directory, records: npt.NDArray[np.uint8], good: npt.NDArray[np.bool_], findings: Findings, position: int
) -> Batch:
    kept = np.flatnonzero(good)
    if len(kept) < len(good):  # close the gaps
        records[: len(kept)] = records[kept]
    batch = Batch(
        photo_ids=members.photo_ids[kept], records=records[: len(kept)], names=[members.name(i) for i in kept.tolist()],
        refused=findings.refused, ignored=findings.ignored, position=position,
    )  # fmt: skip
    findings.refused, findings.ignored = [], 0
    return batch


def _inflater() -> Callable[[], Any]:
    """Makes decoders of raw deflate: isal's, twice as fast, where it is installed."""
    try:
        from isal import isal_zlib
    except ImportError:
        return lambda: zlib.decompressobj(-zlib.MAX_WBITS)
    return lambda: isal_zlib.decompressobj(-zlib.MAX_WBITS)


def _read(
    handle: int, members: Directory, records: npt.NDArray[np.uint8], inflater: Callable[[], Any]
) -> list[str | None]:
    """Fill one row per member; for each the reason why it is refused, or None."""
    reasons: list[str | None] = []
    for i in range(len(members.photo_ids)):
        try:
            data = os.pread(handle, int(members.packed[i]), int(members.at[i]))
        except OSError as error:
            reasons.append(f"cannot be read ({error.strerror})")
            continue
        if members.deflated[i]:
            data = _one(data, inflater())
        if len(data) != RECORD_BYTES:
            reasons.append("what is compressed is damaged, or not of the size that the archive says")
        elif zlib.crc32(data) != members.checksum[i]:
            reasons.append("its checksum is wrong: it is damaged")
        else:
            records[i] = np.frombuffer(data, np.uint8)
            reasons.append(None)
    return reasons


def _one(data: bytes, decoder: Any) -> bytes:
    """The record in a deflate stream; b"" when it is damaged, longer, or followed by more."""
    try:
        out: bytes = decoder.decompress(data, RECORD_BYTES + 1)
        return out if decoder.eof and not decoder.unused_data else b""
    except Exception:  # the libraries' own classes
        return b""


def _nothing() -> Directory:
    none = np.empty(0, np.int64)
    return Directory(
        photo_ids=none, at=none, packed=none, checksum=none, deflated=none.astype(np.bool_), name_at=none, names=b""
    )
