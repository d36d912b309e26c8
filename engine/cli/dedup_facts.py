"""What `dedup` says of what it found."""

from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.console import say_facts
from engine.cli.options import device_facts
from engine.words import counted

if TYPE_CHECKING:
    from engine.jobs.copy_metrics import TruthReport
    from engine.jobs.dedup import Duplicates
    from engine.jobs.dedup_between import KnownPhotos
    from engine.jobs.dedup_threshold import ThresholdChoice
    from kernels import Device

Facts = list[tuple[str, object]]


def say_found(found: "Duplicates", truth: "TruthReport | None", device: "Device", files: dict[str, Path]) -> None:
    """Groups and pairs of one store."""
    groups = counted(len(found.groups), "group")
    say_facts(
        f"{groups} of duplicates, {found.grouped:,} of {counted(found.photos, 'photo')}",
        [
            ("pairs", f"{len(found.pairs):,} with a score of at least {found.threshold:.4g}"),
            *_apart(found),
            *(_threshold(found.threshold_choice) if found.threshold_choice else []),
            _rate(found.photos, found.seconds),
            *([("continued", f"{counted(found.resumed, 'block')} had been done")] if found.resumed else []),
            device_facts(device),
            *(_against(truth) if truth else []),
        ],
    )
    say_facts("Written", list(files.items()))


def say_known(known: "KnownPhotos", photos: int, device: "Device", files: dict[str, Path]) -> None:
    """Which photos of a new store are in an old one; photos: of both."""
    every = counted(len(known.known) + len(known.unknown), "photo")
    are = "is" if len(known.known) == 1 else "are"
    more = "pair of identical photos is" if known.unlisted == 1 else "pairs of identical photos are"
    say_facts(
        f"{len(known.known):,} of {every} of {known.query_store} {are} in {known.store}",
        [
            ("pairs", f"{len(known.pairs):,}, {int(known.exact.sum()):,} of them exact"),
            *([("not listed", f"{known.unlisted:,} more {more} left out")] if known.unlisted else []),
            *_threshold(known.threshold_choice),
            _rate(photos, known.seconds),
            device_facts(device),
        ],
    )
    say_facts("Written", list(files.items()))


def _apart(found: "Duplicates") -> Facts:
    """Photos that are in pairs alone."""
    count = found.ungrouped
    if not count:
        return []
    return [("in no group", f"{counted(count, 'photo')} of pairs, in neither keep.txt nor drop.txt")]


def _threshold(choice: "ThresholdChoice") -> Facts:
    return [("threshold", f"{choice.threshold:.4g}: {choice.reason}")]


def _rate(photos: int, seconds: dict[str, float]) -> tuple[str, object]:
    passed = sum(seconds.values())
    return "searched", f"{counted(photos, 'photo')} in {passed:.1f} s ({photos / max(passed, 1e-9):,.0f} photos/s)"


def _against(truth: "TruthReport") -> Facts:
    lines: Facts = [
        (kind, f"{one.found:,} of {counted(one.planted, 'planted pair')} found")
        for kind, one in truth.kinds.items()
        if one.planted
    ]
    if truth.precision is not None:
        lines.append(("precision", f"{truth.precision:.4f} of the pairs found are planted duplicates"))
    return lines
