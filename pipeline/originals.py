"""Originals: the clips that people dropped, read for their digests, and moved out of the way when they are through."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import PublishError
from pipeline.jobs import Mark
from pipeline.publish import NAME_MAX, discard, partial_path

_PIECE = 1 << 20  # bytes read at once

#: A longer ending is no extension, but part of the name.
_LONGEST_SUFFIX = 32

_MOST_NAMESAKES = 10_000

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


def never() -> bool:
    """For those who are not to be stopped."""
    return False


def mark_of(path: Path) -> Mark | None:
    """What tells whether the file is still the same; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Mark(status.st_size, status.st_mtime_ns, status.st_ino)


def digest(path: Path, stop: Callable[[], bool] = never) -> str:
    """The SHA-256 of a file, in hexadecimal; `stop` is asked after each piece.

    Raises:
        OSError: it is no regular file or cannot be read; InterruptedError where `stop` said so.
    """
    with open_regular(path) as file:
        found = hashlib.sha256()
        for piece in _pieces(file, stop):
            found.update(piece)
    return found.hexdigest()


def open_regular(path: Path, flags: int = 0) -> BinaryIO:
    """Opens a file for reading. OSError where it is a pipe or a device, at which a reader could wait for ever."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def put_away(source: Path, base: Path, into: Path, mark: Mark | None = None, stop: Callable[[], bool] = never) -> Path:
    """Moves a file of the folder `base` to the same place in `into`, and gives where it is now.

    A name that is taken gets " (2)" before its extension, and so on. To another file system it is copied, synced and
    read back before it goes. A symbolic link is moved as a link to the same file.

    Args:
        mark: what it must be; one that was replaced in the meantime stays.
        stop: asked again and again while a file is copied.

    Raises:
        PublishError: it cannot be moved, or is not what it was; it is where it was then.
        InterruptedError: `stop` said so; it is where it was.
    """
    relative = source.relative_to(base)
    if ".." in relative.parts:
        raise ValueError(f"{source} is not in {base}")
    wanted = into / relative
    try:
        _make_folder(wanted.parent)
        if source.is_symlink():
            where = _link_moved(source, wanted)
        else:
            where = _moved(source, wanted, mark or _mark_of(source), stop)
        _sync(where.parent)
        with suppress(FileNotFoundError):  # a folder may go once it is empty
            _sync(source.parent)
    except InterruptedError:
        raise
    except OSError as error:
        refused = PublishError(f"{source} cannot be moved to {into}: {(error.strerror or str(error)).lower()}")
        refused.errno = error.errno
        raise refused from error
    return where


def _moved(source: Path, wanted: Path, mark: Mark, stop: Callable[[], bool]) -> Path:
    try:
        where = _named(source, wanted)
    except _OtherFileSystem:
        return _copied(source, wanted, mark, stop)
    if not _still(where, mark):
        _rename(where, source)
        raise _changed()
    return where


def _copied(source: Path, wanted: Path, mark: Mark, stop: Callable[[], bool]) -> Path:
    partial = Path(partial_path(str(wanted), 0))
    try:
        _copy(source, partial, mark, stop)
        if _mark_of(source) != mark:
            raise _changed()
        where = _named(partial, wanted)
    except BaseException:
        with suppress(OSError):
            discard(str(partial))
        raise
    _sync(where.parent)
    _removed(source, mark, where)
    return where


def _removed(source: Path, mark: Mark, copy: Path) -> None:
    """Removes what was copied, but not what has come into its place since: by another name nobody writes to it."""
    hidden = Path(partial_path(str(source), 0))
    _rename(source, hidden)
    if not _still(hidden, mark):
        _rename(hidden, source)
        copy.unlink()
        raise _changed()
    hidden.unlink()


def _still(moved: Path, mark: Mark) -> bool:
    """Whether a file is what it was under another name. Not all file systems keep its inode's number."""
    now = _mark_of(moved)
    return (now.size, now.mtime_ns) == (mark.size, mark.mtime_ns)


