"""What the user sees: progress on standard error, the summary or one JSON document on standard output."""

import errno
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

from engine.errors import EngineError
from engine.progress import Progress as Told
from engine.words import sized

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class OutputError(EngineError):
    """Standard output does not take what is written to it: it leads to a full disk, say."""


class Output:
    """Standard output as `sys.stdout` while a verb runs: whoever writes to it, what fails is an OutputError.

    So it is never taken for an error of the verb's own files. written: whether anything was. A reader that is gone
    stays a BrokenPipeError.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.written = False

    def write(self, text: str) -> int:
        """Write a piece of text."""
        self.written = self.written or bool(text)
        with _output_errors():
            return self._file.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several pieces."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what was written."""
        with _output_errors():
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        full = {errno.EFBIG: "the file may not grow (`ulimit -f`)"} | dict.fromkeys(_FULL, "the disk is full")
        what = f"{full.get(error.errno or 0, 'cannot be written')} ({error.strerror})"
        raise OutputError(f"standard output: {what}. Lead it elsewhere, or make room.") from error


class Stream:
    """Standard output or standard error, whichever file that is at the time; in colour where a person reads it.

    In place of rich's Console, whose import takes longer than many a verb: it is needed for bars alone.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    @property
    def _file(self) -> TextIO:
        file: TextIO = getattr(sys, self._name)
        return file

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads it; FORCE_COLOR in the environment says so of a file too."""
        return bool(os.environ.get("FORCE_COLOR")) or self._file.isatty()

    def print(self, text: str = "", *, style: Literal["", "bold", "red", "yellow"] = "") -> None:
        """Write a line. No markup: what stands between brackets may be the name of a file."""
        if style and self.is_terminal and os.environ.get("TERM") != "dumb":
            code = "1" if style == "bold" else "" if os.environ.get("NO_COLOR") else _COLOURS[style]
            text = f"\x1b[{code}m{text}\x1b[0m" if code else text
        self._file.write(text + "\n")
        self._file.flush()


_COLOURS = {"red": "31", "yellow": "33"}
out, err = Stream("stdout"), Stream("stderr")

_PLAIN_EVERY = 10.0  # seconds between lines where standard error is a file


class Reporter:
    """Shows the progress of a job: a bar on a terminal, a line now and then in a log.

    A phase shorter than a second leaves nothing on a log.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._said = 0.0

    def __enter__(self) -> Self:
        """Begin to show progress."""
        if err.is_terminal:
            self._bars = _bars()
            self._bars.start()
        self._said = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bars."""
        if self._bars:
            self._bars.stop()

    def __call__(self, phase: str, done: int, total: int, *, unit: str = "rows", detail: str = "") -> None:
        """See `engine.progress.Progress`."""
        now = time.monotonic()
        started = self._started.setdefault(phase, now)
        if self._bars is None:
            if now - self._said >= _PLAIN_EVERY:
                self._said = now
                err.print(f"{phase}: {_counts(done, total, unit, now - started)} {detail}".rstrip())
            return
        if phase not in self._tasks:
            for task in self._tasks.values():
                self._bars.update(task, visible=False)
            self._tasks[phase] = self._bars.add_task(phase, total=total or None, counts="", detail="")
        counts = _counts(done, total, unit, now - started)
        self._bars.update(self._tasks[phase], completed=done, total=total or None, counts=counts, detail=detail)


def _bars() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # or else answers that go to a file would be printed above the bars
    )


def _counts(done: int, total: int, unit: str, seconds: float) -> str:
    if not done and not total:
        return ""
    rate = f", {done / seconds:,.0f} {unit}/s" if seconds > 1 else ""
    return f"{done:,} of {total:,} {unit}{rate}" if total else f"{done:,} {unit}{rate}"


def say_json(document: Mapping[str, Any]) -> None:
    """The one JSON document of a verb, on standard output."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, default=str) + "\n")


def say_facts(title: str, facts: Iterable[tuple[str, object]]) -> None:
    """A title and aligned lines of what was done."""
    lines = [(name, str(value)) for name, value in facts]
    width = max((len(name) for name, _ in lines), default=0)
    out.print(title, style="bold")
    for name, value in lines:
        out.print(f"  {name:<{width}}  {value}")


def say_next(*commands: Sequence[object]) -> None:
    """Which commands to try next, as they can be typed here: with the path of `mirsearch` if it is on none."""
    name = "mirsearch" if shutil.which("mirsearch") else sys.argv[0]
    out.print("\nNext:")
    for command in commands:
        out.print("  " + shlex.join([name, *map(str, command)]))


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]], texts: Sequence[str] = ()) -> None:
    """Aligned columns, numbers to the right and text to the left; never cut, whatever the width of the terminal.

    texts: which columns are text beside "" and "path".
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    left = {number for number, column in enumerate(columns) if column in ("", "path", *texts)}

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    out.print(line(columns), style="bold")
    for row in cells:
        out.print(line(row))


def warn(text: str) -> None:
    """One line on standard error."""
    err.print(text, style="yellow")


def size(count: float) -> str:
    """A number of bytes for people: 1.2 GB."""
    return sized(count)


class TimeLeft:
    """Progress whose lines in a log say how much time is left, as a bar on a terminal does."""

    def __init__(self, reporter: Told) -> None:
        self._reporter = reporter
        self._started: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int, *, unit: str = "rows", detail: str = "") -> None:
        """See `engine.progress.Progress`."""
        now = time.monotonic()
        passed = now - self._started.setdefault(phase, now)
        if done and total and not err.is_terminal:
            detail = f"{detail}, {_span(passed * (total - done) / done)} left".lstrip(", ")
        self._reporter(phase, done, total, unit=unit, detail=detail)


def _span(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
