"""Edited copies of photos of the sample collection: re-compressed, recoloured, mirrored, with text over them, cropped.

Simulated, since the collection has features and no pictures: what an edit does to a picture is not known here, only
how far it may turn its features and roughly which way. Each copy is turned from its original by an angle drawn for its
kind, and the direction is the kind's own:

- recompressed: every unit changes a little, each for itself.
- recoloured: one of a few casts, the same for all photos that have it, and noise.
- mirrored: units change places with a partner, a fixed one for each, as a flip is nearly a permutation of features
  (Lenc & Vedaldi 2015).
- overlaid: one of some captions, so that photos that carry it move towards each other whatever they show, and noise.
- cropped: a part of the content is gone, and other content fills the frame: the way in which photos of a burst differ.

The copy of photo i is photo FIRST + i. It depends on the seed and on i alone, and changes no other photo. The cosines
that come of it are in benchmarks/results/dedup-fc7-100000.md.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from engine.errors import EngineError, InputError
from engine.progress import Progress, silent
from engine.store import dat
from engine.store.dat import FC7_DIM
from engine.store.durable import write_whole
from engine.store.synth import MARKER, TRUTH, describe
from engine.store.synth_copies import Float32, Float64, Int64, Pair, cosine
from engine.store.synth_model import (
    ACTIVATION_STEP,
    BLOCK,
    FC7_UNIT,
    LATENT,
    LATENT_MAX,
    LATENT_STEP,
    OWN_DECAY,
    OWN_SD,
    WEIGHT_SD,
    Block,
    Network,
    _activate,
    _score,
    generator,
    make_block,
    network,
    spectrum,
    whole,
)

FIRST: Final = 10_000_000  # added to a photo's id: beyond all photos of the publisher's collection
EDITS_VERSION: Final = 1  # raise it when a number below or the order of draws changes


class Edit(NamedTuple):
    """A kind of edit: the angles in degrees between which a copy is turned from its original, and which way.

    The parts of its direction: noise, content of its own, one of `common` directions that photos share, and partners
    that change places.
    """

    name: str
    least: float
    most: float
    noise: float = 0.0
    content: float = 0.0
    shared: float = 0.0
    common: int = 0
    swapped: float = 0.0


# Bursts of the collection are turned by 22 to 37 degrees (cosine 0.927 to 0.802). Everything but re-compression
# reaches among them, and cropped copies beyond.
EDITS: Final = (
    Edit("recompressed", 5, 17, noise=1.0),
    Edit("recoloured", 11, 30, noise=0.7, shared=0.7, common=6),
    Edit("mirrored", 15, 28, noise=0.3, swapped=1.0),
    Edit("overlaid", 18, 36, noise=0.5, content=0.3, shared=0.8, common=20),
    Edit("cropped", 20, 42, noise=0.6, content=0.8),
)
EDIT_KINDS: Final = tuple(edit.name for edit in EDITS)
EACH: Final = 12  # copies of each kind in a thousand photos
SWAPPING: Final = 0.5  # of the units have a partner in a mirrored photo
STRONGEST: Final = 8.0  # multiple of a direction up to which a copy is moved
HALVINGS: Final = 14


@dataclass(frozen=True, kw_only=True)
class EditedCopies:
    """Copies made of photos of one block: photo_ids (n,) ascending, fc7 (n, 4096), fc8 (n, 1000), and their pairs."""

    photo_ids: Int64
    fc7: Float32
    fc8: Float32
    pairs: tuple[Pair, ...]


def edited_copies(seed: int, number: int, end: int) -> EditedCopies:
    """The edited copies of photos of block `number` with ids below `end`.

    Only photos that are in no planted pair are copied, each once.
    """
    net, block, rng = network(seed), make_block(seed, number), generator(seed, 7, number)
    rows, edits = _choose(block, rng)
    pre = _before_relu(net, block, rows)
    directions = _directions(net, seed, pre, edits, rng)
    degrees = np.array([edit.least + (edit.most - edit.least) * rng.random() for edit in edits])
    strength, activations = _turn(pre, directions, np.cos(np.radians(degrees)))
    keep = block.start + rows < end
    rows, strength, activations = rows[keep], strength[keep], activations[keep]
    scale = np.full((len(rows), 1), FC7_UNIT * ACTIVATION_STEP, np.float32)
    fc8 = _score(net, activations, scale)
    fc7 = activations * scale
    near7, near8 = cosine(block.fc7[rows], fc7).tolist(), cosine(block.fc8[rows], fc8).tolist()
    photo_ids = FIRST + block.start + rows
    pairs = tuple(
        Pair(kind=edit.name, photo_id=photo, of=photo - FIRST, strength=power, fc7_cosine=round(c7, 6),
             fc8_cosine=round(c8, 6))
        for edit, photo, power, c7, c8 in zip(
            (edit for edit, kept in zip(edits, keep, strict=True) if kept), photo_ids.tolist(), strength.tolist(),
            near7, near8, strict=True,
        )
    )  # fmt: skip
    return EditedCopies(photo_ids=photo_ids, fc7=fc7, fc8=fc8, pairs=pairs)


def all_edited_copies(seed: int, photos: int) -> Iterator[EditedCopies]:
    """The edited copies of a collection of so many photos, block by block."""
    for number in range(-(-photos // BLOCK)):
        yield edited_copies(seed, number, photos)


@dataclass(frozen=True, kw_only=True)
class EditsReport:
    """What was added to a collection: bytes of files, in seconds, and pairs by kind."""

    bytes: int
    seconds: float
    pairs: dict[str, int]


def add_edits(directory: Path, progress: Progress = silent) -> EditsReport:
    """Write the edited copies of a finished sample collection beside its photos, and their pairs into its truth.jsonl.

    Files are `DIR/features/1010/10103169.dat` for the copy of photo 103169; there are no pictures of them. As with the
    collection itself, truth.jsonl comes last: where it is missing, an interrupted one must be written again. InputError
    where there is no finished collection, or one with edited copies.
    """
    directory, started = Path(directory), time.perf_counter()
    marker = describe(directory)
    if marker is None or "edits" in marker:
        what = "no finished sample collection" if marker is None else "has edited copies already"
        raise InputError(
            f"{directory}: {what}. Write the collection with its edited copies in one go: `synth --edits`."
        )
    photos, size, found = int(marker["photos"]), 0, list[Pair]()
    try:
        truth = (directory / TRUTH).read_bytes()
        (directory / TRUTH).unlink()
        write_whole(directory / MARKER, (json.dumps(marker | {"edits": EDITS_VERSION}) + "\n").encode())
        for number, copies in enumerate(all_edited_copies(int(marker["seed"]), photos)):
            size += _write_files(directory / "features", copies)
            found += copies.pairs
            progress("edit", min((number + 1) * BLOCK, photos), photos, unit="photos")
        lines = "".join(json.dumps(asdict(pair)) + "\n" for pair in found)
        write_whole(directory / TRUTH, truth + lines.encode())
    except OSError as error:
        raise EngineError(
            f"{error.filename or directory}: {error.strerror or error}. The collection is unfinished; run again."
        ) from error
    kinds = Counter(pair.kind for pair in found)
    return EditsReport(bytes=size, seconds=time.perf_counter() - started, pairs=dict(kinds))


def refuse_edited(directory: Path) -> None:
    """InputError where a finished collection with edited copies is: one without them would take their place."""
    if "edits" in (describe(directory) or {}):
        raise InputError(
            f"{directory}: holds a sample collection with edited copies, and one without them is asked for. It was "
            "left alone; give another folder, remove this one, or say --edits."
        )


def _write_files(features: Path, copies: EditedCopies) -> int:
    """Write the `.dat` files of some copies; returns their bytes."""
    for photo, fc7, fc8 in zip(copies.photo_ids.tolist(), copies.fc7, copies.fc8, strict=True):
        path = features / dat.relative_path(photo)
        path.parent.mkdir(exist_ok=True)
        dat.write_dat(path, fc7, fc8)
    return len(copies.photo_ids) * dat.RECORD_BYTES


def _choose(block: Block, rng: np.random.Generator) -> tuple[Int64, list[Edit]]:
    """Rows of a block that are copied, ascending, and how each is edited."""
    taken = {photo - block.start for pair in block.pairs for photo in (pair.photo_id, pair.of)}
    free = np.setdiff1d(np.arange(BLOCK), np.fromiter(taken, np.int64))
    rows = rng.permutation(free)[: EACH * len(EDITS)]
    order = np.argsort(rows)
    return rows[order], [EDITS[place // EACH] for place in order.tolist()]


def _before_relu(net: Network, block: Block, rows: Int64) -> Float32:
    """About what entered the ReLU for some photos, (n, 4096), less the units' thresholds.

    Known where a unit is on. Where it is off, what the photo's content alone gives.
    """
    content = block.latent[rows] @ net.expand
    content *= np.float32(LATENT_STEP / WEIGHT_SD)
    content -= net.threshold
    seen = block.fc7[rows] / np.float32(FC7_UNIT)
    return np.where(seen > 0, seen, np.minimum(content, 0)).astype(np.float32)


def _directions(net: Network, seed: int, pre: Float32, edits: list[Edit], rng: np.random.Generator) -> Float32:
    """Which way each copy moves, (n, 4096): every part of about the same length before it is weighed."""
    content = _content(net, rng.standard_normal((len(edits), LATENT)))
    noise = rng.standard_normal(pre.shape, dtype=np.float32)
    shared, partner, moved = _shared(seed), _partners(seed), np.empty_like(pre)
    for i, edit in enumerate(edits):
        moved[i] = np.float32(edit.noise) * noise[i] + np.float32(edit.content) * content[i]
        moved[i] += np.float32(edit.swapped) * (pre[i, partner] - pre[i])
        if edit.common:
            moved[i] += np.float32(edit.shared) * shared[edit.name][rng.integers(edit.common)]
    return moved


def _content(net: Network, latent: Float64) -> Float32:
    """What places in the latent space (n, LATENT) do to the units, (n, 4096); summed exactly, as in the model."""
    steps = whole(OWN_SD * spectrum(OWN_DECAY) * latent / LATENT_STEP, LATENT_MAX) @ net.expand
    made: Float32 = steps * np.float32(LATENT_STEP / WEIGHT_SD / OWN_SD)
    return made


@lru_cache(maxsize=2)
def _shared(seed: int) -> dict[str, Float32]:
    """The casts and captions of a collection: by kind, (common, 4096)."""
    rng, net = generator(seed, 6, 0), network(seed)
    return {edit.name: _content(net, rng.standard_normal((edit.common, LATENT))) for edit in EDITS if edit.common}


@lru_cache(maxsize=2)
def _partners(seed: int) -> Int64:
    """The unit that each unit changes places with in a mirrored photo, (4096,); itself where it has no partner."""
    partner = np.arange(FC7_DIM)
    some = generator(seed, 6, 1).permutation(FC7_DIM)[: int(SWAPPING * FC7_DIM) // 2 * 2].reshape(-1, 2)
    partner[some] = some[:, ::-1]
    return partner


def _turn(pre: Float32, directions: Float32, target: Float64) -> tuple[Float64, Float32]:
    """Strengths (n,) and whole-number activations (n, 4096) of copies just as far away as their target cosines say.

    By halving, on the final activations, as in the model.
    """
    off = np.zeros(FC7_DIM, np.float32)
    reference = _activate(pre, off, np.empty_like(pre))
    trial, low, high = np.empty_like(pre), np.zeros(len(pre)), np.full(len(pre), STRONGEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        _activate(pre + middle[:, None].astype(np.float32) * directions, off, trial)
        close = cosine(reference, trial) > target
        low, high = np.where(close, middle, low), np.where(close, high, middle)
    return low, _activate(pre + low[:, None].astype(np.float32) * directions, off, trial)
