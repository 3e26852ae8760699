"""Maps from a few pairs: the refinement, the pairs it finds, and how far they are believed."""

import copy
import warnings

import pytest
import torch

from relreps import NumericalWarning, ProcrustesTranslator, RefinedProcrustesTranslator
from relreps.correspondence import Pairs, mutual_nearest
from tests._data import dictionary, normal, orthogonal, right, seeds_of

close = torch.testing.assert_close


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
    assert "3, 4, k=5, max_iterations=20, scale='norm', pre='center', post=None" in repr(t)


def test_no_warning_when_all_is_well():
    x, y, truth = dictionary(noise=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RefinedProcrustesTranslator(12, 12).fit(x, y, seeds_of(truth, 20))


# The pairs that are found


def fitted(x, y, seeds):
    return RefinedProcrustesTranslator(12, 12).double().fit(x, y, seeds)


def test_the_pairs_are_seeds_then_the_surest_and_their_scores_say_what_is_found_again():
    x, y, truth = dictionary(extra=30)
    i, j = seeds_of(truth, 30)
    t = fitted(x, y, (i, j))
    assert t.pairs.indices_x[:30].tolist() == i.tolist()
    assert t.pairs.indices_y[:30].tolist() == j.tolist()
    assert len(t.pairs.scores) == int(t.num_pairs)
    free = t.pairs.scores[30:]
    assert (free.diff() <= 0).all()
    assert float((free >= 0).float().mean()) == pytest.approx(float(t.agreement))
    partner = truth[:300].argsort()
    good = right(t.pairs, partner)
    assert good.double().mean() > 0.95
    plain = ProcrustesTranslator(12, 12).double()
    plain.fit(x[t.pairs.indices_x], y[t.pairs.indices_y])
    close(plain(x), t(x))


def test_a_score_is_the_lead_of_a_pair_under_a_map_of_others():
    x, y, truth = dictionary(n=60, d=4)
    t = RefinedProcrustesTranslator(4, 4).double().fit(x, y, seeds_of(truth, 10))
    found = {i: (j, s) for i, j, s in zip(*(side.tolist() for side in t.pairs), strict=True)}
    rows = sorted(set(found) - set(seeds_of(truth, 10)[0].tolist()))
    index = torch.tensor(rows)
    partner = torch.tensor([found[i][0] for i in rows])
    judge = ProcrustesTranslator(4, 4).double().fit(x[index[::2]], y[partner[::2]])
    mean = y[partner[::2]].mean(0)
    cosines = torch.nn.functional.cosine_similarity(
        (judge(x[index[1::2]]) - mean)[:, None], (y - mean)[None], dim=-1
    )
    own = cosines.gather(1, partner[1::2, None]).squeeze(1)
    rivals = cosines.scatter(1, partner[1::2, None], -torch.inf).amax(1)
    scores = torch.tensor([found[i][1] for i in rows[1::2]], dtype=torch.float64)
    close(scores, own - rivals)


def test_a_wrong_seed_scores_below_zero():
    x, y, truth = dictionary()
    i, j = seeds_of(truth, 30)
    i[:2] = i[:2].flip(0)
    t = fitted(x, y, (i, j))
    assert (t.pairs.scores[:2] < 0).all()
    assert (t.pairs.scores[2:30] > 0).all()


def test_pairs_are_no_state_and_are_the_seeds_of_another():
    x, y, truth = dictionary()
    t = RefinedProcrustesTranslator(12, 12).double()
    assert t.pairs is None
    t.fit(x, y, seeds_of(truth, 20))
    assert not any("pairs" in name and "num" not in name for name in t.state_dict())
    assert isinstance(copy.deepcopy(t).pairs, Pairs)
    most = Pairs(*(side[:200] for side in t.pairs))
    other = fitted(x, y, most)
    assert torch.equal(other.pairs.indices_x[:200], most.indices_x)
    close(other(x), t(x), atol=0.1, rtol=0)
    other.load_state_dict(t.state_dict())
    assert other.pairs is None
    close(other(x), t(x))


def test_where_all_pairs_are_known_nothing_is_judged():
    x = normal(20, 3)
    t = RefinedProcrustesTranslator(3, 3, k=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there was none to find, so none is missing
        t.double().fit(x, x, (torch.arange(20), torch.arange(20)))
    assert t.agreement == 0
    assert t.pairs.scores.isnan().all()


@pytest.mark.parametrize("seed", [0, 2])
def test_too_few_seeds_begin_with_what_is_discovered(seed):
    """Three seeds in sixty dimensions leave a map that finds nothing; their transport does."""
    torch.manual_seed(seed)
    z = normal(300, 60) * torch.arange(1, 61).double() ** -0.5
    x, truth = z @ orthogonal(60), torch.randperm(300)
    y = (z @ orthogonal(60) + 0.1 * normal(300, 60))[truth]
    partner = truth.argsort()
    seeds = torch.arange(3), partner[:3]
    t = RefinedProcrustesTranslator(60, 60).double().fit(x, y, seeds)
    assert isinstance(t.pairs, Pairs)
    assert right(t.pairs, partner).double().mean() > 0.95
    assert t.num_pairs == len(t.pairs.scores) > 250
    before = t.pairs.indices_x[:3], t.pairs.indices_y[:3]
    close(before, seeds)
    alone = t._refined((x, y), seeds, seeds, torch.float64)
    assert (partner[alone[0]] == alone[1]).double().mean() < 0.5
    state = torch.get_rng_state()
    RefinedProcrustesTranslator(60, 60).double().fit(x, y, seeds)
    close(torch.get_rng_state(), state)  # the draw is one of its own
