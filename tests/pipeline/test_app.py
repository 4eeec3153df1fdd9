"""The composition: settings from file and command line, stages from settings and model."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from models import carried
from models.description import ModelDescription
from pipeline import app, config
from pipeline.consent import settings as consent
from pipeline.consent.identity import Identity, Scope, to_bytes
from pipeline.consent.registry import Registry
from pipeline.daemon_config import DaemonConfig
from pipeline.engine import Engine
from pipeline.errors import ConfigError, ConsentError, UnderstudyError, WeightsError
from pipeline.inbox import WatchConfig
from pipeline.lanes import Station
from pipeline.provenance import settings as provenance
from pipeline.provenance.home import Home
from pipeline.specs import ProcessSpec, StageSpec
from tests.consent import identity_of

DEFAULTS = Path(__file__).parents[2] / "config.yaml"

#: Who is in a model, unless it is somebody else.
PAINTED = {name: identity_of(name) for name in ("a", "b")}


def a_model(folder: Path, shown: Mapping[str, Identity] = PAINTED, **changes: object) -> Path:
    """A model's description, and of its weights the header alone; `shown` are the identities that it carries."""
    identities = {name: identity.digest for name, identity in shown.items()}
    carried.put(folder, {identity.digest: to_bytes(identity) for identity in shown.values()})
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


# --- who has agreed ---------------------------------------------------------------------------------------------------


def for_(model: Path, policy: str = "present", **changes: Any) -> app.Settings:
    """Settings with a home of keys beside the model."""
    own = provenance.Config(folder=model.with_name("home"))
    return replace(app.Settings(), model=model, provenance=own, consent=consent.Config(policy), **changes)  # type: ignore[arg-type]


def only_for(name: str, *roles: str) -> Identity:
    return replace(identity_of(name), scope=Scope(roles=roles))


def test_two_people_have_agreed(tmp_path: Path) -> None:
    found = app.agreed(for_(a_model(tmp_path / "m")))
    assert {name: each and each.digest for name, each in found.people.items()} == {
        name: identity.digest for name, identity in PAINTED.items()
    }
    assert (found.policy, found.notes) == ("present", ())


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (("train", "replace"), ("train", "appear"), ""),
        (("train", "appear"), ("train", "appear"), "identity of a .* does not allow their face being replaced"),
        (("train", "replace"), ("train", "replace"), "identity of b .* does not allow their face being put on others"),
    ],
)
def test_of_two_each_has_agreed_to_their_own_part(
    tmp_path: Path, a: tuple[str, ...], b: tuple[str, ...], why: str
) -> None:
    settings = for_(a_model(tmp_path / "m", {"a": only_for("a", *a), "b": only_for("b", *b)}))
    if not why:
        app.agreed(settings)
        return
    for act in (app.agreed, app.stage_specs):
        with pytest.raises(ConsentError, match=why):
            act(settings)


def test_of_many_only_the_one_who_appears_is_asked_for_that(tmp_path: Path) -> None:
    """Who is in the clip cannot be told; but whoever has taken all of it back stops it."""
    people = {name: only_for(name, "train", "appear") for name in ("a", "b", "c")}
    settings = for_(a_model(tmp_path / "m", people, people=("a", "b", "c")))
    assert set(app.agreed(settings).people) == {"a", "b", "c"}
    Registry(app.home(settings)).revoke(people["a"].id, "she says so", datetime.now(UTC))
    with pytest.raises(ConsentError, match=r"identity of a .* was revoked"):
        app.agreed(settings)
    with pytest.raises(ConsentError, match=r"identity of a .* was revoked"):
        app.station(settings, WatchConfig(tmp_path / "in", tmp_path / "out"))


def test_whoever_was_learnt_by_the_model_before_counts(tmp_path: Path) -> None:
    people = {**PAINTED, f"{carried.ORIGIN}carl": only_for("carl", "train")}
    settings = for_(a_model(tmp_path / "m", people))
    assert set(app.agreed(settings).people) == set(people)
    Registry(app.home(settings)).revoke(people[f"{carried.ORIGIN}carl"].id, "he says so", datetime.now(UTC))
    with pytest.raises(ConsentError, match=r"carl .* was revoked"):
        app.agreed(settings)


