"""The training loop: draw faces, learn from them, tell, save; until an end is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from models import carried, durable, kept, tensors
from models.description import ModelDescription
from models.faceset import FaceSet, divided
from models.reports.judge import Judge, Landmarks
from models.train import data, finder
from models.train.batch import Batch
from models.train.clock import Clock, Progress
from models.train.feed import Feed, open_feed
from models.train.journal import ROLLED_BACK
from models.train.recipe import Config
from models.train.session import Record, Session
from models.train.show import Show
from models.train.step import Diverged, Stopped
from models.train.threads import Threads, candidates
from models.train.world import World
from pipeline.errors import UnderstudyError, WeightsError

#: The event that faces go through the network in more parts from now on.
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a session came to.

    Attributes:
        description: the model as saved.
        ended: why: "iterations", "minutes", "patience" or "stopped".
        preview: the last preview sheet.
        notes: what a person should know: faces that could not be used, what was taken over, one sentence each.
        metrics: the last judgement.
    """

    description: ModelDescription
    steps: int
    seconds: float
    faces_per_s: float
    ended: str
    preview: Path | None
    notes: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Around:
    """What a training needs of the world around it.

    Attributes:
        on_progress: called about twice a second and after each save.
        on_event: told what happens on the way, one sentence each: taken back, out of memory, ...
        stop: asked again and again; once it says so, the model is saved and training ends.
        landmarks: finds them, for the judgement of expression and pose; None leaves these two out.
        world: the other processes of the same training.
    """

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_event: Callable[[str], None] = lambda sentence: None
    stop: Callable[[], bool] = lambda: False
    landmarks: Landmarks | None = None
    world: World = field(default_factory=World.alone)


_ALONE = Around()


def train(
    config: Config,
    sets: Mapping[str, FaceSet],
    folder: Path | str,
    around: Around = _ALONE,
    identities: carried.Identities = carried.NOBODY,
) -> TrainingResult:
    """Trains the model in `folder` on, or a new one where there is none, until an end of `config` or `around.stop`.

    Args:
        sets: each person's faces; of two, the first is the one in the clips, the second whose face is put there.
        identities: what is known of these people; the model carries it. Nothing is asked of it here.

    Raises:
        ConsentError: the model in `folder`, or the one to start from, was edited to hide whose faces are in it.
        ConfigError: settings that do not fit the model in `folder`.
        InputError: a face set without a usable face.
        RequirementError: a device that is not there, or not enough memory for one face.
        WeightsError: the model in `folder` is damaged, in use, cannot be written, or broke down too often.
    """
    with _begun(config, sets, Path(folder), around, identities) as training:
        return training.run()


def try_rates(
    config: Config, sets: Mapping[str, FaceSet], folder: Path | str, around: Around = _ALONE
) -> finder.Finding:
    """Which step size suits the model in `folder`, or a new one; nothing of it is kept.

    Raises:
        Stopped: `around.stop` said so; and what `train` raises.
    """
    with _begun(config, sets, Path(folder), around) as training:
        return training.try_rates()


@contextmanager
def _begun(
    config: Config,
    sets: Mapping[str, FaceSet],
    folder: Path,
    around: Around,
    identities: carried.Identities = carried.NOBODY,
) -> Iterator[_Training]:
    with ExitStack() as stack:
        leads, new = around.world.rank == 0, not kept.is_model(folder)
        if leads and not new:
            stack.enter_context(kept.claimed(folder))
        session = Session.begin(config, folder, tuple(sets), around.world, around.stop, identities)
        description, share = session.description, config.data.held_out if config.judge.every else 0.0
        parts = {person: divided(sets[person], share) for person in session.people}

        def load(person: str, half: FaceSet) -> data.AnyFaces:
            memory_mb = config.data.memory_mb / len(sets) * len(half.faces) / len(sets[person].faces)
            return data.load(half, session.sizes[1], description.coverage, memory_mb, description.crop)

        faces, held = (
            {person: load(person, both[half]) for person, both in parts.items() if both[half].faces} for half in (0, 1)
        )
        if leads and new:  # only now that nothing speaks against it
            durable.make_folder(folder, private=True)
            stack.enter_context(kept.claimed(folder))
        around.world.barrier()
        around.world.broadcast(session.model.state_dict().values())  # whatever each of them has found
        yield stack.enter_context(_Training(config, session, faces, held, around))


