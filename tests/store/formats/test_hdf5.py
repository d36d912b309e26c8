"""ann-benchmarks files: query sets that are whole, and datasets that are not what they seem."""

from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest

from engine.errors import InputError
from engine.store.formats.hdf5 import METRICS, Queries, distances_of, open_hdf5, read_queries

TRAIN = np.arange(48, dtype=np.float32).reshape(12, 4)
TEST = TRAIN[:3] + np.float32(0.5)
NEAR = np.array([[0, 1], [1, 11], [2, 3]], np.int32)
FAR = np.array([[1, 2], [1, 2], [1, 2]], np.float32)


def write(path: Any, *, distance: Any = "euclidean", **datasets: Any) -> Any:
    with h5py.File(path, "w") as file:
        if distance is not None:
            file.attrs["distance"] = distance
        for name, data in datasets.items():
            file[name] = data
    return path


def whole(path: Any, **changes: Any) -> Any:
    return write(path, **({"train": TRAIN, "test": TEST, "neighbors": NEAR, "distances": FAR} | changes))


def rows_of(vectors: Any) -> Any:
    return np.concatenate([block.copy() for block in vectors.blocks()])


def queries_of(path: Any, **options: Any) -> Queries:
    found = read_queries(path, open_hdf5(path), **options)
    assert isinstance(found, Queries), found
    return found


@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_queries_come_with_their_truth(tmp_path, distance, as_bytes):
    path = whole(tmp_path / "v.hdf5", distance=distance.encode() if as_bytes else distance)
    found = queries_of(path)
    assert (found.queries == TEST).all() and (found.neighbors == NEAR).all()
    assert found.distances is not None and (found.distances == FAR).all()
    assert found.queries.dtype == np.float32 and found.neighbors.dtype == np.int64
    assert found.metric == {"angular": "cosine", "euclidean": "l2", "dot": "ip"}.get(distance, distance)


@pytest.mark.parametrize("distance", ["hamming", "jaccard", "", None, "normalized"])
def test_a_metric_that_we_do_not_have_is_no_error(tmp_path, distance):
    path = whole(tmp_path / "v.hdf5", distance=distance)
    found = read_queries(path, open_hdf5(path))
    assert isinstance(found, str) and "expected angular, euclidean or ip" in found
    assert (rows_of(open_hdf5(path)) == TRAIN).all()


def test_a_file_without_queries_is_no_error(tmp_path):
    path = write(tmp_path / "v.hdf5", train=TRAIN)
    assert "no queries" in str(read_queries(path, open_hdf5(path)))


def test_distances_may_be_absent(tmp_path):
    path = write(tmp_path / "v.hdf5", train=TRAIN, test=TEST, neighbors=NEAR)
    assert queries_of(path).distances is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"neighbors": np.array([[0, 1], [1, 12], [2, 3]])}, "row 1 names 12, expected rows of train (0 to 11)"),
        ({"neighbors": np.array([[0, -1], [1, 1], [2, 3]])}, "row 0 names -1"),
        ({"neighbors": np.array([[2**64 - 1, 1], [1, 1], [2, 3]], np.uint64)}, "row 0 names 18446744073709551615"),
        ({"neighbors": NEAR.astype("f4")}, "expected integers (3, k)"),
        ({"neighbors": NEAR[:2]}, "expected integers (3, k)"),
        ({"neighbors": NEAR[0]}, "expected numbers of shape (vectors, dimensions)"),
        ({"distances": FAR[:, :1]}, "shape (3, 1), expected (3, 2)"),
        ({"distances": FAR * np.nan}, "[distances]: row 0, value 0 is nan"),
        ({"test": TEST[:, :3]}, "expected (queries, 4)"),
        ({"test": TEST * np.inf}, "[test]: row 0, value 0 is inf"),
        ({"test": TEST[:0]}, "expected (queries, 4)"),
        ({"test": TEST.astype("f8") + 0.1}, "float32 cannot hold it"),
    ],
)
def test_a_damaged_query_set_is_an_error(tmp_path, changes, says):
    path = whole(tmp_path / "v.hdf5", **changes)
    with pytest.raises(InputError) as error:
        read_queries(path, open_hdf5(path))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_float64_queries_are_rounded_only_when_asked(tmp_path):
    path = whole(tmp_path / "v.hdf5", test=TEST.astype("f8") + 0.1)
    assert (queries_of(path, lossy=True).queries == (TEST.astype("f8") + 0.1).astype("f4")).all()


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "lzf", "shuffle": True},
        {"chunks": (5, 3)},
        {"chunks": (2, 4), "maxshape": (None, 4), "fletcher32": True},
    ],
)
def test_chunks_and_filters_are_read(tmp_path, options):
    with h5py.File(tmp_path / "v.hdf5", "w") as file:
        file.create_dataset("train", data=TRAIN, **options)
    assert (rows_of(open_hdf5(tmp_path / "v.hdf5")) == TRAIN).all()


