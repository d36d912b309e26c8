"""Options that say how GPUs are used, for every verb that searches or builds on them."""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from engine.cli.options import parse_size, wrong_usage

if TYPE_CHECKING:
    from kernels.device import GpuOptions

_Verb = TypeVar("_Verb", bound=Callable[..., Any])
_PANEL = "GPU"
_OPTIONS = {
    "gpu_memory": Annotated[
        str | None,
        typer.Option(
            "--gpu-memory", rich_help_panel=_PANEL, show_default="a part of what is free",
            help="Most to take of each GPU's memory, such as 20GB.",
        ),
    ],
    "gpu_library": Annotated[
        str,
        typer.Option("--gpu-library", rich_help_panel=_PANEL, help="Whose IVF-PQ on CUDA: faiss, or cuvs (NVIDIA's)."),
    ],
    "replicate": Annotated[
        bool,
        typer.Option("--replicate", rich_help_panel=_PANEL, help="The whole index on every GPU, not a part on each."),
    ],
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {"gpu_memory": None, "gpu_library": "faiss", "replicate": False}
_given: ContextVar[dict[str, Any]] = ContextVar("gpu options", default=_DEFAULTS)


def with_gpu_options(verb: _Verb) -> _Verb:
    """The verb with these options; `engine.cli.options.settle` knows what was given."""
    signature = inspect.signature(verb)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[name], annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    kept = list(signature.parameters.values())

    @wraps(verb)
    def run(*args: Any, **options: Any) -> Any:
        token = _given.set({name: options.pop(name, _DEFAULTS[name]) for name in _OPTIONS})
        try:
            return verb(*args, **options)
        finally:
            _given.reset(token)

    # Typer reads both.
    run.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**verb.__annotations__, **_OPTIONS}
    return cast(_Verb, run)


def gpu_options() -> "GpuOptions":
    """What the running verb was given; wrong usage for what cannot be.

    Of --gpu-memory the shards and FAISS take one half, codes, queries and products the other.
    """
    from kernels.device import GpuOptions

    given = _given.get()
    if given["gpu_library"] not in ("faiss", "cuvs"):
        raise wrong_usage("gpu_library", f"{given['gpu_library']!r}: expected faiss or cuvs")
    memory = None if given["gpu_memory"] is None else parse_size(given["gpu_memory"], "gpu_memory")
    if memory is not None and memory < 2:
        raise wrong_usage("gpu_memory", f"{given['gpu_memory']!r}: expected a size such as 20GB")
    return GpuOptions(
        memory=None if memory is None else memory // 2, library=given["gpu_library"], replicate=given["replicate"]
    )
