"""The whole run: which bar is measured where, in what order, and how it is printed."""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

from benchmarks import bars, bench_blend, daemon, facts, fidelity, jobs, latency, marks, memory, signing, transport
from benchmarks.bars import BARS, Result
from benchmarks.rounds import Machine
from benchmarks.workshop import Workshop
from pipeline.errors import ConfigError

_log = logging.getLogger("benchmarks")


@dataclass(frozen=True, slots=True)
class Run:
    """What a measurement is given."""

    quick: bool
    machine: Machine
    workshop: Workshop
    wanted: frozenset[str]


def _module(name: str) -> ModuleType:
    """A module of this folder that loads torch, which only its own bars shall have in this process."""
    return import_module(f"benchmarks.{name}")


#: Bars that are measured together, since they share what is run.
GROUPS: tuple[tuple[tuple[str, ...], Callable[[Run], list[Result]]], ...] = (
    (("P1", "P2", "P3"), lambda run: transport.measure(run.quick, run.machine)),
    (("P4",), lambda run: [jobs.no_op(run.quick, run.machine, run.workshop)]),
    (("P5", "P7", "P8", "P9"), lambda run: jobs.whole(run.quick, run.machine, run.workshop, run.wanted)),
    (("P6",), lambda run: [jobs.idle_cores(run.quick, run.machine, run.workshop)]),
    (("P10",), lambda run: bench_blend.measure(run.quick, run.machine)),
    (("P11",), lambda run: _module("bench_swap").measure(run.quick, run.machine)),
    (
        ("P12", "T1", "T2", "T3", "T4"),
        lambda run: _module("bench_training").measure(run.quick, run.machine, run.wanted),
    ),
    (("T5",), lambda run: [_module("bench_training").busy_share(run.quick)]),
    (("P13",), lambda run: [memory.peak_memory(run.quick, run.workshop)]),
    (("P14",), lambda run: [fidelity.untouched(run.quick, run.workshop)]),
    (("P15",), lambda run: [latency.first_byte(run.quick, run.machine, run.workshop)]),
    (("D1",), lambda run: [daemon.throughput(run.quick, run.machine, run.workshop)]),
    (("D2",), lambda run: [daemon.one_clip(run.quick, run.machine, run.workshop)]),
    (("D3",), lambda run: [daemon.at_rest(run.quick, run.machine, run.workshop)]),
    (("D4",), lambda run: [daemon.checkpointed(run.quick, run.machine, run.workshop)]),
    (("D5",), lambda run: [daemon.restarted(run.quick, run.workshop)]),
    (("M1", "M2"), lambda run: marks.measure(run.quick, run.machine, run.workshop)),
    (("M3",), lambda run: [signing.long_result(run.quick, run.workshop)]),
    (("M4",), lambda run: [fidelity.marked(run.quick, run.workshop)]),
)


def chosen(only: Sequence[str]) -> frozenset[str]:
    """The bars that `only` names (["P1,P4"] or ["P1", "P4"]); all where it is empty. ConfigError on a stranger."""
    known = [known.id for known in BARS]
    names = [name.strip().upper() for name in ",".join(only).split(",") if name.strip()]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"--only: there is no bar {name!r}; did you mean {near[0]}? "
                "There are P1 to P15, T1 to T5, D1 to D5, M1 to M4"
            )
    return frozenset(names or known)


def measured(wanted: Collection[str], quick: bool, patience_s: float) -> Iterator[Result]:
    """The results of the wanted bars, as they come."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        run = Run(quick, Machine(patience_s), Workshop(Path(folder)), frozenset(wanted))
        for ids, measure in GROUPS:
            if not run.wanted.intersection(ids):
                continue
            _log.warning("measuring %s ...", ", ".join(bar_id for bar_id in ids if bar_id in run.wanted))
            yield from (result for result in measure(run) if result.id in run.wanted)


def published(quick: bool, patience_s: float) -> list[dict[str, object]]:
    """What is published with every release: frames per second, shares and costs at several sizes and face counts."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        return facts.at_sizes(quick, Machine(patience_s), Workshop(Path(folder)))


def machine_facts() -> dict[str, str | int]:
    """What the figures were measured on and with."""
    packages = {name: metadata.version(name) for name in ("av", "numpy", "torch", "opencv-python-headless")}
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **packages,
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in told.items()}
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in named.get("flags", "").split()]
    name = named.get("model name", platform.processor() or platform.machine())
    return f"{name} ({', '.join(has)})" if has else name


def narrate(verbose: bool, quiet: bool) -> None:
    """How much is said on standard error on the way: each group of bars, each turn, or nothing."""
    logging.basicConfig(format="%(message)s", level=logging.ERROR if quiet else logging.WARNING)
    _log.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)


def _said(line: str) -> None:
    print(line, flush=True)


def run(only: Sequence[str], quick: bool, as_json: bool, sizes: bool, models: bool, patience_s: float) -> bool:
    """Measures, prints on standard output, and says whether every bar that could be measured was reached.

    Args:
        only: ids, also with commas between; empty for all.
        quick: fewer and shorter turns: shows that everything runs, not what it costs.
        as_json: one JSON object instead of the table.
        sizes: what is published with every release instead of the bars, at several sizes and face counts.
        models: what training each model costs instead of the bars, as a Markdown table.
        patience_s: how long to wait in all for the rest of the machine to be quiet.

    Raises:
        ConfigError: there is no such bar.
    """
    wanted = chosen(only)
    machine = machine_facts()
    if not as_json:
        _said(", ".join(f"{name} {value}" for name, value in machine.items()))
    if sizes:
        entries = published(quick, patience_s)
        print(json.dumps({"machine": machine, "sizes": entries}, indent=2) if as_json else facts.as_table(entries))
        return True
    if models:
        found = _module("bench_models").table(quick, Machine(patience_s), (lambda line: None) if as_json else _said)
        if as_json:
            print(json.dumps({"machine": machine, "models": [asdict(line) for line in found]}, indent=2))
        return True
    results = []
    for result in measured(wanted, quick, patience_s):
        results.append(result)
        if not as_json:
            _said("\n".join(filter(None, (bars.line(result), bars.explained(result)))))
    order = [known.id for known in BARS]
    results.sort(key=lambda result: order.index(result.id))
    if as_json:
        print(json.dumps({"machine": machine, "bars": [bars.as_json(result) for result in results]}, indent=2))
    return not any(map(bars.failed, results))
