import json
from dataclasses import replace
from pathlib import Path

import naive_lmscnet as naive
import numpy as np
import pytest
import torch

from occloom.data.label_spaces import OCCUPANCY, SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.engine.benchmark import example_scene
from occloom.errors import InputError
from occloom.grid import Shape, VoxelGrid
from occloom.models.lmscnet import LmscNet, LmscNetConfig, QueryOutputs
from occloom.models.released_checkpoints import convert_released
from occloom.models.released_names import fitting_pair, is_unused, our_name
from occloom.models.released_voxformer import QUERY_NAMES, QUERY_UNUSED
from occloom.recipes import resolve
from occloom.scene import Target

SMALL = LmscNetConfig(widths=(6, 5, 4, 7), head_width=3)


def network(shape: Shape = (12, 8, 4), config: LmscNetConfig = SMALL) -> LmscNet:
    torch.manual_seed(0)
    return config.build(VoxelGrid((0.0, -1.0, -1.0), (0.4, 0.4, 0.4), shape), OCCUPANCY).eval()


def voxels(network: LmscNet, batch: int = 2, seed: int = 0) -> torch.Tensor:
    shape = [2 * n for n in network.grid.shape]
    generator = torch.Generator().manual_seed(seed)
    return torch.zeros(batch, *shape, dtype=torch.bool).bernoulli_(0.1, generator=generator)


@pytest.fixture(scope="module")
def full_size() -> LmscNet:
    with torch.device("meta"):
        return LmscNetConfig().build(SEMANTIC_KITTI_GRID.coarsen((2, 2, 2)), OCCUPANCY)


class TestAgainstTheReference:
    @pytest.mark.parametrize("shape", [(12, 8, 4), (8, 16, 8)])
    def test_converted_weights_give_the_naive_answer(self, shape: Shape):
        ours = network(shape).double()
        table = naive.released_table(2 * shape[2], SMALL.widths, SMALL.head_width)
        state = naive.random_state(table)
        ours.load_state_dict(convert_released(state, ours).weights)
        given = voxels(ours)
        expected = naive.forward(state, given)
        assert expected.std() > 0.05
        torch.testing.assert_close(ours.correct(given), expected, atol=1e-9, rtol=1e-9)

    def test_the_published_number_of_parameters(self, full_size: LmscNet):
        """317,594 (reference monoocc 10), of which two deconvolutions are never used."""
        built = sum(parameter.numel() for parameter in full_size.parameters())
        table = naive.released_table()
        assert naive.parameters(table) == 317_594
        assert built + sum(full_size.left_out.values()) == 317_594
        unused = {name: shape for name, shape in table.items() if is_unused(name, QUERY_UNUSED)}
        assert sum(full_size.left_out.values()) == naive.parameters(unused)

    def test_every_released_tensor_is_used_once_or_listed(self, full_size: LmscNet):
        table = naive.released_table()
        released = {name: torch.empty(shape, device="meta") for name, shape in table.items()}
        own = full_size.state_dict()
        converted = convert_released(released, full_size).weights
        assert {name: value.shape for name, value in converted.items()} == {n: v.shape for n, v in own.items()}
        used = [name for name in table if not is_unused(name, QUERY_UNUSED)]
        assert sorted(our_name(name, QUERY_NAMES) or "" for name in used) == sorted(own)
        assert {fitting_pair(name, QUERY_NAMES) for name in used} == set(QUERY_NAMES)

    def test_weights_of_another_network_are_refused(self, full_size: LmscNet):
        with pytest.raises(InputError, match="lacks encoder"):
            convert_released({"stranger": torch.zeros(1)}, full_size, where=Path("there.pth"))

    @pytest.mark.real_data
    def test_the_table_is_the_published_one(self, real_data: Path):
        rows = (real_data.parent / "reference" / "state_dicts" / "lmscnet_ss_qpn.tsv").read_text().splitlines()
        published = {name: tuple(json.loads(shape)) for name, shape, _ in (row.split("\t") for row in rows)}
        assert published == naive.released_table()


class TestShapes:
    @pytest.mark.parametrize("shape", [(4, 4, 4), (5, 7, 6), (9, 13, 5), (13, 6, 11)])
    def test_odd_sizes_and_batches(self, shape: Shape):
        ours = network(shape)
        given = voxels(ours, batch=3)
        logits = ours.correct(given)
        assert logits.shape == (3, 2, *shape)
        assert torch.isfinite(logits).all()
        torch.testing.assert_close(ours.correct(given[1:2]), logits[1:2], atol=1e-5, rtol=1e-5)

    def test_nothing_proposed_is_an_input_too(self):
        ours = network()
        assert torch.isfinite(ours.correct(torch.zeros(1, 24, 16, 8, dtype=torch.bool))).all()

    def test_other_pseudo_voxels_are_refused(self):
        ours = network()
        with pytest.raises(ValueError, match=r"shape \(24, 16, 8\), got \(12, 8, 4\)"):
            ours.correct(torch.zeros(1, 12, 8, 4, dtype=torch.bool))

    def test_a_scene_without_pseudo_voxels_is_refused(self):
        scene = example_scene(resolve("voxformer-queries-town"))
        with pytest.raises(ValueError, match="needs pseudo voxels"):
            network()(replace(scene, pseudo_voxels=None))


def test_the_loss_is_a_mean_over_observed_voxels():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 2, 3, 4, 2)), rng.integers(0, 2, (2, 3, 4, 2))
    observed = rng.random((2, 3, 4, 2)) < 0.6
    expected = []
    for place in np.argwhere(observed):
        scores = logits[place[0], :, place[1], place[2], place[3]]
        label = labels[tuple(place)]
        expected.append((0.46, 0.54)[label] * (np.log(np.exp(scores).sum()) - scores[label]))
    ours = network().double()
    ours.class_weights = ours.class_weights.double()
    target = Target(torch.from_numpy(np.where(observed, labels, 0)), torch.from_numpy(observed))
    loss = ours.loss(QueryOutputs(torch.from_numpy(logits)), target)["cross_entropy"]
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)


class TestConfig:
    @pytest.mark.parametrize("field", [{"widths": (6, 5, 4, 0)}, {"head_width": 0}, {"class_weights": (0.0, 1.0)}])
    def test_sizes_out_of_range_are_refused(self, field):
        with pytest.raises(InputError, match=f"{next(iter(field))} is"):
            replace(SMALL, **field)

    def test_other_classes_and_too_few_voxels_are_refused(self):
        with pytest.raises(InputError, match="the labels have 20 classes"):
            SMALL.build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
        with pytest.raises(InputError, match="4 or more"):
            SMALL.build(VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (8, 8, 3)), OCCUPANCY)
