"""Similarity of relative codes against the definition row by row."""

import math

import numpy as np
import pytest
import torch

from relreps import NumericalWarning, RelativeProjection
from relreps.metrics import latent_similarity
from tests._data import orthogonal

N, ANCHORS = 30, torch.tensor([3, 0, 7, 20, 11])
close = torch.testing.assert_close
each_form = pytest.mark.parametrize("centered", [False, True], ids=["plain", "centered"])


def spaces():
    x = torch.randn(N, 6, dtype=torch.float64) + 0.5
    return x, (x + 0.7 * torch.randn_like(x)) @ torch.randn(6, 9, dtype=torch.float64)


def cosine(a, b):
    return a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b))


@each_form
def test_it_is_the_definition(centered):
    x, y = spaces()
    codes = [
        np.array([[float(cosine(row, side[a])) for a in ANCHORS] for row in side])
        for side in (x, y)
    ]
    if centered:
        codes = [code - code.mean(0) for code in codes]
    wanted = np.mean([cosine(a, b) for a, b in zip(*codes, strict=True)])
    assert float(latent_similarity(x, y, ANCHORS, centered)) == pytest.approx(wanted, abs=1e-12)


def test_it_is_the_mean_cosine_of_relative_projections():
    x, y = spaces()
    codes = [RelativeProjection.from_anchors(side[ANCHORS])(side) for side in (x, y)]
    wanted = torch.nn.functional.cosine_similarity(*codes).mean()
    close(latent_similarity(x, y, ANCHORS), wanted)


@each_form
def test_a_rotated_and_scaled_copy_is_the_same_network(centered):
    x, _ = spaces()
    turned = 5 * x @ orthogonal(6)
    assert float(latent_similarity(x, turned, ANCHORS, centered)) == pytest.approx(1)


def test_the_plain_form_is_high_where_codes_share_a_mean_and_the_centered_one_is_not():
    x, y = torch.randn(2, 200, 20) + 1
    anchors = torch.arange(50)
    assert latent_similarity(x, y, anchors) > 0.8
    assert latent_similarity(x, y, anchors, centered=True).abs() < 0.1


@each_form
def test_gradients_flow_through_anchors_too(centered):
    x, y = spaces()
    inputs = x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: latent_similarity(a, b, ANCHORS, centered), inputs)
    two = torch.tensor([0, 1])
    (gradient,) = torch.autograd.grad(latent_similarity(x, y, two, centered), x)
    assert gradient[:2].norm(dim=-1).min() > gradient[2:].norm(dim=-1).median()


@each_form
def test_rows_of_zeros_count_as_nothing(centered):
    x, y = spaces()
    x[5] = 0
    x.requires_grad_()
    value = latent_similarity(x, y, ANCHORS, centered)
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.isfinite().all()
    if not centered:
        rest = torch.arange(N) != 5
        places = torch.where(ANCHORS > 5, ANCHORS - 1, ANCHORS)
        close(value, latent_similarity(x[rest], y[rest], places) * (N - 1) / N)


@each_form
def test_rows_that_differ_in_length_alone_are_one_point(centered):
    x, _ = spaces()
    collapsed = x[:1] * torch.rand(N, 1, dtype=torch.float64)
    with pytest.warns(NumericalWarning, match="all rows of `y` point the same way"):
        assert latent_similarity(x, collapsed, ANCHORS, centered).isnan()


def test_compiles_in_one_graph():
    x, y = spaces()
    torch._dynamo.reset()
    compiled = torch.compile(latent_similarity, fullgraph=True, backend="eager")
    close(compiled(x, y, ANCHORS), latent_similarity(x, y, ANCHORS))


@pytest.mark.parametrize(
    ("anchors", "error", "message"),
    [
        ([0, 1], TypeError, "`anchors` must be a tensor of row indices, got list"),
        (torch.randn(3, 6), TypeError, "`anchors` must be integers.*not the rows themselves"),
        (torch.ones(N, dtype=torch.bool), TypeError, "`anchors` must be integers.*torch.bool"),
        (torch.zeros(2, 3).long(), ValueError, r"`anchors` must have shape \(A,\).*got \(2, 3\)"),
        (torch.zeros(0).long(), ValueError, r"with at least one index of a row, got \(0,\)"),
        (torch.tensor([0, N]), ValueError, r"`anchors` must be row indices in 0..29, got 0..30"),
        (torch.tensor([-1, 0]), ValueError, r"got -1..0"),
    ],
)
def test_bad_anchors(anchors, error, message):
    with pytest.raises(error, match=message):
        latent_similarity(*spaces(), anchors)