def test_the_dataset_is_named_or_train_or_the_only_one(tmp_path):
    assert (rows_of(open_hdf5(write(tmp_path / "a.hdf5", emb=TRAIN))) == TRAIN).all()
    assert (rows_of(open_hdf5(write(tmp_path / "b.hdf5", emb=TRAIN, train=TEST))) == TEST).all()
    assert (rows_of(open_hdf5(tmp_path / "b.hdf5", "emb")) == TRAIN).all()
    with pytest.raises(InputError, match="no dataset 'train' but a, b"):
        open_hdf5(write(tmp_path / "c.hdf5", a=TRAIN, b=TRAIN))
    with pytest.raises(InputError, match="no dataset 'x' but a, b"):
        open_hdf5(tmp_path / "c.hdf5", "x")


@pytest.mark.parametrize("train", [TRAIN[0], TRAIN[None], np.array([[b"a"]]), TRAIN.astype("c8"), np.float32(1)])
def test_what_is_no_matrix_of_numbers_is_an_error(tmp_path, train):
    with pytest.raises(InputError, match="expected numbers"):
        open_hdf5(write(tmp_path / "v.hdf5", train=train))


def test_bits_are_numbers(tmp_path):
    assert (rows_of(open_hdf5(write(tmp_path / "v.hdf5", train=TRAIN > 20))) == (TRAIN > 20)).all()


@pytest.mark.parametrize("options", [{}, {"chunks": (1000, 10)}, {"chunks": (1000, 10), "compression": "gzip"}])
def test_a_shape_without_numbers_behind_it_is_an_error(tmp_path, options):
    with h5py.File(tmp_path / "v.hdf5", "w") as file:
        data = file.create_dataset("train", (10**9, 1000), "f4", **options)
        if options:
            data[0] = 1
    with pytest.raises(InputError, match="It is incomplete"):
        open_hdf5(tmp_path / "v.hdf5")


def test_a_group_is_no_dataset(tmp_path):
    with h5py.File(tmp_path / "v.hdf5", "w") as file:
        file.create_group("train/x")
    with pytest.raises(InputError, match=r"\[train\]: is a group, .* It holds train/x: choose"):
        open_hdf5(tmp_path / "v.hdf5")


def test_numbers_of_other_files_are_not_read(tmp_path):
    other = write(tmp_path / "other.hdf5", train=TRAIN)
    with h5py.File(tmp_path / "link.hdf5", "w") as file:
        file["train"] = h5py.ExternalLink(str(other), "train")
    with h5py.File(tmp_path / "virtual.hdf5", "w") as file:
        layout = h5py.VirtualLayout((12, 4), "f4")
        layout[:] = h5py.VirtualSource(str(other), "train", (12, 4))
        file.create_virtual_dataset("train", layout)
    (tmp_path / "raw").write_bytes(TRAIN.tobytes())
    with h5py.File(tmp_path / "raw.hdf5", "w") as file:
        file.create_dataset("train", (12, 4), "f4", external=[(str(tmp_path / "raw"), 0, 192)])
    for name in ("link", "virtual", "raw"):
        with pytest.raises(InputError, match="lies in another file"):
            open_hdf5(tmp_path / f"{name}.hdf5")


def test_a_chunk_that_is_too_large_for_memory_is_refused(tmp_path):
    with h5py.File(tmp_path / "v.hdf5", "w") as file:
        data = file.create_dataset("train", (1 << 17, 1 << 10), "f4", chunks=(1 << 17, 1 << 10), compression="gzip")
        data.id.write_direct_chunk((0, 0), bytes(1 << 20))
    with pytest.raises(InputError, match="too large to read"):
        open_hdf5(tmp_path / "v.hdf5")


def test_distances_are_those_of_the_field():
    scores = np.array([[1.0, 0.25]], np.float32)
    assert distances_of(scores, "cosine").tolist() == [[0.0, 0.75]]
    assert distances_of(scores, "ip").tolist() == [[-1.0, -0.25]]
    assert distances_of(-scores, "l2").tolist() == [[1.0, 0.5]]


def test_a_name_without_a_dataset_says_what_it_is(tmp_path):
    with h5py.File(tmp_path / "v.hdf5", "w") as file:
        file.create_group("empty")
        file["kind"], file["lost"], file["good"] = np.dtype("f4"), h5py.SoftLink("/nowhere"), TRAIN
    for key, says in (
        ("kind", r"\[kind\]: is a type, expected a dataset. Beside it: empty, good, lost. Choose"),
        ("lost", r"\[lost\]: is a link that leads nowhere, expected a dataset. Beside it: empty, good, kind. Choose"),
        ("empty", r"\[empty\]: is a group, .* It is empty"),
        (None, r"holds no dataset 'train' but empty, good, kind, lost. Choose"),
    ):
        with pytest.raises(InputError, match=says):
            open_hdf5(tmp_path / "v.hdf5", key)
