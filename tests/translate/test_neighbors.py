"""Neighbours across spaces: scores, mutual matches, refinement, and the loss trained on them."""

import warnings

import pytest
import torch
from torch.autograd import gradcheck

from relreps import NumericalWarning, ProcrustesTranslator, RefinedProcrustesTranslator
from relreps.translate import RCSLSTranslator, csls, mutual_nearest, neighbors, rcsls_loss

close = torch.testing.assert_close


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthogonal(d):
    return torch.linalg.qr(normal(d, d)).Q


def dictionary(n=300, d=12, noise=0.1, extra=0):
    """Rows of two spaces in different orders, and for each row of y that of x, or -1."""
    x = normal(n, d) + 2
    y = x @ orthogonal(d) + noise * normal(n, d) - 1
    truth = torch.randperm(n)
    y = torch.cat((y[truth], normal(extra, d) + y.mean(0)))
    return x, y, torch.cat((truth, truth.new_full((extra,), -1)))


def seeds_of(truth, count):
    found = (truth >= 0).nonzero().flatten()[:count]
    return truth[found], found


# Scores and matches


def test_csls_is_its_definition():
    x, y = normal(7, 4), normal(9, 4)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    rows = cosines.sort(1).values[:, -3:].mean(1)
    columns = cosines.sort(0).values[-3:].mean(0)
    close(csls(x, y, 3), 2 * cosines - rows[:, None] - columns)


def test_csls_ignores_lengths_and_zero_rows_are_finite():
    x, y = normal(7, 4), normal(9, 4)
    close(csls(1e-30 * x, 1e30 * y, 3), csls(x, y, 3))
    x[0] = 0
    assert csls(x, y, 3).isfinite().all()
    assert csls(x.half(), y.half(), 3).dtype == torch.float16


def test_csls_gradient():
    x, y = normal(4, 3).requires_grad_(), normal(5, 3).requires_grad_()
    assert gradcheck(lambda a, b: csls(a, b, 2), (x, y))


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_change_nothing_and_match_the_table_of_scores(chunk, monkeypatch):
    x, y = normal(40, 6), normal(33, 6)
    monkeypatch.setattr(neighbors, "_CHUNK", chunk)
    found = mutual_nearest(x, y, 5)
    scores = csls(x, y, 5)
    wanted = {
        (i, int(scores[i].argmax()))
        for i in range(40)
        if int(scores[:, int(scores[i].argmax())].argmax()) == i
    }
    assert set(zip(found.indices_x.tolist(), found.indices_y.tolist(), strict=True)) == wanted
    for i, j, score in zip(*found, strict=True):
        row, column = scores[i].clone(), scores[:, j].clone()
        row[j] = column[i] = -torch.inf
        close(score, scores[i, j] - torch.maximum(row.max(), column.max()))
    assert (found.scores.diff() <= 0).all()


def test_matches_are_one_to_one_also_among_duplicates():
    x = normal(10, 4)[torch.arange(20) % 10]
    found = mutual_nearest(x, x, 2)
    assert len(found.indices_x.unique()) == len(found.indices_x) == 10
    close(x[found.indices_x], x[found.indices_y])


def test_what_cannot_be_matched_is_refused():
    x = normal(8, 3)
    with pytest.raises(ValueError, match="`k` must be at most the number of rows"):
        csls(x, normal(4, 3), 5)
    with pytest.raises(ValueError, match=r"`y` must have shape \(rows, 3\)"):
        mutual_nearest(x, normal(8, 4), 2)
    with pytest.raises(ValueError, match="`x` must be finite"):
        mutual_nearest(x.log(), x, 2)


# Refinement


def test_a_dictionary_is_found_from_a_few_noisy_seeds():
    x, y, truth = dictionary(extra=30)
    i, j = seeds_of(truth, 30)
    i[:3] = i[:3].roll(1)  # a tenth of them wrong
    t = RefinedProcrustesTranslator(12, 12).double().fit(x, y, (i, j))
    plain = ProcrustesTranslator(12, 12).double().fit(x[i], y[j])
    partner = torch.argsort(truth[:300])
    error, before = ((m(x) - y[:300][partner]).norm(dim=1).mean() for m in (t, plain))
    assert error < 0.8 * before
    found = mutual_nearest(t(x) - y.mean(0), y - y.mean(0))
    assert (truth[found.indices_y] == found.indices_x).double().mean() > 0.95
    assert t.agreement > 0.9
    assert t.num_pairs > 250


def test_the_order_of_the_rows_does_not_matter():
    x, y, truth = dictionary()
    i, j = seeds_of(truth, 20)
    t = RefinedProcrustesTranslator(12, 12).double().fit(x, y, (i, j))
    px, py = torch.randperm(300), torch.randperm(300)
    moved = px.argsort()[i], py.argsort()[j]
    other = RefinedProcrustesTranslator(12, 12).double().fit(x[px], y[py], moved)
    close(other(x), t(x), atol=1e-9, rtol=0)


def test_spaces_without_relation_are_told():
    x, y = normal(200, 40), normal(200, 40)
    with pytest.warns(NumericalWarning, match="probably wrong"):
        t = RefinedProcrustesTranslator(40, 40).double().fit(x, y, (torch.arange(5),) * 2)
    assert t.agreement < 0.5


