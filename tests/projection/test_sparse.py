"""The sparse code equals the dense definition, for every chunking, and in every type."""

import pytest
import torch

from relreps import SparseRelativeProjection, relative_projection
from relreps.projection import sparse_scores

D, A = 5, 60


def dense(x, anchors, k, exponent):
    """The definition, row by row; ties to the lowest index."""
    cosines = relative_projection(x, anchors).clamp(min=0)
    order = cosines.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    code = torch.zeros_like(cosines).scatter(1, order, cosines.gather(1, order) ** exponent)
    norm = code.norm(dim=-1, keepdim=True)
    return code / torch.where(norm > 0, norm, 1)


@pytest.mark.parametrize("chunk_size", [1, 7, A - 1, A, 1000])
@pytest.mark.parametrize("k", [1, 8, A])
@pytest.mark.parametrize("exponent", [1.0, 8.0, 2.5])
def test_definition(chunk_size, k, exponent):
    x, anchors = torch.randn(9, D), torch.randn(A, D)
    sparse = SparseRelativeProjection(D, A, k, exponent=exponent, chunk_size=chunk_size)
    code = sparse.set_anchors(anchors)(x)
    assert code.layout == torch.sparse_csr
    torch.testing.assert_close(code.to_dense(), dense(x, anchors, k, exponent))
    assert code.values().numel() == 9 * k


@pytest.mark.parametrize("chunk_size", [1, 4, 13, 100])
def test_ties_go_to_the_lowest_index(chunk_size):
    anchors = torch.randn(6, D).repeat(4, 1)
    sparse = SparseRelativeProjection(D, 24, 6, chunk_size=chunk_size).set_anchors(anchors)
    x = anchors[:6]
    indices = sparse.topk(x).indices
    for i in range(6):
        assert indices[i, :4].tolist() == [i, i + 6, i + 12, i + 18]


@pytest.mark.parametrize("chunk_size", [128, 200, 512])
def test_large_chunks_choose_the_same(chunk_size):
    """Wide chunks are searched in two stages; copies of anchors tie in both."""
    anchors = torch.randn(128, D).repeat(4, 1)
    sparse = SparseRelativeProjection(D, 512, 6, chunk_size=chunk_size).set_anchors(anchors)
    x = torch.randn(10, D)
    torch.testing.assert_close(sparse(x).to_dense(), dense(x, anchors, 6, 8.0))
    first = sparse.topk(x).indices[:, :4]
    assert torch.equal(first, first[:, :1] + 128 * torch.arange(4))
    assert sparse.topk(x[:0]).indices.shape == (0, 6)


def test_the_code_is_where_the_rows_are():
    """Not on the default device."""
    made = SparseRelativeProjection(D, A, 4).set_anchors(torch.randn(A, D))
    x = torch.randn(3, D)
    with torch.device("meta"):
        assert made(x).device == x.device


def test_negatives_never_count():
    anchors = -torch.ones(4, D)
    anchors[0] = 1
    x = torch.ones(2, D)
    for exponent in (2.0, 2.5, 8.0):
        code = SparseRelativeProjection(D, 4, 3, exponent=exponent).set_anchors(anchors)(x)
        torch.testing.assert_close(code.to_dense(), torch.tensor([[1.0, 0, 0, 0]] * 2))
    code = SparseRelativeProjection(D, 4, 3).set_anchors(-torch.rand(4, D))(x)
    assert torch.equal(code.to_dense(), torch.zeros(2, 4))


def test_with_all_anchors_and_no_power_scores_are_those_of_dense_codes():
    anchors = torch.rand(A, D)
    x, y = torch.rand(4, D), torch.rand(3, D)
    sparse = SparseRelativeProjection(D, A, A, exponent=1.0).set_anchors(anchors)
    codes = [relative_projection(rows, anchors) for rows in (x, y)]
    wanted = relative_projection(*codes)
    torch.testing.assert_close(sparse_scores(sparse(x), sparse(y)), wanted)


