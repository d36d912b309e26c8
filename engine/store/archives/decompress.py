"""Compressed files as pieces of bounded size, checked to the end, whatever they hold.

gzip by isal (Intel's ISA-L: faster on one core than rapidgzip on two, and in 25 MiB, where a bomb took rapidgzip to
2.6 GiB); zstd by the standard library's module, or its backport before Python 3.14; bzip2 on all cores by
`engine.store.archives.bzip2`.
"""

import bz2
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from engine.errors import DependencyError
from engine.store.archives.kinds import LONGEST_MAGIC, Kind, begins
from engine.store.archives.members import DamagedError

Piece = tuple[bytes, int]  # data, and how many bytes of the compressed file lie behind it
LARGEST_PIECE = 1 << 22
_READ = 1 << 17  # what follows the end of a frame is copied once per frame: many small frames, small reads
MORE_DATA = "other data follow the end of the compressed stream"
_LARGEST_WINDOW = 27  # 128 MiB, zstd's own limit without --long=31


class Decoder(Protocol):
    """One frame, as `bz2.BZ2Decompressor` and its kin in zstd and isal have it."""

    @property
    def eof(self) -> bool:
        """Whether the frame is complete, its checksum right."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing left to give before more is put in."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was put in after the end of the frame."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes."""
        ...


def decompress(path: bytes, kind: Kind, *, threads: int) -> Generator[Piece, None, None]:
    """The content of a gzip, bzip2 or zstd file; closing the generator ends its threads.

    DamagedError after the last good piece; OSError when the file cannot be read; DependencyError.
    """
    if kind == "bzip2":
        try:
            from engine.store.archives.bzip2 import decompress_bzip2
        except ImportError:  # a host without Numba
            return _ahead(_frames(path, kind, bz2.BZ2Decompressor))
        return decompress_bzip2(path, threads=threads)
    return _ahead(_frames(path, kind, _gzip() if kind == "gzip" else _zstd()))


def _gzip() -> Callable[[], Decoder]:
    try:
        from isal import igzip_lib
    except ImportError as error:
        raise DependencyError("tar.gz needs isal. Install it: pip install isal") from error
    return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


def _zstd() -> Callable[[], Decoder]:
    zstd: Any
    try:
        from compression import zstd  # type: ignore[import-not-found,no-redef,unused-ignore]
    except ImportError:
        try:
            from backports import zstd  # type: ignore[no-redef,unused-ignore]
        except ImportError as error:
            raise DependencyError("tar.zst needs backports.zstd. Install it: pip install backports.zstd") from error
    options = {zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW}
    return lambda: zstd.ZstdDecompressor(options=options)


def _frames(path: bytes, kind: Kind, new: Callable[[], Decoder]) -> Generator[Piece, None, None]:
    """One frame after another; zeros may follow the last."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (bytes: names may not be text)
        decoder, data = new(), file.read(_READ)
        while True:
            out = _step(decoder, data)
            if out:
                yield out, file.tell()
            data = b""
            if decoder.eof:
                data = decoder.unused_data or file.read(_READ)
                padded = False
                while data and not any(data):
                    data, padded = file.read(_READ), True
                if data and padded:
                    raise DamagedError("other data follow the zeros after the compressed stream")
                if not data:
                    return
                while len(data) < LONGEST_MAGIC and (more := file.read(_READ)):
                    data += more
                if not begins(kind, data):  # what came before is whole, and its checksum right
                    raise DamagedError(MORE_DATA)
                decoder = new()
            elif decoder.needs_input:
                data = file.read(_READ)
                if not data:
                    raise DamagedError("the compressed stream is cut short")


def _step(decoder: Decoder, data: bytes) -> bytes:
    try:
        return decoder.decompress(data, LARGEST_PIECE)
    except Exception as error:  # the libraries' own classes, and whatever a hostile file brings out of them
        text = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(f"the compressed stream is damaged ({text})", all_of_it=True) from None


def _ahead(pieces: Generator[Piece, None, None]) -> Generator[Piece]:
    """Decompress the next piece in a thread while the last one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="decompress") as pool:
        waiting = pool.submit(next, pieces, None)
        while (piece := waiting.result()) is not None:
            waiting = pool.submit(next, pieces, None)
            yield piece
    pieces.close()
