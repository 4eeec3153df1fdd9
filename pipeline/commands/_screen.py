"""The screen of `understudy status`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence

from models.reports.wording import count, duration
from pipeline.jobs import Entry, State
from pipeline.live import Folder, Lane, Live, Running
from pipeline.logs import printable
from pipeline.overview import Overview
from pipeline.wording import cells, shortened, size, table, unnamed, wrapped

WIDTH = 80

_MOST = 3  # arriving files of a folder, and lines of a reason


def screen(seen: Overview, mending: Sequence[str], width: int = WIDTH) -> list[str]:
    """The overview for people, in lines of at most `width` cells; but commands are never broken."""
    parts = [[*_head(seen, width)]]
    if seen.live is not None and seen.up:
        parts.append([line for folder in seen.live.folders for line in _folder(folder, width)])
        parts.append([*_running(seen.live.running, width)])
        parts.append([line for lane in seen.live.lanes for line in _lane(lane, width)])
    parts.append([*_jobs(seen, mending, width)])
    return [line for at, part in enumerate(filter(None, parts)) for line in ([""] if at else []) + part]


def _head(seen: Overview, width: int) -> Iterator[str]:
    said = seen.live
    if said is None and seen.counts is None and not seen.trouble:
        yield from _text(f"not running: there is nothing of a daemon in {seen.folder}", width)
    elif said is None:
        yield from _text(f"not running: no daemon is at work in {seen.folder}", width)
    elif not seen.there:
        yield from _text(f"not running: process {said.pid} has ended, last heard {duration(seen.silent_s)} ago", width)
    elif not seen.up:
        silent = f"process {said.pid} is there, but has said nothing for {duration(seen.silent_s)}"
        yield from _text(f"not running, or stuck: {silent}", width)
    else:
        yield from _up(said, seen.now, width)


def _up(said: Live, now: float, width: int) -> Iterator[str]:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said.started))
    lasted = duration(now - said.started)
    yield from _text(f"understudy {said.version}: {said.state}, process {said.pid}, since {since} ({lasted})", width)
    if said.reason:
        yield from _text(said.reason, width, 2)
    if said.web:
        yield from _text(f"page: {said.web} (its token: understudy status --url)", width)


def _folder(folder: Folder, width: int) -> Iterator[str]:
    tail = f"  {folder.mode}" + (f", {len(folder.arriving)} arriving" if folder.arriving else "")
    room = width - cells(tail) - len("watching  -> ")
    inbox, out = printable(folder.inbox), printable(folder.out)
    first = max(room // 2, room - cells(out))
    inbox = shortened(inbox, first)
    yield f"watching {inbox} -> {shortened(out, room - cells(inbox))}{tail}"
    if folder.trouble:
        yield from _text(folder.trouble, width, 2)
    rows = [(_name(one.source), size(one.size), printable(one.reason)) for one in folder.arriving[:_MOST]]
    yield from ("  " + line for line in table(rows, width - 2, 0, frozenset({1})))
    if len(folder.arriving) > _MOST:
        yield f"  and {len(folder.arriving) - _MOST} more"


def _running(clips: Sequence[Running], width: int) -> Iterator[str]:
    rows = [
        (
            str(clip.job),
            _name(clip.source),
            clip.step,
            f"{min(100, 100 * clip.frame // clip.frames)} %" if clip.frames else "",
            f"{clip.frame} of {clip.frames}" if clip.frames else f"{clip.frame} frames",
            f"{clip.fps:.1f}/s",
            f"{duration(clip.eta_s)} left" if clip.eta_s is not None else "",
        )
        for clip in clips
    ]
    yield from table(rows, width, 1, frozenset({0, 3, 4, 5, 6}))


def _lane(lane: Lane, width: int) -> Iterator[str]:
    restarts = f", {lane.restarts} restart{'s' if lane.restarts > 1 else ''}" if lane.restarts else ""
    reason = f": {lane.reason}" if lane.reason else ""
    yield from _text(f"engine {_name(lane.model)}, {lane.to} on {lane.device}: {lane.state}{restarts}{reason}", width)
    busy = (
        f"{stage.name} {100 * stage.busy:.0f}" + (f" ({stage.workers} workers)" if stage.workers > 1 else "")
        for stage in lane.stages
    )
    if lane.stages:
        yield from _text("busy, in %: " + ", ".join(busy), width, 2)


def _jobs(seen: Overview, mending: Sequence[str], width: int) -> Iterator[str]:
    if seen.trouble:
        yield from _text(seen.trouble, width)
    if seen.counts is not None:
        always = (State.WAITING, State.RUNNING, State.DONE)
        shown = (f"{count(many)} {state}" for state, many in seen.counts.items() if many or state in always)
        yield from _text("jobs: " + ", ".join(shown), width)
    for entry in seen.troubled:
        yield from _troubled(entry, mending, seen.now, width)
    if seen.more:
        yield from _text("and more: understudy jobs list", width)


def _troubled(entry: Entry, mending: Sequence[str], now: float, width: int) -> Iterator[str]:
    head, tail = f"{entry.id} ", f" {entry.state} {duration(now - entry.ended)} ago"
    yield head + shortened(_name(entry.source), width - cells(head + tail)) + tail
    yield from _text(unnamed(entry.reason, entry.source), width, 2)  # the name stands above
    if entry.current:
        yield "  -> " + printable(shlex.join([*mending, str(entry.id)]))
    else:
        yield from _text(f"-> it is gone from {entry.folder}; put it back to have it tried again", width, 2)


def _text(text: str, width: int, indent: int = 0) -> list[str]:
    return [" " * indent + line for line in wrapped(printable(text), width - indent, _MOST)]


def _name(path: str) -> str:
    return printable(path.rpartition("/")[2])
