"""A whole index on a pretended GPU: the answers of the CPU, wherever queries and answers lie."""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from engine.errors import DeviceError, InputError
from engine.index import search as search_module
from engine.index.build import build_index
from engine.index.filter import Filter
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.store import Store
from tests.builders import make_store
from tests.index.fake_gpu import MIB
from tests.index.gpu_shards import CPU, cuda, machine_of
from tests.kernels import emulated

DIM, ROWS = 48, 1500


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, DIM))[rng.integers(0, 60, ROWS)] * 2 + rng.standard_normal((ROWS, DIM))
    store = make_store(tmp_path_factory.mktemp("gpu") / "store", {"x": rows.astype(np.float32)})
    for metric in ("cosine", "l2", "ip"):
        spec = IndexSpec.model_validate(
            {"layer": "x", "metric": metric, "reduced": 16, "lists": 20, "pq_m": 8, "pq_bits": 8, "refine": "uint8",
             "rows_per_shard": 1000}
        )  # fmt: skip
        build_index(store, spec, device=CPU, name=metric)
    return store


class Event:
    """Of any stream; nothing here takes time."""

    def __init__(self, **_: bool) -> None:
        self.of = "nobody"

    def record(self, stream: Any = None) -> None:
        self.of = getattr(stream, "name", "nobody")

    def synchronize(self) -> None: ...


def complete(one: Any, other: Any) -> None:
    """What the kernels need of CuPy, and the stand-in that FAISS's side has does not offer."""
    for name, value in vars(other).items():
        if not hasattr(one, name):
            setattr(one, name, value)
        elif isinstance(value, types.SimpleNamespace):
            complete(getattr(one, name), value)


@contextmanager
def opened(
    store: Store, metric: str, monkeypatch: pytest.MonkeyPatch, memory: int = 256 * MIB, **options: Any
) -> Iterator[tuple[Index, Any]]:
    """The index on a pretended GPU, and the machine."""
    with machine_of(monkeypatch, memory=memory) as machine, monkeypatch.context() as patch:
        complete(machine.cupy.cuda, emulated.Cupy().cuda)
        machine.cupy.cuda.Event = Event
        patch.setattr(emulated, "Cupy", lambda: machine.cupy)
        patch.setattr(emulated.DeviceArray, "__cuda_array_interface__", property(lambda _: {}), raising=False)
        kernels = emulated.load()
        patch.setattr(search_module, "load", lambda _: kernels)
        index = Index.open(store.path / "indices" / metric, device=cuda(**options), store=store)
        yield index, machine
        index.shards.clear()


def on_cpu(store: Store, metric: str) -> Index:
    return Index.open(store.path / "indices" / metric, device=CPU, store=store)


def same(found: Any, wanted: Any) -> None:
    """Ties and the last bit aside."""
    assert (np.asarray(found.photo_ids) == wanted.photo_ids).mean() > 0.98
    np.testing.assert_allclose(np.asarray(found.scores), wanted.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("library", ["faiss", "cuvs"])
def test_the_answers_of_the_cpu(store, metric, library, monkeypatch):
    queries, spec = np.asarray(store.layer("x")[::40]) * np.float32(1.1), SearchSpec(k=7, probes=8, rerank=60)
    wanted = on_cpu(store, metric).search(queries, spec)
    with opened(store, metric, monkeypatch, library=library) as (index, machine):
        found = index.search(queries, spec)
        assert isinstance(found.photo_ids, np.ndarray) and not isinstance(found.photo_ids, machine.cupy.ndarray)
        same(found, wanted)


def test_queries_on_the_gpu_are_answered_there(store, monkeypatch):
    queries, spec = np.asarray(store.layer("x")[::40]), SearchSpec(k=7, probes=8, rerank=60)
    exclude = store.photo_ids[::40]
    wanted = on_cpu(store, "cosine").search(queries, spec, exclude=exclude)
    with opened(store, "cosine", monkeypatch) as (index, machine):
        asked = machine.cupy.asarray(queries)
        found = index.search(asked, spec, exclude=exclude)
        assert [type(part) for part in (found.photo_ids, found.scores)] == [machine.cupy.ndarray] * 2
        same(found, wanted)
        every = index.search(asked, SearchSpec(k=7, recall=1.0), exclude=exclude)  # by exact search
        assert all(isinstance(part, machine.cupy.ndarray) for part in (every.photo_ids, every.scores))
        with pytest.raises(InputError, match="expected \\(n, 48\\)"):
            index.search(asked[:, :5])
        asked[3, 2] = np.nan
        with pytest.raises(InputError, match="NaN"):
            index.search(asked)
        with pytest.raises(InputError, match="an index on the CPU"):
            on_cpu(store, "cosine").search(asked, spec)


@pytest.mark.parametrize("library", ["faiss", "cuvs"])
@pytest.mark.parametrize("left", [5, 150, 1000])
def test_a_filter_is_kept(store, library, left, monkeypatch):
    chosen = np.random.default_rng(left).choice(store.photo_ids, left, replace=False)
    within = Filter.of_ids(store, within=chosen)
    queries, spec = np.asarray(store.layer("x")[::60]), SearchSpec(k=7)
    wanted = on_cpu(store, "cosine").search(queries, SearchSpec(k=7, recall=1.0), within=within)
    with opened(store, "cosine", monkeypatch, library=library) as (index, _):
        found = index.search(queries, spec, within=within)
    assert np.isin(found.photo_ids[found.photo_ids >= 0], chosen).all()
    assert ((found.photo_ids >= 0).sum(axis=1) == min(left, 7)).all()
    least = np.where(wanted.photo_ids >= 0, wanted.scores, -np.inf)[:, min(left, 7) - 1 : min(left, 7)] - 1e-5
    assert (found.scores[:, : min(left, 7)] >= least).mean() > 0.95


def test_raw_rows_are_brought_for_many_queries_alone(store, monkeypatch):
    monkeypatch.setattr(search_module, "BRING_ROWS", 20)
    rows = np.asarray(store.layer("x")[:30])
    with opened(store, "cosine", monkeypatch) as (index, machine):
        few = index.search(rows[:10], SearchSpec(k=3, probes=8))
        assert isinstance(index._raw(10).values, np.memmap)
        many = index.search(rows, SearchSpec(k=3, probes=8))
        assert isinstance(index._raw(1).values, machine.cupy.ndarray)  # where they are, they are used
        np.testing.assert_array_equal(few.photo_ids, many.photo_ids[:10])


def test_more_lists_where_one_holds_too_few(store, monkeypatch):
    queries, spec = np.asarray(store.layer("x")[:9]), SearchSpec(k=300)
    wanted = on_cpu(store, "l2").search(queries, spec)
    with opened(store, "l2", monkeypatch) as (index, _):
        found = index.search(queries, spec)
    assert (found.photo_ids >= 0).all() and (wanted.photo_ids >= 0).all()


def test_a_gpu_that_fails_during_a_search_is_one_line(store, monkeypatch):
    with opened(store, "cosine", monkeypatch) as (index, machine):

        def full(*_: Any) -> Any:
            raise machine.cupy.cuda.memory.OutOfMemoryError(10, 20, 30)

        monkeypatch.setattr(type(index.reduction), "apply", full)
        with pytest.raises(DeviceError, match="--gpu-memory"):
            index.search(np.asarray(store.layer("x")[:3]))
