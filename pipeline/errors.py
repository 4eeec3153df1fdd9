"""Everything that can go wrong, as one tree; the class carries the exit code.

::

    UnderstudyError          1   a defect of ours, or of the machine
    ├── ConfigError          2   a setting is unknown or wrong: names the dotted key and the nearest valid one
    ├── InputError           3   this clip, face set or stream cannot be used; the daemon lives on
    │   ├── ChangedError     3   the clip is not the one any more that was taken
    │   └── ResumeError      3   what is left of an earlier run cannot be gone on with
    ├── StageError           4   a stage failed on a frame: names the stage, the clip and the frame
    ├── WeightsError         5   a model is missing, damaged or of another shape
    ├── PublishError         6   the finished file could not be put in its place
    ├── RequirementError     7   something this machine lacks (see `understudy doctor`)
    ├── TableError           8   the daemon's table of jobs, or the audit, cannot be read or written
    ├── DeviceError          9   the GPU failed
    └── ConsentError        10   whose face this is has not been agreed to, or not for this (see `understudy identity`)

A message is one sentence for the person who has to act on it: what, where, what to do.
Besides these the program exits with 130 after SIGINT, 143 after SIGTERM, and 141 (as `yes | head` does) when
the reader of `understudy pipe` goes away.
"""


class UnderstudyError(Exception):
    """Root of the tree."""

    exit_code = 1


class ConfigError(UnderstudyError, ValueError):
    """A setting that is unknown, of the wrong type or out of range."""

    exit_code = 2


class InputError(UnderstudyError, ValueError):
    """What the user gave cannot be used as it is."""

    exit_code = 3


class ChangedError(InputError):
    """The clip has been replaced or written to since it was taken."""


class ResumeError(InputError):
    """What an earlier run left of a clip cannot be gone on with: it has to be made from its start."""


class StageError(UnderstudyError, RuntimeError):
    """A stage failed while working on a clip."""

    exit_code = 4

    def __init__(self, stage: str, clip: str, frame: int | None, reason: str) -> None:
        where = "before its first frame" if frame is None else f"at frame {frame}"
        super().__init__(f"{stage} failed on {clip} {where}: {reason}")
        self.stage = stage
        self.clip = clip
        self.frame = frame
        self.reason = reason


class WeightsError(UnderstudyError, ValueError):
    """A model folder that cannot be loaded."""

    exit_code = 5


class PublishError(UnderstudyError, OSError):
    """The finished file could not be checked, synced or renamed."""

    exit_code = 6


class RequirementError(UnderstudyError, ImportError):
    """This machine lacks something the task needs."""

    exit_code = 7


class TableError(UnderstudyError, OSError):
    """The daemon's table of jobs, or the audit, cannot be opened, read or written; `errno` says why where it can."""

    exit_code = 8


class DeviceError(UnderstudyError, RuntimeError):
    """The GPU failed, and this process can use it no more: another one may."""

    exit_code = 9


class ConsentError(UnderstudyError, PermissionError):
    """A person's identity file is missing, forged, expired, revoked, or does not cover what is to be done."""

    exit_code = 10
