"""Reports: the numbers are those of their definitions, and the sentences say what they should."""

import math

import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

import relreps
from relreps import ProcrustesTranslator, Translator, translation_report
from relreps.metrics import recall_at_k
from relreps.translate import scale_invariance_report


class LeastSquares(Translator):
    """The outside oracle as a translator: the shortest least squares map with a bias."""

    def __init__(self, width=12):
        super().__init__(width, width)

    def fit(self, x, y):
        found = LinearRegression().fit(x.numpy(), y.numpy())
        self.matrix = nn.Buffer(torch.from_numpy(found.coef_.T).to(x))
        self.bias = nn.Buffer(torch.from_numpy(found.intercept_).to(x))
        return self

    def forward(self, x):
        return x @ self.matrix + self.bias


def spaces(count, width=12, noise=0.3):
    x = torch.randn(count, width, dtype=torch.float64)
    y = x @ torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q + 3
    return x, y + noise * torch.randn_like(y)


def test_numbers_are_those_of_their_definitions():
    x, y = spaces(150)
    fit, test = (x[:100], y[:100]), (x[100:], y[100:])
    report = translation_report(LeastSquares(), *fit, test=test)
    map_ = LeastSquares().fit(*fit)
    moved, true, mean = map_(test[0]), test[1], fit[1].mean(0)
    assert (report.pairs, report.held_out) == (100, 50)
    assert report.recall_at_1 == pytest.approx(recall_at_k(moved, true, 1).item())
    assert report.recall_at_10 == pytest.approx(recall_at_k(moved, true, 10).item())
    cosine = torch.cosine_similarity(moved - mean, true - mean).mean().item()
    assert report.cosine == pytest.approx(cosine)
    residual = ((moved - true).norm() / (true - mean).norm()).square().item()
    assert report.residual == pytest.approx(residual)
    assert report.condition_number == pytest.approx(torch.linalg.cond(map_.matrix).item(), rel=1e-6)
    values = torch.linalg.svdvals(true - true.mean(0))
    entropy = torch.distributions.Categorical(values).entropy()
    assert report.target_effective_rank == pytest.approx(entropy.exp().item())
    assert 1 < report.effective_rank <= 12


def test_a_planted_rotation_is_perfect():
    report = translation_report(ProcrustesTranslator(12, 12).double(), *spaces(200, noise=0))
    assert (report.pairs, report.held_out) == (160, 40)
    assert report.recall_at_1 == report.recall_at_10 == 1
    assert report.residual < 1e-20
    assert report.condition_number == pytest.approx(1)
    assert report.warnings == ()
    assert not report.ill_posed
    assert str(report).startswith("With 160 pairs 1.00 of the neighbours are retained.\n")
    assert str(report).endswith("no warnings")


def test_the_translator_stays_as_it_is():
    x, y = spaces(60)
    translator = ProcrustesTranslator(12, 12).double()
    translation_report(translator, x, y)
    with pytest.raises(RuntimeError):
        translator(x)
    translator.fit(x, y)
    before = {name: value.clone() for name, value in translator.state_dict().items()}
    translation_report(translator, x, 2 * y)
    assert all(torch.equal(before[name], value) for name, value in translator.state_dict().items())


def test_the_draw_follows_the_generator():
    x, y = spaces(60, noise=1)
    reports = [
        translation_report(
            ProcrustesTranslator(12, 12).double(), x, y, generator=torch.Generator().manual_seed(s)
        )
        for s in (1, 1, 2)
    ]
    assert reports[0] == reports[1] != reports[2]


@pytest.mark.parametrize(("count", "ill_posed"), [(20, True), (23, True), (24, False), (30, False)])
def test_least_squares_is_called_ill_posed_below_two_pairs_a_direction(count, ill_posed):
    x, y = spaces(count + 20)
    report = translation_report(
        ProcrustesTranslator(12, 12).double(), x[20:], y[20:], test=(x[:20], y[:20])
    )
    assert report.ill_posed is ill_posed
    assert ("; least squares is ill-posed here, use ridge." in report.sentence) is ill_posed


def test_rank_counts_not_width():
    x, y = spaces(60)
    x[:, 3:] = x[:, :3].repeat(1, 3)
    report = translation_report(LeastSquares(), x[:20], y[:20], test=(x[20:], y[20:]))
    assert not report.ill_posed  # three directions, twenty pairs
    assert report.condition_number == math.inf
    assert any("drops 9 directions" in text for text in report.warnings)


def test_least_squares_with_as_many_pairs_as_dimensions_is_found_out():
    x, y = spaces(213, noise=0.5)
    report = translation_report(LeastSquares(), x[:13], y[:13], test=(x[13:], y[13:]))
    rotation = translation_report(
        ProcrustesTranslator(12, 12).double(), x[:13], y[:13], test=(x[13:], y[13:])
    )
    assert report.ill_posed
    assert report.residual > 1 > rotation.residual
    assert "a translator that fits less freely" in report.warnings[0]
    assert report.recall_at_1 < rotation.recall_at_1


