"""Chance that depends on nothing but the seed, the step and what it is for.

A generator that runs on from step to step has to be saved, and to be saved at the right moment where workers draw
ahead. One made anew for each step has no state at all: a training that is taken up draws what it would have drawn.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A seed in 0..2^63-1 out of numbers and names, well mixed: neighbours have nothing in common."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for what `parts` name, for example (seed, step, person, "augment")."""
    return torch.Generator(device).manual_seed(seed_of(*parts))
