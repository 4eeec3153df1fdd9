"""The composition: settings from file and command line, stages from settings and model."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from models import carried
from models.description import ModelDescription
from pipeline import app, config
from pipeline.consent.identity import to_bytes
from pipeline.daemon_config import DaemonConfig
from pipeline.errors import ConfigError, WeightsError
from pipeline.inbox import WatchConfig
from pipeline.specs import ProcessSpec, StageSpec
from tests.consent import identity_of

DEFAULTS = Path(__file__).parents[2] / "config.yaml"


def a_model(folder: Path, **changes: object) -> Path:
    """A model's description, and of its weights the header alone; its people are there to be tried with."""
    people = [identity_of(name) for name in ("a", "b")]
    identities = {name: identity.digest for name, identity in zip(("a", "b"), people, strict=True)}
    carried.put(folder, {identity.digest: to_bytes(identity) for identity in people})
    header = json.dumps({"__metadata__": carried.facts(identities)}).encode()
    (folder / "model.0123456789ab.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    said = ModelDescription(
        *("original", {}, 64, 64),
        coverage=1.25,
        weights="model.0123456789ab.safetensors",
        digest=hashlib.sha256(header).hexdigest(),
        identities=identities,
    )
    (folder / "model.json").write_text(replace(said, **changes).to_json(), encoding="utf-8")  # type: ignore[arg-type]
    return folder


def test_the_annotated_file_is_the_defaults() -> None:
    daemon = DaemonConfig(state=DEFAULTS.parent / ".understudy")  # what is relative in a file is so to its folder
    assert app.load_settings(str(DEFAULTS)) == app.Settings(daemon=daemon)


def test_the_annotated_file_names_every_key() -> None:
    tree = config.read_file(DEFAULTS)

    def named(branch: dict[str, object], at: str = "") -> set[str]:
        inner = [named(value, f"{at}{key}.") for key, value in branch.items() if isinstance(value, dict)]
        return {at + key for key in branch}.union(*inner)

    own = {key for key in named(tree) if not key.startswith("train.losses.terms.")}  # names of losses are no keys
    assert own == set(config.known_keys(app.Settings(), app.FIXED))
    said = re.findall(r"^#  [- ] (\w+): ", DEFAULTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert said == [str(f.metadata.get("key", f.name)) for f in fields(WatchConfig)]


def test_the_example_of_a_watched_folder_is_right(tmp_path: Path) -> None:
    text = DEFAULTS.read_text(encoding="utf-8").replace("watch: []\n#  -", "watch:\n#  -").replace("\n#  ", "\n  ")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    (folder,) = app.load_settings(str(tmp_path / "config.yaml")).watch
    assert folder == replace(WatchConfig(tmp_path / "in", tmp_path / "out"), suffixes=(".mp4", ".mov"))


def test_the_file_here_is_read_and_another_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("model: here\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/other.yaml").write_text("model: there\n")
    monkeypatch.chdir(tmp_path)
    assert app.load_settings().model == tmp_path / "here"
    assert app.load_settings("sub/other.yaml").model == tmp_path / "sub/there"
    assert app.load_settings("sub/other.yaml", ["model=mine"]).model == tmp_path / "mine"
    assert app.load_settings(None, ["model=mine"], model="m", to="x").model == tmp_path / "m"
    assert app.load_settings(None, (), to="x").swap.to == "x"


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("encode: {codek: h264}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: unknown key encode\.codek; did you mean encode\.codec\?"):
        app.load_settings(str(file))
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file"):
        app.load_settings(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encode.codec=vp9", "encode.codec: 'vp9' is not one of h264, hevc, av1, prores, ffv1"),
        ("mask.kind=hul", "mask.kind: there is no 'hul'; did you mean 'hull'"),
        ("blend.opacity=2", "blend.opacity must be from 0 to 1, not 2"),
        ("engine.ring_mb=0", "engine.ring_mb must be from 1 to"),
        ("engine.deadline_s=0", "engine.deadline_s must be above 0"),
        ("swap.batch=0", "swap.batch must be from 1 to 1024, not 0"),
        ("swap.model=x", "unknown key swap.model; did you mean"),
        ("align.size=64", "unknown key align.size"),
        ("decode.threads=many", "decode.threads must be a whole number, not 'many'"),
        ("train.optimiser.lr=0", "train.optimiser.lr must be from"),
        ("extract.every=0", "extract.every must be at least 1, not 0"),
        ("extract.side=up", "extract.side must be one of any, left, right, not 'up'"),
        ("watch=[{in: a}]", "watch.0 lacks the key out"),
    ],
)
def test_wrong_values_are_refused_by_name(override: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError) as caught:
        app.load_settings(None, [override])
    assert message in str(caught.value)


