"""Numbers as they stand in messages: bytes in a fitting unit, counts with their noun."""


def sized(count: float) -> str:
    """A number of bytes: `20.4 KB`, `1.2 GB`; a unit is 1,000 of the one before."""
    if round(count) < 1000:
        return counted(round(count), "byte")
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if round(count, 1) < 1000 or unit == "GB":
            break
    return f"{count:,.1f} {unit}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count and its noun: `1 file`, `2,000 files`. plural: where an s at the end does not make it."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
