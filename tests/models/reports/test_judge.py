"""models.reports.judge: models that are known to be good or bad at something, and a training that is not disturbed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import faceset
from models.autoencoder import Autoencoder, Decoded
from models.faceset import FaceSetWriter
from models.reports import identity
from models.reports.judge import Judge, spread
from models.train import augment, data
from models.train.data import Faces, StreamedFaces
from models.train.recipe import Judge as Config
from models.train.step import Stopped
from tests.models.reports.drawn import people

CONFIG = Config(every=1, faces=6)
SIZES = (64, 64)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def learned_once() -> Iterator[None]:
    """A classifier takes seconds to learn: each is made once of the same faces, for all tests."""
    learn = identity.train_classifier
    known: dict[bytes, identity.Classifier] = {}

    def train(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> identity.Classifier:
        key = a.tobytes() + b.tobytes()
        known[key] = known.get(key) or learn(a, b)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "train_classifier", train)
        yield


def faces(person: str, first: int, count: int) -> Faces:
    planes = np.zeros((count, 96, 96, 6), np.uint8)
    planes[..., :3] = people(person, first, count)
    return Faces(torch.from_numpy(planes), None, 1.0)


def sets(names: str, first: int, count: int) -> dict[str, Faces]:
    return {name: faces(name, first, count) for name in names}


class Fake(Autoencoder):
    """Gives what it is given; `decode` may be another."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.weight = nn.Parameter(torch.zeros(1))
        self.encoded = 0

    def encode(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and not self.training
        self.encoded += len(x)
        return x

    def decode(self, code: Tensor, person: str) -> Decoded:
        return Decoded((code,))


class Perfect(Fake):
    """Knows all held-out faces: each face becomes the other person's of the same number."""

    def __init__(self, held: Mapping[str, Faces], size: int) -> None:
        super().__init__(list(held))
        self._known = {
            person: (augment.plain(of, torch.arange(len(of)), 64), augment.plain(of, torch.arange(len(of)), size))
            for person, of in held.items()
        }

    def decode(self, code: Tensor, person: str) -> Decoded:
        everybody = torch.cat([seen for seen, _ in self._known.values()])
        places = torch.cdist(code.flatten(1), everybody.flatten(1)).argmin(1) % len(self._known[person][0])
        return Decoded((torch.zeros(len(code), 3, 8, 8), self._known[person][1][places]))


class Blurred(Fake):
    def decode(self, code: Tensor, person: str) -> Decoded:
        return Decoded((F.avg_pool2d(F.pad(code, (2, 2, 2, 2), mode="replicate"), 5, 1),))


class Noisy(Fake):
    def decode(self, code: Tensor, person: str) -> Decoded:
        noise = torch.randn(code.shape, generator=torch.Generator().manual_seed(0))
        return Decoded(((code + 0.2 * noise).clamp(0, 1),))


@pytest.fixture(scope="module")
def held() -> dict[str, Faces]:
    return sets("ab", 500, 6)


@pytest.fixture(scope="module")
def judge(held: dict[str, Faces]) -> Judge:
    return Judge(CONFIG, held, sets("ab", 0, 24), SIZES)


def test_a_model_that_changes_nothing(judge: Judge) -> None:
    metrics = judge(Fake("ab"))
    assert metrics["ssim"] == pytest.approx(1) and metrics["psnr"] == 99
    assert metrics["identity/a>b"] == metrics["identity/b>a"] == 0
    assert set(metrics) == {"ssim", "psnr", "identity", "sharpness"} | {
        *("ssim/a", "ssim/b", "psnr/a", "psnr/b"),
        *("identity/a>b", "identity/b>a", "sharpness/a>b", "sharpness/b>a"),
    }


@pytest.mark.parametrize("size", [64, 128])
def test_a_perfect_model_of_several_sizes(held: dict[str, Faces], size: int) -> None:
    # The larger one's classifier is left out, to spare the time.
    metrics = Judge(CONFIG, held, sets("ab", 0, 24 if size == 64 else 3), (64, size))(Perfect(held, size))
    assert metrics["ssim"] == pytest.approx(1)
    assert metrics.get("identity/a>b", 1) == metrics.get("identity/b>a", 1) == 1
    assert metrics["sharpness/a>b"] == metrics["sharpness/b>a"] == pytest.approx(1)


def test_means_are_of_all_of_their_kind(judge: Judge) -> None:
    metrics = judge(Blurred("ab"))
    for name in ("ssim", "psnr", "sharpness", "identity"):
        parts = [value for key, value in metrics.items() if key.startswith(f"{name}/")]
        assert len(parts) == 2 and metrics[name] == pytest.approx(np.mean(parts))


def test_blur_and_noise_both_cost_sharpness_and_likeness(judge: Judge) -> None:
    plain, blurred, noisy = (judge(model("ab")) for model in (Fake, Blurred, Noisy))
    assert plain["sharpness"] > 0.8
    assert 0 < blurred["sharpness"] < 0.5 and 0 < noisy["sharpness"] < 0.5
    assert max(blurred["ssim"], noisy["ssim"]) < 0.9 and max(blurred["psnr"], noisy["psnr"]) < 30


def test_three_people_and_one_of_whom_little_is_known() -> None:
    trained = sets("ab", 0, 24) | {"c": faces("c", 0, identity.LEAST - 1)}
    held = sets("ab", 500, 4) | {"c": faces("c", 500, 1)}
    metrics = Judge(CONFIG, held, trained, SIZES)(Perfect(held, 64))
    assert {name for name in metrics if name.startswith("identity/")} == {"identity/a>b", "identity/b>a"}
    assert sum(name.startswith("sharpness/") for name in metrics) == 6
    assert metrics["ssim/c"] == pytest.approx(1)


@pytest.mark.slow
def test_all_ways_between_three_people() -> None:
    held = sets("abc", 500, 3)
    metrics = Judge(CONFIG, held, sets("abc", 0, 24), SIZES)(Perfect(held, 64))
    ways = {f"identity/{a}>{b}" for a in "abc" for b in "abc" if a != b}
    assert {name for name in metrics if name.startswith("identity/")} == ways
    assert all(metrics[way] == 1 for way in ways)


@pytest.mark.parametrize("accuracy", [0.7, 0.8])
def test_a_classifier_that_is_often_wrong_is_not_asked(
    held: dict[str, Faces], monkeypatch: pytest.MonkeyPatch, accuracy: float
) -> None:
    made = identity.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * identity.SIZE**2, 1)), accuracy, 10)
    monkeypatch.setattr(identity, "train_classifier", lambda a, b: made)
    assert ("identity" in Judge(CONFIG, held, sets("ab", 0, 4), SIZES)(Fake("ab"))) == (accuracy > 0.75)


