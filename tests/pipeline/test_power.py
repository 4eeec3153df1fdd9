"""The power goes, at any moment: a job that is marked done has its whole file and its report, and the table opens."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.jobs import State, Table
from tests.power_cut import Disk
from tests.tracer import PROLOGUE, Call, CannotTraceError, calls

#: What a daemon does to its table and the out folder, for 30 clips; it says which are done.
WORK = (
    PROLOGUE
    + """
import hashlib, json
from pathlib import Path
from pipeline.jobs import Mark, Table
from pipeline.publish import partial_path, publish
from pipeline.result import path_for

root = Path(sys.argv[1])

def make(job):
    target = job.target
    content = (target * 300).encode()[: 500 + 97 * job.id]
    partial, noted = partial_path(target, job.id), partial_path(str(path_for(target)), job.id)
    Path(partial).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    Path(noted).write_text(json.dumps({"version": 1, "job": job.id, "output": {"sha256": digest}}))
    publish(partial, target, (noted, str(path_for(target))))
    return digest

with Table.open(root / "state" / "jobs.sqlite") as table:
    table.filled()
    table._held.read("PRAGMA wal_autocheckpoint=20")
    for number in range(1, 31):
        name = f"clip {number % 25}"
        job = table.accept("/in", f"/in/{name}", str(root / "out" / f"{name}.mp4"), Mark(number, 2, 3), 0, 1.0)
        job = table.claim(job.id, 2.0)
        if number % 7 == 0:
            table.release(job.id, "again", 0.0)
            table.claim(job.id, 2.0)
        digest = make(job)
        table.finish(job.id, 1, 1.0, digest, 3.0)
        os.write(1, b"%d\\n" % job.id)
        if number == 15:
            table.close()
            table = Table.open(root / "state" / "jobs.sqlite")
"""
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """The calls of one run, and the folder it ran in; that is empty but for out/ again."""
    root = tmp_path_factory.mktemp("power") / "root"
    (root / "out").mkdir(parents=True)
    try:
        found = list(calls(WORK, [str(root)], root))
    except CannotTraceError as error:
        pytest.skip(str(error))
    return root, found


def test_the_model_follows_the_disk(recorded: tuple[Path, list[Call]], tmp_path: Path) -> None:
    """What the model holds in the end is what lies there; so nothing was missed."""
    root, found = recorded
    disk = empty_disk(root, tmp_path)
    for call in found:
        disk.do(call)
    assert {name: bytes(node.live) for name, node in files(disk)} == {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }
    assert sum(call.what == "say" for call in found) == 30


def empty_disk(root: Path, tmp_path: Path) -> Disk:
    """The disk before the run, with its files called as they were in it."""
    (tmp_path / "before" / "out").mkdir(parents=True)
    disk = Disk(tmp_path / "before")
    disk._root = root
    return disk


def files(disk: Disk) -> Iterator[tuple[str, object]]:
    def below(folder: object, at: str) -> Iterator[tuple[str, object]]:
        for name, node in folder.live.items():
            if hasattr(node.live, "items"):
                yield from below(node, f"{at}{name}/")
            else:
                yield f"{at}{name}", node

    return below(disk._top, "")


def check(place: Path, root: Path, said: set[int]) -> None:
    """All that must be true of what is left, whenever the power went."""
    out = place / "out"
    for path in (path for path in out.iterdir() if not path.name.startswith(".")):
        if path.suffix == ".json":
            assert json.loads(path.read_text())["version"] == 1
        else:
            # That of any job: of a result that is made a second time, the report comes first.
            name = str(root / "out" / path.name)
            whole = [hashlib.sha256((name * 300).encode()[: 500 + 97 * job]).hexdigest() for job in range(1, 31)]
            assert hashlib.sha256(path.read_bytes()).hexdigest() in whole, f"{path.name} is not whole"
            assert path.with_name(f"{path.name}.json").exists(), f"{path.name} has no report"
    with Table.open(place / "state" / "jobs.sqlite") as table:
        jobs = table.listing(limit=1000)
        assert {job.id for job in jobs if job.state is State.DONE} >= said
        assert not table.new or not said
        for job in jobs:
            if job.state is State.DONE and job.current:
                left = out / Path(job.target).relative_to(root / "out")
                assert hashlib.sha256(left.read_bytes()).hexdigest() == job.digest, f"job {job.id} has no whole file"
                assert json.loads(left.with_name(f"{left.name}.json").read_text())["job"] == job.id
        for job in table.recover(9.0):
            table.finish(table.claim(job.id, 9.0).id, 1, 1.0, "", 9.0)


@pytest.mark.parametrize("cuts", [pytest.param(40, id="short"), pytest.param(500, id="long", marks=pytest.mark.slow)])
@pytest.mark.parametrize("luck", ["nothing more", "some of it"])
def test_a_power_cut(recorded: tuple[Path, list[Call]], tmp_path: Path, cuts: int, luck: str) -> None:
    root, found = recorded
    assert len(found) > 500
    cut(root, found, tmp_path, cuts, luck)


def cut(root: Path, found: list[Call], tmp_path: Path, cuts: int, luck: str) -> None:
    """Checks what is left at so many moments: nothing but what was synced, or also some of what was not."""
    chance = random.Random(cuts)
    moments = set(chance.sample(range(len(found) + 1), cuts))
    disk, said = empty_disk(root, tmp_path), set[int]()
    for moment in range(len(found) + 1):
        if moment in moments:
            disk.leave(tmp_path / "left", chance if luck == "some of it" else None)
            check(tmp_path / "left", root, said)
            shutil.rmtree(tmp_path / "left")
        if moment < len(found):
            disk.do(found[moment])
            said |= {int(found[moment].data)} if found[moment].what == "say" else set()


#: What is left out, and the code that does so.
CARELESS = {
    "a table that is not synced at each change": """
import pipeline.database as database
whole = database._connected
def connected(path, schema):
    connection = whole(path, schema)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
database._connected = connected
""",
    "a table whose folder is not synced": "import pipeline.database as d; d._sync = lambda path: None",
    "results that are not synced": """
import pipeline.publish as p
sync = p._sync
p._sync = lambda path: sync(path) if os.path.isdir(path) else None
""",
    "an out folder that is not synced": """
import pipeline.publish as p
sync = p._sync
p._sync = lambda path: None if os.path.isdir(path) else sync(path)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("careless", CARELESS)
def test_carelessness_is_found(tmp_path: Path, careless: str) -> None:
    """So that the tests above mean something."""
    root = tmp_path / "root"
    (root / "out").mkdir(parents=True)
    work = WORK.replace("\nroot =", f"\n{CARELESS[careless]}\nroot =")
    try:
        found = list(calls(work, [str(root)], root))
    except CannotTraceError as error:
        pytest.skip(str(error))
    with pytest.raises((AssertionError, OSError, ValueError)):
        cut(root, found, tmp_path, 60, "nothing more")
