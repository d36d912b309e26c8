import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.store import dat, synth
from engine.store.annotations.flickr import parse
from engine.store.annotations.published import PUBLISHED
from engine.store.synth_annotations import ANNOTATIONS_VERSION, METHODS, documents
from engine.store.synth_facts import GONE, STRATUM, draw_facts
from engine.store.synth_model import BLOCK, VERSION, draw_subjects, make_block, network
from engine.store.synth_world import FIELDS, OWNERS_OF_A_TOPIC, cleaned, world

BLOCKS = 4
COLUMN = {"geo": "latitude"}  # of the table, where it is called otherwise


@pytest.fixture(scope="module")
def sample() -> SimpleNamespace:
    """4,000 photos: their rows of fc7, the documents, what the reader makes of them, the planted pairs."""
    blocks = [make_block(3, number) for number in range(BLOCKS)]
    texts = [text for number in range(BLOCKS) for text in documents(3, number)]
    return SimpleNamespace(
        fc7=np.concatenate([block.fc7 for block in blocks]),
        pairs=[pair for block in blocks for pair in block.pairs],
        texts=texts,
        documents=[json.loads(text) for text in texts],
        read=[parse(text) for text in texts],
    )


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_files_lie_beside_the_features_and_change_none_of_them(tmp_path):
    plain, report = tmp_path / "plain", tmp_path / "annotated"
    synth.synthesize(plain, photos=1010, seed=3, images=True, workers=1)
    made = synth.synthesize(report, photos=1010, seed=3, images=True, annotations=True, workers=2)
    without, found = files(plain), files(report)
    marker = json.loads(found.pop("synth.json"))
    assert json.loads(without.pop("synth.json")) | {"annotations": ANNOTATIONS_VERSION} == marker
    texts = {name: found.pop(name) for name in list(found) if name.startswith("annotations/")}
    assert found == without
    expected = [*documents(3, 0), *documents(3, 1, 10)]
    assert texts == {f"annotations/0/{photo}.json": text for photo, text in enumerate(expected)}
    assert made.annotations and made.bytes == sum(map(len, (*found.values(), *texts.values()))) - len(
        found["truth.jsonl"]
    )


def test_folders_hold_ten_thousand_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(dat, "PHOTOS_PER_FOLDER", 1000)
    synth.synthesize(tmp_path / "photos", photos=1001, seed=1, annotations=True, workers=1)
    assert [path.name for path in (tmp_path / "photos/annotations/1").iterdir()] == ["1000.json"]


def test_a_collection_with_annotations_is_another(tmp_path):
    synth.synthesize(tmp_path, photos=12, seed=1, annotations=True)
    assert synth.describe(tmp_path) == {
        "photos": 12, "seed": 1, "images": False, "version": VERSION, "annotations": ANNOTATIONS_VERSION
    }  # fmt: skip
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"12 photos, seed 1, with annotations; asked for: 12 photos, seed 1\)"):
        synth.synthesize(tmp_path, photos=12, seed=1)
    assert files(tmp_path) == before
    (tmp_path / "annotations" / "0" / "13.json").write_text("{}")
    synth.synthesize(tmp_path, photos=12, seed=1, annotations=True)
    assert files(tmp_path) == before


def test_room_for_annotations_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(InputError, match=r"1,000 photos of 26\.6 MB in all"):
        synth.synthesize(tmp_path / "photos", photos=1000, annotations=True)


def test_a_photo_depends_on_the_seed_and_itself_alone(sample):
    assert documents(3, 2, 7) == sample.texts[2000:2007]
    assert documents(4, 2, 7) != sample.texts[2000:2007]


def test_subjects_are_those_that_the_features_are_made_of():
    block, subjects = make_block(3, 1), draw_subjects(3, 1)
    np.testing.assert_array_equal(block.kind, subjects.kind)
    copies = np.flatnonzero(subjects.of != np.arange(BLOCK))
    planted = {(pair.of - block.start, pair.photo_id - block.start) for pair in block.pairs}
    np.testing.assert_array_equal(copies, np.flatnonzero(subjects.kind >= 0))
    assert {(of, row) for of, row in zip(subjects.of[copies].tolist(), copies.tolist(), strict=True)} <= planted
    # A photo lies nearer to its own cluster's centre than to those of others, most of the time.
    centres = network(3).centres[subjects.main]
    unit = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    latent = block.latent / np.linalg.norm(block.latent, axis=1, keepdims=True)
    cosines = latent @ unit.T
    own = cosines[np.arange(BLOCK), np.arange(BLOCK)]
    assert np.median((cosines > own[:, None] + 1e-6).mean(axis=1)) < 0.01


@pytest.mark.parametrize("photos", [1000, 2750, 4000])
def test_coverage_is_the_published_one(sample, photos):
    counted = Counter(name for read in sample.read[:photos] for name in FIELDS if read.get(COLUMN.get(name, name)))
    for name in FIELDS:
        assert abs(counted[name] / photos - PUBLISHED[name] / 1e6) < 0.002, name


