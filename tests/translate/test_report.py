"""Reports: the numbers are those of their definitions, and the sentences say what they should."""

import math

import pytest
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LinearRegression
from torch import nn

import relreps
from relreps import ProcrustesTranslator, Translator, translation_report
from relreps.metrics import recall_at_k
from relreps.translate import scale_invariance_report
from relreps.translate.held_out import splits_of
from relreps.translate.search import OwnRows, marks_of

QUIET = pytest.mark.filterwarnings("ignore::relreps.NumericalWarning")


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


class Shuffled(LeastSquares):
    """The right rows for the wrong things."""

    def forward(self, x):
        return super().forward(x).roll(1, 0)


def spaces(count, width=12, noise=0.3):
    x = torch.randn(count, width, dtype=torch.float64)
    y = x @ torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q + 3
    return x, y + noise * torch.randn_like(y)


def ranks(queries, keys):
    """Rank of key i for query i by the cosine, the plain way."""
    scores = nn.functional.normalize(queries) @ nn.functional.normalize(keys).T
    return (scores > scores.diagonal()[:, None]).sum(1)


def test_numbers_are_those_of_their_definitions():
    x, y = spaces(150)
    fit, test = (x[:100], y[:100]), (x[100:], y[100:])
    report = translation_report(LeastSquares(), *fit, test=test)
    map_ = LeastSquares().fit(*fit)
    moved, true, mean = map_(test[0]), test[1], fit[1].mean(0)
    assert (report.pairs, report.held_out) == (100, 50)
    for found, queries, keys in (
        (report.moved, true, moved),
        (report.queries, moved, true),
    ):
        assert found[2:] == (50, 50, 0)
        assert found.at_1 == pytest.approx(recall_at_k(queries, keys, 1).item())
        assert found.at_10 == pytest.approx(recall_at_k(queries, keys, 10).item())
    assert (report.recall_at_1, report.recall_at_10) == report.moved[:2]
    assert report.centered_at_10 == pytest.approx(recall_at_k(true - mean, moved - mean, 10).item())
    cosine = torch.cosine_similarity(moved - mean, true - mean).mean().item()
    assert report.cosine == pytest.approx(cosine)
    residual = ((moved - true).norm() / (true - mean).norm()).square().item()
    assert report.residual == pytest.approx(residual)
    assert report.length == pytest.approx(
        (moved.norm(dim=1).mean() / true.norm(dim=1).mean()).item()
    )
    assert report.condition_number == pytest.approx(torch.linalg.cond(map_.matrix).item(), rel=1e-6)
    values = torch.linalg.svdvals(true - true.mean(0))
    entropy = torch.distributions.Categorical(values).entropy()
    assert report.target_effective_rank == pytest.approx(entropy.exp().item())
    assert 1 < report.effective_rank <= 12


def nearest_others(queries, keys, metric):
    """The ten nearest of each, itself left out, by brute force."""
    if metric == "cosine":
        queries, keys = nn.functional.normalize(queries), nn.functional.normalize(keys)
    scores = -torch.cdist(queries, keys) if metric == "euclidean" else queries @ keys.T
    return scores.fill_diagonal_(-math.inf).topk(10).indices


@pytest.mark.parametrize("metric", ["cosine", "inner", "euclidean"])
def test_shares_of_the_ten_nearest(metric):
    x, y = spaces(130, noise=1)
    fit, test = (x[:90], y[:90]), (x[90:], y[90:])
    report = translation_report(LeastSquares(), *fit, test=test, metric=metric)
    moved, true = LeastSquares().fit(*fit)(test[0]), test[1]
    plain, other = (nearest_others(true, keys, metric) for keys in (true, moved))
    both = (plain[:, :, None] == other[:, None]).any(2).double().mean().item()
    assert report.overlap_at_10 == pytest.approx(both)
    shares = []
    for half in (0, 1):
        mixed = torch.where(torch.arange(40)[:, None] % 2 == half, true, moved)
        shares.append((nearest_others(true, mixed, metric) % 2 == half).double().mean().item())
    assert report.fresh_at_10 == pytest.approx(sum(shares) / 2)


