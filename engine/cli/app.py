"""`mirsearch VERB`: the Typer application, and the one place where errors become a line and an exit code.

A verb's module is imported when that verb runs, or when the help of all is asked for.

0 done, 1 the user can act (one line, no traceback), 2 wrong usage, 3 finished but something was refused or a check
failed, 130 interrupted.
"""

import importlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from engine.cli.console import Output, OutputError, err
from engine.cli.options import refuse_empty_words
from engine.errors import EngineError

# Where each verb's function is, in the order of the help.
VERBS = {
    "synth": "collection:synth",
    "ingest": "collection:ingest",
    "build": "build:build",
    "query": "query:query",
    "tune": "tune:tune",
    "estimate": "tune:estimate",
    "bench": "judge:bench",
    "evaluate": "evaluate:evaluate",
    "annotate": "annotate:annotate",
    "dedup": "dedup:SUBVERBS",
    "graph": "graph:graph",
    "annotations": "annotations:SUBVERBS",
    "import": "transfer:import_",
    "export": "transfer:export",
    "remove": "change:remove",
    "compact": "change:compact",
    "info": "care:info",
    "verify": "verify:verify",
    "doctor": "care:doctor",
    "demo": "demo:demo",
}


class _Verb(TyperCommand):
    """A verb that takes no empty words: of a shell variable that is not set, `--store "$STORE"` makes one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What the words mean; InputError where one is empty."""
        if not ctx.resilient_parsing:  # as the shell's completion does it
            refuse_empty_words(args, [param.metavar or "" for param in self.params if isinstance(param, TyperArgument)])
        return super().parse_args(ctx, args)


class _Subverbs(TyperGroup):
    """A verb that is followed by another; it takes no empty words either."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What the words mean; InputError where one is empty."""
        if not ctx.resilient_parsing:
            refuse_empty_words(args[:1], ["COMMAND"])
        return super().parse_args(ctx, args)


class _VerbWithOthers(_Verb):
    """A verb of its own that may be followed by another, which is then run in its place: `dedup apply`."""

    commands: Mapping[str, Any] = {}

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the verb that is meant; a folder of the other's name is still called `./apply`."""
        if args and (other := self.commands.get(args[0])):
            return other.make_context(f"{info_name} {args[0]}", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


def _with_others(verb: str, functions: Mapping[str, Any]) -> Any:
    """The command of a verb, from its function and those of the verbs that may follow it, by name.

    A verb that does nothing alone has its text, for all that may follow, under the name "".
    """
    if "" in functions:
        alone = typer.Typer(name=verb, add_completion=False, **_LOOKS)
        alone.callback(cls=_Subverbs, no_args_is_help=True)(functions[""])
        for name, function in functions.items():
            if name:
                alone.command(name, cls=_Verb)(function)
        return typer.main.get_command(alone)
    made = {name: _command(name, function, _VerbWithOthers) for name, function in functions.items()}
    made[verb].commands = {name: command for name, command in made.items() if name != verb}
    return made[verb]


def _command(name: str, function: Any, kind: type[_Verb] = _Verb) -> Any:
    alone = typer.Typer(add_completion=False, **_LOOKS)
    alone.command(name, cls=kind)(function)
    return typer.main.get_command(alone)


class _Commands(Mapping[str, Any]):
    """The command of each verb, made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, verb: str) -> Any:
        if verb not in self._made:
            module, function = VERBS[verb].split(":")
            found = getattr(importlib.import_module(f"engine.cli.{module}"), function)
            self._made[verb] = _with_others(verb, found) if isinstance(found, Mapping) else _command(verb, found)
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
        try:
            return super().main(*args, **extra)
        except OSError as error:  # of the help or the version, which no verb writes
            _forget_output()
            _end(f"mirsearch: standard output: cannot be written ({error.strerror}). Lead it elsewhere.", None)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """What the words mean; Ctrl-C meanwhile ends with 130 too."""
        try:
            return super().make_context(*args, **extra)
        except KeyboardInterrupt:
            _end("Interrupted.", None, code=130)

    def invoke(self, context: Any) -> Any:
        """Run the verb; EngineError ends with 1, Ctrl-C with 130."""
        before: Any = sys.stdout
        output: Any = Output(before)
        sys.stdout = output
        try:
            return self._run(context, output)
        finally:
            sys.stdout = before

    def _run(self, context: Any, output: Output) -> Any:
        try:
            try:
                return super().invoke(context)
            finally:  # of a verb that ends with another exit code too
                output.flush()
        except OutputError as error:
            _forget_output()
            _end(f"mirsearch: {error}", None)
        except EngineError as error:
            self._fail(str(error), output)
        except KeyboardInterrupt:
            text = "Interrupted. Nothing half-written is in use; run the same command again."
            _end(text, output if self._json else None, said="interrupted", code=130)
        except BrokenPipeError:
            # Whoever read our output has seen enough, as `head` does.
            _forget_output()
            raise SystemExit(1) from None
        except ModuleNotFoundError as error:
            wheel = _WHEELS.get(error.name or "", error.name)
            self._fail(f"{error.name} is not installed: pip install {wheel}", output)
        except MemoryError:
            self._fail(
                "Out of memory. Use fewer rows per step (--training-rows, --rows-per-shard), or a larger machine.",
                output,
            )
        except OSError as error:
            self._fail(_plain(error), output)

    def _fail(self, message: str, output: Output) -> NoReturn:
        _end(f"mirsearch: {message}", output if self._json else None, said=message)


def _end(text: str, output: Output | None, *, said: str = "", code: int = 1) -> NoReturn:
    """Leave with a line on standard error; output: where `said` is the one JSON document, if none is there yet."""
    if output and not output.written:
        try:
            output.write(json.dumps({"error": said}) + "\n")
            output.flush()
        except (OutputError, BrokenPipeError):
            _forget_output()
    with suppress(OSError):  # standard error may lead to the same full disk
        err.print(text, style="red" if code == 1 else "")
    raise SystemExit(code) from None


# Import names whose package is called otherwise.
_WHEELS = {"PIL": "pillow", "faiss": "'mirsearch[cpu]'", "cupy": "'mirsearch[cuda12]'"}


def _forget_output() -> None:
    """Nobody can take our output any more: what is left of it must not fail once more at the end."""
    with suppress(io.UnsupportedOperation):  # a stream that was closed from the start holds nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(error: OSError) -> str:
    """An error of the operating system that no file's reader or writer has put in words."""
    from engine.store.durable import disk_errors, no_room

    if error.filename is None:  # nobody can say which of the disks that were written to it was
        return no_room(error) or f"{error.strerror or error}."
    try:
        with disk_errors(Path(str(error.filename))):
            raise error
    except EngineError as known:
        return str(known)
    except OSError:
        return f"{error.filename}: {error.strerror or error}"


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
