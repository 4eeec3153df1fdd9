"""`doctor`: what is missing is said with what to do about it."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from pipeline import doctor
from tests.program import Program, as_json


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks that start interpreters find all well."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "all well\n", "")

    monkeypatch.setattr(subprocess, "run", run)


def finding(program: Program, name: str) -> tuple[int, dict[str, str]]:
    code, out, _ = program("doctor", "--json")
    return code, next(f for f in as_json(out)["findings"] if f["name"] == name)


def test_this_machine_has_what_is_needed(program: Program) -> None:
    code, out, _ = program("doctor")
    assert code == 0 and out.endswith("all that is needed is here\n")
    for name in ("python", "packages", "opencv", "names", "memory", "cores", "cv2", "faces", "torch", "codecs"):
        assert f" {name} " in out


@pytest.mark.usefixtures("no_programs")
def test_a_second_opencv(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "4.11" if n == "opencv-contrib-python" else version(n))
    code, found = finding(program, "opencv")
    assert (code, found["state"]) == (7, "missing")
    assert "opencv-contrib-python fight" in found["what"] and "pip uninstall opencv-contrib-python" in found["remedy"]


@pytest.mark.usefixtures("no_programs")
def test_a_package_of_our_name(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "pipeline/doctor.py"))
    code, found = finding(program, "names")
    assert code == 7 and "models is " in found["what"] and "PYTHONPATH" in found["remedy"]


@pytest.mark.usefixtures("no_programs")
def test_no_shared_memory(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create")
    code, found = finding(program, "memory")
    assert code == 7 and "memfd" in found["what"]


def test_a_library_that_does_not_load() -> None:
    (broken,) = doctor._imported("cv2", "raise ImportError('libGL.so.1: cannot open')", "do this")
    assert broken == doctor.Finding("cv2", "missing", "does not load: ImportError: libGL.so.1: cannot open", "do this")
    (killed,) = doctor._imported("cv2", "import os; os.abort()", "do this")
    assert killed.state == "missing" and "the interpreter ended with -6" in killed.what


def test_codecs() -> None:
    (all_there,) = doctor._codecs({"h264": "libx264"})
    (one_lacks,) = doctor._codecs({"h264": "libx264", "x": "no_such_encoder"})
    (none,) = doctor._codecs({"h264": "no_such_encoder"})
    assert [f.state for f in (all_there, one_lacks, none)] == ["ok", "note", "missing"]
    assert one_lacks.what == "results can be h264; not x"


@pytest.mark.usefixtures("no_programs")
def test_an_unused_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    done = subprocess.CompletedProcess([], 0, "2.13 with no GPU: training and swapping use the CPU", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (found,) = doctor._torch()
    assert found.state == "note" and "CUDA build" in found.remedy
