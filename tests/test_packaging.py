"""What an administrator installs: the unit, the container, the manual. Held against the program they speak of."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import psutil
import pytest

from pipeline import app, commands, metrics
from pipeline.__main__ import parser
from pipeline.errors import (
    ConfigError,
    PublishError,
    RequirementError,
    StageError,
    TableError,
    UnderstudyError,
    WeightsError,
)
from pipeline.jobs import State
from pipeline.live import Folder, Lane, Live, Running, StageNow

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "understudy.service"
MANUAL = ROOT / "docs" / "daemon.md"

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def directives(path: Path) -> dict[str, list[str]]:
    """What a unit says, by name, in order; sections don't matter here."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "min": 60}[unit]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there, so that it can be verified anywhere."""
    text = UNIT.read_text().replace("/opt/understudy/.venv/bin/understudy", "/bin/true", 1)
    (tmp_path / UNIT.name).write_text(text)
    return tmp_path / UNIT.name


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# --- systemd ----------------------------------------------------------------------------------------------------------


@needs_systemd
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path, gpu: bool) -> None:
    if gpu:
        (unit.parent / f"{unit.name}.d").mkdir()
        shutil.copy(PACKAGING / "gpu.conf", unit.parent / f"{unit.name}.d" / "gpu.conf")
    verified = analyze("verify", unit)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    exposed = analyze("security", "--offline=true", "--threshold=20", unit)
    if "nrecognized option" in exposed.stderr:
        pytest.skip("this systemd cannot look at a unit offline")
    assert exposed.returncode == 0, exposed.stdout


