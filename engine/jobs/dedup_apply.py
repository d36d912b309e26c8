"""Acting on a report of duplicates: the lists of photos that stay and that go, and these marked as removed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.jobs.decisions import Decisions
from engine.jobs.dedup_out import write_together
from engine.jobs.groups import DuplicateGroup
from engine.jobs.needed import need
from engine.jobs.removal import REMOVED_KINDS, Removal, plan_removal
from engine.jobs.report import write_ids
from engine.jobs.report_data import KINDS
from engine.jobs.store_mark import check_mark
from engine.store.change import RemoveReport, read_id_list, remove
from engine.store.durable import write_whole
from engine.store.manifest import digest
from engine.store.store import Store
from engine.words import counted

# Where the page's file may have been put; used if it is there and no other is named.
DECISIONS = "decisions.json"
REMOVED = "removed.txt"  # all photos that were ever marked as removed by this report


@dataclass(frozen=True, kw_only=True)
class ApplySpec:
    """What is applied. store: if it is not where it was. decisions: files; none: decisions.json of the report's folder.

    kinds: of groups that nobody decided on, those that lose all photos but their representative.
    """

    store: Path | None = None
    decisions: Sequence[Path] = ()
    kinds: Sequence[str] = REMOVED_KINDS


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a report comes to: its store, groups, decisions that were read, and what stays and goes. files: by name.

    doubts: lines about decisions that seem to be about other photos.
    """

    folder: Path
    store: Path
    groups: int
    decisions: int
    removal: Removal
    files: dict[str, Path]
    doubts: tuple[str, ...] = ()

    def remove(self) -> RemoveReport:
        """Mark the photos that go as removed in the store.

        They are written down in removed.txt first: `mirsearch remove --undo --ids-file` brings them back.
        """
        every = self.removal.drop
        if self.undo.exists():
            every = np.union1d(every, read_id_list(self.undo))
        write_whole(self.undo, b"".join(b"%d\n" % photo for photo in every))
        return remove(self.store, self.removal.drop)

    @property
    def undo(self) -> Path:
        """The list of all photos that were marked."""
        return self.folder / REMOVED


def apply_report(folder: Path, spec: ApplySpec | None = None) -> Applied:
    """Write keep.txt and drop.txt of a report by what was decided; nothing else is changed.

    InputError when the folder holds no report, or files of two, for a bad file of decisions, and for a photo of a group
    that the store does not have; StoreError when the rows that the report was made from have changed. Photos that were
    removed since are in neither list.
    """
    spec = spec or ApplySpec()
    summary = _summary(folder)
    data = _read(folder / "groups.jsonl")
    groups = list(_groups(folder / "groups.jsonl", data))
    if len(groups) != summary["groups"]:
        raise InputError(
            f"{folder / 'groups.jsonl'}: {counted(len(groups), 'group')}, summary.json says {summary['groups']:,}. "
            f"{_AGAIN}"
        )
    if spec.store is None and not Path(summary["store"]).is_dir():
        raise InputError(f"{folder}: is about {summary['store']}, which is not there. Name it with --store.")
    store = Store.open(spec.store or Path(summary["store"]))
    check_mark(store, summary["layer"], summary["made_of"], folder)
    _check_known(groups, store)
    _check_together(folder, summary, data)
    own = folder / DECISIONS
    told = Decisions.read(*(spec.decisions or ([own] if own.exists() else [])))
    gone = None if store.removed is None else store.photo_ids[store.removed]
    removal = plan_removal(groups, told, spec.kinds, gone)
    files = write_together(folder, {"keep.txt": partial(write_ids, photo_ids=removal.keep),
                                    "drop.txt": partial(write_ids, photo_ids=removal.drop)})  # fmt: skip
    return Applied(
        folder=folder, store=store.path, groups=len(groups), decisions=len(told), removal=removal, files=files,
        doubts=tuple(told.doubts(store, summary["store"])),
    )  # fmt: skip


_AGAIN = "Run `mirsearch dedup` again."


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_bytes())
        if isinstance(summary, dict) and "query_store" in summary:
            raise InputError(
                f"{folder}: holds the answers of a run with --query-store, which groups nothing. Expected the --out "
                "folder of `mirsearch dedup` without it."
            )
        named = {"store": str, "layer": str, "made_of": dict, "groups": int, "pairs": int, "report": str,
                 "groups_xxh3": str}  # fmt: skip
        if not all(isinstance(summary[name], kind) for name, kind in named.items()):
            raise TypeError
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no summary.json, expected the --out folder of `mirsearch dedup`") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {_AGAIN}") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: is not the summary that this `mirsearch dedup` writes. {_AGAIN}") from None
    found: dict[str, Any] = summary
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {_AGAIN}") from None


def _groups(path: Path, data: bytes) -> Iterator[DuplicateGroup]:
    """The groups of groups.jsonl, each checked."""
    for number, line in enumerate(data.splitlines(), 1):
        try:
            entry = json.loads(line)
            group = DuplicateGroup(
                representative=entry["representative"], photo_ids=tuple(entry["photo_ids"]),
                min_score=float(entry["min_score"]), kind=entry["kind"],
            )  # fmt: skip
            whole = {type(photo) for photo in group.photo_ids} == {int} and group.representative in group.photo_ids
            if not whole or group.kind not in KINDS or len(set(group.photo_ids)) < len(group.photo_ids):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f'{path}, line {number}: expected {{"representative", "photo_ids", "min_score", "kind"}} as `mirsearch '
                f"dedup` writes it. {_AGAIN}"
            ) from None
        yield group


def _check_together(folder: Path, summary: dict[str, Any], groups: bytes) -> None:
    """InputError unless groups and pairs are those that the summary was written with; pairs need not be there."""
    if digest(groups) != summary["groups_xxh3"]:
        raise InputError(f"{folder / 'groups.jsonl'}: is not what summary.json was written with. {_AGAIN}")
    path = folder / "pairs.parquet"
    try:
        found = need("pyarrow.parquet", "pyarrow").read_metadata(path)
        report = (found.metadata or {}).get(b"report", b"").decode(errors="replace")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}). {_AGAIN}") from None
    if (report, found.num_rows) != (summary["report"], summary["pairs"]):
        raise InputError(f"{path}: is not of the report that groups.jsonl and summary.json are of. {_AGAIN}")


def _check_known(groups: Sequence[DuplicateGroup], store: Store) -> None:
    """InputError where a group has a photo that the store knows nothing of, or that is in another group too."""
    photos = np.array([photo for group in groups for photo in group.photo_ids], object)
    unknown = [photo for photo in photos if not -1 < photo < 1 << 63]
    if not unknown and len(photos):
        known = photos.astype(np.int64)
        unknown = known[~np.isin(known, store.photo_ids)].tolist()
    if unknown:
        more = f" (and {len(unknown) - 1:,} more)" if len(unknown) > 1 else ""
        raise InputError(f"photo {unknown[0]}{more}: not in {store.path}. The report is of another store.")
    if len(set(photos)) < len(photos):
        raise InputError(f"groups.jsonl: a photo is in two groups. The file was changed. {_AGAIN}")
