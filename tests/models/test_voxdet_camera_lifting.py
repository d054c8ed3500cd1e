"""`DepthGuidedLifting` against loops over pixels, queries, cameras and samples."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tiny_voxdet import PLANES, STEADY, random_scene

from occloom.grid import VoxelGrid
from occloom.lifting.proposals import depth_proposals
from occloom.models.voxdet_camera import DepthGuidedLifting, PixelCentres

COARSE = VoxelGrid(lower=(0.0, -3.2, -1.2), voxel_size=(0.8, 0.8, 0.8), shape=(8, 8, 4))
FEATURE_SIZE, STRIDE = (6, 10), 4


def lifting(config=STEADY, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        part = DepthGuidedLifting(config, COARSE)
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return part


def context_and_depth(batch=2, cameras=1, channels=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(batch, cameras, channels, *FEATURE_SIZE, generator=generator)
    logits = torch.randn(batch, cameras, PLANES.count, *FEATURE_SIZE, generator=generator)
    return context, logits.softmax(dim=2)


def plain_attention(attention, query, u, v, d, value, depth):
    """Eight corners a sample, `points` samples a head, for one query in one image."""
    heads, points, (channels, h, w), planes = STEADY.heads, STEADY.points, value.shape, len(depth)
    shift = attention.sampling_offsets(query).view(heads, points, 2)
    deeper = attention.sampling_offsets_depth(query).view(heads, points)
    weight = attention.attention_weights(query).view(heads, points).exp()
    width = channels // heads
    sums = []
    for head in range(heads):
        own, total = value[head * width : (head + 1) * width], 0
        for point in range(points):
            x, y = u * w - 0.5 + shift[head, point, 0], v * h - 0.5 + shift[head, point, 1]
            z = d * planes - 0.5 + deeper[head, point]
            for i, j, k in itertools.product((0, 1), repeat=3):
                column, row, plane = (math.floor(t.item()) + e for t, e in zip((x, y, z), (i, j, k), strict=True))
                if 0 <= column < w and 0 <= row < h and 0 <= plane < planes:
                    near = (1 - (x - column).abs()) * (1 - (y - row).abs()) * (1 - (z - plane).abs())
                    share = weight[head, point] / weight[head].sum()
                    total = total + share * near * depth[plane, row, column] * own[:, row, column]
        sums.append(total if torch.is_tensor(total) else torch.zeros(width))
    return torch.cat(sums)


def plain_queries(part, scene, b, queries, places, context, depth):
    """Post-norm layers on the queries of one sample, one query after the other."""
    centres = COARSE.centres()
    embedded = context[b] + (part.camera_embedding + part.level_embedding)[0, :, None, None]
    for layer in part.layers:
        maps = torch.einsum("oc,nchw->nohw", layer.attention.value_proj.weight, embedded)
        maps = maps + layer.attention.value_proj.bias[:, None, None]
        after = []
        for query, place in zip(queries, places, strict=True):
            found = []
            for n in range(len(maps)):
                camera = scene.cameras.camera_from_ego[b, 0, n] @ torch.cat([centres[*place], torch.ones(1)])
                pixel = scene.cameras.intrinsics[b, 0, n] @ camera[:3]
                u = (pixel[0] / pixel[2] + 0.5) / (FEATURE_SIZE[1] * STRIDE)
                v = (pixel[1] / pixel[2] + 0.5) / (FEATURE_SIZE[0] * STRIDE)
                if scene.camera_valid[b, 0, n] and camera[2] > 0 and 0 < u < 1 and 0 < v < 1:
                    d = ((camera[2] - PLANES.near) / PLANES.step + 0.5) / PLANES.count
                    found.append(plain_attention(layer.attention, query, u, v, d, maps[n], depth[b, n]))
            mean = sum(found) / len(found) if found else torch.zeros_like(query)
            query = layer.attention_norm(query + layer.attention.output_proj(mean))
            after.append(layer.feedforward_norm(query + layer.feedforward(query)))
        queries = after
    return queries


def plain_lifting(part, scene, context, depth):
    """Splat pixel by pixel, embed every voxel, then ask the images for each proposed one."""
    geometry, valid = PixelCentres(PLANES), scene.camera_valid[:, 0]
    voxels = geometry.voxels(scene, COARSE, FEATURE_SIZE, STRIDE)
    proposed = depth_proposals(
        scene.depth[:, 0] * valid[..., None, None],
        scene.cameras.intrinsics[:, 0],
        scene.cameras.camera_from_ego[:, 0],
        COARSE,
    )
    answers = []
    for b in range(len(context)):
        sums = [torch.zeros(context.shape[2]) for _ in range(COARSE.num_voxels)]
        for n, i, j, d in itertools.product(*map(range, (context.shape[1], *FEATURE_SIZE, PLANES.count))):
            if valid[b, n] and voxels[b, n, i, j, d] >= 0:
                at = voxels[b, n, i, j, d].item()
                sums[at] = sums[at] + context[b, n, :, i, j] * depth[b, n, d, i, j]
        volume = part.embed_volume(torch.stack(sums))
        rows = list(part.embed_unproposed(volume))
        places = proposed[b].nonzero().tolist()
        flat = [(x * COARSE.shape[1] + y) * COARSE.shape[2] + z for x, y, z in places]
        asked = plain_queries(part, scene, b, [volume[i] for i in flat], places, context, depth)
        for i, row in zip(flat, asked, strict=True):
            rows[i] = row
        answers.append(torch.stack(rows).view(*COARSE.shape, -1).permute(3, 0, 1, 2))
    return torch.stack(answers)


@pytest.mark.parametrize(("cameras", "size"), [(1, (24, 40)), (2, (24, 40)), (1, (22, 37))])
def test_lifting_against_loops_over_pixels_and_queries_forward_and_backward(cameras, size):
    """Also where the last cells reach beyond the picture: places are shares of what the feature map covers."""
    part, scene = lifting(), random_scene(cameras=cameras, size=size, known=0.008)
    if cameras > 1:
        scene = replace(scene, camera_valid=torch.tensor([[[True, False]], [[True, True]]]))
    weight = torch.randn(2, 8, *COARSE.shape, generator=torch.Generator().manual_seed(5))
    results = []
    for function in (lambda c, d: part(scene, c, d, STRIDE), lambda c, d: plain_lifting(part, scene, c, d)):
        part.zero_grad()
        context, depth = (x.requires_grad_() for x in context_and_depth(cameras=cameras))
        volume = function(context, depth)
        (volume * weight).sum().backward()
        grads = {name: p.grad.clone() for name, p in part.named_parameters()}
        results.append({"volume": volume.detach(), "context": context.grad, "depth": depth.grad} | grads)
    for name, plain in results[1].items():
        assert plain.any(), name
        torch.testing.assert_close(
            results[0][name], plain, rtol=2e-4, atol=2e-4 * plain.abs().max().item(), msg=lambda m, n=name: f"{n}: {m}"
        )


def test_query_i_samples_at_the_centre_of_voxel_i():
    """Features that tell their own pixel come back as the pixel the voxel's centre projects to."""
    part, scene = lifting(), random_scene(batch=2, known=0.05)
    attention = part.layers[0].attention
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        for layer in (attention.value_proj, attention.output_proj):
            layer.weight.copy_(torch.eye(8))
        part.camera_embedding.zero_()
        part.level_embedding.zero_()
    h, w = FEATURE_SIZE
    v, u = torch.meshgrid(torch.arange(h) * 4 + 1.5, torch.arange(w) * 4 + 1.5, indexing="ij")
    context = torch.stack([u, v, torch.ones_like(u)] + [torch.zeros_like(u)] * 5).expand(2, 1, -1, -1, -1)
    depth = torch.arange(PLANES.count)[:, None, None] * PLANES.step + PLANES.near
    answers = []
    attention.register_forward_hook(lambda module, inputs, output: answers.append(output))
    # The two heads read channels of their own; all read the same depth, here the depth itself instead of a probability.
    part(scene, context, depth.expand(2, 1, -1, h, w), STRIDE)
    checked = 0
    for b in range(2):
        proposed = depth_proposals(
            scene.depth[:, 0], scene.cameras.intrinsics[:, 0], scene.cameras.camera_from_ego[:, 0], COARSE
        )[b]
        for row, place in zip(answers[0][b], proposed.nonzero().tolist(), strict=False):
            camera = scene.cameras.camera_from_ego[b, 0, 0] @ torch.cat([COARSE.centres()[*place], torch.ones(1)])
            pixel = scene.cameras.intrinsics[b, 0, 0] @ camera[:3] / camera[2]
            within = 1.5 < pixel[0] < 4 * w - 2.5 and 1.5 < pixel[1] < 4 * h - 2.5
            if within and PLANES.near < camera[2] < PLANES.near + PLANES.step * (PLANES.count - 1):
                # Bilinear in the pixel and linear in depth: the product of the two linear fields at the very place.
                expected = torch.stack([pixel[0] * camera[2], pixel[1] * camera[2], camera[2]])
                torch.testing.assert_close(row[:3], expected, rtol=1e-4, atol=1e-4)
                checked += 1
    assert checked > 10


