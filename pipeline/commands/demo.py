"""Shows the whole thing in a few minutes, from nothing: films two people, extracts their faces, says whose they are,
trains a small model, starts the daemon, drops a clip into the watched folder, verifies and measures what comes out.

The two people are puppets made on this machine: a public-domain photograph, animated, and a painted face. With --media
the clips are yours: DIR/a* shows the one person, DIR/b* the other; the last clip of each is held back from training
where there are several. Both are then taken to be you (consent.policy: off-for-self), which the audit says."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from pipeline.errors import InputError, StageError

if TYPE_CHECKING:
    from pipeline.app import Settings
    from pipeline.progress import Progress

T = TypeVar("T")

SUMMARY = "show the whole thing, from nothing to a swapped clip"

EXAMPLES = """\
  understudy demo --into demo
  understudy demo --into demo --media my-clips --minutes 30
"""

_log = logging.getLogger(__name__)

#: What the demo makes anew each time; nothing else in its folder is touched.
_OURS = (
    *("clips", "faces", "model", "watched", "out", ".understudy", "private"),
    *("contact_sheet.png", "report.json", "config.yaml", "watch.log"),
)

#: Extensions of clips that --media looks for.
_CLIPS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")

#: Who the puppets are, as `identity add` takes it.
_KINDS = {"a": "--public-domain-test", "b": "--synthetic"}

#: How the demo trains: the smallest network, as fast as it learns.
_RECIPE: dict[str, Any] = {
    "architecture": "original",
    "preset": "sketch",
    "batch": 8,
    "optimiser": {"lr": 2e-3, "lr_end": 0.02, "beta2": 0.99},
    "safety": {"save_minutes": 10.0, "backups": 0},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--into", metavar="DIR", default="demo", help="where all that is made goes")
    parser.add_argument("--media", metavar="DIR", help="your own clips: DIR/a*.mp4 and DIR/b*.mp4")
    parser.add_argument("--minutes", metavar="N", type=float, default=2.5, help="how long to train")
    parser.add_argument("--seconds", metavar="N", type=float, default=8.0, help="length of each clip that is filmed")


@dataclass(slots=True)
class _Demo:
    """Where the demo lies, and what it took so far."""

    folder: Path
    settings: Settings
    shown: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    def step(self, name: str, title: str, work: Callable[[], T]) -> T:
        """Runs one step, says so, and keeps its time."""
        self.shown.say(f"[{len(self.seconds) + 1}/8] {title} ...")
        begun = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - begun, 2)
        return result


@dataclass(frozen=True, slots=True)
class _Clips:
    """Clips of both people: to learn from, and to judge by."""

    learn: dict[str, list[Path]]
    judge: dict[str, list[Path]]

    @property
    def held_out(self) -> bool:
        """Whether what judges was never learnt from."""
        return not any(set(self.learn[person]) & set(self.judge[person]) for person in ("a", "b"))


def run(args: argparse.Namespace) -> int:
    """Runs all steps, writes report.json and contact_sheet.png, and says where the result is."""
    from pipeline import app, config
    from pipeline.progress import progress

    settings = app.load_settings(args.config, args.set)
    own_choice = settings.train != app.Settings().train
    recipe = {"minutes": args.minutes, **({} if own_choice else _RECIPE)}
    folder = Path(args.into).absolute()
    own: dict[str, Any] = {"train": recipe, "provenance": {"folder": str(folder / "private")}}
    if args.media:
        own["consent"] = {"policy": "off-for-self"}
    settings = config.apply(settings, own, Path.cwd())
    _clear(folder)
    with progress(sys.stderr, args.quiet or args.json, unit="") as shown:
        report = _run_all(_Demo(folder, settings, shown), args)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2) if args.json else "\n".join(_ending(report, folder)))
    return 0


def _run_all(demo: _Demo, args: argparse.Namespace) -> dict[str, Any]:
    if args.media:
        clips = demo.step("clips", f"taking the clips in {args.media}", lambda: _media(Path(args.media).absolute()))
    else:
        clips = demo.step("clips", "filming two people", lambda: _film(demo, args.seconds))
    faces = demo.step("extract", "extracting their faces", lambda: _extract(demo, clips))
    whose = "taking both people to be you" if args.media else "saying whose faces these are"
    demo.step("identities", whose, lambda: None if args.media else _identify(demo))
    training = demo.step("train", f"training for {args.minutes:g} minutes", lambda: _train(demo))
    clip = clips.judge["a"][0]
    watched = demo.step("watch", "dropping a clip into the watched folder of the daemon", lambda: _watch(demo, clip))
    result = Path(watched["target"])
    verified = demo.step("verify", "reading what the result says of itself", lambda: _verify(demo, result))
    measured = demo.step("evaluate", "measuring identity and expression", lambda: _evaluate(demo, clip, result))
    sheet = demo.folder / "contact_sheet.png"
    demo.step("contact_sheet", "drawing the contact sheet", lambda: _draw(clip, result, sheet))
    return {
        "identity": measured["identity"],
        "expression_error": measured["expression_error"],
        "frames_in": watched["reports"].get("detect", {}).get("frames", _frames(clip)),
        "frames_out": _frames(result),
        "fps": watched["fps"],
        "stages": {row["name"]: {key: row[key] for key in ("fps", "busy")} for row in watched["stages"]},
        "bottleneck": watched["bottleneck"],
        "seconds": demo.seconds,
        "total_seconds": round(sum(demo.seconds.values()), 2),
        "verified": verified,
        "held_out": clips.held_out,
        "faces": faces,
        "training": training,
        "evaluation": measured,
        "source": str(clip),
        "result": str(result),
        "contact_sheet": str(sheet),
    }


def _clear(folder: Path) -> None:
    """Removes what an earlier demo made, after making sure that it was one."""
    if folder.is_dir():
        strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in _OURS)
        if strangers:
            raise InputError(f"{folder} holds {strangers[0]}, which no demo made; give another folder with --into")
        shutil.rmtree(folder)
    for name in ("clips", "faces", "watched", "out"):
        (folder / name).mkdir(parents=True)


def _film(demo: _Demo, seconds: float) -> _Clips:
    """Two takes of each person; the same seed would have them do the same."""
    from stages.puppets.people import ACTOR, ASTRONAUT
    from stages.puppets.scenes import film

    takes: dict[str, list[Path]] = {"a": [], "b": []}
    for name, person, seed in (("a", ASTRONAUT, 1), ("b", ACTOR, 11)):
        puppet = person.puppet()
        for take in range(2):
            path = demo.folder / "clips" / f"{name}{take + 1}.mp4"
            length = seconds if take == 0 else seconds / 2
            demo.shown.show(path.name, take, 2)
            film(puppet, person, path, length, 25, (512, 512), seed + take)
            takes[name].append(path)
    return _Clips({p: t[:1] for p, t in takes.items()}, {p: t[1:] for p, t in takes.items()})


def _media(folder: Path) -> _Clips:
    if not folder.is_dir():
        raise InputError(f"--media {folder} is no folder; give one that holds a*.mp4 and b*.mp4")
    takes = {
        person: sorted(f for f in folder.iterdir() if f.name.lower().startswith(person) and f.suffix.lower() in _CLIPS)
        for person in ("a", "b")
    }
    for person, found in takes.items():
        if not found:
            raise InputError(f"--media {folder} holds no {person}*.mp4 (nor {', '.join(_CLIPS[1:])})")
    return _Clips(
        {p: found[:-1] if len(found) > 1 else found for p, found in takes.items()},
        {p: found[-1:] for p, found in takes.items()},
    )


def _extract(demo: _Demo, clips: _Clips) -> dict[str, int]:
    """Face sets to learn from and to judge by; of each frame the largest face."""
    from pipeline.commands.extract import extract

    settings = replace(demo.settings, extract=replace(demo.settings.extract, largest=True))
    counts = {}
    for purpose, takes in (("", clips.learn), ("-held-out", clips.judge)):
        for person, files in takes.items():
            name = f"{person}{purpose}"
            found = extract(settings, [str(f) for f in files], str(demo.folder / "faces" / name), demo.shown)
            counts[name] = found["counts"]["faces"]
    return counts


def _identify(demo: _Demo) -> None:
    """Gives the puppets their identities, as somebody would by hand."""
    for person, kind in _KINDS.items():
        _said(demo, "identity", "add", str(demo.folder / "faces" / person), kind)


def _verify(demo: _Demo, result: Path) -> dict[str, Any]:
    """What `provenance verify` says of the result. Raises StageError: it is not what it should be."""
    found: dict[str, Any] = json.loads(_said(demo, "provenance", "verify", str(result), "--json"))
    return found


def _said(demo: _Demo, *words: str) -> str:
    """What the program prints, run as a user would run it. Raises StageError where it fails."""
    own = ("--set", f"provenance.folder={demo.settings.provenance.folder}")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", *words, *own], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(" ".join(words[:2]), words[2], None, (done.stderr or done.stdout).strip())
    return done.stdout


def _train(demo: _Demo) -> dict[str, Any]:
    from models import faceset
    from models.train.loop import Around, train
    from pipeline.commands._learning import Record, ask
    from pipeline.commands.train import show

    out = demo.folder / "model"
    folders = {person: [str(demo.folder / "faces" / person)] for person in ("a", "b")}
    sets = {person: faceset.read(folder) for person, (folder,) in folders.items()}
    asked = ask(demo.settings, folders, str(out))
    around = Around(lambda step: show(step, demo.shown), demo.shown.say)
    result = train(demo.settings.train, sets, out, around, asked.carried)
    Record(demo.settings, folders, sets, asked, str(out)).write(result.metrics)
    return {"steps": result.steps, "faces_per_s": round(result.faces_per_s, 1), "loss": result.description.loss}


def _watch(demo: _Demo, clip: Path) -> dict[str, Any]:
    """Starts the daemon, drops the clip into its folder, and waits for the result; gives the daemon's line on it."""
    folder = demo.folder
    settings: dict[str, Any] = {"model": "model", "watch": [{"in": "watched", "out": "out", "settle_s": 0.5}]}
    settings |= {"daemon": {"state": ".understudy", "page": {"enabled": False}}, "provenance": {"folder": "private"}}
    settings |= _changed(demo.settings)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    with _daemon(folder) as lines:
        coming = folder / "watched" / f".{clip.name}.part"
        shutil.copyfile(clip, coming)
        coming.rename(folder / "watched" / clip.name)
        for line in lines:
            outcome: dict[str, Any] = json.loads(line)
            if not outcome["ok"]:
                raise StageError("watch", str(clip), None, outcome["failure"]["sentence"])
            return outcome
    raise StageError("watch", str(clip), None, f"the daemon ended without a word; see {folder / 'watch.log'}")


