"""Who took the photos of the sample collection, where, and in what words: everything that its photos share.

A cluster of photos has a topic, words of its own, groups and places; an owner has a topic too, a home, a camera and a
licence. Drawn once per seed; which photo gets what of it is `engine.store.synth_facts`.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.store import synth_words as words
from engine.store.annotations.published import PUBLISHED
from engine.store.synth_model import CLUSTERS, Float64, Int64, generator, network

WORDS: Final = 10  # of a topic
OWNERS_OF_A_TOPIC: Final = 400
OWNERS: Final = OWNERS_OF_A_TOPIC * len(words.TOPICS)
CLUSTER_WORDS: Final = 4
CLUSTER_GROUPS: Final = 3
CLUSTER_PLACES: Final = 2
FIELDS: Final = tuple(PUBLISHED)
# Flickr's licences 1 to 6, all of which the collection holds: as common as among its photos of 25,000.
LICENCES: Final = np.array([1, 2, 3, 4, 5, 6])
LICENCE_SHARES: Final = (0.29, 0.14, 0.31, 0.12, 0.09, 0.05)


def ranks(rng: np.random.Generator, size: int | tuple[int, ...], count: int, offset: float = 1.0) -> Int64:
    """Whole numbers 0 .. count - 1 of a Zipf distribution: rank r has the weight 1 / (r + offset)."""
    share = np.cumsum(1 / (np.arange(count) + offset))
    return np.searchsorted(share / share[-1], rng.random(size)).astype(np.int64)


def cleaned(raw: str) -> str:
    """A tag as Flickr normalises it: lower case, letters and digits alone."""
    return "".join(filter(str.isalnum, raw.lower()))


class World:
    """What the photos of one seed share. Tags, groups, places and cameras are numbers into the lists here."""

    def __init__(self, seed: int) -> None:
        rng = generator(seed, 4)
        self.topic: Int64 = network(seed).topic
        self._name_tags()
        self._name_groups()
        self._draw_clusters(rng)
        self._draw_owners(rng)

    def _name_tags(self) -> None:
        """All tags as they are typed; `first` says where each kind of them begins."""
        single = [word for topic in words.TOPICS for word in topic[1:]]
        double = [f"{adjective} {word}" for adjective in words.ADJECTIVES for word in single]
        self.cameras = [Camera(*line) for line in words.CAMERAS]
        places = [name for city, country, *_ in words.CITIES for name in (city, country)]
        kinds: dict[str, list[str]] = {
            "single": single, "double": double, "common": list(words.COMMON), "place": places,
            "camera": [name for camera in self.cameras for name in camera.tags], "owner": _user_names(),
        }  # fmt: skip
        self.first: dict[str, int] = {}
        self.raw: list[str] = []
        for kind, names in kinds.items():
            self.first[kind] = len(self.raw)
            self.raw += names
        self.clean = [cleaned(raw) for raw in self.raw]
        self.title = [raw.title() for raw in self.raw]

    def _name_groups(self) -> None:
        """All groups as Flickr lists them: of topics, of subjects within them, general ones, of places and cameras."""
        topics = [topic[0] for topic in words.TOPICS]
        of_topics = [form.format(topic) for topic in topics for form in words.GROUP_FORMS]
        of_subjects = [f"{adjective.title()} {topic}" for topic in topics for adjective in words.ADJECTIVES]
        of_places = [f"{city} – {country}" for city, country, *_ in words.CITIES]
        of_cameras = [f"{camera.name} Users" for camera in self.cameras]
        self.first_group: dict[str, int] = {}
        self.groups: list[dict[str, Any]] = []
        for kind, names in (
            ("topic", of_topics), ("subject", of_subjects), ("general", list(words.GENERAL_GROUPS)),
            ("place", of_places), ("camera", of_cameras),
        ):  # fmt: skip
            self.first_group[kind] = len(self.groups)
            self.groups += [_group(len(self.groups) + i, name) for i, name in enumerate(names)]

    def _draw_clusters(self, rng: np.random.Generator) -> None:
        pairs = rng.integers(0, len(words.ADJECTIVES), (CLUSTERS, CLUSTER_WORDS)) * (len(words.TOPICS) * WORDS)
        own = self.topic[:, None] * WORDS + rng.integers(0, WORDS, pairs.shape)
        self.cluster_words: Int64 = self.first["double"] + pairs + own
        adjectives = rng.integers(0, len(words.ADJECTIVES), (CLUSTERS, CLUSTER_GROUPS))
        self.cluster_groups: Int64 = (
            self.first_group["subject"] + self.topic[:, None] * len(words.ADJECTIVES) + adjectives
        )
        self.cluster_places: Int64 = ranks(rng, (CLUSTERS, CLUSTER_PLACES), len(words.CITIES), 8.0)

    def _draw_owners(self, rng: np.random.Generator) -> None:
        self.home: Int64 = ranks(rng, OWNERS, len(words.CITIES), 8.0)
        self.camera: Int64 = ranks(rng, OWNERS, len(self.cameras), 4.0)
        self.licence: Int64 = rng.choice(LICENCES, OWNERS, p=LICENCE_SHARES)
        self.fame: Float64 = rng.standard_normal(OWNERS)
        eager = rng.standard_normal((OWNERS, 1))
        self.habit: npt.NDArray[np.float64] = 0.7 * eager + 0.7 * rng.standard_normal((OWNERS, len(FIELDS)))
        self.owners = [_owner(number, name, int(self.home[number])) for number, name in enumerate(_user_names())]


class Camera:
    """A camera: its maker and model as EXIF has them, its name as Flickr has it, tags and lenses."""

    def __init__(self, make: str, model: str, lenses: str) -> None:
        self.make, self.model = make, model
        self.lenses = lenses.split(";") if lenses else []
        brand = make.split()[0].title() if make.isupper() or " " in make else make
        name = model.replace("NIKON", "Nikon").replace("DIGITAL", "Digital").replace("PENTAX", "Pentax")
        self.name = name if name.lower().startswith(brand.lower()) else f"{brand} {name}"
        own = self.name.removeprefix(brand).replace("Digital", "").replace("PowerShot", "").strip()
        self.tags = (brand, own)


def _user_names() -> list[str]:
    handles, firsts = words.HANDLES, words.FIRST_NAMES
    forms = ("{h}{f}{n}", "{f} {h} {n}", "{f}.{h}{n}", "{h}_{n}", "{f}'s {h} {n}")
    names = []
    for number in range(OWNERS):
        handle, first = handles[number * 7 % len(handles)], firsts[number * 11 % len(firsts)]
        names.append(forms[number % len(forms)].format(h=handle, f=first, n=number))
    return names


def _owner(number: int, name: str, home: int) -> dict[str, Any]:
    """An owner as `getInfo` has them."""
    alias = cleaned(name) if number % 3 else None
    first = words.FIRST_NAMES[number * 11 % len(words.FIRST_NAMES)]
    real = f"{first} {words.LAST_NAMES[number * 13 % len(words.LAST_NAMES)]}" if number % 5 < 3 else ""
    return {
        "nsid": f"{10_000_000 + number * 3571}@N0{number % 8}", "username": name, "realname": real,
        "location": ", ".join(words.CITIES[home][:2]) if number % 4 else "", "iconserver": str(number % 4000),
        "iconfarm": 1 + number % 8, "path_alias": alias,
    }  # fmt: skip


def _group(number: int, title: str) -> dict[str, Any]:
    """A group as `getAllContexts` has it."""
    identity = f"{100_000 + number * 457}@N2{number % 6}"
    members = 40 + number * 7919 % 60_000
    return {
        "title": title.replace("&", "&amp;"), "url": f"/groups/{identity}/pool/", "id": identity,
        "iconserver": str(number % 4000), "iconfarm": 1 + number % 8, "members": str(members),
        "pool_count": str(members * (3 + number % 40)),
    }  # fmt: skip


@lru_cache(maxsize=2)
def world(seed: int) -> World:
    """The world of one seed, drawn once per process."""
    return World(seed)
