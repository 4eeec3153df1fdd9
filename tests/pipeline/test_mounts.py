"""Which folders others can write to unheard."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.mounts import Mount, mounts, parse, remote_kind

_TABLE = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /srv/my\\040clips rw shared:5 - nfs4 server:/clips rw
31 22 0:41 / /srv/local/deep/share rw shared:6 master:7 - cifs //server/share rw
32 22 0:42 / /mnt rw - nfs server:/old rw
33 32 8:2 / /mnt rw - xfs /dev/sdb rw
34 22 0:43 / /media/stick rw - fuseblk /dev/sdc rw
35 22 0:44 / /media/cloud rw - fuse.rclone cloud: rw
36 22 0:45 / /layers rw - overlay overlay rw
nonsense
37 22 0:46 / /cut rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/my clips", "nfs4"),
        ("/srv/my clips/in/day", "nfs4"),
        ("/srv/my clipsandmore", ""),
        ("/srv/local", "cifs"),
        ("/srv/local/deep/share/in", "cifs"),
        ("/srv/other", ""),
        ("/mnt/in", ""),
        ("/media/stick", ""),
        ("/media/cloud/in", "fuse.rclone"),
        ("/layers/in", ""),
    ],
)
def test_what_a_folder_lies_on(folder: str, kind: str) -> None:
    assert remote_kind(Path(folder), parse(_TABLE)) == kind


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "share/in")
    assert remote_kind(tmp_path / "link", [Mount("/", "ext4"), Mount(str(tmp_path / "share"), "smb3")]) == "smb3"


def test_this_machines_own() -> None:
    assert any(mount.place == "/" for mount in mounts())
    assert remote_kind(Path("/proc"), mounts()) == ""
