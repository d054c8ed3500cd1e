import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from occloom.geometry.rigid import invert, rigid, transform_points

LEADS = [(), (2,), (1, 2), (0,)]
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}


def random_maps(lead: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    count = int(np.prod(lead))
    rotations = Rotation.random(max(count, 1), random_state=seed).as_matrix()[:count].reshape(*lead, 3, 3)
    translations = np.random.default_rng(seed).uniform(-50, 50, (*lead, 3))
    return rigid(torch.tensor(rotations, dtype=dtype), torch.tensor(translations, dtype=dtype))


def random_points(lead: tuple[int, ...], dtype: torch.dtype, seed: int, count: int = 5) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(-50, 50, (*lead, count, 3)), dtype=dtype)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("dtype", DTYPES)
class TestGroupLaws:
    def test_a_map_undoes_its_inverse(self, lead, dtype):
        a_from_b = random_maps(lead, dtype, 0)
        identity = torch.eye(4, dtype=dtype).expand(*lead, 4, 4)
        for product in (a_from_b @ invert(a_from_b), invert(a_from_b) @ a_from_b):
            torch.testing.assert_close(product, identity, atol=TOLERANCE[dtype], rtol=0)

    def test_the_inverse_is_numpys(self, lead, dtype):
        a_from_b = random_maps(lead, dtype, 1)
        expected = torch.tensor(np.linalg.inv(a_from_b.double().numpy()), dtype=dtype)
        torch.testing.assert_close(invert(a_from_b), expected, atol=TOLERANCE[dtype], rtol=0)

    def test_inverting_a_product_turns_its_order(self, lead, dtype):
        a_from_b, b_from_c = random_maps(lead, dtype, 2), random_maps(lead, dtype, 3)
        expected = invert(b_from_c) @ invert(a_from_b)
        torch.testing.assert_close(invert(a_from_b @ b_from_c), expected, atol=TOLERANCE[dtype], rtol=0)

    def test_points_go_through_a_product_as_one_after_the_other(self, lead, dtype):
        a_from_b, b_from_c, points_c = (
            random_maps(lead, dtype, 4),
            random_maps(lead, dtype, 5),
            random_points(lead, dtype, 6),
        )
        expected = transform_points(a_from_b, transform_points(b_from_c, points_c))
        torch.testing.assert_close(
            transform_points(a_from_b @ b_from_c, points_c), expected, atol=TOLERANCE[dtype], rtol=0
        )

    def test_distances_stay(self, lead, dtype):
        points = random_points(lead, dtype, 7)
        moved = transform_points(random_maps(lead, dtype, 8), points)
        before, after = (p.diff(dim=-2).norm(dim=-1) for p in (points, moved))
        torch.testing.assert_close(after, before, atol=TOLERANCE[dtype], rtol=1e-5)

    def test_precision_and_shape_are_the_callers(self, lead, dtype):
        a_from_b = random_maps(lead, dtype, 9)
        answers = (invert(a_from_b), transform_points(a_from_b, random_points(lead, dtype, 9, count=0)))
        assert [(tuple(x.shape), x.dtype) for x in answers] == [((*lead, 4, 4), dtype), ((*lead, 0, 3), dtype)]


def test_points_move_as_scipy_moves_them():
    rotation = Rotation.random(random_state=3)
    translation = np.array([1.0, -2.0, 3.0])
    points = np.random.default_rng(0).normal(size=(7, 3))
    a_from_b = rigid(torch.tensor(rotation.as_matrix()), torch.tensor(translation))
    moved = transform_points(a_from_b, torch.tensor(points))
    np.testing.assert_allclose(moved.numpy(), rotation.apply(points) + translation, atol=1e-12)


def test_the_last_row_of_an_inverse_is_exact():
    a_from_b = random_maps((4,), torch.float32, 0)
    assert torch.equal(invert(a_from_b)[:, 3], torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(4, 4))


def test_a_mirror_is_undone_too():
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    mirror[1, 3] = 4.0
    assert torch.equal(mirror @ invert(mirror), torch.eye(4))


def test_gradients_of_the_inverse():
    assert torch.autograd.gradcheck(invert, (random_maps((2,), torch.float64, 0).requires_grad_(),))
