"""For the tests of architectures: one thread, and parameters counted without memory for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from models import autoencoders
from models.blocks import Layers
from models.layer_options import LayerOptions


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def totals() -> Callable[..., dict[str, int]]:
    """A function (architecture, config, parts) that counts the parameters of a network for two people, "a" and "b".

    Parts are named as in the network that learns masks; "all" is the whole of the one that does not.
    """

    def counted(architecture: str, config: Any, *parts: str) -> dict[str, int]:
        def built(mask: bool) -> torch.nn.Module:
            with torch.device("meta"):
                model = autoencoders.module(architecture).build(config, ("a", "b"), Layers(LayerOptions(mask=mask)))
                assert isinstance(model, torch.nn.Module)
                return model

        plain, masked = built(False), built(True)
        modules = {part: masked.get_submodule(part) for part in parts} | {"all": plain}
        return {part: sum(p.numel() for p in module.parameters()) for part, module in modules.items()}

    return counted
