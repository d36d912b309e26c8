"""The guard in tests/conftest.py: machine code of yesterday's sources is deleted, today's is kept."""

from types import SimpleNamespace

from tests import conftest


def test_machine_code_goes_when_a_source_it_may_hold_has_changed(tmp_path, monkeypatch):
    sources = [tmp_path / "kernels" / "cpu.py", tmp_path / "engine" / "store" / "direct.py"]
    compiled = [
        path.parent / "__pycache__" / f"{path.stem}.f-1.py311.{end}" for path in sources for end in ("nbi", "1.nbc")
    ]
    compiled.append(tmp_path / "elsewhere" / "deep" / "cpu.f-1.py311.nbi")
    for path in (*sources, *compiled):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1")
    (compiled[0].parent / "cpu.cpython-311.pyc").touch()
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "elsewhere"))
    kept: dict[str, str] = {}
    config = SimpleNamespace(cache=SimpleNamespace(get=kept.get, set=kept.__setitem__))

    def left_after_a_session() -> int:
        conftest.forget_stale_machine_code(config)  # type: ignore[arg-type]
        return sum(path.exists() for path in compiled)

    assert left_after_a_session() == 0  # nobody knows what it was compiled from
    for path in compiled:
        path.touch()
    assert left_after_a_session() == left_after_a_session() == len(compiled)
    for source in sources:
        source.write_text("x = 2" if source.read_text() == "x = 1" else "x = 3")
        assert left_after_a_session() == 0
        for path in compiled:
            path.touch()
    assert (compiled[0].parent / "cpu.cpython-311.pyc").exists()


def test_workers_of_xdist_leave_it_to_the_controller(monkeypatch):
    seen: list[object] = []
    monkeypatch.setattr(conftest, "forget_stale_machine_code", seen.append)
    conftest.pytest_configure(SimpleNamespace(workerinput={}))
    assert seen == []
    controller = SimpleNamespace()
    conftest.pytest_configure(controller)
    assert seen == [controller]
