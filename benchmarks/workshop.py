"""What the jobs of a run are made of: clips, a model with random weights, chains of stages; in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import av

from benchmarks.stages import KnownFacesConfig, Pass
from pipeline import app
from pipeline.provenance import seal, settings
from pipeline.specs import ProcessSpec, StageSpec
from stages import disclose, encode, label, swap, watermark

RATE = 30

#: libx264's settings for every variant of a comparison.
PRESET, CRF = "veryfast", 20

SIX = (("decode",), ("detect", "align"), ("mask",), ("swap",), ("blend",), ("disclose", "encode"))
THREE = (("decode",), ("detect", "align", "mask", "swap", "blend"), ("disclose", "encode"))

#: Why there are no marks where what is held against them has none either.
_UNMARKED = "held against what carries no marks"


def table(groups: Sequence[Sequence[str]]) -> tuple[ProcessSpec, ...]:
    """One process for each group of stages."""
    return tuple(ProcessSpec(tuple(group)) for group in groups)


def encoder_threads() -> int:
    """Twice the cores, at most 16: the project's own choice, said to every encoder in a comparison."""
    return min(16, 2 * (os.cpu_count() or 1))


class Workshop:
    """Makes clips and models in `folder` when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._targets = 0

    def clip(self, width: int, height: int, seconds: float, preset: str = "medium") -> Path:
        """A moving test picture with sound, H.264 at the bitrate of ordinary footage, a key frame every two seconds."""
        path = self.folder / f"{width}x{height}-{seconds:g}s.mp4"
        if not path.exists():
            _write_clip(path, width, height, seconds, preset)
        return path

    def long_clip(self, width: int, height: int, seconds: float, times: int, preset: str = "medium") -> Path:
        """A clip that shows `clip` so many times over: the same pictures, coded once."""
        path = self.folder / f"{width}x{height}-{times}x{seconds:g}s.mp4"
        if not path.exists():
            _repeat(self.clip(width, height, seconds, preset), path, seconds, times)
        return path

    def model(self, preset: str = "original") -> Path:
        """An Original autoencoder with random weights."""
        folder = self.folder / f"model-{preset}"
        if not folder.exists():
            from models import autoencoders, checkpoint

            network, description = checkpoint.new("original", autoencoders.preset("original", preset))
            checkpoint.save(folder, network, description)
            _consent(folder, description.people)
        return folder

    def target(self) -> str:
        """A new name for a result."""
        self._targets += 1
        return str(self.folder / f"result-{self._targets}.mp4")

    def chain(self, faces: int = 1, preset: str = "original", threads: int = 0) -> tuple[StageSpec, ...]:
        """The stages of a real job, marks and all; only detection is replaced by faces that are known.

        `threads` is the network's (0: as the project chooses).
        """
        own = self._settings(preset)
        specs = app.stage_specs(replace(own, swap=replace(own.swap, threads=threads)))
        known = StageSpec("detect", "benchmarks.stages:KnownFaces", KnownFacesConfig(faces))
        return tuple(known if spec.name == "detect" else spec for spec in specs)

    def sealer(self, factory: str = "pipeline.provenance.seal:Sealer") -> StageSpec:
        """What signs the files of `chain()` and writes them down, as in a real job; in the workshop's own audit."""
        own = self._settings("original")
        folder, model = app.describe_model(own)
        roles = app.roles(model, own.swap.to)
        people = {person: model.identities.get(person, "") for person in roles}
        config = seal.Config(
            app.home(own), own.provenance, own.consent, str(folder), model.digest, people, roles, app.TREATMENT
        )
        return StageSpec("seal", factory, config)

    def _settings(self, preset: str) -> app.Settings:
        """What a user has who has set nothing, but keys and audit of the workshop's own: nobody's home is touched."""
        return app.Settings(
            model=self.model(preset),
            swap=swap.Config(model=""),
            encode=encoding(),
            provenance=settings.Config(folder=self.folder / "home"),
        )

    def empty_chain(self) -> tuple[StageSpec, ...]:
        """As many stages that pass frames on between decode and encode."""
        names = [name for group in SIX for name in group][1:-1]
        passing = (StageSpec(name, f"{Pass.__module__}:Pass") for name in names)
        return (
            StageSpec("decode", "stages.decode:Decode"),
            *passing,
            StageSpec("encode", "stages.encode:Encode", encoding()),
        )


