"""RelativeProjection and ParsevalFrame: the cache stays right, an error changes nothing."""

import copy

import pytest
import torch
from torch import nn

import relreps
from relreps import Center, ParsevalFrame, RelativeProjection, StandardScale
from relreps.similarity import SIMILARITIES, Cosine

D, A = 6, 9


@pytest.fixture
def anchors():
    return torch.randn(A, D)


@pytest.fixture
def x():
    return torch.randn(4, D)


class Counting(Cosine):
    """A cosine that counts how often anchors are prepared."""

    calls = 0

    def prepare(self, anchors):
        type(self).calls += 1
        return super().prepare(anchors)


def test_anchors_are_prepared_once(anchors, x):
    Counting.calls = 0
    projection = RelativeProjection(D, A, Counting()).set_anchors(anchors)
    for _ in range(5):
        projection(x)
    assert Counting.calls == 1
    projection.to("cpu").train().eval()
    assert Counting.calls == 1
    projection.double()
    projection.load_state_dict(projection.state_dict())
    assert Counting.calls == 3


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("pre", [None, Center, StandardScale])
def test_the_cache_follows_the_anchors(similarity, pre, anchors, x):
    """Set, loaded, moved in type, copied: always the code of the anchors at hand."""

    def fresh():
        return RelativeProjection(D, A, similarity, pre=pre and pre(D))

    def check(projection, anchors):
        wanted = fresh().to(anchors.dtype).set_anchors(anchors)(x.to(anchors.dtype))
        # Statistics of `pre` that were fitted in float32 stay rounded to it.
        torch.testing.assert_close(projection(x.to(anchors.dtype)), wanted, atol=1e-5, rtol=1e-4)

    projection = fresh().set_anchors(torch.randn(A, D))
    check(projection.set_anchors(anchors), anchors)
    loaded = fresh().set_anchors(torch.randn(A, D))
    loaded.load_state_dict(projection.state_dict())
    check(loaded, anchors)
    check(copy.deepcopy(loaded), anchors)
    check(loaded.double(), anchors.double())
    inside = nn.Sequential(fresh())
    inside.load_state_dict({f"0.{k}": v for k, v in projection.state_dict().items()})
    check(inside[0], anchors)


def test_float64_is_not_the_rounding_of_float32(anchors, x):
    wide = RelativeProjection(D, A).set_anchors(anchors).double()
    exact = relreps.relative_projection(x.double(), anchors.double())
    torch.testing.assert_close(wide(x.double()), exact, atol=1e-15, rtol=1e-14)


def test_caches_are_not_in_the_checkpoint(anchors):
    projection = RelativeProjection(D, A, "euclidean", pre=Center(D)).set_anchors(anchors)
    names = {"anchors", "configuration", "fitted", "pre.fitted", "pre.mean"}
    assert set(projection.state_dict()) == names


def test_setting_anchors_between_forward_and_backward_is_noticed(anchors, x):
    projection = RelativeProjection(D, A).set_anchors(anchors)
    code = projection(x.requires_grad_())
    projection.set_anchors(torch.randn(A, D))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        code.sum().backward()


def test_gradients_reach_anchors_given_at_the_call(x):
    projection = RelativeProjection(3, 4, pre=StandardScale(3)).double()
    rows, anchors = torch.randn(2, 3).double().requires_grad_(), torch.randn(4, 3).double()
    assert torch.autograd.gradcheck(projection.project, (rows, anchors.requires_grad_()))
    assert not projection._fitted


def test_from_anchors_takes_type_and_moves_pre(anchors):
    pre = StandardScale(D)
    projection = RelativeProjection.from_anchors(anchors.double(), pre=pre, post=nn.LayerNorm(A))
    assert {t.dtype for t in projection.state_dict().values()} == {
        torch.float64,
        torch.bool,
        torch.uint8,
    }
    assert projection.pre is pre
    assert (projection.in_features, projection.out_features) == (D, A)


def test_pre_is_refitted_and_post_is_applied(anchors, x):
    projection = RelativeProjection(D, A, pre=Center(D), post=nn.ReLU()).set_anchors(anchors)
    torch.testing.assert_close(projection.pre.mean, anchors.mean(0))
    wanted = relreps.relative_projection(x - anchors.mean(0), anchors - anchors.mean(0)).relu()
    torch.testing.assert_close(projection(x), wanted)
    projection.set_anchors(anchors + 1)
    torch.testing.assert_close(projection.pre.mean, anchors.mean(0) + 1)


def test_large_anchors_are_fitted_as_carefully_as_in_fit(anchors, x):
    """Their squares overflow in float32; the statistics do not."""
    projection = RelativeProjection(D, A, pre=StandardScale(D)).set_anchors(anchors * 1e25)
    wanted = RelativeProjection(D, A, pre=StandardScale(D)).set_anchors(anchors)(x)
    torch.testing.assert_close(projection(x * 1e25), wanted)


