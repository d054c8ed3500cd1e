"""Pre-training of BEVDet4D's image branch: what it hands over, and that it learns."""

from dataclasses import replace

import torch
from tiny_surround import GRID, LABELS, LIFTING, TINY, built, random_scene, random_target, sample_of

from occloom.models.bevdet4d import camera_vector
from occloom.models.bevdet4d_pretrain import BevDet4dPretrainConfig
from occloom.recipes import bevdet4d_pretrain_town, bevdet4d_town, resolve

CONFIG = BevDet4dPretrainConfig(lifting=LIFTING)


def test_all_but_the_linear_layer_is_handed_to_the_model_by_name_and_shape():
    taught, model = built(CONFIG).state_dict(), built(TINY).state_dict()
    shapes = {name: tensor.shape for name, tensor in model.items()}
    handed = {name: tensor.shape for name, tensor in taught.items() if not name.startswith("classify.")}
    assert handed == {name: shape for name, shape in shapes.items() if name in handed}
    others = {name.split(".")[0] for name in set(model) - set(handed) if not name.startswith("lifting.refine.")}
    assert others == {"encoder", "neck", "head"}


def test_each_voxel_is_classified_by_what_fell_into_it_alone():
    model, scene = built(CONFIG).eval(), random_scene(batch=2)
    outputs = model(scene)
    lifting = model.lifting
    matched = lifting.trunk.first_stage(scene.images[:, 1].flatten(0, 1))
    lifting.refine = torch.nn.Identity()
    lifted = lifting.lift_frame(scene, 0, camera_vector(scene), matched)
    torch.testing.assert_close(outputs.depth, lifted.depth.unflatten(0, (2, 2)))
    for b, x, y, z in [(0, 3, 8, 2), (1, 12, 4, 3), (1, 0, 0, 7)]:
        naive = model.classify.weight @ lifted.volume[b, :, x, y, z] + model.classify.bias
        torch.testing.assert_close(outputs.logits[b, :, x, y, z], naive, rtol=1e-4, atol=1e-6)
    alone = model(sample_of(scene, 1))
    torch.testing.assert_close(outputs.logits[1:], alone.logits, rtol=1e-4, atol=1e-6)


def test_both_terms_teach_trunk_and_depth_network():
    model, scene = built(CONFIG).train(), random_scene(batch=2)
    losses = model.loss(model(scene), random_target(scene))
    assert set(losses) == {"depth", "cross_entropy"}
    for term in losses.values():
        model.zero_grad()
        term.backward(retain_graph=True)
        for part in (model.lifting.trunk, model.lifting.depth_net):
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_a_missing_camera_lifts_nothing():
    model, scene = built(CONFIG).eval(), random_scene(batch=1)
    blind = model(replace(scene, camera_valid=torch.zeros_like(scene.camera_valid)))
    assert torch.equal(
        blind.logits, model.classify.bias.view(1, -1, 1, 1, 1).expand(1, LABELS.num_classes, *GRID.shape)
    )


def test_the_recipes_share_one_lifting():
    pretrained, town = bevdet4d_pretrain_town().model, bevdet4d_town().model
    assert pretrained.lifting == town.lifting
    for name in ("drocc-bevdet4d-town", "cotr-town", "drocc-cotr-town"):
        model = resolve(name).model
        assert getattr(model, "lifting", None) == town.lifting or model.baseline.lifting == town.lifting
