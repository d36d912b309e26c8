"""The folder that a search for duplicates answers into: of which kind its files are, and how they are written."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from engine.errors import InputError
from engine.jobs.needed import need
from engine.store.durable import disk_errors, flush_folder, part_of, publish

Answers = Literal["report", "known"]
# By kind of run; the last is written last: where it is, the others are whole and belong to it.
FILES: dict[Answers, tuple[str, ...]] = {
    "report": ("groups.jsonl", "pairs.parquet", "summary.json", "keep.txt", "drop.txt", "report.html"),
    "known": ("pairs.parquet", "known.txt", "new.txt", "summary.json"),
}
_OTHER: dict[Answers, Answers] = {"report": "known", "known": "report"}
_OF = {"report": "without --query-store", "known": "with --query-store"}


def check_outputs(out: Path | str, images: Path | str | None = None, kind: Answers = "report") -> None:
    """Make the folder `out`, and raise whatever would keep answers of a kind from being written: worth an early call.

    InputError where answers of the other kind are in it: some of their files have the same names, the others would lie
    beside new ones as if they belonged to them.
    """
    out = Path(out)
    if images is not None and not Path(images).is_dir():
        raise InputError(f"--images {images}: not a folder, expected the folder that holds 0/123.jpg")
    if not next(path for path in (out, *out.absolute().parents) if path.exists()).is_dir():
        raise InputError(f"--out {out}: is or lies below a file, expected a folder. Give another folder.")
    for name in FILES[kind]:
        if (out / name).is_dir():
            raise InputError(
                f"{out / name}: is a folder, and a file of that name is to be written. Give another --out."
            )
    check_kind(out, kind)
    need("pyarrow.parquet", "pyarrow")
    if images is not None:
        need("PIL.Image", "pillow")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)


def check_kind(out: Path, kind: Answers) -> None:
    """InputError where a folder holds files that only the other kind of run writes."""
    other = _OTHER[kind]
    theirs = [name for name in FILES[other] if name not in FILES[kind] and (out / name).exists()]
    if theirs:
        raise InputError(
            f"--out {out}: holds {', '.join(theirs)} of a run {_OF[other]}, and this is one {_OF[kind]}. Give another "
            "folder, or take these files away."
        )


@contextmanager
def answers_in(out: Path, images: Path | None = None, kind: Answers = "report") -> Iterator[None]:
    """A folder that answers may be written to; whatever goes wrong meanwhile leaves no empty folder behind."""
    made = [path for path in (out, *out.parents) if not path.exists()]
    check_outputs(out, images, kind)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # as soon as one holds something, as an interrupted search does
            for path in made:
                path.rmdir()
        raise


def write_together(out: Path, writers: Mapping[str, Callable[[BinaryIO], None]]) -> dict[str, Path]:
    """Write files into a folder aside, and give them their names when all are whole, the last one last.

    An old file of the last name is taken away first: it belongs to the old ones.
    """
    paths = {name: out / name for name in writers}
    with disk_errors(out):
        try:
            for name, path in paths.items():
                with part_of(path).open("wb") as file:
                    writers[name](file)
            paths[list(paths)[-1]].unlink(missing_ok=True)
            for path in paths.values():
                publish(path)
            flush_folder(out)
        finally:
            for path in paths.values():
                with suppress(OSError):
                    part_of(path).unlink(missing_ok=True)
    return paths


def write_text(file: BinaryIO, text: str) -> None:
    """Write text; the name of a folder may hold bytes that are none."""
    file.write(text.encode(errors="replace"))