def test_in_a_sequential():
    model = nn.Sequential(
        nn.Linear(3, D), RelativeProjection.from_anchors(torch.randn(A, D)), nn.Linear(A, 2)
    )
    assert model(torch.randn(5, 3)).shape == (5, 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.randn(A, D + 1), rf"\(rows, {D}\), got \({A}, {D + 1}\)"),
        (torch.randn(A - 1, D), f"must have {A} rows, got {A - 1}"),
        (torch.full((A, D), torch.nan), f"NaN or infinity in {A} of {A} rows"),
        (torch.ones(A, D), "`anchors` must vary in at least one feature"),
    ],
    ids=["width", "rows", "nan", "constant"],
)
def test_a_failed_set_anchors_changes_nothing(bad, message, anchors, x):
    projection = RelativeProjection(D, A, pre=StandardScale(D)).set_anchors(anchors)
    before = projection(x)
    with pytest.raises(ValueError, match=message):
        projection.set_anchors(bad)
    assert torch.equal(projection(x), before)
    assert torch.equal(projection.anchors, anchors)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RelativeProjection(3, 2)(torch.ones(1, 3)), RuntimeError, "Call `set_anchors"),
        (lambda: RelativeProjection(3, 2).inverse(torch.ones(1, 2)), RuntimeError, "no state yet"),
        (lambda: RelativeProjection(3, 2, "cosin"), ValueError, "Did you mean 'cosine'"),
        (lambda: RelativeProjection(0, 2), ValueError, "`in_features` must be at least 1"),
        (lambda: RelativeProjection(3, 2, pre=nn.ReLU()), TypeError, "`pre` must be a normaliser"),
        (lambda: RelativeProjection(3, 2, pre=Center(4)), ValueError, "in_features=4"),
        (
            lambda: RelativeProjection(
                3, 2, relreps.GraphGeodesic(torch.randn(9, 3), 2), pre=Center(3)
            ),
            ValueError,
            "`pre` cannot be combined with GraphGeodesic",
        ),
        (
            lambda: RelativeProjection(2, 1).half().set_anchors(torch.full((1, 2), 1e6)),
            ValueError,
            "`anchors` must be finite",
        ),
        (lambda: RelativeProjection.from_anchors(torch.ones(3)), ValueError, "One row per sample"),
        (
            lambda: RelativeProjection.from_anchors(torch.eye(3))(torch.ones(2, 4)),
            ValueError,
            r"`x` must have shape \(..., 3\), got \(2, 4\)",
        ),
        (
            lambda: RelativeProjection.from_anchors(torch.eye(3))(torch.ones(2, 3).int()),
            TypeError,
            "got torch.int32",
        ),
        (
            lambda: RelativeProjection.from_anchors(torch.eye(3)).project(
                torch.ones(2, 3), torch.ones(3, 4)
            ),
            ValueError,
            "`anchors` must have shape",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr():
    text = str(RelativeProjection(3, 2, "l1", pre=Center(3)))
    assert text.splitlines()[0] == "RelativeProjection("
    assert "3, 2, similarity='l1'" in text
    assert str(ParsevalFrame(3, 2)) == "ParsevalFrame(3, 2)"


def test_parseval_frame_is_an_isometry():
    anchors, x = torch.randn(A, D).double(), torch.randn(4, D).double()
    frame = ParsevalFrame.from_anchors(anchors)
    code = frame.encode(x)
    torch.testing.assert_close(frame.decode(code), x)
    torch.testing.assert_close(frame.inverse(code), x)
    torch.testing.assert_close(code @ code.mT, x @ x.mT)


def test_parseval_frames_translate_between_rotated_spaces():
    anchors, x = torch.randn(A, D).double(), torch.randn(4, D).double()
    q = torch.linalg.qr(torch.randn(D, D).double()).Q
    there = ParsevalFrame.from_anchors(anchors @ q)
    torch.testing.assert_close(there.decode(ParsevalFrame.from_anchors(anchors)(x)), x @ q)


def test_whitening_turns_the_parseval_code_into_basis_coordinates():
    anchors, x = torch.randn(A, D).double(), torch.randn(4, D).double()
    root = relreps._core.linalg.inverse_sqrt(anchors.mT @ anchors)
    torch.testing.assert_close(
        ParsevalFrame.from_anchors(anchors)(x @ root), relreps.similarity.basis(x, anchors)
    )


def test_few_anchors_project():
    anchors, x = torch.randn(2, D).double(), torch.randn(4, D).double()
    frame = ParsevalFrame.from_anchors(anchors)
    back = frame.decode(frame(x))
    torch.testing.assert_close(frame.decode(frame(back)), back)
    assert torch.linalg.matrix_rank(back) == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RelativeProjection(D, A, pre=Center), TypeError, r"the class Center.*`Center\("),
        (lambda: RelativeProjection(D, A, post=nn.ReLU), TypeError, "`post` .*the class ReLU"),
        (lambda: relreps.NormalizerChain(Center), TypeError, r"`normalizers\[0\]` .*the class"),
        (
            lambda: RelativeProjection(D, A).set_anchors(torch.randn(D, A)),
            ValueError,
            "the transpose",
        ),
        (
            lambda: relreps.relative_projection(torch.randn(3, D), torch.randn(D, A)),
            ValueError,
            r"`anchors` .* one row for each anchor, got .*: the transpose",
        ),
        (
            lambda: relreps.ProductProjection(RelativeProjection(D, A)),
            TypeError,
            "a list of dense projections, got RelativeProjection",
        ),
        (
            lambda: relreps.ProductProjection([RelativeProjection]),
            TypeError,
            r"`projections\[0\]` must be an object",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_equal_anchors_are_warned_of():
    for module in (
        RelativeProjection(D, A),
        relreps.ProductProjection([RelativeProjection(D, A), RelativeProjection(D, A, "l1")]),
        relreps.SparseRelativeProjection(D, A, 2),
    ):
        with pytest.warns(relreps.NumericalWarning, match=f"All {A} anchors are equal") as caught:
            module.set_anchors(torch.ones(A, D))
        assert len(caught) == 1
