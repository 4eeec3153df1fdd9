"""Strict settings: every wrong key and value is named, every right one arrives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config
from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Codec:
    codec: Literal["h264", "ffv1"] = "h264"
    crf: int = 20
    options: dict[str, str] = field(default_factory=dict)
    rate: Fraction | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must be from 0 to 51, not {self.crf}")


@dataclass(frozen=True, slots=True)
class Folder:
    inbox: Path = field(metadata={"key": "in"})
    out: Path
    settle_s: float = 2.0

    def __post_init__(self) -> None:
        if self.settle_s < 0:
            raise ValueError("the settle time cannot be negative")


@dataclass(frozen=True, slots=True)
class Root:
    model: Path | None = None
    encode: Codec = Codec()
    watch: tuple[Folder, ...] = ()
    box: tuple[float, float] = (0.0, 1.0)
    workers: int | Literal["auto"] = "auto"
    names: tuple[str, ...] = ()
    quiet: bool = False


HERE = Path("/somewhere")


def apply(tree: dict[str, Any], **more: Any) -> Root:
    return config.apply(Root(), tree, HERE, **more)


def refusal(tree: dict[str, Any], **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        apply(tree, **more)
    return str(caught.value)


def test_nothing_said_is_the_defaults() -> None:
    assert apply({}) == Root()


def test_every_type_arrives() -> None:
    tree = yaml.safe_load(
        """
        model: m/original
        encode: {codec: ffv1, crf: 0, options: {g: 1, level: "3"}, rate: 30000/1001}
        watch: [{in: in, out: /abs/out, settle_s: 1}]
        box: [0.25, 1]
        workers: 3
        names: [a, b]
        quiet: true
        """
    )
    codec = Codec("ffv1", 0, {"g": "1", "level": "3"}, Fraction(30000, 1001))
    folder = Folder(HERE / "in", Path("/abs/out"), 1.0)
    assert apply(tree) == Root(HERE / "m/original", codec, (folder,), (0.25, 1.0), 3, ("a", "b"), True)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"encode": {"codek": 1}}, "unknown key encode.codek; did you mean encode.codec?"),
        ({"encoder": {}}, "unknown key encoder; did you mean encode?"),
        ({"crf": 3}, "unknown key crf; did you mean encode.crf?"),
        ({"zzzz": 3}, "unknown key zzzz; the keys here are model, encode, watch, box, workers, names, quiet"),
        ({"encode": {"crf": 52}}, "encode.crf must be from 0 to 51, not 52"),
        ({"encode": {"crf": True}}, "encode.crf must be a whole number, not true"),
        ({"encode": {"crf": 2.5}}, "encode.crf must be a whole number, not 2.5"),
        ({"encode": {"codec": "vp8"}}, "encode.codec must be one of h264, ffv1, not 'vp8'"),
        ({"encode": {"rate": "1/0"}}, "encode.rate must be a number or a ratio such as 30000/1001, not '1/0'"),
        ({"encode": {"options": {"a": None}}}, "encode.options.a must be text, not nothing"),
        ({"encode": 3}, "encode must be keys with values: codec, crf, options, rate; not 3"),
        ({"watch": [{"in": "a"}]}, "watch.0 lacks the key out"),
        ({"watch": [{"in": "a", "out": "b", "inn": "c"}]}, "unknown key watch.0.inn; did you mean watch.0.in?"),
        ({"watch": [{"in": "a", "out": "b", "settle_s": -1}]}, "watch.0: the settle time cannot be negative"),
        (
            {"watch": [{"in": 1, "out": "b"}]},
            "watch.0.in must be a path, not 1; put quotes around it if it is meant as text",
        ),
        ({"box": [1]}, "box must be a list of 2, not [1]"),
        ({"box": [1, float("nan")]}, "box.1 must be a number, not nan"),
        ({"workers": "many"}, "workers must be a whole number or auto, not 'many'"),
        ({"names": "ab"}, "names must be a list, each text, not 'ab'"),
        ({"names": [1]}, "names.0 must be text, not 1; put quotes around it if it is meant as text"),
        ({"quiet": "yes"}, "quiet must be true or false, not 'yes'"),
        ({"quiet": None}, "quiet must be true or false, not nothing"),
    ],
)
def test_wrong_is_named(tree: dict[str, Any], message: str) -> None:
    assert refusal(tree) == message


def test_fixed_keys_are_not_the_users() -> None:
    assert refusal({"encode": {"crf": 1}}, fixed=["encode.crf"]).startswith("unknown key encode.crf")
    assert "encode.crf" not in config.known_keys(Root(), ["encode.crf"])


def test_later_layers_leave_the_rest_alone() -> None:
    first = apply({"encode": {"crf": 5}, "watch": [{"in": "a", "out": "b"}]})
    second = config.apply(first, config.read_overrides(["encode.codec=ffv1", "watch.0.out=c"]), Path("/cwd"), (), True)
    assert second.encode == Codec("ffv1", 5)
    assert second.watch == (Folder(HERE / "a", Path("/cwd/c")),)


def test_an_entry_that_is_not_there() -> None:
    assert refusal({"watch": {"0": {"out": "x"}}}, entries=True) == "watch.0 is no entry of the list watch; it has none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encode.crf", "--set encode.crf: write it as key=value, for example --set encode.codec=ffv1"),
        ("=1", "--set =1: write it as key=value, for example --set encode.codec=ffv1"),
        ("a..b=1", "--set a..b=1: write it as key=value, for example --set encode.codec=ffv1"),
        ("a=[1", "--set a=[1: the value is no YAML, line 1, column 3: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_bad_overrides(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.read_overrides([text])
    assert str(caught.value) == message


def test_overrides_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="a has been given a value already"):
        config.read_overrides(["a=1", "a.b=2"])


def test_an_override_is_read_as_yaml_but_dates_stay_text() -> None:
    tree = config.read_overrides(["a.b=1e-3", "a.c=2024-01-02", "d=[x, 1]", "e=a=b", "f="])
    assert tree == {"a": {"b": "1e-3", "c": "2024-01-02"}, "d": ["x", 1], "e": "a=b", "f": None}
    assert config.apply(Folder(Path(), Path()), {"settle_s": "1e-3"}, HERE).settle_s == 1e-3


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for content, message in [
        (b"a: 1\nb: 2\na: 3\n", ", line 3, column 1: the key 'a' stands twice"),
        (b"a: {x: 1, x: 1}", ", line 1, column 11: the key 'x' stands twice"),
        (b"a: [", ", line 1, column 5: "),
        (b"- 1\n", " must hold keys and values such as 'encode:', not [1]"),
        (b"\xff\xfe\xfd", " cannot be read: it is not UTF-8 text"),
        (b"!!python/object/apply:os.system ['true']", ": could not determine a constructor"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"config\.yaml") as caught:
            config.read_file(file)
        assert message in str(caught.value)
    file.write_text("# only a comment\n", encoding="utf-8")
    assert config.read_file(file) == {}
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read: No such file or directory"):
        config.read_file(tmp_path / "nowhere.yaml")


_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
_paths = _texts.filter(lambda t: not t.startswith("~")).map(lambda t: Path("/") / t)
_codecs = st.builds(
    Codec,
    st.sampled_from(["h264", "ffv1"]),
    st.integers(0, 51),
    st.dictionaries(_texts, _texts, max_size=3),
    st.none() | st.fractions(Fraction(1, 1000), 1000, max_denominator=1001),
)
_roots = st.builds(
    Root,
    st.none() | _paths,
    _codecs,
    st.lists(st.builds(Folder, _paths, _paths, st.floats(0, 1e9)), max_size=3).map(tuple),
    st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)),
    st.integers() | st.just("auto"),
    st.lists(_texts, max_size=3).map(tuple),
    st.booleans(),
)


@given(_roots)
def test_what_is_written_is_what_is_read(root: Root) -> None:
    text = yaml.safe_dump(config.to_tree(root), allow_unicode=True)
    assert apply(config._load(text)) == root


@given(_roots, st.sampled_from(["encode.crf", "quiet", "workers"]), st.integers(0, 51))
def test_an_override_changes_one_key_only(root: Root, key: str, number: int) -> None:
    value: Any = number % 2 == 0 if key == "quiet" else number
    tree = config.read_overrides([f"{key}={str(value).lower()}"])
    changed = config.apply(root, tree, HERE, (), True)
    if key == "encode.crf":
        assert changed == replace(root, encode=replace(root.encode, crf=value))
    else:
        assert changed == replace(root, **{key: value})


_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
_rubbish = st.recursive(
    _leaves, lambda more: st.lists(more, max_size=3) | st.dictionaries(st.text(max_size=6), more, max_size=3)
)


@given(_rubbish)
def test_rubbish_is_refused_with_one_line_or_taken(rubbish: Any) -> None:
    for key in ("encode", "watch", "box", "workers", "names", "model"):
        try:
            apply({key: rubbish})
        except ConfigError as error:
            assert key in str(error) and len(str(error).splitlines()) == 1


@dataclass(frozen=True, slots=True)
class Bent:
    warp: Literal["grid", "off"] = "grid"
    codec: Literal["h264", "ffv1"] = "h264"


def test_off_is_a_word_where_it_can_be_chosen() -> None:
    assert config.apply(Bent(), config.read_overrides(["warp=off"]), HERE).warp == "off"  # YAML reads false
    with pytest.raises(ConfigError, match="codec must be one of h264, ffv1, not false"):
        config.apply(Bent(), config.read_overrides(["codec=off"]), HERE)


@dataclass(frozen=True, slots=True)
class Own:
    settings: dict[str, Any] = field(default_factory=dict)


def test_settings_within_settings_are_taken_as_they_are() -> None:
    own = {"encode": {"codec": "ffv1", "crf": None, "sizes": [1, 2]}, "quiet": True}
    assert config.apply(Own(), {"settings": own}, HERE).settings == own
    assert config.to_tree(Own(own)) == {"settings": own}
    with pytest.raises(ConfigError, match="settings must be keys with values, not 'ffv1'"):
        config.apply(Own(), {"settings": "ffv1"}, HERE)
    with pytest.raises(ConfigError, match="settings must be keys with values, not"):
        config.apply(Own(), {"settings": {1: 2}}, HERE)
