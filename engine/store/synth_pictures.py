"""Small landscapes for the sample collection, drawn from the same latent vectors as the features.

Every colour, position and size is a smooth function of the latent vector: neighbours look alike, an altered
copy looks like its original, recompressed, cropped or recoloured as its kind says.
"""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from engine.store.synth_copies import KINDS, Float32
from engine.store.synth_model import LATENT, LATENT_STEP, TOPIC_DECAY, Block, generator, spectrum, whole

SIDE: Final = 96  # pixels
HILLS: Final = 3
TREES: Final = 3
TRAITS: Final = 40  # numbers between -1 and 1 that a picture is drawn from
TOGETHER: Final = 16  # pictures drawn at once: their canvas stays in the cache
QUALITY: Final = 85


@dataclass(frozen=True, kw_only=True)
class Alteration:
    """How far a kind of copy departs from its original: zoom and shift in parts of the side, JPEG quality."""

    zoom: float
    shift: float
    tint: float
    quality: int


# Originals and exact copies are not altered; the moved objects of a burst come from its latent vector.
UNALTERED: Final = Alteration(zoom=0.0, shift=0.0, tint=0.0, quality=QUALITY)
ALTERATIONS: Final = {
    "exact": UNALTERED,
    "near-strong": Alteration(zoom=0.01, shift=0.0, tint=0.01, quality=55),
    "near-medium": Alteration(zoom=0.08, shift=0.02, tint=0.05, quality=75),
    "near-weak": Alteration(zoom=0.16, shift=0.04, tint=0.16, quality=75),
    "burst": Alteration(zoom=0.03, shift=0.05, tint=0.01, quality=QUALITY),
}


@lru_cache(maxsize=2)
def _mixing(seed: int) -> Float32:
    """What each trait makes of the latent dimensions, (LATENT, TRAITS): whole numbers, for exact sums.

    Later dimensions weigh more: they differ between clusters rather than inside one, so that a burst keeps
    its colours.
    """
    weight = np.arange(1.0, LATENT + 1.0)[:, None] ** 0.4
    weight *= 24 / np.sqrt(np.square(weight * spectrum(TOPIC_DECAY)[:, None]).sum())
    return whole(weight * generator(seed, 2).standard_normal((LATENT, TRAITS)), 127)


def traits(block: Block, seed: int) -> Float32:
    """The numbers that the pictures of a block are drawn from, (1000, TRAITS) between -1 and 1."""
    mixed: Float32 = block.latent @ _mixing(seed)
    mixed *= np.float32(1.3 * LATENT_STEP / 24)
    return np.tanh(mixed, out=mixed)


def draw_block(block: Block, seed: int, count: int) -> list[bytes]:
    """JPEG files of the first `count` pictures of a block."""
    numbers = traits(block, seed)
    names = ["exact" if kind < 0 else KINDS[kind] for kind in block.kind]
    alterations = [ALTERATIONS[name] for name in names]
    size = np.array([(a.zoom, a.shift, a.shift, a.tint, a.tint, a.tint) for a in alterations], np.float32)
    rng = generator(seed, 3, block.start)
    change = size * rng.uniform(-1, 1, size.shape).astype(np.float32)
    change[:, 0] = np.abs(change[:, 0])  # a crop, never a border
    files, easel = list[bytes](), Easel()
    for first in range(0, count, TOGETHER):
        some = slice(first, min(first + TOGETHER, count))
        for offset, pixels in enumerate(_paint(easel, numbers[some], change[some]), first):
            file = BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=alterations[offset].quality)
            files.append(file.getvalue())
    return files


def _hue(angle: Float32, saturation: Float32 | float, value: Float32 | float) -> Float32:
    """Colours (n, 3) on a smooth wheel: angle in turns, saturation and value between 0 and 1."""
    phase = angle[:, None] + np.array([0.0, 1 / 3, 2 / 3], np.float32)
    wheel = 0.5 + 0.5 * np.cos(2 * np.pi * phase)
    saturation, value = np.asarray(saturation).reshape(-1, 1), np.asarray(value).reshape(-1, 1)
    colour: Float32 = (value * (1 - saturation + saturation * wheel)).astype(np.float32)
    return colour


