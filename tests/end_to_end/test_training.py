"""`understudy train` with every architecture and every option: it trains, saves, resumes to the bit, and converts."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models import autoencoders, checkpoint
from models.description import ModelDescription
from models.train import losses
from models.train.recipe import OPTIMISERS
from pipeline import app
from pipeline.runner import inline
from pipeline.specs import Outcome
from tests.clips import decoded
from tests.consent import synthetic
from tests.end_to_end.footage import film
from tests.faces import face_set, plain_folder
from tests.models.train.trainings import assert_same
from tests.program import Program, as_json
from tests.unmarked import unmarked

FRAMES = 8
PLAIN = ("--batch", "2", "--json", *(f"--set=train.{each}" for each in ("device=cpu", "threads=1", "precision=fp32")))
BARE = (*PLAIN, "--set=train.monitor.preview=false", "--set=train.monitor.report=false")
#: `original` at 32 px, the smallest there is.
TINY = ("--arch", "original", "--preset", "sketch", "--set=train.options.size=32", "--set=train.options.dense=16")

Train = Callable[..., ModelDescription]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("faces")
    return face_set(folder / "a", "a").folder, face_set(folder / "b", "b").folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("clip") / "in.mkv", codec="ffv1", frames=FRAMES)


def trained(program: Program, model: str, *argv: str | Path) -> ModelDescription:
    """Trains by the command line; fails with what it said."""
    code, out, err = program("train", *argv, "-o", model)
    assert code == 0, err
    said = as_json(out)
    assert "Traceback" not in err and said["ended"] == "iterations"
    assert all(0 < loss < 100 for loss in said["description"]["loss"].values())
    return checkpoint.read(model)


def converted(model: str, clip: Path, target: Path, mask: str = "given") -> Outcome:
    """Swaps the face in a clip as `convert` does, in one process."""
    settings = unmarked(app.load_settings(None, ("encode.codec=ffv1", f"swap.mask={mask}"), model))
    outcome = inline([spec.build() for spec in app.stage_specs(settings)], app.job(1, str(clip), str(target)))
    assert outcome.ok, outcome.failure
    return outcome


def changed(before: Path, after: Path) -> float:
    """The share of the luma that differs."""
    pairs = list(zip(decoded(before), decoded(after), strict=True))
    return float(np.mean([a[1][0] != b[1][0] for a, b in pairs]))


def assert_trains_resumes_and_converts(
    program: Program, architecture: str, sets: tuple[str | Path, ...], clip: Path, frames: int
) -> None:
    common = (*sets, "--arch", architecture, "--preset", "sketch")
    trained(program, "whole", *common, *PLAIN, "--iterations", "2")
    assert Path("whole/preview.png").is_file() and Path("whole/report.html").is_file()
    trained(program, "parts", *common, *BARE, "--iterations", "1")
    trained(program, "parts", *sets, *PLAIN, "--iterations", "2", "--arch", architecture, "--preset", "sketch")
    assert_same(Path("whole"), Path("parts"))
    outcome = converted("parts", clip, Path("out.mkv"))
    assert outcome.frames == frames and outcome.reports["detect"]["faces"] >= frames / 2
    assert 0.005 < changed(clip, Path("out.mkv")) < 0.5


@pytest.mark.parametrize("architecture", autoencoders.names())
def test_every_architecture(architecture: str, program: Program, faces: tuple[Path, Path], clip: Path) -> None:
    assert_trains_resumes_and_converts(program, architecture, faces, clip, FRAMES)


# Options: what nobody heeds would leave the model as it is

LAYERS = {
    **{f"upscaler {name}": f"upscaler={name}" for name in ("resize", "hybrid", "fast", "transposed")},
    "convolution-aware": "initialiser=convolution_aware",
    "icnr": "icnr=true",
    "reflection": "padding=reflect",
    "mask": "mask=true",
}
AUGMENT: dict[str, tuple[str, ...]] = {
    **{f"{name} off": (f"{name}=0",) for name in ("zoom", "rotation", "shift", "lightness", "colour")},
    "flip always": ("flip=1",),
    "no warp": ("warp='off'",),  # which YAML would take for false
    "warp to landmarks": ("warp=landmarks",),
    "warp points": ("warp_points=9",),
    "warp amount": ("warp_amount=0.05",),
    **{name: (f"{name}=1",) for name in ("clahe", "transfer", "blur", "compression")},
    "clahe's grid": ("clahe=1", "clahe_grid=1"),
    "clahe's limit": ("clahe=1", "clahe_limit=30"),
    "blur's length": ("blur=1", "blur_px=20"),
    "compression's quality": ("compression=1", "compression_quality=1"),
}
LOSSES: dict[str, tuple[str, ...]] = {
    **{f"loss {name}": (f"terms.{name}=1",) for name in losses.names()},
    "four losses": ("terms.mae=1", "terms.gmsd=0.5", "terms.focal_frequency=0.5", "terms.laplacian=0.5"),
    "unmasked": ("background=1",),
    "eyes": ("eyes=1",),
    "mouth": ("mouth=1",),
    **{name: (f"{name}=0.5",) for name in ("style", "gan", "true_face")},
    "the adversary's rate": ("gan=0.5", "adversary_lr=0.1"),
}
OPTIMISER: dict[str, tuple[str, ...]] = {
    **{f"optimiser {name}": (f"name={name}",) for name in OPTIMISERS if name not in ("adam", "adamw")},
    "optimiser adamw": ("name=adamw", "weight_decay=0.5"),
    **{name: (f"{name}={value}",) for name, value in {"lr": 1e-3, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3}.items()},
    "weight decay": ("weight_decay=0.5",),
    "warm-up": ("warmup=9",),
    "cosine": ("lr_end=0.01",),
    "dropout of the rate": ("lr_dropout=0.3",),
    "clipping": ("clip=0.001", "name=rmsprop"),
}
OTHERS = {
    "bf16": "train.precision=bf16",
    "coverage": "train.coverage=1.2",
    "seed": "train.seed=1",
    "options": "train.options.dense=24",
}
CHANGING = {
    **{name: (f"train.layers.{setting}",) for name, setting in LAYERS.items()},
    **{name: tuple(f"train.augment.{each}" for each in settings) for name, settings in AUGMENT.items()},
    **{name: tuple(f"train.losses.{each}" for each in settings) for name, settings in LOSSES.items()},
    **{name: tuple(f"train.optimiser.{each}" for each in settings) for name, settings in OPTIMISER.items()},
    **{name: (setting,) for name, setting in OTHERS.items()},
}
#: What those with two settings must differ from, beside the defaults.
BESIDE = {
    "clahe's grid": "train.augment.clahe=1",
    "clahe's limit": "train.augment.clahe=1",
    "blur's length": "train.augment.blur=1",
    "compression's quality": "train.augment.compression=1",
    "the adversary's rate": "train.losses.gan=0.5",
    "optimiser adamw": "train.optimiser.weight_decay=0.5",
    "clipping": "train.optimiser.name=rmsprop",
}


@pytest.fixture(scope="module")
def defaults() -> dict[str, Tensor]:
    """The weights after two steps with the defaults, once they are known."""
    return {}


@pytest.fixture(scope="module")
def known() -> dict[str, tuple[str, ...]]:
    """Settings by the digest of the weights they led to."""
    return {}


def learned(program: Program, faces: tuple[Path, Path], settings: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights after two steps with such settings, in the folder `model`."""
    shutil.rmtree("model", ignore_errors=True)
    chosen = [f"--set={setting}" for setting in settings]
    trained(program, "model", *faces, *TINY, *BARE, "--iterations", "2", *chosen)
    weights = checkpoint.load("model")[0].state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    return dict(weights)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("option", CHANGING)
