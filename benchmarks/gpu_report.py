"""What `benchmarks.gpu` found, as a page: the goals of a million photos beside it, the peers, and what is missing."""

from typing import Any, NamedTuple

from benchmarks.machine import table

MILLION = 1_000_000


class Goal(NamedTuple):
    """A figure of a part, where it lies in the part's results, and what it is to be for a million photos."""

    what: str
    part: str
    at: tuple[str, ...]
    goal: float
    most: bool = True  # the goal is the most it may be, or else the least


GOALS = (
    Goal("decode kernel, share of a copy's bandwidth", "decode", ("kernel_share",), 0.8, most=False),
    Goal("decode kernel with norms, as `ingest` uses it, share", "decode", ("with_norms_share",), 0.8, most=False),
    Goal("`.dat` to store and fc7 index, whole command, s", "ingest", ("seconds",), 60),
    Goal("of its processor time in the system's calls", "ingest", ("system_share",), 0.9, most=False),
    Goal("build from the store, s", "build", ("seconds",), 10),
    Goal("search, a batch on the device, recall ≥ 0.95, queries/s", "search", ("queries_per_second",), 3e5, most=False),
    Goal("the same from the host's memory, queries/s", "search", ("from_the_host",), 3e5, most=False),
    Goal("one query, p50, ms", "latency", ("p50",), 0.5),
    Goal("one query, p99, ms", "latency", ("p99",), 1.0),
    Goal("exact, rows on the device, s", "exact", ("seconds",), 0.4),
    Goal("exact, recall", "exact", ("recall",), 1.0, most=False),
    Goal("exact, rows in the page cache, s", "exact", ("from_the_page_cache",), 0.4),
    Goal("all pairs, rows on the device, s", "join", ("seconds",), 20),
)


def report(document: dict[str, Any], *, kind: str) -> str:
    """The page in Markdown."""
    asked, results = document["asked"], document["results"]
    holds = asked["photos"] == MILLION and kind == "cuda"
    title = f"# GPU: {asked['photos']:,} photos, {asked['queries']:,} queries, {asked['device']}\n"
    note = "Median (least – most; runs). " + (
        "" if holds else "The goals are those of 1,000,000 photos on a H200: here they say nothing."
    )
    rows = [_row(goal, results, kind, holds=holds) for goal in GOALS]
    right = _right(results.get(f"parity-{kind}"))
    lines = [title, right, "", note, "", table(["figure", "goal", kind, "reached", "CPU"], rows), ""]
    lines += _peers(results, kind)
    if document["missing"]:
        lines += ["## Not measured", "", *(f"- {name}: {why}" for name, why in document["missing"].items()), ""]
    lines += ["## Machine", "", *(f"- {key}: {value}" for key, value in document["machine"].items())]
    return "\n".join(lines) + "\n"


def _right(parity: dict[str, Any] | None) -> str:
    """Whether the answers are right, which stands above all figures."""
    if parity is None:
        return "Answers were not compared with the reference's (part `parity`)."
    if parity["agrees"]:
        return f"Answers: {parity['checks']} comparisons with the reference, all agree."
    return f"**Answers differ from the reference's**: {'; '.join(parity['differing'])}."


def _row(goal: Goal, results: dict[str, Any], kind: str, *, holds: bool) -> list[str]:
    ours, cpu = _value(results.get(f"{goal.part}-{kind}"), goal), _value(results.get(f"{goal.part}-cpu"), goal)
    value = ours["median"] if isinstance(ours, dict) else ours
    reached = "–" if value is None or not holds else "yes" if (value <= goal.goal) is goal.most or (
        value == goal.goal
    ) else "no"  # fmt: skip
    return [goal.what, f"{'≤' if goal.most else '≥'} {_number(goal.goal)}", _shown(ours), reached,
            _shown(cpu) if kind != "cpu" else ""]  # fmt: skip


def _value(figures: Any, goal: Goal) -> Any:
    for step in goal.at:
        figures = None if figures is None else figures.get(step)
    return figures


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if not isinstance(value, dict):
        return _number(value)
    return f"{_number(value['median'])} ({_number(value['least'])} – {_number(value['most'])}; {value['runs']})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _peers(results: dict[str, Any], kind: str) -> list[str]:
    """Ours and the peers by their throughput at recall ≥ 0.95."""
    found = results.get(f"peers-{kind}")
    if found is None:
        return []
    ours = results.get(f"search-{kind}", {})
    rows = [["mirsearch", "", _shown(ours.get("queries_per_second")), _shown(ours.get("recall")),
             ours.get("chosen", {}).get("name", ours.get("problem", "–"))]]  # fmt: skip
    for name, peer in found["peers"].items():
        setting = peer.get("chosen", {}).get("name", peer.get("problem", "–"))
        figures = (_shown(peer.get(key)) for key in ("build", "queries_per_second", "recall"))
        rows.append([name, *figures, setting])
    lines = ["## Peers", "", table(["engine", "build, s", "queries/s at recall ≥ 0.95", "recall", "setting"], rows), ""]
    return lines + [f"- absent: {each}" for each in found["absent"]] + [""] * bool(found["absent"])
