"""What is known about each photo of a block of the sample collection, drawn for all of them at once.

Everything follows what the photo shows: its words and groups are mostly those of its cluster, its owner is one of the
topic's, its place one of the cluster's or the owner's. A burst has one owner, one place and a few minutes; half of the
other copies are the owner's own edits. Of every hundred photos exactly the published share has a title, tags and so on.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.store import synth_words as words
from engine.store.annotations.published import PUBLISHED, PUBLISHED_PHOTOS
from engine.store.synth_copies import KINDS
from engine.store.synth_model import BLOCK, Float64, Int64, Subjects, draw_subjects, generator
from engine.store.synth_world import (
    CLUSTER_GROUPS,
    CLUSTER_PLACES,
    CLUSTER_WORDS,
    FIELDS,
    OWNERS_OF_A_TOPIC,
    WORDS,
    World,
    ranks,
    world,
)  # fmt: skip

Bool = npt.NDArray[np.bool_]
STRATUM: Final = 100  # photos among which the shares are kept, so that they hold in small collections too
GONE: Final = 5  # of a stratum: photos that Flickr did not have any more when the annotations were collected
DAY: Final = 86_400
FIRST_DAY, LAST_DAY = 1_120_000_000, 1_275_000_000  # when photos were posted: June 2005 to May 2010
OWN_TOPIC: Final = 0.75  # of the photos are by owners of their topic, the others by anyone
EDITED: Final = 0.5  # of the copies, bursts aside, are their owner's own
KEPT: Final = 0.9  # of the tags and groups of an original are given to its owner's copy too
# Where a tag comes from: topic, cluster, common words, another topic, camera, place, owner.
TAG_SOURCES: Final = (0.40, 0.23, 0.15, 0.05, 0.07, 0.08, 0.02)
GROUP_SOURCES: Final = (0.40, 0.25, 0.23, 0.06, 0.06)  # topic, cluster, general, place, camera
MEAN_TAGS, MEAN_GROUPS, MEAN_COMMENTS = 9.0, 2.4, 2.2
MOST: Final = {"tags": 40, "groups": 15, "comments": 25}
ALBUM_TOPICS, ALBUM_YEARS = 100, 200  # albums of an owner: 0.. topics, 100.. years, 200.. places


@dataclass(kw_only=True)
class Facts:
    """One block of photos, a row each. `has` is (1000, 9) of FIELDS; lists hold numbers into the lists of a World.

    `taken` and `posted` are seconds since 1970, `taken` of the camera's own clock; `picks` (1000, 12) are whole numbers
    below 2**16, for what matters little.
    """

    start: int
    of: Int64  # rows of the originals of owners' own copies; of others the row itself
    main: Int64
    topic: Int64
    owner: Int64
    place: Int64
    has: Bool
    gone: Bool
    latitude: Float64
    longitude: Float64
    taken: Int64
    posted: Int64
    views: Int64
    favourites: Int64
    picks: Int64
    tags: list[list[int]] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)
    albums: list[list[int]] = field(default_factory=list)
    comments: list[list[Any]] = field(default_factory=list)  # (author, seconds after posting, pick)


def draw_facts(seed: int, number: int) -> Facts:
    """The facts of block `number`, always the whole block."""
    shared, subjects, rng = world(seed), draw_subjects(seed, number), generator(seed, 5, number)
    same = (subjects.kind == KINDS.index("burst")) | ((subjects.kind >= 0) & (rng.random(BLOCK) < EDITED))
    of = np.where(same, subjects.of, np.arange(BLOCK))
    topic = shared.topic[subjects.main]
    owner = _owners(rng, topic)[of]
    has, gone = _available(rng, shared, number, owner, of)
    place, latitude, longitude = _places(rng, shared, subjects, owner, of)
    taken, posted = _times(rng, subjects, of)
    views = np.exp(4.6 + 0.8 * shared.fame[owner] + rng.standard_normal(BLOCK)).astype(np.int64)
    favourites = (views * 0.03 * np.exp(0.7 * rng.standard_normal(BLOCK))).astype(np.int64)
    facts = Facts(
        start=number * BLOCK, of=of, main=subjects.main, topic=topic, owner=owner, place=place, has=has, gone=gone,
        latitude=latitude, longitude=longitude, taken=taken, posted=posted, views=views, favourites=favourites,
        picks=rng.integers(0, 2**16, (BLOCK, 12)),
    )  # fmt: skip
    facts.picks[:, :4] = facts.picks[of, :4]  # of the EXIF: exposure, aperture, sensitivity, lens
    facts.tags = _tags(rng, shared, subjects, facts)
    facts.groups = _groups(rng, shared, subjects, facts)
    facts.albums = _albums(rng, facts)
    facts.comments = _comments(rng, shared, facts)
    return facts


def _owners(rng: np.random.Generator, topic: Int64) -> Int64:
    anyone = rng.integers(0, len(words.TOPICS), BLOCK)
    of_topic = np.where(rng.random(BLOCK) < OWN_TOPIC, topic, anyone)
    return of_topic * OWNERS_OF_A_TOPIC + ranks(rng, BLOCK, OWNERS_OF_A_TOPIC, 5.0)


def _available(rng: np.random.Generator, shared: World, number: int, owner: Int64, of: Int64) -> tuple[Bool, Bool]:
    """Which fields a photo has, (1000, 9), and which photos are gone, (1000,).

    In each stratum the photos whose owners are the keenest have a field, as many as the published share says.
    """
    strata = BLOCK // STRATUM
    order = rng.random((strata, STRATUM)).argsort(axis=1).argsort(axis=1)
    gone = (order < GONE).reshape(BLOCK)
    noise = 0.8 * rng.standard_normal((BLOCK, len(FIELDS)))
    score = shared.habit[owner] + np.where((of != np.arange(BLOCK))[:, None], noise[of] + 0.2 * noise, noise)
    score[gone] = -np.inf
    rank = (-score).reshape(strata, STRATUM, -1).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    stratum = number * strata + np.arange(strata)[:, None]
    published = np.array([PUBLISHED[name] for name in FIELDS])
    each = PUBLISHED_PHOTOS // STRATUM
    count = (stratum + 1) * published // each - stratum * published // each
    return (rank < count[:, None, :]).reshape(BLOCK, -1), gone


def _places(
    rng: np.random.Generator, shared: World, subjects: Subjects, owner: Int64, of: Int64
) -> tuple[Int64, Float64, Float64]:
    """A photo's city, and where it was taken: most within a few kilometres of it, some far out."""
    chosen = rng.integers(0, CLUSTER_PLACES, BLOCK)
    where = rng.random(BLOCK)
    anywhere = ranks(rng, BLOCK, len(words.CITIES), 8.0)
    place = np.where(where < 0.85, shared.home[owner], anywhere)
    place = np.where(where < 0.5, shared.cluster_places[subjects.main, chosen], place)[of]
    cities = np.array([city[2:] for city in words.CITIES])[place]
    far = rng.choice([0.03, 0.25, 1.2], BLOCK, p=[0.7, 0.23, 0.07])[:, None]
    away = (far * rng.standard_normal((BLOCK, 2)))[of] + 1e-4 * rng.standard_normal((BLOCK, 2))
    latitude = cities[:, 0] + away[:, 0]
    longitude = cities[:, 1] + away[:, 1] / np.cos(np.radians(cities[:, 0]))
    return place, latitude, (longitude + 180) % 360 - 180


