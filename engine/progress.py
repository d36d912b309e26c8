"""How work that takes longer than a second tells its caller how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Called with the name of the phase, the units done and the units in all.

    Calls come often and from one thread; a reporter throttles itself. `unit` is what is counted
    (files, rows, queries), `detail` is free text for the end of the line.
    """

    def __call__(self, phase: str, done: int, total: int, *, unit: str = "rows", detail: str = "") -> None:
        """Say that `done` of `total` units of a phase are done; a total of 0 means nobody knows."""
        ...


def silent(phase: str, done: int, total: int, *, unit: str = "rows", detail: str = "") -> None:
    """Report nothing: the default of every job."""
