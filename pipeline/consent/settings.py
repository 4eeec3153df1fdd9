"""The settings of what has to be agreed to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Config:
    """What consent has to be shown before a face is trained on or put anywhere.

    Attributes:
        policy: "present": each person has an identity file that is valid, and not forged where it is signed;
            "signed": it must be signed, by a key that is trusted here; "off-for-self": as "present", and whoever has
            none is taken to be the user.
        purpose: what for, in a word that the identity's scope must allow; empty: not asked.
        project: the same for the project.
        territory: the same for where it will be seen, e.g. DE or worldwide.
        retention_days: how long face sets are kept after the consent to them has ended, before `identity prune` removes
            them.
    """

    policy: Literal["signed", "present", "off-for-self"] = "present"
    purpose: str = ""
    project: str = ""
    territory: str = ""
    retention_days: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.retention_days <= 36500:
            raise ValueError(f"retention_days must be from 0 to 36500, not {self.retention_days}")
