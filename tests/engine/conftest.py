import pytest
import torch
from lightning_fabric import Fabric

from occloom.engine.launch import launch


@pytest.fixture
def fabric() -> Fabric:
    return launch()


@pytest.fixture(autouse=True)
def restored_determinism():
    """`launch` switches deterministic algorithms on for the whole process."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)
