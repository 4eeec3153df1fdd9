"""Which file systems a folder lies on: where others can write without this machine being told, one has to poll."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")

#: Shared with other machines, or with programs that do not pass changes on to the kernel.
_REMOTE = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "ceph", "glusterfs", "lustre", "gfs2"),
        *("ocfs2", "orangefs", "pvfs2", "gpfs", "beegfs", "vboxsf", "vmhgfs", "prl_fs", "virtiofs", "fuse"),
    )
)

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system of the type `kind`, mounted at the absolute path `place`."""

    place: str
    kind: str

    @property
    def remote(self) -> bool:
        """Whether files can change on it without this machine being told."""
        # fuseblk is a disk of this machine (ntfs-3g, exfat); its changes all come through this kernel.
        return self.kind in _REMOTE or self.kind.startswith("fuse.")


def mounts() -> tuple[Mount, ...]:
    """What is mounted now, in the order of mounting; empty where the system does not say."""
    try:
        text = os.fsdecode(_TABLE.read_bytes())
    except OSError:
        return ()
    return parse(text)


def parse(text: str) -> tuple[Mount, ...]:
    """The lines of /proc/self/mountinfo; those that are not understood are left out."""
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if dash and len(fields) >= 6 and after:
            found.append(Mount(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4]), after.split(" ")[0]))
    return tuple(found)


def remote_kind(folder: Path, table: Sequence[Mount]) -> str:
    """The type of a remote file system that `folder` lies on or that is mounted somewhere in it; else empty."""
    here = os.path.realpath(folder)
    over: Mount | None = None
    for mount in table:
        inside = here == mount.place or here.startswith(mount.place.rstrip("/") + "/")
        # Of mounts on the same place the last one is on top; of nested ones the deepest counts.
        if inside and (over is None or len(mount.place) >= len(over.place)):
            over = mount
        if mount.remote and mount.place.startswith(here.rstrip("/") + "/"):
            return mount.kind
    return over.kind if over and over.remote else ""