def test_many_people_are_paired_evenly_and_encoded_once() -> None:
    names = [f"p{number}" for number in range(20)]
    few = dict.fromkeys(names, faces("a", 0, 2))
    model = Fake(names)
    metrics = Judge(Config(faces=2), few, few, SIZES)(model)
    ways = {name.partition("/")[2] for name in metrics if name.startswith("sharpness/")}
    assert len(ways) == 12
    assert len({way.partition(">")[0] for way in ways}) == len({way.partition(">")[2] for way in ways}) == 12
    assert model.encoded == 20 * 2


def test_the_classifier_sees_the_face_alone(held: dict[str, Faces]) -> None:
    def wider(of: Faces) -> Faces:
        planes = torch.zeros(len(of), 144, 144, 6, dtype=torch.uint8)
        planes[:, 24:120, 24:120] = of.pictures
        # What surrounds a face is the person's own in training, and the wrong one's when judged.
        return Faces(planes, None, 1.0)

    trained = {name: wider(of) for name, of in sets("ab", 0, 24).items()}
    trained["a"].pictures[:, :20] = trained["a"].pictures[:, -20:] = 255
    seen = {name: wider(of) for name, of in held.items()}
    seen["b"].pictures[:, :20] = seen["b"].pictures[:, -20:] = 255
    metrics = Judge(CONFIG, seen, trained, (96, 96), coverage=1.5)(Fake("ab"))
    assert metrics["identity/a>b"] == metrics["identity/b>a"] == 0


