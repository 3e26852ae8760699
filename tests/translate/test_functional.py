"""Functional maps as translators: wrong seeds are corrected, graphs in parts are told."""

import warnings

import pytest
import torch

from relreps import FunctionalMapTranslator, NumericalWarning, ProcrustesTranslator
from tests._data import normal, orthogonal

close = torch.testing.assert_close


@pytest.mark.parametrize("widths", [(3, 3), (3, 5)], ids=str)
def test_wrong_seeds_are_corrected(widths):
    x = normal(250, 3) * torch.tensor([2.0, 1.0, 0.5]).double()
    truth = torch.randperm(250)
    y = (2 * x @ orthogonal(widths[1])[:3] + 7)[truth]
    i, j = truth[:50].clone(), torch.arange(50)
    i[:10] = i[:10].roll(1)
    t = FunctionalMapTranslator(3, widths[1], num_functions=20, k=20, scale="norm").double()
    t.fit(x, y, (i, j))
    plain = ProcrustesTranslator(3, widths[1], scale="norm").double().fit(x[i], y[j])
    assert (t(x)[truth] - y).norm() < 0.1 * (plain(x)[truth] - y).norm()
    assert t.agreement > 0.9
    assert t.num_pairs > 200


def test_a_space_and_itself_are_isometric():
    x = normal(120, 4)
    t = FunctionalMapTranslator(4, 4, num_functions=15, k=15).double()
    t.fit(x, x @ orthogonal(4) + 1, (torch.arange(120),) * 2)
    close(t.similarity, torch.ones_like(t.similarity))


def test_a_graph_in_parts_is_told():
    x = torch.cat((normal(40, 3), normal(40, 3) + 100))
    t = FunctionalMapTranslator(3, 3, num_functions=8, k=5)
    with pytest.warns(NumericalWarning, match="graph of `[xy]` falls into 2 parts"):
        t.fit(x, x, (torch.arange(80),) * 2)


BAD = {
    "functions": (lambda x, y, s: (x[:15], y, (s[0][:9],) * 2), "`num_functions` must be less"),
    "neighbours": (lambda x, y, s: (x[:18], y, (s[0][:9],) * 2), "`k` must be at most"),
    "seeds": (lambda x, y, s: (x, y, (s[0], s[1] + 200)), r"`seeds\[1\]` must be row indices"),
    "nan": (lambda x, y, s: (x, y.log(), s), "`y` must be finite"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_failed_fit_leaves_the_module_as_it_was(change, message):
    x, seeds = normal(100, 3), (torch.arange(60),) * 2
    t = FunctionalMapTranslator(3, 3, num_functions=16, k=18).double().fit(x, x + 1, seeds)
    before = {name: tensor.clone() for name, tensor in t.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        t.fit(*change(x - 3, x, seeds))
    close(t.state_dict(), before, atol=0, rtol=0)


def test_repr_is_the_constructor_call():
    t = FunctionalMapTranslator(3, 4, num_functions=7)
    assert "3, 4, num_functions=7, k=100, alpha=10.0, scale='norm', pre='center', post" in repr(t)


def test_alpha_is_finite():
    with pytest.raises(ValueError, match="`alpha` must be finite, got inf"):
        FunctionalMapTranslator(3, 4, alpha=float("inf"))


@pytest.mark.parametrize("k", [5, 9, 20])
def test_one_hot_rows_leave_finite_state(k):
    x = torch.eye(8)[torch.arange(80) % 8]
    seeds = torch.arange(20), torch.arange(20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        t = FunctionalMapTranslator(8, 8, num_functions=10, k=k).fit(x, x, seeds)
    assert all(buffer.isfinite().all() for buffer in t.buffers())
