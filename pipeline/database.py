"""A SQLite file that several processes write and that loses nothing: opened where it is whole, written in turns.

Whatever a block of `writing` changed is on the disk when the block is left (a write-ahead log, synchronous=FULL).

Whoever writes also holds the lock FILE.turn. SQLite needs no such thing but for a defect: until 3.51.3 (and 3.44.6,
3.50.7) a commit may be lost where one connection writes while another copies the log back into the file. Both happen
inside of our turns, so they never meet.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.errors import TableError

#: How long to wait for others who write.
BUSY_S = 10.0

#: Less than this on a disk is nothing: SQLite says "I/O error" where its shared index finds no room.
_NO_ROOM = 1 << 20

_PARTS = ("", "-wal", "-shm", "-journal")

_JOBS = "the table of jobs"


class Damaged(TableError):  # noqa: N818  the word says enough
    """What is there is no table of ours, or not whole any more."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file of this kind holds; `application` and `version` are numbers in its header that say so.

    `called` is what sentences about it say, `mended` what to do where it is damaged, if nobody does by himself. With
    `checked` it is read through whenever it is opened for writing.
    """

    application: int
    version: int
    statements: tuple[str, ...]
    called: str = _JOBS
    mended: str = ""
    checked: bool = True


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the file is, and what it is: in a sentence, both."""

    path: Path
    called: str
    mended: str = ""

    def __str__(self) -> str:
        return f"{self.called} {self.path}"

    def damaged(self, why: object) -> Damaged:
        return Damaged(f"{self} is damaged: {why}" + (f"; {self.mended}" if self.mended else ""))


class Database:
    """One connection, for the thread that opened it; any process may have its own."""

    def __init__(self, place: _Place, connection: sqlite3.Connection, turn: int = -1) -> None:
        """Use `opened` or `looked_at`. `turn` is the descriptor of the lock file, -1 where nothing can be written."""
        self._place = place
        self._connection = connection
        self._turn = turn
        self._depth = 0
        self._version = self._data_version()

    @property
    def path(self) -> Path:
        """The file."""
        return self._place.path

    def close(self) -> None:
        """Nothing happens where it is closed already."""
        if self._turn < 0:
            self._connection.close()
            return
        try:
            # The last one to close copies the log back. Where others keep us from a turn, one of them will.
            with suppress(TableError), _taken(self._turn, self._place):
                self._connection.close()
        finally:
            self._connection.close()
            os.close(self._turn)
            self._turn = -1

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows that a statement finds. Raises TableError."""
        with _told(self._place):
            return self._connection.execute(statement, values).fetchall()

    def write(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Runs a statement inside a block of `writing`; the rowid of what it inserted. Raises TableError."""
        with _told(self._place):
            return int(self._connection.execute(statement, values).lastrowid or 0)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All that is written inside is on the disk when this is left, or none of it where anything is raised.

        Blocks within a block belong to it. Raises TableError.
        """
        if self._turn < 0:
            raise _error(self._place, errno.EROFS, "was opened for looking only")
        if self._depth:
            yield
            return
        with _taken(self._turn, self._place), _told(self._place):
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                self._depth = 0
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def changed(self) -> bool:
        """Whether another connection has written since this was last asked, or since it was opened."""
        before, self._version = self._version, self._data_version()
        return before != self._version

    def _data_version(self) -> int:
        return int(self.read("PRAGMA data_version")[0][0])


def opened(path: Path, schema: Schema, make: bool = True) -> Database:
    """The database for reading and writing; with `make`, one that is not there is made.

    Raises:
        Damaged: it is no such database, of another version, or not whole. Nothing has been changed.
        TableError: it is not there (`errno` ENOENT), may not be written, or its disk is full.
    """
    place = _Place(path, schema.called, schema.mended)
    if not make and not path.exists():
        raise _error(place, errno.ENOENT, "does not exist")
    turn = -1
    try:
        _make_folder(path.parent)
        turn = os.open(f"{path}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with _taken(turn, place):
            _make_file(place)
            connection = _connected(place, schema)
        return Database(place, connection, turn)
    except BaseException as error:
        if turn >= 0:
            os.close(turn)
        if isinstance(error, OSError) and not isinstance(error, TableError):
            raise _error(place, error.errno or 0, f"cannot be opened: {error.strerror}") from error
        raise


def looked_at(path: Path, schema: Schema) -> Database:
    """The database for reading, whether or not anybody writes it just now.

    Raises:
        Damaged: it is no such database, or of another version.
        TableError: it is not there (`errno` ENOENT), or may not be read.
    """
    place = _Place(path, schema.called, schema.mended)
    if not path.exists():
        raise _error(place, errno.ENOENT, "does not exist")
    with _told(place):
        connection = _connection(path, "ro")
        try:
            if _is_empty(connection, place, schema):
                raise _error(place, errno.ENOENT, "is being made just now; try again")
            return Database(place, connection)
        except BaseException:
            connection.close()
            raise


def set_aside(path: Path, called: str = _JOBS) -> Path:
    """Renames the database and what belongs to it to NAME.damaged-YYYYmmdd-HHMMSS, which must be closed.

    Raises TableError.
    """
    place = _Place(path, called)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{path}.damaged-{stamp}" + (f"-{number}" if number else "") for number in range(1000))
    aside = next(name for name in names if not any(os.path.lexists(name + part) for part in _PARTS))
    try:
        # The log last: alone it is seen to be damaged, while the file without it is an older state that looks well.
        for part in _PARTS:
            with suppress(FileNotFoundError):
                Path(f"{path}{part}").rename(aside + part)
        _sync(path.parent)
    except OSError as error:
        raise _error(place, error.errno or 0, f"cannot be set aside: {error.strerror}") from error
    return Path(aside)


def _connected(place: _Place, schema: Schema) -> sqlite3.Connection:
    """A connection to a database that is whole."""
    with _told(place):
        connection = _connection(place.path, "rw")
        try:
            new = _is_empty(connection, place, schema)
            if not new and schema.checked:
                _check(connection, place)
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise _error(place, errno.ENOTSUP, "lies where no write-ahead log can be kept; move it to a local disk")
            connection.execute("PRAGMA synchronous=FULL")
            if new:
                _fill(connection, schema)
                _sync(place.path.parent)  # SQLite does so for its log, but not for the file itself
            return connection
        except BaseException:
            connection.close()
            raise


def _connection(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def _is_empty(connection: sqlite3.Connection, place: _Place, schema: Schema) -> bool:
    """Whether nothing is in it yet. Raises Damaged where it is another program's, or another version's."""
    connection.execute("BEGIN")  # as of one moment: somebody may be making it
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    ours, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    connection.execute("COMMIT")
    if (ours, version) == (schema.application, schema.version):
        return False
    if empty and (ours, version) == (0, 0):
        return True
    if ours != schema.application:
        raise Damaged(f"{place} is another program's database")
    raise Damaged(f"{place} is of version {version}; this program reads version {schema.version}")


def _check(connection: sqlite3.Connection, place: _Place) -> None:
    faults = [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")]
    if faults != ["ok"]:
        raise place.damaged(faults[0])


def _fill(connection: sqlite3.Connection, schema: Schema) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in schema.statements:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={schema.application}")
    connection.execute(f"PRAGMA user_version={schema.version}")
    connection.execute("COMMIT")


def _make_folder(folder: Path) -> None:
    """Makes the folder, for its owner alone; one that is there stays as it is. Raises OSError."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync(folder.parent)