@pytest.mark.parametrize("people", [("a", "b"), ("a", "b", "c")])
def test_whoever_has_no_identity_stops_it_or_is_the_user(tmp_path: Path, people: tuple[str, ...]) -> None:
    model = a_model(tmp_path / "m", {"b": PAINTED["b"]}, people=people)
    with pytest.raises(ConsentError, match=r"^a has no identity file: run understudy identity attach .*/m a=FACESET"):
        app.agreed(for_(model))
    found = app.agreed(for_(model, "off-for-self"))
    assert [name for name, each in found.people.items() if each is None] == [name for name in people if name != "b"]
    assert len(found.notes) == len(people) - 1 and "taken to be the user" in found.notes[0]


def test_a_model_that_says_otherwise_than_its_weights(tmp_path: Path) -> None:
    """Not even for those who ask for nothing: identities that were taken out by hand are no user's own face."""
    model = a_model(tmp_path / "m", identities={"b": PAINTED["b"].digest})
    for policy in ("present", "off-for-self"):
        with pytest.raises(ConsentError, match="was edited after training"):
            app.agreed(for_(model, policy))


def test_a_model_whose_copies_are_gone(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m")
    shutil.rmtree(model / "identities")
    with pytest.raises(ConsentError, match=r"the identity of a that the model carries, is missing; restore .*attach"):
        app.agreed(for_(model, "off-for-self"))


def test_who_has_to_agree_to_what() -> None:
    two = ModelDescription("original", {}, 64, 64, identities={"a": "1", f"{carried.ORIGIN}x": "2"})
    assert app.roles(two, "b") == {"a": ("replace",), "b": ("appear",), f"{carried.ORIGIN}x": ()}
    assert app.roles(two, "a") == {"a": ("appear",), "b": ("replace",), f"{carried.ORIGIN}x": ()}
    three = replace(two, people=("a", "b", "c"))
    assert app.roles(three, "c") == {"a": (), "b": (), "c": ("appear",), f"{carried.ORIGIN}x": ()}


@pytest.mark.parametrize(
    ("folder", "named", "home"),
    [
        (None, "/data", "/data/understudy"),
        (None, "", "/users/me/.local/share/understudy"),
        (None, "relative/data", "/users/me/.local/share/understudy"),
        (None, None, "/users/me/.local/share/understudy"),
        ("/private", "/data", "/private"),
    ],
)
def test_where_keys_lie(monkeypatch: pytest.MonkeyPatch, folder: str | None, named: str | None, home: str) -> None:
    """As the XDG Base Directory Specification says: a relative path is void, and so is an empty one."""
    monkeypatch.setenv("HOME", "/users/me")
    if named is None:
        monkeypatch.delenv("XDG_DATA_HOME")
    else:
        monkeypatch.setenv("XDG_DATA_HOME", named)
    own = provenance.Config(folder=folder and Path(folder))  # type: ignore[arg-type]
    assert app.home(replace(app.Settings(), provenance=own)) == Home(Path(home))


def test_a_home_that_nobody_can_look_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder, why in ((tmp_path / "file", "not a directory"), (tmp_path / "a\0b", "embedded null byte")):
        own = replace(app.Settings(), provenance=provenance.Config(folder=folder))
        with pytest.raises(ConfigError, match=f"^provenance.folder: .*: {why}; name a folder of your own"):
            app.home(own)
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: (1 << 31) - 7)  # as in a container: a number that nobody has named
    with pytest.raises(ConfigError, match=r"no home folder for keys and the audit; set provenance\.folder"):
        app.home(app.Settings())


# --- stations ---------------------------------------------------------------------------------------------------------


def station(settings: app.Settings, place: Path, **own: Any) -> Station:
    return app.station(settings, WatchConfig(place / "in", place / "out", settings=own))


def test_what_a_station_hangs_on(tmp_path: Path) -> None:
    settings = for_(a_model(tmp_path / "m"))
    first = station(settings, tmp_path)
    assert first == station(settings, tmp_path)
    shutil.copytree(tmp_path / "m", tmp_path / "moved/m")
    shutil.copytree(tmp_path / "home", tmp_path / "moved/home", copy_function=shutil.copy2)
    (tmp_path / "moved/home").chmod(0o700)
    moved = station(for_(tmp_path / "moved/m"), tmp_path)
    assert moved.key == first.key, "the same model and the same key, elsewhere"
    assert moved.engine_key != first.engine_key, "but it signs there, and writes down there"
    other = station(replace(settings, provenance=provenance.Config(folder=tmp_path / "other")), tmp_path)
    assert other.key != first.key, "half a clip under one watermark key and half under another would be no clip"
    assert station(settings, tmp_path, encode={"codec": "ffv1"}).key != first.key


