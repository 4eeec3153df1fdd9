"""Who may import whom, and what a light command may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Standard library and NumPy, and imported by everyone.
FLOOR = {
    *("pipeline.types", "pipeline.pixels", "pipeline.messages", "pipeline.errors", "pipeline.publish"),
    "pipeline.checkpoints",
}

#: They see everything.
TOP = ("pipeline.app", "pipeline.commands", "pipeline.__main__")

HEAVY = {"torch", "mediapipe"}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports(file: Path, lazy: bool = True) -> set[str]:
    """What a module imports, dotted; with `lazy` also inside functions and for type checkers."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def ours(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if name.split(".")[0] in packages}


def is_top(module: str) -> bool:
    return module.startswith(TOP)


ALL = [*modules("pipeline"), *modules("stages"), *modules("models")]


@pytest.mark.parametrize(("module", "file"), ALL, ids=[module for module, _ in ALL])
def test_who_may_import_whom(module: str, file: Path) -> None:
    found = imports(file)
    package = module.split(".")[0]
    if module in FLOOR - {"pipeline.messages"}:
        third = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"numpy", "pipeline"}
        assert not third and not ours(found, "stages", "models")
    if package == "models":
        assert {name for name in ours(found, "pipeline", "stages") if not name.startswith("pipeline.errors")} == set()
    if package == "stages":
        floor = _dotted(tuple(FLOOR))
        assert {name for name in ours(found, "pipeline") if not f"{name}.".startswith(floor)} <= {"pipeline"}
    if package == "pipeline" and not is_top(module):
        assert ours(found, "stages", "models", *HEAVY) == set()


def _dotted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


STAGES = [(module, file) for module, file in ALL if module.startswith("stages.")]


@pytest.mark.parametrize(("module", "file"), STAGES, ids=[module for module, _ in STAGES])
def test_importing_a_stage_loads_nothing_heavy(module: str, file: Path) -> None:
    assert not {name.split(".")[0] for name in imports(file, lazy=False)} & HEAVY


def loaded_by(program: str) -> set[str]:
    """Which of a few telling packages are loaded after `program` has run in a fresh interpreter."""
    telling = "{'torch', 'mediapipe', 'cv2', 'av', 'numpy', 'yaml', 'models', 'stages'}"
    code = f"{program}\nimport sys; print('loaded', *({telling} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.rpartition("loaded")[2].split())


def test_help_loads_nothing_heavy() -> None:
    program = """
from pipeline.__main__ import main
from pipeline import commands
for argv in (["--help"], *([name, "--help"] for name in commands.names())):
    try:
        main(argv)
    except SystemExit as end:
        assert end.code == 0
"""
    assert loaded_by(program) <= {"yaml"}


def test_composing_stages_loads_no_network_and_no_detector() -> None:
    assert not loaded_by("import pipeline.app; pipeline.app.load_settings('config.yaml')") & HEAVY


def test_the_daemon_knows_no_clip() -> None:
    assert loaded_by("import pipeline.daemon") <= {"yaml", "numpy"}


def test_every_verb_says_what_it_is() -> None:
    program = """
from importlib import import_module
from pipeline import commands
for name in commands.names():
    verb = import_module(f"pipeline.commands.{name}")
    assert verb.__doc__ and verb.SUMMARY and "understudy " + name in verb.EXAMPLES, name
    assert callable(verb.run) and callable(verb.add_arguments), name
"""
    assert loaded_by(program) <= {"yaml"}