@pytest.mark.parametrize("chunk_size", [1, 2, 64])
def test_scores_are_dense_products(chunk_size):
    sparse = SparseRelativeProjection(D, A, 7).set_anchors(torch.randn(A, D))
    x, y = sparse(torch.randn(6, D)), sparse(torch.randn(5, D))
    wanted = x.to_dense() @ y.to_dense().mT
    torch.testing.assert_close(sparse_scores(x, y, chunk_size=chunk_size), wanted)
    assert sparse_scores(x, sparse(torch.empty(0, D))).shape == (6, 0)


def test_half_precision_does_not_underflow():
    """0.1 to the eighth is nothing in float16."""
    anchors = torch.tensor([[0.1, 0.995], [0.05, 0.99875]])
    sparse = SparseRelativeProjection(2, 2, 2).half().set_anchors(anchors.half())
    code = sparse.topk(torch.tensor([[1.0, 0.0]]).half()).values
    torch.testing.assert_close(code[0, 0].float(), torch.tensor(1.0), atol=1e-2, rtol=0)


def test_gradient_of_the_values():
    x = torch.randn(3, D, dtype=torch.float64, requires_grad=True)
    sparse = SparseRelativeProjection(D, A, 4).double().set_anchors(torch.randn(A, D).double())
    assert torch.autograd.gradcheck(lambda x: sparse.topk(x).values, (x,))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 8.0])
def test_gradient_is_finite_where_nothing_is_similar(exponent):
    sparse = SparseRelativeProjection(2, 3, 3, exponent=exponent)
    sparse.set_anchors(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    sparse.topk(x).values.sum().backward()
    assert x.grad.isfinite().all()


def test_autocast_does_not_choose():
    sparse = SparseRelativeProjection(D, A, 5).set_anchors(torch.randn(A, D))
    x = torch.randn(20, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sparse.topk(x)
    assert torch.equal(inside.indices, sparse.topk(x).indices)
    assert torch.equal(inside.values, sparse.topk(x).values)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SparseRelativeProjection(3, 5, 6), ValueError, "k=6 and 5 anchors"),
        (lambda: SparseRelativeProjection(3, 5, 0), ValueError, "`k` must be at least 1"),
        (lambda: SparseRelativeProjection(3, 5, 2, exponent=0), ValueError, "`exponent`"),
        (lambda: SparseRelativeProjection(3, 5, 2)(torch.ones(1, 3)), RuntimeError, "set_anchors"),
        (
            lambda: SparseRelativeProjection(3, 5, 2).set_anchors(torch.ones(4, 3)),
            ValueError,
            "must have 5 rows, got 4",
        ),
        (
            lambda: SparseRelativeProjection(3, 2, 2).set_anchors(torch.full((2, 3), torch.inf)),
            ValueError,
            "must be finite",
        ),
        (
            lambda: SparseRelativeProjection(3, 2, 2).set_anchors(torch.eye(3)[:2])(
                torch.ones(1, 1, 3)
            ),
            ValueError,
            "flatten other axes",
        ),
        (lambda: sparse_scores(torch.eye(2), torch.eye(2)), TypeError, "sparse CSR tensor"),
        (
            lambda: sparse_scores(torch.eye(2).to_sparse_csr(), torch.eye(3).to_sparse_csr()),
            ValueError,
            "same anchors, got 2 and 3",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_comes_out_again(bad):
    sparse = SparseRelativeProjection(D, A, 4).set_anchors(torch.randn(A, D))
    x = torch.randn(3, D)
    x[1, 2] = bad
    code = sparse.topk(x)
    assert code.values[1].isnan().all()
    assert code.values[[0, 2]].isfinite().all()
    assert ((code.indices >= 0) & (code.indices < A)).all()
    assert sparse(x).to_dense()[1].isnan().any()