def _changed(settings: Settings) -> dict[str, Any]:
    """What converting needs of the settings, where it is not the default."""
    from pipeline import app, config

    ours, default = (config.to_tree(each, app.FIXED) for each in (settings, app.Settings()))
    sections = ("consent", "decode", "detect", "align", "mask", "swap", "blend", "disclose", "encode", "engine")
    return {name: ours[name] for name in sections if ours[name] != default[name]}


@contextmanager
def _daemon(folder: Path) -> Iterator[Iterator[str]]:
    """`understudy watch` in a process of its own, stopped in the end; gives the lines it prints."""
    command = [sys.executable, "-P", "-m", "pipeline", "watch", "-c", str(folder / "config.yaml"), "--json"]
    with (folder / "watch.log").open("w", encoding="utf-8") as log:
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert daemon.stdout is not None
            yield iter(daemon.stdout.readline, "")
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate(timeout=60)


def _evaluate(demo: _Demo, clip: Path, result: Path) -> dict[str, Any]:
    from models import faceset
    from pipeline.commands.evaluate import evaluate

    set_a, set_b = (faceset.read(demo.folder / "faces" / f"{person}-held-out") for person in ("a", "b"))
    return evaluate(demo.settings, str(clip), str(result), set_a, set_b, 1, demo.shown)


