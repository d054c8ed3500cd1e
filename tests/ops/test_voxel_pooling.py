import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from occloom.ops import voxel_pooling as module
from occloom.ops.voxel_pooling import voxel_pooling


def naive_pooling(features, weights, voxels, num_voxels):
    """Builds the whole frustum volume P D C, then adds its rows one voxel at a time."""
    volume = weights[:, :, None] * features[:, None, :]
    sums = [volume[voxels == v].sum(dim=0) for v in range(num_voxels)]
    return torch.stack(sums)


def problem(pixels, bins, channels, num_voxels, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(pixels, channels, generator=generator, dtype=dtype)
    weights = torch.rand(pixels, bins, generator=generator, dtype=dtype)
    voxels = torch.randint(-1, num_voxels, (pixels, bins), generator=generator)
    return features, weights, voxels


@pytest.mark.parametrize("chunk", [1, 100, 1 << 21])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (7, 5, 3, 11), (30, 13, 9, 4)])
def test_equals_the_full_volume_forward_and_backward(sizes, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    features, weights, voxels = problem(*sizes)
    grad = torch.randn(sizes[3], sizes[2], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    answers = []
    for pooling in (voxel_pooling, naive_pooling):
        f, w = features.clone().requires_grad_(), weights.clone().requires_grad_()
        sums = pooling(f, w, voxels, sizes[3])
        sums.backward(grad)
        answers.append((sums.detach(), f.grad, w.grad))
    for ours, naive in zip(*answers, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-12)


def test_gradients_by_finite_differences():
    features, weights, voxels = problem(6, 4, 3, 5)
    inputs = (features.requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(lambda f, w: voxel_pooling(f, w, voxels, 5), inputs)


def test_nothing_visible_gives_zeros_and_zero_gradients():
    features, weights, voxels = problem(6, 4, 3, 5)
    features.requires_grad_()
    weights.requires_grad_()
    sums = voxel_pooling(features, weights, torch.full_like(voxels, -1), 5)
    sums.sum().backward()
    assert sums.shape == (5, 3)
    assert not sums.any()
    assert not features.grad.any()
    assert not weights.grad.any()


def test_no_pixels_at_all():
    sums = voxel_pooling(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int64), 5)
    assert torch.equal(sums, torch.zeros(5, 3))


def test_half_precision_is_summed_in_float32():
    features, weights = torch.ones(4096, 2, dtype=torch.bfloat16), torch.ones(4096, 1, dtype=torch.bfloat16)
    sums = voxel_pooling(features, weights, torch.zeros(4096, 1, dtype=torch.int64), 1)
    assert torch.equal(sums, torch.full((1, 2), 4096.0))  # bfloat16 stops counting at 256


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("pooling", [voxel_pooling, naive_pooling])
def test_the_volume_is_never_held(pooling):
    pixels, bins, channels, num_voxels = 1500, 64, 48, 20
    features, weights, voxels = problem(pixels, bins, channels, num_voxels, dtype=torch.float32)
    features.requires_grad_()
    weights.requires_grad_()
    saved = []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        pooling(features, weights, voxels, num_voxels).sum().backward()
    holds_volume = largest.elements >= pixels * bins * channels
    assert holds_volume == (pooling is naive_pooling)
    if pooling is voxel_pooling:
        assert largest.elements <= module.CHUNK_ELEMENTS
        assert sum(saved) == pixels * channels + 2 * pixels * bins


def test_same_bits_on_one_thread_and_two():
    features, weights, voxels = problem(500, 40, 16, 300, dtype=torch.float32)
    threads, answers = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            f, w = features.clone().requires_grad_(), weights.clone().requires_grad_()
            sums = voxel_pooling(f, w, voxels, 300)
            (sums**2).sum().backward()
            answers.append((sums.detach(), f.grad, w.grad))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*answers, strict=True):
        assert torch.equal(one, two)
