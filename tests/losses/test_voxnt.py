import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from occloom.losses import voxnt
from occloom.losses.voxnt import (
    Refinement,
    axis_lengths,
    boundary_offsets,
    count_scales,
    refine,
    run_lengths,
)
from occloom.scene import Target


def algorithm_1(labels):
    """The paper's loop, line by line."""

    def positive(t, dim):
        length = t.shape[dim]
        out = torch.empty_like(t, dtype=torch.int32)
        last: list[slice | int] = [slice(None)] * 4
        last[dim] = -1
        out[tuple(last)] = torch.tensor(1, dtype=torch.int32)
        for i in range(length - 2, -1, -1):
            here, following = last.copy(), last.copy()
            here[dim], following[dim] = i, i + 1
            same = t[tuple(here)] == t[tuple(following)]
            out[tuple(here)] = torch.where(same, out[tuple(following)] + 1, torch.tensor(1, dtype=torch.int32))
        return out

    directions = []
    for dim in (1, 2, 3):
        directions.append(positive(labels, dim))
        directions.append(positive(labels.flip(dim), dim).flip(dim))
    return torch.stack(directions, dim=1)


def normalised(lengths, shape):
    x, y, z = shape
    return lengths / torch.tensor([x, x, y, y, z, z]).view(1, 6, 1, 1, 1)


def observed_everywhere(labels):
    return Target(labels=labels, observed=torch.ones_like(labels, dtype=torch.bool))


def streets(batch, shape, seed=0, classes=4, coarse=3, empty=0):
    """Labels in lumps of a few voxels, and a mask that cuts into them."""
    generator = torch.Generator().manual_seed(seed)
    lumps = [-(-n // coarse) for n in shape]
    labels = torch.randint(0, classes, (batch, *lumps), generator=generator)
    for dim in (1, 2, 3):
        labels = labels.repeat_interleave(coarse, dim).narrow(dim, 0, shape[dim - 1])
    observed = torch.rand(labels.shape, generator=generator) < 0.9
    return Target(labels=torch.where(observed, labels, empty), observed=observed)


VOLUMES = st.builds(
    streets,
    batch=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 19), st.integers(1, 13), st.integers(1, 9)),
    seed=st.integers(0, 1000),
    classes=st.integers(1, 4),
    coarse=st.integers(1, 5),
)


def test_a_line_of_the_paper():
    line = torch.tensor([0, 0, 1, 1, 1, 0]).view(1, 6, 1, 1)
    lengths = run_lengths(observed_everywhere(line))[0, :, :, 0, 0]
    assert lengths[0].tolist() == [2, 1, 3, 2, 1, 1]
    assert lengths[1].tolist() == [1, 2, 1, 2, 3, 1]
    assert (lengths[2:] == 1).all()


@settings(max_examples=40, deadline=None)
@given(VOLUMES)
def test_equals_algorithm_1(target):
    assert torch.equal(run_lengths(observed_everywhere(target.labels)).int(), algorithm_1(target.labels))


@settings(max_examples=40, deadline=None)
@given(VOLUMES)
def test_both_ways_of_counting_agree(target):
    labels = target.labels.short()
    for axis in (1, 2, 3):
        expected = voxnt._count_in_place(labels, axis).short()
        assert torch.equal(voxnt._count_by_maxima(labels, axis), expected)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_runs_longer_than_a_byte_are_counted_both_ways(axis):
    labels = torch.zeros(2, 300, dtype=torch.int16).view(2, *(300 if dim == axis else 1 for dim in (1, 2, 3)))
    labels = labels.expand(2, *(300 if dim == axis else 2 for dim in (1, 2, 3)))
    counted = voxnt._count_in_place(labels, axis)
    assert counted.movedim(axis + 1, 0)[0, 0].unique().tolist() == [300]
    assert torch.equal(counted.short(), voxnt._count_by_maxima(labels, axis))


