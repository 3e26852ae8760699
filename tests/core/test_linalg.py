"""The numerical traps: rows without a direction, extreme sizes, ties and missing ranks."""

import pytest
import scipy.linalg
import torch
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck, gradgradcheck

from relreps._core.linalg import (
    at_least_float32,
    full_precision,
    inverse_sqrt,
    polar_factor,
    unit_rows,
)

HALF = (torch.float16, torch.bfloat16)
close = torch.testing.assert_close


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def rotation(n):
    return torch.linalg.qr(normal(n, n)).Q


def of_rank(rank, rows, columns):
    return normal(rows, rank) @ normal(rank, columns)


def assert_orthonormal(w):
    short = w if w.shape[0] <= w.shape[1] else w.mT
    close(short @ short.mT, torch.eye(len(short), dtype=w.dtype), atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
def test_unit_rows_of_a_zero_row_is_zero_with_zero_gradient(dtype):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    out = unit_rows(x)
    out.sum().backward()
    assert out.dtype == dtype
    close(out, torch.tensor([[0.0, 0.0], [0.6, 0.8]], dtype=dtype))
    assert (x.grad[0] == 0).all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e-30), (torch.float32, 1e30), (torch.float16, 1e-6), (torch.float16, 6e4)],
    ids=str,
)
def test_unit_rows_at_sizes_whose_squares_leave_the_type(dtype, size):
    x = torch.tensor([[0.6, -0.8, 0.3]])
    close(unit_rows((x * size).to(dtype)).float(), unit_rows(x), atol=2e-2, rtol=0)


def test_unit_rows_differentiates_twice_at_any_size():
    x = (normal(4, 3) * torch.tensor([[1e-2], [1.0], [1e2], [1.0]])).requires_grad_()
    assert gradcheck(unit_rows, x)
    assert gradgradcheck(unit_rows, x)


def test_unit_rows_without_features():
    assert unit_rows(torch.empty(3, 0)).shape == (3, 0)


def test_only_half_types_are_widened():
    assert all(
        at_least_float32(torch.ones(1, dtype=dtype)).dtype == torch.float32 for dtype in HALF
    )
    x = normal(1)
    assert at_least_float32(x) is x


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 7), (1, 3)], ids=str)
def test_polar_factor_is_that_of_scipy(shape):
    m = normal(*shape)
    side = "right" if shape[0] >= shape[1] else "left"
    close(polar_factor(m), torch.from_numpy(scipy.linalg.polar(m.numpy(), side=side)[0]))


@pytest.mark.parametrize("sign", [1, -1], ids=["proper", "mirrored"])
def test_polar_factor_without_reflections_is_the_rotation_of_scipy(sign):
    x, y = normal(10, 3), normal(10, 3)
    y[:, 0] *= torch.linalg.det(x.mT @ y).sign() * sign
    oracle = Rotation.align_vectors(y.numpy(), x.numpy())[0].as_matrix()
    close(polar_factor(x.mT @ y, allow_reflection=False), torch.from_numpy(oracle).mT)


@pytest.mark.parametrize(
    "m",
    [
        lambda: normal(4, 4),
        lambda: 2 * rotation(4),
        lambda: normal(6, 3),
        lambda: normal(3, 6),
        lambda: 2 * rotation(6)[:, :3],
        lambda: 2 * rotation(6)[:3],
    ],
    ids=["generic", "tied", "tall", "wide", "tall-tied", "wide-tied"],
)
def test_polar_factor_gradient(m):
    assert gradcheck(polar_factor, m().requires_grad_())


@pytest.mark.parametrize("sign", [1, -1])
def test_polar_factor_gradient_without_reflections(sign):
    m = normal(4, 4)
    m[0] *= torch.linalg.det(m).sign() * sign
    assert gradcheck(lambda m: polar_factor(m, False), m.requires_grad_())


DEFICIENT = {
    "tall": lambda: of_rank(2, 7, 4),
    "wide": lambda: of_rank(2, 4, 7),
    "square": lambda: of_rank(2, 6, 6),
    "one-missing": lambda: of_rank(5, 6, 6),
    "shared-dead-features": lambda: torch.block_diag(rotation(2), torch.zeros(3, 3)),
    "swapped-axes": lambda: torch.outer(*torch.eye(3, dtype=torch.float64)[:2]),
    "zero": lambda: torch.zeros(3, 3, dtype=torch.float64),
}


