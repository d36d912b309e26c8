"""Edited copies: where they lie, what they are made from, and that nothing else changes."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EngineError, InputError
from engine.store import dat, synth_edits
from engine.store.synth import describe, features, synthesize
from engine.store.synth_copies import ALTERED, cosine
from engine.store.synth_edits import EACH, EDIT_KINDS, EDITS, FIRST, add_edits, all_edited_copies, edited_copies
from engine.store.synth_model import make_block
from tests.store.test_synth import digests, truth

PHOTOS = 1100


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """1,100 photos with edited copies, and the digests of the files before."""
    directory = tmp_path_factory.mktemp("edits") / "photos"
    synthesize(directory, photos=PHOTOS, seed=5, workers=1)
    before, lines = digests(directory), truth(directory)
    return directory, before, lines, add_edits(directory)


def test_files_are_added_and_none_changes(collection):
    directory, before, lines, report = collection
    after = digests(directory)
    added = set(after) - set(before)
    assert {name for name in before if after[name] != before[name]} == {"truth.jsonl", "synth.json"}
    assert truth(directory)[: len(lines)] == lines
    edited = truth(directory)[len(lines) :]
    assert added == {f"features/{dat.relative_path(pair['photo_id'])}" for pair in edited}
    assert report.bytes == sum((directory / name).stat().st_size for name in added) == len(edited) * dat.RECORD_BYTES
    assert report.pairs == {kind: sum(pair["kind"] == kind for pair in edited) for kind in EDIT_KINDS}
    assert (describe(directory) or {})["edits"] == synth_edits.EDITS_VERSION


def test_files_hold_what_the_truth_says(collection):
    directory, _, lines, _ = collection
    for pair in truth(directory)[len(lines) :][::7]:
        record = dat.examine(directory / "features" / dat.relative_path(pair["photo_id"]))[1]
        fc7, fc8 = features(pair["of"], 1, seed=5)
        assert record is not None and pair["photo_id"] == FIRST + pair["of"]
        assert cosine(fc7, record["fc7"][None])[0] == pytest.approx(pair["fc7_cosine"], abs=1e-6)
        assert cosine(fc8, record["fc8"][None])[0] == pytest.approx(pair["fc8_cosine"], abs=1e-6)


def test_angles_are_those_of_the_kind_and_reach_among_bursts():
    found = {kind: list[float]() for kind in EDIT_KINDS}
    for copies in all_edited_copies(0, 3000):
        for pair in copies.pairs:
            found[pair.kind].append(np.degrees(np.arccos(pair.fc7_cosine)))
    assert all(len(angles) == 3 * EACH for angles in found.values())
    for edit in EDITS:
        assert min(found[edit.name]) >= edit.least - 0.5 and max(found[edit.name]) <= edit.most + 0.5
    burst = np.degrees(np.arccos([ALTERED[-1].high, ALTERED[-1].low]))
    among = {kind: np.mean([burst[0] < angle < burst[1] for angle in angles]) for kind, angles in found.items()}
    assert among["recompressed"] == 0 and among["overlaid"] > 0.5 and among["cropped"] > 0.5


def test_copies_look_like_features():
    copies = edited_copies(0, 0, 1000)
    assert copies.fc7.dtype == copies.fc8.dtype == np.float32 and (copies.fc7 >= 0).all()
    block = make_block(0, 0)
    assert (copies.fc7 == 0).mean() == pytest.approx((block.fc7 == 0).mean(), abs=0.03)
    norms, usual = np.linalg.norm(copies.fc7, axis=1), np.linalg.norm(block.fc7, axis=1)
    assert np.median(norms) == pytest.approx(np.median(usual), rel=0.15)


def test_a_copy_depends_on_its_photo_alone():
    whole, cut = edited_copies(5, 1, 2000), edited_copies(5, 1, 1400)
    assert 0 < len(cut.photo_ids) < len(whole.photo_ids) and (cut.photo_ids < FIRST + 1400).all()
    np.testing.assert_array_equal(cut.photo_ids, whole.photo_ids[: len(cut.photo_ids)])
    np.testing.assert_array_equal(cut.fc7, whole.fc7[: len(cut.photo_ids)])
    np.testing.assert_array_equal(cut.fc8, whole.fc8[: len(cut.photo_ids)])
    assert cut.pairs == whole.pairs[: len(cut.pairs)]


def test_only_photos_without_a_planted_pair_are_copied():
    block, copies = make_block(0, 2), edited_copies(0, 2, 3000)
    planted = {photo for pair in block.pairs for photo in (pair.photo_id, pair.of)}
    sources = [pair.of for pair in copies.pairs]
    assert len(set(sources)) == len(sources) == EACH * len(EDITS) and not planted & set(sources)
    assert copies.photo_ids.tolist() == [FIRST + source for source in sources] == sorted(copies.photo_ids.tolist())


def test_what_is_unfinished_or_edited_is_refused(collection, tmp_path):
    with pytest.raises(InputError, match="no finished sample collection"):
        add_edits(tmp_path)
    with pytest.raises(InputError, match="edited copies already"):
        add_edits(collection[0])


def test_an_interrupted_one_is_unfinished_and_is_written_again(tmp_path, monkeypatch):
    directory = tmp_path / "photos"
    synthesize(directory, photos=300, seed=5, workers=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "10000001.dat")

    with monkeypatch.context() as patched:
        patched.setattr(dat, "write_dat", full)
        with pytest.raises(EngineError, match="unfinished; run again"):
            add_edits(directory)
    assert describe(directory) is None
    synthesize(directory, photos=300, seed=5, workers=1)
    add_edits(directory)
    assert json.loads((directory / "synth.json").read_text())["edits"] == synth_edits.EDITS_VERSION
    assert len(list(Path(directory / "features" / "1000").iterdir())) == len(
        [pair for pair in truth(directory) if pair["kind"] in EDIT_KINDS]
    )
