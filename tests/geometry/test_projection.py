import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from occloom.geometry.projection import feature_pixels, frustum, project, unproject
from occloom.geometry.rigid import transform_points
from occloom.grid import VoxelGrid

LEADS = [(), (2,), (1, 2), (0,)]
DTYPES = [torch.float32, torch.float64]


def random_intrinsics(lead: tuple[int, ...], dtype: torch.dtype, rng: np.random.Generator) -> torch.Tensor:
    intrinsics = np.zeros((*lead, 3, 3))
    intrinsics[..., 0, 0] = rng.choice([-1, 1], lead) * rng.uniform(200, 800, lead)
    intrinsics[..., 0, 1] = rng.uniform(-3, 3, lead)
    intrinsics[..., 0, 2] = rng.uniform(100, 600, lead)
    intrinsics[..., 1, 0] = rng.uniform(-80, 80, lead)
    intrinsics[..., 1, 1] = rng.uniform(200, 800, lead)
    intrinsics[..., 1, 2] = rng.uniform(50, 200, lead)
    intrinsics[..., 2, 2] = 1
    return torch.tensor(intrinsics, dtype=dtype)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 6])
def test_unprojecting_undoes_projecting(lead, dtype, count):
    rng = np.random.default_rng(0)
    intrinsics = random_intrinsics(lead, dtype, rng)
    points = torch.tensor(rng.uniform((-20, -5, 1), (20, 5, 60), (*lead, count, 3)), dtype=dtype)
    pixels, depth = project(points, intrinsics)
    again = unproject(pixels, depth, intrinsics)
    assert (pixels.dtype, again.dtype) == (dtype, dtype)
    torch.testing.assert_close(again, points, atol=1e-3 if dtype == torch.float32 else 1e-11, rtol=0)
    pixels_again, depth_again = project(again, intrinsics)
    torch.testing.assert_close(pixels_again, pixels, atol=1e-2 if dtype == torch.float32 else 1e-9, rtol=0)
    assert torch.equal(depth_again, depth)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10))
def test_projecting_agrees_with_homogeneous_numpy_and_forgets_the_scale(seed, scale):
    rng = np.random.default_rng(seed)
    intrinsics = random_intrinsics((), torch.float64, rng)
    points = rng.uniform((-20, -5, 1), (20, 5, 60), (4, 3))
    homogeneous = points @ intrinsics.numpy().T
    pixels, depth = project(torch.tensor(points), intrinsics)
    np.testing.assert_allclose(pixels.numpy(), homogeneous[:, :2] / homogeneous[:, 2:], rtol=1e-12)
    np.testing.assert_array_equal(depth.numpy(), points[:, 2])
    np.testing.assert_allclose(project(torch.tensor(points * scale), intrinsics)[0].numpy(), pixels.numpy(), rtol=1e-9)


def test_points_behind_the_camera_stay_finite_in_value_and_gradient():
    points = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, -3.0], [1.0, 1.0, 2.0]], requires_grad=True)
    pixels, depth = project(points, torch.diag(torch.tensor([500.0, 500.0, 1.0])))
    torch.where(depth > 0, pixels.sum(-1), 0.0).sum().backward()
    assert pixels.isfinite().all()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    assert points.grad[3].abs().sum() > 0
    assert depth.tolist() == [0.0, 0.0, -3.0, 2.0]


def test_gradients():
    rng = np.random.default_rng(0)
    intrinsics = random_intrinsics((2,), torch.float64, rng)
    points = torch.tensor(rng.uniform((-2, -2, 1), (2, 2, 6), (2, 3, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: project(p, intrinsics), (points,))


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_a_feature_sits_at_the_mean_of_the_pixels_it_covers(stride):
    height, width = 3, 5
    v, u = np.mgrid[: height * stride, : width * stride].astype(float)
    expected = [a.reshape(height, stride, width, stride).mean(axis=(1, 3)) for a in (u, v)]
    pixels = feature_pixels((height, width), stride, dtype=torch.float64)
    np.testing.assert_array_equal(pixels.numpy(), np.stack(expected, axis=-1))


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_frustum_is_the_naive_loop(lead, dtype):
    rng = np.random.default_rng(2)
    intrinsics = random_intrinsics(lead, dtype, rng)
    depths = torch.tensor([1.5, 4.0, 20.0], dtype=dtype)
    size, stride = (2, 4), 8
    points = frustum(intrinsics, depths, size, stride)
    assert (points.shape, points.dtype) == ((*lead, 3, *size, 3), dtype)
    expected = np.zeros(points.shape)
    for place in np.ndindex(*points.shape[:-1]):
        d, i, j = place[len(lead) :]
        pixel = np.array([stride * j + (stride - 1) / 2, stride * i + (stride - 1) / 2, 1.0])
        inverse = np.linalg.inv(intrinsics[place[: len(lead)]].double().numpy())
        expected[place] = inverse @ pixel * depths[d].item()
    np.testing.assert_allclose(points.numpy(), expected, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-4)


@pytest.mark.real_data
def test_the_voxels_in_view_are_those_of_the_published_mask(real_data):
    published = np.load(real_data / "semantickitti_fov" / "fov_mask_1.npy")
    lines = (real_data / "semantickitti_calib_all" / "08.txt").read_text().splitlines()
    rows = {
        key: np.array(rest.split(), float).reshape(3, 4) for key, rest in (line.split(":") for line in lines if line)
    }
    camera_from_ego = torch.tensor(np.vstack([rows["Tr"], [0, 0, 0, 1]]))
    grid = VoxelGrid(lower=(0.0, -25.6, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(256, 256, 32))
    centres = grid.centres(dtype=torch.float64).reshape(-1, 3)
    pixels, depth = project(transform_points(camera_from_ego, centres), torch.tensor(rows["P2"][:, :3].copy()))
    u, v = pixels.round().unbind(-1)
    seen = (depth > 0) & (u >= 0) & (u < 1220) & (v >= 0) & (v < 370)
    np.testing.assert_array_equal(seen.numpy(), published)
