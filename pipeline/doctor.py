"""What this machine has, what it lacks, and what to do about it: one `Finding` for each check.

Checks that load something heavy or fragile run in a process of their own: a library that ends the process, as a
broken wheel may, is then a finding and not the end of the doctor.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result; `missing` means that the program cannot do its work, `note` that it can, but."""

    name: str
    state: State
    what: str
    remedy: str = ""


#: Distributions the program imports, with what they are for.
_DISTRIBUTIONS = (
    *("av", "c2pa-python", "cryptography", "mediapipe", "numpy", "opencv-python-headless", "pillow", "pyyaml"),
    *("safetensors", "torch", "watchdog"),
)

#: Several distributions own the folder `cv2`; only this one works without libGL.
_OPENCV = "opencv-python-headless"
_OTHER_OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")

_SET_UP = "run `make setup` in the project's folder, and use .venv/bin/understudy"


def examine(encoders: Mapping[str, str]) -> Iterator[Finding]:
    """Runs every check, the cheap ones first; `encoders` are FFmpeg's, by the names that encode.codec has for them."""
    for check in (_python, _packages, _opencv_owner, _shadows, _memory, _cores):
        yield from check()
    yield from _imported("cv2", "import cv2; print(cv2.__version__)", _SET_UP)
    yield from _imported("faces", _FACE_MESH, "install mediapipe==0.10.21, the last release that carries its models")
    yield from _torch()
    yield from _codecs(encoders)
    yield from _ffmpeg()


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] <= (3, 12)
    state: State = "ok" if fits else "missing"
    yield Finding("python", state, f"{version} on {platform.system()} {platform.machine()}", "" if fits else _SET_UP)


def _packages() -> Iterator[Finding]:
    found, lacking = [], []
    for name in _DISTRIBUTIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lacking.append(name)
    if lacking:
        yield Finding("packages", "missing", f"not installed: {', '.join(lacking)}", _SET_UP)
    else:
        yield Finding("packages", "ok", ", ".join(found))


def _opencv_owner() -> Iterator[Finding]:
    others = [name for name in _OTHER_OPENCV if _installed(name)]
    if others:
        remedy = f"pip uninstall {' '.join(others)} {_OPENCV}; then {_SET_UP}"
        yield Finding("opencv", "missing", f"{' and '.join(others)} fight with {_OPENCV} over the folder cv2", remedy)
    else:
        yield Finding("opencv", "ok", f"{_OPENCV} alone owns the folder cv2; no libGL is needed")


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _shadows() -> Iterator[Finding]:
    """Our packages have common names; another one of that name earlier on the path would be imported instead."""
    ours = Path(__file__).resolve().parent.parent
    strangers = []
    for name in ("models", "stages"):
        spec = util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent.parent != ours:
            strangers.append(f"{name} is {origin.parent if origin else 'nowhere'}")
    if strangers:
        remedy = f"take it off PYTHONPATH or start elsewhere; ours are in {ours}"
        yield Finding("names", "missing", f"another package stands in the way: {', '.join(strangers)}", remedy)
    else:
        yield Finding("names", "ok", f"the packages pipeline, stages and models are those in {ours}")


def _memory() -> Iterator[Finding]:
    if not hasattr(os, "memfd_create"):
        yield Finding("memory", "missing", "no anonymous shared memory (memfd)", "use Linux 3.17 or later")
        return
    try:
        descriptor = os.memfd_create("understudy-doctor")
        os.ftruncate(descriptor, 256 << 20)
        os.close(descriptor)
    except OSError as error:
        yield Finding("memory", "missing", f"no anonymous shared memory: {error.strerror}", "allow memfd_create")
        return
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    tight = total < 4
    what = f"{free:.1f} of {total:.1f} GiB free; anonymous shared memory works, /dev/shm is not needed"
    yield Finding("memory", "note" if tight else "ok", what, "choose a small model and a small ring" if tight else "")


def _cores() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    few = cores < 2
    yield Finding("cores", "note" if few else "ok", f"{cores}", "stages will take turns" if few else "")


_FACE_MESH = """
import mediapipe, numpy
mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True)
mesh.process(numpy.zeros((64, 64, 3), numpy.uint8))
print("mediapipe", mediapipe.__version__, "has loaded its face mesh")
"""

_TORCH = """
import torch
cuda = torch.cuda.is_available()
print(torch.__version__, "with", torch.cuda.get_device_name(0) if cuda else "no GPU: training and swapping use the CPU")
"""


def _imported(name: str, program: str, remedy: str) -> Iterator[Finding]:
    """Runs a few lines in a fresh interpreter; their last line is what is found."""
    quiet = {"GLOG_minloglevel": "3", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | quiet, check=False)
    except subprocess.TimeoutExpired:
        yield Finding(name, "missing", "does not load within 120 s", remedy)
        return
    if done.returncode == 0:
        yield Finding(name, "ok", done.stdout.strip().rpartition("\n")[2])
        return
    said = done.stderr.strip().rpartition("\n")[2] or f"the interpreter ended with {done.returncode}"
    yield Finding(name, "missing", f"does not load: {said}", remedy)


def _torch() -> Iterator[Finding]:
    for finding in _imported("torch", _TORCH, _SET_UP):
        unused = finding.state == "ok" and "no GPU" in finding.what and shutil.which("nvidia-smi")
        remedy = "install a CUDA build of PyTorch; the Makefile says how" if unused else finding.remedy
        yield replace(finding, state="note", remedy=remedy) if unused else finding


def _codecs(encoders: Mapping[str, str]) -> Iterator[Finding]:
    """The encoders that results can have; H.264 is the default, so it is needed."""
    if util.find_spec("av") is None:
        yield Finding("codecs", "missing", "PyAV is not installed", _SET_UP)
        return
    from av.codec import codecs_available

    lacking = [name for name, encoder in encoders.items() if encoder not in codecs_available]
    have = ", ".join(name for name in encoders if name not in lacking)
    what = f"results can be {have}" + (f"; not {', '.join(lacking)}" if lacking else "")
    state: State = "missing" if "h264" in lacking else "note" if lacking else "ok"
    yield Finding("codecs", state, what, "install av from its wheel: it brings all of them" if lacking else "")


def _ffmpeg() -> Iterator[Finding]:
    found = shutil.which("ffmpeg")
    what = found or "the program is not installed; only benchmarks, some tests and your own pipes use it"
    yield Finding("ffmpeg", "ok" if found else "note", what)