def _make_file(place: _Place) -> None:
    """Makes the file, for its owner alone, where there is none. Raises OSError; Damaged where only its log is left."""
    path = place.path
    # Never opened where it is there: closing it would drop the locks that SQLite holds in this process.
    empty = not path.exists() or path.stat().st_size == 0
    log = Path(f"{path}-wal")
    if empty and log.exists() and log.stat().st_size:
        raise place.damaged("only its log is left")
    if not empty and not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, "it may not be written by this user, or lies on a disk that is read-only")
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@contextmanager
def _taken(turn: int, place: _Place) -> Iterator[None]:
    """Holds the lock. Raises TableError where others do for too long."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                why = f"has been written by another process for {BUSY_S:.0f} s without an end"
                raise _error(place, errno.EAGAIN, why) from None
            time.sleep(0.002)
        except OSError as error:
            raise _error(place, error.errno or 0, f"cannot be locked: {error.strerror}") from error
    try:
        yield
    finally:
        fcntl.flock(turn, fcntl.LOCK_UN)


@contextmanager
def _told(place: _Place) -> Iterator[None]:
    """Says what SQLite says as a TableError."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a defect of ours
    except sqlite3.DatabaseError as error:
        raise _as_table_error(place, error) from error


def _as_table_error(place: _Place, error: sqlite3.DatabaseError) -> TableError:
    # Without a code it comes from Python, which could not decode a text.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return place.damaged(error)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _has_no_room(place.path.parent)):
        return _error(place, errno.ENOSPC, "cannot be written: the disk is full")
    if code == sqlite3.SQLITE_IOERR:
        return _error(place, errno.EIO, f"cannot be read or written: {error}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _error(place, errno.EAGAIN, f"has been locked by another process for {BUSY_S:.0f} s")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return _error(place, errno.EACCES, "may not be written by this user, or lies on a disk that is read-only")
    return _error(place, 0, f"cannot be used: {error}")


def _has_no_room(folder: Path) -> bool:
    with suppress(OSError):
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize < _NO_ROOM
    return False


def _error(place: _Place, number: int, what: str) -> TableError:
    error = TableError(f"{place} {what}")
    error.errno = number
    return error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
