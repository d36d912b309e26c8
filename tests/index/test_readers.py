"""Many readers: threads on one index, processes on one store, and a build that replaces what they read."""

import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.errors import IndexUnusableError
from engine.index import build as build_module
from engine.index import opening
from engine.index import search as search_module
from engine.index.build import build_index
from engine.index.filter import Filter
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.store import Store
from tests.builders import CPU
from tests.index.removal import mark_removed

SPECS = [SearchSpec(k=10), SearchSpec(k=3, probes=4), SearchSpec(k=10, probes=64, rerank=3000)]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_threads_on_one_index_answer_as_one_does(indices, metric):
    index = indices[metric]
    queries = np.asarray(index.store.fc7[::10])
    filters = [None, Filter.of_ids(index.store, within=index.store.photo_ids[::3])]
    jobs = [(part, spec, within) for part in np.array_split(queries, 6) for spec in SPECS for within in filters]
    alone = [index.search(part, spec, within=within) for part, spec, within in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            beside = list(pool.map(lambda job: index.search(job[0], job[1], within=job[2]), jobs))
            for one, other in zip(alone, beside, strict=True):
                np.testing.assert_array_equal(one.photo_ids, other.photo_ids)
                np.testing.assert_array_equal(one.scores, other.scores)


READER = """
import sys
import numpy as np
from engine.index.search import Index
from engine.index.spec import SearchSpec
index = Index.open(sys.argv[1], device="cpu")
found = [index.search(np.asarray(index.store.fc7[::30]), SearchSpec(k=5)).photo_ids for _ in range(3)]
assert all((one == found[0]).all() for one in found)
print(found[0].sum())
"""


def test_processes_on_one_store_answer_alike(indices):
    index = indices["cosine"]
    expected = index.search(np.asarray(index.store.fc7[::30]), SearchSpec(k=5)).photo_ids.sum()
    words = [sys.executable, "-c", READER, str(index.path)]
    readers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [reader.communicate()[0].strip() for reader in readers] == [str(expected)] * 3


@pytest.fixture
def path(photos, tmp_path):
    """An index of its own in a copy of the store."""
    shutil.copytree(photos.path, tmp_path / "store", ignore=shutil.ignore_patterns("indices"))
    return build_index(Store.open(tmp_path / "store"), IndexSpec(layer="fc7", lists=32), device=CPU).path


def test_who_has_an_index_open_goes_on_with_it_when_another_takes_its_place(path):
    index = Index.open(path, device=CPU)
    queries = np.asarray(index.store.fc7[::50])
    before = index.search(queries)
    build_index(index.store, IndexSpec(layer="fc7", metric="l2", refine="float16"), device=CPU)
    after = index.search(queries)
    np.testing.assert_array_equal(before.photo_ids, after.photo_ids)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert Index.open(path, device=CPU).manifest.spec.metric == "l2"


def test_an_index_can_be_opened_at_any_time_of_its_replacement(path):
    """Two indices of unlike files take turns; whoever opens one finds one of them, whole."""
    other = build_index(
        Store.open(path.parent.parent), IndexSpec(layer="fc7", metric="l2"), device=CPU, name="other"
    ).path
    copies, stop, opened, failed = path.parent.parent / "copies", threading.Event(), [], []

    def replace() -> None:
        number = 0
        while not stop.is_set():
            copy = copies / f"{number}.part"
            shutil.copytree(sources[number % 2], copy)
            build_module.swap(copy, path)
            number += 1
            time.sleep(0.02)  # sooner than any build could put the next in its place

    sources = [copies / "first", copies / "second"]
    shutil.copytree(path, sources[0])
    shutil.copytree(other, sources[1])
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(60):
            try:
                index = Index.open(path, device=CPU)
                first = index.search(np.asarray(index.store.fc7[7]), SearchSpec(k=1)).photo_ids[0, 0]
                opened.append((index.manifest.spec.metric, first == index.store.photo_ids[7]))
            except Exception as error:
                failed.append(str(error))
    finally:
        stop.set()
        writer.join()
    # On a busy machine a thread may sleep through several replacements, and says so; nothing else may happen.
    assert all("was replaced at every look" in message for message in failed) and len(opened) > 20
    assert set(opened) == {("cosine", True), ("l2", True)}


def test_an_index_that_is_replaced_while_it_is_opened_is_opened_again(path, monkeypatch):
    """The second half of the files would be those of the other index: all are opened again."""
    store = Store.open(path.parent.parent)
    check = opening.check_parts
    done: list[bool] = []

    def slow(folder, manifest):
        check(folder, manifest)
        if not done:
            done.append(True)
            build_index(store, IndexSpec(layer="fc7", metric="l2", seed=3), device=CPU)

    monkeypatch.setattr(search_module, "check_parts", slow)
    assert Index.open(path, device=CPU).manifest.spec.metric == "l2"


def test_an_index_that_never_stays_is_said(path, monkeypatch):
    numbers = iter(range(1000))
    monkeypatch.setattr(search_module, "which", lambda _: (next(numbers),))
    with pytest.raises(IndexUnusableError, match="was replaced at every look"):
        Index.open(path, device=CPU)


def test_removed_photos_are_gone_for_who_opens_the_index_again(path):
    index = Index.open(path, device=CPU)
    query = np.asarray(index.store.fc7[7])
    first = index.search(query).photo_ids[0, 0]
    assert first == index.store.photo_ids[7]
    mark_removed(index.store, [7])
    assert index.search(query).photo_ids[0, 0] == first  # the state that it opened
    assert first not in Index.open(path, device=CPU).search(query).photo_ids