def _draw(clip: Path, result: Path, sheet: Path) -> None:
    from stages.contact_sheet import contact_sheet

    contact_sheet(clip, result, sheet)


def _frames(clip: Path) -> int:
    """How many frames a clip gives."""
    from contextlib import closing

    from stages.viewing import views

    with closing(views(clip)) as found:
        return sum(1 for _ in found)


def _ending(report: dict[str, Any], folder: Path) -> Sequence[str]:
    from pipeline.commands.evaluate import sentences
    from pipeline.logs import printable

    busy = ", ".join(f"{name} {100 * row['busy']:.0f} %" for name, row in report["stages"].items())
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report["seconds"].items())
    lines = [
        "",
        *sentences(report["evaluation"]),
        f"frames: {report['frames_in']} in, {report['frames_out']} out, {report['fps']:.1f} a second",
        f"busy: {busy}; bottleneck: {report['bottleneck']}",
        f"time: {took}; {report['total_seconds']:.0f} s in all",
        "",
        f"the clip before:  {report['source']}",
        f"the clip after:   {report['result']}",
        f"both, side by side: {report['contact_sheet']}",
        f"where it comes from: understudy provenance verify -c {folder / 'config.yaml'} {report['result']}",
        f"all figures:      {folder / 'report.json'}",
    ]
    return [printable(line) for line in lines]