def test_a_map_that_flattens_or_magnifies_is_found_out():
    x, y = spaces(400, noise=0)
    flat = y.clone()
    flat[:, 2:] *= 1e-3  # what is fitted to; what is measured on has every direction
    report = translation_report(LeastSquares(), x[:300], flat[:300], test=(x[300:], y[300:]))
    assert any("flattened" in text for text in report.warnings)
    steep = x * torch.logspace(0, -5, 12, dtype=torch.float64)
    report = translation_report(LeastSquares(), steep, y)
    assert report.condition_number > 1e4
    assert any("magnifies" in text for text in report.warnings)


def test_other_widths():
    x, y = spaces(100)
    report = translation_report(ProcrustesTranslator(12, 5).double(), x, y[:, :5])
    assert report.condition_number == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": torch.randn(9, 4)}, "`x` and `y` must be paired"),
        ({"x": torch.randn(10, 4).fill_(math.nan)}, "`x` must be finite"),
        ({"held_out": 0.05}, "`held_out` must leave at least two of the 10 pairs"),
        ({"held_out": 5}, "`held_out` must leave"),
        ({"test": (torch.randn(3, 4), torch.randn(4, 4))}, r"`test\[0\]` and `test\[1\]`"),
        ({"test": (torch.randn(3, 5), torch.randn(3, 4))}, r"`test\[0\]` must have shape"),
    ],
)
def test_bad_pairs_are_refused(arguments, message):
    pairs = {"x": torch.randn(10, 4), "y": torch.randn(10, 4)}
    with pytest.raises(ValueError, match=message):
        translation_report(ProcrustesTranslator(4, 4), **{**pairs, **arguments})


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(TypeError, match=r"`translator` must be a `relreps\.Translator` that is"):
        translation_report(nn.Linear(4, 4), torch.randn(10, 4), torch.randn(10, 4))


@pytest.mark.parametrize(
    "other", [relreps.RefinedProcrustesTranslator(4, 4), relreps.GeneralizedProcrustes([4, 4], 4)]
)
def test_what_needs_more_than_pairs_is_refused(other):
    with pytest.raises(TypeError, match=r"on pairs, got .* Fit one that takes more"):
        translation_report(other, torch.randn(10, 4), torch.randn(10, 4))


def test_anchors_are_the_pairs_of_an_inverse_relative_translator():
    t, x = relreps.InverseRelativeTranslator(4, 4, 30, ridge=0.01), torch.randn(60, 4)
    with pytest.raises(ValueError, match=r"`translator` has 30 anchors.*got 48.*as `test`"):
        translation_report(t, x, x + 1)
    report = translation_report(t, x[:30], x[:30] + 1, test=(x[30:], x[30:] + 1))
    assert report.pairs == 30


# ------------------------------------------------------------------------------- scale invariance


@pytest.mark.parametrize(
    "decoder",
    [
        nn.Linear(6, 3, bias=False),
        nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 3, bias=False)),
        nn.Sequential(nn.LayerNorm(6, eps=0), nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 3)),
        nn.Sequential(relreps.UnitNorm(), nn.Linear(6, 3)),
    ],
    ids=["linear", "homogeneous", "LayerNorm first", "UnitNorm first"],
)
def test_decoders_that_ignore_the_scale(decoder):
    report = scale_invariance_report(decoder.double(), torch.randn(100, 6, dtype=torch.float64))
    assert report.agreement == (1.0,) * 7


def test_a_bias_breaks_it_and_alpha_one_never_does():
    decoder = nn.Linear(6, 3)
    with torch.no_grad():
        decoder.bias.copy_(torch.tensor([2.0, 0.0, 0.0]))
    x = torch.randn(200, 6)
    labels = decoder(x).argmax(-1)
    report = scale_invariance_report(decoder, x, (0.01, 1.0), labels=labels)
    assert report.alphas == (0.01, 1.0)
    assert report.agreement[1] == report.accuracy[1] == 1
    first = (labels == 0).double().mean().item()  # by its bias alone the class is always 0
    assert report.agreement[0] == report.accuracy[0] == pytest.approx(first)
    assert str(report).splitlines()[0] == "alpha  agreement  accuracy"
    assert "accuracy" not in str(scale_invariance_report(decoder, x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alphas": (1.0, 0.0)}, "`alphas` must be positive"),
        ({"alphas": ()}, "`alphas` must be positive"),
        ({"labels": torch.zeros(3)}, r"`labels` must have shape \(5,\)"),
        ({"decoder": lambda x: x[0]}, r"`decoder` must return scores of shape \(5, classes\)"),
        ({"x": torch.full((5, 6), math.inf)}, "`x` must be finite"),
    ],
)
def test_bad_input_of_the_scale_report(arguments, message):
    usual = {"decoder": nn.Linear(6, 3), "x": torch.randn(5, 6)}
    with pytest.raises(ValueError, match=message):
        scale_invariance_report(**{**usual, **arguments})
