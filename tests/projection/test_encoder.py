"""RelativeEncoder: anchors follow the encoder, never stale, and its mode is left alone."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from relreps import (
    Center,
    EMAAnchors,
    ProductProjection,
    RelativeEncoder,
    RelativeProjection,
    SparseRelativeProjection,
    SubspaceProjection,
    relative_projection,
)
from relreps.parity import RunningRelativeProjection
from relreps.projection.fingerprint import alike, fingerprint

N, D, F, A = 6, 5, 4, 3


def make(encoder=None, **options):
    encoder = nn.Linear(D, F) if encoder is None else encoder
    return RelativeEncoder(encoder, RelativeProjection(F, A), torch.randn(A, D), **options)


def expected(model, x):
    return relative_projection(model.encoder(x), model.encoder(model.anchor_inputs))


@torch.no_grad()
def evaluate(model, x):
    return model.eval()(x)


def step(model, x):
    """One step of training, without looking at what it does."""
    model.train()(x).square().sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.1 * p.grad)
            p.grad = None


class Counting(nn.Linear):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + (len(x) == A)
        return super().forward(x)


def test_anchors_are_encoded_anew_at_every_step():
    model, x = make(), torch.randn(N, D)
    for _ in range(3):
        torch.testing.assert_close(model.train()(x), expected(model, x))
        step(model, x)


@pytest.mark.parametrize("every", [1, 3])
def test_refresh_every(every):
    model, x = make(Counting(D, F), refresh_every=every), torch.randn(N, D)
    for _ in range(6):
        step(model, x)
    assert model.encoder.calls == 6 // every


def test_eval_never_shows_a_stale_code_and_never_works_twice():
    model, x = make(Counting(D, F), refresh_every=100), torch.randn(N, D)
    step(model, x)
    step(model, x)
    torch.testing.assert_close(evaluate(model, x), expected(model, x).detach())
    before = model.encoder.calls
    evaluate(model, x), evaluate(model, x)
    assert model.encoder.calls == before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.encoder[0].weight.mul_(-2).add_(1),
        lambda m: m.encoder.load_state_dict(nn.Sequential(nn.Linear(D, F)).state_dict()),
        lambda m: m.encoder.append(nn.Tanh()),
        lambda m: setattr(m, "anchor_inputs", torch.randn(A, D)),
        lambda m: m.anchor_inputs.add_(1),
        lambda m: m.projection.set_anchors(torch.randn(A, F)),
        lambda m: fused_step(m),
    ],
    ids=[
        "in place",
        "load",
        "module",
        "inputs",
        "inputs in place",
        "set_anchors",
        "fused optimizer",
    ],
)
def test_whatever_changes_is_seen(change):
    model, x = make(nn.Sequential(nn.Linear(D, F))), torch.randn(N, D)
    evaluate(model, x)
    with torch.no_grad():
        change(model)
    torch.testing.assert_close(evaluate(model, x), expected(model, x).detach())


@torch.enable_grad()
def fused_step(model):
    """A fused optimizer in eval mode does not touch the version counters."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.randn(N, D)).square().sum().backward()
    optimizer.step()


def test_edits_through_data_are_seen_after_a_switch_of_mode():
    model, x = make(), torch.randn(N, D)
    evaluate(model, x)
    model.train()
    model.encoder.weight.data.mul_(-3)
    torch.testing.assert_close(evaluate(model, x), expected(model, x).detach())


def test_accumulating_gradients_in_eval():
    model = make().eval()
    sum(model(torch.randn(N, D)).sum() for _ in range(3)).backward()
    assert model.encoder.weight.grad is not None


@pytest.mark.parametrize(
    "projection",
    [
        lambda: SubspaceProjection(F, A, 2),
        lambda: ProductProjection([RelativeProjection(F, A), RelativeProjection(F, A, "l1")]),
        lambda: RunningRelativeProjection(F, A),
    ],
    ids=["subspaces", "product", "running"],
)
def test_other_projections(projection):
    model, x = RelativeEncoder(nn.Linear(D, F), projection(), torch.randn(A, D)), torch.randn(N, D)
    step(model, x)
    code = evaluate(model, x)
    fresh = copy.deepcopy(model.projection).set_anchors(model.encoder(model.anchor_inputs))
    torch.testing.assert_close(code, fresh(model.encoder(x)).detach())


