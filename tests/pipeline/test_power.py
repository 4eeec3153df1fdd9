"""The power goes, at any moment: what is marked done has its whole file and report, and no clip is lost."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import checkpoints, result
from pipeline.clerk import Clerk
from pipeline.jobs import FILE, Entry, State, Table
from pipeline.rebuild import Place, rebuild
from pipeline.retries import RetryConfig
from stages.packets import PacketReader
from tests.pipeline import made_under_power as made
from tests.power_cut import Disk, Folder
from tests.tracer import PROLOGUE, Call, CannotTraceError, calls

WORK = "import sys\nfrom pathlib import Path\nfrom tests.pipeline import made_under_power as made\n"
BEGIN = "made.main(Path(sys.argv[1]), int(sys.argv[2]))\n"

SHORT, LONG = (8, 40), (30, 500)


@dataclass(frozen=True)
class Recorded:
    """The calls of one run in `root`, and the files that it left there; the folder is not there any more."""

    root: Path
    calls: list[Call]
    left: dict[str, bytes]


def record(root: Path, jobs: int, careless: str = "") -> Recorded:
    """Runs the work, with something left out."""
    begin(root)
    try:
        found = list(calls(f"{WORK}{careless}{PROLOGUE}{BEGIN}", [str(root), str(jobs)], root))
    except CannotTraceError as error:
        pytest.skip(str(error))
    left = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    shutil.rmtree(root)
    return Recorded(root, found, left)


@pytest.fixture(
    scope="module",
    params=[pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.slow)],
)
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, int]:
    jobs, cuts = request.param
    return record(tmp_path_factory.mktemp("power") / "root", jobs), cuts


def begin(root: Path) -> None:
    """What is there before the daemon is: the watched folders."""
    for config in made.configs(root):
        config.inbox.mkdir(parents=True)


def empty_disk(root: Path) -> Disk:
    begin(root)
    disk = Disk(root)
    shutil.rmtree(root)
    return disk


def test_the_model_follows_the_disk(recorded: tuple[Recorded, int]) -> None:
    """What the model holds in the end is what lies there; so nothing was missed."""
    run, _ = recorded
    disk = empty_disk(run.root)
    for call in run.calls:
        disk.do(call)
    assert dict(files(disk._top)) == {name: data for name, data in run.left.items() if not name.endswith("-shm")}
    assert sum(call.what == "say" for call in run.calls) == 2 * (SHORT if len(run.calls) < 3000 else LONG)[0]


def files(folder: Folder, at: str = "") -> Iterator[tuple[str, bytes]]:
    for name, node in folder.live.items():
        if isinstance(node, Folder):
            yield from files(node, f"{at}{name}/")
        else:
            yield f"{at}{name}", bytes(node.live)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("luck", ["nothing more", "some of it"])
def test_a_power_cut(recorded: tuple[Recorded, int], luck: str) -> None:
    cut(*recorded, luck)


def cut(run: Recorded, cuts: int, luck: str = "nothing more") -> None:
    """Checks what is left at so many moments: nothing but what was synced, or also some of what was not."""
    chance = random.Random(cuts)
    moments = set(chance.sample(range(len(run.calls) + 1), cuts))
    disk, said = empty_disk(run.root), set[str]()
    for moment in range(len(run.calls) + 1):
        if moment in moments:
            disk.leave(run.root, chance if luck == "some of it" else None)
            try:
                check(run.root, said)
            finally:
                shutil.rmtree(run.root)
        if moment < len(run.calls):
            call = run.calls[moment]
            disk.do(call)
            said |= {call.data.decode().strip()} if call.what == "say" else set()


# --- what must be true ------------------------------------------------------------------------------------------------


def check(root: Path, said: set[str]) -> None:
    """All that must be true of what is left, whenever the power went; also once the daemon has been started again."""
    taken, done = ({int(word.split()[1]) for word in said if word.startswith(what)} for what in ("taken", "done"))
    for config in made.configs(root):
        check_out(config.out)
    check_checkpoints(root)
    with Table.open(root / "state" / FILE) as table:
        assert not table.new or not said
        before = {job.id: job for job in table.listing(limit=1000)}
        assert before.keys() >= taken, "what was taken is known"
        assert {number for number, job in before.items() if job.state is State.DONE} >= done
        for job in before.values():
            check_job(job)
        clerk = Clerk(table, RetryConfig(), lambda _: [])
        clerk.recover({str(config.inbox): config for config in made.configs(root)})
        clerk.close()
        after = {job.id: job for job in table.listing(limit=1000)}
        assert after.keys() == before.keys()
        assert {job.state for job in after.values()} <= {State.DONE, State.WAITING, State.CANCELLED}
        for number, job in after.items():
            check_job(job)
            assert before[number].state in (job.state, State.RUNNING)
            if job.state is State.WAITING:
                assert holds(Path(job.source), made.content(number)), f"the clip of job {number} is lost"
    check_rebuilt(root, [job for job in after.values() if job.current and job.state is State.DONE])


def holds(path: Path, data: bytes) -> bool:
    return path.exists() and path.read_bytes() == data


def check_out(out: Path) -> None:
    """Whatever has a name is whole, and has its report."""
    for path in (path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if path.suffix == ".json":
            assert json.loads(path.read_text())["version"] == 1
            continue
        held = path.read_bytes()
        # That of any job: of a result that is made a second time, the report comes first.
        assert held in [made.result_of(job) for job in range(1, LONG[0] + 1)], f"{path} is not whole"
        assert result.path_for(str(path)).exists(), f"{path} has no report"


def published(number: int, root: Path) -> bool:
    """Whether the result of a job is in its place."""
    out = made.configs(root)[number % 3].out
    return holds(out / f"day {number % 2}" / f"{number % made.PATHS}.mp4", made.result_of(number))


def check_checkpoints(root: Path) -> None:
    """One that is there names segments that are, and a state to go on with."""
    work = root / "work"
    for folder in work.iterdir() if work.exists() else ():
        number = int(folder.name.partition("-")[0])
        found = checkpoints.read(str(folder))
        if found is None:  # nothing is finished yet, or all is published, and the folder is being removed
            assert not (folder / "checkpoint.json").exists() or published(number, root), "it names what is not there"
            continue
        for place, segment in enumerate(found.segments):
            reader = PacketReader(folder / segment.file)
            assert [packet.data for packet in reader] == [made.packet(number, place)] * 2
            reader.close()
        if not found.whole:
            assert found.first == found.kept - 1
            assert checkpoints.load_state(str(folder), "align", found.kept)[0] == found.first


def check_job(job: Entry) -> None:
    """A job that is done has its file and report; and its clip is where it shall be, whatever was done with it."""
    if job.state is not State.DONE or not job.current:
        return
    target = Path(job.target)
    assert holds(target, made.result_of(job.id)), f"job {job.id} is done and has no whole file"
    report = result.read(result.path_for(job.target))
    assert report is not None and report["job"] == job.id
    assert report["output"]["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert job.digest == hashlib.sha256(made.content(job.id)).hexdigest()
    source, inbox = Path(job.source), Path(job.folder)
    moved = inbox.parent / "done" / source.relative_to(inbox)
    if inbox.parent.name == "moved":
        kept = [path for path in (source, *moved.parent.glob(f"{moved.stem}*")) if path.exists()]
        assert any(holds(path, made.content(job.id)) for path in kept), f"the clip of job {job.id} is lost"
    elif inbox.parent.name == "kept":
        assert any(holds(source, made.content(number)) for number in (job.id, job.id + made.PATHS))  # or its follower


def check_rebuilt(root: Path, done: list[Entry]) -> None:
    """Of a table that is lost on top of it, what had been made is found again, and nothing else."""
    for path in (root / "state").glob(f"{FILE}*"):
        path.unlink()
    places = [Place(config.inbox, config.out, config.failed_folder, targets) for config in made.configs(root)]
    with Table.open(root / "state" / FILE) as table:
        rebuild(table, places)
        found = {job.source: job for job in table.listing(limit=1000)}
    assert {job.state for job in found.values()} <= {State.DONE}
    for job in found.values():
        assert any(holds(Path(job.target), made.result_of(number)) for number in range(1, LONG[0] + 1))
    for job in done:
        if holds(Path(job.source), made.content(job.id)):
            assert found[job.source].id == job.id


def targets(source: Path) -> list[Path]:
    """As a watched folder has it."""
    inbox = next(folder for folder in source.parents if folder.name == "in")
    return [inbox.with_name("out") / source.relative_to(inbox)]


# --- that it would be noticed -----------------------------------------------------------------------------------------


#: What is not synced: who asks for it (the functions that call each other, the last one first), and of which file.
#: What is not here costs no more than work or figures: a checkpoint's folder, which is synced with the next segment;
#: what the stages said; the folder that an original was moved from. That of the table is synced by SQLite, too.
CARELESS = {
    "a result": "'/out/' in path and '.mp4.' in path and '.json' not in path",
    "its report": "'/out/' in path and '.json.' in path",
    "the folder of both": "'_place' in callers and is_folder",
    "new folders": "'make_folder' in callers",
    "a segment": "'segment.' in path",
    "what is needed to go on": "'state.' in path",
    "the folder of segments": "'settle' in callers and is_folder",
    "a checkpoint": "'checkpoint.json' in path",
    "the folder that an original is moved to": "'put_away' in callers and '/done' in path",
    "the folder that the table's is made in": "'opened' in callers and path == sys.argv[1]",
}

_SYNC = """
import os
real = os.fsync
def fsync(descriptor):
    path, callers, frame = os.readlink(f"/proc/self/fd/{{descriptor}}"), [], sys._getframe(1)
    is_folder = os.path.isdir(path)
    while frame is not None:
        callers.append(frame.f_code.co_name)
        frame = frame.f_back
    if not ({0}):
        real(descriptor)
os.fsync = fsync
"""

_TABLE = """
import pipeline.database as database
whole = database._connected
def connected(path, schema):
    connection = whole(path, schema)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
database._connected = connected
"""


@pytest.mark.slow
@pytest.mark.parametrize("careless", [*CARELESS, "each change of the table"])
def test_carelessness_is_found(tmp_path: Path, careless: str) -> None:
    """So that the tests above mean something."""
    run = record(tmp_path / "root", SHORT[0], _SYNC.format(CARELESS[careless]) if careless in CARELESS else _TABLE)
    with pytest.raises((AssertionError, OSError, ValueError)):
        cut(run, 400)