def _changed() -> OSError:
    return OSError(errno.EBUSY, "it was replaced or written to meanwhile")


def _mark_of(path: Path) -> Mark:
    return _mark(path.lstat())


def _mark(status: os.stat_result) -> Mark:
    return Mark(status.st_size, status.st_mtime_ns, status.st_ino)


def _link_moved(source: Path, wanted: Path) -> Path:
    leads_to = os.path.join(source.parent.absolute(), os.readlink(source))  # noqa: PTH118, PTH115  hostile names
    for where in namesakes(wanted):
        with suppress(FileExistsError):
            where.symlink_to(leads_to)
            source.unlink()
            return where
    raise OSError(errno.EEXIST, "there are too many files of that name")


class _OtherFileSystem(Exception):  # noqa: N818  no error: it says how to go on
    pass


def _named(file: Path, wanted: Path) -> Path:
    """Gives the file the first of the names that nobody has."""
    for where in namesakes(wanted):
        with suppress(FileExistsError):
            _rename(file, where)
            return where
    raise OSError(errno.EEXIST, "there are too many files of that name")


def _rename(file: Path, where: Path) -> None:
    """Raises FileExistsError where there is something of that name, whenever it came there."""
    number = _renamed(os.fsencode(file), os.fsencode(where))
    if number == 0:
        return
    if number == errno.EXDEV:
        raise _OtherFileSystem
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(file))
    # A file system that cannot rename so, such as NFS: an empty file of our own keeps the name until ours is there.
    os.close(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        file.rename(where)
    except OSError as error:
        where.unlink(missing_ok=True)
        if error.errno == errno.EXDEV:
            raise _OtherFileSystem from error
        raise


def _renamed(file: bytes, where: bytes) -> int:
    """renameat2(2): the error's number, 0 where all went well."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return errno.ENOSYS
    return ctypes.get_errno() if call(_AT_FDCWD, file, _AT_FDCWD, where, _RENAME_NOREPLACE) else 0


def namesakes(wanted: Path) -> Iterator[Path]:
    """The name itself, then with " (2)" before its extension, and so on; cut where it would be too long for a name."""
    yield wanted
    suffix = wanted.suffix if len(os.fsencode(wanted.suffix)) <= _LONGEST_SUFFIX else ""
    stem = os.fsencode(wanted.name.removesuffix(suffix))
    for number in range(2, _MOST_NAMESAKES):
        tail = f" ({number}){suffix}"
        yield wanted.with_name(_cut(stem, NAME_MAX - len(os.fsencode(tail))) + tail)


def _cut(name: bytes, length: int) -> str:
    """At most `length` bytes of a name; of one that is UTF-8 no half character."""
    with suppress(UnicodeDecodeError):
        name.decode()
        return name[:length].decode("utf-8", "ignore")
    return os.fsdecode(name[:length])


def _copy(source: Path, copy: Path, mark: Mark, stop: Callable[[], bool]) -> None:
    """Copies content, permissions and dates; returns when the copy is on the disk and has been read back."""
    discard(str(copy))
    sent = hashlib.sha256()
    with open_regular(source, os.O_NOFOLLOW) as file, copy.open("xb") as out:
        if _mark(os.fstat(file.fileno())) != mark:  # whatever lies there by now is not what was to be moved
            raise _changed()
        for piece in _pieces(file, stop):
            sent.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
        with suppress(OSError):  # so that it is read from the disk, where the file system can
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        status = os.fstat(file.fileno())
    if digest(copy, stop) != sent.hexdigest():
        raise OSError(errno.EIO, "what was written is not what is read back")
    with suppress(PermissionError):  # a share that knows no such thing
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        _sync(copy)
        copy.chmod(stat.S_IMODE(status.st_mode) & 0o777)


def _pieces(file: BinaryIO, stop: Callable[[], bool]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        if stop():
            raise InterruptedError(errno.EINTR, "stopped")
        yield piece


def _make_folder(folder: Path) -> None:
    """Makes the folder, and those above it, to stay."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        _sync(place.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders
            raise
    finally:
        os.close(handle)
