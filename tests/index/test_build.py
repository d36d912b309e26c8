"""Building: whole or absent, the same again, on stores of any content; and every damage is seen when it is opened."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EngineError, IndexUnusableError, InputError, StoreError
from engine.index import build as build_module
from engine.index.build import build_index
from engine.index.manifest import FORMAT_VERSION, read_index_manifest
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.manifest import write_document
from engine.store.store import Store
from tests.builders import CPU, Array, clustered, files_below, flip_bit, make_store, oracle_scores, recall

METRICS = ["cosine", "ip", "l2"]
SPEC = IndexSpec(layer="fc7", rows_per_shard=1000)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A store of 1,200 rows with an index of two shards; tests copy it before they touch it."""
    store = make_store(tmp_path_factory.mktemp("built") / "store", {"fc7": clustered(1200, 32, seed=5)})
    return build_index(store, SPEC, device=CPU).path


@pytest.fixture
def index_path(built, tmp_path):
    shutil.copytree(built.parent.parent, tmp_path / "store")
    return tmp_path / "store" / "indices" / "fc7"


def query(path: Path) -> list[int]:
    index = Index.open(path, device=CPU)
    return list(index.search(np.asarray(index.store.fc7[7]), SearchSpec(k=3)).photo_ids[0].tolist())


def test_what_an_index_is_made_of(built):
    manifest = read_index_manifest(built)
    assert {path.name for path in built.iterdir()} == {*manifest.parts, "index.json"}
    assert set(manifest.parts) == {
        "axes.npy", "shard-0000.faiss", "shard-0001.faiss", "sketch.npy", "sketch_scale.npy", "refine.npy",
        "refine_scale.npy",
    }  # fmt: skip
    for name, part in manifest.parts.items():
        assert (built / name).stat().st_size == part.bytes
    assert (manifest.rows, manifest.dim, manifest.scale) == (1200, 32, 1.0)
    assert manifest.store_digest == Store.open(built.parent.parent).manifest.state
    assert None not in manifest.spec.model_dump().values()
    for name in ("axes", "sketch", "sketch_scale", "refine", "refine_scale"):
        np.load(built / f"{name}.npy", allow_pickle=False)


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_ones(built, tmp_path):
    sums = {}
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        store = make_store(tmp_path / name, {"fc7": clustered(1200, 32, seed=5)})
        sums[name] = files_below(build_index(store, SPEC.model_copy(update={"seed": seed}), device=CPU).path)
        del sums[name]["index.json"]  # holds times
    assert sums["first"] == sums["second"]
    assert sums["first"]["shard-0000.faiss"] != sums["other"]["shard-0000.faiss"]
    original = files_below(built)
    assert all(original[name] == digest for name, digest in sums["first"].items())


# Damage -----------------------------------------------------------------------------------------------------------


CHECKED = ["axes.npy", "shard-0000.faiss", "shard-0001.faiss", "sketch_scale.npy", "refine_scale.npy"]


