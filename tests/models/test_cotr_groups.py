from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from occloom.data.occ3d_labels import OCC3D
from occloom.errors import InputError
from occloom.grid import LabelSpace
from occloom.models.cotr_groups import (
    OCC3D_GROUPS,
    Claims,
    GroupConfig,
    GroupDecoder,
    ObjectQueries,
    label_groups,
    paint,
)

CHANNELS = 8
SPACE = LabelSpace(
    names=("car", "bus", "free", "road", "tree"),
    empty=2,
    colours=((0, 0, 0),) * 5,
    frequencies=(100.0, 200.0, 1e5, 1e4, 5e3),
)
"""Free space is amid the classes."""
TINY = GroupConfig(
    labels=((0, 1, 4, 2, 3), (0, 0, 2, 1, 1), (0, 1, 2, 0, 0)),
    queries=6,
    heads=2,
    points=2,
    hidden=12,
    dropout=0.0,
    painted=(0, 1),
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decoder(config=TINY):
    torch.manual_seed(0)
    return GroupDecoder(config, channels=CHANNELS, volume_channels=3, label_space=SPACE)


def sample(voxels=50, classes=(0, 1, 2, 3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes)[torch.randint(0, len(classes), (voxels,), generator=generator)]
    return random(voxels, CHANNELS, seed=seed + 1), labels


# --- the groups ------------------------------------------------------------------------------------------------------


def test_occ3d_has_six_groups_of_17_2_6_6_4_4_labels():
    groups = label_groups(GroupConfig(), OCC3D)
    assert groups.counts == (17, 2, 6, 6, 4, 4)
    assert groups.classes == OCC3D.occupied


def test_finer_groups_name_each_class_of_foreground_and_background_once():
    """The halves differ in how common their classes are."""
    named = [[c for c, label in enumerate(table) if label and c != OCC3D.empty] for table in OCC3D_GROUPS[2:]]
    # Nothing else tells class 0 ("others") from the rest: it is in no finer group.
    assert sorted(named[0] + named[1]) == list(range(1, 11))
    assert sorted(named[2] + named[3]) == list(range(11, 17))
    for less, more in ((named[0], named[1]), (named[2], named[3])):
        assert sum(OCC3D.frequencies[c] for c in less) < sum(OCC3D.frequencies[c] for c in more)


def test_members_of_a_label_are_its_classes():
    groups = label_groups(TINY, SPACE)
    assert groups.counts == (4, 2, 2)
    assert groups.classes == (0, 1, 3, 4)
    expected = [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert groups.members(1).int().tolist() == expected


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (OCC3D_GROUPS, "one for each of the 5 classes"),
        (((0, 1, 4, 2, 3), (0, 0, 0, 1, 1)), "alone has the last"),
        (((0, 1, 4, 2, 3), (0, 0, 2, 2, 1)), "alone has the last"),
        (((0, 1, 4, 2, 3), (0, 0, 3, 2, 2)), "count up from 0"),
        (((1, 0, 4, 2, 3),), "each class by its own label"),
        (((0, 0, 2, 1, 1),), "each class by its own label"),
    ],
)
def test_groups_of_other_classes_are_refused(tables, message):
    with pytest.raises(InputError, match=message):
        label_groups(replace(TINY, labels=tables), SPACE)


# --- the decoder -----------------------------------------------------------------------------------------------------


def test_a_group_sees_only_itself():
    model, compact = decoder().train(), random(2, 3, 4, 3, 2)
    before = model(compact)
    assert before.embeddings.shape == (2, 18, CHANNELS)
    assert [part.shape[1:] for part in before.scores] == [(6, 5), (6, 3), (6, 3)]
    model.query_embedding.data[6:12] += 1
    model.query_position.data[6:12] -= 1
    after = model(compact)
    changed = (after.embeddings != before.embeddings).any(dim=-1)
    assert changed.tolist() == [[False] * 6 + [True] * 6 + [False] * 6] * 2


def test_at_test_the_first_group_answers_as_in_training():
    model, compact = decoder(), random(2, 3, 4, 3, 2)
    training, test = model.train()(compact), model.eval()(compact)
    assert len(test.scores) == 1
    torch.testing.assert_close(test.embeddings, training.embeddings[:, :6])
    torch.testing.assert_close(test.scores[0], training.scores[0])


def test_samples_do_not_see_one_another():
    model, compact = decoder().train(), random(3, 3, 4, 3, 2)
    together, alone = model(compact), model(compact[1:2])
    torch.testing.assert_close(together.embeddings[1:2], alone.embeddings)


# --- losses ----------------------------------------------------------------------------------------------------------


def naive_losses(config, objects, features, labels):
    """As the reference says, with SciPy's matching and every mask as a list of voxels."""
    totals = {"labels": 0.0, "focal": 0.0, "dice": 0.0}
    groups = len(objects.scores)
    for b, classes in enumerate(labels):
        for g in range(groups):
            table = torch.tensor(config.labels[g])
            none = max(config.labels[g])
            scores = objects.scores[g][b]
            logits = objects.embeddings[b, g * config.queries : (g + 1) * config.queries] @ features[b].T
            truths = {label: table[classes] == label for label in sorted(set(table[classes].tolist()))}
            cost = np.zeros((len(logits), len(truths)))
            focal, dice = {}, {}
            for q, mask in enumerate(logits):
                for i, (label, truth) in enumerate(truths.items()):
                    p = mask.sigmoid()
                    bce = F.binary_cross_entropy(p, truth.float(), reduction="none")
                    p_t, alpha = torch.where(truth, p, 1 - p), torch.where(truth, 0.25, 0.75)
                    focal[q, label] = (alpha * (1 - p_t) ** 2 * bce).mean()
                    overlap, sizes = (p * truth).sum(), p.sum() + truth.sum()
                    dice[q, label] = 1 - (2 * overlap + 1) / (sizes + 1)
                    total = config.focal_weight * focal[q, label] + config.dice_weight * dice[q, label]
                    cost[q, i] = (total - config.label_weight * scores[q].softmax(0)[label]).item()
            pairs = [(q, list(truths)[i]) for q, i in zip(*linear_sum_assignment(cost), strict=True)]
            truth = torch.full((len(scores),), none)
            for q, label in pairs:
                truth[q] = label
            weight = torch.where(truth == none, config.no_object_weight, 1.0)
            entropy = F.cross_entropy(scores, truth, reduction="none")
            share = 1 / len(labels) / (1 if g == 0 else groups - 1)
            totals["labels"] += share * config.label_weight * (weight * entropy).sum() / weight.sum()
            for name, of_pairs, w in (("focal", focal, config.focal_weight), ("dice", dice, config.dice_weight)):
                totals[name] += share * w * sum(of_pairs[pair] for pair in pairs) / len(pairs)
    return totals


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("config", [TINY, replace(TINY, queries=2), replace(TINY, queries=1, label_weight=2.0)])
def test_losses_equal_the_naive_ones_forward_and_backward(config, training):
    """Also with fewer queries than labels, with a class that is absent and one voxel in a sample."""
    model = decoder(config).train(training)
    voxels = [sample(50), sample(30, classes=(0, 2, 3), seed=5), sample(1, seed=6)]
    features, labels = [f for f, _ in voxels], [c for _, c in voxels]
    answers = []
    for losses in (model.losses, lambda *x: naive_losses(config, *x)):
        leaves = [x.clone().requires_grad_() for x in features]
        terms = losses(model(random(3, 3, 4, 3, 2)), leaves, labels)
        assert terms.keys() == {"labels", "focal", "dice"}
        total = torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(total, [*leaves, model.query_embedding, model.query_position])
        answers.append([*terms.values(), *gradients])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_sample_without_observed_voxels_has_no_objects():
    model = decoder().train()
    features, labels = torch.zeros(0, CHANNELS, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    terms = model.losses(model(random(1, 3, 4, 3, 2)), [features], [labels])
    assert terms["focal"] == terms["dice"] == 0
    assert terms["labels"] > 0
    torch.stack(list(terms.values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_a_group_is_only_asked_for_labels_that_are_there():
    """Nothing but road: in the group that splits the foreground all of it is one label; free space is none."""
    model = decoder().train()
    features, labels = sample(20, classes=(3,))
    objects = ObjectQueries(random(1, 18, CHANNELS), tuple(random(1, 6, n) for n in (5, 3, 3)))
    calls = []
    match = model.match
    model.match = lambda *x: calls.append(match(*x)) or calls[-1]
    model.losses(objects, [features], [labels])
    assert [labels.tolist() for _, labels in calls] == [[2], [1], [0]]


# --- painting --------------------------------------------------------------------------------------------------------


def claimed(labels, winner, *occupied):
    return Claims(tuple(labels), torch.tensor(occupied, dtype=torch.bool), torch.tensor(winner))


def painted(claims):
    return paint(claims, label_groups(TINY, SPACE), SPACE.empty, TINY).tolist()


def test_a_mask_that_wins_less_than_it_is_sure_of_paints_both():
    assert painted(claimed([1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1])) == [1] * 5


def test_a_mask_that_others_win_too_much_of_is_left_out():
    assert painted(claimed([1, 0], [0, 0, 0, 1, 1], [1, 1, 1, 1, 0], [0, 0, 0, 1, 1])) == [2, 2, 2, 0, 0]


def test_an_object_that_wins_more_paints_what_it_is_sure_of_and_ground_what_it_wins():
    assert painted(claimed([0], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0])) == [0, 0, 2, 2, 2]
    assert painted(claimed([2], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0])) == [3, 3, 3, 2, 2]
    assert painted(claimed([2], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0])) == [3, 2, 2, 2, 2]


def test_later_masks_paint_over_earlier_ones():
    assert painted(claimed([0, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0])) == [0, 1, 1, 1]


def test_masks_that_are_sure_of_nothing_or_win_nothing_paint_nothing():
    assert painted(claimed([0, 1], [0, 0], [0, 0], [1, 0])) == [2, 2]


def answer(scores, embeddings, dense):
    """What the decoder makes of one sample whose voxels are named by one feature each."""
    objects = ObjectQueries(torch.tensor(embeddings)[None], (torch.tensor(scores)[None],))
    features = iter(torch.eye(len(dense)).split(2))
    return decoder().paint(objects, 0, features, torch.tensor(dense)).tolist()


def test_objects_fill_free_space_and_never_replace_what_the_dense_branch_sees():
    sure, low = 20.0, -20.0
    scores = [[low, sure, low, low, low]]
    assert answer(scores, [[sure, sure, low, low]], [2, 3, 2, 3]) == [1, 3, 2, 3]


def test_ground_and_no_object_are_not_painted():
    sure, low = 20.0, -20.0
    for kind in (2, 3, 4):
        scores = [[sure if label == kind else low for label in range(5)]]
        assert answer(scores, [[sure, sure, low]], [2, 3, 2]) == [2, 3, 2]


def test_without_a_sure_label_no_voxel_is_looked_at():
    def untouched():
        raise AssertionError
        yield

    objects = ObjectQueries(torch.zeros(1, 1, CHANNELS), (torch.zeros(1, 1, 5),))
    dense = torch.tensor([2, 0, 3])
    assert decoder().paint(objects, 0, untouched(), dense) is dense
