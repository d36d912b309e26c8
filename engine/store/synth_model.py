"""The made-up network behind the sample collection: block numbers in, rows that behave as fc7 and fc8 out.

A photo has a latent vector: a blend of two of many clusters of uneven size, and its own place among them.
A linear layer, noise of its own and a ReLU make fc7 of it; a second linear layer makes fc8 of fc7. The
constants were tuned against real features: benchmarks/results/sample_statistics.md holds both.

Every sum is exact. Weights and activations are small integers held in float32, chosen so that no partial
sum of a matrix product passes 2**24; so no order of summation, thread count or BLAS changes a bit.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.store.dat import FC7_DIM, FC8_DIM
from engine.store.synth_copies import KINDS, Pair, Plan, cosine, draw_plan, list_pairs, roots

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

BLOCK: Final = 1000  # photos made together; a photo never depends on another block
VERSION: Final = 2  # of the model: raise it when any number below or the order of draws changes

# The collection. Standard deviations are those of a whole latent vector (unit spectrum).
LATENT: Final = 96
TOPICS: Final = 60
CLUSTERS: Final = 6000
ZIPF: Final = 0.9  # cluster k of CLUSTERS has weight (k + ZIPF_OFFSET) ** -ZIPF
ZIPF_OFFSET: Final = 40.0
TOPIC_SD: Final = 0.9
TOPIC_DECAY: Final = 0.4  # standard deviation of latent dimension j goes as j ** -decay
CLUSTER_SD: Final = 0.6
CLUSTER_DECAY: Final = 0.5
OWN_SD: Final = 0.4
OWN_DECAY: Final = 0.7
OWN_SPREAD: Final = 0.3  # of the logarithm, between clusters: some are tight, some loose
BLEND: Final = 0.5  # largest share of the second cluster; the share is BLEND * uniform ** 2
EVENNESS: Final = 0.7  # latent lengths are pulled to LENGTH: 0 leaves them, 1 makes them equal
LENGTH: Final = 1.2

# fc7
NOISE: Final = 0.38  # of each unit and photo, before the ReLU: bounds the cosine of unrelated photos
THRESHOLD: Final = 1.02
THRESHOLD_SPREAD: Final = 0.65  # between units: some are often on, some hardly ever
FC7_UNIT: Final = 2.4
CONTRAST: Final = 0.11  # of the logarithm of a photo's overall scale: the tail of the norms

# fc8
DIRECT: Final = 640  # directions of fc7 that fc8 reads beside the latent ones
DIRECT_SD: Final = 5.8
CLASS_SD: Final = 3.0
WHITEN: Final = 1.0  # 0: a class weighs latent dimensions by their variance, 1: all alike
FAVOUR: Final = 0.8  # of a class: how much is its favoured cluster, the rest is its own
FC8_UNIT: Final = 0.0565
BIAS: Final = 0.57

# Whole numbers: see the head of this file for why.
LATENT_STEP: Final = 1 / 64
LATENT_MAX: Final = 511
WEIGHT_SD: Final = 32.0
WEIGHT_MAX: Final = 127  # 96 * 511 * 127 < 2**24
ACTIVATION_STEP: Final = 1 / 256
ACTIVATION_MAX: Final = 2047
READ_SD: Final = 8.0
READ_MAX: Final = 31  # a photo's activations sum to 200,000 to 400,000; 31 times that is below 2**24
HIDDEN_STEP: Final = 6000.0
HIDDEN_MAX: Final = 700
CLASS_MAX: Final = 31  # 736 * 700 * 31 < 2**24

# Copies
STRONGEST: Final = 4.0  # multiple of a deviation up to which a copy may be altered
GROWTH: Final = 0.48  # length of a deviation beside its original's: copies are scaled back by it
HALVINGS: Final = 12
COPY_CONTRAST: Final = 0.15  # of a photo's own contrast is kept by a copy, which takes its original's


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """What the photos of a block show, row by row: what their annotations are drawn from.

    `main` and `second` (1000,) are clusters, `share` (1000,) how much of a photo is its second one. `of` (1000,) is the
    row that a photo is a copy of, or its own; `kind` indexes KINDS, -1 for no copy. A copy shows what its original
    does.
    """

    main: Int64
    second: Int64
    share: Float64
    of: Int64
    kind: Int64


@dataclass(frozen=True, kw_only=True)
class Block:
    """Photos start .. start + 999: fc7 (1000, 4096), fc8 (1000, 1000), both float32, and the planted pairs.

    `latent` (1000, LATENT) is whole numbers in float32, `kind` (1000,) indexes KINDS, -1 for no copy: what
    the pictures are drawn from.
    """

    start: int
    fc7: Float32
    fc8: Float32
    latent: Float32
    kind: Int64
    pairs: tuple[Pair, ...]


def generator(seed: int, *path: int) -> np.random.Generator:
    """A counter-based stream that depends on the seed and the path alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *path))))