def unmarked(chain: Sequence[StageSpec]) -> tuple[StageSpec, ...]:
    """The chain, passing frames on where it would mark them, and looking for no marks of others."""
    off = disclose.Config(label.Config(off_because=_UNMARKED), watermark.Config(off_because=_UNMARKED))
    return tuple(replace(spec, config=off) if spec.name == seal.MARKING else spec for spec in chain)


def _consent(model: Path, people: Sequence[str]) -> None:
    """Has the model carry the identity of nobody for each of its people: random weights show no face."""
    from models import checkpoint
    from pipeline.consent import identity

    begun = datetime(2026, 1, 1, tzinfo=UTC)
    made = {name: identity.Identity(identity.new_id(), "synthetic", identity.Scope(), begun, begun) for name in people}
    files = {each.digest: identity.to_bytes(each) for each in made.values()}
    checkpoint.attach(model, files, {name: each.digest for name, each in made.items()})


def encoding() -> encode.Config:
    """The encoder's settings in every job."""
    return encode.Config(preset=PRESET, quality=float(CRF), threads=encoder_threads())


def encoder_options() -> dict[str, str]:
    """The same settings by libx264's names, for what is not ours."""
    return {"preset": PRESET, "crf": str(CRF), "threads": str(encoder_threads())}


def _write_clip(path: Path, width: int, height: int, seconds: float, preset: str) -> None:
    picture = f"testsrc2=size={width}x{height}:rate={RATE}:duration={seconds}"
    sound = f"sine=frequency=440:sample_rate=48000:duration={seconds}"
    options = {"preset": preset, "crf": "20", "g": str(2 * RATE)}
    with (
        av.open(picture, format="lavfi") as shown,
        av.open(sound, format="lavfi") as heard,
        av.open(str(path), "w") as out,
    ):
        video = out.add_stream("libx264", rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_type = "FRAME"  # as ffmpeg's own program has it
        audio = out.add_stream("aac", rate=48000)
        for frame in shown.decode(video=0):
            frame.pict_type = 0  # lavfi calls each of its pictures a key frame, and the encoder would obey
            out.mux(video.encode(frame))
        out.mux(video.encode())
        for samples in heard.decode(audio=0):
            out.mux(audio.encode(samples))
        out.mux(audio.encode())


def _repeat(short: Path, path: Path, seconds: float, times: int) -> None:
    sound = f"sine=frequency=440:sample_rate=48000:duration={seconds * times}"
    with av.open(str(short)) as shown, av.open(sound, format="lavfi") as heard, av.open(str(path), "w") as out:
        source = shown.streams.video[0]
        assert source.time_base is not None
        span = round(seconds / source.time_base)
        video = out.add_stream_from_template(source)
        audio = out.add_stream("aac", rate=48000)
        kept = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in shown.demux(source) if p.size]
        for turn in range(times):
            for data, pts, dts, duration, is_key in kept:
                packet = av.Packet(data)
                packet.stream, packet.time_base = video, source.time_base
                packet.pts, packet.dts, packet.duration = (pts or 0) + turn * span, (dts or 0) + turn * span, duration
                packet.is_keyframe = is_key
                out.mux(packet)
        for samples in heard.decode(audio=0):
            out.mux(audio.encode(samples))
        out.mux(audio.encode())


def bitrate(path: Path, seconds: float) -> float:
    """Mbit/s of a file."""
    return path.stat().st_size * 8 / seconds / 1e6