def test_without_proposals_every_voxel_is_embedded_alike():
    part, scene = lifting(), random_scene(known=0.0)
    assert not scene.depth.any()
    context, depth = context_and_depth()
    torch.testing.assert_close(part(scene, context, depth, STRIDE), plain_lifting(part, scene, context, depth))


def test_proposals_change_their_own_voxels_only():
    part, scene = lifting(), random_scene(known=0.05)
    context, depth = context_and_depth()
    nothing = part(replace(scene, depth=torch.zeros_like(scene.depth)), context, depth, STRIDE)
    differs = (part(scene, context, depth, STRIDE) != nothing).any(dim=1)
    proposed = depth_proposals(
        scene.depth[:, 0], scene.cameras.intrinsics[:, 0], scene.cameras.camera_from_ego[:, 0], COARSE
    )
    assert torch.equal(differs, proposed)
    assert proposed[0].sum() != proposed[1].sum()


def test_order_of_cameras_does_not_matter():
    part, scene, (context, depth) = lifting(), random_scene(cameras=3, known=0.05), context_and_depth(cameras=3)
    order = torch.tensor([2, 0, 1])
    shuffled = replace(
        scene,
        cameras=scene.cameras.map(lambda t: t[:, :, order]),
        images=scene.images[:, :, order],
        depth=scene.depth[:, :, order],
    )
    expected = part(scene, context, depth, STRIDE)
    torch.testing.assert_close(
        part(shuffled, context[:, order], depth[:, order], STRIDE), expected, rtol=1e-4, atol=1e-4
    )
