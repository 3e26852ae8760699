"""Inverse relative translation: what it equals, when it is exact, and that codes alone suffice."""

import pytest
import torch

from relreps import InverseRelativeTranslator, translation_report

close = torch.testing.assert_close


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthogonal(rows, columns):
    q = torch.linalg.qr(normal(max(rows, columns), max(rows, columns))).Q
    return q[:rows, :columns]


def directions(anchors):
    rest = anchors - anchors.mean(0)
    return rest / rest.norm(dim=1, keepdim=True)


def fitted(x, y, ridge=0.0, rescale="none", generator=None, **options):
    translator = InverseRelativeTranslator(
        x.shape[1], y.shape[1], len(x), ridge=ridge, rescale=rescale, **options
    )
    return translator.double().fit(x, y, generator=generator)


def map_of(translator, anchors):
    """The linear map between directions that a translator amounts to."""
    return directions(anchors).mT @ translator.decoder


@pytest.mark.parametrize(("a", "dx", "dy"), [(30, 5, 7), (30, 7, 5), (6, 5, 9)], ids=str)
def test_it_is_the_transpose_of_the_regression_from_target_to_source(a, dx, dy):
    x, y = normal(a, dx), normal(a, dy)
    t = map_of(fitted(x, y), x)
    oracle = torch.linalg.lstsq(directions(y), directions(x), driver="gelsd").solution.mT
    close(t, oracle)


@pytest.mark.parametrize("rescale", ["mean", "source"])
def test_it_is_exact_between_rotated_and_scaled_spaces(rescale):
    x, q = normal(30, 6) + 2, orthogonal(6, 6)
    y = 3 * x @ q - 1
    t = fitted(x, y, rescale=rescale)
    new = normal(8, 6)
    wanted = 3 * new @ q - 1
    if rescale == "mean":
        rest = wanted - y.mean(0)
        lengths = (y - y.mean(0)).norm(dim=1).mean()
        wanted = y.mean(0) + rest / rest.norm(dim=1, keepdim=True) * lengths
    close(t(new), wanted)


def test_too_few_anchors_give_the_projection_onto_their_span():
    x, q = normal(5, 9), orthogonal(9, 9)
    y = x @ q
    t = map_of(fitted(x, y), x)
    inverse = torch.linalg.pinv(t, rcond=1e-10)
    close(t @ inverse @ t, t)
    span = torch.linalg.svd(directions(y), full_matrices=False)
    basis = span.Vh[span.S > 1e-10]
    assert len(basis) == 4  # centred anchors span one dimension less
    close(t, q @ basis.mT @ basis)


def test_pruning_keeps_angles_apart_and_conditioning_down():
    x = normal(40, 6)
    y = x @ orthogonal(6, 6)
    y = torch.cat((y, y[:1] + 1e-5 * normal(30, 6)))
    x = torch.cat((x, x[:1].expand(30, 6) + 1e-5 * normal(30, 6)))
    t, whole = fitted(x, y, pruning=0.3), fitted(x, y)
    kept = t.decoder.abs().sum(1) > 0
    cosines = (directions(y)[kept] @ directions(y)[kept].mT).abs().fill_diagonal_(0)
    assert int(t.num_kept) == int(kept.sum()) < 40
    assert cosines.max() <= 0.7
    assert t.condition_number <= whole.condition_number
    source = fitted(x, y, pruning=0.3, prune_on="source")
    kept = source.decoder.abs().sum(1) > 0
    assert (directions(x)[kept] @ directions(x)[kept].mT).abs().fill_diagonal_(0).max() <= 0.7


def test_a_space_translates_to_itself():
    x = normal(30, 6) + 1
    close(fitted(x, x, rescale="source")(x), x)


