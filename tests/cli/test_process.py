"""What only a real process shows: exit codes, signals, pipes, the installed command."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.builders import files_below, flip_bit
from tests.cli.conftest import Run

MIRSEARCH = [sys.executable, "-c", "from engine.cli.main import main; main()"]


def test_the_command_is_installed_and_says_its_version() -> None:
    command = Path(sys.executable).with_name("mirsearch")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("mirsearch ")


def test_wrong_usage_is_exit_2() -> None:
    result = subprocess.run([*MIRSEARCH, "query", "--bogus"], capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr


def test_an_error_is_one_line_and_exit_1(tmp_path: Path) -> None:
    words = ["ingest", str(tmp_path / "absent"), "--store", str(tmp_path / "store")]
    result = subprocess.run([*MIRSEARCH, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith(f"mirsearch: {tmp_path / 'absent'}: No such file or directory")


def test_ctrl_c_is_exit_130_and_leaves_no_store(tmp_path: Path) -> None:
    words = ["synth", str(tmp_path / "sample"), "--photos", "200000"]
    process = subprocess.Popen([*MIRSEARCH, *words], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "sample" / "features").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert not (tmp_path / "sample" / "truth.jsonl").exists()


def test_ctrl_c_while_the_words_are_read_is_exit_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperGroup.make_context", interrupted)
    result = run("info", "store")
    assert result.exit_code == 130 and result.stderr == "Interrupted.\n"


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_synth_takes_its_workers_along_and_can_be_run_again(tmp_path: Path) -> None:
    words = ["synth", str(tmp_path / "sample"), "--photos", "4000"]
    process = subprocess.Popen([*MIRSEARCH, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "sample" / "features").glob("*/*.dat")):
        assert process.poll() is None
        time.sleep(0.05)
    children = [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert children
    process.kill()
    process.wait(timeout=60)
    workers_end = time.monotonic() + 60
    while any(map(alive, children)) and time.monotonic() < workers_end:
        time.sleep(0.05)
    assert not any(map(alive, children))
    again = subprocess.run([*MIRSEARCH, *words], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr


def test_a_full_disk_behind_standard_output_is_one_line(collection: Path) -> None:
    words = ["info", str(collection / "store"), "--json"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([*MIRSEARCH, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("mirsearch: standard output: the disk is full (No space left on device)")


@pytest.mark.parametrize("words", [["info", "s"], ["info", "s", "--json"], ["--version"], ["--help"], ["info", "none"]])
@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_is_closed_is_one_line(tmp_path: Path, words: list[str], closed: int) -> None:
    np.save(tmp_path / "v.npy", np.ones((3, 2), "f4"))
    store = [*MIRSEARCH, "import", "v.npy", "--store", "s", "--layer", "v"]
    subprocess.run(store, cwd=tmp_path, capture_output=True, check=True)
    result = subprocess.run(
        [*MIRSEARCH, *words], cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: os.close(closed),
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    fails = closed == 1 or "none" in words
    assert result.returncode == fails
    if closed == 2:
        assert result.stderr == "" and bool(result.stdout) is not fails
    elif "none" not in words:
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("mirsearch: standard output: cannot be written (Bad file descriptor)")


def test_a_closed_pipe_is_no_traceback(collection: Path) -> None:
    words = ["query", str(collection / "store"), "--ids-file", str(collection / "ids.txt"), "--csv", "-k", "100"]
    (collection / "ids.txt").write_text("\n".join(map(str, range(1000))))
    process = subprocess.Popen([*MIRSEARCH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=60)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_verbs(shell: str) -> None:
    environment = os.environ | {
        "_MIRSEARCH_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "mirsearch in",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "mirsearch in",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    command = Path(sys.executable).with_name("mirsearch")
    result = subprocess.run([command], env=environment, capture_output=True, text=True, check=False)
    assert "ingest" in result.stdout and "info" in result.stdout


def small_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["import", "v.npy", "--store", "s", "--layer", "v"], "s: a file has reached the largest size"),
        (
            ["import", "v.npy", "--store", "there", "--layer", "v", "--append"],
            "there: a file has reached the largest size",
        ),
        (["export", "there", "--out", "v.hdf5", "--queries", "5"], "v.hdf5: a file has reached the largest size"),
        (["export", "there", "--out", "v.parquet"], "v.parquet: a file has reached the largest size"),
        (["export", "there", "--out", "v.fvecs"], "v.fvecs: a file has reached the largest size"),
    ],
)
def test_a_full_disk_is_one_line_and_one_document(tmp_path: Path, words: list[str], says: str) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).random((4000, 64), "f4"))
    there = [*MIRSEARCH, "import", "v.npy", "--store", "there", "--layer", "v"]
    subprocess.run(there, cwd=tmp_path, capture_output=True, check=True)
    before = files_below(tmp_path)
    result = subprocess.run(
        [*MIRSEARCH, *words, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: small_files(300_000),
    )  # fmt: skip
    assert result.returncode == 1
    error = json.loads(result.stdout)["error"]
    assert error.startswith(says) and result.stderr == f"mirsearch: {error}\n"
    assert files_below(tmp_path) == before


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((3_000, 16), np.uint8))
    program = (
        "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from engine.store.writer import StoreWriter\n"
        "write = StoreWriter.write\n"
        "def stop(self, *rest, **more):\n    write(self, *rest, **more); os.kill(os.getpid(), signal.SIGINT)\n"
        "StoreWriter.write = stop\n" + MIRSEARCH[-1]
    )
    words = ["import", "v.npy", "--store", "s", "--layer", "v", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 130 and json.loads(result.stdout) == {"error": "interrupted"}
    assert result.stderr.startswith("Interrupted.") and not (tmp_path / "s").exists()


def test_a_full_standard_output_is_one_line_after_a_failed_check_too(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((3, 2), "f4"))
    words = ["import", "v.npy", "--store", "s", "--layer", "v"]
    subprocess.run([*MIRSEARCH, *words], cwd=tmp_path, capture_output=True, check=True)
    flip_bit(tmp_path / "s" / "v.npy", 4096 * 8)
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*MIRSEARCH, "verify", "s", "--json"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "mirsearch: standard output: the disk is full (No space left on device). Lead it elsewhere, or make room."
    ]