def test_a_stations_engines_are_of_the_model_that_was_asked_about(tmp_path: Path) -> None:
    """Segments and reports say which that was; one that a training has put there since is another station's."""
    settings = for_(a_model(tmp_path / "m"))
    before = station(settings, tmp_path)
    anna = identity_of("anna")
    a_model(tmp_path / "m", {"a": anna, "b": PAINTED["b"]})
    with closing(before.make("cpu", 0)) as engine:
        assert isinstance(engine, Engine)
        assert engine._specs["swap"].config.digest == before.about["model"]["digest"]
    assert app.stage_specs(settings)[4].config.digest != before.about["model"]["digest"]


@pytest.mark.parametrize(
    "terms", [{"consent": {"policy": "off-for-self"}}, {"provenance": {"timestamp_url": "http://stamps.example"}}]
)
def test_folders_that_go_by_other_terms_share_no_engine(tmp_path: Path, terms: dict[str, Any]) -> None:
    settings = for_(a_model(tmp_path / "m"))
    first, other = station(settings, tmp_path), station(settings, tmp_path, **terms)
    assert first.engine_key != other.engine_key and first.key == other.key, "what was begun is gone on with"


def test_without_a_watermark_its_key_does_not_matter(tmp_path: Path) -> None:
    off = {"disclose": {"watermark": {"off_because": "a study without"}}}
    settings = for_(a_model(tmp_path / "m"))
    other = replace(settings, provenance=provenance.Config(folder=tmp_path / "other"))
    assert station(settings, tmp_path, **off).key == station(other, tmp_path, **off).key


def test_a_station_tells_reports_nothing_of_keys(tmp_path: Path) -> None:
    settings = for_(a_model(tmp_path / "m"))
    told = json.dumps(station(settings, tmp_path).about)
    key = app.home(settings).watermark_key.read_bytes()
    assert hashlib.sha256(key).hexdigest() not in told and str(tmp_path / "home") not in told


@pytest.mark.parametrize("halvings", [0, 1, 3])
def test_a_clip_says_the_same_whatever_it_is_made_with(tmp_path: Path, halvings: int) -> None:
    """A clip that is gone on with after memory ran out, or on another device, has one payload from end to end."""
    settings = for_(a_model(tmp_path / "m"))
    chains = [app.stage_specs(each) for each in (settings, app._on(settings, "cuda:1", halvings))]
    (before, *_, marks, _), (after, *_, marks_after, _) = ([spec.config for spec in chain] for chain in chains)
    assert before.salt == after.salt != "" and marks == marks_after


def test_the_payload_hangs_on_model_and_face(tmp_path: Path) -> None:
    settings = for_(a_model(tmp_path / "m"))
    turned = replace(settings, swap=replace(settings.swap, to="a"))
    assert len({app.stage_specs(each)[0].config.salt for each in (settings, turned)}) == 2


def test_who_cannot_sign_files_says_so_before_they_are_made(tmp_path: Path) -> None:
    settings = for_(a_model(tmp_path / "m"))
    bought = replace(settings.provenance, certificate=tmp_path / "no.pem", key=tmp_path / "no.key")
    with pytest.raises(ConfigError, match=r"provenance\.certificate: \S+/no\.pem cannot be read"):
        station(replace(settings, provenance=bought), tmp_path)
    frames = StageSpec("send", "stages.send:Send", None)
    assert app.stage_specs(replace(settings, provenance=bought), sink=frames)[-1] == frames, "nobody signs a stream"


def test_a_watermark_key_that_is_damaged_stops_it(tmp_path: Path) -> None:
    settings = for_(a_model(tmp_path / "m"))
    station(settings, tmp_path)
    app.home(settings).watermark_key.write_bytes(b"short")
    with pytest.raises(UnderstudyError, match="must have 32 bytes"):
        station(settings, tmp_path)
