"""What a condition in SQL may be made of: one expression of values over the annotations, and nothing else.

DuckDB's own parser takes it apart (`json_serialize_sql`); whatever is not on these lists is refused, so that what a
later DuckDB brings is refused too. Names are those of DuckDB 1.4 to 2.0.
"""

import re
from collections.abc import Iterator
from typing import Any

TABLE = "annotations"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EXPRESSIONS = _words(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA OPERATOR STAR SUBQUERY TYPE "
    "WINDOW"
)
_QUERIES = _words("SELECT_NODE SET_OPERATION_NODE CTE_NODE RECURSIVE_CTE_NODE")
_SOURCES = _words("BASE_TABLE CTE EMPTY EXPRESSION_LIST JOIN SUBQUERY TABLE_FUNCTION")
_PARTS = _words(
    "ORDER_MODIFIER LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER DISTINCT_MODIFIER ORDER_DEFAULT ORDER_ASCENDING "
    "ORDER_DESCENDING ASCENDING DESCENDING ARRAY_TYPE_INFO DECIMAL_TYPE_INFO LIST_TYPE_INFO STRING_TYPE_INFO "
    "STRUCT_TYPE_INFO"
)
_TABLE_FUNCTIONS = _words("unnest range generate_series")

# Functions of their arguments alone. Not here: what reads files, settings, variables, the environment or the catalogue;
# what sleeps, logs, draws at random or runs a text as SQL; what the clock says, by which every day has another answer.
_FUNCTIONS = _words(
    """
    + - * / // % ^ ** & && | || ~ << >> @ @> <@ ^@ !~~ !~~* ~~ ~~* ~~~ ->>

    abs acos acosh add asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees divide even exp
    factorial fdiv floor fmod gamma gcd greatest_common_divisor isfinite isinf isnan lcm least_common_multiple lgamma ln
    log log10 log2 mod multiply nextafter pi pow power radians round round_even roundbankers sign signbit sin sinh sqrt
    subtract tan tanh trunc xor

    ascii bar bit_length char_length character_length chr concat concat_ws contains damerau_levenshtein editdist3
    ends_with format formatreadabledecimalsize formatreadablesize format_bytes hamming ilike_escape instr jaccard
    jaro_similarity jaro_winkler_similarity lcase left left_grapheme len length length_grapheme levenshtein like_escape
    lower lpad ltrim md5 mismatches nfc_normalize not_ilike_escape not_like_escape octet_length ord overlay position
    prefix printf regexp_escape regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace
    regexp_split_to_array repeat replace reverse right right_grapheme rpad rtrim sha1 sha256 split split_part
    starts_with str_split str_split_regex string_split string_split_regex string_to_array strip_accents strlen strpos
    substr substring substring_grapheme suffix to_base to_hex hex translate trim ucase unicode upper url_decode
    url_encode

    age century date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day
    dayname dayofmonth dayofweek dayofyear days_in_month decade epoch epoch_ms epoch_ns epoch_us era hour isodow isoyear
    julian last_day make_date make_time make_timestamp make_timestamp_ms make_timestamptz microsecond millennium
    millisecond minute month monthname nanosecond normalized_interval quarter second strftime strptime time_bucket
    timezone timezone_hour timezone_minute to_centuries to_days to_decades to_hours to_microseconds to_millennia
    to_milliseconds to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years try_strptime week
    weekday weekofyear year yearweek

    apply array_aggr array_aggregate array_append array_apply array_cat array_concat array_contains array_distinct
    array_extract array_filter array_has array_has_all array_has_any array_indexof array_intersect array_length
    array_pop_back array_pop_front array_position array_prepend array_push_back array_push_front array_reduce
    array_reverse array_reverse_sort array_select array_slice array_sort array_to_string array_transform array_unique
    array_value array_where array_zip cardinality element_at filter flatten generate_series generate_subscripts
    list_aggr list_aggregate list_any_value list_append list_apply list_avg list_bool_and list_bool_or list_cat
    list_concat list_contains list_count list_distinct list_element list_entropy list_extract list_filter list_first
    list_has list_has_all list_has_any list_indexof list_intersect list_last list_max list_median list_min list_mode
    list_pack list_position list_prepend list_product list_reduce list_reverse list_reverse_sort list_select list_slice
    list_sort list_stddev_pop list_stddev_samp list_string_agg list_sum list_transform list_unique list_value
    list_var_pop list_var_samp list_where list_zip map map_concat map_contains map_contains_entry map_contains_value
    map_entries map_extract map_extract_value map_from_entries map_keys map_values range reduce row struct_concat
    struct_contains struct_extract struct_extract_at struct_insert struct_keys struct_pack struct_values unnest

    coalesce constant_or_null greatest hash if ifnull least nullif switch typeof

    any_value approx_count_distinct approx_quantile arbitrary arg_max arg_max_null arg_min arg_min_null argmax argmin
    array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count count_if count_star countif covar_pop covar_samp
    entropy favg first fsum geomean geometric_mean group_concat histogram kurtosis last list listagg mad max max_by mean
    median min min_by mode product quantile quantile_cont quantile_disc skewness stddev stddev_pop stddev_samp
    string_agg sum sumkahan var_pop var_samp variance weighted_avg

    cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank rank_dense row_number

    distance_km
    """
)


