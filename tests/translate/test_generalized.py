"""Many spaces: the objective falls, cycles close, rows may be missing, and the hub is fixed."""

import itertools

import pytest
import scipy.linalg
import torch

from relreps import GeneralizedProcrustes, NumericalWarning
from relreps.translate.generalized import _Alternation

close = torch.testing.assert_close


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthogonal(rows, columns):
    q = torch.linalg.qr(normal(max(rows, columns), max(rows, columns))).Q
    return q[:rows, :columns]


def spaces(widths=(6, 6, 6), n=60, core=6, noise=0.0):
    """Spaces that hold one core, each turned, shifted and scaled in its own way."""
    z = normal(n, core) * torch.linspace(2, 0.5, core, dtype=torch.float64)
    return [
        (m + 1) * (z @ orthogonal(core, d) + noise * normal(n, d)) + 5 * normal(d)
        for m, d in enumerate(widths)
    ]


def test_only_the_ratios_of_weights_count():
    given = spaces(noise=0.1)
    weights = torch.rand(3, 60, dtype=torch.float64)
    found = [
        GeneralizedProcrustes([6, 6, 6], 6).double().fit(given, weights * unit)
        for unit in (1.0, 1e-3)
    ]
    close(*(made.translate(given[0], 0, 2) for made in found), rtol=0, atol=1e-3)


def fitted(rows, hub, weights=None, **options):
    return (
        GeneralizedProcrustes([x.shape[1] for x in rows], hub, **options)
        .double()
        .fit(rows, weights)
    )


@pytest.mark.parametrize("widths", [(6, 6, 6), (6, 8, 7, 9)], ids=str)
def test_planted_maps_are_recovered(widths):
    rows = spaces(widths)
    hub = fitted(rows, 6)
    for i in range(len(rows)):
        for j in range(len(rows)):
            close(hub.translate(rows[i], i, j), rows[j], atol=1e-9, rtol=0)
    assert hub.objective < 1e-12


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("widths", [(6, 6, 6), (4, 9, 6)], ids=str)
def test_the_objective_never_rises(widths, missing):
    rows = spaces(widths, core=4, noise=1.0)
    w = torch.ones(3, 60, dtype=torch.float64)
    if missing:
        w = torch.rand(3, 60, dtype=torch.float64) * (torch.rand(3, 60) < 0.6)
    centred = [
        torch.where(u[:, None] > 0, x - u @ x / u.sum(), 0) for x, u in zip(rows, w, strict=True)
    ]
    alternation = _Alternation(centred, w, 6)
    levels = []
    for _ in range(30):
        alternation.step()
        levels.append(float(alternation.objective()))
    assert all(b <= a + 1e-9 * levels[0] for a, b in itertools.pairwise(levels))
    alternation.fix_gauge()
    close(float(alternation.objective()), levels[-1])


def test_cycles_close():
    rows = spaces(noise=0.3)
    hub = fitted(rows, 6)
    x = normal(9, 6)
    for i, j, k in ((0, 1, 2), (2, 0, 1), (1, 2, 1)):
        close(hub.translate(hub.translate(x, i, j), j, k), hub.translate(x, i, k))
    close(hub.from_hub(hub.to_hub(x, 1), 1), x)


def test_a_narrower_hub_closes_cycles_on_what_it_holds():
    rows = spaces((6, 7, 8), noise=0.3)
    hub = fitted(rows, 3)
    x = normal(9, 6)
    close(hub.translate(hub.translate(x, 0, 1), 1, 2), hub.translate(x, 0, 2))
    for m in range(3):
        q = getattr(hub, f"rotation_{m}")
        close(q.mT @ q, torch.eye(3, dtype=torch.float64))


def test_two_spaces_are_ordinary_procrustes():
    rows = spaces((5, 5), core=5, noise=0.5)
    hub = fitted(rows, 5, rescale=False, tolerance=0.0, max_iterations=1000)
    x, y = (side - side.mean(0) for side in rows)
    r, _ = scipy.linalg.orthogonal_procrustes(x.numpy(), y.numpy())
    close(
        hub.translate(rows[0], 0, 1), x @ torch.from_numpy(r) + rows[1].mean(0), atol=1e-6, rtol=0
    )


def test_the_hub_does_not_depend_on_turns_and_shifts_of_a_space():
    rows = spaces(noise=0.2)
    one = fitted(rows, 6)
    moved = [rows[0], 0.1 * rows[1] @ orthogonal(6, 6) + 3, rows[2]]
    other = fitted(moved, 6)
    close(other.to_hub(rows[0], 0), one.to_hub(rows[0], 0), atol=1e-6, rtol=0)
    close(other.to_hub(moved[1], 1), one.to_hub(rows[1], 1), atol=1e-6, rtol=0)


