"""Conditions in SQL over the annotations of a store, evaluated by DuckDB in a process of their own.

Three walls stand between a condition and the machine. It must be one expression that names no table but `annotations`
and no function but those of `sql_check`; DuckDB, which runs it, may open no file and no connection, load no extension
and change no setting; and the process it runs in has a bound on memory and is killed when its time is over, which
DuckDB's own interrupt, looked at between blocks of rows, cannot promise.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from engine.errors import DependencyError, EngineError, InputError, StoreError
from engine.store.annotations.sql_check import TABLE, refusal
from engine.store.annotations.table import Annotations, ingest_command
from engine.store.store import Store
from engine.words import sized

if TYPE_CHECKING:
    import duckdb

EARTH_KM: Final = 6371.0088  # mean radius, IUGG
LONGEST: Final = 100_000  # characters of a condition


@dataclass(frozen=True, kw_only=True)
class SqlLimits:
    """What a condition may take: seconds of wall time, bytes of DuckDB's memory, threads."""

    seconds: float = 60.0
    memory: int = 1_000_000_000
    threads: int = 0  # all cores

    @property
    def data_bytes(self) -> int:
        """What the whole process may hold: rows on their way and strings are not in DuckDB's own count."""
        return 2 * self.memory + (1 << 30)


def rows_where(store: Store, condition: str, *, limits: SqlLimits | None = None) -> npt.NDArray[np.bool_]:
    """Which rows (n,) of the store an SQL condition over its annotations is true for; null is false.

    The columns are those of `schema`, in the one table `annotations`, which a subquery may name again; a row for each
    of the store's, removed photos' too. Of a photo without annotations all columns but `photo_id` and `annotated` are
    null. Beyond DuckDB's functions there are `distance_km(lat1, lon1, lat2, lon2)` (great circle, null where one is)
    and `tags @> 'sunset'` or `tags @> ['sunset', 'beach']` (all of them are in the list). Times are UTC.

    InputError with the reason, and the columns, for what is no such condition or takes more than `limits`; StoreError
    when the annotations are damaged or of another state of the store.
    """
    annotations = Annotations.open(store)
    limits = limits or SqlLimits()
    try:
        ids = _in_process(annotations.path, condition, limits)
    except InputError as error:
        raise InputError(f"{_shown(condition)}: {error} Columns: {', '.join(annotations.columns)}.") from None
    mask = np.zeros(len(store), np.bool_)
    if len(ids):
        # Rows of removed photos are among them, which `Store.rows_of` refuses.
        order = np.argsort(store.photo_ids, kind="stable")
        at = order[np.minimum(np.searchsorted(store.photo_ids, ids, sorter=order), len(store) - 1)]
        if not np.array_equal(store.photo_ids[at], ids):
            raise StoreError(f"{annotations.path}: was changed meanwhile. Run the same command again.")
        mask[at] = True
    return mask


def _shown(condition: str) -> str:
    text = " ".join(condition.split())
    return f"condition {text[:77] + '…' if len(text) > 78 else text!r}"


# What the process that evaluates a condition runs; its search path is that of this one.
_CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from engine.store.annotations.sql import main; main()"
)


