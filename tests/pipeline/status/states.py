"""A daemon's folder as a daemon leaves it, made up: jobs of all kinds, hostile names, pictures."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from pipeline import live
from pipeline.jobs import FILE, Entry, Mark, Table
from pipeline.live import Arriving, Folder, Lane, Live, Running, StageNow

HTML = "<img src=x onerror=alert(1)>.mp4"
HOSTILE = (
    HTML,
    "a\nb.mp4",
    "caf\udce9.mp4",
    "-rf.mp4",
    "\"'&<script>alert(2)<",
    "x" * 251 + ".mp4",
    "\x1b[31mred\u202egpj.mp4",
)

_STAGES = tuple(
    StageNow(name, workers, *shares)
    for name, workers, *shares in (
        ("decode", 1, 0.21, 0.02, 0.77),
        ("detect/align", 2, 0.93, 0.04, 0.03),
        ("mask", 1, 0.12, 0.85, 0.03),
        ("swap", 1, 0.67, 0.31, 0.02),
        ("blend", 1, 0.18, 0.8, 0.02),
        ("encode", 1, 0.34, 0.66, 0.0),
    )
)


def picture(path: Path, text: str, width: int = 640, height: int = 180) -> bytes:
    """A JPEG that says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(40, 190, width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2).copy()
    cv2.putText(ramp, text, (20, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2)
    content = cv2.imencode(".jpg", ramp)[1].tobytes()
    path.write_bytes(content)
    return content


class State:
    """A folder, its table open, and the way to say what the daemon does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.out = folder / "out"
        self.work = folder / "work"
        for each in (self.inbox, self.out, self.work):
            each.mkdir(parents=True)
        self.table = Table.open(folder / FILE)
        self.live = Live(
            pid=4711,
            version="0.1.0",
            started=time.time() - 9000,
            time=time.time(),
            state="running",
            ready=True,
            watched=str(self.work),
            sheets=str(folder / "sheets"),
            folders=(Folder(str(self.inbox), str(self.out), "events"),),
        )

    def say(self, **changes: object) -> None:
        """Writes what the daemon says of itself."""
        self.live = replace(self.live, **{"time": time.time(), **changes})  # type: ignore[arg-type]
        live.write(self.folder, self.live)

    def add(self, name: str, priority: int = 0) -> Entry:
        """A job that waits."""
        source, target = f"{self.inbox}/{name}", f"{self.out}/{name}"
        return self.table.accept(
            str(self.inbox), source, target, Mark(12_345_678, 5, 6), priority, seen=time.time() - 500
        )

    def begin(self, name: str) -> Entry:
        """One that runs."""
        return self.table.claim(self.add(name).id, time.time() - 60)

    def done(self, name: str, sheet: bool = True) -> Entry:
        """One that is done."""
        entry = self.table.finish(self.begin(name).id, 1234, 61.5, "ab" * 32, time.time() - 40)
        if sheet:
            picture(self.folder / "sheets" / f"{entry.id}.jpg", f"sheet {entry.id}")
        return entry

    def failed(self, name: str, reason: str) -> Entry:
        """One that was given up."""
        facts = {"error": "StageError", "stage": "swap", "frame": 17, "reason": reason}
        return self.table.fail(self.begin(name).id, reason, facts, time.time() - 30)

    def running(self, entry: Entry, frame: int = 300, frames: int | None = 1000) -> Running:
        """What the daemon says of a clip that runs."""
        preview = str(self.work / f"{entry.id}-abc" / "preview.jpg")
        eta_s = (frames - frame) / 24.6 if frames else None
        return Running(entry.id, entry.source, entry.target, "swap", frame, frames, 24.6, eta_s, 12.2, preview)

    def lane(self, **changes: object) -> Lane:
        """An engine at work."""
        made = Lane("/srv/models/anna and bert", "anna", "cuda:0", "ready", stages=_STAGES)
        return replace(made, **changes)  # type: ignore[arg-type]

    def close(self) -> None:
        self.table.close()


def busy(folder: Path) -> State:
    """One with everything that can be shown."""
    state = State(folder)
    for number in range(5):
        state.done(f"holiday/clip {number}.mp4", sheet=number != 2)
    for name in HOSTILE:
        state.done(name)
    state.failed("broken.mp4", "swap failed at frame 17: <b>no</b> memory was left on cuda:0")
    state.failed(
        f"2{HTML}", "the clip cannot be opened: it ends in the middle of a packet, at byte 1 204 224 of 8 000 000"
    )
    state.table.block(state.begin("later.mov").id, "the model /srv/models/anna is missing; put it back", time.time())
    running = [state.begin("interview.mp4"), state.begin(f"3{HTML}")]
    for number, name in enumerate(HOSTILE):
        state.add(f"4{name[:240]}", priority=number)
    for number in range(110):
        state.add(f"season 1/episode {number:03}.mkv")
    held = state.table.claim(state.add("again.mp4").id, time.time())
    state.table.release(held.id, "the disk was full: no space left on device", time.time() + 600)
    clips = [state.running(running[0]), state.running(running[1], 77, None)]
    picture(Path(clips[0].preview), "before      |       after", 1280, 360)
    arriving = (
        Arriving(f"{state.inbox}/5{HTML}", 5_000_000, "it still grows"),
        Arriving(f"{state.inbox}/upload.mov", 1_200_000_000, "it ends before its index"),
    )
    folders = (
        Folder(str(state.inbox), str(state.out), "events", "", arriving),
        Folder("/mnt/share/in", "/mnt/share/out", "polling", "the share does not answer; it is tried every 10 s"),
    )
    lanes = (
        state.lane(),
        state.lane(device="cpu", state="down", reason="it keeps dying and rests for 30 s", restarts=3),
    )
    state.say(folders=folders, lanes=lanes, running=tuple(clips))
    return state
