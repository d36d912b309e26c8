"""Relevance beside plain sets and loops; blocks beside pairs; what is dropped and what is left out."""

import datetime as dt
import math
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.jobs.relevance import Relevance, RelevanceSpec, open_relevance
from tests.builders import Array, make_store
from tests.jobs.annotated import annotate_store, places, planted

TAGS = [
    ["sunset", "sea"], ["Sun-Set", "beach"], ["sea", "beach", "sunset"], ["city"], None, [], ["city", "night"],
    ["alone"],
]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store", {"x": np.eye(8, dtype=np.float32)})


def matrix(relevance: Relevance) -> Array:
    """Every grade (n, n), by `grades`."""
    rows = np.arange(len(relevance.allowed))
    return relevance.grades(rows, np.tile(rows, (len(rows), 1)))


def test_tags_are_graded_by_the_share_of_the_querys_own(store):
    annotate_store(store, {"tags": TAGS})
    relevance = open_relevance(store, RelevanceSpec(source="tags"))
    assert relevance.relation.known.tolist() == [True, True, True, True, False, False, True, False]
    # Of five photos: sunset 3, sea 2, beach 2, city 2. `alone` is of one and says nothing.
    photos = 5
    idf = {"sunset": math.log1p(photos / 3), **dict.fromkeys(("sea", "beach", "city"), math.log1p(photos / 2))}
    grades = matrix(relevance)
    assert grades[0, 1] == pytest.approx(idf["sunset"] / (idf["sunset"] + idf["sea"]))
    assert grades[0, 2] == pytest.approx(1)
    assert grades[2, 0] == pytest.approx((idf["sunset"] + idf["sea"]) / (idf["sunset"] + idf["sea"] + idf["beach"]))
    assert grades[3, 6] == pytest.approx(1)
    assert not grades[3, :3].any()
    assert not grades[4].any()
    judged = relevance.judge(np.array([0, 1, 2, 3]), 2)
    assert judged.relevant.tolist() == [2, 2, 2, 1]
    np.testing.assert_allclose(judged.ideal[0], [1, grades[0, 1]])
    assert judged.ideal[3].tolist() == pytest.approx([1, 0])


def test_at_least_so_many_must_be_shared(store):
    annotate_store(store, {"tags": TAGS})
    relevance = open_relevance(store, RelevanceSpec(source="tags", min_shared=2))
    assert np.argwhere(matrix(relevance) * (1 - np.eye(8)) > 0).tolist() == [[0, 2], [1, 2], [2, 0], [2, 1]]
    assert relevance.judge(np.array([0, 3]), 5).relevant.tolist() == [1, 0]


def test_groups_and_albums_go_by_their_ids(store):
    groups = places(["g1"], ["g1", "g2"], ["g2"], [], None, ["G1"], None, None)
    annotate_store(store, {"groups": groups, "albums": places(*[["a"]] * 2, *[None] * 6)})
    assert matrix(open_relevance(store, RelevanceSpec(source="groups")))[1].tolist()[:3] == pytest.approx([0.5, 1, 0.5])
    assert matrix(open_relevance(store, RelevanceSpec(source="albums"))).sum() == pytest.approx(4)


def test_stop_tags_and_camera_tags_are_dropped(tmp_path):
    store = make_store(tmp_path / "store", {"x": np.ones((400, 2), np.float32)})
    canon = [i % 2 == 0 for i in range(400)]
    tags = [
        [
            *(["explore"] if i < 300 else []), *(["canon", "eos40d"] if canon[i] and i > 200 else []), f"topic{i % 40}",
            *(["can"] if i % 7 == 0 else []),
        ]
        for i in range(400)
    ]  # fmt: skip
    camera = ["Canon EOS 40D" if canon[i] else "NIKON D80" if i % 3 else None for i in range(400)]
    annotate_store(store, {"tags": tags, "camera": camera})
    relevance = open_relevance(store, RelevanceSpec(source="tags"))
    assert relevance.facts["stop_terms_most"] == ["explore"]
    # `can` is a part of the name in half of the cases: less than half of those whose camera is known is not enough.
    assert set(relevance.facts["camera_tags_most"]) - {"can"} == {"canon", "eos40d"}
    grades = matrix(relevance)
    assert grades[300, 302] == 0
    assert grades[1, 41] > 0


def test_geo_is_the_distance_along_the_ground(tmp_path):
    random = np.random.default_rng(2)
    n = 300
    latitude, longitude = random.uniform(-1, 1, n), random.uniform(179, 181, n)
    longitude = np.where(longitude > 180, longitude - 360, longitude)  # about the date line
    latitude[:20], longitude[:20] = random.uniform(89, 90, 20), random.uniform(-180, 180, 20)  # and the pole
    store = make_store(tmp_path / "store", {"x": np.ones((n, 2), np.float32)})
    given = [None if i % 9 == 0 else float(v) for i, v in enumerate(latitude)]
    annotate_store(store, {"latitude": given, "longitude": longitude.tolist()})
    relevance = open_relevance(store, RelevanceSpec(source="geo", radius_km=20))
    up, east = np.radians(latitude), np.radians(longitude)
    half = (
        np.sin((up[:, None] - up) / 2) ** 2 + np.cos(up)[:, None] * np.cos(up) * np.sin((east[:, None] - east) / 2) ** 2
    )
    near = 2 * 6371.0088 * np.arcsin(np.sqrt(half)) <= 20
    there = np.arange(n) % 9 > 0
    near &= there[:, None] & there
    assert 0.01 < near.mean() < 0.9
    assert np.array_equal(matrix(relevance) > 0, near)
    rows = np.flatnonzero(there)
    assert relevance.judge(rows, 1).relevant.tolist() == (near.sum(axis=1) - 1)[rows].tolist()