@settings(max_examples=40, deadline=None)
@given(VOLUMES)
def test_mirrored_labels_swap_the_directions(target):
    lengths = run_lengths(observed_everywhere(target.labels))
    for axis in range(3):
        mirrored = run_lengths(observed_everywhere(target.labels.flip(axis + 1))).flip(axis + 2)
        swapped = list(range(6))
        swapped[2 * axis], swapped[2 * axis + 1] = 2 * axis + 1, 2 * axis
        assert torch.equal(mirrored, lengths[:, swapped])


@settings(max_examples=40, deadline=None)
@given(VOLUMES)
def test_the_voxel_a_length_away_is_the_first_of_another_class(target):
    lengths, shape = run_lengths(observed_everywhere(target.labels)), target.labels.shape[1:]
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))
    for axis in range(3):
        for direction, step in ((2 * axis, 1), (2 * axis + 1, -1)):
            there = index.expand(len(lengths), -1, -1, -1, -1).clone()
            there[:, axis] += step * lengths[:, direction]
            inside = (there[:, axis] >= 0) & (there[:, axis] < shape[axis])
            bounded = there[:, axis].clamp(0, shape[axis] - 1)
            other = target.labels.gather(axis + 1, bounded)
            assert (other != target.labels)[inside].all()


@settings(max_examples=40, deadline=None)
@given(VOLUMES, st.tuples(*[st.integers(1, 4)] * 3))
def test_unobserved_voxels_form_runs_of_their_own_and_a_stride_picks_voxels(target, stride):
    with_own_class = torch.where(target.observed, target.labels, 99)
    expected = algorithm_1(with_own_class)
    assert torch.equal(run_lengths(target).int(), expected)
    offsets = normalised(expected, target.labels.shape[1:])
    sx, sy, sz = stride
    assert torch.equal(boundary_offsets(run_lengths(target), stride), offsets[..., ::sx, ::sy, ::sz])


def test_offsets_are_fractions_of_the_axis():
    lengths = run_lengths(observed_everywhere(torch.zeros(2, 5, 4, 3, dtype=torch.int64)))
    offsets = boundary_offsets(lengths, (1, 1, 1))
    assert offsets[:, :, 0, 0, 0].tolist() == [[1, pytest.approx(1 / 5), 1, 1 / 4, 1, pytest.approx(1 / 3)]] * 2
    assert offsets.min() > 0
    assert offsets.max() == 1


def box(shape, lower, size, label=1):
    """A box of one class in an empty volume."""
    labels = torch.zeros(1, *shape, dtype=torch.int64)
    x, y, z = (slice(low, low + n) for low, n in zip(lower, size, strict=True))
    labels[:, x, y, z] = label
    return observed_everywhere(labels)


def left_out(target, refinement, empty=0):
    refined = refine(target, run_lengths(target), refinement, empty=empty)
    assert (refined.labels[~refined.observed] == empty).all()
    assert torch.equal(refined.labels[refined.observed], target.labels[refined.observed])
    return target.observed & ~refined.observed


@pytest.mark.parametrize(("size", "gone"), [(28, False), (29, True)])
def test_the_maximum_is_reached_by_a_run_of_one_voxel_less(size, gone):
    target = box((40, 12, 8), (3, 2, 1), (size, 4, 4))
    assert (axis_lengths(run_lengths(target))[0, 0][target.labels[0] == 1] == size + 1).all()
    assert torch.equal(left_out(target, Refinement(classes=(1,))), (target.labels == 1) & gone)


def test_one_long_axis_is_enough_and_each_axis_has_its_own_maximum():
    target = box((12, 12, 12), (1, 1, 1), (2, 2, 9))
    assert left_out(target, Refinement((1,), maximum=(30, 30, 10))).sum() == 2 * 2 * 9
    assert not left_out(target, Refinement((1,), maximum=(10, 10, 11))).any()


