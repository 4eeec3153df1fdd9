"""Settings: frozen dataclasses < a YAML file < `--set a.b=c`, checked in full before any work starts.

The dataclasses are the schema: their fields are the keys, their annotations the types, their defaults the defaults and
their `__post_init__` the ranges. Nothing here knows what a key means. A key is written with dots, `encode.codec`;
entries of a list are counted from 0, `watch.0.out`. A field whose key is no Python name says so in its metadata:
`field(metadata={"key": "in"})`.

Types understood: bool, int, float, str, Path, Fraction, Literal, X | None and other unions, tuple[X, ...],
tuple[X, Y], dict[str, X], dict[str, Any] (taken as it is: settings within settings), and dataclasses of these.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from pipeline.errors import ConfigError

T = TypeVar("T")

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class _Loader(yaml.SafeLoader):
    """Safe YAML without two of its surprises: doubled keys are refused, and dates stay the text they were."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML reads it from the class
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if (key.tag, key.value) in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _load(text: str) -> Any:
    return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader


def read_file(path: Path) -> dict[str, Any]:
    """The YAML file's mapping; an empty file is an empty mapping.

    Raises:
        ConfigError: it cannot be read, is no YAML (with line and column), or holds a key twice.
    """
    try:
        tree = _load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"the configuration {path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_where(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold keys and values such as 'encode:', not {_shown(tree)}")
    return tree


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: {getattr(error, 'problem', None) or error}"


