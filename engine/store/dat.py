"""The `.dat` file of the MIRFLICKR-1M s16a extension: one photo, two layers of the Caffe reference network.

20,400 bytes, little-endian, as published at semanticmultimedia.org/mirflickr with a reader built on `struct`:
int64 1000, 1,000 × float32 (fc8), int64 4096, 4,096 × float32 (fc7).
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

FC7_DIM = 4096
FC8_DIM = 1000
RECORD = np.dtype([("fc8_dim", "<i8"), ("fc8", "<f4", FC8_DIM), ("fc7_dim", "<i8"), ("fc7", "<f4", FC7_DIM)])
RECORD_BYTES = RECORD.itemsize
LAYERS = {"fc7": FC7_DIM, "fc8": FC8_DIM}
PHOTOS_PER_FOLDER = 10_000


def relative_path(photo_id: int, suffix: str = ".dat") -> str:
    """`10/103169.dat` for photo 103169: folders of 10,000, named as the pictures are."""
    return f"{photo_id // PHOTOS_PER_FOLDER}/{photo_id}{suffix}"


def records(fc7: npt.NDArray[np.float32], fc8: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    """Raw records, shape (n,), from fc7 (n, 4096) and fc8 (n, 1000); `.tobytes()` of one is one file."""
    out = np.empty(len(fc7), RECORD)
    out["fc8_dim"], out["fc8"], out["fc7_dim"], out["fc7"] = FC8_DIM, fc8, FC7_DIM, fc7
    return out


def write_dat(path: Path, fc7: npt.NDArray[np.float32], fc8: npt.NDArray[np.float32]) -> None:
    """Write one photo's layers, shapes (4096,) and (1000,), in the publisher's layout."""
    path.write_bytes(records(fc7[None], fc8[None]).tobytes())
