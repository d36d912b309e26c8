"""What a benchmark ran on, written into every result."""

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.index.ivfpq import describe_build
from engine.jobs.doctor import cpu_model, memory
from engine.version import VERSION
from kernels.device import cpu_threads

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str]:
    """The machine and the versions that matter."""
    build = describe_build()
    return {
        "cpu": f"{cpu_model()}, {cpu_threads()} cores",
        "memory": memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "faiss": f"{build['version']} {build['simd']}",
        "mirsearch": VERSION,
        "command": " ".join(["python -m", _module(), *_arguments()]),
    }


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"


def _arguments() -> list[str]:
    """The arguments without `--dir` and `--python`: where files lay is the machine's own business."""
    words, left_out = sys.argv[1:], ("--dir", "--python")
    return [word for i, word in enumerate(words) if word not in left_out and (i == 0 or words[i - 1] not in left_out)]


def write_result(name: str, document: dict[str, Any], text: str) -> None:
    """Write results/NAME.json and results/NAME.md, and print the text."""
    RESULTS.mkdir(exist_ok=True)
    facts = machine()
    (RESULTS / f"{name}.json").write_text(json.dumps(document | {"machine": facts}, indent=1) + "\n")
    lines = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    (RESULTS / f"{name}.md").write_text(f"{text.rstrip()}\n\nMachine:\n\n{lines}\n")
    print(text)


def table(header: list[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines: list[Sequence[object]] = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