@pytest.mark.parametrize("name", CHECKED)
def test_a_flipped_bit_is_seen_when_the_index_is_opened(index_path, name):
    file = index_path / name
    size = file.stat().st_size * 8
    bits = {0, 7, size - 1, size // 2, *np.random.default_rng(0).integers(0, size, 25).tolist(), *range(0, 1024, 41)}
    for bit in sorted(bit for bit in bits if bit < size):
        flip_bit(file, bit)
        with pytest.raises(IndexUnusableError, match=rf"{name}: .*Build the index again"):
            Index.open(index_path, device=CPU)
        flip_bit(file, bit)
    assert query(index_path)


@pytest.mark.parametrize("name", ["sketch.npy", "refine.npy"])
def test_a_flipped_bit_of_a_header_of_codes_is_seen(index_path, name):
    for bit in range(0, 1024, 9):
        flip_bit(index_path / name, bit)
        with pytest.raises(IndexUnusableError, match=rf"{name}: .*Build the index again"):
            Index.open(index_path, device=CPU)
        flip_bit(index_path / name, bit)


@pytest.mark.parametrize("change", ["short", "empty", "long", "absent", "folder"])
@pytest.mark.parametrize("name", [*CHECKED, "sketch.npy", "refine.npy"])
def test_a_part_of_another_length_is_seen(index_path, name, change):
    file = index_path / name
    data = file.read_bytes()
    file.unlink()
    if change == "folder":
        file.mkdir()
    elif change != "absent":
        file.write_bytes({"short": data[:-1], "empty": b"", "long": data + b"\0"}[change])
    with pytest.raises(IndexUnusableError, match=name):
        Index.open(index_path, device=CPU)


def test_every_flipped_bit_of_the_manifest_is_seen(index_path):
    file = index_path / "index.json"
    size = file.stat().st_size * 8
    for bit in sorted({*range(0, 4000, 3), *np.random.default_rng(0).integers(0, size, 500).tolist()}):
        flip_bit(file, bit)
        with pytest.raises(IndexUnusableError):
            Index.open(index_path, device=CPU)
        flip_bit(file, bit)
    assert query(index_path)


@pytest.mark.parametrize("changes", [
    {"surprise": 1}, {"rows": -1}, {"rows": "many"}, {"spec": {}}, {"spec": {"layer": "fc7", "nlist": 3}},
    {"probes": 0}, {"format": "mirsearch-store"}, {"parts": {"axes.npy": {"bytes": -1, "xxh3": "0" * 16}}},
    {"shards": [{"file": "/x"}]}, {"shards": [{"file": "../../x.faiss", "start": 0, "stop": 1}]}, {"scale": 0},
    {"scale": -1.0},
])  # fmt: skip
def test_a_manifest_that_does_not_fit_is_seen_even_with_a_right_checksum(index_path, changes):
    document = json.loads((index_path / "index.json").read_text()) | changes
    write_document(index_path / "index.json", document)
    with pytest.raises(IndexUnusableError, match=r"index\.json"):
        Index.open(index_path, device=CPU)


def test_an_index_of_a_newer_format_asks_for_an_upgrade(index_path):
    document = json.loads((index_path / "index.json").read_text()) | {"version": FORMAT_VERSION + 1, "new": True}
    write_document(index_path / "index.json", document)
    with pytest.raises(IndexUnusableError, match="Upgrade mirsearch"):
        Index.open(index_path, device=CPU)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b"\xff"])
def test_a_manifest_that_is_none_is_seen(index_path, content):
    (index_path / "index.json").write_bytes(content)
    with pytest.raises(IndexUnusableError, match=r"index\.json"):
        Index.open(index_path, device=CPU)


def test_an_absent_index_says_what_makes_it(index_path):
    store = index_path.parent.parent
    shutil.rmtree(index_path)
    with pytest.raises(IndexUnusableError, match=rf"There is no such index: `mirsearch build {store} --layer fc7`"):
        Index.open(index_path, device=CPU)
    with pytest.raises(
        IndexUnusableError, match=rf"There is no such index: `mirsearch build {store} --layer LAYER --name other`"
    ):
        Index.open(index_path.parent / "other", device=CPU)


def test_an_index_of_another_store_is_refused(index_path, tmp_path):
    other = make_store(tmp_path / "other", {"fc7": clustered(1200, 32, seed=6)})
    shutil.copytree(index_path, other.path / "indices" / "fc7")
    with pytest.raises(IndexUnusableError, match=r"built from another state of .*mirsearch build"):
        Index.open(other.path / "indices" / "fc7", device=CPU)
    with pytest.raises(IndexUnusableError, match="built from another state"):
        Index.open(index_path, device=CPU, store=other)


def test_an_index_of_a_damaged_store_is_refused(index_path):
    flip_bit(index_path.parent.parent / "photo_ids.npy", 130 * 8)
    with pytest.raises(StoreError):
        Index.open(index_path, device=CPU)


