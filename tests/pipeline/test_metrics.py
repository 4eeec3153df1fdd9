"""pipeline.metrics: a text that can be read back, whatever folders are called."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pipeline.jobs import State
from pipeline.live import Arriving, Folder, Lane, Live, Running, StageNow
from pipeline.metrics import ALIVE_S, is_alive, render

NOW = 1_800_000_000.0
STAGES = (StageNow("decode", 1, 0.25, 0.0, 0.5), StageNow("swap", 2, 0.75, 0.125, 0.0))
LIVE = Live(
    pid=7,
    version="0.1.0",
    started=NOW - 60,
    time=NOW - 1.5,
    state="running",
    ready=True,
    folders=(Folder("/in", "/out", "events", "", (Arriving("/in/a.mp4", 5, "it still grows"),)),),
    lanes=(Lane("/model", "b", "cuda:0", "ready", 3, "", STAGES),),
    running=(
        Running(12, "/in/x.mp4", "/out/x.mp4", "swap", 50, 200, 24.5, 6.1, 2.0, "/work/12-a/preview.jpg"),
        Running(13, "/in/y.mp4", "/out/y.mp4", "swap", 50, None, 1e-7, None, 2.0, ""),
    ),
)

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? ([0-9.e+-]+)\n')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Sample = tuple[str, frozenset[tuple[str, str]]]


def parse(text: str) -> dict[Sample, float]:
    """As the format's description says; fails on what it does not allow."""
    found: dict[Sample, float] = {}
    types: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in types and kind in ("gauge", "counter"), "one type a name, once"
            types[name] = kind
        elif not line.startswith("# HELP "):
            match = LINE.fullmatch(line)
            assert match and match[1] in types, line
            labels = [
                (name, re.sub(r"\\.", lambda each: UNESCAPED[each[0]], value))
                for name, value in LABEL.findall(match[2] or "")
            ]
            sample = match[1], frozenset(labels)
            assert sample not in found, f"twice: {sample}"
            assert (types[match[1]] == "counter") == match[1].endswith("_total")
            found[sample] = float(match[3])
    return found


def value(found: dict[Sample, float], name: str, **labels: str) -> float | None:
    return found.get((f"understudy_{name}", frozenset(labels.items())))


def test_it_can_be_read_back() -> None:
    found = parse(render(LIVE, {State.WAITING: 4, State.DONE: 50_000}, {"/out": 123 << 30}, NOW))
    assert value(found, "up") == value(found, "ready") == 1 and value(found, "paused") == 0
    assert value(found, "heartbeat_age_seconds") == 1.5 and value(found, "start_time_seconds") == NOW - 60
    assert value(found, "info", version="0.1.0") == 1
    assert value(found, "jobs", state="waiting") == 4 and value(found, "jobs", state="done") == 50_000
    assert value(found, "disk_free_bytes", folder="/out") == 123 << 30
    assert value(found, "lane_restarts_total", lane="/model:b@cuda:0") == 3
    assert value(found, "lane_up", lane="/model:b@cuda:0") == 1
    assert value(found, "stage_busy_ratio", lane="/model:b@cuda:0", stage="swap") == 0.75
    assert value(found, "stage_wait_in_ratio", lane="/model:b@cuda:0", stage="swap") == 0.125
    assert value(found, "stage_wait_out_ratio", lane="/model:b@cuda:0", stage="decode") == 0.5
    assert value(found, "stage_workers", lane="/model:b@cuda:0", stage="swap") == 2
    assert value(found, "folder_arriving", inbox="/in") == 1 and value(found, "folder_trouble", inbox="/in") == 0
    assert value(found, "running_clip_progress", job="12") == 0.25
    assert value(found, "running_clip_progress", job="13") is None
    assert value(found, "running_clip_frames_per_second", job="13") == 1e-7


@pytest.mark.parametrize("name", ['/a"b', "/a\\b", "/a\nb", "/a\\nb", "/\udcff", '"} 1\nunderstudy_up 5', "/ä 😀"])
def test_any_name_is_one_label(name: str) -> None:
    live = replace(LIVE, folders=(Folder(name, "/out", "events"),))
    text = render(live, {}, {name: 5}, NOW)
    text.encode()
    found = parse(text)
    assert len([sample for sample in found if sample[0] == "understudy_disk_free_bytes"]) == 1
    assert value(found, "up") == 1
    shown = dict(next(labels for key, labels in found if key == "understudy_folder_trouble"))["inbox"]
    assert shown == name or not name.isprintable()


def test_two_lanes_of_one_name_are_one() -> None:
    parse(render(replace(LIVE, lanes=LIVE.lanes * 2, folders=LIVE.folders * 2), {}, {}, NOW))


def test_a_daemon_that_is_not_heard_from() -> None:
    late = NOW + ALIVE_S
    assert is_alive(LIVE, NOW) and not is_alive(LIVE, late) and not is_alive(None, NOW)
    found = parse(render(LIVE, {State.WAITING: 4}, {}, late))
    assert value(found, "up") == value(found, "ready") == 0
    assert value(found, "heartbeat_age_seconds") == ALIVE_S + 1.5 and value(found, "jobs", state="waiting") == 4
    assert not [name for name, _ in found if "stage" in name or "running" in name], "what it did then is old"
    never = parse(render(None, {}, {}, NOW))
    assert {name for name, _ in never} == {"understudy_up", "understudy_ready"}
    paused = parse(render(replace(LIVE, state="paused", ready=False), {}, {}, NOW))
    assert (value(paused, "paused"), value(paused, "ready"), value(paused, "up")) == (1, 0, 1)
