"""models.train.profiles: every file loads, suits its architecture, and says truly how large the model is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import autoencoders
from models.blocks import Layers
from models.train import losses, profiles, recipe
from pipeline import app, config
from pipeline.errors import ConfigError


def loaded(name: str) -> recipe.Config:
    file = profiles.path(name)
    return config.apply(app.Settings(), config.read_file(file), file.parent, app.FIXED).train


def test_names() -> None:
    assert set(profiles.names()) == {"two-cores", "8gb", "24gb", "80gb"}


@pytest.mark.parametrize("name", profiles.names())
def test_speaks_of_training_alone(name: str) -> None:
    assert list(config.read_file(profiles.path(name))) == ["train"]
    assert loaded(name) != recipe.Config()
    assert profiles.path(name).read_text().startswith("# ")


@pytest.mark.parametrize("name", profiles.names())
def test_its_losses_are_there(name: str) -> None:
    for term in loaded(name).losses.terms:
        losses.load(term)


@pytest.mark.parametrize("name", profiles.names())
def test_describes_its_model_as_it_is(name: str) -> None:
    """Parameters in millions, and their 16 bytes each in GiB, as the comment has them."""
    chosen = loaded(name)
    text = re.sub(r"\n# ?", " ", profiles.path(name).read_text())
    options = autoencoders.chosen(chosen.architecture, chosen.preset, chosen.options)
    with torch.device("meta"):
        model = autoencoders.module(chosen.architecture).build(options, ("a", "b"), Layers(chosen.layers))
    count = sum(weight.numel() for weight in model.parameters())
    millions = re.search(r"\(([0-9.]+) million parameters\)", text)
    gib = re.search(r"([0-9.]+) GiB \(16 bytes a parameter\)", text)
    assert millions and gib
    assert float(millions[1]) == pytest.approx(count / 1e6, rel=0.02)
    assert float(gib[1]) == pytest.approx(count * 16 / 2**30, rel=0.05)


@pytest.mark.parametrize("name", ["", "16gb", "../recipe", "8gb.yaml"])
def test_refuses_what_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=r"there are: 24gb, 80gb, 8gb, two-cores"):
        profiles.path(name)


def test_loads_no_torch() -> None:
    script = "import sys; from models.train import profiles; profiles.path('8gb'); print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    ran = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
