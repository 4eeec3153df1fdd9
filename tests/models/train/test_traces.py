"""models.train.traces: motion blurs along its line, compression like JPEG, nobody else's picture touched."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.train import traces
from models.train.augment import throw
from models.train.recipe import Augment


def pictures(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def dot(size: int = 33) -> torch.Tensor:
    picture = torch.zeros(1, 3, size, size)
    picture[:, :, size // 2, size // 2] = 1
    return picture


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 20), st.floats(0, math.pi))
def test_a_dot_becomes_a_line_of_that_length_and_angle(length: float, angle: float) -> None:
    line = traces.blurred(dot(), torch.tensor([length]), torch.tensor([angle]))[0, 0]
    assert line.sum().item() == pytest.approx(1, abs=1e-5)
    y, x = (axis.float() - 16 for axis in line.nonzero().T)
    weight = line[line > 0]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    assert (along.abs() < length / 2 + 0.51).all()
    assert (across.abs() < 1 + 1e-4).all()
    # A line of length l has the variance l * l / 12 along itself.
    assert (weight * along.square()).sum().item() == pytest.approx(length**2 / 12, abs=0.35 + 0.03 * length**2 / 12)


def test_length_one_blurs_nothing_and_an_even_picture_stays_even() -> None:
    seen = pictures()
    same = traces.blurred(seen, torch.ones(4), torch.zeros(4))
    assert torch.allclose(same, seen, atol=1e-6)
    even = traces.blurred(torch.full((2, 3, 16, 16), 0.3), torch.tensor([9.0, 3]), torch.tensor([0.4, 2]))
    assert torch.allclose(even, torch.tensor(0.3), atol=1e-6)


def test_each_face_is_blurred_its_own_way() -> None:
    lines = traces.blurred(dot().expand(2, -1, -1, -1), torch.tensor([9.0, 5.0]), torch.tensor([0, math.pi / 2]))
    assert (lines[0, 0, 16] > 0.05).sum() == 9
    assert (lines[1, 0, :, 16] > 0.05).sum() == 5
    assert torch.equal(lines[:, 0], lines[:, 2])


def test_compression_costs_more_at_a_lower_quality_and_keeps_colours() -> None:
    smooth = torch.nn.functional.interpolate(pictures(3, 4), 32, mode="bicubic").clamp(0, 1)
    loss = [(traces.compressed(smooth, [quality] * 3) - smooth).abs().mean().item() for quality in (100, 60, 20, 1)]
    assert loss == sorted(loss)
    assert loss[0] < 0.02 < loss[3]
    red = torch.tensor([0.9, 0.2, 0.1])[None, :, None, None].expand(1, 3, 16, 16)
    assert torch.allclose(traces.compressed(red, [95]), red, atol=0.02)


def test_the_chosen_ones_only() -> None:
    seen = pictures(100)
    before = seen.clone()
    thrown = throw(100, torch.Generator().manual_seed(1))
    for switch in ("blur", "compression"):
        done = traces.left(seen, thrown, Augment(**{switch: 0.4}))
        changed = (done != seen).flatten(1).any(1)
        assert torch.equal(changed, thrown[switch] < 0.4)
        assert 25 < changed.sum() < 55
    assert torch.equal(seen, before)
    assert traces.left(seen, thrown, Augment()) is seen


def test_quality_is_from_the_worst_to_a_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(traces, "compressed", lambda faces, quality: asked.extend(quality) or faces)
    thrown = throw(2000, torch.Generator().manual_seed(0))
    traces.left(pictures(2000, 1), thrown, Augment(compression=1, compression_quality=95))
    assert set(asked) == set(range(95, 101))
