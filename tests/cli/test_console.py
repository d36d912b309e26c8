"""Where answers and progress go when a terminal is on one side of a process and a file on the other."""

import errno
import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.cli import console
from engine.errors import EngineError
from tests.builders import write_photo
from tests.cli.conftest import Run


def on_a_terminal(words: list[str], stdout: Path) -> str:
    """Run mirsearch with standard output in a file and standard error on a terminal; gives what the terminal got."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def watch() -> None:
        try:
            while data := os.read(ours, 1 << 16):
                shown.append(data)
        except OSError:  # the other side is closed
            pass

    program = "from engine.cli.main import main; main()"
    environment = {**os.environ, "TERM": "xterm"}
    with stdout.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=file, stderr=theirs, env=environment)
    os.close(theirs)
    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.wait(timeout=120) == 0
    watcher.join()
    os.close(ours)
    return b"".join(shown).decode()


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_answers_go_to_the_file_and_bars_to_the_terminal(run: Run, tmp_path: Path, form: str) -> None:
    for photo in range(20):
        write_photo(tmp_path / "photos", photo)
    assert run("ingest", tmp_path / "photos", "--store", tmp_path / "store", "--device", "cpu").exit_code == 0
    words = ["query", str(tmp_path / "store"), "--photo", "7", "--exact", "--device", "cpu"]
    shown = on_a_terminal([*words, form], tmp_path / "terminal")
    plain = subprocess.run(
        [sys.executable, "-c", "from engine.cli.main import main; main()", *words, form],
        capture_output=True, check=True,
    )  # fmt: skip
    assert (tmp_path / "terminal").read_bytes() == plain.stdout != b""
    assert "search" in shown and "\x1b" in shown
    assert b"\x1b" not in plain.stderr


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


def test_styles_are_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console.err.print("a [bold]name[/bold]", style="red")
    assert capsys.readouterr().err == "a [bold]name[/bold]\n"

    def shown(style: str) -> str:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        console.err.print("text", style=style)  # type: ignore[arg-type]
        return terminal.text

    assert shown("red") == "\x1b[31mtext\x1b[0m\n" and shown("bold") == "\x1b[1mtext\x1b[0m\n"
    assert shown("") == "text\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown("red") == "text\n" and shown("bold") == "\x1b[1mtext\x1b[0m\n"
    monkeypatch.setenv("TERM", "dumb")
    assert shown("bold") == "text\n"


class Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_fails_at_standard_output_is_marked() -> None:
    output = console.Output(Full())
    assert not output.written
    output.writelines(["a", "b"])
    with pytest.raises(console.OutputError, match=r"^standard output: the disk is full \(No space left on device\)"):
        output.flush()
    assert output.written and output.getvalue() == "ab"


def test_a_full_disk_of_the_verbs_own_is_no_full_standard_output(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("engine.jobs.import_vectors.import_vectors", full)
    result = run("import", tmp_path / "v.npy", "--store", tmp_path / "s", "--layer", "v", "--json")
    error = "the disk is full (No space left on device). Make room and run the same command again."
    assert result.exit_code == 1 and json.loads(result.stdout) == {"error": error}


def test_after_a_document_no_other_comes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_: object, **__: object) -> None:
        console.say_json({"done": 1})
        raise EngineError("afterwards")

    monkeypatch.setattr("engine.jobs.import_vectors.import_vectors", both)
    result = run("import", tmp_path / "v.npy", "--store", tmp_path / "s", "--layer", "v", "--json")
    assert result.exit_code == 1 and json.loads(result.stdout) == {"done": 1}
    assert "afterwards" in result.stderr
