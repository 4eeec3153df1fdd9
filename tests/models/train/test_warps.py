"""models.train.warps: landmarks come nearer to where they shall be, smoothly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.train import warps

REACH = 2 / 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(count: int, reach: float = REACH) -> torch.Tensor:
    return torch.tensor([[[reach, 0, 0], [0, reach, 0]]]).expand(count, 2, 3)


def looks(count: int, seed: int = 0) -> torch.Tensor:
    """(N, K, 2): an egg of landmarks, each face's a little another one."""
    points = len(warps.LANDMARKS)
    radius = torch.rand(points, generator=generator(99)).sqrt() * 0.75
    angle = torch.rand(points, generator=generator(98)) * 6.2832
    egg = torch.stack((radius * angle.cos() * 0.8, radius * angle.sin()), 1)
    drawn = torch.randn(count, 4, generator=generator(seed))
    scale = 1 + 0.08 * drawn[:, None, :2]
    return egg[None] * scale + 0.05 * drawn[:, None, 2:] + 0.06 * drawn[:, None, :1] * egg.flip(1)[None].square()


def test_landmarks_are_each_there_once_and_mirror_in_pairs() -> None:
    places = warps.LANDMARKS.tolist()
    assert len(set(places)) == len(places)
    assert min(places) >= 0 and max(places) < 468
    face = torch.randn(1, 478, 2)
    mirrored = warps.look(face, 0.5, mirrored=True)
    plain = warps.look(face, 0.5)
    assert torch.equal(plain, face[:, warps.LANDMARKS] * 2)
    right, left = places.index(33), places.index(263)  # the eyes' outer corners
    assert torch.equal(mirrored[0, right], plain[0, left] * torch.tensor([-1, 1]))
    nose = places.index(4)
    assert torch.equal(mirrored[0, nose], plain[0, nose] * torch.tensor([-1, 1]))


def test_one_of_the_nearest_is_taken_and_of_each_of_them() -> None:
    own, others = looks(1).repeat(1000, 1, 1), looks(200, 1)
    which = torch.rand(1000, generator=generator())
    taken = warps.similar(own, others, which)
    shape = (others - others.mean(1, keepdim=True)) - (own[:1] - own[:1].mean(1, keepdim=True))
    nearest = shape.square().sum((1, 2)).argsort()[:10]
    found = {int((others == one).all(2).all(1).nonzero()[0, 0]) for one in taken}
    assert found == set(nearest.tolist())


def test_where_a_face_lies_is_not_its_shape() -> None:
    own, others = looks(1), looks(30, 1)
    others[7] = own[0] + 0.4
    assert torch.equal(warps.similar(own, others, torch.zeros(1))[0], others[7])


def test_few_others_and_unknown_ones() -> None:
    own, others = looks(2), looks(3, 1)
    others[1] = torch.nan
    taken = warps.similar(own, others, torch.tensor([0.0, 0.5]))
    assert taken.isfinite().all()
    own[0] = torch.nan
    bend = warps.towards(own, taken, still(2), REACH)
    assert bend[0].isnan().all() and bend[1].isfinite().all()
    grid = warps.scattered(torch.randn(2, 2, 5, 5, generator=generator()), still(2), 0.02)
    field = warps.spread([bend, grid], 32)
    assert torch.equal(field[0], warps.spread([grid], 32)[0])
    assert torch.equal(field[1], warps.spread([bend], 32)[1])


def moves(count: int, seed: int) -> torch.Tensor:
    """Turned, zoomed, shifted, and half of them mirrored."""
    turn, zoom, x, y = (torch.rand(4, count, generator=generator(seed)) * 2 - 1).unbind()
    sign = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0)
    scale = REACH * (1 + 0.05 * zoom)
    cosine, sine = (0.2 * turn).cos() * scale, (0.2 * turn).sin() * scale
    rows = torch.stack((cosine * sign, -sine, 0.05 * x), 1), torch.stack((sine * sign, cosine, 0.05 * y), 1)
    return torch.stack(rows, 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_landmarks_are_shown_near_to_where_the_others_are(seed: int, moved: bool) -> None:
    own, aims = looks(6, seed), looks(6, seed + 5000)
    to_crop = moves(6, seed) if moved else still(6)
    size = 65
    field = warps.spread([warps.towards(own, aims, to_crop, REACH)], size)
    # Which place of the input lies at an aim, and what of the crop does it show?
    linear, shift = to_crop[:, :, :2], to_crop[:, :, 2]
    at = torch.linalg.solve(linear, (aims * REACH - shift[:, None]).mT).mT  # in the model's square
    moved_by = torch.nn.functional.grid_sample(field, at[:, None], align_corners=True)[:, :, 0].mT
    shown = (aims * REACH + moved_by) / REACH
    inside = at.abs().amax(2) < 0.95
    before, after = ((places - own).norm(dim=2)[inside] for places in (aims, shown))
    assert after.mean() < 0.4 * before.mean()
    assert field.diff(dim=2).abs().max() < 0.05  # smooth: no px comes from far beside its neighbour's place


def test_far_from_all_landmarks_nothing_moves() -> None:
    own = looks(1) * 0.3
    field = warps.spread([warps.towards(own, own + 0.05, still(1), REACH)], 33)
    assert field[..., 0, 0].abs().max() < 1e-3
    assert field[0, 0, 16, 16].item() == pytest.approx(-0.05 * REACH, rel=0.1)


def test_a_grid_bends_by_its_amount_in_the_faces_own_directions() -> None:
    noise = torch.randn(400, 2, 5, 5, generator=generator())
    bend = warps.scattered(noise, still(400), 0.02)
    assert bend.std().item() == pytest.approx(2 * 0.02 * REACH, rel=0.05)
    quarter = torch.tensor([[[0.0, -REACH, 0], [REACH, 0, 0]]]).expand(400, 2, 3)
    turned = warps.scattered(noise, quarter, 0.02)
    assert torch.allclose(turned[:, 0], -bend[:, 1]) and torch.allclose(turned[:, 1], bend[:, 0])


def test_a_bend_is_met_at_its_nodes() -> None:
    bend = torch.randn(2, 2, 5, 5, generator=generator())
    assert torch.allclose(warps.spread([bend], 33)[:, :, ::8, ::8], bend, atol=1e-5)
