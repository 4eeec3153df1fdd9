"""Which files become which: the jobs of a command line, refused as a whole where they cannot all be right."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import ConfigError, PublishError
from pipeline.publish import sync
from pipeline.types import Job


def plan(inputs: Sequence[str], out: str, suffix_for: Callable[[str], str], force: bool = False) -> tuple[Job, ...]:
    """One job for each input, counted from 1.

    `out` is a folder if it is one, ends in a slash, has no extension or there are several inputs; each result is
    then named after its input, with the extension that `suffix_for(input)` tells. Else it is the result itself.

    Raises:
        ConfigError: two inputs would become the same file, or an input would be its own result.
        PublishError: the place cannot be written, or something is there already and `force` is not set.
    """
    place = Path(out)
    is_folder = place.is_dir() or out.endswith(os.sep) or not place.suffix or len(inputs) > 1
    if is_folder:
        make_folder(place)
        targets = [place / (Path(source).stem + suffix_for(source)) for source in inputs]
    else:
        _check_folder(place.parent)
        targets = [place]
    takers: dict[Path, int] = {}
    jobs = []
    for number, (source, target) in enumerate(zip(inputs, targets, strict=True), start=1):
        absolute = target.absolute()
        if (other := takers.setdefault(absolute, number)) != number:
            raise ConfigError(
                f"{inputs[other - 1]} and {source} would both become {target}; convert them into different folders"
            )
        check_target(Path(source), absolute, force)
        jobs.append(Job(number, str(Path(source).absolute()), str(absolute)))
    return tuple(jobs)


def check_target(source: Path, target: Path, force: bool) -> None:
    """Refuses a target that is the source itself, a folder, or there already (unless `force`d)."""
    if not target.exists():
        return
    if source.exists() and target.samefile(source):
        raise ConfigError(f"{source} would be overwritten by its own result; choose another -o")
    if target.is_dir():
        raise PublishError(f"{target} is a folder; name a file in it, or move it away")
    if not force:
        raise PublishError(f"{target} exists already; --force replaces it")


def make_folder(folder: Path) -> None:
    """Makes sure that results can be put into `folder`, and stay there. Raises PublishError."""
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for place in made:
            sync(str(place.parent))
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise PublishError(f"the folder {folder} cannot be made: {reason}") from error
    _check_folder(folder)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist; make it first"
        raise PublishError(f"the folder {folder} {what}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PublishError(f"the folder {folder} may not be written by this user; change its permissions")
