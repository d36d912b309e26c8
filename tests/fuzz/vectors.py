"""Target `formats`: the headers of the files that `mirsearch import` reads, against NumPy and `struct`."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError
from engine.store.formats import bins, texmex
from engine.store.formats.by_suffix import open_vectors
from tests.fuzz.choices import Choices, mutated

Array = npt.NDArray[Any]
_TYPES = ["<f4", "<f8", "<f2", ">f4", "|u1", "|i1", "<i4", "<i8", ">u2", "|b1", "<c8", "|O", "<U3", "|S2", "<M8[s]"]
_HEADER = [(0, 12), (0, 130)]


class Formats:
    """A small file of each format, mostly damaged in its header."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        values = np.arange(12).reshape(4, 3)
        self._files: dict[str, list[bytes]] = {".npy": [], ".npz": []}
        for dtype in _TYPES[:11]:
            self._files[".npy"] += [self._npy(values.astype(dtype)), self._npy(np.asfortranarray(values.astype(dtype)))]
        self._files[".npy"] += [self._npy(np.zeros(shape, "<f4")) for shape in ((0, 3), (3,), (2, 2, 2), ())]
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            for arrays in ({"a": values.astype("<f4")}, {"a": values, "b": values}, {}):
                self._files[".npz"].append(self._npz(arrays, method))
        for suffix, dtype_ in texmex.DTYPES.items():
            rows = [struct.pack("<i", 3) + row.astype(dtype_).tobytes() for row in values]
            self._files[suffix] = [b"".join(rows), rows[0], struct.pack("<i", 0)]
        for suffix, dtype_ in bins.DTYPES.items():
            self._files[suffix] = [struct.pack("<II", 4, 3) + values.astype(dtype_).tobytes(), struct.pack("<II", 0, 3)]
        self._suffixes = list(self._files)

    @staticmethod
    def _npy(array: Array) -> bytes:
        out = io.BytesIO()
        np.lib.format.write_array(out, array, allow_pickle=False)
        return out.getvalue()

    def _npz(self, arrays: dict[str, Array], method: int) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, array in arrays.items():
                archive.writestr(f"{name}.npy", self._npy(array))
        return out.getvalue()

    def run(self, choices: Choices) -> str:
        """Open and read; numbers must be those of the file, and a file that is right must be read."""
        suffix = choices.pick(self._suffixes)
        data = choices.pick(self._files[suffix])
        data = self._other_header(choices, data) if suffix == ".npy" and choices.one_in(3) else data
        if choices.below(4):
            data = mutated(choices, data, [*_HEADER, (max(len(data) - 60, 0), max(len(data), 1))])
        path = self._folder / f"a{suffix}"
        path.write_bytes(data)
        try:
            found = np.concatenate([block.copy() for block in open_vectors(path).blocks()])
        except EngineError as error:
            assert "\n" not in str(error)
            found = None
        true = self._true(suffix, data)
        usable = true is not None and true.ndim == 2 and true.size and self._exact(true)
        if found is None:
            assert not usable or suffix in (".npy", ".npz"), "refused, and nothing is wrong with it"
            return "refused, NumPy takes it" if usable else "refused"
        assert usable and true is not None, "accepted, and it is no such file"
        assert found.dtype == np.float32
        assert found.tobytes() == np.ascontiguousarray(true, np.float32).tobytes()
        return "accepted"

    @staticmethod
    def _other_header(choices: Choices, data: bytes) -> bytes:
        shape = choices.pick(["(4, 3)", "(3, 4)", "(12,)", "(4, 3,)", "(-4, -3)", "(1 << 40, 3)", "(99999999999, 3)",
                              "(4.0, 3)", "(True, 12)", "4", "(12, 1)", "(0, 3)", "(1, 12)"])  # fmt: skip
        order, dtype = choices.pick(["False", "True", "0", "None"]), choices.pick(_TYPES)
        text = f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
        version = choices.pick([b"\1\0", b"\2\0", b"\3\0", b"\1\1", b"\0\0"])
        size = struct.pack("<H" if version[:1] == b"\1" else "<I", 128)
        return b"\x93NUMPY" + version + size + text.ljust(127) + b"\n" + data[128:]

    @staticmethod
    def _true(suffix: str, data: bytes) -> Array | None:
        """What the file holds, by NumPy's own reader or the format's few lines; None when it is not in order."""
        if suffix in (".npy", ".npz"):
            try:
                return _by_numpy(suffix, data)
            except Exception:  # hostile bytes bring many errors out of it
                return None
        if suffix in bins.DTYPES:
            dtype = bins.DTYPES[suffix]
            if len(data) < 8 or len(data) != 8 + np.prod([int(n) for n in struct.unpack_from("<II", data)],
                                                         dtype=object) * dtype.itemsize:  # fmt: skip
                return None
            return np.frombuffer(data, dtype, offset=8).reshape(struct.unpack_from("<II", data))
        dtype = texmex.DTYPES[suffix]
        dim = int.from_bytes(data[:4], "little", signed=True)
        each = 4 + dim * dtype.itemsize
        if len(data) < 4 or dim < 1 or len(data) % each:
            return None
        rows = [data[at : at + each] for at in range(0, len(data), each)]
        if any(row[:4] != data[:4] for row in rows):
            return None
        return np.stack([np.frombuffer(row, dtype, offset=4) for row in rows])

    @staticmethod
    def _exact(true: Array) -> bool:
        """Whether these are finite numbers that float32 can hold."""
        if true.dtype.kind not in "fiub" or true.dtype.itemsize > 8:
            return False
        for value in true.reshape(-1).tolist():
            try:
                if struct.unpack("<f", struct.pack("<f", value))[0] != value:  # NaN is unequal to itself
                    return False
            except OverflowError:
                return False
            if value in (float("inf"), float("-inf")):
                return False
        return True


def _by_numpy(suffix: str, data: bytes) -> Array | None:
    if suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            (name,) = archive.namelist()
            data = archive.read(name)
    file = io.BytesIO(data)
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return None if file.read(1) else array
