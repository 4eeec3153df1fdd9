"""Journals of trainings that never were."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from models.train.journal import ROLLED_BACK, Journal, Opening, Point

START = datetime(2026, 1, 31, 22, tzinfo=UTC)


def clock(start: datetime, step_s: float = 0.0) -> Iterator[datetime]:
    while True:
        yield start
        start += timedelta(seconds=step_s)


def opening(iteration: int = 0, people: tuple[str, ...] = ("a", "b"), batch: int = 8) -> Opening:
    faces = batch * len(people)
    recipe = {"architecture": "original", "batch": batch, "optimiser": {"lr": 1e-4, "name": "adam"}}
    return Opening(iteration, people, "original", "sketch", batch, faces, "cpu", "fp32", 2, recipe=recipe)


def point(iteration: int, seconds: float, people: tuple[str, ...] = ("a", "b")) -> Point:
    """Losses that fall and shiver."""
    fall = 0.03 + 0.2 / (1 + iteration / 400)
    loss = {p: fall * (1 + 0.15 * math.sin(iteration * (k + 1.7)) + 0.1 * k) for k, p in enumerate(people)}
    terms = {p: {"ssim": 0.8 * value, "mae": 0.2 * value} for p, value in loss.items()}
    return Point(iteration, seconds, loss, terms, 1e-4 * min(1, (iteration + 1) / 500), 90 + iteration % 7, 0.02)


def night(folder: Path, people: tuple[str, ...] = ("a", "b")) -> Path:
    """Three sessions: one ended, one killed after a rollback and a lack of memory, one stopped. 6000 steps in all."""
    times = clock(START)
    kept = Journal(folder, now=lambda: next(times))
    kept.begin(opening(0, people))
    for iteration in range(10, 2001, 10):
        kept.point(point(iteration, iteration * 0.5, people))
        if iteration % 500 == 0:
            kept.judged(iteration, judged(iteration, people))
            kept.event(iteration, "saved")
    kept.event(2000, "backup")
    kept.end(2000, "minutes", 1001.0)
    kept.close()
    kept = Journal(folder, now=lambda: START + timedelta(hours=1))
    kept.begin(opening(2000, people))
    for iteration in range(2010, 3001, 10):
        kept.point(point(iteration, (iteration - 2000) * 0.5, people))
    kept.event(2500, ROLLED_BACK, "the loss of a is nan at step 3007")
    for iteration in range(2510, 4261, 10):
        kept.point(point(iteration, (iteration - 1500) * 0.5, people))
    kept.event(4260, "out of memory", "a step is taken in 2 parts from now on")
    kept.close()
    kept = Journal(folder, now=lambda: START + timedelta(hours=9))
    kept.begin(opening(4000, people, 4))
    for iteration in range(4010, 6001, 10):
        kept.point(point(iteration, (iteration - 4000) * 0.25, people))
        if iteration % 500 == 0:
            kept.judged(iteration, judged(iteration, people))
            kept.event(iteration, "saved")
    kept.end(6000, "stopped", 500.5)
    kept.close()
    return folder


def judged(iteration: int, people: tuple[str, ...] = ("a", "b")) -> dict[str, float]:
    rise = 1 - 1 / (1 + iteration / 900)
    metrics = {"identity": rise, "ssim": 0.5 + 0.45 * rise, "psnr": 18 + 9 * rise, "expression": 0.2 - 0.12 * rise}
    metrics |= {"pose": 9 - 6 * rise, "sharpness": 0.4 + 0.4 * rise}
    for place, person in enumerate(people):
        other = people[(place + 1) % len(people)]
        metrics |= {f"ssim/{person}": 0.5 + (0.44 + 0.02 * place) * rise, f"psnr/{person}": 18 + (9 + place) * rise}
        metrics |= {f"identity/{person}>{other}": rise * (1 - 0.05 * place)}
        metrics |= {f"expression/{person}>{other}": 0.2 - (0.12 - 0.01 * place) * rise}
    return metrics
