from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_recipes import SIZES, TinyData

from occloom.engine.loading import BatchOrder, epoch_order, exact_batches, training_batches
from occloom.errors import InputError
from occloom.interfaces import Needs


def order(first_step=0, last_step=10, **changes) -> BatchOrder:
    settings = {"num_samples": 7, "batch_size": 4, "parts": 1, "seed": 3, "rank": 0, "world": 1} | changes
    return BatchOrder(first_step=first_step, last_step=last_step, **settings)


def samples(**changes):
    return TinyData(**changes).build("train", Needs())


@given(num_samples=st.integers(1, 9), shares=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]))
def test_an_epoch_holds_every_sample_once_whoever_loads_it(num_samples, shares):
    world, parts = shares
    steps = num_samples  # 4 samples a step: 4 epochs
    drawn = [
        draw
        for rank in range(world)
        for batch in order(0, steps, num_samples=num_samples, world=world, parts=parts, rank=rank)
        for draw in batch
    ]
    assert Counter(drawn) == Counter((epoch, index) for epoch in range(4) for index in range(num_samples))


@given(st.integers(0, 9))
def test_the_order_from_a_step_on_is_the_rest_of_the_whole_order(step):
    assert list(order())[step:] == list(order(step))


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (1, 2), (2, 2)])
def test_processes_and_parts_share_each_step_of_one_process(world, parts):
    alone = [set(batch) for batch in order()]
    shared = [set() for _ in alone]
    for rank in range(world):
        for number, batch in enumerate(order(world=world, parts=parts, rank=rank)):
            assert len(batch) == 4 // (world * parts)
            shared[number // parts] |= set(batch)
    assert shared == alone


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert np.array_equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))


def test_workers_change_nothing():
    batches = [list(training_batches(samples(), order(), workers=workers)) for workers in (0, 2)]
    for one, two in zip(*batches, strict=True):
        assert one.tokens == two.tokens
        assert torch.equal(one.scene.images, two.scene.images)
        assert one.scene.images.dtype == torch.float32


def test_a_sample_is_augmented_anew_each_epoch_and_alike_each_time():
    first, again = (list(training_batches(samples(), order(batch_size=1, last_step=14), workers=0)) for _ in range(2))
    of_token = {}
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.scene.images, two.scene.images)
        of_token.setdefault(one.tokens[0], []).append(one.scene.images)
    assert all(len(images) == 2 and not torch.equal(*images) for images in of_token.values())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_sample_is_one_line_also_from_a_worker(workers):
    with pytest.raises(InputError) as error:
        list(training_batches(samples(broken=2), order(), workers=workers))
    assert str(error.value) == "00/000002.bin: truncated."


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_system_refuses_is_one_line_also_from_a_worker(workers):
    line = "00/000002.bin: permission denied; check its permissions."
    with pytest.raises(InputError) as error:
        list(training_batches(samples(forbidden=2), order(), workers=workers))
    assert str(error.value) == line
    with pytest.raises(InputError) as error:
        list(exact_batches(samples(forbidden=2), range(3), workers=workers))
    assert str(error.value) == line


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_exact_batches_hold_each_sample_once_in_order(batch_size):
    data = samples()
    batches = list(exact_batches(data, range(SIZES["train"]), batch_size=batch_size))
    assert [token for batch in batches for token in batch.tokens] == list(data.tokens)
    images = torch.cat([batch.scene.images for batch in batches])
    for index in range(len(data)):
        assert torch.equal(images[index], data.sample(index).scene.images[0].float())


def test_exact_batches_of_nothing_are_none():
    assert list(exact_batches(samples(), [])) == []


def test_a_sample_with_anothers_scene_keeps_its_own_truth_and_name():
    data = samples()
    other = [1, 2, 3, 4, 5, 6, 0]
    for index, batch in enumerate(exact_batches(data, range(7), scene_of=other)):
        assert batch.tokens == (data.tokens[index],)
        assert torch.equal(batch.target.labels, data.sample(index).target.labels)
        assert torch.equal(batch.scene.images, data.sample(other[index]).scene.images.float())