class Easel:
    """Up to TOGETHER pictures being painted, in memory that is used again and again: fresh pages cost more."""

    def __init__(self) -> None:
        self._canvas = np.empty((TOGETHER, 3, SIDE, SIDE), np.float32)
        self._layer = np.empty_like(self._canvas)
        self._mask = np.empty((TOGETHER, SIDE, SIDE), np.float32)
        self._pixels = np.empty((TOGETHER, SIDE, SIDE, 3), np.uint8)

    def fade(self, top: Float32, low: Float32, y: Float32) -> None:
        """Begin n pictures with a sky that goes from colours `top` (n, 3) down to `low`, over rows y (n, SIDE)."""
        self.pictures = len(top)
        height = np.clip(0.5 + 0.5 * y, 0, 1)[:, None, :]
        rows = top[:, :, None] + (low - top)[:, :, None] * height
        self._canvas[: self.pictures] = rows[:, :, :, None]

    def cover(self, mask: Float32, colour: Float32) -> None:
        """Paint colours (n, 3) over the pictures where `mask` (n, SIDE, SIDE) is 1."""
        canvas, layer = self._canvas[: self.pictures], self._layer[: self.pictures]
        np.subtract(colour[:, :, None, None], canvas, out=layer)
        layer *= mask[:, None]
        canvas += layer

    def disc(self, x: Float32, y: Float32, radius: Float32, edge: float) -> Float32:
        """Soft discs of radii (n,) around 0 of columns x (n, SIDE) and rows y: 1 inside, 0 outside."""
        mask = self._mask[: self.pictures]
        scale = np.asarray(1 / (edge * radius), np.float32)[:, None]
        np.subtract((radius / edge)[:, None, None], (scale * np.square(x))[:, None, :], out=mask)
        mask -= (scale * np.square(y))[:, :, None]
        return np.clip(mask, 0, 1, out=mask)

    def below(self, outline: Float32, y: Float32) -> Float32:
        """1 under outlines (n, SIDE), heights by column, and 0 above, over rows y (n, SIDE)."""
        mask = self._mask[: self.pictures]
        np.subtract(y[:, :, None] * (SIDE / 3), outline[:, None, :] * (SIDE / 3), out=mask)
        return np.clip(mask, 0, 1, out=mask)

    def finish(self, light: Float32) -> npt.NDArray[np.uint8]:
        """The pictures (n, SIDE, SIDE, 3) under tinted light (n, 3); valid until the next ones."""
        canvas, pixels = self._canvas[: self.pictures], self._pixels[: self.pictures]
        canvas *= 255 * light[:, :, None, None]
        np.clip(canvas, 0, 255, out=canvas)
        np.copyto(pixels, canvas.transpose(0, 2, 3, 1), casting="unsafe")
        return pixels


def _paint(easel: Easel, number: Float32, change: Float32) -> npt.NDArray[np.uint8]:
    """Pictures (n, SIDE, SIDE, 3) of traits (n, TRAITS), altered by (zoom, shift x, y, tint r, g, b)."""
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    x = axis * (1 - change[:, :1]) + 2 * change[:, 1:2]
    y = axis * (1 - change[:, :1]) + 2 * change[:, 2:3]
    trait = iter(number.T)
    hue, glow, light = 0.5 * next(trait), 0.1 * next(trait), next(trait)
    easel.fade(_hue(0.5 + hue, 0.48, 0.76 + 0.2 * light), _hue(0.72 + hue + glow, 0.35, 0.95 + 0.05 * light), y)
    sun_x, sun_y, sun = 0.8 * next(trait), -0.4 + 0.4 * next(trait), 0.17 + 0.09 * next(trait)
    easel.cover(easel.disc(x - sun_x[:, None], y - sun_y[:, None], sun, 0.02), _hue(hue + 0.1 + glow, 0.2, 1.0))
    ground = 0.5 + hue + 0.3 * next(trait)
    for hill in range(HILLS):
        rise, bend, phase, rough = next(trait), next(trait), next(trait), next(trait)
        wave = (2.2 + bend + 0.7 * hill)[:, None] * x + (3 * phase + 2.1 * hill)[:, None]
        outline = 0.16 * np.sin(wave) + (0.05 + 0.05 * rough)[:, None] * np.abs(np.sin(2.3 * wave))
        outline = 0.05 + 0.3 * hill + (0.16 * rise)[:, None] - outline
        colour = _hue(ground + 0.05 * hill, 0.35 + 0.12 * hill, 0.8 - 0.22 * hill)
        easel.cover(easel.below(outline, y), colour)
    for tree in range(TREES):
        tree_x, tree_y, radius = 0.9 * next(trait), 0.55 + 0.15 * next(trait), 0.13 + 0.1 * next(trait)
        colour = _hue(ground + 0.45 + 0.25 * next(trait) + 0.06 * tree, 0.6, 0.75)
        easel.cover(easel.disc(x - tree_x[:, None], y - tree_y[:, None], radius, 0.03), colour)
    return easel.finish(1 + change[:, 3:])