# What DuckDB makes functions of when they stand alone, as a column would.
_ALONE = _words(
    "current_catalog current_date current_localtime current_localtimestamp current_role current_schema current_time "
    "current_timestamp current_user localtime localtimestamp session_user user"
)
_CLOCK = _words(
    "age current_date current_localtime current_localtimestamp current_time current_timestamp get_current_time "
    "get_current_timestamp localtime localtimestamp now today transaction_timestamp"
)


def refusal(document: dict[str, Any]) -> str | None:
    """Why the statement of a tree of `json_serialize_sql` is no condition over the annotations; None when it is one.

    The statement is `SELECT … FROM annotations WHERE (condition)`.
    """
    statements = document["statements"]
    if len(statements) != 1:
        return "one condition is expected, not several statements"
    top = statements[0]["node"]
    more = ("modifiers", "group_expressions", "group_sets", "having", "qualify", "sample")
    if top["type"] != "SELECT_NODE" or not top.get("where_clause") or any(top.get(part) for part in more):
        return "one condition is expected, not a query of its own"
    named = {name.lower() for name in _named_queries(top)}
    for name in named:
        if not re.fullmatch(r"(?!duckdb_|pg_|sqlite_|pragma_)[a-z_][a-z0-9_]*", name):
            return f'"{name}": a query of a WITH needs a name of letters and digits, none of the system\'s'
    return next((reason for node in _nodes(top) if (reason := _refused(node, named | {TABLE}))), None)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object below a tree, but for what lies within constants; without recursion, however deep."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            if node.get("class") != "CONSTANT":
                waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _named_queries(top: Any) -> Iterator[str]:
    """The names that `WITH name AS (…)` gives to queries."""
    for node in _nodes(top):
        named = node.get("cte_map")
        yield from (entry["key"] for entry in named["map"]) if isinstance(named, dict) else ()
        if node.get("type") in ("RECURSIVE_CTE_NODE", "CTE_NODE") and isinstance(node.get("cte_name"), str):
            yield node["cte_name"]


def _refused(node: dict[str, Any], own: set[str]) -> str | None:
    """Why one object of the tree may not be in it."""
    kind = node.get("type")
    if "class" in node:
        if node["class"] not in _EXPRESSIONS:
            return f"{str(node['class']).lower().replace('_', ' ')}s have no place in a condition"
    elif isinstance(kind, str) and kind not in _QUERIES | _SOURCES | _PARTS:
        return f"{kind.removesuffix('_NODE').removesuffix('_REF').replace('_', ' ')} has no place in a condition"
    elif kind == "BASE_TABLE" and (
        node["table_name"].lower() not in own or node["schema_name"] or node["catalog_name"]
    ):
        return f'table "{node["table_name"]}": there is {TABLE} alone'
    if node.get("sample"):
        return "a sample has no place in a condition: it would be another one each time"
    if node.get("at_clause"):
        return "AT has no place in a condition: there are the annotations of now alone"
    names: list[Any] = node.get("column_names") or []
    if node.get("class") == "COLUMN_REF" and len(names) == 1 and str(names[0]).lower() in _ALONE:
        return _no_function(names[0])
    if kind == "TABLE_FUNCTION" and str(node["function"].get("function_name")).lower() not in _TABLE_FUNCTIONS:
        return _no_function(node["function"].get("function_name"))
    if "function_name" in node:
        name = str(node["function_name"]).lower()
        given = node.get("arguments", node.get("children")) or ()  # DuckDB 2.0's name and the one before
        if name not in _FUNCTIONS or (name == "age" and len(given) == 1):  # of one time alone it is the age today
            return _no_function(node["function_name"])
    return None


def _no_function(name: object) -> str:
    if str(name).lower() in _CLOCK:
        return f"{name} goes by the clock, and each day would have another answer: write a date, timestamp '2009-07-04'"
    call = name if str(name).lower() in _ALONE else f"{name}()"
    return f"{call} is not among the functions of a condition, which reach no file, setting or network"
