"""M3: what it takes to sign a long result, inside and beside it: seconds for each GB, and memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bars import Result
from benchmarks.workshop import Workshop
from pipeline.provenance import authority, credentials, manifest, settings, signatory
from pipeline.provenance.home import Home

#: Results of so many GB: memory must not grow from the one to the other.
_SIZES, _QUICK_SIZES = (1.0, 3.0), (0.6, 1.2)

#: Of the clip that they show over and over.
_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Taken:
    """What signing took: seconds of it and of reading it back, and MiB of memory more than before."""

    signing_s: float
    reading_s: float
    peak_mib: float


def long_result(quick: bool, workshop: Workshop) -> Result:
    """M3: the most memory that signing takes, of the larger of two results, inside it or beside it."""
    source = workshop.clip(1920, 1080, _SECONDS, "ultrafast")
    home = workshop.folder / "home"
    authority.ensure(Home(home))
    facts: dict[str, float | int | str] = {}
    most = 0.0
    for wanted_gb in _QUICK_SIZES if quick else _SIZES:
        times = max(1, round(wanted_gb * 1e9 / source.stat().st_size))
        result = workshop.long_clip(1920, 1080, _SECONDS, times, "ultrafast")
        size_gb = result.stat().st_size / 1e9
        most = 0.0  # the larger one counts, which comes last
        for name, sign in (("embedded", embedded), ("beside", beside)):
            taken = in_own_process(sign, result, source, home)
            most = max(most, taken.peak_mib)
            facts[f"{name}_mib {size_gb:.1f} GB"] = taken.peak_mib
            facts[f"{name}_s_a_gb"] = taken.signing_s / size_gb
            facts[f"{name}_read_back_s_a_gb"] = taken.reading_s / size_gb
        result.unlink()
    return Result("M3", most, facts)


def in_own_process(sign: Callable[[Path, Path, Path], Taken], result: Path, source: Path, home: Path) -> Taken:
    """What it took in a process that has done nothing before, as the door has at its first clip."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(sign, result, source, home).result()


def embedded(result: Path, source: Path, home: Path) -> Taken:
    """Signs a copy, reads it back, and takes it away."""
    who = signatory.signatory(settings.Config(), Home(home))
    into = result.with_name("signed.mp4")
    before_mib, begun = _peak_mib(), time.monotonic()
    credentials.sign(result, source, _definition(), who, into)
    signed = time.monotonic()
    try:
        _trusted(credentials.read(into, None, (who.chain_pem,)))
    finally:
        into.unlink()
    return Taken(signed - begun, time.monotonic() - signed, _peak_mib() - before_mib)


def beside(result: Path, source: Path, home: Path) -> Taken:
    """Makes the manifest beside it, reads that, and takes it away."""
    who = signatory.signatory(settings.Config(), Home(home))
    into = result.with_name("signed.c2pa")
    before_mib, begun = _peak_mib(), time.monotonic()
    store, _ = credentials.sign_detached(result, source, _definition(), who)
    signed = time.monotonic()
    into.write_bytes(store)
    try:
        _trusted(credentials.read(result, into, (who.chain_pem,)))
    finally:
        into.unlink()
    return Taken(signed - begun, time.monotonic() - signed, _peak_mib() - before_mib)


def _definition() -> dict[str, object]:
    made = datetime.now(UTC)
    return manifest.compose(manifest.Facts("1", "0" * 12, manifest.Treatment.SWAP, "0", made))


def _trusted(found: credentials.Credentials) -> None:
    assert found.state is credentials.State.TRUSTED, found.problems


def _peak_mib() -> float:
    """The most that this process has held so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