class Points:
    """Points that lie elsewhere on each face, 2 px lower where the first px is black; None without any contrast."""

    def __init__(self) -> None:
        self.seen = 0
        self.points = np.random.default_rng(0).uniform(0, 40, (478, 2)).astype(np.float32)

    def __call__(self, crops: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32] | None]:
        self.seen += len(crops)
        assert all(crop.dtype == np.uint8 and crop.shape == (64, 64, 3) for crop in crops)
        return [None if crop.std() < 5 else self._of(crop) for crop in crops]

    def _of(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        shift = (float(crop[20:40, 20:40].mean()), 2.0 * (crop[0, 0].max() == 0))
        return self.points + np.array(shift, np.float32)


class Marked(Fake):
    """Makes the first px black."""

    def decode(self, code: Tensor, person: str) -> Decoded:
        given = code.clone()
        given[:, :, 0, 0] = 0
        return Decoded((given,))


class Grey(Fake):
    """Of the first faces there is nothing left when they are given as b."""

    lost = 2

    def decode(self, code: Tensor, person: str) -> Decoded:
        given = code.clone()
        if person == "b":
            given[: self.lost] = 0.5
        return Decoded((given,))


class GreyAndPerfect(Perfect):
    """Of every other one there is nothing left."""

    def decode(self, code: Tensor, person: str) -> Decoded:
        given = super().decode(code, person).picture
        given[::2] = 0.5
        return Decoded((given,))


def test_landmarks_that_move() -> None:
    points = Points()
    judge = Judge(Config(faces=11), sets("ab", 500, 11), sets("ab", 0, 24), SIZES, points)
    still = judge(Fake("ab"))
    assert still["expression"] == pytest.approx(0, abs=1e-6) and still["pose"] == pytest.approx(0, abs=1e-6)
    assert still["landmarks_lost"] == 0
    assert points.seen == 4 * 11
    moved = judge(Marked("ab"))
    assert points.seen == 6 * 11, "the real faces are looked at once"
    eyes = float(np.linalg.norm(points.points[33] - points.points[263]))
    assert moved["pose"] == pytest.approx(2 / eyes, rel=1e-4)
    assert moved["expression"] == pytest.approx(0, abs=1e-5)


def test_what_is_no_face_is_nobody_s(held: dict[str, Faces]) -> None:
    judge = Judge(CONFIG, held, sets("ab", 0, 24), SIZES, Points())
    assert judge(Perfect(held, 64))["identity"] == 1
    metrics = judge(GreyAndPerfect(held, 64))
    assert metrics["identity/a>b"] == metrics["identity/b>a"] == metrics["landmarks_lost"] == 0.5


@pytest.mark.parametrize("lost", [2, 4])
def test_a_mean_over_few_faces_is_left_out(held: dict[str, Faces], lost: int) -> None:
    model = Grey("ab")
    model.lost = lost
    metrics = Judge(CONFIG, held, sets("ab", 0, 24), SIZES, Points())(model)
    assert metrics["landmarks_lost/a>b"] == pytest.approx(lost / 6) and metrics["landmarks_lost/b>a"] == 0
    assert ("expression/a>b" in metrics, "pose/a>b" in metrics) == (lost == 2,) * 2
    assert "expression/b>a" in metrics


class Small(Autoencoder):
    """A network with all that a judgement could disturb: dropout, running statistics, a frozen part."""

    def __init__(self) -> None:
        super().__init__("ab")
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Conv2d(4, 48, 3, 2, 1)
        )
        self.decoders = nn.ModuleDict({name: nn.Conv2d(48, 48, 1) for name in "ab"})
        self.encoder[0].requires_grad_(False)

    def encode(self, x: Tensor) -> Tensor:
        code: Tensor = self.encoder(x)
        return code

    def decode(self, code: Tensor, person: str) -> Decoded:
        return Decoded((torch.sigmoid(F.pixel_shuffle(self.decoders[person](code), 4)),))