@pytest.mark.parametrize("source", ["tags", "combined"])
@pytest.mark.parametrize("min_shared", [None, 3])
@pytest.mark.parametrize("few_left", [0, 20, 1 << 40])
def test_blocks_and_pairs_agree_to_the_last_bit(tmp_path, source, min_shared, few_left, monkeypatch):
    monkeypatch.setattr("engine.jobs.relevance_relation.FEW_LEFT", few_left)
    store = planted(tmp_path / "store", rows=300)
    relevance = open_relevance(store, RelevanceSpec(source=source, min_shared=min_shared, threshold=0.1))
    rows = np.arange(300)
    block = relevance.relation.block(rows).toarray()
    monkeypatch.setattr("engine.jobs.relevance_relation.PAIRS", 1000)
    assert np.array_equal(block, matrix(relevance))
    assert (block > 0).sum() > 300
    monkeypatch.setattr("engine.jobs.relevance_relation.BLOCK_ENTRIES", 500)
    assert relevance.judge(rows, 3).relevant.tolist() == ((block > 0).sum(axis=1) - (np.diag(block) > 0)).tolist()


def test_what_is_written_of_a_photo_is_more_reliable_than_a_tag(tmp_path):
    """By the planted clusters: of what `combined` calls relevant more is of the same cluster than by tags."""
    store = planted(tmp_path / "store", rows=600)
    cluster = np.arange(600) % 15
    same = cluster[:, None] == cluster

    def reliable(source: Any) -> tuple[float, float]:
        grades = matrix(open_relevance(store, RelevanceSpec(source=source))) * (1 - np.eye(600))
        return same[grades > 0].mean(), (grades > 0)[same].mean()

    (tags, _), (combined, found) = reliable("tags"), reliable("combined")
    assert combined > 0.9 > tags
    assert found > 0.5


def test_the_language_model_by_hand(store):
    title = ["red boat", "red boat", "red house", None, None, None, None, None]
    annotate_store(store, {"title": title, "tags": [["harbour"], None, None, ["harbour"], None, None, None, None]})
    relevance = open_relevance(store, RelevanceSpec(source="combined", min_shared=1, threshold=0))
    # Models: of photo 0, tags weigh twice as much as the title. `house` is of one photo alone.
    models = [
        {"harbour": 2 / 3, "red": 1 / 6, "boat": 1 / 6},
        {"red": 0.5, "boat": 0.5},
        {"red": 1.0},
        {"harbour": 1.0},
    ]
    collection = {word: sum(model.get(word, 0) for model in models) / 4 for word in ("harbour", "red", "boat")}

    def likelihood(q: int, d: int) -> float:
        shared = set(models[q]) & set(models[d])
        return sum(models[q][t] * math.log(1 + models[d][t] / collection[t]) for t in shared)

    grades = matrix(relevance)
    for q in range(4):
        for d in range(4):
            assert grades[q, d] == pytest.approx(min(likelihood(q, d) / likelihood(q, q), 1)), (q, d)


def test_the_same_owner_album_and_burst_are_left_out(store):
    noon = dt.datetime(2009, 5, 1, 12)
    taken = [noon + dt.timedelta(seconds=s) for s in (0, 30, 90, 91, 0, 0, 10, 0)]
    annotate_store(store, {
        "tags": [["sea"]] * 8, "owner": ["a", "a", "a", "a", "b", "b", None, None], "taken": [*taken[:7], None],
        "albums": places(["x"], [], None, [], ["x", "y"], ["y"], None, None),
    })  # fmt: skip
    everyone = np.tile(np.arange(8), (8, 1))

    def out(*same: Any) -> list[list[int]]:
        relevance = open_relevance(store, RelevanceSpec(source="tags", exclude_same=same))
        judged = relevance.judge(np.arange(8), 10)
        banned = relevance.banned(np.arange(8), everyone) & ~np.eye(8, dtype=bool)
        assert judged.left_out.tolist() == banned.sum(axis=1).tolist()
        assert judged.relevant.tolist() == (7 - banned.sum(axis=1)).tolist()
        return [np.flatnonzero(row).tolist() for row in banned]

    assert out() == [[]] * 8
    assert out("owner") == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [5], [4], [], []]
    assert out("album") == [[4], [], [], [], [0, 5], [4], [], []]
    assert out("burst") == [[1], [0, 2], [1, 3], [2], [5], [4], [], []]
    assert out("owner", "album")[4] == [0, 5]
    assert out("burst", "album")[0] == [1, 4]


def test_removed_photos_are_not_relevant_and_labelled_ones_may_be_the_only_answers(store, tmp_path):
    from engine.store.change import remove
    from engine.store.store import Store

    annotate_store(store, {"tags": TAGS})
    relevance = open_relevance(store, RelevanceSpec(source="tags", candidates="labelled"))
    assert np.flatnonzero(relevance.allowed).tolist() == [0, 1, 2, 3, 6]
    remove(store.path, store.photo_ids[[2]])
    again = open_relevance(Store.open(store.path), RelevanceSpec(source="tags"))
    assert again.judge(np.array([0]), 3).relevant.tolist() == [1]
    assert not again.allowed[2]


def test_nothing_to_go_by_is_said(store):
    with pytest.raises(InputError, match="has no annotations"):
        open_relevance(store, RelevanceSpec(source="tags"))
    annotate_store(store, {"tags": [["one"], ["two"], None, *[[]] * 5]})
    with pytest.raises(InputError, match="no photo has annotations for tags that another has too"):
        open_relevance(store, RelevanceSpec(source="tags"))
    with pytest.raises(InputError, match="no photo has annotations for geo"):
        open_relevance(store, RelevanceSpec(source="geo"))
    with pytest.raises(ValueError, match="--labels FILE"):
        RelevanceSpec(source="labels")