def test_the_ridge_shrinks_and_its_limit_is_none():
    x, y = normal(30, 6), normal(30, 6)
    maps = [map_of(fitted(x, y, ridge=ridge), x) for ridge in (0.0, 1e-12, 0.1, 1.0, 10.0)]
    close(maps[0], maps[1], atol=1e-8, rtol=1e-8)
    norms = [float(m.norm()) for m in maps[1:]]
    assert norms == sorted(norms, reverse=True)
    gram = directions(y).mT @ directions(y)
    shrunk = gram + torch.eye(6, dtype=torch.float64) * gram.diagonal().mean()
    close(maps[3], directions(x).mT @ directions(y) @ torch.linalg.inv(shrunk))


def test_gcv_is_that_of_the_definition():
    x = normal(25, 6)
    y = x @ orthogonal(6, 6) + 0.5 * normal(25, 6)
    t = fitted(x, y, ridge="gcv")
    units, codes = directions(y), directions(x) @ directions(x).mT

    def score(ridge):
        gram = units.mT @ units
        solve = torch.linalg.inv(gram + ridge * gram.diagonal().mean() * torch.eye(6))
        hat = units @ solve @ units.mT
        return ((codes - hat @ codes).square().sum() / (1 - hat.trace() / 25) ** 2).item()

    chosen = float(t.used_ridge)
    assert 1e-6 < chosen < 1e3
    assert score(chosen) < min(score(chosen * 1.8), score(chosen / 1.8))


@pytest.mark.parametrize("rescale", ["none", "mean", "source"])
def test_codes_alone_are_enough(rescale):
    x, y = normal(30, 6), normal(30, 4)
    options = {"ridge": 0.1, "rescale": rescale, "pruning": 0.05}
    whole = InverseRelativeTranslator(6, 4, 30, **options).double().fit(x, y)
    one = InverseRelativeTranslator(6, 4, 30, **options).double().set_source(x)
    other = InverseRelativeTranslator(6, 4, 30, **options).double().set_target(y)
    restored = InverseRelativeTranslator(6, 4, 30, **options).double()
    restored.load_state_dict(other.state_dict())
    new = normal(7, 6)
    for decoding in (other, restored):
        close(decoding.decode(one.encode(new)), whole(new))
        with pytest.raises(RuntimeError, match="no source anchors yet"):
            decoding(new)
    with pytest.raises(RuntimeError, match="to decode only"):
        one(new)


def test_subspaces_average_prunings_and_follow_the_generator():
    x, y = normal(60, 4), normal(60, 4)
    run = [
        fitted(
            x, y, pruning=0.3, subspaces=4, generator=torch.Generator().manual_seed(seed)
        ).decoder
        for seed in (0, 0, 1)
    ]
    close(run[0], run[1])
    assert not torch.allclose(run[0], run[2])
    once = fitted(x, y, pruning=0.3)
    assert int((run[0].abs().sum(1) > 0).sum()) > int(once.num_kept)


def test_an_anchor_at_the_mean_is_dropped():
    x = normal(20, 5)
    x = torch.cat((x, x.mean(0, keepdim=True)))
    y = x @ orthogonal(5, 5) + 4
    t = fitted(x, y, rescale="mean")
    assert float(t.decoder[-1].abs().max()) == 0
    assert int(t.num_kept) == 20


def test_far_from_the_origin_float32_is_enough():
    x, q = torch.randn(40, 6), orthogonal(6, 6).float()
    y = x @ q
    far = InverseRelativeTranslator(6, 6, 40, rescale="source").fit(x + 1000, y - 1000)
    close(far(x + 1000) + 1000, y, atol=5e-3, rtol=0)


