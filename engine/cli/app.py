"""`mirsearch VERB`: the Typer application, and the one place where errors become a line and an exit code.

A verb's module is imported when that verb runs, or when the help of all is asked for.

0 done, 1 the user can act (one line, no traceback), 2 wrong usage, 3 finished but something was refused or a check
failed, 130 interrupted.
"""

import errno
import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from engine.cli.console import err
from engine.errors import EngineError

# Where each verb's function is, in the order of the help.
VERBS = {
    "synth": "collection:synth",
    "ingest": "collection:ingest",
    "build": "build:build",
    "query": "query:query",
    "bench": "judge:bench",
    "dedup": "judge:dedup",
    "import": "transfer:import_",
    "export": "transfer:export",
    "remove": "change:remove",
    "compact": "change:compact",
    "info": "care:info",
    "verify": "care:verify",
    "doctor": "care:doctor",
    "demo": "demo:demo",
}


class _Commands(Mapping[str, Any]):
    """The command of each verb, made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, verb: str) -> Any:
        if verb not in self._made:
            module, function = VERBS[verb].split(":")
            alone = typer.Typer(add_completion=False, **_LOOKS)
            alone.command(verb)(getattr(importlib.import_module(f"engine.cli.{module}"), function))
            self._made[verb] = typer.main.get_command(alone)
        return self._made[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class _Verbs(TyperGroup):
    """Runs a verb and turns what went wrong into one line."""

    _json = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Commands()

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line, and remember whether an error must be a JSON document too."""
        words = args[0] if args else extra.get("args")
        self._json = "--json" in (sys.argv[1:] if words is None else words)
        return super().main(*args, **extra)

    def _fail(self, message: str) -> NoReturn:
        if self._json:
            sys.stdout.write(json.dumps({"error": message}) + "\n")
        err.print(f"mirsearch: {message}", style="red")
        raise SystemExit(1)

    def invoke(self, context: Any) -> Any:
        """Run the verb; EngineError ends with 1, Ctrl-C with 130."""
        try:
            result = super().invoke(context)
            sys.stdout.flush()
            return result
        except EngineError as error:
            self._fail(str(error))
        except KeyboardInterrupt:
            if self._json:
                sys.stdout.write(json.dumps({"error": "interrupted"}) + "\n")
            err.print("Interrupted. Nothing half-written is in use; run the same command again.")
            raise SystemExit(130) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough, as `head` does.
            _forget_output()
            raise SystemExit(1) from None
        except ModuleNotFoundError as error:
            self._fail(f"{error.name} is not installed: pip install {_WHEELS.get(error.name or '', error.name)}")
        except MemoryError:
            self._fail(
                "Out of memory. Use fewer rows per step (--training-rows, --rows-per-shard), or a larger machine."
            )
        except OSError as error:
            if error.filename is None and error.errno == errno.ENOSPC:  # standard output leads to a full disk
                _forget_output()
                self._json = False
            self._fail(_plain(error))


# Import names whose package is called otherwise.
_WHEELS = {"PIL": "pillow", "faiss": "'mirsearch[cpu]'", "cupy": "'mirsearch[cuda12]'"}


def _forget_output() -> None:
    """Nobody can take our output any more: what is left of it must not fail once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(error: OSError) -> str:
    """An error of the operating system that no file's reader or writer has put in words."""
    from engine.store.durable import disk_errors

    try:
        with disk_errors(Path(str(error.filename or "disk"))):
            raise error
    except EngineError as known:
        return str(known)
    except OSError:
        return f"{error.filename or 'system'}: {error.strerror or error}"


_LOOKS: Any = {"pretty_exceptions_enable": False, "rich_markup_mode": "markdown"}
app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    **_LOOKS,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"mirsearch {version('mirsearch')}\n")
        raise typer.Exit


@app.callback()
def about(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Similarity search over the deep features of a photo collection.

    From `.dat` files to neighbours, benchmark and duplicates; `mirsearch demo` shows all of it on a sample.
    """
    del show_version