def test_coverage_stays_exact_up_to_a_million():
    planted = sum((draw_facts(0, number).has.sum(axis=0) for number in (0, 499, 999)), np.zeros(9, np.int64))
    np.testing.assert_allclose(planted, [3000 * PUBLISHED[name] / 1e6 for name in FIELDS], atol=3)
    each = 1_000_000 // STRATUM  # the strata's counts, telescoped: all of them add up to the published number
    assert all(sum((s + 1) * n // each - s * n // each for s in range(each)) == n for n in PUBLISHED.values())


def test_photos_that_are_gone_say_so(sample):
    gone = [document for document in sample.documents if document[METHODS["info"]]["stat"] == "fail"]
    assert len(gone) == BLOCKS * BLOCK * GONE // STRATUM
    assert all(set(document) == set(METHODS.values()) for document in sample.documents)
    assert all(part == {"stat": "fail", "code": 1, "message": "Photo not found"} for part in gone[0].values())


def test_a_document_is_of_the_size_of_flickr_s(sample):
    sizes = [len(text) for text in sample.texts]
    assert 2000 < np.mean(sizes) < 4000
    assert max(sizes) < 16_000


def test_the_reader_understands_all_of_it(sample):
    for document, read in zip(sample.documents, sample.read, strict=True):
        info = document[METHODS["info"]].get("photo")
        if info is None:
            assert not read.get("title")
            continue
        tags = info["tags"]["tag"]
        assert [tag["_content"] for tag in tags if not tag["machine_tag"]] == (read.get("tags") or [])
        assert len(read["machine_tags"] or []) == sum(tag["machine_tag"] for tag in tags)
        assert all(tag["machine_tag"] or cleaned(tag["raw"]) == tag["_content"] for tag in tags)
        assert str(read["licence_id"]) == info["license"] in "123456"
        assert (read["owner"], read["views"]) == (info["owner"]["nsid"], int(info["views"]))
        assert read["favorites"] == int(info["count_faves"])
        assert "&amp;" not in (read.get("title") or "")
        if "location" in info:
            assert -90 <= read["latitude"] <= 90 and -180 <= read["longitude"] <= 180
        if read.get("exif"):
            assert read["exif_taken"] == read["taken"] and read["camera"] and 0 < read["exposure"] <= 2
        assert read["taken"] <= read["posted"].replace(tzinfo=None)
        assert all(comment["posted"] > read["posted"] for comment in read.get("comments") or [])


def overlap(sample: SimpleNamespace, field: Any, rows: Any, others: Any) -> float:
    """The share of pairs (rows[i], others[i, j]) that have something of a field in common."""
    sets = [field(read) for read in sample.read]
    return float(np.mean([bool(sets[a] & sets[b]) for a, many in zip(rows, others, strict=True) for b in many]))


def test_neighbours_share_tags_and_groups_far_more_than_others(sample):
    copies = {photo for pair in sample.pairs for photo in (pair.photo_id, pair.of)}
    rows = [row for row in range(800) if row not in copies and sample.read[row].get("tags")]
    unit = sample.fc7 / np.linalg.norm(sample.fc7, axis=1, keepdims=True)
    cosines = unit[rows] @ unit.T
    cosines[np.arange(len(rows)), rows] = -2
    near = np.argsort(-cosines, axis=1)[:, :5]
    chance = np.random.default_rng(0).integers(0, len(unit), (len(rows), 20))
    fields = {
        "tags": lambda read: set(read.get("tags") or []),
        "groups": lambda read: {group["id"] for group in read.get("groups") or []},
    }
    for name, least in (("tags", 3), ("groups", 3)):
        assert overlap(sample, fields[name], rows, near) > least * overlap(sample, fields[name], rows, chance), name


def test_bursts_are_of_one_owner_within_minutes_and_metres(sample):
    compared = 0
    for pair in sample.pairs:
        one, other = sample.read[pair.of], sample.read[pair.photo_id]
        if pair.kind != "burst" or "owner" not in one or "owner" not in other:
            continue
        compared += 1
        assert one["owner"] == other["owner"]
        assert 0 < (other["taken"] - one["taken"]).total_seconds() < 180
        assert 0 < (other["posted"] - one["posted"]).total_seconds() < 600
        if one.get("latitude") and other.get("latitude"):
            assert abs(one["latitude"] - other["latitude"]) < 0.002
        if one.get("albums") and other.get("albums"):
            assert one["albums"] == other["albums"]
        if one.get("tags") and other.get("tags"):
            assert set(other["tags"]) <= set(one["tags"])
    assert compared > 100


def test_half_of_the_copies_are_their_owner_s(sample):
    same = [
        sample.read[pair.of]["owner"] == sample.read[pair.photo_id]["owner"]
        for pair in sample.pairs
        if pair.kind.startswith("near") and "owner" in sample.read[pair.of] and "owner" in sample.read[pair.photo_id]
    ]
    assert 0.3 < np.mean(same) < 0.7


def test_tags_follow_zipf_and_owners_their_topics(sample):
    counts = sorted(Counter(tag for read in sample.read for tag in read.get("tags") or []).values(), reverse=True)
    assert counts[0] > 8 * counts[100] > 16 * counts[1000]
    facts = draw_facts(3, 0)
    own = facts.owner // OWNERS_OF_A_TOPIC == facts.topic
    assert 0.7 < own.mean() < 0.85
    assert set(world(3).licence[facts.owner].tolist()) == {1, 2, 3, 4, 5, 6}