def test_inverse_and_scale_are_those_of_the_map():
    x, y, truth = dictionary(noise=0)
    t = RefinedProcrustesTranslator(12, 12, scale="norm").double()
    t.fit(x, 3 * y, seeds_of(truth, 20))
    close(t.inverse(t(x)), x)
    close(t(x)[truth], 3 * y)


BAD = {
    "none": (lambda x, y, s: (x, y, s[0]), TypeError, r"`seeds` must be a pair"),
    "repeated": (lambda x, y, s: (x, y, (s[0] * 0, s[1])), ValueError, r"`seeds\[0\]` must name"),
    "range": (lambda x, y, s: (x, y[:3], s), ValueError, r"`seeds\[1\]` must be row indices"),
    "unpaired": (lambda x, y, s: (x, y, (s[0], s[1][1:])), ValueError, "paired row by row"),
    "float": (lambda x, y, s: (x, y, (s[0].float(), s[1])), TypeError, "tensor of row indices"),
    "nan": (lambda x, y, s: (x, y / 0, s), ValueError, "`y` must be finite"),
    "width": (lambda x, y, s: (x[:, 1:], y, s), ValueError, r"`x` must have shape \(rows, 12\)"),
    "constant": (lambda x, y, s: (0 * x, y, s), ValueError, "must vary together"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_a_failed_fit_leaves_the_module_as_it_was(change, error, message):
    x, y, truth = dictionary(60)
    seeds = seeds_of(truth, 20)
    t = RefinedProcrustesTranslator(12, 12).double().fit(x, y, seeds)
    before = {name: tensor.clone() for name, tensor in t.state_dict().items()}
    with pytest.raises(error, match=message):
        t.fit(*change(x - 3, y + 1, seeds))
    close(t.state_dict(), before, atol=0, rtol=0)


def test_used_before_fit_and_repr():
    t = RefinedProcrustesTranslator(3, 4, k=5)
    with pytest.raises(RuntimeError, match=r"RefinedProcrustesTranslator has no state yet. Call"):
        t(torch.zeros(2, 3))
    assert "3, 4, k=5, rounds=20, scale='none', pre='center'" in repr(t)


# RCSLS


def test_rcsls_loss_is_minus_the_mean_score_of_the_pairs():
    x, y = (torch.nn.functional.normalize(normal(20, 5)) for _ in range(2))
    close(rcsls_loss(x, y, 4), -csls(x, y, 4).diagonal().mean())
    x, y = normal(6, 3).requires_grad_(), normal(6, 3).requires_grad_()
    assert gradcheck(lambda a, b: rcsls_loss(a, b, 2), (x, y))


def test_rcsls_loss_is_convex_in_the_map():
    x, y = normal(30, 4), normal(30, 5)
    a, b = normal(4, 5), normal(4, 5)
    for t in (0.25, 0.5, 0.9):
        mixed = rcsls_loss(x @ (t * a + (1 - t) * b), y, 5)
        assert mixed <= t * rcsls_loss(x @ a, y, 5) + (1 - t) * rcsls_loss(x @ b, y, 5)


@pytest.mark.parametrize("rate", [1.0, 1e6])
def test_rcsls_never_ends_above_its_start_and_stays_in_the_ball(rate):
    x = normal(200, 6)
    y = x @ normal(6, 4) + 0.1 * normal(200, 4)
    t = RCSLSTranslator(6, 4, rate=rate, steps=10).double().fit(x, y)

    def loss(matrix):
        rows = [(side - side.mean(0)) for side in (x, y)]
        rows = [side / side.norm(dim=1, keepdim=True) for side in rows]
        return rcsls_loss(rows[0] @ matrix, rows[1])

    close(t.loss, loss(t.matrix))
    start = ProcrustesTranslator(6, 4, pre="unit").double()
    start.fit(x - x.mean(0), y - y.mean(0))
    assert t.loss < loss(start.matrix)
    assert torch.linalg.matrix_norm(t.matrix, 2) <= 1 + 1e-12


def test_rcsls_refuses_weights_and_too_few_pairs():
    x = normal(20, 4)
    with pytest.raises(ValueError, match="takes no `weights`"):
        RCSLSTranslator(4, 4).fit(x, x, torch.ones(20))
    with pytest.raises(ValueError, match="`k` must be at most"):
        RCSLSTranslator(4, 4, k=30).fit(x, x)


def test_no_warning_when_all_is_well():
    x, y, truth = dictionary(noise=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RefinedProcrustesTranslator(12, 12).fit(x, y, seeds_of(truth, 20))


@pytest.mark.parametrize("constant", ["x", "y"])
def test_rcsls_refuses_constant_rows(constant):
    x, y = normal(30, 4), normal(30, 4)
    x, y = (x[:1].expand(30, 4), y) if constant == "x" else (x, y[:1].expand(30, 4))
    with pytest.raises(ValueError, match=r"RCSLSTranslator cannot be fitted.*rank 0"):
        RCSLSTranslator(4, 4).fit(x, y)


def test_a_pair_without_rivals_is_infinitely_sure():
    found = mutual_nearest(normal(1, 4), normal(1, 4), 1)
    assert found.scores.tolist() == [torch.inf]