@pytest.mark.parametrize(("size", "gone"), [((1, 1, 1), True), ((2, 1, 1), False), ((1, 1, 2), False)])
def test_a_stray_voxel_is_small_on_all_axes(size, gone):
    target = box((7, 6, 5), (2, 2, 2), size)
    assert torch.equal(left_out(target, Refinement((1,))), (target.labels == 1) & gone)
    assert not left_out(target, Refinement((1,), minimum=None)).any()


def test_the_released_rule_is_a_maximum_of_31_without_minimum():
    released = Refinement(classes=(1,), maximum=(31, 31, 31), minimum=None)
    target = streets(2, (40, 36, 34), classes=2, coarse=17)
    lengths = algorithm_1(torch.where(target.observed, target.labels, 99))
    long = torch.stack([lengths[:, 2 * a] + lengths[:, 2 * a + 1] > 30 for a in range(3)]).any(dim=0)
    expected = long & (target.labels == 1) & target.observed
    assert torch.equal(left_out(target, released), expected)
    assert expected.any()


def test_only_the_named_classes_are_refined():
    target = streets(2, (30, 30, 9), classes=4, coarse=7, empty=2)
    refinement = Refinement(classes=(1, 3), maximum=(8, 8, 8))
    gone = left_out(target, refinement, empty=2)
    assert set(target.labels[gone].tolist()) == {1, 3}
    assert not left_out(target, Refinement(classes=()), empty=2).any()


def test_scales_are_counted_a_class_and_axis_and_add_up():
    targets = [streets(2, (14, 9, 5), seed=seed, classes=3, coarse=2) for seed in range(2)]
    sizes = {"num_classes": 4, "maximum": (5, 5, 6), "minimum": (3, 4, 4)}
    first, second = (count_scales(target, **sizes) for target in targets)
    total = first + second
    longest = 14
    expected = torch.zeros(4, 3, longest + 2, dtype=torch.int64)
    long, small = torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    for target in targets:
        runs = algorithm_1(torch.where(target.observed, target.labels, 99))
        for index in target.observed.nonzero().tolist():
            b, x, y, z = index
            label = int(target.labels[b, x, y, z])
            lengths = [int(runs[b, 2 * a, x, y, z] + runs[b, 2 * a + 1, x, y, z]) for a in range(3)]
            for axis in range(3):
                expected[label, axis, lengths[axis]] += 1
            long[label] += lengths[0] >= 5 or lengths[1] >= 5 or lengths[2] >= 6
            small[label] += lengths[0] < 3 and lengths[1] < 4 and lengths[2] < 4
    assert torch.equal(total.lengths, expected)
    assert torch.equal(total.too_long, long)
    assert torch.equal(total.too_small, small)
    assert total.voxels.sum() == sum(int(target.observed.sum()) for target in targets)
    assert 0 < small.sum() < long.sum() < total.voxels.sum()
    for share in (0.05, 0.5, 0.95):
        for label in range(3):
            for axis in range(3):
                lengths = torch.arange(longest + 2).repeat_interleave(expected[label, axis])
                quantile = int(total.quantile(share)[label, axis])
                assert (lengths <= quantile).float().mean() >= share
                assert (lengths < quantile).float().mean() < share
    assert total.quantile(0.5)[3].tolist() == [0, 0, 0]


def test_four_times_faster_than_the_loop():
    target = streets(1, (256, 256, 32), classes=20, coarse=8)

    def seconds(function):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    def loop():
        return normalised(algorithm_1(target.labels), target.labels.shape[1:])

    for _ in range(5):  # other processes may take the core from either
        ours = min(seconds(lambda: boundary_offsets(run_lengths(target), (1, 1, 1))) for _ in range(3))
        if seconds(loop) > 4 * ours:
            return
    pytest.fail("the loop never took four times as long")


def test_nothing_outside_is_changed():
    target = streets(1, (9, 8, 7))
    labels, observed = target.labels.clone(), target.observed.clone()
    refine(target, run_lengths(target), Refinement((0, 1, 2, 3), maximum=(2, 2, 2)), empty=0)
    assert torch.equal(target.labels, labels)
    assert torch.equal(target.observed, observed)
