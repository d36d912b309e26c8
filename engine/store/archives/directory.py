"""The directory at the end of a zip file, and whether each member agrees with it (PKWARE's APPNOTE 6.3.10).

Zip64 is read, since more than 65,535 members need it; several disks, encryption, other methods than stored and
deflated, and members that share bytes are refused.
"""

import os
import stat
import struct
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.store.archives.members import DamagedError, Findings
from engine.store.dat import RECORD_BYTES

STORED, DEFLATED = 0, 8
_END = struct.Struct("<4s4H2IH")
_END64_PLACE = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_BEFORE_SIZE64 = 12  # bytes of that record which its own size does not count
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_LARGEST_DIRECTORY = 256 << 20  # some 4 million members
_MOST_PACKED = 1 << 16  # deflate adds 5 bytes per 64 KiB to what it cannot shrink; a record is 20,400 bytes
_ENCRYPTED = 0x2041
_SIZES_FOLLOW = 0x8
_IN_ZIP64 = 0xFFFFFFFF
_DIRECTORY_DAMAGED = "its directory is damaged"
# As after `cat a.zip b.zip`, or in an archive that unpacks itself.
_MOVED = "its directory is not where it says: other data stand before this archive in the file, or it is damaged"


@dataclass(kw_only=True)
class Directory:
    """Members that are records, in the directory's order; all arrays (n,).

    at: where the 20,400 bytes, or what they are packed in, begin in the file; packed: how many bytes that is.
    """

    photo_ids: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]
    packed: npt.NDArray[np.int64]
    checksum: npt.NDArray[np.int64]
    deflated: npt.NDArray[np.bool_]
    name_at: npt.NDArray[np.int64]
    names: bytes

    def name(self, i: int) -> bytes:
        """The path of member i inside the archive."""
        start = int(self.name_at[i])
        return self.names[start : self.names.index(b"\0", start)]


class _Rows:
    """What is kept of each member while the directory is read."""

    def __init__(self) -> None:
        self.values = array("q")
        self.names = bytearray()

    def add(self, name: bytes, *values: int) -> None:
        self.values.extend((*values, len(self.names)))
        self.names += name + b"\0"


def read_directory(handle: int, findings: Findings) -> Directory:
    """Read and check the directory of an open zip. DamagedError when it has none that makes sense."""
    directory, count, start = _whole_directory(handle)
    rows, at = _Rows(), 0
    for _ in range(count):
        if len(directory) - at < _ENTRY.size or directory[at : at + 4] != b"PK\x01\x02":
            raise DamagedError(_DIRECTORY_DAMAGED)
        fields = _ENTRY.unpack_from(directory, at)
        name_at = at + _ENTRY.size
        extra_at = name_at + fields[10]
        at = extra_at + fields[11] + fields[12]
        if at > len(directory):
            raise DamagedError(_DIRECTORY_DAMAGED)
        _member(handle, fields, directory[name_at:extra_at], directory[extra_at : extra_at + fields[11]],
                start, rows, findings)  # fmt: skip
    if at != len(directory):
        raise DamagedError(_DIRECTORY_DAMAGED)
    return _without_overlaps(rows, findings)


def _whole_directory(handle: int) -> tuple[bytes, int, int]:
    """The bytes of the directory, how many members it says, and where it begins."""
    size = os.fstat(handle).st_size
    tail_at = max(0, size - _END.size - 0xFFFF)
    tail = os.pread(handle, size - tail_at, tail_at)
    found = tail.rfind(b"PK\x05\x06")
    while found >= 0 and (len(tail) - found < _END.size
                          or found + _END.size + _END.unpack_from(tail, found)[7] != len(tail)):  # fmt: skip
        found = tail.rfind(b"PK\x05\x06", 0, found)
    if found < 0:
        raise DamagedError("it has no directory at its end: it was cut short, or other data follow it")
    _, disk, first_disk, here, count, length, start, _ = _END.unpack_from(tail, found)
    end = tail_at + found
    place = os.pread(handle, _END64_PLACE.size, end - _END64_PLACE.size) if end >= _END64_PLACE.size else b""
    if place[:4] == b"PK\x06\x07":
        record_at = _END64_PLACE.unpack(place)[2]
        record = os.pread(handle, _END64.size, record_at) if record_at < size else b""
        if len(record) < _END64.size or record[:4] != b"PK\x06\x06":
            raise DamagedError(_MOVED)
        _, more, _, _, disk, first_disk, here, count, length, start = _END64.unpack(record)
        if record_at + _BEFORE_SIZE64 + more != end - _END64_PLACE.size:  # that of another zip, of the same layout
            raise DamagedError(_MOVED)
        end = record_at
    if disk or first_disk or here != count:
        raise DamagedError("it is one of several parts: join them first")
    if start + length != end:
        raise DamagedError(_MOVED)
    if length > _LARGEST_DIRECTORY or count * _ENTRY.size > length:
        raise DamagedError(_DIRECTORY_DAMAGED)
    return os.pread(handle, length, start), count, start


