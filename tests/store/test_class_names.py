"""The classes of fc8: their order, and probabilities against SciPy's softmax."""

import hashlib

import numpy as np
import pytest
from scipy.special import softmax as scipy_softmax

from engine.errors import InputError
from engine.store.class_names import classes_of, has_classes, image_classes, most_likely, softmax
from tests.builders import make_store

# Of the lines "WordNet id, space, names" of synset_words.txt.
SYNSET_WORDS_SHA256 = "acf75ef0abe89694b19056e0796401068b459c457baa30335f240c7692857355"


def test_the_classes_are_those_of_synset_words_byte_for_byte():
    classes = image_classes()
    text = "".join(f"{one.wordnet_id} {', '.join(one.names)}\n" for one in classes)
    assert (len(classes), len(text)) == (1000, 31675)
    assert hashlib.sha256(text.encode()).hexdigest() == SYNSET_WORDS_SHA256
    ids = [one.wordnet_id for one in classes]
    assert ids == sorted(set(ids))
    assert [one.number for one in classes] == list(range(1000))


@pytest.mark.parametrize(
    ("number", "wordnet_id", "name"),
    [
        (0, "n01440764", "tench"),
        (151, "n02085620", "Chihuahua"),
        (281, "n02123045", "tabby"),
        (504, "n03063599", "coffee mug"),
        (779, "n04146614", "school bus"),
        (980, "n09472597", "volcano"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_well_known_numbers(number, wordnet_id, name):
    one = image_classes()[number]
    assert (one.number, one.wordnet_id, one.name) == (number, wordnet_id, name)


def test_the_most_likely_are_those_of_scipy():
    rows = np.random.default_rng(3).normal(0, 6, (20, 1000)).astype(np.float32)
    rows[7] += 3000  # past what exp can take
    expected = scipy_softmax(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(softmax(rows), expected, rtol=1e-9)
    for guesses, row in zip(most_likely(rows), expected, strict=True):
        numbers = [guess.image_class.number for guess in guesses]
        assert numbers == np.argsort(-row, kind="stable")[:5].tolist()
        np.testing.assert_allclose([guess.probability for guess in guesses], row[numbers], rtol=1e-9)


def test_equal_scores_are_in_order_of_the_classes():
    (guesses,) = most_likely(np.zeros(1000), 3)
    assert [(guess.image_class.number, guess.probability) for guess in guesses] == [(0, 0.001), (1, 0.001), (2, 0.001)]


def test_other_layers_have_no_classes(tmp_path):
    with pytest.raises(InputError, match="4,096 numbers are not fc8"):
        most_likely(np.zeros((1, 4096)))
    narrow = make_store(tmp_path / "narrow", {"fc8": np.zeros((3, 16), np.float32)})
    assert not has_classes(narrow)
    with pytest.raises(InputError, match="no layer fc8 of 1,000 dimensions"):
        classes_of(narrow, np.array([0]))
    rows = np.zeros((3, 1000), np.float32)
    rows[2, 340] = 9
    store = make_store(tmp_path / "store", {"fc8": rows})
    assert has_classes(store)
    assert [guesses[0].image_class.name for guesses in classes_of(store, np.array([2, 0]))] == ["zebra", "tench"]