def test_the_hub_has_principal_axes_with_signs_by_a_rule():
    rows = spaces()
    hub = fitted(rows, 6)
    z = hub.to_hub(rows[0], 0)
    covariance = (z - z.mean(0)).mT @ (z - z.mean(0))
    variances = covariance.diagonal()
    close(covariance, variances.diag(), atol=1e-8, rtol=0)
    assert (variances.diff() <= 0).all()
    assert (z.gather(0, z.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("mask", [False, True])
def test_rows_may_be_missing_and_are_not_looked_at(mask):
    rows = [x / (m + 1) for m, x in enumerate(spaces(n=90))]
    w = torch.ones(3, 90)
    w[0, 60:] = w[1, :30] = w[2, 30:60] = 0
    holes = [x.masked_fill(u[:, None] == 0, torch.nan) for x, u in zip(rows, w, strict=True)]
    hub = fitted(
        holes, 6, w.bool() if mask else w, rescale=False, tolerance=1e-16, max_iterations=3000
    )
    for i in range(3):
        for j in range(3):
            close(hub.translate(rows[i], i, j), rows[j], atol=1e-4, rtol=0)


def test_a_weight_of_two_is_a_row_twice():
    rows = spaces(noise=0.3)
    w = torch.ones(3, 60)
    w[:, 7] = 2
    twice = [torch.cat((x, x[7:8])) for x in rows]
    a, b = (fitted(*args, tolerance=1e-14) for args in ((rows, 6, w), (twice, 6)))
    close(a.translate(rows[0], 0, 1), b.translate(rows[0], 0, 1), atol=1e-6, rtol=0)


def test_more_dimensions_than_samples():
    rows = spaces((40, 50), n=20, core=10)
    hub = fitted(rows, 12)
    close(hub.translate(rows[0], 0, 1), rows[1], atol=1e-8, rtol=0)


def test_float32_far_from_the_origin():
    rows = [x.float() + 1000 for x in spaces()]
    hub = GeneralizedProcrustes([6, 6, 6], 6).fit(rows)
    close(hub.translate(rows[0], 0, 2), rows[2], atol=5e-3, rtol=0)


def test_state_moves_to_a_fresh_instance():
    rows = spaces((5, 6), core=5)
    hub = fitted(rows, 5)
    other = GeneralizedProcrustes([5, 6], 5).double()
    with pytest.raises(RuntimeError, match="no state yet"):
        other.to_hub(rows[0], 0)
    other.load_state_dict(hub.state_dict())
    close(other.translate(rows[0], 0, 1), hub.translate(rows[0], 0, 1))
    assert hub.translate(rows[0].half(), 0, 1).dtype == torch.float16
    meta = other.to("meta").translate(rows[0].to("meta"), 0, 1)
    assert meta.shape == (60, 6)


BAD = {
    "number": (lambda r: (r[:2],), "`spaces` must hold 3 tensors"),
    "width": (lambda r: ([r[0], r[1][:, 1:], r[2]],), r"`spaces\[1\]` must have shape"),
    "rows": (
        lambda r: ([r[0], r[1][1:], r[2]],),
        r"`spaces\[0\]` and `spaces\[1\]` must be paired",
    ),
    "nan": (lambda r: ([r[0], r[1], r[2].log()],), r"`spaces\[2\]` must be finite"),
    "constant": (lambda r: ([r[0], 0 * r[1] + 1, r[2]],), r"`spaces\[1\]` must vary"),
    "weights": (lambda r: (r, torch.ones(60)), "`weights` must have one entry for each space"),
    "negative": (lambda r: (r, -torch.ones(3, 60)), "`weights` must be non-negative"),
    "unlinked": (
        lambda r: (r, torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]]).repeat_interleave(30, 1)),
        r"link spaces \[2\] with space 0",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_failed_fit_leaves_the_module_as_it_was(change, message):
    rows = spaces(noise=0.1)
    hub = fitted(rows, 6)
    before = {name: tensor.clone() for name, tensor in hub.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        hub.fit(*change([x + 1 for x in rows]))
    close(hub.state_dict(), before, atol=0, rtol=0)


def test_bad_calls():
    rows = spaces()
    hub = fitted(rows, 6)
    with pytest.raises(ValueError, match="index from 0 to 2, got 3"):
        hub.translate(rows[0], 0, 3)
    with pytest.raises(ValueError, match=r"`z` must have shape \(..., 6\)"):
        hub.from_hub(rows[0][:, 1:], 0)
    with pytest.raises(ValueError, match="at least two spaces"):
        GeneralizedProcrustes([4], 4)
    with pytest.raises(ValueError, match="`hub_features` must be at most the widths together, 8"):
        GeneralizedProcrustes([4, 4], 9)
    with pytest.warns(NumericalWarning, match="still falling after 1 rounds"):
        fitted(spaces(noise=1.0), 6, max_iterations=1)
    assert repr(hub) == (
        "GeneralizedProcrustes([6, 6, 6], 6, rescale=True, tolerance=1e-09, max_iterations=200)"
    )


def test_the_gauge_takes_no_matrix_of_all_rows(monkeypatch):
    shapes, svd = [], torch.linalg.svd
    monkeypatch.setattr(
        torch.linalg, "svd", lambda m, **o: shapes.append((m.shape, o)) or svd(m, **o)
    )
    fitted(spaces(n=500), 6)
    assert all(max(shape) <= 20 for shape, options in shapes if options.get("full_matrices", True))


def test_a_call_is_a_translation():
    x = torch.randn(30, 4)
    hub = GeneralizedProcrustes([4, 4], 4).fit([x, x.flip(1)])
    torch.testing.assert_close(hub(x, 0, 1), hub.translate(x, 0, 1), atol=0, rtol=0)
