"""models.reports.page: one file that shows what is there, runs nothing and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.description import FILE as DESCRIPTION
from models.description import ModelDescription
from models.reports import page, wording
from models.reports.history import Event, History, Judgement, Session, read
from models.reports.page import render, write
from models.train.recipe import Config
from pipeline.errors import WeightsError
from tests.models.reports.journals import night

CURVES = cv2.imencode(".png", np.full((8, 8, 3), 200, np.uint8))[1].tobytes()
SHEET = cv2.imencode(".png", np.full((9, 5, 3), 90, np.uint8))[1].tobytes()
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.style = ""
        self.text = ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
            return
        self.text += data
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def images(self) -> list[bytes]:
        sources = [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]
        return [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = night(tmp_path / "anna & bert")
    described = ModelDescription(
        "original", {}, 64, 96, iterations=6000, faces=92160, seconds=2881.5, loss={"a": 0.0426, "b": 0.0471},
        weights="model.0123456789ab.safetensors", digest="0" * 64,
    )  # fmt: skip
    (folder / DESCRIPTION).write_text(described.to_json())
    (folder / "preview.png").write_bytes(SHEET)
    return folder


def test_what_it_shows(model: Path) -> None:
    shown = Page(render(model, read(model), CURVES))
    assert shown.images() == [SHEET, CURVES]
    assert "anna & bert" in shown.text and "original, 64 px in, 96 px out; a, b" in shown.text
    for words in ("6 000", "92 160", "48 min 2 s", "a 0.0426, b 0.0471", "8 saves"):
        assert words in shown.text
    rows = [" | ".join(row) for row in shown.rows]
    assert rows[0] == "of | identity | ssim | psnr | expression | pose | sharpness"
    assert rows[1].startswith("all | 0.8696 | 0.8913 | 25.83") and rows[3].startswith("a as b | 0.8696 |  |  | 0.09565")
    newest = next(row for row in shown.rows if row[0] == "3")
    assert newest == [
        *("3", "2026-02-01 07:00:00", "2026-02-01 07:08:20", "2 000", "4 000", "6 000", "4", "32.0"),
        *("cpu fp32", "stopped", "a 0.0469, b 0.0527"),
    ]
    numbers = [row[0] for row in shown.rows if row[0] in "123"]
    assert numbers == ["3", "2", "1"]
    assert any(row[2:] == ["rolled back", "the loss of a is nan at step 3007"] for row in shown.rows)
    assert not any("saved" in row for row in shown.rows)
    assert ["train.batch", "4"] in shown.rows and ["train.optimiser.lr", "0.0001"] in shown.rows


def test_it_asks_for_nothing_and_runs_nothing(model: Path) -> None:
    text = render(model, read(model), CURVES)
    shown = Page(text)
    assert not {tag for tag, _ in shown.tags} & {"script", "link", "iframe", "object", "form", "base", "a"}
    names = {name for _, attributes in shown.tags for name in attributes}
    assert not names & {"style", "href", "srcset"} and not [name for name in names if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    policy = next(str(a["content"]) for _, a in shown.tags if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    digest = base64.b64encode(hashlib.sha256(shown.style.encode()).digest()).decode()
    assert allowed == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # It is in force before anything else is read.
    assert text.index("Content-Security-Policy") < text.index("<title>") < text.index("<style>")


EVIL = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


def test_whatever_names_hold(tmp_path: Path) -> None:
    folder = tmp_path / EVIL.replace("/", "|")
    folder.mkdir()
    noon = datetime(2026, 1, 1, tzinfo=UTC)
    session = Session(1, noon, noon, 0, 1, 1, 1, 1, 1.0, EVIL, {EVIL: 0.5}, (EVIL,), EVIL, EVIL, EVIL, EVIL)
    history = History(
        (session,), (), (Judgement(1, {f"{EVIL}/{EVIL}": 1.0}),), (Event(1, None, EVIL, EVIL),), {EVIL: {EVIL: [EVIL]}}
    )
    shown = Page(render(folder, history, CURVES))
    assert "script" not in {tag for tag, _ in shown.tags}
    assert shown.text.count("<script>alert(1)</script>") >= 6 and "49" not in shown.text
    assert EVIL in [row[2] for row in shown.rows if len(row) == 4]


def test_settings_that_differ_come_first(tmp_path: Path) -> None:
    recipe = json.loads(json.dumps(asdict(Config(batch=3)), default=str))
    shown = Page(render(tmp_path, History(recipe=recipe), CURVES))
    assert shown.rows[0] == ["train.batch", "3"] and shown.rows[1][0] != "train.batch"
    after = render(tmp_path, History(recipe=recipe), CURVES).split("<details>")[1]
    assert "train.losses.terms.ssim" in after and "train.batch<" not in after


def test_many_of_everything(tmp_path: Path) -> None:
    noon = datetime(2026, 1, 1, tzinfo=UTC)
    sessions = tuple(Session(n, noon, noon, n, n, 0, 1, 1, 1.0, "stopped", {}) for n in range(500))
    events = tuple(Event(n, noon, "backup", "x" * 200) for n in range(500))
    judged = Judgement(9, {f"identity/p{a}>p{b}": 0.5 for a in range(60) for b in range(60)})
    recipe = {f"key{n}": {f"key{m}": "v" * 1000 for m in range(30)} for n in range(60)}
    text = render(tmp_path, History(sessions, (), (judged,), events, recipe), CURVES)
    assert len(text) < 400_000 and ">499<" in text and ">100<" not in text


@pytest.mark.parametrize("content", [None, b"GIF89a", b""])
def test_without_a_model_or_a_preview(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "preview.png").write_bytes(content)
    shown = Page(render(tmp_path, History(), CURVES))
    assert shown.images() == [CURVES] and "holds no model.json" in shown.text
    assert "None has been recorded." in shown.text and "Nothing out of the ordinary." in shown.text


@pytest.mark.timeout(20)
def test_a_preview_that_would_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "preview.png")
    assert Page(render(tmp_path, History(), CURVES)).images() == [CURVES]


def test_writing(tmp_path: Path) -> None:
    file = write(tmp_path / page.FILE, "ä\udcff")
    assert file.read_bytes() == b"\xc3\xa4\\udcff" and [f.name for f in tmp_path.iterdir()] == [page.FILE]
    with pytest.raises(WeightsError, match=r"no/report.html cannot be written"):
        write(tmp_path / "no" / page.FILE, "")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (27600, "7 h 40 min"), (190000, "2 d 4 h")],
)
def test_durations(seconds: float, said: str) -> None:
    assert wording.duration(seconds) == said


def test_losses_of_many() -> None:
    assert wording.losses({f"p{n}": n / 10 for n in range(5)}) == "mean of 5 people 0.2000"


def test_loads_no_torch() -> None:
    code = "import models.reports.page, sys; print({'torch', 'jinja2', 'matplotlib', 'cv2'} & set(sys.modules))"
    root = Path(page.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "set()\n"
