"""Graph paths against SciPy, decoded lengths against the curves they follow."""

import copy
import itertools
import math

import pytest
import torch
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import cdist
from torch import nn

from relreps import (
    GraphGeodesic,
    NumericalWarning,
    RelativeGeodesic,
    RelativeProjection,
    relative_projection,
)


def circle(n):
    angle = torch.linspace(0, 2 * math.pi, n + 1, dtype=torch.float64)[:-1]
    return torch.stack((angle.cos(), angle.sin()), -1)


def test_paths_on_a_circle_go_round_it():
    ring = circle(400)
    code = GraphGeodesic(ring, k=4)(ring[:200], ring[:1])
    wanted = torch.linspace(0, math.pi, 201, dtype=torch.float64)[:200, None]
    torch.testing.assert_close(code, wanted, atol=1e-2, rtol=1e-3)


def test_paths_are_those_of_scipy():
    reference = torch.randn(30, 3, dtype=torch.float64)
    k = 5
    distances = cdist(reference, reference)
    kth = [sorted(row)[k] for row in distances]
    joined = (distances <= torch.tensor(kth)[:, None].numpy()) * distances
    paths = shortest_path(joined, directed=False)
    (cached,) = GraphGeodesic(reference, k).prepare(reference[:4])
    torch.testing.assert_close(cached, torch.from_numpy(paths[:4]), atol=1e-7, rtol=1e-7)


def test_rows_attach_to_their_nearest_neighbours():
    reference = torch.randn(30, 3, dtype=torch.float64)
    graph = GraphGeodesic(reference, 5)
    (paths,) = graph.prepare(reference[:4])
    x = torch.randn(6, 3, dtype=torch.float64)
    distance = torch.from_numpy(cdist(x, reference))
    near = distance.topk(5, largest=False)
    wanted = (near.values[:, :, None] + paths.mT[near.indices]).amin(1)
    torch.testing.assert_close(graph(x, reference[:4]), wanted, atol=1e-7, rtol=1e-7)


def test_paths_are_walked_when_anchors_are_set(monkeypatch):
    graph = GraphGeodesic(torch.randn(30, 3), 5)
    calls = []
    walk = GraphGeodesic.prepare
    monkeypatch.setattr(GraphGeodesic, "prepare", lambda s, a: calls.append(1) or walk(s, a))
    projection = RelativeProjection(3, 4, graph).set_anchors(torch.randn(4, 3))
    for _ in range(3):
        projection(torch.randn(2, 3))
    projection.to("cpu")
    assert len(calls) == 1


def test_invariant_if_the_reference_moves_along():
    reference, x = torch.randn(40, 3).double(), torch.randn(5, 3).double()
    q = torch.linalg.qr(torch.randn(3, 3).double()).Q
    code = GraphGeodesic(reference, 6)(x, reference[:4])
    moved = GraphGeodesic(reference @ q + 2, 6)(x @ q + 2, reference[:4] @ q + 2)
    torch.testing.assert_close(moved, code, atol=1e-6, rtol=1e-6)
    assert GraphGeodesic(reference, 6).invariances(3, 4) == frozenset()


def test_coincident_rows_are_joined():
    line = torch.arange(6.0, dtype=torch.float64)[:, None].repeat_interleave(3, 0)
    code = GraphGeodesic(line, k=4)(torch.tensor([[5.0]]).double(), line[:1])
    torch.testing.assert_close(code, torch.tensor([[5.0]]).double())


def test_a_graph_in_parts_warns_and_stays_finite():
    parts = torch.cat((torch.randn(10, 2), torch.randn(10, 2) + 100))
    with pytest.warns(NumericalWarning, match="falls into 2 parts.*Raise `k`"):
        code = GraphGeodesic(parts, k=3)(parts, parts[:1])
    assert code.isfinite().all()
    assert code[10:].min() > code[:10].max()


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_linear_decoder_keeps_straight_lines(steps):
    decoder = nn.Linear(4, 6, bias=False).double()
    x, anchors = torch.randn(5, 4).double(), torch.randn(3, 4).double()
    wanted = relative_projection(decoder(x), decoder(anchors), "euclidean")
    torch.testing.assert_close(RelativeGeodesic(decoder, steps)(x, anchors), wanted)


def curved():
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5)).double()


@pytest.mark.parametrize("metric", ["euclidean", "spherical", "fisher"])
def test_an_affine_change_of_the_latent_space_does_not_matter(metric):
    decoder, x, anchors = curved(), torch.randn(5, 4).double(), torch.randn(3, 4).double()
    t, shift = torch.randn(4, 4).double(), torch.randn(4).double()
    back = nn.Linear(4, 4).double()
    inverse = torch.linalg.inv(t)
    back.weight.data, back.bias.data = inverse.mT, -shift @ inverse
    code = RelativeGeodesic(decoder, 6, metric)(x, anchors)
    moved = RelativeGeodesic(nn.Sequential(back, decoder), 6, metric)
    torch.testing.assert_close(moved(x @ t + shift, anchors @ t + shift), code)