# Building again ---------------------------------------------------------------------------------------------------


def test_the_same_specification_is_not_built_twice(index_path):
    store = Store.open(index_path.parent.parent)
    before = files_below(index_path)
    report = build_index(store, SPEC, device=CPU)
    assert report.reused and report.path == index_path
    assert files_below(index_path) == before
    forced = build_index(store, SPEC, device=CPU, force=True)
    assert not forced.reused
    assert files_below(index_path)["index.json"] != before["index.json"]
    assert not build_index(store, SPEC.model_copy(update={"seed": 3}), device=CPU).reused
    assert read_index_manifest(index_path).spec.seed == 3
    assert sorted(path.name for path in index_path.parent.iterdir() if path.is_dir()) == ["fc7"]


def test_what_was_not_asked_for_is_as_the_index_has_it(index_path):
    store = Store.open(index_path.parent.parent)
    build_index(store, IndexSpec(layer="fc7", metric="l2", lists=8, refine="uint8"), device=CPU)
    before = files_below(index_path)
    for asked in ({}, {"metric": "l2"}, {"lists": 8, "pq_m": None}, {"refine": "uint8", "seed": 0}):
        assert build_index(store, IndexSpec(layer="fc7", **asked), device=CPU).reused, asked
    assert files_below(index_path) == before
    assert not build_index(store, IndexSpec(layer="fc7", metric="cosine"), device=CPU).reused


@pytest.mark.parametrize("name", ["index.json", *CHECKED, "sketch.npy", "refine.npy"])
@pytest.mark.parametrize("change", ["bit", "absent", "short"])
def test_what_is_damaged_is_built_again(index_path, name, change):
    """Who is told to build again must not be given the damaged index as good."""
    file, before = index_path / name, query(index_path)
    if change == "bit":
        flip_bit(file, file.stat().st_size * 8 - 100)
    elif change == "absent":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-2])
    assert not build_index(Store.open(index_path.parent.parent), SPEC, device=CPU).reused
    assert query(index_path) == before