def _member(
    handle: int, fields: tuple[int, ...], name: bytes, extra: bytes, end: int, rows: _Rows, findings: Findings
) -> None:
    """Take one member of the directory, if it is a record and its own header says the same."""
    _, made_by, _, flags, method, _, _, checksum, packed, size, *_, attributes, at = fields
    try:
        size, packed, at = _zip64(extra, size, packed, at)
    except (struct.error, ValueError):
        raise DamagedError(_DIRECTORY_DAMAGED) from None
    photo_id = findings.judge(name, _kind(name, made_by, attributes), size)
    findings.last = name
    if photo_id is None:
        return
    reason = _reason(flags, method, packed)
    content = at
    if reason is None:
        content, reason = _agreed(handle, fields, name, at)
    if reason is None and content + packed > end:
        reason = "it reaches beyond the members of the archive"
    if reason is not None:
        findings.refuse(name, photo_id, reason)
    else:
        rows.add(name, photo_id, at, content, packed, checksum, method)


def _kind(name: bytes, made_by: int, attributes: int) -> str | None:
    if name.endswith(b"/"):
        return "a folder"
    mode = attributes >> 16 if made_by >> 8 in (3, 19) else 0  # made on Unix or macOS
    if stat.S_IFMT(mode) in (0, stat.S_IFREG):
        return None
    return {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}.get(stat.S_IFMT(mode), "a device")


def _reason(flags: int, method: int, packed: int) -> str | None:
    if flags & _ENCRYPTED:
        return "it is encrypted"
    if method not in (STORED, DEFLATED):
        return f"it is compressed by method {method}, expected stored (0) or deflated (8)"
    if packed != RECORD_BYTES if method == STORED else not 0 < packed <= _MOST_PACKED:
        return f"{packed:,} bytes of the archive are said to hold its {RECORD_BYTES:,} bytes"
    return None


def _zip64(extra: bytes, size: int, packed: int, at: int) -> tuple[int, int, int]:
    """The three numbers, those too large for 32 bits from the extra field 1. ValueError when it lacks them."""
    if _IN_ZIP64 not in (size, packed, at):
        return size, packed, at
    place = 0
    while place + 4 <= len(extra):
        key, length = struct.unpack_from("<2H", extra, place)
        if key == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, place + 4))
            out = [next(wide, -1) if value == _IN_ZIP64 else value for value in (size, packed, at)]
            if min(out) < 0 or max(out) >= 1 << 62:
                raise ValueError
            return out[0], out[1], out[2]
        place += 4 + length
    raise ValueError


def _agreed(handle: int, fields: tuple[int, ...], name: bytes, at: int) -> tuple[int, str | None]:
    """Where the content of a member begins, or why its own header cannot be believed."""
    local = os.pread(handle, _LOCAL.size + len(name), at)
    if len(local) < _LOCAL.size + len(name) or local[:4] != b"PK\x03\x04":
        return 0, "there is no member where the directory says"
    _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL.unpack_from(local)
    same = flags == fields[3] and method == fields[4] and name_length == len(name) and local[_LOCAL.size :] == name
    if not flags & _SIZES_FOLLOW and _IN_ZIP64 not in (packed, size):
        same = same and (checksum, packed, size) == tuple(fields[7:10])
    if not same:
        return 0, "its header says something else than the directory of the archive"
    return at + _LOCAL.size + name_length + extra_length, None


def _without_overlaps(rows: _Rows, findings: Findings) -> Directory:
    photo_ids, header, at, packed, checksum, method, name_at = np.array(rows.values, np.int64).reshape(-1, 7).T
    order = np.argsort(header, kind="stable")
    ends = np.maximum.accumulate((at + packed)[order]) if len(order) else order
    overlaps = order[1:][header[order][1:] < ends[:-1]]
    whole = Directory(
        photo_ids=photo_ids, at=at, packed=packed, checksum=checksum, deflated=method == DEFLATED, name_at=name_at,
        names=bytes(rows.names),
    )  # fmt: skip
    for i in overlaps.tolist():
        findings.refuse(whole.name(i), int(photo_ids[i]), "it shares bytes of the archive with another member")
    return take(whole, np.delete(np.arange(len(photo_ids)), overlaps))


def take(directory: Directory, rows: npt.NDArray[np.int64]) -> Directory:
    """The members at these positions, in their order."""
    return Directory(
        photo_ids=directory.photo_ids[rows], at=directory.at[rows], packed=directory.packed[rows],
        checksum=directory.checksum[rows], deflated=directory.deflated[rows], name_at=directory.name_at[rows],
        names=directory.names,
    )  # fmt: skip