def test_running_statistics_settle_on_the_published_mixture():
    """59 % anchors, 41 % samples, with momentum 0.3: 0.3 against 0.3 x 0.7 a step."""
    anchors, batch = torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [12.0]])
    model = RelativeEncoder(nn.Identity(), RunningRelativeProjection(1, 2), anchors)
    for _ in range(60):
        model.train()(batch)
    share = (model.projection.norm.running_mean - 11) / (1 - 11)
    torch.testing.assert_close(share, torch.tensor([0.3 / (1 - 0.49)]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_through_the_anchors(detach):
    model, x = make(detach_anchors=detach).double(), torch.randn(N, D).double()
    model.train()(x).square().sum().backward()
    got = model.encoder.weight.grad.clone()
    model.encoder.zero_grad()
    anchors = model.encoder(model.anchor_inputs)
    anchors = anchors.detach() if detach else anchors
    relative_projection(model.encoder(x), anchors).square().sum().backward()
    torch.testing.assert_close(got, model.encoder.weight.grad)


@pytest.mark.parametrize("pre", [None, Center])
def test_two_forwards_before_one_backward(pre):
    projection = RelativeProjection(F, A, pre=pre and pre(F))
    model = RelativeEncoder(nn.Linear(D, F), projection, torch.randn(A, D), refresh_every=2)
    codes = [model.train()(torch.randn(N, D)) for _ in range(4)]
    sum(code.sum() for code in codes).backward()


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_of_the_encoder_is_left_alone(mode):
    model = make(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(D), nn.Linear(D, F)))
    model.encoder.train(mode)
    before = [m.training for m in model.encoder.modules()]
    model(torch.randn(N, D))
    model.refresh()
    assert [m.training for m in model.encoder.modules()] == before


def test_nested_inputs_move_along():
    class Sum(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs["a"] + inputs["b"][0])

    inputs = {"a": torch.randn(A, D), "b": [torch.randn(A, D)], "name": "kept"}
    model = RelativeEncoder(Sum(D, F), RelativeProjection(F, A), inputs).double()
    assert model.anchor_inputs["b"][0].dtype == torch.float64
    assert model.anchor_inputs["name"] == "kept"
    batch = {"a": torch.randn(N, D).double(), "b": [torch.randn(N, D).double()]}
    assert model.eval()(batch).shape == (N, A)
    assert copy.deepcopy(model).to("meta").anchor_inputs["a"].is_meta


@pytest.mark.parametrize("detach", [True, False])
def test_compiled_encoder_and_compiled_whole(detach):
    torch._dynamo.reset()
    model, x = make(detach_anchors=detach), torch.randn(N, D)
    inner = make(torch.compile(model.encoder, backend="eager"), detach_anchors=detach)
    inner.anchor_inputs = model.anchor_inputs
    whole = torch.compile(copy.deepcopy(model).train(), backend="eager", fullgraph=True)
    whole(x)  # allocates the caches
    for _ in range(2):
        torch.testing.assert_close(inner.train()(x), model.train()(x))
        step(model, x)
    torch.testing.assert_close(whole(x), expected(whole, x))
    torch.testing.assert_close(evaluate(inner, x), expected(model, x).detach())


def test_refreshing_now_and_then_compiles_in_few_graphs():
    torch._dynamo.reset()
    model, x = make(refresh_every=3).train(), torch.randn(N, D)
    model(x)
    whole = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(30):
        whole(x)


def test_checkpoint_holds_the_anchors_and_not_the_inputs():
    model, x = make(), torch.randn(N, D)
    step(model, x)
    model.eval()(x)
    assert not [name for name in model.state_dict() if "input" in name]
    other = make()
    other.anchor_inputs = model.anchor_inputs
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(x), model(x))


def test_inference_mode():
    model, x = make().eval(), torch.randn(N, D)
    with torch.inference_mode():
        inside = model(x)
    torch.testing.assert_close(inside, model(x))
    step(model, x)


