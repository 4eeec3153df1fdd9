"""The two people of the demo: how each looks and sounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stages.puppets.actor import actor
from stages.puppets.portrait import Portrait, astronaut
from stages.puppets.puppet import Puppet
from stages.puppets.speech import Voice


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can be filmed.

    Attributes:
        name: a file-name-safe word.
        portrait: makes the picture that the puppet is cut from (about two seconds: it runs a face mesh once).
        voice: how the person sounds.
    """

    name: str
    portrait: Callable[[], Portrait]
    voice: Voice

    def puppet(self) -> Puppet:
        """The person, ready to be posed. Raises RequirementError where the portrait cannot be made."""
        return Puppet(self.portrait())


ASTRONAUT = Person("astronaut", astronaut, Voice(pitch_hz=195.0, formants=1.15))
ACTOR = Person("actor", actor, Voice(pitch_hz=108.0, formants=1.0))