@pytest.mark.parametrize("phase", ["covariance", "axes", "train quantizers", "add rows"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_build_leaves_the_old_index_answering(index_path, phase, error):
    store, before, answer = Store.open(index_path.parent.parent), files_below(index_path), query(index_path)

    def listener(name, done, total, *, unit="rows", detail=""):
        if name == phase:
            raise error

    with pytest.raises(error):
        build_index(store, SPEC, device=CPU, force=True, progress=listener)
    assert files_below(index_path) == before
    assert query(index_path) == answer
    assert [path.name for path in index_path.parent.iterdir() if path.is_dir()] == ["fc7"]


@pytest.mark.parametrize("step", [1, 2])
def test_failing_between_the_renames_leaves_the_old_index_answering(index_path, monkeypatch, step):
    store, before = Store.open(index_path.parent.parent), files_below(index_path)
    rename, calls = Path.rename, []

    def failing(self, target):
        calls.append(target)
        if len(calls) == step:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(build_module, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        build_index(store, SPEC, device=CPU, force=True)
    assert files_below(index_path) == before


def test_a_second_build_of_the_same_index_at_the_same_time_is_refused(index_path):
    store, seen = Store.open(index_path.parent.parent), list[str]()

    def listener(name, done, total, *, unit="rows", detail=""):
        if name == "add rows" and not seen:
            seen.append(name)
            with pytest.raises(IndexUnusableError, match="another mirsearch is building this index"):
                build_index(store, SPEC, device=CPU, force=True)
            build_index(store, SPEC, device=CPU, name="another-name")

    build_index(store, SPEC, device=CPU, force=True, progress=listener)
    assert seen
    assert query(index_path)
    assert query(index_path.with_name("another-name"))


FULL_DISK = """
import resource, signal, sys
from engine.errors import EngineError
from engine.index.build import build_index
from engine.index.spec import IndexSpec
from engine.store.store import Store
from kernels import Device
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store, spec, device = Store.open(sys.argv[1]), IndexSpec(layer="fc7", rows_per_shard=1000), Device(kind="cpu")
build_index(store, spec, device=device, name="before")  # what Numba compiles is cached
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        build_index(store, spec, device=device, force=True)
        message = "built"
    except EngineError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(message.replace(chr(10), " "))
"""


def test_a_full_disk_is_an_error_and_leaves_the_old_index(index_path):
    before = files_below(index_path)
    sizes = sorted(path.stat().st_size for path in index_path.iterdir())
    limits = sorted({0, 200, 5000, *(size - 1 for size in sizes)})
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, index_path.parent.parent, *map(str, limits)],
        cwd=Path(__file__).parent.parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(limits)
    for line in lines:
        assert "`ulimit -f unlimited`" in line, line
    assert files_below(index_path) == before


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", "a b", "a.part", "", "x\n", "/tmp/x"])
def test_names_that_are_no_names_are_refused(index_path, name):
    with pytest.raises(InputError, match="--name"):
        build_index(Store.open(index_path.parent.parent), SPEC, device=CPU, name=name)


def test_an_index_is_not_named_after_another_layer(tmp_path):
    store = make_store(tmp_path / "s", {"a": np.ones((3, 2)), "b": np.ones((3, 2))})
    with pytest.raises(InputError, match=r"^--name a: is a layer of this store, the index is of b"):
        build_index(store, IndexSpec(layer="b"), device=CPU, name="a")
    assert not (store.path / "indices" / "a").exists()
    assert build_index(store, IndexSpec(layer="b"), device=CPU, name="b").path.name == "b"


def test_unknown_layers_and_empty_stores_are_refused(index_path, tmp_path):
    with pytest.raises(InputError, match="this store has fc7"):
        build_index(Store.open(index_path.parent.parent), IndexSpec(layer="fc6"), device=CPU)
    with pytest.raises(InputError, match="the store is empty"):
        build_index(make_store(tmp_path / "empty", {"fc7": np.empty((0, 4), np.float32)}), SPEC, device=CPU)


def test_more_lists_than_the_sample_can_teach_are_refused(tmp_path):
    store = make_store(tmp_path / "store", {"fc7": clustered(1200, 32, seed=5)})
    with pytest.raises(EngineError, match=r"--training-rows 3: expected at least \d+, one a list"):
        build_index(store, IndexSpec(layer="fc7", training_rows=3), device=CPU)
    assert not (store.path / "indices" / "fc7").exists()


# Any content ------------------------------------------------------------------------------------------------------


def stores() -> dict[str, Array]:
    random = np.random.default_rng(2)
    rows = random.standard_normal((1100, 24)).astype(np.float32)
    outlier = rows.copy()
    outlier[3], outlier[700] = 3e38, -1e30
    sizes = np.float32(10) ** random.integers(-30, 30, (1100, 1)).astype(np.float32)
    return {
        "1 row": rows[:1], "2 rows": rows[:2], "3 rows": rows[:3], "15 rows": rows[:15], "16 rows": rows[:16],
        "40 rows": rows[:40], "999 rows": rows[:999], "1000 rows": rows[:1000], "1001 rows": rows[:1001],
        "one dimension": rows[:, :1].copy(), "seven": rows[:, :7].copy(), "eight": rows[:, :8].copy(),
        "nine": rows[:, :9].copy(),
        "equal rows": np.repeat(rows[:1], 1100, axis=0), "zero rows": np.zeros((1100, 24), np.float32),
        "constant rows": np.repeat(random.random((1100, 1), np.float32), 24, axis=1),
        "one constant": np.ones((1100, 24), np.float32), "mostly zero rows": np.where(rows[:, :1] > 1, rows, 0),
        "negative": -np.abs(rows), "integers": random.integers(0, 3, (1100, 24)).astype(np.float32),
        "few values": (rows > 1).astype(np.float32),
        "1e38": np.clip(rows, -3, 3) * np.float32(1e38), "1e25": rows * np.float32(1e25),
        "1e15": rows * np.float32(1e15), "1e-30": rows * np.float32(1e-30), "denormal": rows * np.float32(1e-40),
        "outliers": outlier, "all sizes": rows * sizes,
    }  # fmt: skip


CONTENTS = stores()


@pytest.mark.filterwarnings("error:invalid value:RuntimeWarning", "error:overflow:RuntimeWarning")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CONTENTS)
def test_any_store_gets_an_index_that_answers(tmp_path, case, metric):
    """Also where lists are asked for although there are few rows; no NaN, no row twice, and what exact search finds."""
    data = CONTENTS[case]
    store = make_store(tmp_path / "store", {"fc7": data})
    asked = np.asarray(data[:8])
    true = np.array([np.sort(oracle_scores(row, data, metric))[::-1][:5] for row in asked])
    path = build_index(store, IndexSpec.model_validate({"layer": "fc7", "metric": metric}), device=CPU).path
    index = Index.open(path, device=CPU)
    found = index.search(asked, SearchSpec(k=5, probes=64, rerank=max(min(len(data), 800), 5)))
    n = min(len(data), 5)
    assert not np.isnan(found.scores).any()
    assert (found.photo_ids[:, :n] >= 0).all() and (found.photo_ids[:, n:] == -1).all()
    assert (found.scores[:, 1:n] <= found.scores[:, : n - 1]).all()
    assert all(len(set(ids[:n].tolist())) == n for ids in found.photo_ids)
    saturated = np.abs(true).max() > 3e38  # float32 scores cannot tell such rows apart
    tiny = np.abs(true).max() < 1e-37
    if not saturated and not tiny:
        with np.errstate(over="ignore"):
            assert recall(found.scores[:, :n], true[:, :n], tolerance=1e-5) >= 0.9


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [1, 15, 16, 40, 300, 999])
def test_lists_that_are_asked_for_in_small_stores(tmp_path, rows, metric):
    """Quantizers need 16 rows; with fewer it is an error in words."""
    data = clustered(rows, 24, seed=8)
    store = make_store(tmp_path / "store", {"fc7": data})
    spec = IndexSpec.model_validate({"layer": "fc7", "metric": metric, "lists": 4})
    if rows < 16:
        with pytest.raises(EngineError, match="FAISS could not train"):
            build_index(store, spec, device=CPU)
        return
    index = Index.open(build_index(store, spec, device=CPU).path, device=CPU)
    assert index.shards
    found = index.search(data[:5], SearchSpec(k=3, probes=4, rerank=max(rows - 1, 3)))
    true = np.array([np.sort(oracle_scores(row, data, metric))[::-1][:3] for row in data[:5]])
    assert recall(found.scores, true) >= 0.9


def test_blocks_of_rows_have_no_seams(tmp_path, monkeypatch):
    """Rows, codes and sketches in step, whatever the size of a block: each row finds itself through each stage."""
    data = clustered(1200, 32, seed=5)
    expected = None
    for block in (4096, 97, 599, 600, 601):
        monkeypatch.setattr(build_module, "BLOCK_ROWS", block)
        store = make_store(tmp_path / str(block), {"fc7": data})
        path = build_index(store, SPEC, device=CPU).path
        sums = {name: digest for name, digest in files_below(path).items() if name != "index.json"}
        sketch = np.load(path / "sketch.npy")
        assert sketch.any(axis=1).all()
        expected = expected or sums
        assert {n: s for n, s in sums.items() if "refine" in n} == {n: s for n, s in expected.items() if "refine" in n}
        found = Index.open(path, device=CPU).search(data, SearchSpec(k=1))
        assert (found.photo_ids[:, 0] == store.photo_ids).mean() > 0.995