def test_every_option_counts(
    option: str, program: Program, faces: tuple[Path, Path], known: dict[str, tuple[str, ...]]
) -> None:
    """No two of them lead to the same model, nor does any to that of the defaults."""
    beside = [(BESIDE[option],)] if option in BESIDE else []
    for settings in ((), *beside, CHANGING[option]):
        if settings not in known.values():
            digest = digest_of(learned(program, faces, settings))
            assert known.setdefault(digest, settings) == settings


def digest_of(weights: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in weights.items():
        found.update(f"{name} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


#: Where only memory and time are at stake. True: the model is the same to the bit; False: but for rounding.
SPARING = {
    "train.memory.checkpointing=true": True,
    "train.memory.optimiser_on_cpu=true": True,
    "train.memory.one_person=true": False,
    "train.memory.channels_last=false": False,
    "train.optimiser.accumulate=2": False,
    "train.data.workers=1": True,
    "train.data.prefetch=5": True,
    "train.people_per_step=2": True,
    "train.monitor.tensorboard=true": True,
    "train.safety.save_iterations=1": True,
}


@pytest.mark.parametrize("option", SPARING)
def test_what_spares_memory_or_shows_more_changes_nothing(
    option: str, program: Program, faces: tuple[Path, Path], defaults: dict[str, Tensor]
) -> None:
    if not defaults:
        defaults.update(learned(program, faces, ()))
    spared = learned(program, faces, (option,))
    assert same(spared, defaults) or not SPARING[option]
    for name, value in spared.items():  # two steps of Adam are at most 1e-4 long, whatever the gradient's rounding
        torch.testing.assert_close(value, defaults[name], rtol=0, atol=2.1e-4)
    assert sum(map(_apart, spared.values(), defaults.values())) <= 0.02 * len(spared)


def _apart(one: Tensor, other: Tensor) -> float:
    """The share of the numbers that are more than a little apart."""
    return float(((one - other).abs() > 1e-5).float().mean())


@pytest.mark.slow
def test_compiled_is_the_same_but_for_rounding(program: Program, faces: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process of its own, since the compiler keeps some going."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    eager = learned(program, faces, ())
    words = ("train", *faces, *TINY, *BARE, "--iterations", "2", "--set=train.memory.compile=true", "-o", "compiled")
    environ = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "pipeline", *words], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache").rglob("*.cpp")), "it was compiled"
    compiled = checkpoint.load("compiled")[0].state_dict()
    assert eager.keys() == compiled.keys(), "and is saved as any other"
    assert sum(map(_apart, compiled.values(), eager.values())) <= 0.02 * len(eager)


def test_a_learned_mask_converts(program: Program, faces: tuple[Path, Path], clip: Path) -> None:
    trained(program, "model", *faces, *TINY, *BARE, "--iterations", "1", "--set=train.layers.mask=true")
    for mask in ("learned", "both"):
        converted("model", clip, Path(f"{mask}.mkv"), mask)


def test_heads(program: Program) -> None:
    folders = [plain_folder(Path(person), person) for person in ("a", "b")]
    model = trained(program, "model", *folders, *TINY, *BARE, "--iterations", "1", "--set=train.crop=head")
    assert model.crop == "head"


def test_three_any_to_any(program: Program, faces: tuple[Path, Path], clip: Path) -> None:
    people = (f"anna={faces[0]}", f"bert={faces[1]}", f"carl={face_set(Path('c'), 'c').folder}")
    trained(program, "model", *people, *TINY, *BARE, "--iterations", "2", "--set=train.people_per_step=2")
    shown = []
    for person in ("anna", "bert", "carl"):
        settings = unmarked(app.load_settings(None, ("encode.codec=ffv1",), "model", person))
        target = Path(f"{person}.mkv")
        outcome = inline([spec.build() for spec in app.stage_specs(settings)], app.job(1, str(clip), str(target)))
        assert outcome.ok, outcome.failure
        shown.append(decoded(target)[0][1][0])
    assert not any(np.array_equal(shown[i], shown[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_pretrained_frozen_and_tuned(program: Program, faces: tuple[Path, Path]) -> None:
    trained(program, "old", *faces, *TINY, *BARE, "--iterations", "1")
    transfer = ("--set=train.transfer.start_from=old", "--set=train.transfer.freeze=[encoder]")
    trained(program, "new", *faces, *TINY, *BARE, "--iterations", "2", *transfer, "--set=train.seed=3")
    old, new = (checkpoint.load(name)[0].state_dict() for name in ("old", "new"))
    assert {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])} == {"decoders"}
    assert {name.split(".")[0] for name in old if torch.equal(old[name], new[name])} == {"encoder"}


# Real people


@pytest.fixture(scope="module")
def real(media: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The face sets of a woman and a man."""
    from pipeline.commands.extract import extract
    from pipeline.progress import progress

    folder = tmp_path_factory.mktemp("real")
    settings = app.Settings()
    settings = replace(settings, extract=replace(settings.extract, largest=True))
    with progress(open("/dev/null", "w"), True, unit="") as shown:  # noqa: PTH123
        for person, name in (("her", "female"), ("him", "male")):
            extract(settings, [str(media / f"head_pose_{name}.gif")], str(folder / person), shown)
            synthetic(folder / person, person)  # in the place of these people's own, who gave their pictures to all
    return folder / "her", folder / "him"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", autoencoders.names())
def test_every_architecture_on_real_people(
    architecture: str, program: Program, real: tuple[Path, Path], media: Path, tmp_path: Path
) -> None:
    clip = media / "head_pose_female.gif"
    frames = len(decoded(clip))
    assert_trains_resumes_and_converts(program, architecture, real, clip, frames)
