"""Maps of `.npy` files."""

from pathlib import Path

import numpy as np
import pytest

from engine.store import npy


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_forget_lets_go_of_what_was_read(tmp_path: Path) -> None:
    rows = np.arange(1 << 22, dtype="<f4").reshape(-1, 1024)
    file = tmp_path / "x.npy"
    file.write_bytes(npy.header(rows.shape, "<f4", npy.PAGE) + rows.tobytes())
    opened = npy.open_rows(file, rows.shape, "<f4", npy.PAGE)

    def mapped() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        at = next(i for i, line in enumerate(lines) if line.endswith(str(file)))
        return next(int(line.split()[1]) for line in lines[at:] if line.startswith("Rss:")) * 1024

    assert float(opened.sum()) > 0 and mapped() >= rows.nbytes
    npy.forget(opened[10:20])
    assert mapped() == 0
    assert np.array_equal(opened, rows)
    npy.forget(rows)  # an array of its own is left alone
    assert rows[1, 0] == 1024
