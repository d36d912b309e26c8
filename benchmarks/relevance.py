"""How reliable each source of relevance is, and which votes predict tags best: what the defaults rest on.

`python -m benchmarks.relevance --photos 10000` writes results/relevance.md and .json. The sample collection knows what
its photos show: each has a cluster, and each cluster a topic. Of the pairs of photos that a source calls relevant, the
share that is of one topic, or of one cluster, is how reliable it is; of the pairs of one cluster, the share that it
calls relevant is what it finds. Tags are predicted by exact search over fc7, for 1,000 held-out photos.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.machine import table, write_result
from engine.index.searcher import Searcher
from engine.jobs.annotate import AnnotateSpec, Votes
from engine.jobs.annotate_score import HeldOut, score_annotation
from engine.jobs.relevance import RelevanceSpec, open_relevance
from engine.store.annotations.ingest import ingest_annotations
from engine.store.annotations.table import Annotations
from engine.store.ingest import ingest
from engine.store.store import Store
from engine.store.synth import describe, synthesize
from engine.store.synth_model import BLOCK, draw_subjects, network
from kernels import Device, load

CPU = Device(kind="cpu")
SEED, ASKED = 0, 2000
SOURCES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"tags, {count} shared", {"source": "tags", "min_shared": count}) for count in (1, 2, 3)),
    ("groups", {"source": "groups"}),
    *((f"combined, threshold {at}", {"source": "combined", "threshold": at}) for at in (0.05, 0.1, 0.15, 0.2, 0.3)),
    ("combined, 1 shared", {"source": "combined", "min_shared": 1}),
    ("combined, 3 shared", {"source": "combined", "min_shared": 3}),
)  # fmt: skip


def annotated_store(folder: Path, photos: int) -> Store:
    """The store of the sample collection with its annotations, made if it is not there."""
    sample, path = folder / f"annotated-{photos}", folder / f"store-annotated-{photos}"
    if describe(sample) is None:
        synthesize(sample, photos=photos, seed=SEED, annotations=True)
    if not (path / "manifest.json").exists():
        ingest([sample / "features"], path, device=CPU)
    if not Annotations.exists(Store.open(path)):
        ingest_annotations(path, [sample / "annotations"])
    return Store.open(path)


def reliability(store: Store, spec: RelevanceSpec) -> dict[str, float]:
    """Of the first 2,000 photos that the source knows something of."""
    subjects = [draw_subjects(SEED, number).main for number in range(-(-len(store) // BLOCK))]
    cluster = np.concatenate(subjects)[store.photo_ids]
    topic = network(SEED).topic[cluster]
    started = time.process_time()
    relation = open_relevance(store, spec).relation
    rows = np.flatnonzero(relation.known)[:ASKED]
    pairs = relation.block(rows).tocoo()
    seconds = time.process_time() - started
    other = rows[pairs.row] != pairs.col
    query, found = rows[pairs.row[other]], pairs.col[other]
    same = cluster[query] == cluster[found]
    there = np.bincount(cluster)[cluster[rows]].sum() - len(rows)
    return {
        "known": float(relation.known.mean()), "relevant": len(query) / len(rows),
        "topic": float((topic[query] == topic[found]).mean()), "cluster": float(same.mean()),
        "found": float(same.sum() / there), "seconds": seconds,
    }  # fmt: skip


def voting(store: Store) -> list[dict[str, Any]]:
    """Precision and recall of five tags, and mean AP, by neighbours and votes."""
    searcher = Searcher.exact(store, "fc7", store.path / "indices" / "none", load(CPU))
    found = []
    for neighbours in (20, 50, 100):
        for votes in get_args(Votes):
            score = score_annotation(searcher, AnnotateSpec(neighbours=neighbours, votes=votes), HeldOut(resamples=200))
            found += [
                {
                    "neighbours": neighbours, "votes": votes, "who": method.name, "precision": method.precision.mean,
                    "recall": method.recall.mean, "mean_ap": method.mean_ap,
                }
                for method in score.methods
            ]  # fmt: skip
    return found


def main() -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    store = annotated_store(options.dir, options.photos)
    sources = {name: reliability(store, RelevanceSpec(**values)) for name, values in SOURCES}
    votes = voting(store)
    header = [
        "source", "photos known", "relevant to a query", "of one topic", "of one cluster", "of a cluster found",
        "processor s",
    ]  # fmt: skip
    first = table(header, [
        [name, f"{one['known']:.0%}", f"{one['relevant']:,.1f}", f"{one['topic']:.1%}", f"{one['cluster']:.1%}",
         f"{one['found']:.1%}", f"{one['seconds']:.1f}"]
        for name, one in sources.items()
    ])  # fmt: skip
    second = table(["votes of", "neighbours", "votes", "precision@5", "recall@5", "mean AP over tags"], [
        [one["who"], one["neighbours"], one["votes"], f"{one['precision']:.4f}", f"{one['recall']:.4f}",
         "–" if one["mean_ap"] is None else f"{one['mean_ap']:.4f}"]
        for one in votes
        if one["who"] == "neighbours" or (one["neighbours"], one["votes"]) == (50, "prior")
    ])  # fmt: skip
    text = (
        f"# Relevance by annotations, {len(store):,} photos of the sample\n\n{first}\n\n## Predicted tags\n\n{second}\n"
    )
    write_result("relevance", {"photos": len(store), "sources": sources, "votes": votes}, text)


if __name__ == "__main__":
    main()
