"""What was interrupted in a folder, by the journal it left: which verb goes on with it, and how."""

from pathlib import Path

from engine.store.dat import LAYERS
from engine.store.journal import NAME, job_of


def unfinished_verb(store: Path) -> str:
    """`ingest` or `import`, whichever began what the journal in a folder says is not finished; "" without a journal.

    An ingest writes fc7 and fc8 together, an import one layer.
    """
    if not (store / NAME).exists():
        return ""
    job = job_of(store)
    return "import" if job is not None and job.get("layers") != LAYERS else "ingest"


def how_to_go_on(store: Path) -> str:
    """A sentence on what was interrupted in a folder and what to do; "" where nothing was."""
    verb = unfinished_verb(store)
    if not verb:
        return ""
    what = "it continues" if verb == "ingest" else "it begins anew"
    return f"An {verb} was interrupted here: run it again, and {what}."
