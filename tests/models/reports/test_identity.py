"""models.reports.identity: it tells two drawn people apart by their features, not by light, tint or sharpness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.faceset import FaceSetWriter, read
from models.reports.identity import Classifier, crops_of, train_classifier
from pipeline.errors import InputError
from tests.models.reports.drawn import people


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    # b is filmed in poor light: a classifier that judges by light would fail below
    return train_classifier(people("a", 0, 40), people("b", 500, 40, light=0.6), seed=1)


def test_it_knows_who_is_who(classifier: Classifier) -> None:
    assert classifier.accuracy >= 0.95
    assert classifier.held_out == 20
    assert (classifier.probability_b(people("a", 900, 20)) < 0.5).mean() >= 0.95
    assert (classifier.probability_b(people("b", 950, 20, light=0.6)) > 0.5).mean() >= 0.95


def test_it_does_not_judge_by_light_tint_or_sharpness(classifier: Classifier) -> None:
    a, b = people("a", 900, 20, light=0.6), people("b", 950, 20)
    tinted = np.clip(a * np.array([0.8, 1, 1.2]), 0, 255).astype(np.uint8)
    blurred = np.stack([cv2.GaussianBlur(crop, (0, 0), 1.5) for crop in a])
    for changed in (a, tinted, blurred):
        assert (classifier.probability_b(changed) < 0.5).mean() >= 0.9
    assert (classifier.probability_b(b) > 0.5).mean() >= 0.9


def test_hair_and_background_say_nothing(classifier: Classifier) -> None:
    a = people("a", 900, 10)
    before = classifier.probability_b(a)
    a[:, :3] = a[:, -3:] = a[:, :, :12] = a[:, :, -12:] = 0
    np.testing.assert_allclose(classifier.probability_b(a), before, atol=1e-5)


def test_the_same_seed_gives_the_same_answers_and_leaves_the_generator_alone(classifier: Classifier) -> None:
    state = torch.random.get_rng_state()
    again = train_classifier(people("a", 0, 40), people("b", 500, 40, light=0.6), seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    crops = people("a", 900, 5)
    np.testing.assert_array_equal(again.probability_b(crops), classifier.probability_b(crops))


def test_turned_it_answers_for_the_other_one(classifier: Classifier) -> None:
    crops = people("a", 900, 5)
    turned = classifier.turned()
    np.testing.assert_allclose(turned.probability_b(crops), 1 - classifier.probability_b(crops), atol=1e-6)
    np.testing.assert_array_equal(turned.turned().probability_b(crops), classifier.probability_b(crops))


def test_other_sizes_and_none_at_all(classifier: Classifier) -> None:
    crops = [cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA) for crop in people("b", 950, 5, light=0.6)]
    assert (classifier.probability_b(crops) > 0.5).all()
    assert classifier.probability_b([]).shape == (0,)


def test_too_few_faces() -> None:
    with pytest.raises(InputError, match="at least 4 faces of each; there are 3 and 5"):
        train_classifier(people("a", 0, 3), people("b", 0, 5))


def test_crops_are_cut_down_to_the_face(tmp_path: Path) -> None:
    crop = np.zeros((96, 96, 3), np.uint8)
    crop[16:80, 16:80] = (9, 8, 7)
    with FaceSetWriter(tmp_path, 96, 1.5) as writer:
        writer.add(crop, np.ones((96, 96)), np.ones((478, 2)), source="x", frame=0)
    found = read(tmp_path)
    cut = crops_of(found, found.faces)
    assert cut.shape == (1, 64, 64, 3)
    assert (cut == (9, 8, 7)).all()
