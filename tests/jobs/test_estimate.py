"""Estimates against what small stores then take: sizes are held, times only by their arithmetic."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.index.build import build_index
from engine.index.spec import IndexSpec
from engine.jobs.calibrate import Machine, calibrate
from engine.jobs.estimate import BUILD_STARTING, QUERY_PROCESS, Figure, collection, estimate, where
from engine.jobs.truth import TruthSpec, ground_truth
from kernels.device import cpu_threads
from tests.builders import CPU, clustered, make_store

MACHINE = Machine(
    flops=1e11, write=1e9, copy=1e10, file_seconds=1e-5, cold_file_seconds=6e-5, codebook_seconds=0.02, seconds=1
)


def value(figures: list[Figure], group: str, name: str) -> float:
    (found,) = [figure.value for figure in figures if (figure.group, figure.name) == (group, name)]
    return found


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"x": clustered(4000, 64, seed=2)})
    count, dims = collection(store, None, ())
    figures = estimate(count, dims, MACHINE)
    files = [store.path / name for name in ("x.npy", "photo_ids.npy")]
    assert value(figures, "disk", "store") == pytest.approx(sum(file.stat().st_size for file in files), rel=0.02)
    for refine in ("uint8", "uint4", "float16", "none"):
        built = build_index(store, IndexSpec(layer="x", refine=refine), device=CPU, name=refine)
        size = sum(part.bytes for part in built.manifest.parts.values())
        assert value(figures, "disk", f"index x, refine {refine}") == pytest.approx(size, rel=0.05)
    ground_truth(store, TruthSpec(layer="x", metric="cosine"), device=CPU)
    (truth,) = (store.path / "truth").iterdir()
    assert value(figures, "disk", "truth x") == pytest.approx(truth.stat().st_size, rel=0.1)


def test_the_home_collection_without_a_store() -> None:
    count, dims = collection(None, 1_000_000, ("fc7",))
    assert dims == {"fc7": 4096}
    figures = estimate(count, dims, MACHINE)
    assert value(figures, "disk", "store") == pytest.approx(16.392e9, rel=0.001)
    assert {figure.group for figure in figures} == {"disk", "memory", "GPU memory", "time"}
    assert all(figure.value > 0 and figure.made_of for figure in figures)


def test_times_follow_the_machine() -> None:
    slow = replace(MACHINE, flops=5e10, write=5e8, copy=5e9, file_seconds=2e-5, codebook_seconds=0.04)
    once, twice = (estimate(50_000, {"fc7": 4096}, machine) for machine in (MACHINE, slow))
    for name, constant in (("build fc7", BUILD_STARTING), ("1,000 queries fc7", 0)):
        assert value(twice, "time", name) - constant == pytest.approx(2 * (value(once, "time", name) - constant))
    assert value(once, "time", "ingest") == pytest.approx(0.3 + 50_000 * (1e-5 / cpu_threads() + 20.4e-6))
    assert value(once, "time", "ingest, files not in memory") == pytest.approx(0.3 + 50_000 * (6e-5 + 20.4e-6))


def test_raw_rows_that_queries_map_are_all_of_few_and_a_part_of_many() -> None:
    few, some, many = (estimate(photos, {"x": 4096}, MACHINE) for photos in (2_000, 100_000, 10_000_000))
    mapped = [
        value(figures, "memory", "query x") - QUERY_PROCESS - value(figures, "disk", "index x, refine uint4")
        for figures in (few, some, many)
    ]
    assert mapped[0] == pytest.approx(2_000 * 16_384, rel=0.01)
    # 18,000 rows into 25,000 pieces of 64 KiB, every fourth row into two of them: 1 − exp(−18,000 · 1.25 / 25,000).
    assert mapped[1] == pytest.approx(0.593 * 100_000 * 16_384, rel=0.01)
    assert mapped[2] < 80_000 * 2 * 65_536  # 1,293 candidates by default, of which a sixteenth


def test_few_photos_are_compared_one_by_one() -> None:
    figures = estimate(500, {"fc8": 1000}, MACHINE)
    assert value(figures, "disk", "index fc8, refine none") == 0
    assert value(figures, "time", "build fc8") == 0


@pytest.mark.parametrize(("photos", "layers"), [(None, ()), (10, ("fc9",))])
def test_what_cannot_be_estimated_is_said(photos: int | None, layers: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"give one of them|expected some of fc7,fc8"):
        collection(None, photos, layers)


def test_calibrating_measures_and_leaves_nothing(tmp_path: Path) -> None:
    machine = calibrate(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert min(machine.flops, machine.write, machine.copy, machine.file_seconds, machine.cold_file_seconds) > 0
    assert machine.codebook_seconds > 0


def test_the_disk_of_a_store_that_may_not_be_written_is_not_measured(tmp_path: Path) -> None:
    assert where(tmp_path) == tmp_path and where(None) == Path()
    wall = tmp_path / "wall"
    wall.touch()  # nothing can be made in a file, whoever one is
    assert where(wall) == Path(tempfile.gettempdir())