def test_every_pair_is_held_out_once():
    seen = []

    class Watched(LeastSquares):
        def fit(self, x, y):
            seen.append({row.item() for row in x[:, 0]})
            return super().fit(x, y)

    x, y = spaces(57)
    report = translation_report(Watched(), x, y)
    every = {row.item() for row in x[:, 0]}
    held = [every - fitted for fitted in seen]
    assert sum(map(len, held)) == 57 == report.held_out
    assert set.union(*held) == every
    assert report.pairs == min(map(len, seen)) >= 50


def test_copies_are_held_out_together():
    x, y = (rows.repeat(3, 1) for rows in spaces(20))
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        for fit_x, _, test_x, _ in splits_of(x, y, None, generator):
            assert not (fit_x[:, None] == test_x).all(2).any()
    with pytest.raises(ValueError, match="`x` must hold different rows"):
        translation_report(LeastSquares(), x[:1].expand(12, -1), y[:12])


@pytest.mark.parametrize("copies", [2, 20])
@pytest.mark.parametrize("searched", ["pairs", "index"])
def test_copies_of_a_key_are_as_right_as_the_key(copies, searched):
    x = torch.randn(660 // copies, 16).repeat(copies, 1)
    y = x @ torch.randn(16, 16)
    index = x if searched == "index" else None
    report = translation_report(relreps.AffineTranslator(16, 16), x, y, index=index, targets=y)
    assert report.moved[:2] == report.queries[:2] == (1, 1)
    assert report.moved.copies == report.queries.copies == 660 - 660 // copies
    assert report.fresh_at_10 == pytest.approx(0.5, abs=0.02)
    assert report.warnings == ()
    assert f"{report.moved.copies} of them copies" in str(report)


def test_a_map_to_one_point_finds_what_chance_finds():
    class Mean(LeastSquares):
        def forward(self, x):
            return x * 0 + self.bias

    x, y = spaces(240)
    report = translation_report(Mean(), x[200:], y[200:], test=(x[:200], y[:200]), index=x)
    for k, part in ((1, report.recall_at_1), (10, report.recall_at_10)):
        assert part == pytest.approx(report.moved.chance(k))
    assert report.overlap_at_10 == pytest.approx(10 / 199, rel=0.05)


def anisotropic(count, width=96):
    """Two models of the same things, rows of length one; those of the second point one way."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scales = torch.arange(1, width + 1, dtype=torch.float64) ** -0.5
    meaning, weights = normal(count, width) * scales, 0.5 + normal(width).sigmoid()
    turns = [torch.linalg.qr(normal(width, width)).Q for _ in range(2)]
    first = meaning + 0.7 * scales * normal(count, width)
    own = 0.5 * meaning @ normal(width, width) * scales / scales.norm()
    second = meaning * weights + own + 0.7 * scales * normal(count, width)
    common = nn.functional.normalize(normal(width), dim=0) * 4 * second.norm(dim=1).mean()
    sides = first @ turns[0], second @ turns[1] + common
    return tuple(nn.functional.normalize(side).float() for side in sides)


@pytest.fixture(scope="module")
def migration():
    """An index of 3000 rows, its whole re-encoding, and 100 pairs for 96 features."""
    x, y = anisotropic(3000)
    return x, y, torch.randperm(3000, generator=torch.Generator().manual_seed(1))[:100]


def judged(migration, translator, **options):
    """What is true of the index moved by a map of all pairs, what is said, what used to be."""
    x, y, rows = migration
    generator = torch.Generator().manual_seed(0)
    report = translation_report(translator, x[rows], y[rows], generator=generator, **options)
    moved = translator.fit(x[rows], y[rows])(x)
    rest = torch.ones(len(x), dtype=torch.bool)
    rest[rows] = False
    truth = (ranks(y, moved)[rest] < 10).double().mean().item()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(6))
    fit, test = rows[order[20:]], rows[order[:20]]
    translator.fit(x[fit], y[fit])
    return truth, report, recall_at_k(translator(x[test]), y[test], 10).item()


@QUIET
def test_a_worthless_map_does_not_pass_the_gate(migration):
    """Among twenty rows all maps pass, in an order that is turned around in the index."""
    maps = {
        "ridge": relreps.AffineTranslator(96, 96, ridge="gcv"),
        "Procrustes": relreps.ProcrustesTranslator(96, 96, scale="none", complete=True),
        "least squares": relreps.AffineTranslator(96, 96),
    }
    found = {name: judged(migration, made, index=migration[0]) for name, made in maps.items()}
    truths, reports, before = ({name: f[i] for name, f in found.items()} for i in range(3))
    assert before["Procrustes"] > before["least squares"] >= before["ridge"] > 0.9
    assert truths["ridge"] > truths["Procrustes"] + 0.1 > truths["least squares"] + 0.2
    for name, report in reports.items():
        assert report.recall_at_10 == pytest.approx(truths[name], abs=0.1)
        assert (report.moved.searched, report.pairs) == (3000, 90)
        assert any("within a fifth" in text for text in report.warnings) is (
            name == "least squares"
        )
    judgement = [reports[name].recall_at_10 for name in maps]
    assert judgement == sorted(judgement, reverse=True)
    assert judgement[2] < 0.1
    warning = reports["least squares"].warnings[0]
    assert "90 to 100 pairs are within a fifth of 96 directions" in warning
    assert "give it a ridge" in warning


@QUIET
@pytest.mark.parametrize("metric", ["cosine", "inner", "euclidean"])
def test_the_whole_index_is_searched_by_its_metric(migration, metric):
    x, y, rows = (migration[0][:700], migration[1][:700], migration[2])
    rows = rows[rows < 700].sort().values
    rows = torch.cat((rows, torch.arange(20, 60))).unique()
    rest = torch.tensor([i for i in range(700) if i not in set(rows.tolist())])[:150]
    fit, test = (x[rest], y[rest]), (x[rows], y[rows])
    made = relreps.AffineTranslator(96, 96, ridge=0.1)
    report = translation_report(made, *fit, test=test, index=x.split(64), targets=y, metric=metric)
    moved = made.fit(*fit)(x).double()

    def at_10(queries, keys):
        if metric == "cosine":
            queries, keys = nn.functional.normalize(queries), nn.functional.normalize(keys)
        scores = queries.double() @ keys.double().T
        if metric == "euclidean":
            scores = -torch.cdist(queries.double(), keys.double())
        return ((scores > scores.gather(1, rows[:, None])).sum(1) < 10).double().mean().item()

    assert report.recall_at_10 == pytest.approx(at_10(test[1], moved))
    assert report.queries.at_10 == pytest.approx(at_10(moved[rows].float(), y))
    assert (report.moved.searched, report.moved.queries) == (700, len(rows))


def test_a_stored_row_is_found_in_the_type_that_it_is_stored_in(migration):
    x, y, rows = migration
    stored = x.half()
    report = translation_report(
        relreps.ProcrustesTranslator(96, 96), stored[rows].float(), y[rows], index=stored
    )
    assert not any("not among what is searched" in text for text in report.warnings)
    report = translation_report(
        relreps.ProcrustesTranslator(96, 96), x[rows] + 1e-3, y[rows], index=x
    )
    assert any("100 of the held-out rows are not among" in text for text in report.warnings)


def test_memory_is_bounded_by_blocks(migration, monkeypatch):
    x, y, rows = migration
    sizes, translator = [], relreps.ProcrustesTranslator(96, 96)
    forward = relreps.ProcrustesTranslator.forward

    def watched(self, rows):
        sizes.append(len(rows))
        return forward(self, rows)

    monkeypatch.setattr(relreps.ProcrustesTranslator, "forward", watched)
    translation_report(translator, x[rows], y[rows], index=x)
    assert max(sizes) <= 2048 < len(x)


def test_intervals_are_those_of_scipy():
    for hits, n in ((0, 20), (7, 50), (400, 400)):
        found = OwnRows(hits / n, hits / n, n, 1000, 0)
        wanted = binomtest(hits, n).proportion_ci(method="wilson")
        assert found.interval(1) == pytest.approx(tuple(wanted), abs=1e-9)
    assert found.chance(10) == 0.01
    assert OwnRows(1, 1, 5, 5, 0).chance(10) == 1
    with pytest.raises(ValueError, match="`k` must be one of"):
        found.interval(5)


def test_marks_tell_rows_apart():
    rows = torch.randint(0, 3, (5000, 6)).double()
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        marks = marks_of(rows.to(kind))
        assert len(marks.unique()) == len(rows.unique(dim=0))
        assert torch.equal(marks, torch.cat([marks_of(r) for r in rows.to(kind).split(7)]))
    assert torch.equal(marks_of(-0.0 * rows), marks_of(0.0 * rows))


def test_a_planted_rotation_is_perfect():
    report = translation_report(ProcrustesTranslator(12, 12).double(), *spaces(200, noise=0))
    assert (report.pairs, report.held_out) == (180, 200)
    assert report.recall_at_1 == report.recall_at_10 == 1
    assert report.residual < 1e-20
    assert report.condition_number == pytest.approx(1)
    assert report.warnings == ()
    assert not report.ill_posed
    assert str(report).startswith(
        "By maps of 180 pairs, 1.00 of 200 held-out rows find their own first among 200 moved "
        "ones, 1.00 among ten.\n"
    )
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
    for made, has_none in (
        (ProcrustesTranslator(12, 12), False),
        (relreps.AffineTranslator(12, 12, ridge="gcv"), False),
        (relreps.AffineTranslator(12, 12), True),
    ):
        report = translation_report(made.double(), x[20:], y[20:], test=(x[:20], y[:20]))
        assert report.ill_posed is ill_posed
        # Only what can have a ridge, and has none, is told to take one.
        assert ("least squares is ill-posed" in str(report)) is (ill_posed and has_none)
        assert ("ridge" in str(report)) is (ill_posed and has_none)


@pytest.mark.parametrize("count", [9, 10, 12, 14, 15])
def test_the_peak_of_least_squares_is_named(count):
    x, y = spaces(count + 40, noise=0.5)
    fit, test = (x[40:], y[40:]), (x[:40], y[:40])
    near = abs(count - 12) <= 0.2 * 12
    for made in (LeastSquares(), relreps.AffineTranslator(12, 12).double()):
        report = translation_report(made, *fit, test=test)
        assert any("within a fifth of 12 directions" in t for t in report.warnings) is near
    tiny = relreps.AffineTranslator(12, 12, ridge=1e-9).double()
    report = translation_report(tiny, *fit, test=test)
    assert not near or count > 12 or "within a fifth of 12" in report.warnings[0]


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
    assert "a translator that fits less freely" in report.warnings[1]
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


@pytest.mark.parametrize("size", [0.05, 5])
def test_a_scale_that_is_wrong_is_named(size):
    x, y = spaces(300)
    named = {}
    for scale in ("none", "umeyama"):
        made = ProcrustesTranslator(12, 12, scale=scale).double()
        report = translation_report(made, x, size * y)
        named[scale] = [t for t in report.warnings if "scale or centring are wrong" in t]
        assert report.centered_at_10 > 0.95
    (text,) = named["none"]
    assert "Give another `scale`" in text
    spread = float(text.partition("spread ")[2].split()[0])
    assert spread == pytest.approx(1 / size, rel=0.1)
    assert not named["umeyama"]


def test_rows_that_lose_their_length_are_named(migration):
    x, y, rows = migration
    ridge = relreps.AffineTranslator(96, 96, ridge="gcv")
    report = translation_report(ridge, x[rows], y[rows])
    assert report.length < 0.98
    assert any("the target's rows have length 1, the moved ones 0." in t for t in report.warnings)
    report = translation_report(ridge, x[rows], 2 * y[rows])
    assert not any("length 1" in t for t in report.warnings)


def test_fresh_rows_that_vanish_are_named(migration):
    x, y, rows = migration
    report = translation_report(relreps.AffineTranslator(96, 96, ridge=10.0), x[rows], y[rows])
    assert report.fresh_at_10 < 0.35
    assert any("those that are not moved vanish" in text for text in report.warnings)


def test_a_map_as_wide_as_its_target_is_not_called_worse_than_the_mean():
    x, y = spaces(400, noise=2.5)
    for made, worse in ((ProcrustesTranslator(12, 12, scale="norm"), False), (Shuffled(), True)):
        report = translation_report(made.double(), x, y)
        assert report.residual > 1
        assert any("fits less freely" in text for text in report.warnings) is worse


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
        ({"held_out": 0.6}, "and half of them to fit on, got 0.6"),
        ({"x": torch.randn(3, 4), "y": torch.randn(3, 4)}, "must be at least 4 pairs"),
        ({"test": (torch.randn(3, 4), torch.randn(4, 4))}, r"`test\[0\]` and `test\[1\]`"),
        ({"test": (torch.randn(3, 5), torch.randn(3, 4))}, r"`test\[0\]` must have shape"),
        ({"test": (torch.randn(3, 4),) * 2, "held_out": 0.5}, "`held_out` is a part"),
        ({"metric": "manhattan"}, "`metric` must be one of"),
        ({"index": torch.randn(50, 5)}, r"`index` must have shape \(rows, 4\)"),
        ({"index": []}, "`index` must hold at least one row"),
        ({"targets": torch.randn(50, 5)}, r"`targets` must have shape \(rows, 4\)"),
        (
            {
                "index": [
                    torch.zeros(3, 4),
                    torch.zeros(3, 4).index_fill(0, torch.tensor(1), math.nan),
                ]
            },
            "`index` must be finite, got NaN or infinity in row 4",
        ),
    ],
)
def test_bad_pairs_are_refused(arguments, message):
    pairs = {"x": torch.randn(10, 4), "y": torch.randn(10, 4)}
    with pytest.raises(ValueError, match=message):
        translation_report(ProcrustesTranslator(4, 4), **{**pairs, **arguments})


@pytest.mark.parametrize("other", [nn.Linear(4, 4), relreps.GeneralizedProcrustes([4, 4], 4)])
def test_what_cannot_be_fitted_on_pairs_is_refused(other):
    with pytest.raises(TypeError, match=r"`translator` must be a `relreps\.Translator` that is"):
        translation_report(other, torch.randn(10, 4), torch.randn(10, 4))


@pytest.mark.parametrize(
    "made",
    [
        relreps.RefinedProcrustesTranslator(12, 12),
        relreps.TransportTranslator(12, 12),
        relreps.translate.FunctionalMapTranslator(12, 12, num_functions=40, k=40),
    ],
    ids=lambda made: type(made).__name__,
)
@pytest.mark.filterwarnings("error::relreps.NumericalWarning")
def test_a_translator_with_seeds_gets_the_pairs_as_seeds(made):
    x, y = spaces(150, noise=0.1)
    report = translation_report(made.double(), x, y, held_out=0.3)
    plain = translation_report(ProcrustesTranslator(12, 12).double(), x, y, held_out=0.3)
    assert report.recall_at_1 > plain.recall_at_1 - 0.05 > 0.8


def test_anchors_are_the_pairs_of_an_inverse_relative_translator():
    t, x = relreps.InverseRelativeTranslator(4, 4, 30, ridge=0.01), torch.randn(60, 4)
    with pytest.raises(ValueError, match=r"`translator` has 30 anchors.*got 54.*as `test`"):
        translation_report(t, x, x + 1)
    report = translation_report(t, x[:30], x[:30] + 1, test=(x[30:], x[30:] + 1))
    assert report.pairs == 30


@pytest.mark.parametrize("fitted_inside", [False, True])
def test_inference_mode_is_nothing_special(fitted_inside):
    x, y = (rows.float() for rows in spaces(60))
    made = relreps.InverseRelativeTranslator(12, 12, 40)
    if not fitted_inside:
        made.fit(x[:40], y[:40])
    with torch.inference_mode():
        if fitted_inside:
            made.fit(x[:40], y[:40])
        inside = translation_report(made, x[:40] + 0, y[:40] + 0, test=(x[40:], y[40:]))
        for other in (relreps.AffineTranslator(12, 12).fit(x, y), ProcrustesTranslator(12, 12)):
            translation_report(other, x + 0, y + 0, index=x + 0)
    assert inside == translation_report(made, x[:40], y[:40], test=(x[40:], y[40:]))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_autocast_changes_nothing(kind):
    x, y = (rows.to(kind) for rows in spaces(60))
    made = ProcrustesTranslator(12, 12).to(kind)
    arguments = {"test": (x[40:], y[40:]), "index": x}
    with torch.autocast("cpu"):
        inside = translation_report(made, x[:40], y[:40], **arguments)
    assert inside == translation_report(made, x[:40], y[:40], **arguments)


def test_neither_scale_of_a_space_matters():
    x, y = spaces(80)
    plain = translation_report(LeastSquares(), x[:60], y[:60], test=(x[60:], y[60:]))
    x, y = x * 1e-150, y * 1e150
    moved = relreps.AffineTranslator(12, 12).double()
    scaled = translation_report(moved, x[:60], y[:60], test=(x[60:], y[60:]), metric="euclidean")
    assert scaled.residual == pytest.approx(plain.residual, rel=1e-6)
    assert scaled.cosine == pytest.approx(plain.cosine)


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