BAD = {
    "unpaired": (lambda x, y: (x, y[1:]), ValueError, "paired row by row"),
    "number": (lambda x, y: (x[1:], y[1:]), ValueError, "`anchors` must have 20 rows, got 19"),
    "nan": (lambda x, y: (x, y.log()), ValueError, "`y` must be finite"),
    "constant": (lambda x, y: (0 * x, y), ValueError, "`x` must vary"),
    "constant-y": (lambda x, y: (x, 0 * y), ValueError, "`y` must vary"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_a_failed_fit_leaves_the_module_as_it_was(change, error, message):
    x, y = normal(20, 5), normal(20, 4)
    t = fitted(x, y)
    before = {name: tensor.clone() for name, tensor in t.state_dict().items()}
    with pytest.raises(error, match=message):
        t.fit(*change(x - 3, y + 1))
    close(t.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": -1.0}, "`ridge` must be in"),
        ({"ridge": "loo"}, "`ridge` must be one of 'gcv'"),
        ({"rescale": "norm"}, "`rescale` must be one of"),
        ({"subspaces": 3}, "needs `pruning` above 0"),
        ({"num_anchors": 1}, "`num_anchors` must be at least 2"),
    ],
)
def test_bad_constructor(options, message):
    with pytest.raises(ValueError, match=message):
        InverseRelativeTranslator(
            **{"in_features": 3, "out_features": 4, "num_anchors": 9} | options
        )


def test_what_needs_both_sides_says_so():
    y = normal(20, 4)
    with pytest.raises(ValueError, match="`ridge='gcv'` looks at the anchors of both sides"):
        InverseRelativeTranslator(5, 4, 20).set_target(y)
    with pytest.raises(ValueError, match="`prune_on='source'` looks at"):
        InverseRelativeTranslator(5, 4, 20, ridge=1.0, prune_on="source").set_target(y)
    with pytest.raises(ValueError, match="leaves 1 of 20 anchors"):
        fitted(normal(20, 1), normal(20, 1), pruning=0.5)
    with pytest.raises(ValueError, match="has no inverse"):
        fitted(normal(20, 5), y).inverse(y)


def test_repr_is_the_constructor_call():
    t = InverseRelativeTranslator(3, 4, 9, ridge=0.5, pruning=0.1, subspaces=2)
    text = repr(t).split("\n")[1].strip()
    assert text == (
        "3, 4, num_anchors=9, ridge=0.5, rescale='mean', pruning=0.1, prune_on='target', "
        "subspaces=2"
    )


def test_a_ridge_is_finite():
    with pytest.raises(ValueError, match="`ridge` must be finite, got inf"):
        InverseRelativeTranslator(3, 4, 5, ridge=float("inf"))


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_repeated_anchor_does_not_choose_the_ridge(noise):
    """Fewer anchors than features: a copy is decoded by its twin whatever the ridge."""
    z = normal(40, 80) * torch.arange(1, 81).double() ** -0.5
    x, y = z @ orthogonal(80, 80), z @ orthogonal(80, 80) + 0.05 * normal(40, 80)
    once = fitted(x, y, ridge="gcv")
    twice = fitted(*(torch.cat((s, s[:2] + noise * normal(2, 80))) for s in (x, y)), ridge="gcv")
    assert 0.2 < float(twice.used_ridge / once.used_ridge) < 5


@pytest.mark.parametrize("where", ["row", "feature"])
@pytest.mark.parametrize("ridge", [0.0, "gcv"])
def test_one_extreme_anchor_or_feature(where, ridge):
    x, y = normal(60, 6), normal(60, 6)
    y = x @ orthogonal(6, 6) + 0.1 * y
    for side in (x, y):
        if where == "row":
            side[0] *= 1e4
        else:
            side[:, 1] *= 1000
    wanted = fitted(x, y, ridge, "source")
    single = InverseRelativeTranslator(6, 6, 60, ridge=ridge, rescale="source")
    found = single.fit(x.float(), y.float())(x.float()).double()
    close(found, wanted(x), atol=1e-4 * float(wanted(x).abs().max()), rtol=1e-3)


@pytest.mark.parametrize("inside", [True, False])
def test_a_report_can_be_made_in_inference_mode(inside):
    x, y, test = normal(30, 4), normal(30, 4), (normal(9, 4), normal(9, 4))
    with torch.inference_mode(inside):
        t = fitted(x, y)
    with torch.inference_mode():
        t = t if inside else fitted(x, y)
        assert translation_report(t, x, y, test=test).pairs == 30
        t.fit(x, y).fit(x, y)
