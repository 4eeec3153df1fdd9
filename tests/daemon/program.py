"""The real program, `python -m tests.daemon.program CHAIN watch -c config.yaml`, with a chain that loads in no time.

CHAIN is a JSON object: {"trail": {...}, "slow": {...}}, the fields of `toys.Trouble` and `toys.Slow`; and "full_s" for
how many seconds a refused write counts as no room. Decode, encode in segments, the door and all of the daemon are the
real ones.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.app import Settings
    from pipeline.engine import Engine
    from pipeline.inbox import WatchConfig
    from pipeline.lanes import Station

STAGES = ("decode", "trail", "encode")


def light_engine(settings: Settings, chain: dict[str, Any], stages: tuple[str, ...] = STAGES) -> Engine:
    """An engine of decode, perhaps the trail, and encode, each in a process; and the door."""
    from pipeline.engine import Engine
    from pipeline.specs import ProcessSpec, StageSpec
    from tests.daemon import toys

    slow = toys.Slow(settings.encode, **chain.get("slow", {}))
    specs = {
        "decode": StageSpec("decode", "stages.decode:Decode", settings.decode),
        "trail": StageSpec("trail", "tests.daemon.toys:Trail", toys.Trouble(**chain.get("trail", {}))),
        "encode": StageSpec("encode", "tests.daemon.toys:SlowEncode", slow),
    }
    table = tuple(ProcessSpec((name,)) for name in stages)
    config = replace(settings.engine, processes=table, scratch_kb=16)
    finisher = StageSpec("publish", "tests.daemon.toys:SlowFinish", slow)
    return Engine([specs[name] for name in stages], config, finisher)


def light_station(chain: dict[str, Any], stages: tuple[str, ...], settings: Settings, folder: WatchConfig) -> Station:
    """As `app.station`, for the light chain."""
    from pipeline import app
    from pipeline.lanes import Station

    own = app.folder_settings(settings, folder)
    key = hashlib.sha256(repr((stages, own.encode)).encode()).hexdigest()

    def make(device: str, halvings: int) -> Engine:
        return light_engine(own, chain, stages)

    return Station(key, "light", "b", "cpu", "restart", {}, make)


def run() -> int:
    """Runs the program."""
    from pipeline import app, space
    from pipeline.__main__ import main

    chain = json.loads(Path(sys.argv[1]).read_text())
    app.station = partial(light_station, chain, STAGES)
    space._WAIT_S = chain.get("full_s", space._WAIT_S)
    return main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(run())
