"""YUV4MPEG2: its header line, both ways.

The format is described by mjpegtools' yuv4mpeg(5). The chroma tags beyond 8 bits, the full-range tag and the mono tags
are those that FFmpeg and x264 write and read.
"""

from __future__ import annotations

from fractions import Fraction

from pipeline.errors import InputError
from pipeline.pixels import PIXEL_FORMATS, PixelFormat
from pipeline.types import Clip, Colour, Job

MAGIC = b"YUV4MPEG2"
FRAME = b"FRAME"
HEADER_LIMIT = 4096

_CENTRE, _LEFT, _TOP_LEFT = 2, 1, 3
_LIMITED, _FULL = 1, 2

#: FFmpeg's chroma location by the tags of 4:2:0.
_SITINGS = {"420jpeg": _CENTRE, "420mpeg2": _LEFT, "420paldv": _TOP_LEFT}


def _tags() -> dict[str, str]:
    tags = {"420": "yuv420p", "411": "yuv411p", "422": "yuv422p", "444": "yuv444p"}
    tags |= {"444alpha": "yuva444p", "mono": "gray"}
    tags |= {f"mono{depth}": f"gray{depth}le" for depth in (9, 10, 12, 16)}
    tags |= {f"{c}p{depth}": f"yuv{c}p{depth}le" for c in ("420", "422", "444") for depth in (9, 10, 12, 14, 16)}
    return tags


#: Pixel formats by tag; the variants of 8-bit 4:2:0 differ in chroma location only.
TAGS: dict[str, str] = _tags()
_TAG_OF = {name: tag for tag, name in TAGS.items()}

#: What is written. Transparency can be read, but hardly any other program can.
FORMATS: tuple[str, ...] = tuple(name for name in TAGS.values() if name != "yuva444p")

_INTERLACING = {"p": 1, "t": 2, "b": 3, "m": 0, "?": 0}
_LETTER = {1: "p", 2: "t", 3: "b", 4: "t", 5: "b"}


def parse(line: bytes, job: Job) -> Clip:
    """The clip that a header line announces.

    Raises:
        InputError: it is no such header, or announces what cannot be read.
    """
    words = line.decode("latin-1").split()
    if not line.endswith(b"\n") or not words or words[0].encode() != MAGIC:
        raise InputError(f"{job.source} does not start with a YUV4MPEG2 header")
    fields = {word[0]: word[1:] for word in words[1:] if word[0] != "X"}
    extra = [word[1:].upper() for word in words[1:] if word[0] == "X"]
    try:
        width, height = int(fields["W"]), int(fields["H"])
        rate = _ratio(fields.get("F", "0:0"))
        aspect = _ratio(fields.get("A", "0:0"))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{job.source}: its YUV4MPEG2 header is broken: {line[:200]!r}") from error
    if width < 1 or height < 1 or (rate is not None and rate < 0):
        raise InputError(f"{job.source}: its YUV4MPEG2 header announces {width}x{height} pictures")
    tag = fields.get("C", "420")
    return Clip(
        id=job.id,
        source=job.source,
        target=job.target,
        partial="",
        width=width,
        height=height,
        pixel_format=_format(tag, job.source),
        time_base=1 / rate if rate else Fraction(1, 25),
        rate=rate,
        sample_aspect_ratio=aspect or Fraction(1),
        colour=Colour(range=_range(extra), chroma_location=_SITINGS.get(tag, 0)),
        field_order=_INTERLACING.get(fields.get("I", "?"), 0),
    )


def _format(tag: str, source: str) -> PixelFormat:
    name = TAGS.get("420" if tag in _SITINGS else tag)
    if name is None:
        raise InputError(f"{source}: YUV4MPEG2 chroma {tag!r} is not known; it may be one of {', '.join(TAGS)}")
    return PIXEL_FORMATS[name]


def _range(extra: list[str]) -> int:
    return {"COLORRANGE=FULL": _FULL, "COLORRANGE=LIMITED": _LIMITED}.get(
        next((word for word in extra if word.startswith("COLORRANGE=")), ""), 0
    )


def _ratio(text: str) -> Fraction | None:
    """ "30000:1001" as a fraction; 0:0 is "unknown"."""
    above, below = text.split(":")
    return None if int(above) == int(below) == 0 else Fraction(int(above), int(below))


def header(clip: Clip, pixel_format: str, colour: Colour) -> bytes:
    """The header line for a clip that is written as `pixel_format`, one of `FORMATS`, and tagged with `colour`."""
    siting = {location: tag for tag, location in _SITINGS.items()}
    tag = siting.get(colour.chroma_location, "420jpeg") if pixel_format == "yuv420p" else _TAG_OF[pixel_format]
    rate = clip.rate or Fraction(0)
    aspect = clip.sample_aspect_ratio
    words = [
        MAGIC.decode(),
        f"W{clip.width}",
        f"H{clip.height}",
        f"F{rate.numerator}:{rate.denominator if rate else 0}",
        f"I{_LETTER.get(clip.field_order, '?')}",
        f"A{aspect.numerator}:{aspect.denominator}",
        f"C{tag}",
    ]
    if PIXEL_FORMATS[pixel_format].depth > 8 and pixel_format.startswith("yuv"):
        words.append(f"XYSCSS={tag.upper()}")
    if colour.range in (_LIMITED, _FULL):
        words.append(f"XCOLORRANGE={'FULL' if colour.range == _FULL else 'LIMITED'}")
    return " ".join(words).encode() + b"\n"