@dataclass(frozen=True, slots=True)
class _Saved:
    """The last save: its step, the record as it was then, and the preview sheet that goes with it."""

    iteration: int
    record: Record
    sheet: Path | None


class _Training:
    """A session and what goes on around it."""

    def __init__(
        self,
        config: Config,
        session: Session,
        faces: Mapping[str, data.AnyFaces],
        held: Mapping[str, data.AnyFaces],
        around: Around,
    ) -> None:
        self._config = config
        self._session = session
        self._faces = faces
        self._around = around
        self._leads = around.world.rank == 0
        self._clock = Clock(config, session)
        self._threads = Threads(_thread_counts(config, session.device.type))
        self._show: Show | None = None
        self._judge = (
            Judge(config.judge, held, faces, session.sizes, around.landmarks, session.description.coverage)
            if self._leads and config.judge.every and len(held) == len(faces)
            else None
        )
        if config.judge.every and len(held) < len(faces):
            few = " and ".join(person for person in faces if person not in held)
            session.notes += (f"the model is not judged: {few} has too few faces to hold some out, or held_out is 0",)
        self._metrics: dict[str, float] = {}
        self._feed: Feed | None = None
        self._saved: _Saved | None = None

    def __enter__(self) -> _Training:
        return self

    def __exit__(self, *error: object) -> None:
        if self._feed is not None:
            self._feed.close()
        if self._show is not None:
            self._show.close()

    def run(self) -> TrainingResult:
        """Trains until an end is reached, and sees that the model is saved."""
        session, clock = self._session, self._clock
        if self._leads:
            self._show = Show(self._config, session, self._faces)
            self._show.begin()
        if not session.saved.digest:
            self._save()  # something to go back to, and better now than in an hour if the disk is full
        while not (ended := self._ended()):
            try:
                self._step()
            except Stopped:
                continue
            except Diverged as error:
                self._take_back(error)
                continue
            self._tell()
            if self._agreed(clock.save_due(session.iteration)):
                self._save_if_possible()
            if self._config.judge.every and session.iteration % self._config.judge.every == 0:
                self._judged()
        sheet = self._save_in_the_end()
        seconds = clock.seconds
        steps = session.iteration - session.description.iterations
        if self._show is not None:
            self._show.end(ended, seconds)
        notes = session.notes + tuple(note for p, faces in self._faces.items() for note in _notes(p, faces))
        rate = session.faces_per_step * clock.steps / max(seconds, 1e-9)
        return TrainingResult(session.saved, steps, seconds, rate, ended, sheet, notes, self._metrics)

    def try_rates(self) -> finder.Finding:
        """Steps of ever larger size, on weights that nobody keeps. Raises Stopped."""
        session = self._session

        def step(rate: float) -> float:
            if self._agreed(self._around.stop()):
                raise Stopped
            try:
                session.learn(self._batches(), rate)
            except Diverged:
                return float("nan")
            assert session.costs is not None
            return sum(session.costs.loss.values())

        return finder.find(step)

    def _step(self) -> None:
        session, clock = self._session, self._clock
        course = self._around.world.leaders(clock.course(session.iteration))
        parts = session.learner.parts
        try:
            with self._threads.step():
                with clock.waiting():
                    batches = self._drawn()
                session.learn(batches, session.rate(course))
        finally:
            if session.learner.parts > parts:
                smaller = f"faces now go through the network in {session.learner.parts} parts a step"
                self._event(OUT_OF_MEMORY, f"{session.device} is out of memory: {smaller}")
        clock.stepped()

    def _drawn(self) -> dict[str, Batch]:
        try:
            return self._batches()
        except UnderstudyError:  # a face or a worker is gone, but no weight has moved: what was learned is kept
            self._save_if_possible()
            raise

    def _batches(self) -> dict[str, Batch]:
        session, world = self._session, self._around.world
        if self._feed is None:
            config = replace(self._config, batch=self._config.batch // world.size, seed=session.seed)
            self._feed = open_feed(self._faces, session.sizes, config, session.device, world.rank)
        return self._feed.batches(session.iteration)

    def _ended(self) -> str:
        clock, session = self._clock, self._session
        if self._agreed(self._around.stop()):
            return "stopped"
        patience = self._config.judge.patience
        if self._agreed(bool(patience) and session.record.waited >= patience):
            return "patience"
        if self._config.iterations and session.iteration >= self._config.iterations:
            return "iterations"
        return "minutes" if self._agreed(clock.time_is_up()) else ""

    def _agreed(self, flag: bool) -> bool:
        return self._around.world.any(flag)

    def _take_back(self, error: Diverged) -> None:
        sentence = self._session.take_back(error)
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        self._saved = None
        self._clock.taken_back()
        self._event(ROLLED_BACK, sentence)

    def _tell(self) -> None:
        if not self._leads or not self._clock.report_due():
            return
        progress = self._clock.progress()
        self._around.on_progress(progress)
        assert self._show is not None
        self._show.point(progress.seconds, progress.faces_per_s, self._clock.waited_share)

    def _save(self) -> Path | None:
        self._clock.saved(self._session.iteration)
        if self._show is None:
            return None
        done = self._session.save(self._clock.seconds)
        for what, name in done:
            self._show.event(what, name)
        sheet = self._shown()
        self._saved = _Saved(self._session.iteration, replace(self._session.record), sheet)
        self._around.on_progress(replace(self._clock.progress(), saved=True))
        return sheet

    def _save_in_the_end(self) -> Path | None:
        """Large models take long to write: not again where neither a step nor a judgement came since the last save."""
        session, last = self._session, self._saved
        if last is not None and (last.iteration, last.record) == (session.iteration, session.record):
            return last.sheet
        return self._save()

    def _shown(self) -> Path | None:
        """Pictures are worth no training: one that cannot be made is told of."""
        assert self._show is not None
        try:
            return self._show.saved()
        except (WeightsError, torch.OutOfMemoryError) as error:
            self._event("not shown", f"the model is saved, but not shown: {error}")
            return None

    def _save_if_possible(self) -> None:
        """A disk that is full now may not be so at the next save: what was learned is not given up for it."""
        try:
            self._save()
        except WeightsError as error:
            self._event("not saved", f"{error}; training goes on")

    def _judged(self) -> None:
        if self._judge is not None and self._show is not None:
            with suppress(Stopped):  # by then the judgement is not worth waiting for
                self._metrics = self._judge(self._session.model, self._around.stop)
                self._show.judged(self._metrics)
                best = self._session.record.best
                if self._session.judged(self._metrics.get(self._config.judge.best)) and not self._kept_best():
                    self._session.record.best = best  # else a next one that is not quite as good would not be kept
        self._around.world.barrier()

    def _kept_best(self) -> bool:
        """Saves and keeps the model, if that is possible."""
        try:
            self._save()
            name = kept.keep(self._session.folder, self._session.saved, "best")
        except WeightsError as error:
            self._event("not saved", f"{error}; training goes on")
            return False
        self._event("best", f"{name}: {self._config.judge.best} {self._session.record.best:.4g}")
        return True

    def _event(self, what: str, sentence: str) -> None:
        if self._show is not None:
            self._show.event(what, sentence)
            self._around.on_event(sentence)


def _thread_counts(config: Config, device: str) -> tuple[int, ...]:
    if config.threads:
        return (config.threads,)
    return candidates(tensors.cores()) if device == "cpu" else (tensors.cores(),)


def _notes(person: str, faces: data.AnyFaces) -> list[str]:
    notes = [f"{person}: {junk}" for junk in faces.junk]
    if faces.passed_over:
        notes.append(f"{person}: {faces.passed_over} faces left out to stay within train.data.memory_mb")
    return notes
