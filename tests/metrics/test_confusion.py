import time

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from occloom.grid import VoxelGrid
from occloom.metrics.confusion import (
    count_confusion,
    count_confusion_by_bin,
    distance_rings,
    height_layers,
    reduce_counts,
)

CLASSES = 7


def random_volumes(seed, shape, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, classes, shape, generator=generator)
    labels = torch.randint(0, classes, shape, generator=generator)
    return prediction, labels, torch.rand(shape, generator=generator) < 0.6


def naive_counts(prediction, labels, observed, classes, chosen=None):
    counts = np.zeros((classes, classes), np.int64)
    for index in np.ndindex(*prediction.shape):
        if observed[index] and (chosen is None or chosen[index[1:]]):
            counts[labels[index], prediction[index]] += 1
    return counts


@pytest.mark.parametrize("shape", [(1, 4, 5, 3), (3, 2, 1, 7), (2, 3, 3, 3), (0, 2, 2, 2)])
def test_counts_equal_a_naive_loop(shape):
    prediction, labels, observed = random_volumes(1, shape)
    counts = count_confusion(prediction, labels, observed, CLASSES)
    assert counts.dtype == torch.int64
    np.testing.assert_array_equal(counts, naive_counts(prediction, labels, observed, CLASSES))


def test_small_integer_types_count_alike():
    prediction, labels, observed = random_volumes(2, (2, 6, 5, 4), classes=250)
    wide = count_confusion(prediction, labels, observed, 250)
    narrow = count_confusion(prediction.to(torch.uint8), labels.to(torch.int16), observed, 250)
    assert torch.equal(wide, narrow)


def test_counts_of_a_batch_are_the_sum_of_its_frames():
    prediction, labels, observed = random_volumes(3, (3, 4, 4, 2))
    frames = [count_confusion(prediction[i : i + 1], labels[i : i + 1], observed[i : i + 1], CLASSES) for i in range(3)]
    assert torch.equal(count_confusion(prediction, labels, observed, CLASSES), sum(frames))


@pytest.mark.parametrize("wrong", [-1, CLASSES, 255])
def test_ids_outside_the_classes_are_refused_where_observed(wrong):
    prediction, labels, observed = random_volumes(4, (1, 3, 3, 3))
    observed[0, 1, 1, 1] = True
    prediction[0, 1, 1, 1] = wrong
    with pytest.raises(ValueError, match=rf"prediction .* within 0\.\.{CLASSES - 1}, got {wrong}"):
        count_confusion(prediction, labels, observed, CLASSES)
    with pytest.raises(ValueError, match="label"):
        count_confusion(labels, prediction, observed, CLASSES)


@pytest.mark.parametrize("wrong", [-1, CLASSES, 255])
def test_ids_outside_the_classes_do_not_matter_where_unobserved(wrong):
    prediction, labels, observed = random_volumes(5, (1, 3, 3, 3))
    observed[0, 1, 1, 1] = False
    before = count_confusion(prediction, labels, observed, CLASSES)
    prediction[0, 1, 1, 1] = labels[0, 1, 1, 1] = wrong
    assert torch.equal(count_confusion(prediction, labels, observed, CLASSES), before)


def test_binned_counts_equal_a_naive_loop_and_sum_to_the_whole():
    prediction, labels, observed = random_volumes(6, (2, 5, 4, 3))
    bins = torch.arange(5 * 4 * 3).reshape(5, 4, 3) % 3
    counts = count_confusion_by_bin(prediction, labels, observed, bins, num_bins=3, num_classes=CLASSES)
    for index in range(3):
        naive = naive_counts(prediction, labels, observed, CLASSES, chosen=bins == index)
        np.testing.assert_array_equal(counts[index], naive)
    assert torch.equal(counts.sum(0), count_confusion(prediction, labels, observed, CLASSES))
    outside = torch.where(bins == 1, -1, bins)
    partial = count_confusion_by_bin(prediction, labels, observed, outside, num_bins=3, num_classes=CLASSES)
    assert partial[1].sum() == 0
    assert torch.equal(partial[[0, 2]], counts[[0, 2]])


def test_distance_rings_equal_the_distance_of_each_voxel():
    grid = VoxelGrid(lower=(-3.0, -4.0, -1.0), voxel_size=(0.5, 1.0, 0.5), shape=(13, 9, 2))
    edges = (1.0, 2.5, 4.0)
    rings = distance_rings(grid, edges)
    for ix, iy, iz in np.ndindex(*grid.shape):
        distance = np.hypot(-3.0 + (ix + 0.5) * 0.5, -4.0 + (iy + 0.5) * 1.0)
        inside = [ring for ring, edge in enumerate(edges) if distance < edge]
        assert rings[ix, iy, iz] == (inside[0] if inside else -1)


def test_height_layers_equal_the_height_of_each_voxel():
    grid = VoxelGrid(lower=(0.0, 0.0, -2.0), voxel_size=(1.0, 1.0, 0.25), shape=(2, 3, 10))
    layers = height_layers(grid, (-1.5, 0.0))
    assert layers[1, 2].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, -1, -1]
    with pytest.raises(ValueError, match="rising"):
        height_layers(grid, (0.0, -1.0))


def test_one_process_reduces_to_itself():
    counts = torch.arange(9).reshape(3, 3)
    assert torch.equal(reduce_counts(counts), counts)


def _count_my_share(rank, world, rendezvous, folder):
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    prediction, labels, observed = random_volumes(7, (5, 4, 4, 4))
    share = [count_confusion(prediction[i : i + 1], labels[i : i + 1], observed[i : i + 1], CLASSES) for i in range(5)]
    mine = sum(share[rank::world])
    torch.save(reduce_counts(mine + 2**52), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.multiprocess
def test_five_frames_on_two_processes_count_each_frame_once(tmp_path):
    multiprocessing.spawn(_count_my_share, args=(2, tmp_path / "rendezvous", tmp_path), nprocs=2)
    prediction, labels, observed = random_volumes(7, (5, 4, 4, 4))
    # The offset would lose the low bits in floating point: counts stay exact integers.
    expected = count_confusion(prediction, labels, observed, CLASSES) + 2 * 2**52
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)


def test_a_full_frame_is_counted_in_25_milliseconds():
    prediction, labels, observed = random_volumes(8, (1, 256, 256, 32), classes=20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(9):
            start = time.process_time()
            count_confusion(prediction, labels, observed, 20)
            seconds.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(seconds) <= 0.025