@pytest.mark.parametrize(
    ("case", "allow_reflection"),
    [(case, True) for case in DEFICIENT] + [(case, False) for case in [*DEFICIENT][2:]],
)
def test_rank_deficient_polar_factor_does_not_depend_on_rounding(case, allow_reflection):
    m = DEFICIENT[case]()
    w = polar_factor(m, allow_reflection)
    assert_orthonormal(w)
    close((w * m).sum(), torch.linalg.svdvals(m).sum())
    assert allow_reflection or torch.linalg.det(w) > 0
    for same in (
        polar_factor(3.7 * m, allow_reflection),
        polar_factor(m.mT.contiguous(), allow_reflection).mT,
        polar_factor(m + 1e-17 * m.norm() * normal(*m.shape), allow_reflection),
    ):
        close(same, w, atol=1e-10, rtol=0)


def test_the_free_part_is_the_identity_where_it_can_be():
    q = rotation(3)
    m = torch.block_diag(q, torch.zeros(4, 4))
    close(polar_factor(m), torch.block_diag(q, torch.eye(4, dtype=q.dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", DEFICIENT)
def test_rank_deficient_gradient_is_finite(case, dtype):
    m = DEFICIENT[case]().to(dtype).requires_grad_()
    (polar_factor(m) * normal(*m.shape, dtype=dtype)).sum().backward()
    assert m.grad.isfinite().all()


@pytest.mark.parametrize("tied", [False, True])
def test_inverse_sqrt_is_that_of_scipy_and_differentiates(tied):
    q = rotation(4)
    values = torch.tensor([2.0, 2.0, 2.0, 5.0] if tied else [0.1, 1.0, 2.0, 5.0]).double()
    m = (q * values) @ q.mT
    oracle = scipy.linalg.fractional_matrix_power(m.numpy(), -0.5)
    close(inverse_sqrt(m), torch.from_numpy(oracle))
    assert gradcheck(lambda m: inverse_sqrt((m + m.mT) / 2), m.requires_grad_())


@pytest.mark.parametrize("shape", [(4, 4), (5, 4), (4, 5)], ids=["square", "tall", "wide"])
@pytest.mark.parametrize("allow_reflection", [True, False])
def test_the_gradient_where_directions_vanish_on_both_sides_is_that_of_the_others(
    shape, allow_reflection
):
    if shape[0] != shape[1] and not allow_reflection:
        shape = (5, 5)
    live = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)).requires_grad_()

    def padded(block):
        rest = torch.zeros(shape[0] - 2, shape[1] - 2, dtype=torch.float64)
        return torch.block_diag(block, rest)

    assert gradcheck(lambda block: polar_factor(padded(block), allow_reflection), live)
    m, g = padded(live.detach()).requires_grad_(), normal(*shape)
    (polar_factor(m, allow_reflection) * g).sum().backward()
    assert (m.grad[2:, 2:] == 0).all()
    assert m.grad.norm() < 2 * g.norm()


def test_the_gradient_of_an_inverse_root_of_low_rank_follows_its_directions():
    q = torch.linalg.qr(normal(5, 3)).Q

    def root(rows):
        return inverse_sqrt(q @ rows.mT @ rows @ q.mT)

    assert gradcheck(root, normal(6, 3).requires_grad_())

    def turned(generator):  # the rank stays, the directions move
        turn = torch.linalg.matrix_exp(generator - generator.mT)
        return inverse_sqrt(turn @ (q * torch.tensor([1.0, 2.0, 2.0])) @ q.mT @ turn.mT)

    assert gradcheck(turned, (0.1 * normal(5, 5)).requires_grad_())


@pytest.mark.parametrize("function", [polar_factor, inverse_sqrt])
def test_transforms_of_matrices(function):
    x = normal(3, 6, 4)
    many = x.mT @ x
    each = torch.stack([function(m) for m in many])
    close(torch.vmap(function)(many), each)
    wanted = torch.stack([torch.autograd.functional.jacobian(function, m) for m in many])
    close(torch.vmap(torch.func.jacrev(function))(many), wanted)
    shared = torch.vmap(lambda m, g: torch.func.vjp(function, m)[1](g)[0], (None, 0))
    close(
        shared(many[0], x[:, :4]),
        torch.stack([(wanted[0] * g[..., None, None]).sum((0, 1)) for g in x[:, :4]]),
    )


def test_a_kept_graph_is_refused_only_when_it_is_differentiated():
    m = normal(3, 3).requires_grad_()
    (slope,) = torch.autograd.grad(polar_factor(m)[0, 1], m, create_graph=True)
    with pytest.raises(RuntimeError, match="polar_factor has no second derivative"):
        slope.sum().backward()


def test_full_precision_does_nothing_without_autocast():
    x = normal(2)
    with full_precision(x.to("meta")), full_precision(x):
        assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(x):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