@pytest.mark.parametrize("metric", ["euclidean", "spherical", "fisher"])
def test_lengths_grow_under_refinement_and_are_symmetric(metric):
    decoder, x, anchors = curved(), torch.randn(5, 4).double(), torch.randn(3, 4).double()
    lengths = [RelativeGeodesic(decoder, steps, metric)(x, anchors) for steps in (1, 2, 4, 8, 16)]
    for coarse, fine in itertools.pairwise(lengths):
        assert (fine >= coarse - 1e-12).all()
    there_and_back = RelativeGeodesic(decoder, 8, metric)(anchors, x)
    torch.testing.assert_close(there_and_back, lengths[3].mT)


def test_fisher_distance_of_distributions():
    """Twice the angle between root probabilities, for one step."""
    p, q = torch.tensor([[0.2, 0.8]]).double(), torch.tensor([[0.5, 0.5]]).double()
    code = RelativeGeodesic(nn.Identity(), 1, "fisher")(p.log(), q.log())
    wanted = 2 * torch.arccos((p * q).sqrt().sum())
    torch.testing.assert_close(code.squeeze(), wanted)


@pytest.mark.parametrize("metric", ["euclidean", "spherical", "fisher"])
def test_zero_with_finite_gradient_at_an_anchor(metric):
    decoder, anchors = curved(), torch.randn(3, 4).double()
    x = anchors[:1].clone().requires_grad_()
    code = RelativeGeodesic(decoder, 4, metric)(x, anchors)
    torch.testing.assert_close(code[0, 0], torch.zeros(()).double(), atol=1e-12, rtol=0)
    code.sum().backward()
    assert x.grad.isfinite().all()


def test_outputs_of_any_shape():
    decoder = nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 2, 2))).double()
    x, anchors = torch.randn(5, 4).double(), torch.randn(3, 4).double()
    flat = nn.Sequential(decoder, nn.Flatten())
    torch.testing.assert_close(
        RelativeGeodesic(decoder)(x, anchors), RelativeGeodesic(flat)(x, anchors)
    )


@pytest.mark.parametrize("chunk_size", [1, 2, 100])
def test_chunks_change_nothing(chunk_size):
    decoder, x, anchors = curved(), torch.randn(5, 4).double(), torch.randn(3, 4).double()
    chunked = RelativeGeodesic(decoder, 3, chunk_size=chunk_size)
    torch.testing.assert_close(chunked(x, anchors), RelativeGeodesic(decoder, 3)(x, anchors))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GraphGeodesic(torch.ones(1, 2)), ValueError, "at least 2 row"),
        (lambda: GraphGeodesic(torch.ones(5, 2), k=5), ValueError, "k=5 and 4 other reference"),
        (
            lambda: RelativeProjection(3, 2, GraphGeodesic(torch.randn(5, 2), 2)).set_anchors(
                torch.randn(2, 3)
            ),
            ValueError,
            r"`anchors` must have shape \(..., 2\)",
        ),
        (lambda: GraphGeodesic(torch.full((5, 2), torch.nan), k=2), ValueError, "finite"),
        (lambda: RelativeGeodesic(nn.Identity(), 0), ValueError, "`steps` must be at least 1"),
        (lambda: RelativeGeodesic(nn.Identity(), 2, "l2"), ValueError, "`metric` must be one of"),
        (lambda: RelativeGeodesic(nn.Identity(), chunk_size=0), ValueError, "`chunk_size`"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_any_unit(scale):
    """In float32, what float64 gives of the same numbers."""
    reference, x, a = ((torch.randn(n, 3) * scale).float() for n in (30, 5, 4))
    decoder = nn.Linear(3, 4, bias=False)
    for single, double in (
        (GraphGeodesic(reference, 5), GraphGeodesic(reference.double(), 5)),
        (RelativeGeodesic(decoder, 3), RelativeGeodesic(copy.deepcopy(decoder).double(), 3)),
    ):
        got, wanted = single(x, a).double() / scale, double(x.double(), a.double()) / scale
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "spherical", "fisher"])
def test_nan_comes_out_again(metric):
    x, a = torch.randn(4, 3), torch.randn(5, 3)
    x[1, 2] = torch.nan
    for similarity in (RelativeGeodesic(nn.Linear(3, 4), 3, metric), GraphGeodesic(x[2:], 1)):
        code = similarity(x, a)
        assert code[1].isnan().all()
        assert code[[0, 2, 3]].isfinite().all()


def test_mistakes_with_a_decoder_and_anchors_are_named():
    x, a = torch.randn(4, 3), torch.randn(5, 3)
    with pytest.raises(ValueError, match=r"`decoder` must take .* \(\d+, 3\).*this width"):
        RelativeGeodesic(nn.Linear(4, 2))(x, a)
    with pytest.raises(TypeError, match="`decoder` must return a tensor, got tuple"):
        RelativeGeodesic(lambda z: (z,))(x, a)
    with pytest.raises(TypeError, match="`decoder` must be an object, got the class Linear"):
        RelativeGeodesic(nn.Linear)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="`anchors` must be finite"):
            GraphGeodesic(x, 2)(x, torch.full((2, 3), bad))