def _in_process(path: Path, condition: str, limits: SqlLimits) -> npt.NDArray[np.int64]:
    """The photo ids for which the condition is true, found by a process that is killed when it takes too much."""
    asked = json.dumps({"path": str(path.resolve()), "condition": condition, "limits": asdict(limits)}).encode()
    kept = ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-X", "utf8", "-c", _CHILD, json.dumps(sys.path)],
            input=asked, capture_output=True, timeout=limits.seconds, check=False,
            # Arrow's own pool would take 1 GB of the bound when it starts.
            env=environment | {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(_too_long(limits)) from None
    header, _, rows = done.stdout.partition(b"\n")
    try:
        said = json.loads(header)
    except ValueError:
        raise _died(done, limits) from None
    if reason := said.get("error"):
        kinds = {"file": StoreError, "package": DependencyError}
        raise kinds.get(said["kind"], InputError)(reason)
    ids = np.frombuffer(rows, "<i8")
    if len(ids) != said["rows"]:
        raise _died(done, limits)
    return ids


def _too_long(limits: SqlLimits) -> str:
    return f"takes longer than {limits.seconds:g} s, and was stopped. Simplify it."


def _too_much(limits: SqlLimits) -> str:
    return f"takes more memory than {sized(limits.memory)}, and was stopped. Simplify it."


def _died(done: "subprocess.CompletedProcess[bytes]", limits: SqlLimits) -> EngineError:
    if done.returncode == -signal.SIGXCPU:
        return InputError(_too_long(limits))
    last = (done.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
    if any(sign in last for sign in _MEMORY_ERRORS) or done.returncode in (-signal.SIGKILL, -signal.SIGABRT):
        return InputError(_too_much(limits))
    return EngineError(f"the process that evaluates the condition ended with {done.returncode}: {last or 'no word'}")


def main() -> None:
    """The process of one condition: reads what is asked from standard input, answers on standard output."""
    asked = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    limits = SqlLimits(**asked["limits"])
    resource.setrlimit(resource.RLIMIT_DATA, (limits.data_bytes, limits.data_bytes))
    # Were the process that waits for this one killed, nobody would stop it.
    cpu = int(limits.seconds * (os.cpu_count() or 1)) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    header: dict[str, Any]
    try:
        try:
            ids = matching_ids(Path(asked["path"]), asked["condition"], limits)
            header, body = {"rows": len(ids)}, np.ascontiguousarray(ids, "<i8").tobytes()
        except (EngineError, MemoryError) as error:
            kinds = {StoreError: "file", DependencyError: "package"}
            reason = str(error) if isinstance(error, EngineError) else _too_much(limits)
            header, body = {"error": reason, "kind": kinds.get(type(error), "condition")}, b""
        with open(answer, "wb") as file:  # noqa: PTH123 (a descriptor)
            file.write(json.dumps(header).encode() + b"\n" + body)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # not waiting for the threads of libraries, of which an error may have left some


def matching_ids(path: Path, condition: str, limits: SqlLimits | None = None) -> npt.NDArray[np.int64]:
    """The photo ids of a file of annotations for which a condition is true, evaluated in this very process.

    Checked and locked in as in `rows_where`, but only DuckDB's own memory is bounded, and nothing bounds the time.
    """
    import pyarrow.dataset as ds

    limits = limits or SqlLimits()
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    table = ds.dataset(path, format=ds.ParquetFileFormat(default_fragment_scan_options=checked))
    with connected(table, limits) as connection:
        return _evaluate(connection, condition, path, limits)


@contextmanager
def connected(table: Any, limits: SqlLimits) -> "Iterator[duckdb.DuckDBPyConnection]":
    """DuckDB in memory, over one Arrow data set or table, and locked in."""
    duckdb = _duckdb()
    try:
        connection = _connect(limits)
    except duckdb.Error as error:
        raise InputError(_too_much(limits)) if _is_memory(error) else EngineError(_one_line(str(error))) from error
    with connection:
        connection.register(TABLE, table)
        _lock(connection)
        yield connection


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise DependencyError("conditions in SQL need DuckDB: pip install 'duckdb>=1.4'") from error
    return duckdb


def _connect(limits: SqlLimits) -> "duckdb.DuckDBPyConnection":
    connection: duckdb.DuckDBPyConnection = _duckdb().connect(
        config={
            "memory_limit": f"{limits.memory} bytes",
            "threads": limits.threads or os.cpu_count() or 1,
            "temp_directory": "",  # what does not fit in memory is refused, not written to a disk
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,  # no variable of Python's becomes a table
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    for macro in _MACROS:
        connection.execute(macro)
    return connection


_MACROS = (
    # DuckDB's own @> takes lists alone.
    """CREATE MACRO "@>"(whole, part) AS list_has_all(whole,
        CASE WHEN typeof(part) = 'VARCHAR' THEN [CAST(part AS VARCHAR)] ELSE TRY_CAST(part AS VARCHAR[]) END)""",
    # The haversine formula; `least`, since rounding may lead past 1.
    f"""CREATE MACRO distance_km(lat1, lon1, lat2, lon2) AS CASE WHEN lat1 IS NOT NULL AND lon1 IS NOT NULL
        AND lat2 IS NOT NULL AND lon2 IS NOT NULL THEN 2 * {EARTH_KM} * asin(sqrt(least(1.0::DOUBLE,
        sin(radians(lat2 - lat1) / 2) ** 2
        + cos(radians(lat1)) * cos(radians(lat2)) * sin(radians(lon2 - lon1) / 2) ** 2))) END""",
)


def _lock(connection: "duckdb.DuckDBPyConnection") -> None:
    """From here on: no file, no network, no extension, and no setting that could bring them back."""
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _evaluate(
    connection: "duckdb.DuckDBPyConnection", condition: str, path: Path, limits: SqlLimits
) -> npt.NDArray[np.int64]:
    duckdb = _duckdb()
    if not condition.strip() or len(condition) > LONGEST or "\0" in condition:
        raise InputError(f"expected 1 to {LONGEST:,} characters, none of them a zero byte.")
    # The line's end closes a comment that the condition may end with.
    statement = f"SELECT photo_id FROM {TABLE} WHERE ({condition}\n)"
    try:
        tree = _parsed(connection, statement)
        if reason := refusal(tree):
            raise InputError(f"{reason}.")
        _parsed(connection, f"SELECT [{condition}\n]")  # its brackets are closed within it
        found = connection.execute(statement).fetchnumpy()["photo_id"]
    except (duckdb.Error, RuntimeError, MemoryError, RecursionError) as error:
        raise _translated(error, path, limits) from None
    return np.asarray(found, np.int64)


def _parsed(connection: "duckdb.DuckDBPyConnection", statement: str) -> dict[str, Any]:
    """The tree of a statement, as DuckDB's parser made it; InputError with its words where it could make none."""
    row: Sequence[Any] | None = connection.execute("SELECT json_serialize_sql(?)", [statement]).fetchone()
    tree: dict[str, Any] = json.loads(row[0] if row else "{}")
    if tree.get("error", True):
        reason = _one_line(tree.get("error_message", "cannot be read"))
        if "expression depth" in reason:
            raise InputError("is nested too deeply. Simplify it.")
        if "SELECT statements" in reason:
            reason = "one condition is expected, nothing else"
        raise InputError(f"{reason}.")
    return tree


_FILE_ERRORS = ("CRC checksum verification failed", "OSError", "ArrowInvalid", "Corrupt", "corrupt", "Parquet")


_MEMORY_ERRORS = (
    "MemoryError", "Out of Memory", "bad_alloc", "bad allocation", "malloc of size", "cannot allocate memory",
    "Cannot allocate memory", "can't start new thread",
)  # fmt: skip


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _MEMORY_ERRORS)


def _translated(error: Exception, path: Path, limits: SqlLimits) -> EngineError:
    text = str(error)
    if _is_memory(error):
        return InputError(_too_much(limits))
    if "expression depth" in text or isinstance(error, RecursionError):
        return InputError("is nested too deeply. Simplify it.")
    if "lambda arrow" in text:  # and DuckDB's own advice is a setting, which is locked
        return InputError("a lambda is written `lambda x: x = 'sunset'`, not `x -> x = 'sunset'`.")
    if any(sign in text for sign in _FILE_ERRORS) and not text.startswith(("Parser", "Binder", "Catalog")):
        return StoreError(
            f"{path}: cannot be read ({_one_line(text)}). {ingest_command(path.parent, 'writes it anew')}"
        )
    return InputError(f"{_one_line(text)}.")


def _one_line(text: str) -> str:
    """What DuckDB says, without the lines that draw where it is."""
    words = " ".join(text.split("\n\nLINE ")[0].split("\nLINE ")[0].split())
    return (words[:397] + "…" if len(words) > 400 else words).rstrip(".")
