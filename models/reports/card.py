"""The card of a model: MODEL.md in its folder, which says what the model is, whose faces are in it, and what it is for.

Mitchell et al. 2019, "Model cards for model reporting"; the front matter is that of Hugging Face's model cards.
Whatever others may have written into it (names, words of an agreement, a folder's name) is text and nothing else.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models import durable, faceset
from models.carried import ORIGIN
from models.description import ModelDescription
from models.reports import wording
from pipeline.errors import WeightsError

FILE = "MODEL.md"

#: What means something to Markdown within a line, and what GitHub's makes links of.
_MARKED = re.compile(r"([\\`*_{}\[\]#!|~^@$]|:(?=//)|(?<=www)\.)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Agreed:
    """What one person has agreed to.

    Attributes:
        id: the pseudonym; digest: of the identity file that says so; kind: on whose word.
        until: a day, or "open"; the others: words of the scope, of which none stands for any.
    """

    id: str
    digest: str
    kind: str
    roles: Sequence[str] = ()
    purposes: Sequence[str] = ()
    projects: Sequence[str] = ()
    territory: Sequence[str] = ()
    excluded: Sequence[str] = ()
    until: str = "open"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one person's faces were.

    Attributes:
        faces: how many, of so many `sources`, at `size` px; `held_out` of them judge and are not learnt.
        digests: of each face set, as `digest` gives it.
    """

    faces: int
    sources: int
    size: int
    held_out: int
    digests: Sequence[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a card says beside what the model says of itself.

    Attributes:
        learnt: of each person whose faces the last session had; agreed: of whoever has agreed, by the digest.
        metrics: the last judgement; recipe: a digest of the settings; versions: of programs.
    """

    learnt: Mapping[str, Learnt]
    agreed: Mapping[str, Agreed]
    metrics: Mapping[str, float] = field(default_factory=dict)
    recipe: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def digest(folder: Path | str) -> str:
    """SHA-256, in hexadecimal, of a face set: of the lines "<SHA-256> <name>" of what makes it up, in the names' order.

    That is its faces.jsonl and its crops; of plain pictures, all of them. Files are read piece by piece.

    Raises:
        OSError: one of them can't be read.
    """
    folder = Path(folder)
    lines = folder / faceset.LINES
    crops = folder / "crops" if lines.exists() else folder
    files = sorted(file for file in crops.iterdir() if file.is_file() and file.name != faceset.IDENTITY)
    whole = hashlib.sha256()
    for file in [lines, *files] if lines.exists() else files:
        whole.update(f"{durable.sha256(file)} {file.name}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def write(folder: Path, model: ModelDescription, facts: Facts) -> Path:
    """Writes the card of the model in `folder`. Raises WeightsError where that can't be."""
    try:
        with durable.replacing(folder / FILE, private=True) as out:
            out.write(render(folder.absolute().name, model, facts).encode())
    except OSError as error:
        raise WeightsError(f"the card {folder / FILE} cannot be written: {error}") from error
    return folder / FILE


def render(name: str, model: ModelDescription, facts: Facts) -> str:
    """The card in Markdown; `name` is what the model is called."""
    parts = (
        _front(),
        f"# {_text(name)}\n\nA network that gives a face in footage the looks of another person. "
        "It was trained with Understudy.",
        _about(model),
        _people(model, facts),
        _data(facts),
        _quality(model, facts),
        _made_with(facts),
        _USE,
    )
    return "\n\n".join(parts) + "\n"


def _front() -> str:
    tags = ("face-swap", "autoencoder", "consent", "biometric")
    lines = ("library_name: understudy", "pipeline_tag: image-to-image", "license: other", f"tags: [{', '.join(tags)}]")
    return "\n".join(("---", *lines, "---"))


def _about(model: ModelDescription) -> str:
    rows = [
        ("architecture", f"{model.architecture}, {model.input_size} px in, {model.output_size} px out"),
        ("crop", f"{model.crop}, at coverage {model.coverage:g}"),
        ("training", f"{wording.count(model.iterations)} steps; sessions: {wording.count(model.session)}"),
        ("seen", f"{wording.count(model.faces)} faces in {wording.duration(model.seconds)}"),
        ("weights", f"SHA-256 {model.digest}"),
        ("saved", model.saved[:19].replace("T", " ") + " UTC"),
    ]
    return "## What it is\n\n" + _table(("", ""), rows)


def _people(model: ModelDescription, facts: Facts) -> str:
    names = [*model.people, *sorted(set(model.identities) - set(model.people))]
    rows = [_person(name, model, facts) for name in names]
    where = (
        "An identity file is a pseudonym, what was agreed to, and where it can be taken back; copies lie in "
        "`identities/`, called by their digests."
    )
    if any(name.startswith(ORIGIN) for name in names):
        where += f" `{ORIGIN}` stands before those whose faces are in a model that this one was started from."
    if len(model.people) == 2:
        where += f" `{model.people[0]}` is in the footage, `{model.people[1]}` is who is shown instead."
    heads = ("name", "identity", "kind", "roles", "only for", "never for", "until", "file")
    return f"## Whose faces\n\n{_table(heads, rows)}\n\n{where}"


def _person(name: str, model: ModelDescription, facts: Facts) -> tuple[str, ...]:
    agreed = facts.agreed.get(model.identities.get(name, ""))
    if agreed is None:
        return (name, "none: nothing is known of an agreement", *[""] * 6)
    scope = [*agreed.purposes, *agreed.projects, *agreed.territory]
    words = (", ".join(agreed.roles), ", ".join(scope) or "anything", ", ".join(agreed.excluded))
    return (name, agreed.id, agreed.kind, *words, agreed.until, agreed.digest[:12])


def _data(facts: Facts) -> str:
    rows = [
        (
            *(name, wording.count(each.faces), str(each.sources), f"{each.size} px", wording.count(each.held_out)),
            ", ".join(digest[:16] for digest in each.digests) or "not known",
        )
        for name, each in facts.learnt.items()
    ]
    said = "Of the last session. Faces that are held out judge the model; it does not learn from them."
    heads = ("name", "faces", "clips or pictures", "size", "held out", "face sets (SHA-256)")
    return f"## What it learnt from\n\n{_table(heads, rows)}\n\n{said}"


def _quality(model: ModelDescription, facts: Facts) -> str:
    rows = [(f"loss of {person}", f"{loss:.4f}") for person, loss in model.loss.items()]
    rows += [(name, f"{value:.4g}") for name, value in facts.metrics.items() if "/" not in name]
    said = "" if facts.metrics else "\n\nThe last session did not judge it by faces that were held out."
    return "## How good it is\n\n" + _table(("", ""), rows) + said


def _made_with(facts: Facts) -> str:
    rows = [*facts.versions.items(), ("settings", f"SHA-256 {facts.recipe}")]
    return "## Made with\n\n" + _table(("", ""), rows)


_USE = """\
## What it is for

Footage of these people in which everybody who is shown has agreed to it, for the purposes above: film, dubbing,
stand-ins, research. What it makes is disclosed: by a label, a watermark and a signed record of where it comes from.

## What it must not be used for

- intimate imagery of any kind, or anybody who is under age
- deceiving people about who said or did something, or passing for somebody
- anything that the identities above do not allow, or after their end

## What it cannot do

It knows these faces in the light, the poses and the expressions of its face sets, and paints anything else badly. It
makes no one recognisable whom it was not trained on. That consent was written down here proves nothing by itself: the
papers behind it do.

## When consent ends

Whoever gave it can take it back at the contact in their identity file. `understudy identity revoke ID --because TEXT`
then stops this model, and names what was made with it; `--delete` removes it. A face cannot be taken out of weights:
the model has to go."""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines(heads, rows))


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(_text, row))} |"


def _text(text: str) -> str:
    """Text that Markdown and HTML leave alone, in one line."""
    plain = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return _MARKED.sub(r"\\\1", html.escape(plain, quote=False))


def settings_digest(settings: Mapping[str, object]) -> str:
    """SHA-256, in hexadecimal, of a training's settings as JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
