"""Names in a watched folder that are nobody's clips: half-done copies, and what systems put beside people's files.

Only names are looked at here. A half-done file that has its final name is found out by `pipeline.complete`.
"""

from __future__ import annotations

#: What browsers, download and upload programs put at the end of a name until they are done, or (yt-dlp, converters)
#: before the extension: clip.mp4.part, clip.temp.mp4.
_UNFINISHED = (
    *(".part", ".partial", ".tmp", ".temp", ".download", ".incomplete", ".filepart", ".crdownload", ".opdownload"),
    *(".!ut", ".!qb", ".!bt", ".bc!", ".aria2", ".unfinished", ".uploading", ".ytdl"),
)

#: Besides hidden ones, folders in which servers and systems keep thumbnails, versions and what was deleted.
_FOLDERS = frozenset(
    (
        *("@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "#snapshot", "@recently-snapshot", "@tmp"),
        *("lost+found", "system volume information", "__macosx"),
    )
)

#: What aria2 (a control file) and Firefox (the data, beside an empty file) have as long as they are not done.
_COMPANIONS = (".aria2", ".part")


def is_clutter(name: str) -> bool:
    """Whether a file of this name is none that anybody wants converted, whatever its extension.

    A dot in front hides a file, and is what rsync, Syncthing, Dropbox, macOS and this program put before what is not
    finished; `~` is what Syncthing and office programs put there.
    """
    lower = name.lower()
    stem = lower.rpartition(".")[0]
    return name.startswith((".", "~")) or lower.endswith(_UNFINISHED) or stem.endswith(_UNFINISHED)


def is_clutter_folder(name: str) -> bool:
    """Whether nothing in a folder of this name is anybody's clip."""
    return name.startswith((".", "~syncthing~")) or name.lower() in _FOLDERS


def companions(path: str) -> tuple[str, ...]:
    """Files that, where they exist, tell that `path` is still being downloaded."""
    return tuple(path + ending for ending in _COMPANIONS)
