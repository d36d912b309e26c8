"""A Parquet file that carries a checksum of all its bytes, in its own footer.

Parquet has checksums of pages, but none of what describes them. The checksum stands in the footer's metadata as 16
hexadecimal digits, and is taken over the file with zeros in their place.
"""

from pathlib import Path

import xxhash

from engine.errors import StoreError

KEY = "mirsearch-xxh3"
_MARK = b"of the file with these digits as zeros: "
_DIGITS = 16
BLANK = (_MARK + b"0" * _DIGITS).decode()  # what stands there before the file is sealed
_PIECE = 4 << 20


def seal(path: Path) -> None:
    """Write the checksum into a file that has `BLANK` under `KEY`; the caller flushes it."""
    at = _place(path)
    digits = _digest(path, at).encode()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(digits)


def check_seal(path: Path) -> None:
    """StoreError when the file is not, byte for byte, what was sealed."""
    at = _place(path)
    with path.open("rb") as file:
        file.seek(at)
        said = file.read(_DIGITS)
    if said != _digest(path, at).encode():
        raise StoreError(f"{path}: does not match its checksum")


def _place(path: Path) -> int:
    """Where the digits stand. StoreError when there are none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little") + 8
        start = max(0, size - length)
        file.seek(start)
        footer = file.read(min(length, size))
    at = footer.find(_MARK)
    if at < 0 or footer.count(_MARK) != 1 or at + len(_MARK) + _DIGITS > len(footer):
        raise StoreError(f"{path}: has no checksum where one is expected")
    return start + at + len(_MARK)


def _digest(path: Path, at: int) -> str:
    found = xxhash.xxh3_64()
    with path.open("rb") as file:
        left = at
        while left and (data := file.read(min(left, _PIECE))):
            found.update(data)
            left -= len(data)
        found.update(b"0" * _DIGITS)
        file.seek(at + _DIGITS)
        while data := file.read(_PIECE):
            found.update(data)
    return found.hexdigest()