def trained_with(judge: Judge | None, held: Mapping[str, Faces]) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(7)
    model = Small()
    model.train()
    model.encoder[1].eval()  # a part in a mode of its own
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    faces = torch.cat([augment.plain(of, torch.arange(4), 64) for of in held.values()])
    for _ in range(6):
        loss = (model.swap(faces, "a").picture - faces).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        if judge is not None:
            assert judge(model)["ssim"] < 1
        optimiser.step()
    assert model.training and not model.encoder[1].training and model.decoders["a"].training
    assert not model.encoder[0].weight.requires_grad
    return model.state_dict(), torch.random.get_rng_state()


def test_a_training_with_judgements_is_one_without_to_the_bit(held: dict[str, Faces]) -> None:
    with torch.random.fork_rng(devices=[]):
        plain, state = trained_with(None, held)
        judge = Judge(CONFIG, held, sets("ab", 50, identity.LEAST), SIZES, Points())  # one that has yet to learn
        judged, other = trained_with(judge, held)
    assert torch.equal(state, other)
    assert all(torch.equal(plain[name], judged[name]) for name in plain)


def test_it_judges_the_same_model_the_same(held: dict[str, Faces]) -> None:
    model = Small()
    before = copy.deepcopy(model.state_dict())
    judges = [Judge(CONFIG, held, sets("ab", 0, 24), SIZES, Points()) for _ in range(2)]
    first, second = judges
    assert "identity" in first(model)
    assert first(model) == second(model) == first(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_end_can_be_asked_for_on_the_way(held: dict[str, Faces]) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    model = Small()
    model.train()
    with pytest.raises(Stopped):
        Judge(CONFIG, held, sets("ab", 0, 24), SIZES)(model, stop)
    assert model.training and all(part.training for part in model.modules())


def test_faces_that_are_read_from_disk(tmp_path: Path) -> None:
    loaded = {}
    for person in "ab":
        with FaceSetWriter(tmp_path / person, 96, 1.0) as writer:
            for number, crop in enumerate(people(person, 0, 12)):
                writer.add(crop, np.ones((96, 96)), np.zeros((478, 2)), source="x", frame=number)
        found = faceset.read(tmp_path / person)
        loaded[person] = [data.load(found, 64, 1.0, memory_mb) for memory_mb in (100, 0.1)]
    few = sets("ab", 0, 3)
    kept, streamed = ({person: both[which] for person, both in loaded.items()} for which in (0, 1))
    assert all(isinstance(of, StreamedFaces) for of in streamed.values())
    model = Small()
    assert Judge(CONFIG, streamed, few, SIZES)(model) == Judge(CONFIG, kept, few, SIZES)(model)
    one, other = (Judge(CONFIG, known, known, SIZES)._crops("a") for known in (kept, streamed))
    np.testing.assert_array_equal(one, other)


def test_a_spread_is_even() -> None:
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert spread(9, 3).tolist() == [0, 4, 8]
    assert spread(5, 1).tolist() == [0]
    assert len(set(spread(1000, 999).tolist())) == 999


def test_the_trainer_s_own_sessions_are_the_same_with_judgements(tmp_path: Path) -> None:
    from models.train import loop, recipe

    sets = {}
    for person in "ab":
        with FaceSetWriter(tmp_path / person, 96, 1.0) as writer:
            for number, crop in enumerate(people(person, 0, 16)):
                writer.add(crop, np.ones((96, 96)), np.zeros((478, 2)), source="x", frame=number)
        sets[person] = faceset.read(tmp_path / person)
    digests = []
    for every in (10**9, 2):  # both hold faces out
        config = recipe.Config(
            architecture="original",
            preset="sketch",
            iterations=5,
            batch=2,
            device="cpu",
            precision="fp32",
            threads=1,
            data=recipe.Data(held_out=0.25),
            monitor=recipe.Monitor(preview=False, report=False),
            judge=Config(every=every, faces=3, best="psnr"),
        )
        result = loop.train(config, sets, tmp_path / f"model-{every}")
        digests.append(result.description.digest)
        assert ("psnr" in result.metrics) == (every == 2)
    assert digests[0] == digests[1]
