"""SQL over the annotations: right answers, and nothing but answers."""

import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import DependencyError, EngineError, InputError, StoreError
from engine.store.annotations import sql
from engine.store.annotations.schema import schema
from engine.store.annotations.sql import SqlLimits, matching_ids, rows_where
from engine.store.annotations.sql_check import _FUNCTIONS, refusal
from engine.store.annotations.table import Annotations
from engine.store.store import Store
from tests.builders import flip_bit, make_store
from tests.index.removal import mark_removed
from tests.store.annotations.written import WORDS, annotate, made_up

ROWS = 600


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Ids in no order: the rows of a store that has grown."""
    random = np.random.default_rng(4)
    ids = random.permutation(ROWS) * 3 + 11
    made = make_store(tmp_path_factory.mktemp("sql") / "store", {"fc7": np.zeros((ROWS, 4), np.float32)}, ids)
    return annotate(made, made_up(ids))


@pytest.fixture(scope="module")
def rows(store) -> list[dict[str, Any]]:
    return Annotations.open(store).of_rows(np.arange(ROWS))


def here(store: Store, condition: str) -> np.ndarray:
    """The mask, evaluated in this process: quick, for many conditions."""
    found = matching_ids(Annotations.open(store).path, condition)
    assert len(np.unique(found)) == len(found)
    return np.isin(store.photo_ids, found)


def haversine(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """By vectors of unit length, not by the formula under test."""

    def at(lat: float, lon: float) -> np.ndarray:
        lat, lon = math.radians(lat), math.radians(lon)
        return np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])

    a, b = at(lat1, lon1), at(lat2, lon2)
    return 6371.0088 * math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b))


CASES: dict[str, Any] = {
    "tags @> 'sunset'": lambda row: row["tags"] is not None and "sunset" in row["tags"],
    "tags @> ['sunset', 'dog']": lambda row: row["tags"] is not None and {"sunset", "dog"} <= set(row["tags"]),
    "tags @> []": lambda row: row["tags"] is not None,
    "tags @> NULL": lambda row: False,
    "tags @> 'été'": lambda row: row["tags"] is not None and "été" in row["tags"],
    "tags @> 'Sunset'": lambda row: False,
    "tags @> '[sunset]'": lambda row: False,
    "tags_raw @> 'Sunset'": lambda row: row["tags_raw"] is not None and "Sunset" in row["tags_raw"],
    "NOT tags @> 'sunset'": lambda row: row["tags"] is not None and "sunset" not in row["tags"],
    "tags && ['cat', 'dog']": lambda row: row["tags"] is not None and bool({"cat", "dog"} & set(row["tags"])),
    "year(taken) = 2009": lambda row: row["taken"] is not None and row["taken"].year == 2009,
    "taken >= '2009-03-01' AND taken < '2010-01-01'": lambda row: (
        row["taken"] is not None and "2009-03-01" <= row["taken"].isoformat() < "2010-01-01"
    ),
    "hour(posted) = 23": lambda row: row["posted"] is not None and row["posted"].hour == 23,
    "title IS NULL": lambda row: row["title"] is None,
    "annotated AND title IS NULL": lambda row: row["annotated"] and row["title"] is None,
    "NOT annotated": lambda row: not row["annotated"],
    "photo_id % 7 = 3": lambda row: row["photo_id"] % 7 == 3,
    "exif['Flash'] = 'No Flash'": lambda row: row["exif"] is not None,
    "len(list_filter(groups, lambda g: g.title = 'Group 1')) > 0": lambda row: (
        row["groups"] is not None and any(group["title"] == "Group 1" for group in row["groups"])
    ),
    "EXISTS (SELECT 1 FROM unnest(tags) AS t(tag) WHERE tag LIKE 'b%')": lambda row: any(
        tag.startswith("b") for tag in row["tags"] or ()
    ),
    "description LIKE '%It''s \"quoted\"%'": lambda row: "quoted" in (row["description"] or ""),
    "title ILIKE 'SUNSET%' -- a comment": lambda row: (row["title"] or "").startswith("Sunset"),
    "/* one */ iso = 100 /* (two */": lambda row: row["iso"] == 100,
    "views": lambda row: bool(row["views"]),
}


@pytest.mark.parametrize("condition", CASES)
def test_a_condition_is_true_where_it_is_true(store, rows, condition):
    np.testing.assert_array_equal(here(store, condition), [bool(CASES[condition](row)) for row in rows])


def test_the_other_process_gives_the_rows_in_the_order_of_the_store(store, rows):
    near = "distance_km(latitude, longitude, 48.86, 2.35) < 9000"
    condition = f"tags @> 'sunset' and year(taken) between 2007 and 2011 and {near}"
    mask = rows_where(store, condition)
    assert mask.dtype == np.bool_
    assert mask.shape == (ROWS,)
    expected = [
        "sunset" in (row["tags"] or ()) and row["taken"] is not None and 2007 <= row["taken"].year <= 2011
        and None not in (row["latitude"], row["longitude"])
        and haversine(row["latitude"], row["longitude"], 48.86, 2.35) < 9000
        for row in rows
    ]  # fmt: skip
    np.testing.assert_array_equal(mask, expected)
    assert 0 < mask.sum() < ROWS


def test_a_condition_that_takes_seconds_is_answered_too(store):
    """DuckDB would draw a bar on standard output."""
    mask = rows_where(store, "(SELECT sum(i % 7) FROM range(1000000000) AS t(i)) > 0 AND photo_id % 2 = 0")
    np.testing.assert_array_equal(mask, store.photo_ids % 2 == 0)


def test_removed_photos_have_their_annotations_still(store):
    np.testing.assert_array_equal(rows_where(mark_removed(store, [0, 5]), "true"), np.ones(ROWS, np.bool_))
    assert not rows_where(store, "null").any()


def test_distances(store, rows):
    for km in (500, 5000, 12000, 20100):
        expected = [
            None not in (row["latitude"], row["longitude"])
            and haversine(row["latitude"], row["longitude"], -33.9, 151.2) < km
            for row in rows
        ]
        np.testing.assert_array_equal(here(store, f"distance_km(latitude, longitude, -33.9, 151.2) < {km}"), expected)
    # To itself and to the other side of the earth: rounding must not leave the domain of asin.
    assert here(store, "distance_km(latitude, longitude, latitude, longitude) < 0.001").sum() == sum(
        None not in (row["latitude"], row["longitude"]) for row in rows
    )
    assert here(store, "abs(distance_km(12.3, 45.6, -12.3, -134.4) - pi() * 6371.0088) < 0.01").all()


def test_subqueries_see_the_annotations_alone(store, rows):
    owners: dict[str, list[int]] = {}
    for row in rows:
        if row["owner"] is not None and row["views"] is not None:
            owners.setdefault(row["owner"], []).append(row["views"])
    more = "views > (SELECT avg(a.views) FROM annotations a WHERE a.owner = annotations.owner)"
    expected = [
        row["views"] is not None and row["owner"] in owners and row["views"] > np.mean(owners[row["owner"]])
        for row in rows
    ]
    np.testing.assert_array_equal(here(store, more), expected)
    busy = (
        "owner IN (WITH busy AS (SELECT owner, count(*) AS n FROM annotations GROUP BY owner) "
        "SELECT owner FROM busy WHERE n > 40)"
    )
    counts = {owner: sum(row["owner"] == owner for row in rows) for owner in {row["owner"] for row in rows}}
    np.testing.assert_array_equal(
        here(store, busy), [row["owner"] is not None and counts[row["owner"]] > 40 for row in rows]
    )
    ranked = "views = (SELECT max(views) OVER () FROM annotations LIMIT 1)"
    most = max(row["views"] for row in rows if row["views"] is not None)
    np.testing.assert_array_equal(here(store, ranked), [row["views"] == most for row in rows])


# --- 1,000 conditions against a filter of Python's, in the logic of three values ---


def _compare(left: Any, sign: str, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    return bool({"=": left == right, "<>": left != right, "<": left < right, ">=": left >= right}[sign])


def _term(random: np.random.Generator) -> tuple[str, Any]:
    """A condition of one column, and what it means."""

    def pick(*of: Any) -> Any:
        return of[random.integers(len(of))]

    kind, sign = random.integers(9), pick("=", "<>", "<", ">=")
    if kind == 0:
        word = pick(*WORDS)
        return f"tags @> '{word}'", lambda row: None if row["tags"] is None else word in row["tags"]
    if kind == 1:
        two = [pick(*WORDS), pick(*WORDS)]
        return f"tags @> {two}", lambda row: None if row["tags"] is None else set(two) <= set(row["tags"])
    if kind == 2:
        column, number = pick(("views", 1000), ("iso", 1700), ("licence_id", 3), ("photo_id", 1800))
        bound = int(random.integers(number))
        return f"{column} {sign} {bound}", lambda row: _compare(row[column], sign, bound)
    if kind == 3:
        year = int(random.integers(2004, 2015))
        return f"year(taken) {sign} {year}", lambda row: _compare(row["taken"] and row["taken"].year, sign, year)
    if kind == 4:
        north = float(np.round(random.uniform(-90, 90), 3))
        return f"latitude {sign} {north}", lambda row: _compare(row["latitude"], sign, north)
    if kind == 5:
        column = pick("title", "tags", "taken", "owner", "latitude", "exif", "groups")
        negated = pick("", "NOT ")
        return f"{column} IS {negated}NULL", lambda row: (row[column] is None) == (negated == "")
    if kind == 6:
        text = pick("no. 1", "Sun", "t", "été", "É")
        return f"title LIKE '%{text}%'", lambda row: None if row["title"] is None else text in row["title"]
    if kind == 7:
        camera = pick("Canon EOS 5D", "NIKON D90", "x")
        return f"camera {sign} '{camera}'", lambda row: _compare(row["camera"], sign, camera)
    few = int(random.integers(4))
    return f"len(tags) {sign} {few}", lambda row: _compare(None if row["tags"] is None else len(row["tags"]), sign, few)


def _condition(random: np.random.Generator, depth: int) -> tuple[str, Any]:
    if depth == 0 or random.random() < 0.25:
        return _term(random)
    text, first = _condition(random, depth - 1)
    if random.random() < 0.25:
        return f"NOT ({text})", lambda row: None if (value := first(row)) is None else not value
    other, second = _condition(random, depth - 1)
    decides, word = (False, "AND") if random.random() < 0.5 else (True, "OR")

    def value(row: dict[str, Any]) -> bool | None:
        values = (first(row), second(row))
        return decides if decides in values else None if None in values else not decides

    return f"({text} {word} {other})", value


@pytest.fixture
def connection(store):
    """DuckDB over the annotations, as `matching_ids` opens it, once for many conditions."""
    with sql.connected(Annotations.open(store).table(), SqlLimits()) as opened:
        yield opened


def test_a_thousand_random_conditions_are_a_brute_force_filter(store, rows, connection):
    random, path, hits = np.random.default_rng(8), Annotations.open(store).path, 0
    for number in range(1000):
        text, meaning = _condition(random, int(random.integers(1, 5)))
        expected = np.array([meaning(row) is True for row in rows])
        found = sql._evaluate(connection, text, path, SqlLimits())
        np.testing.assert_array_equal(np.isin(store.photo_ids, found), expected, text)
        if number % 20 == 0:  # and with the file as it is read otherwise, column by column
            np.testing.assert_array_equal(here(store, text), expected, text)
        hits += 0 < expected.sum() < ROWS
    assert hits > 800


# --- what is refused ---

STATEMENTS = (
    "ATTACH 'x.db'", "COPY annotations TO 'x.csv'", "COPY annotations FROM 'x.csv'", "PRAGMA version",
    "SET memory_limit = '1TB'", "RESET memory_limit", "INSTALL httpfs", "LOAD httpfs", "EXPORT DATABASE 'x'",
    "IMPORT DATABASE 'x'", "USE main", "CALL pragma_version()", "CHECKPOINT", "CREATE TABLE x (a INT)",
    "DETACH x", "EXPLAIN SELECT 1", "PREPARE x AS SELECT 1", "VACUUM", "BEGIN", "CREATE SECRET (TYPE s3)",
    "FROM annotations", "FORCE INSTALL httpfs", "SET VARIABLE x = 1", "SHOW TABLES",
)  # fmt: skip
REFUSED = {
    "": "expected 1 to 100,000 characters",
    " \n": "expected 1 to",
    "true, true": "",
    "-- true": "",
    "title =": "syntax error",
    "titel = 'x'": '"title"',
    "taken > 'abc'": "abc",
    "nosuch(title) = 1": "nosuch()",
    "true; DROP TABLE annotations": "syntax error",
    "true); DROP TABLE annotations; SELECT (1": "one condition is expected, nothing else",
    "true); SELECT (1": "several statements",
    "1=1) OR (1=1": "syntax error",
    "1=1) ORDER BY (photo_id": "not a query of its own",
    "1=1) LIMIT (1": "not a query of its own",
    "1=1) GROUP BY ALL HAVING (1=1": "not a query of its own",
    "1=1) UNION SELECT photo_id FROM annotations WHERE (1=1": "not a query of its own",
    "1=1 /*": "",
    "title = 'x": "",
    'title = "x': "",
    "title = $$x": "",
    "\0": "zero byte",
    "x" * 100_001: "100,000 characters",
    "NOT " * 5000 + "true": "nested too deeply",
    "? = 1": "parameters",
    "$1 = 1": "parameters",
    "#1 = 1": "positional references",
    "DEFAULT = 1": "",
    "EXISTS (FROM annotations USING SAMPLE 3)": "sample",
    "(SELECT count(*) FROM annotations TABLESAMPLE 10%) > 1": "sample",
    "EXISTS (FROM annotations AT (VERSION => 1))": "AT has no place",
    **dict.fromkeys(
        ("taken < now()", "posted < current_timestamp", "taken < current_date", "taken::date = today()",
         "year(age(taken)) > 3", "taken < LOCALTIMESTAMP", "get_current_timestamp() > posted",
         "transaction_timestamp() > posted", "current_time IS NULL"),
        "goes by the clock",
    ),
    "len(list_filter(tags, x -> x = 'dog')) > 0": "a lambda is written `lambda x: x = 'sunset'`",
    "current_user = 'x'": "current_user is not among the functions",
    "user = 'x'": "user is not among the functions",
    "current_schema = 'x'": "current_schema is not among the functions",
    "EXISTS (FROM '/etc/passwd')": "annotations alone",
    "EXISTS (FROM 'https://example.org/x.parquet')": "annotations alone",
    "EXISTS (FROM main.annotations)": "annotations alone",
    "EXISTS (FROM information_schema.tables)": "annotations alone",
    "EXISTS (FROM duckdb_settings)": "annotations alone",
    "EXISTS (FROM rows)": "annotations alone",  # a variable of Python's
    "EXISTS (WITH \"/etc/passwd\" AS (SELECT 1) FROM '/etc/passwd')": "letters and digits",
    "EXISTS (WITH duckdb_settings AS (SELECT 1) FROM duckdb_settings)": "letters and digits",
    "(SELECT 1 FROM (SHOW TABLES)) = 1": "SHOW has no place",
    "(SELECT 1 FROM (DESCRIBE annotations)) = 1": "SHOW has no place",
    "(SUMMARIZE annotations) = 1": "SHOW has no place",
    "(PIVOT annotations ON iso USING count(*)) = 1": "nothing else",
    "EXISTS (DELETE FROM annotations RETURNING 1)": "",
    "(WITH r AS (INSERT INTO annotations VALUES (1) RETURNING 1) SELECT 1 FROM r) = 1": "",
    "getenv('HOME') = ''": "getenv()",
    "getvariable('x') = 1": "getvariable()",
    "current_setting('temp_directory') = ''": "current_setting()",
    "main.current_setting('temp_directory') = ''": "current_setting()",
    '"getenv"(\'HOME\') = 1': "getenv()",
    "GeTeNv('HOME') = 1": "getenv()",
    "sleep_ms(100) = 1": "sleep_ms()",
    "pg_sleep(100) = 1": "pg_sleep()",
    "random() < 0.5": "random()",
    "uuid() = ''": "uuid()",
    "nextval('x') = 1": "nextval()",
    "write_log('x') = 1": "write_log()",
    "json_execute_serialized_sql('x') = 1": "json_execute_serialized_sql()",
    "EXISTS (FROM query('SELECT 1'))": "query()",
    "EXISTS (FROM query_table('annotations'))": "query_table()",
    "title.getenv() = 1": "getenv()",
    "[getenv(t) FOR t IN tags] = []": "getenv()",
    "row_number() OVER (ORDER BY getenv('x')) = 1": "getenv()",
    "count(*) FILTER (WHERE getenv('x') = '') > 1": "getenv()",
    "EXISTS (SELECT 1 FROM annotations ORDER BY getenv('x'))": "getenv()",
    "EXISTS (SELECT 1 FROM annotations LIMIT (SELECT getenv('x')::INT))": "getenv()",
    "EXISTS (VALUES (getenv('x')))": "getenv()",
    "EXISTS (SELECT 1 FROM annotations a JOIN annotations b ON getenv('x') = '')": "getenv()",
    "CAST(getenv('x') AS INT) = 1": "getenv()",
    **dict.fromkeys(STATEMENTS, ""),
}  # fmt: skip


@pytest.mark.parametrize("condition", REFUSED)
def test_what_is_no_condition_is_refused_in_one_line(store, condition):
    before = sorted(store.path.iterdir())
    with pytest.raises(InputError) as caught:
        here(store, condition)
    assert REFUSED[condition] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(store.path.iterdir()) == before


def test_a_statement_beside_the_condition_is_refused(store):
    for statement in STATEMENTS:
        for text in (f"true); {statement}; SELECT (1", f"true); {statement} --", f"true; {statement}"):
            with pytest.raises(InputError):
                here(store, text)


def test_every_function_that_reads_something_is_refused(store, connection):
    """All that DuckDB has, as scalar and as table function: none but those of the list gets past the check."""
    names = connection.execute("SELECT DISTINCT function_name, function_type FROM duckdb_functions()").fetchall()
    tables = {name for name, kind in names if kind in ("table", "table_macro", "pragma")}
    assert {"read_csv", "read_parquet", "read_text", "read_blob", "read_json", "glob", "parquet_metadata"} <= tables
    for name in sorted({name for name, _ in names if name.isidentifier()}):
        calls = {f"EXISTS (FROM \"{name}\"('/etc/passwd'))": name in ("unnest", "range", "generate_series")}
        calls[f"\"{name}\"('/etc/passwd') IS NULL"] = name.lower() in _FUNCTIONS and name != "age"
        for text, allowed in calls.items():
            reason = refusal(sql._parsed(connection, f"SELECT photo_id FROM annotations WHERE ({text})"))
            assert (reason is None) == allowed, text


def test_the_functions_of_the_list_exist(connection):
    known = {name.lower() for (name,) in connection.execute("SELECT function_name FROM duckdb_functions()").fetchall()}
    windows = {"cume_dist", "dense_rank", "first_value", "lag", "last_value", "lead", "nth_value", "ntile",
               "percent_rank", "rank", "rank_dense", "row_number"}  # fmt: skip
    newer = {"days_in_month", "if", "overlay", "struct_keys", "struct_values", "switch"}  # than DuckDB 1.4
    assert _FUNCTIONS - known - windows - newer <= {"coalesce", "ifnull", "unnest"}


def test_past_the_check_the_second_wall_holds(store, connection, tmp_path):
    """DuckDB itself, were the check not there: no file, no extension, no setting."""
    import duckdb

    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for statement in (
        f"SELECT * FROM read_csv('{secret}')", f"SELECT * FROM read_text('{secret}')", f"SELECT * FROM '{secret}'",
        f"SELECT * FROM read_parquet('{Annotations.open(store).path}')", f"SELECT * FROM glob('{tmp_path}/*')",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'", f"ATTACH '{tmp_path}/x.db'", "INSTALL httpfs", "LOAD httpfs",
        "SET enable_external_access = true", "SET lock_configuration = false", "SET memory_limit = '1TB'",
        "SET temp_directory = '/tmp'", f"EXPORT DATABASE '{tmp_path}/out'", "SET allowed_paths = ['/etc/passwd']",
        f"SELECT * FROM read_json('{secret}')", f"SELECT * FROM read_blob('{secret}')", "SELECT * FROM secret_rows",
    ):  # fmt: skip
        secret_rows = [1]
        with pytest.raises(duckdb.Error):
            connection.execute(statement).fetchall()
        del secret_rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv"]


@pytest.mark.parametrize(
    "condition",
    [
        "(WITH RECURSIVE r AS (SELECT 1::HUGEINT AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r) > 0",
        "(SELECT count(*) FROM annotations a, annotations b, annotations c, annotations d) > 0",
        "(SELECT count(*) FROM range(1000000000000)) > 0",
    ],
)
def test_what_does_not_end_is_stopped(store, condition):
    with pytest.raises(InputError, match="takes longer than 2 s, and was stopped") as caught:
        rows_where(store, condition, limits=SqlLimits(seconds=2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "condition",
    [
        "len(list_transform(range(100000 + photo_id), lambda x: list_sum(range(x)))) > 0",
        "length(repeat(title, 10000000)) > 0",
    ],
)
def test_what_takes_too_much_memory_is_stopped(store, condition):
    with pytest.raises(InputError, match=r"takes more memory than 100\.0 MB, and was stopped"):
        rows_where(store, condition, limits=SqlLimits(memory=100_000_000))


def test_the_message_names_the_condition_and_the_columns(store):
    with pytest.raises(InputError) as caught:
        rows_where(store, "titel =\n'x'")
    text = str(caught.value)
    assert text.startswith("condition \"titel = 'x'\": ")
    assert text.endswith(f"Columns: {', '.join(schema().names)}.")
    assert "\n" not in text


def test_what_goes_wrong_with_the_process_is_said(store, monkeypatch):
    def ends(code: int, errors: bytes, out: bytes = b"") -> None:
        done = subprocess.CompletedProcess([], code, out, errors)
        monkeypatch.setattr(subprocess, "run", lambda *words, **more: done)

    for code, errors, words in (
        (-24, b"", "takes longer than 60 s"), (-9, b"", "takes more memory"), (1, b"x\nMemoryError\n", "more memory"),
    ):  # fmt: skip
        ends(code, errors)
        with pytest.raises(InputError, match=words):
            rows_where(store, "true")
    ends(-11, b"")
    with pytest.raises(EngineError, match="ended with -11: no word"):
        rows_where(store, "true")
    ends(0, b"", b'{"rows": 2}\n' + bytes(8))
    with pytest.raises(EngineError, match="ended with 0"):
        rows_where(store, "true")
    ends(0, b"", b'{"rows": 1}\n' + np.array([10**9], "<i8").tobytes())
    with pytest.raises(StoreError, match="was changed meanwhile"):
        rows_where(store, "true")
    ends(0, b"", b'{"error": "no DuckDB", "kind": "package"}\n')
    with pytest.raises(DependencyError, match="no DuckDB"):
        rows_where(store, "true")


def test_a_damaged_file_gives_an_error_and_no_answer(tmp_path):
    made = annotate(make_store(tmp_path / "store", {"fc7": np.zeros((50, 4), np.float32)}), made_up(range(50)))
    path = Annotations.open(made).path
    size, column = path.stat().st_size, "title"
    import pyarrow.parquet as pq

    chunk = next(
        chunk for i in range(40)
        if (chunk := pq.ParquetFile(path).metadata.row_group(0).column(i)).path_in_schema == column
    )  # fmt: skip
    flip_bit(path, 8 * (chunk.data_page_offset + chunk.total_compressed_size - 5))
    assert path.stat().st_size == size
    for evaluate in (rows_where, here):
        with pytest.raises(StoreError, match=r"cannot be read .*mirsearch annotations ingest"):
            evaluate(made, "title LIKE '%a%'")
    assert not here(made, "owner = 'x'").any()  # another column, which is not damaged


def test_without_annotations_the_command_is_named(tmp_path):
    bare = make_store(tmp_path / "bare", {"fc7": np.zeros((3, 4), np.float32)})
    with pytest.raises(InputError, match="mirsearch annotations ingest"):
        rows_where(bare, "true")


def test_the_process_sees_nothing_of_the_environment(store, monkeypatch, tmp_path):
    """It runs whatever the current folder holds and Python's variables say."""
    (tmp_path / "duckdb.py").write_text("raise SystemExit('taken from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "duckdb.py"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert rows_where(store, "true").all()
    assert sorted(Path.cwd().iterdir()) == [tmp_path / "duckdb.py"]