def test_ema_anchors_follow():
    model, x = make(ema=EMAAnchors(F, A, decay=0.9)), torch.randn(N, D)
    model.train()(x)
    first = model.encoder(model.anchor_inputs).detach()
    torch.testing.assert_close(model.projection.anchors, first)
    step(model, x)
    torch.testing.assert_close(model.ema.anchors, first)
    model.train()(x)
    second = model.encoder(model.anchor_inputs).detach()
    wanted = 0.9 * first + 0.1 * second
    torch.testing.assert_close(model.ema.anchors, wanted)
    torch.testing.assert_close(model.eval()(x), relative_projection(model.encoder(x), wanted))


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_ema_decays_geometrically(decay):
    ema, target = EMAAnchors(F, A, decay).double(), torch.randn(A, F).double()
    ema.update(torch.zeros(A, F).double())
    for _ in range(5):
        ema.update(target.requires_grad_())
    torch.testing.assert_close(ema.anchors, (1 - decay**5) * target.detach())
    assert not ema.anchors.requires_grad
    fresh = EMAAnchors(F, A, decay).double()
    fresh.load_state_dict(ema.state_dict())
    torch.testing.assert_close(fresh.update(target).anchors, ema.update(target).anchors)


def test_ema_schedule():
    ema = EMAAnchors(1, 1, decay=lambda updates: updates / (updates + 1))
    for value in (1.0, 2.0, 6.0):
        ema.update(torch.tensor([[value]]))
    torch.testing.assert_close(ema.anchors, torch.tensor([[3.0]]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make(refresh_every=0), ValueError, "`refresh_every` must be at least 1"),
        (
            lambda: make(nn.Linear(D, F + 1))(torch.randn(N, D)),
            ValueError,
            r"must map `anchor_inputs` to shape \(3, 4\), got \(3, 5\)",
        ),
        (
            lambda: make(ema=EMAAnchors(F, A, 0.9), detach_anchors=False),
            ValueError,
            "needs `detach_anchors=True`",
        ),
        (
            lambda: RelativeEncoder(
                nn.Linear(D, F), SparseRelativeProjection(F, A, 2), torch.randn(A, D)
            ),
            TypeError,
            "a method `project`.*, got SparseRelativeProjection",
        ),
        (lambda: EMAAnchors(F, A, 1.5), ValueError, r"`decay` must be in \[0, 1\], got 1.5"),
        (lambda: EMAAnchors(F, A, 0.5).update(torch.ones(A, 9)), ValueError, r"shape \(3, 4\)"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("every", [2, 3])
def test_a_refresh_that_failed_is_tried_again(every):
    """A loop may catch the error, of memory say, and go on."""

    class Fails(nn.Linear):
        wrong = False

        def forward(self, x):
            if self.wrong and len(x) == A:
                raise RuntimeError("out of memory")
            return super().forward(x)

    model, x = make(Fails(D, F), refresh_every=every).train(), torch.randn(N, D)
    model.encoder.wrong = True
    with pytest.raises(RuntimeError, match="out of memory"):
        model(x)
    model.encoder.wrong = False
    torch.testing.assert_close(model(x), expected(model, x))


# Checkpoints, and what stands for the anchor samples in them.


def test_other_anchor_inputs_are_refused():
    """Other samples, or the same in another order; and the module stays as it was."""
    model, x = make(), torch.randn(N, D)
    state = copy.deepcopy(model.eval().refresh().state_dict())
    same = RelativeEncoder(nn.Linear(D, F), RelativeProjection(F, A), model.anchor_inputs.clone())
    same.load_state_dict(state)
    torch.testing.assert_close(same.eval()(x), model(x))
    one = model.anchor_inputs.clone()
    one[1, 2] += 0.01
    for inputs in (torch.randn(A, D) + 1, model.anchor_inputs.flip(0), one):
        other = RelativeEncoder(nn.Linear(D, F), RelativeProjection(F, A), inputs)
        before = other.encoder.weight.clone()
        with pytest.raises(ValueError, match=r"other `anchor_inputs`.*delete 'fingerprint'"):
            other.load_state_dict(state)
        with pytest.raises(ValueError, match=r"delete '0.fingerprint'"):
            nn.Sequential(other).load_state_dict({f"0.{k}": t for k, t in state.items()})
        assert torch.equal(other.encoder.weight, before)
        without = {key: tensor for key, tensor in state.items() if key != "fingerprint"}
        other.load_state_dict(without)
        torch.testing.assert_close(other.eval()(x), expected(other, x))


@pytest.mark.parametrize("there", [torch.half, torch.bfloat16, torch.float64])
def test_the_same_inputs_in_another_type_are_the_same(there):
    inputs = torch.randn(A, D)
    models = [RelativeEncoder(nn.Linear(D, F), RelativeProjection(F, A), inputs) for _ in "ab"]
    for a, b in ((models[0].to(there), models[1]), (models[1], models[0])):
        b.load_state_dict(a.state_dict())


def test_a_fingerprint_of_whatever_an_encoder_takes():
    tokens = torch.randint(0, 999, (A, 40))
    inputs = {"ids": tokens, "mask": tokens > 5, "texts": ["a", "b"], "other": object()}
    print_ = fingerprint(inputs)
    assert alike(print_, fingerprint({**inputs, "ids": tokens.clone(), "other": object()}))
    for change in ({"ids": tokens.flip(0)}, {"texts": ["b", "a"]}, {"mask": tokens > 500}):
        assert not alike(print_, fingerprint({**inputs, **change}))
    wide = torch.randn(3, 3, 700, 700)
    other = wide.clone()
    other[1] = torch.randn(3, 700, 700)
    assert not alike(fingerprint(wide), fingerprint(other))
    assert alike(fingerprint(torch.empty(3, 2, device="meta")), print_)  # nothing is known


def test_averaged_anchors_come_back_as_they_were_saved():
    def build():
        torch.manual_seed(1)
        return make(ema=EMAAnchors(F, A, decay=0.5))

    model, fresh, x = build(), build(), torch.randn(N, D)
    for _ in range(3):
        step(model, x)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(evaluate(fresh, x), evaluate(model, x))
    assert torch.equal(fresh.ema.updates, model.ema.updates)


# Never zeros.


def test_a_projection_without_anchors_is_given_them_at_once():
    """One that was put in between two refreshes."""
    model, x = make(refresh_every=4), torch.randn(N, D)
    step(model, x)
    model.projection = RelativeProjection(F, A, "euclidean")
    wanted = relative_projection(model.encoder(x), model.encoder(model.anchor_inputs), "euclidean")
    torch.testing.assert_close(model.train()(x), wanted)


def test_a_refresh_that_fails_at_its_end_takes_no_step(monkeypatch):
    """The running average is written together with the projection, or not at all."""
    model, x = make(ema=EMAAnchors(F, A, decay=0.5), refresh_every=2), torch.randn(N, D)
    step(model, x)
    step(model, x)
    before = copy.deepcopy(model.state_dict())

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(RelativeProjection, "state_of", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model.train()(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.train()(x)
    assert model.ema.updates == before["ema.updates"] + 1


# Mistakes.


class Wraps(nn.Linear):
    kind = tuple

    def forward(self, x):
        out = super().forward(x)
        return (out,) if self.kind is tuple else SimpleNamespace(last_hidden_state=out)


@pytest.mark.parametrize("kind", [tuple, SimpleNamespace])
@pytest.mark.parametrize("training", [True, False])
def test_an_encoder_that_wraps_its_output(kind, training):
    encoder = Wraps(D, F)
    encoder.kind = kind
    with pytest.raises(TypeError, match=f"`encoder` must return a tensor, got {kind.__name__}"):
        make(encoder).train(training)(torch.randn(N, D))


@pytest.mark.parametrize(
    ("inputs", "what"), [(torch.randn(A, F), "encoded anchors"), (torch.arange(A), "indices")]
)
def test_what_is_given_for_the_anchor_samples(inputs, what):
    model = RelativeEncoder(nn.Linear(D, F), RelativeProjection(F, A), inputs)
    with pytest.raises(ValueError, match=f"which is that of {what}. Give the samples themselves"):
        model(torch.randn(N, D))


def test_classes_for_objects():
    with pytest.raises(TypeError, match="`encoder` must be an object, got the class Linear"):
        make(nn.Linear)
    with pytest.raises(TypeError, match="`projection` must be an object"):
        RelativeEncoder(nn.Linear(D, F), RelativeProjection, torch.randn(A, D))