def test_the_model_decides_about_the_crop(tmp_path: Path) -> None:
    settings = replace(app.Settings(), model=a_model(tmp_path / "m"))
    specs = {spec.name: spec.config for spec in app.stage_specs(settings)}
    assert list(specs) == ["decode", "detect", "align", "mask", "swap", "blend", "disclose", "encode"]
    assert (specs["align"].size, specs["align"].coverage) == (64, 1.25)
    assert specs["swap"].model == str(tmp_path / "m")


def test_models_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model is set; give --model FOLDER"):
        app.stage_specs(app.Settings())
    with pytest.raises(WeightsError, match="does not exist"):
        app.stage_specs(replace(app.Settings(), model=tmp_path / "no"))
    settings = app.load_settings(str(DEFAULTS), model=str(a_model(tmp_path / "m")), to="c")
    with pytest.raises(ConfigError, match="knows a and b, not 'c'; choose with --to"):
        app.stage_specs(settings)


def test_the_process_table_follows_other_ends(tmp_path: Path) -> None:
    settings = replace(app.Settings(), model=a_model(tmp_path / "m"))
    source, sink = (StageSpec(name, "stages.mask:Mask", settings.mask) for name in ("here", "there"))
    specs = app.stage_specs(settings, replace(source, factory="stages.decode:Decode"), sink)
    table = app.process_table(settings, specs)
    assert table[0] == ProcessSpec(("here",)) and table[1] == ProcessSpec(("detect", "align"))
    assert table[-1] == ProcessSpec(("disclose", "there"))


def test_a_table_that_leaves_the_marks_out_has_them_all_the_same(tmp_path: Path) -> None:
    settings = replace(app.Settings(), model=a_model(tmp_path / "m"))
    old = tuple(ProcessSpec(tuple(n for n in each.stages if n != "disclose")) for each in settings.engine.processes)
    settings = replace(settings, engine=replace(settings.engine, processes=old))
    assert app.process_table(settings, app.stage_specs(settings))[-1] == ProcessSpec(("disclose", "encode"))


def test_an_engine_is_made_but_not_started(tmp_path: Path) -> None:
    settings = replace(app.Settings(), model=a_model(tmp_path / "m"))
    engine = app.engine(settings, app.stage_specs(settings))
    try:
        assert [stats.name for stats in engine.stats()] == [spec.name for spec in app.stage_specs(settings)]
        assert engine.processes() == {}
    finally:
        engine.close()


def test_a_process_table_that_does_not_fit(tmp_path: Path) -> None:
    overrides = ["engine.processes=[{stages: [decode]}, {stages: [encode]}]"]
    settings = app.load_settings(str(DEFAULTS), overrides, model=str(a_model(tmp_path / "m")))
    with pytest.raises(ConfigError, match=r"engine\.processes must list the stages in the order decode, detect"):
        app.engine(settings, app.stage_specs(settings))


def test_results_keep_a_container_that_fits() -> None:
    assert app.result_suffix(app.Settings(), "a.MKV") == ".mkv"
    assert app.result_suffix(app.Settings(), "a.gif") == ".mp4"
    with pytest.raises(ConfigError):
        app.check_result(app.Settings(), "a.xyz")
