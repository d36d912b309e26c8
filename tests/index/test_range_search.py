"""Range search: all that score enough, against the textbook."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.index import range_search as module
from engine.index.build import build_index
from engine.index.filter import Filter
from engine.index.queries import photo_questions
from engine.index.range_search import range_search
from engine.index.result import SearchResult
from engine.index.search import Index
from engine.index.searcher import Searcher
from engine.index.spec import IndexSpec, SearchSpec
from kernels import load
from tests.builders import CPU, clustered, make_store, oracle_scores


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 50), st.integers(1, 5), st.integers(1, 4))
def test_each_query_gets_just_what_scores_enough_in_order(enough, most, first, wider):
    """Query i has enough[i] photos that score 1, and 50 in all."""

    def search(at, k):
        scores = np.array([[1.0 if j < enough[i] else 0.5 for j in range(k)] for i in at], np.float32)
        return SearchResult(photo_ids=np.tile(np.arange(k), (len(at), 1)) + 1000 * at[:, None], scores=scores)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FIRST", first)
        patch.setattr(module, "WIDER", wider + 1)
        patch.setattr(module, "BLOCK", 7)
        seen: list[list[int]] = []
        for start, result in range_search(search, len(enough), 0.9, most):
            for i, ids in enumerate(result.photo_ids):
                assert start + i == len(seen)
                assert ((ids >= 0) == np.isfinite(result.scores[i])).all()
                seen.append(ids[ids >= 0].tolist())
    assert seen == [[1000 * i + j for j in range(min(count, most))] for i, count in enumerate(enough)]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_all_photos_above_a_score_are_found(tmp_path, metric, exact):
    data = clustered(3000, 24, seed=3)
    store = make_store(tmp_path / "store", {"fc7": data})
    folder = build_index(store, IndexSpec(layer="fc7", metric=metric), device=CPU).path
    through = Searcher.of_index(Index.open(folder, device=CPU))
    searcher = Searcher.exact(store, "fc7", folder, load("cpu")) if exact else through
    rows = np.arange(0, 3000, 150)
    truth = np.array([oracle_scores(data[row], data, metric) for row in rows])
    least = float(np.quantile(truth, 0.97))
    among = Filter.of_ids(store, without=store.photo_ids[::7])
    asked = [photo_questions(store, "fc7", store.photo_ids[rows])]
    answers = searcher.answer(asked, SearchSpec(k=3000), exclude_self=False, within=among, min_score=least)
    found = [ids[ids >= 0] for answer in answers for ids in answer.result.photo_ids]
    wanted = [store.photo_ids[(scores >= least) & among.mask] for scores in truth]
    assert len(found) == len(rows) and max(map(len, wanted)) > 40
    missing = sum(len(np.setdiff1d(w, f)) for w, f in zip(wanted, found, strict=True))
    extra = sum(len(np.setdiff1d(f, w)) for w, f in zip(wanted, found, strict=True))
    total = sum(map(len, wanted))
    assert missing <= (0 if exact else 0.02 * total) and extra == 0