def _times(rng: np.random.Generator, subjects: Subjects, of: Int64) -> tuple[Int64, Int64]:
    """When photos were taken and posted: a burst within minutes, an edit of a photo days after it."""
    posted = FIRST_DAY + ((LAST_DAY - FIRST_DAY) * rng.random(BLOCK) ** 0.6).astype(np.int64)
    lag = np.exp(np.log(1.5 * DAY) + 1.8 * rng.standard_normal(BLOCK))
    taken = posted - np.clip(lag, 600, 700 * DAY).astype(np.int64)
    later = rng.integers(2, 180, BLOCK), rng.integers(5, 600, BLOCK), rng.integers(1, 60 * DAY, BLOCK)
    burst = subjects.kind == KINDS.index("burst")
    copy = of != np.arange(BLOCK)
    taken = np.where(copy, taken[of] + np.where(burst, later[0], 0), taken)
    return taken, np.where(copy, posted[of] + np.where(burst, later[1], later[2]), posted)


def _counts(rng: np.random.Generator, mean: float, most: int) -> Int64:
    """One or more, with a long tail."""
    return np.minimum(rng.geometric(1 / mean, BLOCK), most)


def _numbers(rng: np.random.Generator, shares: tuple[float, ...], choices: list[Int64]) -> Int64:
    """For each slot one of several choices (each (slots,)), by shares."""
    source = np.searchsorted(np.cumsum(shares)[:-1], rng.random(len(choices[0])), side="right")
    return np.choose(source, choices)