def spectrum(decay: float) -> Float64:
    """Standard deviations of the latent dimensions: a power law whose squares sum to one."""
    scale = np.arange(1.0, LATENT + 1.0) ** -decay
    unit: Float64 = scale / np.sqrt(np.square(scale).sum())
    return unit


def whole(values: Float64 | Float32, limit: int) -> Float32:
    """The nearest whole numbers within ±limit, as float32."""
    return np.clip(np.rint(values), -limit, limit).astype(np.float32)


class Network:
    """The weights of the made-up network and the clusters of its collection, for one seed."""

    def __init__(self, seed: int) -> None:
        rng = generator(seed, 0)
        self.expand = whole(WEIGHT_SD * rng.standard_normal((LATENT, FC7_DIM)), WEIGHT_MAX)
        self.threshold = (THRESHOLD + THRESHOLD_SPREAD * rng.standard_normal(FC7_DIM)).astype(np.float32)
        topics = TOPIC_SD * spectrum(TOPIC_DECAY) * rng.standard_normal((TOPICS, LATENT))
        offsets = CLUSTER_SD * spectrum(CLUSTER_DECAY) * rng.standard_normal((CLUSTERS, LATENT))
        self.topic = rng.integers(0, TOPICS, CLUSTERS)  # of each cluster
        self.centres = topics[self.topic] + offsets
        self.spreads = OWN_SD * np.exp(OWN_SPREAD * rng.standard_normal(CLUSTERS))
        weights = (np.arange(CLUSTERS) + ZIPF_OFFSET) ** -ZIPF
        self.cumulative = np.cumsum(weights / weights.sum())
        # fc8 reads fc7 back into the latent space, and along further directions, in whole numbers.
        direct = READ_SD * rng.standard_normal((FC7_DIM, DIRECT))
        self.read = whole(np.concatenate([self.expand.T * (READ_SD / WEIGHT_SD), direct], axis=1), READ_MAX)
        self.classes = self._classes(rng)
        self.bias = (BIAS * rng.standard_normal(FC8_DIM)).astype(np.float32)

    def _classes(self, rng: np.random.Generator) -> Float32:
        """What each class makes of the directions read, (LATENT + DIRECT, 1000): it favours one cluster."""
        favoured = self.centres[np.searchsorted(self.cumulative, rng.random(FC8_DIM))]
        favoured *= spectrum(TOPIC_DECAY) ** -WHITEN
        favoured /= favoured.std()
        favoured = CLASS_SD * (FAVOUR * favoured + np.sqrt(1 - FAVOUR**2) * rng.standard_normal(favoured.shape))
        direct = DIRECT_SD * rng.standard_normal((FC8_DIM, DIRECT))
        return np.ascontiguousarray(whole(np.concatenate([favoured, direct], axis=1), CLASS_MAX).T)


@lru_cache(maxsize=2)
def network(seed: int) -> Network:
    """The network of one seed, drawn once per process."""
    return Network(seed)


def _choose(net: Network, rng: np.random.Generator) -> tuple[Int64, Int64, Float64]:
    """Each photo's cluster, its second one, and the share of that, (1000, 1)."""
    main, second = np.searchsorted(net.cumulative, rng.random((2, BLOCK)))
    return main, second, BLEND * np.square(rng.random((BLOCK, 1)))