def read_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """`["encode.codec=ffv1", "watch.0.to=b"]` as one nested mapping; the values are YAML.

    Raises:
        ConfigError: an assignment without `=`, whose value is no YAML, or that contradicts one before it.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"--set {assignment}: write it as key=value, for example --set encode.codec=ffv1")
        try:
            value = _load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: the value is no YAML{_where(error)}") from error
        branch = tree
        for part in parts[:-1]:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"--set {assignment}: {part} has been given a value already")
        branch[parts[-1]] = value
    return tree


def apply(
    settings: T,
    tree: Mapping[str, Any],
    folder: Path,
    fixed: Collection[str] = (),
    entries: bool = False,
) -> T:
    """`settings` with what `tree` says; every key not mentioned stays.

    Args:
        settings: an instance of a (frozen) dataclass.
        tree: nested mappings, as `read_file` and `read_overrides` give them.
        folder: what relative paths in `tree` are relative to.
        fixed: dotted keys that are not the user's to set (the program fills them in); they count as unknown.
        entries: whether `{"0": ...}` may change one entry of a list.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), or a value of the wrong type or out of range.
    """
    changed: T = _Reader(folder, frozenset(fixed), known_keys(settings, fixed), entries).section(settings, tree, "")
    return changed


def known_keys(settings: Any, fixed: Collection[str] = ()) -> tuple[str, ...]:
    """Every dotted key of a dataclass or an instance, sections included, in their order."""
    return tuple(_keys(settings, "", frozenset(fixed)))


def to_tree(settings: Any, fixed: Collection[str] = (), at: str = "") -> Any:
    """The same settings as plain mappings, lists, text and numbers: what a YAML file would hold to give them."""
    if dataclasses.is_dataclass(settings):
        fields = {_key(f): f.name for f in dataclasses.fields(settings) if at + _key(f) not in fixed}
        return {key: to_tree(getattr(settings, name), fixed, f"{at}{key}.") for key, name in fields.items()}
    if isinstance(settings, tuple | list):
        return [to_tree(value, fixed, at) for value in settings]
    if isinstance(settings, Mapping):
        return {key: to_tree(value, fixed, at) for key, value in settings.items()}
    return str(settings) if isinstance(settings, Path | Fraction) else settings


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("key", field.name))


def _keys(kind: Any, at: str, fixed: frozenset[str]) -> Iterator[str]:
    hints = get_type_hints(kind if isinstance(kind, type) else type(kind))
    for field in dataclasses.fields(kind):
        key = at + _key(field)
        if key in fixed:
            continue
        yield key
        here = hints[field.name] if isinstance(kind, type) else getattr(kind, field.name)
        if dataclasses.is_dataclass(here):
            yield from _keys(here, key + ".", fixed)


def _shown(value: Any) -> str:
    """A value as the user wrote it, near enough, and never long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _wanted(kind: Any) -> str:
    """What a value of this type is called in a message."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in arguments) if len(arguments) > 1 else str(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _wanted(a) for a in arguments)
    if origin is tuple:
        many = len(arguments) == 2 and arguments[1] is Ellipsis
        return f"a list, each {_wanted(arguments[0])}" if many else f"a list of {len(arguments)}"
    if origin in (dict, Mapping):
        return "keys with values" if arguments[1] is Any else f"keys with values, each {_wanted(arguments[1])}"
    if dataclasses.is_dataclass(kind):
        return "keys with values: " + ", ".join(_key(f) for f in dataclasses.fields(kind))
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(kind, "a number or a ratio such as 30000/1001" if kind is Fraction else str(kind))


@dataclasses.dataclass(frozen=True)
class _Reader:
    folder: Path
    fixed: frozenset[str]
    known: tuple[str, ...]
    entries: bool

    def section(self, start: Any, tree: Any, at: str) -> Any:
        """A dataclass (where `start` is its class) or an instance of it with changes (where it is one)."""
        kind = start if isinstance(start, type) else type(start)
        if not isinstance(tree, Mapping):
            raise ConfigError(f"{at} must be {_wanted(kind)}; not {_shown(tree)}")
        fields = {_key(f): f for f in dataclasses.fields(kind) if self._dotted(at, _key(f)) not in self.fixed}
        hints = get_type_hints(kind)
        values: dict[str, Any] = {}
        for key, value in tree.items():
            if key not in fields:
                raise self._unknown(key, tuple(fields), at)
            field, dotted = fields[key], self._dotted(at, key)
            now = None if isinstance(start, type) else getattr(start, field.name)
            values[field.name] = self.value(hints[field.name], value, dotted, now)
        if isinstance(start, type):
            self._complete(kind, values, at)
        try:
            return kind(**values) if isinstance(start, type) else dataclasses.replace(start, **values)
        except ValueError as error:
            raise ConfigError(_placed(str(error), at, tuple(fields))) from error

    def value(self, kind: Any, value: Any, at: str, now: Any = None) -> Any:
        """`value` as a `kind`; `now` is what stands there, for a change to a part of it. Raises ConfigError."""
        origin, arguments = get_origin(kind), get_args(kind)
        if kind is Any:
            return value
        if dataclasses.is_dataclass(kind):
            return self.section(kind if now is None else now, value, at)
        if origin in (Union, types.UnionType):
            return self._union(kind, value, at, now)
        if origin is Literal:
            if value is False and "off" in arguments:  # YAML 1.1 takes the word for false, people do not
                return "off"
            if not any(value == a and type(value) is type(a) for a in arguments):
                raise _wrong(at, kind, value)
            return value
        if origin is tuple:
            return self._tuple(kind, value, at, now)
        if origin in (dict, Mapping):
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise _wrong(at, kind, value)
            return {
                k: self._text_of(arguments[1], v, f"{at}.{k if k.isprintable() else repr(k)}") for k, v in value.items()
            }
        return self._scalar(kind, value, at)

    def _union(self, kind: Any, value: Any, at: str, now: Any) -> Any:
        options = get_args(kind)
        if value is None and type(None) in options:
            return None
        options = tuple(option for option in options if option is not type(None))
        if len(options) == 1:
            return self.value(options[0], value, at, now)
        for option in options:
            try:
                return self.value(option, value, at, now)
            except ConfigError:
                continue
        raise _wrong(at, kind, value)

    def _tuple(self, kind: Any, value: Any, at: str, now: Any) -> tuple[Any, ...]:
        arguments = get_args(kind)
        many = len(arguments) == 2 and arguments[1] is Ellipsis
        if self.entries and isinstance(value, Mapping) and isinstance(now, tuple):
            return self._changed_entries(arguments, value, at, now)
        if not isinstance(value, list | tuple) or (not many and len(value) != len(arguments)):
            raise _wrong(at, kind, value)
        kinds = (arguments[0],) * len(value) if many else arguments
        return tuple(self.value(k, v, f"{at}.{i}") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))

    def _changed_entries(
        self, arguments: tuple[Any, ...], value: Mapping[str, Any], at: str, now: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        entries = list(now)
        for place, change in value.items():
            if not place.isdecimal() or int(place) >= len(entries):
                have = f"0 to {len(entries) - 1}" if entries else "none"
                raise ConfigError(f"{at}.{place} is no entry of the list {at}; it has {have}")
            kind = arguments[0] if arguments[-1] is Ellipsis else arguments[int(place)]
            entries[int(place)] = self.value(kind, change, f"{at}.{place}", entries[int(place)])
        return tuple(entries)

    def _text_of(self, kind: Any, value: Any, at: str) -> Any:
        """A value inside a mapping of text to text: `crf: 20` there means "20"."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if kind is str and is_number else self.value(kind, value, at)

    def _scalar(self, kind: Any, value: Any, at: str) -> Any:
        if kind is bool and isinstance(value, bool):
            return value
        if kind in (int, float, Fraction) and not isinstance(value, bool):
            number = _number(kind, value)
            if number is not None:
                return number
        if kind is str and isinstance(value, str):
            return value
        if kind is Path and isinstance(value, str) and value and "\0" not in value:
            return self.folder / Path(value).expanduser()
        if kind in (str, Path) and isinstance(value, bool | int | float):  # no, on, 2024: YAML has its own ideas
            wanted = _wanted(kind)
            raise ConfigError(
                f"{at} must be {wanted}, not {_shown(value)}; put quotes around it if it is meant as text"
            )
        raise _wrong(at, kind, value)

    def _dotted(self, at: str, key: str) -> str:
        return f"{at}.{key}" if at else key

    def _unknown(self, key: Any, siblings: tuple[str, ...], at: str) -> ConfigError:
        dotted = self._dotted(at, str(key))
        near = [self._dotted(at, k) for k in difflib.get_close_matches(str(key), siblings, n=1)]
        near = near or [k for k in self.known if "." in k and k.rpartition(".")[2] == str(key)]
        near = near or difflib.get_close_matches(dotted, self.known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(siblings)}"
        return ConfigError(f"unknown key {dotted if dotted.isprintable() else repr(dotted)}; {hint}")

    def _complete(self, kind: type[Any], values: Mapping[str, Any], at: str) -> None:
        for field in dataclasses.fields(kind):
            optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            if not optional and field.name not in values:
                raise ConfigError(f"{at} lacks the key {_key(field)}")


def _number(kind: type[Any], value: Any) -> Any:
    """The number, or None where `value` is none of this kind. YAML 1.1 takes 5e-5 for text, people do not."""
    if kind is int:
        return value if isinstance(value, int) else None
    if isinstance(value, str):
        try:
            value = float(value) if kind is float and _NUMBER.fullmatch(value) else Fraction(value)
        except (ValueError, ZeroDivisionError):
            return None
        if kind is float and isinstance(value, Fraction):
            return None
    if not isinstance(value, int | float | Fraction) or not math.isfinite(value):
        return None
    return float(value) if kind is float else Fraction(value).limit_denominator(1_000_000)


def _wrong(at: str, kind: Any, value: Any) -> ConfigError:
    return ConfigError(f"{at} must be {_wanted(kind)}, not {_shown(value)}")


def _placed(message: str, at: str, keys: tuple[str, ...]) -> str:
    """A range check's message with the dotted key in front, where the check did not name it."""
    if not at or message.startswith(f"{at}.") or f" {at}." in message:
        return message
    first = message.split(maxsplit=1)[0].rstrip(":,") if message.strip() else ""
    return f"{at}.{message}" if first in keys else f"{at}: {message}"