def _by_photo(flat: list[Any], counts: Int64) -> list[list[Any]]:
    ends = np.cumsum(counts).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _passed_on(rng: np.random.Generator, lists: list[list[int]], of: Int64) -> list[list[int]]:
    """Each number once; an owner's copy has most of its original's numbers, and no others of its own."""
    once = [list(dict.fromkeys(numbers)) for numbers in lists]
    kept = rng.random(BLOCK * 64)
    for row, source in enumerate(of.tolist()):
        if row != source:
            numbers = once[source]
            once[row] = [n for n, u in zip(numbers, kept[64 * row :], strict=False) if u < KEPT] or numbers[:1]
    return once


def _tags(rng: np.random.Generator, shared: World, subjects: Subjects, facts: Facts) -> list[list[int]]:
    counts = np.minimum(_counts(rng, MEAN_TAGS / 2, MOST["tags"]) + _counts(rng, MEAN_TAGS / 2, 20) - 1, MOST["tags"])
    row = np.repeat(np.arange(BLOCK), counts)
    slots = len(row)
    cluster = np.where(rng.random(slots) < subjects.share[row], subjects.second[row], subjects.main[row])
    topic, first = shared.topic[cluster], shared.first
    anyone = rng.integers(0, len(words.TOPICS), slots)
    choices = [
        topic * WORDS + ranks(rng, slots, WORDS),
        shared.cluster_words[cluster, ranks(rng, slots, CLUSTER_WORDS)],
        first["common"] + ranks(rng, slots, len(words.COMMON), 3.0),
        anyone * WORDS + ranks(rng, slots, WORDS),
        first["camera"] + 2 * shared.camera[facts.owner[row]] + rng.integers(0, 2, slots),
        first["place"] + 2 * facts.place[row] + rng.integers(0, 2, slots),
        first["owner"] + facts.owner[row],
    ]
    return _passed_on(rng, _by_photo(_numbers(rng, TAG_SOURCES, choices).tolist(), counts), facts.of)


def _groups(rng: np.random.Generator, shared: World, subjects: Subjects, facts: Facts) -> list[list[int]]:
    counts = _counts(rng, MEAN_GROUPS, MOST["groups"])
    row = np.repeat(np.arange(BLOCK), counts)
    slots, first = len(row), shared.first_group
    cluster = np.where(rng.random(slots) < subjects.share[row], subjects.second[row], subjects.main[row])
    forms = len(words.GROUP_FORMS)
    choices = [
        first["topic"] + shared.topic[cluster] * forms + ranks(rng, slots, forms),
        shared.cluster_groups[cluster, rng.integers(0, CLUSTER_GROUPS, slots)],
        first["general"] + ranks(rng, slots, len(words.GENERAL_GROUPS), 2.0),
        first["place"] + facts.place[row],
        first["camera"] + shared.camera[facts.owner[row]],
    ]
    return _passed_on(rng, _by_photo(_numbers(rng, GROUP_SOURCES, choices).tolist(), counts), facts.of)


def _albums(rng: np.random.Generator, facts: Facts) -> list[list[int]]:
    """One album of the owner, sometimes two: of the topic, the year or the place."""
    year = (facts.posted - 1_104_537_600) // (DAY * 365)  # since 2005, near enough for an album
    kinds = np.stack([facts.topic, ALBUM_TOPICS + year, ALBUM_YEARS + facts.place], axis=1)
    order = rng.random((BLOCK, 3)) * (0.6, 1.0, 1.0)
    two = np.take_along_axis(kinds, order.argsort(axis=1)[:, :2], axis=1)
    counts = 1 + (rng.random(BLOCK) < 0.2)
    return [two[row, : counts[row]].tolist() for row in facts.of.tolist()]


def _comments(rng: np.random.Generator, shared: World, facts: Facts) -> list[list[Any]]:
    counts = _counts(rng, MEAN_COMMENTS, MOST["comments"])
    slots = int(counts.sum())
    author = rng.integers(0, len(shared.owners), slots)
    after = np.exp(np.log(0.5 * DAY) + 2 * rng.standard_normal(slots)).astype(np.int64) + 60
    pick = rng.integers(0, 2**16, slots)
    lists = _by_photo(list(zip(author.tolist(), after.tolist(), pick.tolist(), strict=True)), counts)
    return [sorted(comments, key=lambda comment: comment[1]) for comments in lists]