def test_the_unit_runs_what_there_is() -> None:
    said = directives(UNIT)
    program, *arguments = shlex.split(said["ExecStart"][0])
    args = parser().parse_args(arguments)
    assert program.endswith("/understudy") and args.config == "/etc/understudy/config.yaml"
    assert said["Type"] == ["notify"] and said["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert said["Documentation"] == ["file:///opt/understudy/docs/daemon.md"] and MANUAL.is_file()
    assert set(said["RestartPreventExitStatus"][0].split()) == {
        str(ConfigError.exit_code), str(RequirementError.exit_code)
    }  # fmt: skip


def test_a_worker_that_is_killed_does_not_end_the_service_and_a_stop_has_the_time_it_needs() -> None:
    said = directives(UNIT)
    assert said["OOMPolicy"] == ["continue"]
    assert said["KillMode"] == ["mixed"], "the parent drains, its children are not told to stop behind its back"
    assert seconds(said["TimeoutStopSec"][0]) > 30
    assert seconds(said["WatchdogSec"][0]) >= 30
    assert said["Restart"] == ["on-failure"] and said["StartLimitBurst"]


def test_folders_users_and_snippets_agree() -> None:
    said = directives(UNIT)
    snippet = [line.split() for line in (PACKAGING / "tmpfiles.conf").read_text().splitlines()]
    made = {words[1]: words[2:5] for words in snippet if words[0] == "d"}
    writable = [place.removeprefix("-") for place in said["ReadWritePaths"][0].split()]
    assert "/srv/understudy" in writable
    for place, (mode, user, group) in made.items():
        if place.startswith("/srv/understudy/"):
            assert mode.startswith("2"), "what is dropped there keeps the folder's group"
            assert [user] == said["User"] and [group] == said["Group"]
    users = [line.split()[1] for line in (PACKAGING / "sysusers.conf").read_text().splitlines() if line.startswith("u")]
    assert users == said["User"]


def test_memory_stays_writable_and_executable() -> None:
    """PyTorch needs it; see `test_convolutions_need_memory_that_becomes_executable`."""
    assert "MemoryDenyWriteExecute" not in directives(UNIT)


@pytest.mark.slow
def test_convolutions_need_memory_that_becomes_executable() -> None:
    """Why the unit does without MemoryDenyWriteExecute=: when this fails, it can have it."""
    program = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, Linux 6.3
    sys.exit(77)
import torch
torch.nn.Conv2d(3, 64, 3)(torch.zeros(2, 3, 64, 64))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel cannot forbid it")
    assert done.returncode != 0 and "could not create a primitive" in done.stderr


# --- the filter of system calls ---------------------------------------------------------------------------------------

#: Runs a program under a filter; argv: a file with the names of the calls that are allowed, then the program.
FILTER = """
import ctypes, errno, os, sys
lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(0x00050000 | errno.EPERM)))
for name in open(sys.argv[1]).read().split():
    number = lib.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        lib.seccomp_rule_add(context, ctypes.c_uint32(0x7FFF0000), number, 0)
assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0  # no new privileges
assert lib.seccomp_load(context) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@cache
def calls(group: str) -> frozenset[str]:
    """The system calls of a group such as @system-service."""
    found: set[str] = set()
    for line in analyze("syscall-filter", group).stdout.splitlines()[1:]:
        name = line.strip()
        if name and not name.startswith("#"):
            found |= calls(name) if name.startswith("@") else {name}
    return frozenset(found)


@needs_systemd
@pytest.mark.slow
def test_the_program_does_with_the_system_calls_it_is_given(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed")
    allowed = set(calls("@default"))
    for words in directives(UNIT)["SystemCallFilter"]:
        groups = frozenset().union(*map(calls, words.removeprefix("~").split()))
        allowed = allowed - groups if words.startswith("~") else allowed | groups
    assert len(allowed) > 200 and not allowed & {"ptrace", "mount", "bpf", "chown", "setuid"}
    (tmp_path / "allowed").write_text(" ".join(allowed))
    inside = [sys.executable, "-c", FILTER, str(tmp_path / "allowed"), sys.executable]
    probe = "import os\ntry: os.chown('/', 0, 0)\nexcept PermissionError: print('refused')"
    done = subprocess.run([*inside, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
    # loads PyTorch, mediapipe, OpenCV and PyAV, and makes shared memory
    doctor = [*inside, "-m", "pipeline", "doctor"]
    done = subprocess.run(doctor, capture_output=True, text=True, check=False, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the container ----------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's, in order, each on one line."""
    text = re.sub(r"\\\n", " ", (PACKAGING / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_the_builder_is_sent_what_it_copies_and_no_more() -> None:
    rules = [line for line in (ROOT / ".containerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == set(kept)
    for source in copied:
        assert (ROOT / source).exists()
    assert not any(fnmatch(path, rule) for path in copied for rule in rules[1:] if rule.startswith("**"))


def test_what_runs_in_the_container_is_nobody_and_understood() -> None:
    stages = [at for at, (name, _) in enumerate(instructions()) if name == "FROM"]
    assert len(stages) == 2
    final = dict(instructions()[stages[1] :])
    assert final["USER"].split(":")[0] not in ("0", "root")
    assert final["STOPSIGNAL"] == "SIGTERM"
    args = parser().parse_args(json_words(final["CMD"]))
    assert args.config == "/etc/understudy/config.yaml"
    healthy = json_words(final["HEALTHCHECK"].partition("CMD")[2])
    assert json_words(final["ENTRYPOINT"]) == healthy[:1] == ["understudy"]
    assert parser().parse_args(healthy[1:]).state == "/state"
    assert not {"ADD"} & {name for name, _ in instructions()}, "nothing is fetched but by pip"
    assert set(json_words(final["VOLUME"])) == {"/in", "/out", "/state", "/model"}


def json_words(text: str) -> list[str]:
    return re.findall(r'"([^"]+)"', text)


def test_the_container_s_settings_fit() -> None:
    settings = app.load_settings(str(PACKAGING / "container.yaml"))
    assert settings.daemon.state == Path("/state") and settings.model == Path("/model")
    assert [(folder.inbox, folder.out) for folder in settings.watch] == [(Path("/in"), Path("/out"))]
    assert app.home(settings).folder.is_relative_to("/state"), "what is in /tmp is gone with the container"


def test_the_container_has_the_torch_that_is_pinned() -> None:
    pinned = re.search(r"^torch==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned is not None
    named = {found for _, rest in instructions() for found in re.findall(r"torch==([\d.]+)", rest)}
    assert named == {pinned[1]} and pinned[0] in MANUAL.read_text()


UNSHARE = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_1_obeys_signals(number: signal.Signals, tmp_path: Path) -> None:
    """To process 1 the kernel gives only the signals for which it has handlers; from outside, too."""
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespace of processes can be made here")
    model = tmp_path / "model"
    make = """
import sys
from models import autoencoders, checkpoint
network, description = checkpoint.new("original", autoencoders.preset("original", "sketch"), seed=1)
checkpoint.save(sys.argv[1], network, description)
from pathlib import Path
from tests.consent import consented
consented(Path(sys.argv[1]))
"""
    subprocess.run([sys.executable, "-c", make, str(model)], check=True, cwd=ROOT)
    (tmp_path / "in").mkdir()
    (tmp_path / "config.yaml").write_text(
        "model: model\ndaemon: {state: state, page: {port: 0}}\nwatch: [{in: in, out: out}]\n"
    )
    command = [*UNSHARE, sys.executable, "-m", "pipeline", "watch", "-c", str(tmp_path / "config.yaml")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as outer:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "state" / "live.json").exists():
                assert time.monotonic() < deadline and outer.poll() is None
                time.sleep(0.1)
            (first,) = psutil.Process(outer.pid).children()
            begun = time.monotonic()
            os.kill(first.pid, number)
            code = outer.wait(timeout=40)
            assert time.monotonic() - begun < 30
        finally:
            outer.kill()
    assert code == (0 if number == signal.SIGTERM else 130)


# --- the manual -------------------------------------------------------------------------------------------------------


def test_every_verb_that_the_manual_names_is_one() -> None:
    text = MANUAL.read_text()
    named = set(re.findall(r"(?:`|^ +)understudy ([a-z]+)", text, re.MULTILINE))
    assert {"watch", "status", "jobs", "logs", "doctor"} <= named
    assert named <= set(commands.names())


def test_every_setting_that_the_manual_lists_is_one_with_its_default() -> None:
    text, sections = MANUAL.read_text(), (ROOT / "config.yaml").read_text()
    listed = text.partition("### `daemon`")[2].partition("\n## ")[0]
    keys = listed_keys(listed)
    settings = app.load_settings(None).daemon
    assert len(keys) > 10
    for key in keys:
        value: object = settings
        for part in key.split("."):
            value = getattr(value, part)
    leaves = set(settings.__dataclass_fields__) - {"retry", "page"}
    leaves |= {f"{part}.{name}" for part in ("retry", "page") for name in getattr(settings, part).__dataclass_fields__}
    assert set(keys) == leaves, "each is listed once"
    assert all(f"  {key.split('.')[-1]}:" in sections for key in keys)


def test_every_folder_setting_is_listed() -> None:
    from dataclasses import fields

    from pipeline.inbox import WatchConfig

    listed = MANUAL.read_text().partition("### `watch`")[2].partition("\n### ")[0]
    known = {str(field.metadata.get("key", field.name)) for field in fields(WatchConfig)}
    assert set(listed_keys(listed)) == known


def listed_keys(table: str) -> list[str]:
    """What stands in the first column of a table."""
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`([a-z_.]+)`", row)]


def test_every_metric_in_the_alerts_is_measured() -> None:
    lane = Lane("m", "b", "cpu", "ready", stages=(StageNow("swap", 1, 0.5, 0.2, 0.3),))
    running = Running(1, "/in/a", "/out/a", "swap", 1, 10, 2.0, 4.0, 1.0, "")
    live = Live(
        1, "1", 0, 100, "running", folders=(Folder("/in", "/out", "events"),), lanes=(lane,), running=(running,)
    )
    text = metrics.render(live, dict.fromkeys(State, 1), {"/out": 1}, 100)
    measured = set(re.findall(r"^(understudy_[a-z_]+)", text, re.MULTILINE))
    named = set(re.findall(r"\b(understudy_[a-z_]+)", MANUAL.read_text()))
    assert len(named) > 6 and named <= measured


def test_the_exit_codes_are_those_of_the_errors() -> None:
    listed = MANUAL.read_text().partition("## Exit status")[2].partition("\n## ")[0]
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", listed, re.MULTILINE) for code in row.split(", ")}
    kinds = (UnderstudyError, ConfigError, StageError, WeightsError, PublishError, RequirementError, TableError)
    assert codes == {0, 130, 143, *(kind.exit_code for kind in kinds)}
