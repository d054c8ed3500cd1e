import itertools
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny_voxdet import VARIANTS, count, label_space

from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.losses.affinity import class_sums, geometric_affinity, semantic_affinity
from occloom.losses.voxnt import Refinement
from occloom.models.voxdet import (
    AlongAxes,
    DenseDetector,
    DetectorConfig,
    FactorisedClasses,
    InstanceAggregation,
    LossWeights,
    ObservedL1,
    OffsetHead,
    TaskBranch,
    TrilinearClasses,
    TriPlaneDecoupler,
    volume_grid,
)
from occloom.scene import Target

CHANNELS, CLASSES = 8, 5
TINY = DetectorConfig(
    blocks=(1, 1, 1),
    groups=2,
    offset_hidden=6,
    aggregation_layers=2,
    scoring=TrilinearClasses(hidden=4),
    refinement=Refinement(classes=(1,), maximum=(7, 7, 7), minimum=(3, 3, 3)),
)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shares(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lively(module, seed=0):
    """A module whose weights, norms and running statistics are all random, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and name != "class_weights":
            scale = 1.0 if tensor.ndim == 1 else 2 * tensor[0].numel() ** -0.5
            drawn = torch.randn(tensor.shape, generator=generator) * scale
            tensor.data.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return module.double()


def detector(config=TINY, factors=(2, 2, 2), empty=0):
    return lively(DenseDetector(config, channels=CHANNELS, label_space=label_space(empty=empty), factors=factors))


def random_target(shape=(16, 8, 8), batch=2, empty=0, seed=0, block=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (batch, *(n // block for n in shape)), generator=generator)
    for axis in (1, 2, 3):
        labels = labels.repeat_interleave(block, axis)
    observed = torch.rand(labels.shape, generator=generator) < 0.9
    return Target(labels=torch.where(observed, labels, empty), observed=observed)


def outputs_and_gradients(module, function, *inputs):
    """What a function gives, and the gradients of a random weighting of it for inputs and parameters."""
    module.zero_grad()
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    (out * random(*out.shape, seed=9)).sum().backward()
    return [out.detach()] + [x.grad for x in inputs] + [p.grad.clone() for p in module.parameters()]


def assert_same(module, plain, *inputs):
    ours, theirs = (outputs_and_gradients(module, function, *inputs) for function in (module, plain))
    names = ["output", *(f"input {i}" for i in range(len(inputs))), *(name for name, _ in module.named_parameters())]
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert b.abs().sum() > 0, name
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


def normalised(x, norm):
    """A group normalisation written out."""
    grouped = x.reshape(len(x), norm.num_groups, -1)
    mean, var = grouped.mean(dim=2, keepdim=True), grouped.var(dim=2, keepdim=True, correction=0)
    y = ((grouped - mean) / (var + norm.eps).sqrt()).view(x.shape)
    affine = (1, -1, *[1] * (x.ndim - 2))
    return y * norm.weight.view(affine) + norm.bias.view(affine)


def linear(x, conv):
    """A convolution of one voxel without bias as a sum over channels."""
    return torch.einsum("oc,bc...->bo...", conv.weight.flatten(1), x)


def coarsened(x, stride):
    """By trilinear interpolation, of axes halved or left as they are."""
    return F.interpolate(x, scale_factor=[1 / s for s in stride], mode="trilinear", align_corners=False)


def enlarged(x, size):
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


# --- places of Eq. 6 -------------------------------------------------------------------------------------------------


def read_loop(volume, offsets):
    """What each voxel reads in each of the six directions: "B 6 C x y z"."""
    size = volume.shape[2:]
    out = torch.zeros(len(volume), 6, *volume.shape[1:], dtype=volume.dtype)
    for b, direction, *voxel in itertools.product(range(len(volume)), range(6), *map(range, size)):
        axis, sign = direction // 2, (1, -1)[direction % 2]
        last = size[axis] - 1
        place = (voxel[axis] + sign * offsets[b, direction, *voxel] * size[axis]).clamp(0, last)
        before = min(math.floor(place.item()), max(last - 1, 0))
        ends = [[*voxel[:axis], i, *voxel[axis + 1 :]] for i in (before, min(before + 1, last))]
        share = place - before
        out[b, direction, :, *voxel] = (1 - share) * volume[b, :, *ends[0]] + share * volume[b, :, *ends[1]]
    return out


def read_all(volume, offsets):
    places = AlongAxes().places(offsets)
    return torch.stack([places.read(volume, direction) for direction in range(6)], dim=1)


@pytest.mark.parametrize("size", [(4, 3, 5), (1, 2, 1), (6, 1, 2)])
def test_places_against_a_loop_forward_and_backward(size):
    volume, offsets = random(2, 3, *size), shares(2, 6, *size) * 0.7
    answers = []
    for function in (read_all, read_loop):
        v, o = volume.clone().requires_grad_(), offsets.clone().requires_grad_()
        out = function(v, o)
        (out * random(*out.shape, seed=2)).sum().backward()
        answers.append((out.detach(), v.grad, o.grad))
    for ours, plain in zip(*answers, strict=True):
        torch.testing.assert_close(ours, plain)


def test_no_offset_reads_the_voxel_itself_and_a_whole_one_the_border():
    volume = random(2, 3, 4, 5, 2)
    nowhere, far = (torch.full((2, 6, 4, 5, 2), fill, dtype=torch.float64) for fill in (0.0, 1.0))
    for direction in range(6):
        axis = 2 + direction // 2
        torch.testing.assert_close(read_all(volume, nowhere)[:, direction], volume)
        border = volume.select(axis, 0 if direction % 2 else -1).unsqueeze(axis)
        torch.testing.assert_close(read_all(volume, far)[:, direction], border.expand_as(volume))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_offset_is_a_share_of_the_axis(steps):
    volume = random(1, 2, 8, 4, 16)
    for direction in range(6):
        axis = 2 + direction // 2
        count, sign = volume.shape[axis], 1 - 2 * (direction % 2)
        read = read_all(volume, torch.full((1, 6, 8, 4, 16), steps / count, dtype=torch.float64))[:, direction]
        here = torch.arange(count - steps) if sign > 0 else torch.arange(steps, count)
        torch.testing.assert_close(read.index_select(axis, here), volume.index_select(axis, here + sign * steps))


def swapped(offsets, axis):
    """The offsets of a mirrored volume: ahead and behind change places."""
    order = list(range(6))
    order[2 * axis], order[2 * axis + 1] = order[2 * axis + 1], order[2 * axis]
    return offsets[:, order].flip(2 + axis)


# --- the offset head, Eq. 4 and 5 ------------------------------------------------------------------------------------


def plain_offsets(head, volume):
    """Logits of every voxel first; coarsened only then."""
    hidden = normalised(F.conv3d(volume, head.hidden.weight, padding=1), head.norm).clamp(min=0)
    logits = linear(hidden, head.offsets)
    return 1 / (1 + (-coarsened(logits, head.stride)).exp())


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (2, 2, 1)])
def test_offset_head_against_coarsened_logits_forward_and_backward(stride):
    head = lively(OffsetHead(CHANNELS, hidden=6, groups=2, stride=stride))
    volume = random(2, CHANNELS, 6, 4, 2)
    assert_same(head, partial(plain_offsets, head), volume)
    assert head(volume).shape == (2, 6, *(n // s for n, s in zip((6, 4, 2), stride, strict=True)))


def test_offset_loss_against_a_loop():
    offsets, truth, observed = shares(2, 6, 3, 2, 4), shares(2, 6, 3, 2, 4, seed=1), shares(2, 3, 2, 4, seed=2) < 0.6
    total, count = 0.0, 0
    for b, x, y, z in itertools.product(range(2), range(3), range(2), range(4)):
        if observed[b, x, y, z]:
            count += 1
            total += sum(abs(offsets[b, d, x, y, z].item() - truth[b, d, x, y, z].item()) for d in range(6))
    assert 0 < count < observed.numel()
    assert ObservedL1().loss(offsets, truth, observed).item() == pytest.approx(total / (2 * count))
    changed = torch.where(observed[:, None], offsets, 1 - offsets)
    assert torch.equal(ObservedL1().loss(changed, truth, observed), ObservedL1().loss(offsets, truth, observed))


def test_offset_loss_of_nothing_observed_is_zero():
    offsets = shares(1, 6, 3, 2, 4).requires_grad_()
    loss = ObservedL1().loss(offsets, torch.zeros_like(offsets), torch.zeros(1, 3, 2, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not offsets.grad.any()


# --- decoupling, Eq. 1 to 3 ------------------------------------------------------------------------------------------


def plain_deformable(x, layer):
    """Nine bilinear samples a pixel, zero outside."""
    offsets = F.conv2d(x, layer.offset.weight, layer.offset.bias, padding=1)
    height, width = x.shape[2:]
    v, u = torch.meshgrid(*(torch.arange(n).to(x) for n in (height, width)), indexing="ij")
    out = 0
    for k, (i, j) in enumerate(itertools.product(range(3), range(3))):
        row, column = v + i - 1 + offsets[:, 2 * k], u + j - 1 + offsets[:, 2 * k + 1]
        grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)
        out = out + torch.einsum("oc,bchw->bohw", layer.weight[:, :, i, j], F.grid_sample(x, grid, align_corners=False))
    return out


def plain_decoupler(part, volume):
    """Eq. 1 to 3 with softmax as sums of exponentials, and the fusing layer on every voxel."""
    eta = linear(volume, part.project)
    expanded = 0
    for plane, axis in enumerate((4, 2, 3)):  # XY, YZ, XZ
        weight = eta[:, plane : plane + 1].exp()
        projected = (weight / weight.sum(dim=axis, keepdim=True) * volume).sum(dim=axis)
        refined = F.conv2d(projected, part.refine[plane].weight, part.refine[plane].bias).clamp(min=0)
        decoupled = normalised(plain_deformable(refined, part.deform[plane]), part.norm[plane]).clamp(min=0)
        expanded = expanded + decoupled.unsqueeze(axis).expand_as(volume)
    return volume + normalised(linear(expanded, part.fuse), part.fuse_norm).clamp(min=0)


@pytest.mark.parametrize("size", [(5, 4, 3), (3, 6, 1)])
def test_decoupler_against_the_equations_forward_and_backward(size):
    part = lively(TriPlaneDecoupler(CHANNELS, groups=2))
    assert_same(part, partial(plain_decoupler, part), random(2, CHANNELS, *size))


def plain_branch(branch, levels):
    x = levels[-1]
    neck = branch.neck
    for i in reversed(range(len(levels) - 1)):
        own = plain_decoupler(branch.decouplers[i], levels[i]) if len(branch.decouplers) else levels[i]
        x = linear(torch.cat([own, enlarged(x, own.shape[2:])], dim=1), neck.reduce[i])
        x = normalised(x, neck.reduce_norm[i]).clamp(min=0)
        x = normalised(F.conv3d(x, neck.smooth[i].weight, padding=1), neck.smooth_norm[i]).clamp(min=0)
    return x


@pytest.mark.parametrize("decouple", [True, False])
@pytest.mark.parametrize("sizes", [[(6, 5, 4), (3, 3, 2), (2, 2, 1)], [(4, 2, 2), (2, 1, 1)]])
def test_branch_against_plain_layers(sizes, decouple):
    branch = lively(TaskBranch(CHANNELS, len(sizes), groups=2, decouple=decouple))
    assert len(branch.decouplers) == (len(sizes) - 1 if decouple else 0)
    levels = [random(2, CHANNELS, *size, seed=i) for i, size in enumerate(sizes)]
    ours = outputs_and_gradients(branch, lambda *x: branch(list(x)), *levels)
    plain = outputs_and_gradients(branch, lambda *x: plain_branch(branch, list(x)), *levels)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


# --- aggregation, Eq. 6 ----------------------------------------------------------------------------------------------


def plain_aggregation(layer, volume, offsets):
    """Six neighbours are read first, then projected; softmax as sums of exponentials, voxel by voxel."""
    coarse = coarsened(volume, layer.stride)
    read = read_loop(coarse, offsets)
    query = normalised(linear(coarse, layer.query), layer.query_norm)
    keys = [normalised(linear(read[:, d], layer.key), layer.key_norm) for d in range(6)]
    values = [normalised(linear(read[:, d], layer.value), layer.value_norm) for d in range(6)]
    gathered = torch.zeros_like(coarse)
    for b, *voxel in itertools.product(range(len(coarse)), *map(range, coarse.shape[2:])):
        q = query[b, :, *voxel]
        scores = [(q @ key[b, :, *voxel] / math.sqrt(len(q))).exp() for key in keys]
        for score, value in zip(scores, values, strict=True):
            gathered[b, :, *voxel] += score / sum(scores) * value[b, :, *voxel]
    return normalised(linear(enlarged(gathered, volume.shape[2:]) + volume, layer.out), layer.norm)


def aggregate(layer, volume, offsets):
    return layer(volume, AlongAxes().places(offsets))


@pytest.mark.parametrize(("stride", "size"), [((2, 2, 2), (4, 6, 2)), ((1, 1, 1), (2, 3, 1)), ((2, 2, 1), (4, 2, 3))])
def test_aggregation_against_loops_over_voxels_and_directions(stride, size):
    layer = lively(InstanceAggregation(CHANNELS, groups=2, stride=stride))
    volume, offsets = (
        random(2, CHANNELS, *size),
        shares(2, 6, *(n // s for n, s in zip(size, stride, strict=True))) * 0.6,
    )
    ours = outputs_and_gradients(layer, partial(aggregate, layer), volume, offsets)
    plain = outputs_and_gradients(layer, partial(plain_aggregation, layer), volume, offsets)
    assert plain[2].abs().sum() > 0  # offsets learn from classes
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_aggregation_of_a_mirrored_volume_is_mirrored(axis):
    layer = lively(InstanceAggregation(CHANNELS, groups=2, stride=(2, 2, 2)))
    volume, offsets = random(2, CHANNELS, 8, 4, 6), shares(2, 6, 4, 2, 3)
    there = aggregate(layer, volume.flip(2 + axis), swapped(offsets, axis))
    torch.testing.assert_close(there.flip(2 + axis), aggregate(layer, volume, offsets))


# --- the detector ----------------------------------------------------------------------------------------------------


def detect(config=TINY, empty=0, training=True, size=(8, 4, 4), batch=2, factors=(2, 2, 2)):
    model = detector(config, factors, empty).train(training)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model, model(random(batch, CHANNELS, *size))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_table_4_run_and_learn_with_every_parameter(variant):
    config = replace(TINY, drop_path=0.0, **(VARIANTS[variant] | ({"aggregation_layers": 2} if variant > "b" else {})))
    model, outputs = detect(config)
    assert outputs.logits.shape == (2, CLASSES, 16, 8, 8)
    assert (outputs.offsets is None) == (variant == "a")
    terms = model.losses(outputs, random_target())
    assert ("regression" in terms) == (variant != "a")
    sum(terms.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_no_auxiliary_scores_in_evaluation_and_no_head_without_weight():
    assert detect(training=True)[1].auxiliary is not None
    assert detect(training=False)[1].auxiliary is None
    model, outputs = detect(replace(TINY, weights=LossWeights(auxiliary=0.0)))
    assert model.auxiliary_head is None
    assert outputs.auxiliary is None
    assert count(detector()) - count(model) == count(detector().auxiliary_head)


def test_without_decoupling_both_tasks_look_at_one_volume():
    model = detector(replace(TINY, **(VARIANTS["c"] | {"aggregation_layers": 1}))).eval()
    outputs = model(volume := random(2, CHANNELS, 8, 4, 4))
    features = plain_branch(model.classification, model.encoder(volume))
    torch.testing.assert_close(outputs.offsets, plain_offsets(model.offset_head, features))
    seen = plain_aggregation(model.aggregation[0], features, outputs.offsets)
    torch.testing.assert_close(outputs.scores.coarse, model.class_head(seen).coarse)


def test_with_decoupling_each_task_looks_at_its_own():
    model = detector().eval()
    outputs = model(volume := random(2, CHANNELS, 8, 4, 4))
    levels = model.encoder(volume)
    offsets = plain_offsets(model.offset_head, plain_branch(model.regression, levels))
    torch.testing.assert_close(outputs.offsets, offsets)
    features = plain_branch(model.classification, levels)
    for layer in model.aggregation:
        features = plain_aggregation(layer, features, offsets)
    torch.testing.assert_close(outputs.scores.coarse, model.class_head(features).coarse)


def test_auxiliary_head_looks_at_the_lifted_volume():
    model = detector()
    volume = random(2, CHANNELS, 8, 4, 4)
    torch.testing.assert_close(model(volume).auxiliary.coarse, model.auxiliary_head(volume).coarse)


@pytest.mark.parametrize("size", [(8, 4, 4), (6, 10, 2)])
@pytest.mark.parametrize("blocks", [(1, 1, 1), (2, 1)])
def test_batch_equals_one_by_one(size, blocks):
    model = detector(replace(TINY, blocks=blocks)).eval()
    volume = random(3, CHANNELS, *size)
    together = model(volume)
    for b in range(3):
        alone = model(volume[b : b + 1])
        torch.testing.assert_close(alone.logits, together.logits[b : b + 1])
        torch.testing.assert_close(alone.offsets, together.offsets[b : b + 1])


def test_classes_teach_the_offsets():
    model, outputs = detect(replace(TINY, drop_path=0.0))
    model.losses(outputs, random_target())["cross_entropy"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.offset_head.parameters())


def test_two_training_steps_are_equal_bit_by_bit():
    states = []
    for _ in range(2):
        model = detector().float()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for step in range(2):
                terms = model.losses(model(random(2, CHANNELS, 8, 4, 4, seed=step).float()), random_target(seed=step))
                optimiser.zero_grad()
                sum(terms.values()).backward()
                optimiser.step()
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


# --- losses, Eq. 5, 7, 8 and 12 --------------------------------------------------------------------------------------


def run_loop(labels, voxel, axis, sign):
    """Steps until another class or the border comes, the voxel itself being one."""
    steps, place = 1, list(voxel)
    while True:
        place[axis] += sign
        if not 0 <= place[axis] < labels.shape[axis] or labels[*place] != labels[*voxel]:
            return steps
        steps += 1


def offset_truth(target, size):
    """Offsets of every n-th voxel as shares of the axes, and which are observed; unobserved voxels are of no class."""
    shape = target.labels.shape[1:]
    labels = torch.where(target.observed, target.labels, -1)
    truth = torch.zeros(len(labels), 6, *size, dtype=torch.float64)
    for b, *coarse in itertools.product(range(len(labels)), *map(range, size)):
        voxel = [c * (n // m) for c, n, m in zip(coarse, shape, size, strict=True)]
        for d in range(6):
            truth[b, d, *coarse] = run_loop(labels[b], voxel, d // 2, (1, -1)[d % 2]) / shape[d // 2]
    return truth


def refined_loop(target, refinement, empty):
    """Eq. 9 to 12, voxel by voxel."""
    labels, observed = target.labels.clone(), target.observed.clone()
    classes = torch.where(target.observed, target.labels, -1)
    for b, *voxel in itertools.product(*map(range, labels.shape)):
        if classes[b, *voxel] in refinement.classes:
            length = [sum(run_loop(classes[b], voxel, a, s) for s in (1, -1)) for a in range(3)]
            long = any(n >= limit for n, limit in zip(length, refinement.maximum, strict=True))
            short = all(n < limit for n, limit in zip(length, refinement.minimum, strict=True))
            if long or short:
                labels[b, *voxel], observed[b, *voxel] = empty, False
    return Target(labels=labels, observed=observed)


def plain_class_terms(logits, target, space):
    ignored = torch.where(target.observed, target.labels, 255)
    weights = torch.tensor([1 / math.log(f + 0.001) for f in space.frequencies], dtype=logits.dtype)
    sums = class_sums(logits, target.labels, target.observed)
    return {
        "cross_entropy": F.cross_entropy(logits, ignored, weights, ignore_index=255),
        "semantic_affinity": semantic_affinity(sums),
        "geometric_affinity": geometric_affinity(sums, space.empty),
    }


@pytest.mark.parametrize("empty", [0, 4])
def test_loss_terms_against_plain_ones(empty):
    weights = LossWeights(3.0, 0.7, 1.3, 0.9, 0.4)
    model, outputs = detect(replace(TINY, weights=weights), empty)
    target, space = random_target(empty=empty), label_space(empty=empty)
    kept = refined_loop(target, TINY.refinement, empty)
    assert 0 < (target.observed & ~kept.observed).sum() < (target.labels == 1).sum()
    expected = {name: term for name, term in plain_class_terms(outputs.logits, kept, space).items()}
    expected["cross_entropy"] *= 3.0
    expected["semantic_affinity"] *= 0.7
    expected["geometric_affinity"] *= 1.3
    # Eq. 5: distances as they were before refinement, but not of the voxels that it takes out.
    truth, observed = offset_truth(target, (4, 2, 2)), kept.observed[:, ::4, ::4, ::4]
    total = sum(
        (outputs.offsets[b, :, x, y, z] - truth[b, :, x, y, z]).abs().sum() for b, x, y, z in observed.nonzero()
    )
    expected["regression"] = 0.9 * total / (2 * observed.sum())
    for name, term in plain_class_terms(outputs.auxiliary.logits, kept, space).items():
        expected[f"auxiliary_{name}"] = 0.4 * term
    terms = model.losses(outputs, target)
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        # Class weights and the truth of the offsets are single precision.
        torch.testing.assert_close(terms[name], term.double(), rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_offsets_may_be_coarser_along_some_axes_only():
    model, outputs = detect(replace(TINY, offset_stride=(2, 2, 1), refinement=None))
    target = random_target()
    assert outputs.offsets.shape == (2, 6, 4, 2, 4)
    truth = offset_truth(target, (4, 2, 4))
    expected = ObservedL1().loss(outputs.offsets, truth, target.observed[:, ::4, ::4, ::2])
    torch.testing.assert_close(model.losses(outputs, target)["regression"], expected, rtol=1e-5, atol=1e-6)


def test_weights_scale_their_terms_and_lambda_all_of_the_auxiliary_head():
    target, terms = random_target(), []
    for weights in (LossWeights(1.0, 1.0, 1.0, 1.0, 1.0), LossWeights(2.0, 3.0, 5.0, 7.0, 0.2)):
        model, outputs = detect(replace(TINY, weights=weights))
        terms.append(model.losses(outputs, target))
    factors = {"cross_entropy": 2, "semantic_affinity": 3, "geometric_affinity": 5, "regression": 7}
    factors |= {f"auxiliary_{name}": 0.2 for name in list(factors)[:3]}
    assert terms[0].keys() == factors.keys()
    for name, factor in factors.items():
        torch.testing.assert_close(terms[1][name], factor * terms[0][name])


def test_refinement_is_off_unless_asked_for():
    model, outputs = detect(replace(TINY, refinement=None))
    target = random_target()
    plain = plain_class_terms(outputs.logits, target, label_space())["cross_entropy"]
    torch.testing.assert_close(model.losses(outputs, target)["cross_entropy"], plain, rtol=1e-5, atol=1e-6)
    refined, outputs = detect()
    assert not torch.allclose(refined.losses(outputs, target)["cross_entropy"], plain)


def test_a_target_of_nothing_observed_teaches_nothing():
    model, outputs = detect()
    target = random_target()
    nothing = Target(labels=torch.zeros_like(target.labels), observed=torch.zeros_like(target.observed))
    terms = model.losses(outputs, nothing)
    assert {term.item() for term in terms.values()} == {0.0}
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("empty", [0, 4])
def test_factorised_scoring_has_the_losses_of_its_logits(empty):
    config = replace(TINY, scoring=FactorisedClasses(class_factors=(2, 1, 2)), refinement=None)
    model, outputs = detect(config, empty, size=(4, 4, 2), factors=(4, 2, 4))
    assert outputs.logits.shape == (2, CLASSES, 16, 8, 8)
    terms, target = model.losses(outputs, random_target(empty=empty)), random_target(empty=empty)
    for prefix, scores, weight in (("", outputs.scores, 1.0), ("auxiliary_", outputs.auxiliary, 0.2)):
        for name, term in plain_class_terms(scores.logits, target, label_space(empty=empty)).items():
            torch.testing.assert_close(terms[prefix + name], weight * term, rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs.scores.argmax(), outputs.logits.argmax(dim=1))


def test_losses_and_offsets_leave_mixed_precision():
    model = DenseDetector(replace(TINY, drop_path=0.0), channels=CHANNELS, label_space=label_space(), factors=(2, 2, 2))
    volume, target = random(2, CHANNELS, 8, 4, 4).float(), random_target()
    full = model.losses(model(volume), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(volume)
        mixed = model.losses(outputs, target)
    # Half precision tells places apart by quarters of a voxel only.
    assert outputs.offsets.dtype == torch.float32
    for name, value in full.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], value, rtol=0.03, atol=0.03)
    sum(mixed.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_what_cannot_be_built_is_refused():
    with pytest.raises(InputError, match="aggregation_layers is 4 without regress"):
        DetectorConfig(regress=False)
    for blocks in ((2,), (), (2, 0)):
        with pytest.raises(InputError, match="blocks is"):
            DetectorConfig(blocks=blocks)
    for stride in ((2, 2, 4), (3, 1, 1), (0, 1, 1)):
        with pytest.raises(InputError, match="each is 1 or 2"):
            DetectorConfig(offset_stride=stride)


def test_the_volume_of_a_grid_fits_its_detector():
    grid = VoxelGrid((0.0, 0.0, 0.0), (0.2, 0.2, 0.2), (16, 8, 6))
    assert volume_grid(grid, (2, 2, 1), TINY).shape == (8, 4, 6)
    with pytest.raises(ValueError, match="divide the shape"):
        volume_grid(grid, (2, 2, 4), TINY)
    with pytest.raises(InputError, match=r"offset_stride is \(2, 2, 2\) and the volume has \(8, 4, 3\) voxels"):
        volume_grid(grid, (2, 2, 2), TINY)
    assert volume_grid(grid, (2, 2, 2), replace(TINY, offset_stride=(2, 2, 1))).shape == (8, 4, 3)
    assert volume_grid(grid, (2, 2, 2), replace(TINY, regress=False, aggregation_layers=0)).shape == (8, 4, 3)