def _place(net: Network, rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Latent vectors of one block, and each photo's own part of it, both (1000, LATENT)."""
    main, second, share = _choose(net, rng)
    own = net.spreads[main][:, None] * spectrum(OWN_DECAY) * rng.standard_normal((BLOCK, LATENT))
    latent = (1 - share) * net.centres[main] + share * net.centres[second] + own
    length = np.sqrt(np.square(latent).sum(axis=1, keepdims=True))
    return latent * (LENGTH / length) ** EVENNESS, own


def _activate(pre: npt.NDArray[np.floating], threshold: Float32, out: Float32) -> Float32:
    """ReLU above the thresholds, into `out` as whole numbers 0 .. ACTIVATION_MAX."""
    np.subtract(pre, threshold, out=out)
    out *= np.float32(1 / ACTIVATION_STEP)
    np.clip(out, 0, ACTIVATION_MAX, out=out)
    return np.rint(out, out=out)


def _alter(net: Network, pre: Float32, plan: Plan) -> Float64:
    """Turn rows of `pre` into altered copies of others, each just as far as its target cosine says.

    On entry a copy's row holds its own deviation; the strength it is added with is found by halving, on the
    final activations, so that a pair is in its band by construction. Returns the strengths, (q,).
    """
    of, copy = plan.altered.T
    original, deviation = pre[of], pre[copy]
    reference = _activate(original, net.threshold, np.empty_like(original))
    low, high = np.zeros(len(of)), np.full(len(of), STRONGEST)
    trial = np.empty_like(original)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        _activate(_mixed(original, deviation, middle), net.threshold, trial)
        close = cosine(reference, trial) > plan.target
        low, high = np.where(close, middle, low), np.where(close, high, middle)
    pre[copy] = _mixed(original, deviation, low)
    return low


def _mixed(
    original: npt.NDArray[np.floating], deviation: npt.NDArray[np.floating], strength: Float64
) -> npt.NDArray[np.floating]:
    """Rows of originals with deviations of some strength (n,) added, about as long as before."""
    added = strength[:, None].astype(original.dtype)
    mixed: npt.NDArray[np.floating] = (original + added * deviation) / np.sqrt(1 + np.square(GROWTH * added))
    return mixed


def _score(net: Network, activations: Float32, scale: Float32) -> Float32:
    """fc8 of whole-number activations (n, 4096), before `scale` (n, 1): two exact products and a bias."""
    hidden = activations @ net.read
    hidden *= np.float32(1 / HIDDEN_STEP)
    fc8 = whole(hidden, HIDDEN_MAX) @ net.classes
    fc8 *= scale * np.float32(FC8_UNIT)
    fc8 += net.bias
    return fc8


def _kinds(plan: Plan) -> Int64:
    """What kind of copy each photo of a block is, (1000,): indexes KINDS, -1 for none."""
    kind = np.full(BLOCK, -1)
    kind[plan.exact[:, 1]] = 0
    kind[plan.altered[:, 1]] = [KINDS.index(name) for name in plan.kinds]
    return kind


def draw_subjects(seed: int, number: int) -> Subjects:
    """What the photos of block `number` show, by the same draws as `make_block` and without its features."""
    net = network(seed)
    main, second, share = _choose(net, generator(seed, 1, number))
    rng = generator(seed, 1, number)
    _place(net, rng)
    plan = draw_plan(rng, BLOCK)
    of = np.arange(BLOCK)
    of[plan.exact[:, 1]] = roots(plan)
    of[plan.altered[:, 1]] = plan.altered[:, 0]
    return Subjects(main=main[of], second=second[of], share=share[of, 0], of=of, kind=_kinds(plan))


def make_block(seed: int, number: int) -> Block:
    """Make block `number`: photos number * BLOCK and the 999 after it, always the whole block."""
    net, rng = network(seed), generator(seed, 1, number)
    latent, own = _place(net, rng)
    plan = draw_plan(rng, BLOCK)
    of, copy = plan.altered.T
    source = latent[of]
    latent[copy] = own[copy]
    pre = whole(latent / LATENT_STEP, LATENT_MAX) @ net.expand
    pre *= np.float32(LATENT_STEP / WEIGHT_SD)
    rows = rng.standard_normal(pre.shape, dtype=np.float32)
    rows *= np.float32(NOISE)
    pre += rows
    strength = _alter(net, pre, plan)
    latent[copy] = _mixed(source, own[copy], strength)
    _activate(pre, net.threshold, rows)
    contrast = CONTRAST * rng.standard_normal((BLOCK, 1))
    contrast[copy] = contrast[of] + COPY_CONTRAST * contrast[copy]
    scale = (np.exp(contrast) * (FC7_UNIT * ACTIVATION_STEP)).astype(np.float32)
    for array in (rows, scale, latent):
        array[plan.exact[:, 1]] = array[roots(plan)]
    fc8 = _score(net, rows, scale)
    rows *= scale
    start = number * BLOCK
    pairs = list_pairs(start, plan, strength, rows, fc8)
    whole_latent = whole(latent / LATENT_STEP, LATENT_MAX)
    return Block(start=start, fc7=rows, fc8=fc8, latent=whole_latent, kind=_kinds(plan), pairs=pairs)
