"""`demo`: everything once, on a sample collection."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.console import Reporter, out, say_facts, say_json, say_next, say_table
from engine.cli.judge import BENCH_COLUMNS, bench_row
from engine.cli.options import DeviceOption, JsonOption, device_facts, settle


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for everything.")] = Path("mirsearch-demo"),
    photos: Annotated[int, typer.Option("--photos", "-n", min=1, help="How many photos.")] = 20_000,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Show everything on a sample: synth, ingest, build, query, bench, dedup. What is there is reused.

    Example: `mirsearch demo mirsearch-demo --photos 20000`
    """
    from engine.jobs.demo import run_demo

    settled = settle(device)
    with Reporter() as progress:
        report = run_demo(directory, photos=photos, device=settled, progress=progress)
    if json_:
        say_json(asdict(report))
        return
    store = report.store
    say_facts(
        f"Done in {report.seconds:.0f} s in {directory}",
        [
            device_facts(settled),
            *(
                (step.name, f"{step.text} ({'there already' if step.reused else f'{step.seconds:.1f} s'})")
                for step in report.steps
            ),
        ],
    )
    out.print(f"\nNearest to photo {report.query}", style="bold")
    out.print("  " + ", ".join(f"{photo} ({score:.3f})" for photo, score in report.neighbors[:5]))
    out.print("\nIndex fc7 against exact search", style="bold")
    say_table(BENCH_COLUMNS, [bench_row(point) for point in report.bench["points"]])
    out.print("* no other point is both more accurate and faster\n")
    say_facts(
        "Look at", [(step.name, step.path) for step in report.steps if step.path and step.name in ("bench", "dedup")]
    )
    images = directory / "sample" / "images"
    say_next(
        ["query", store, "--layer", "fc7", "--photo", report.query, "-k", 10, "--images", images],
        ["query", store, "--layer", "fc8", "--photo", report.query, "--exact"],
        ["bench", store, "--layer", "fc8"],
        ["info", store],
        ["verify", store],
    )
