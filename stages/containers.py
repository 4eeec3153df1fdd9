"""What may be opened, what may be written, and which container holds which codec.

Reading: `open_input` is the only place that opens a user's file. It takes regular files alone and tells FFmpeg which
demuxers and protocols it may use, so that a playlist that calls itself .mp4 opens nothing.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av

from pipeline.errors import ConfigError, InputError, PublishError, UnderstudyError

#: FFmpeg's demuxers that may open an input: self-contained formats only, no playlists, no scripts, no devices.
DEMUXERS: tuple[str, ...] = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    *("avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "av1", "obu", "ivf", "gif", "apng", "flv"),
    *("asf", "ogg", "mxf", "nut", "yuv4mpegpipe", "dv", "vc1", "wtv", "rm", "mjpeg", "webp_anim"),
)

#: Metadata that MP4 holds in the form that every player reads; any other key needs QuickTime's own form.
_ITUNES = frozenset(
    {"title", "artist", "album_artist", "composer", "album", "date", "encoder", "comment", "genre", "copyright"}
    | {"grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc"}
    | {"compilation", "creation_time", "location"}
)

#: How far (in microseconds) a stream with nothing to say, as subtitles often are, holds the others' packets back in
#: memory. FFmpeg would wait for 10 s, which may be a gigabyte; here packets come in order anyway.
_INTERLEAVE_US = "500000"

#: Muxer by the target's extension. Not AVI: it has no place for timestamps.
MUXERS: dict[str, str] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".nut": "nut",
}

#: Extensions that suit each codec, the best first.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "h264": (".mp4", ".m4v", ".mov", ".mkv", ".nut"),
    "hevc": (".mp4", ".m4v", ".mov", ".mkv", ".nut"),
    "av1": (".mp4", ".m4v", ".mkv", ".webm", ".nut"),
    "prores": (".mov", ".mkv"),
    "ffv1": (".mkv", ".nut"),
}


def open_input(path: str, demuxers: tuple[str, ...] = DEMUXERS) -> av.container.InputContainer:
    """Opens a regular file with the given demuxers and no protocol but "file".

    Raises:
        InputError: missing, not a regular file, empty, unreadable, or of no known format.
    """
    check_regular(path)
    options = {"format_whitelist": ",".join(demuxers), "protocol_whitelist": "file"}
    try:
        # An absolute path: FFmpeg would take the start of a relative one ("concat:a|b") for a protocol.
        return av.open(str(Path(path).absolute()), container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a video: {reason(error)}") from error


def check_regular(path: str) -> None:
    """Raises InputError unless `path` is a readable regular file with something in it."""
    try:
        status = Path(path).stat()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be looked at: {reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is {_kind(status.st_mode)}, not a video file")
    if status.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read by this user; change its permissions")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something special")


def reason(error: Exception) -> str:
    """The system's words for an error, without number and path."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Says of what goes wrong inside that `path` could not be written.

    Raises:
        PublishError: with the system's number of the error, where it has one.
    """
    try:
        yield
    except UnderstudyError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        raise unwritten(path, error) from error


def unwritten(path: str, error: Exception) -> PublishError:
    """What to raise where `path` could not be written; with the system's number of the error, where it has one."""
    failed = PublishError(f"{path} could not be written: {reason(error)}")
    number = getattr(error, "errno", None)
    # FFmpeg's own errors have numbers too, which mean nothing to anybody else.
    failed.errno = number if number in errno.errorcode else None
    return failed


def muxer_for(target: str, codec: str) -> str:
    """FFmpeg's muxer for the target's extension.

    Raises:
        ConfigError: an extension that is not known, or a container that cannot hold the codec.
    """
    suffix = Path(target).suffix.lower()
    fitting = SUFFIXES[codec]
    if suffix not in MUXERS:
        raise ConfigError(f"{target}: no container is known by {suffix or 'no extension'}; use one of {_list(fitting)}")
    if suffix not in fitting:
        raise ConfigError(f"{target}: a {suffix} file cannot hold {codec} video; use one of {_list(fitting)}")
    return MUXERS[suffix]


def suffix_for(source: str, codec: str) -> str:
    """The extension for a converted clip: the source's own where that container can hold the codec."""
    own = Path(source).suffix.lower()
    return own if own in SUFFIXES[codec] else SUFFIXES[codec][0]


def timescale(bases: Iterable[Fraction]) -> int:
    """The coarsest clock that counts all these time bases exactly; the first one's where there is none below 2^31.

    At least 10 000 ticks a second, as players expect.
    """
    scales = [base.denominator for base in bases]
    common = math.lcm(*scales)
    scale = common if common < 2**31 else scales[0]
    while scale < 10_000:
        scale *= 2
    return scale


def muxer_options(muxer: str, bases: Sequence[Fraction], keys: Iterable[str]) -> dict[str, str]:
    """Options that make a container keep timestamps and metadata as they are.

    `bases` are the time bases of all streams, the video's first; `keys` names the metadata there is.
    """
    options = {"max_interleave_delta": _INTERLEAVE_US}
    if muxer == "matroska":
        # Sound may start a little before zero (its encoder's delay); shifting everything would move the pictures.
        options["avoid_negative_ts"] = "disabled"
    if muxer not in ("mp4", "mov"):
        return options
    options |= {
        # MP4 measures a late start in ticks of the whole film, which FFmpeg makes 1/1000 s unless told otherwise.
        "movie_timescale": str(timescale(bases)),
        "video_track_timescale": str(timescale(bases[:1])),
    }
    if any(key.lower() not in _ITUNES for key in keys):
        options["movflags"] = "+use_metadata_tags"
    return options


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)
