"""The torch optimiser: the published trajectory in float64, and torch's manners."""

import copy
import io
import pickle

import numpy as np
import pytest
from mfac.cases import descent


@pytest.fixture(scope="module")
def torch(require):
    return require("torch")


@pytest.fixture(scope="module")
def mfac(torch):
    from linalgkit.mfac.optim import MFAC

    return MFAC


OPTIONS = {"lr": 0.05, "n_gradients": 4, "damping": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def net(torch, dtype=None):
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    return torch.nn.Sequential(*layers).to(dtype or torch.float64)


def data(torch, dtype=None):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 3, generator=generator, dtype=dtype or torch.float64)


def train(torch, model, optimizer, begin, end):
    inputs = data(torch, next(model.parameters()).dtype)
    for step in range(begin, end):
        batch = inputs[step % 5 * 8 : step % 5 * 8 + 8]

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = ((model(batch).squeeze(1) - batch.sum(1).sin()) ** 2).mean()
            loss.backward()
            return loss

        loss = optimizer.step(closure)
    return loss


def flat(torch, model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()


def test_published_trajectory_in_float64(torch, mfac):
    model, inputs = net(torch), data(torch)

    def fun_and_grad(x):
        step, fun_and_grad.calls = fun_and_grad.calls, fun_and_grad.calls + 1
        other = net(torch)
        torch.nn.utils.vector_to_parameters(torch.from_numpy(x), other.parameters())
        batch = inputs[step % 5 * 8 : step % 5 * 8 + 8]
        loss = ((other(batch).squeeze(1) - batch.sum(1).sin()) ** 2).mean()
        loss.backward()
        return loss.item(), np.concatenate([p.grad.numpy().ravel() for p in other.parameters()])

    fun_and_grad.calls = 0
    expected, _, _ = descent(fun_and_grad, flat(torch, model), **OPTIONS, maxiter=30)
    train(torch, model, mfac(model.parameters(), **OPTIONS), 0, 30)
    np.testing.assert_allclose(flat(torch, model), expected, rtol=1e-9)


@pytest.mark.parametrize("storage", [None, "float16", "bfloat16"])
def test_state_goes_through_a_file(torch, mfac, storage):
    model = net(torch, torch.float32)
    optimizer = mfac(model.parameters(), **OPTIONS, storage=storage)
    train(torch, model, optimizer, 0, 6)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    train(torch, model, optimizer, 6, 10)
    file.seek(0)
    again = net(torch, torch.float32)
    other = mfac(again.parameters(), **OPTIONS, storage=storage)
    weights, state = torch.load(file)
    again.load_state_dict(weights)
    other.load_state_dict(state)
    train(torch, again, other, 6, 10)
    np.testing.assert_array_equal(flat(torch, again), flat(torch, model))


def test_groups_have_their_own_rates(torch, mfac):
    model = net(torch)
    first, last = list(model[0].parameters()), list(model[2].parameters())
    before = flat(torch, model)
    groups = [{"params": first, "lr": 0.0}, {"params": last}]
    train(torch, model, mfac(groups, **OPTIONS), 0, 1)
    after = flat(torch, model)
    assert (after[:16] == before[:16]).all()
    assert (after[16:] != before[16:]).all()


def test_zeros_stay_in_a_sparse_model(torch, mfac):
    model = net(torch)
    with torch.no_grad():
        model[0].weight[:, 1] = 0
    train(torch, model, mfac(model.parameters(), **OPTIONS, sparse=True), 0, 8)
    assert (model[0].weight[:, 1] == 0).all()
    assert (model[0].weight[:, 0] != 0).all()


def test_what_stays_zero_goes_through_a_state(torch, mfac):
    one = torch.nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))
    optimizer = mfac([one], n_gradients=2, damping=0.1, lr=0.1, momentum=0.5, sparse=True)
    file = io.BytesIO()
    torch.save((one.detach(), optimizer.state_dict()), file)
    file.seek(0)
    two = torch.nn.Parameter(torch.ones(3))  # dense before it is loaded
    other = mfac([two], n_gradients=2, damping=0.1, lr=0.1, momentum=0.5, sparse=True)
    weights, state = torch.load(file)
    two.data.copy_(weights)
    other.load_state_dict(state)
    for _ in range(3):
        for p, steps in (one, optimizer), (two, other):
            steps.zero_grad()
            ((p - 3) ** 2).sum().backward()
            steps.step()
    assert two[0] == 0
    assert (two[1:] != weights[1:]).all()
    np.testing.assert_array_equal(two.detach(), one.detach())
    assert (state["kept"][0] == torch.tensor([False, True, True])).all()


@pytest.mark.parametrize("n_gradients", [10, 100])  # many parameters, and few
def test_what_is_zero_stays_exactly_so(n_gradients, torch, mfac):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(40, generator=generator) * (torch.rand(40, generator=generator) > 0.5)
    p = torch.nn.Parameter(start.clone())
    optimizer = mfac([p], n_gradients=n_gradients, sparse=True, momentum=0.5)
    for _ in range(150):
        optimizer.zero_grad()
        ((p - torch.randn(40, generator=generator)) ** 2).sum().backward()
        optimizer.step()
    assert (p[start == 0] == 0).all()
    assert (p[start != 0] != start[start != 0]).all()


@pytest.mark.parametrize("n_gradients", [4, 60])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_by_themselves(how, n_gradients, torch, mfac):
    model = net(torch)
    with torch.no_grad():
        model[0].weight[:, 1] = 0
    optimizer = mfac(model.parameters(), **OPTIONS | {"n_gradients": n_gradients}, sparse=True)
    train(torch, model, optimizer, 0, 3)
    pair = model, optimizer
    again, other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    start = flat(torch, model)
    train(torch, again, other, 3, 6)
    np.testing.assert_array_equal(flat(torch, model), start)
    train(torch, model, optimizer, 3, 6)
    np.testing.assert_array_equal(flat(torch, again), flat(torch, model))
    assert (again[0].weight[:, 1] == 0).all()


def test_a_state_in_memory_belongs_together(torch, mfac):
    """It follows the optimiser, as that of torch's own do; a deep copy does not."""
    model = net(torch)
    optimizer = mfac(model.parameters(), **OPTIONS)
    train(torch, model, optimizer, 0, 2)
    state, kept, weights = (
        optimizer.state_dict(),
        *copy.deepcopy((optimizer.state_dict(), model.state_dict())),
    )
    train(torch, model, optimizer, 2, 5)
    reached = flat(torch, model)
    for saved, begin in (state, 5), (kept, 2):
        again = net(torch)
        again.load_state_dict(model.state_dict() if saved is state else weights)
        other = mfac(again.parameters(), **OPTIONS)
        other.load_state_dict(saved)
        assert other.window.count == min(begin, 4)
        train(torch, again, other, begin, 7)
        if saved is state:
            following = flat(torch, again)
    train(torch, model, optimizer, 5, 7)
    np.testing.assert_array_equal(following, flat(torch, model))
    np.testing.assert_array_equal(flat(torch, again), flat(torch, model))
    assert (reached != flat(torch, model)).any()


def test_a_state_that_is_refused_changes_nothing(torch, mfac):
    model = net(torch)
    optimizer = mfac(model.parameters(), **OPTIONS, sparse=True)
    train(torch, model, optimizer, 0, 3)
    before = copy.deepcopy(optimizer.state_dict())
    other = mfac(net(torch).parameters(), **OPTIONS)
    whole = copy.deepcopy(other.state_dict())
    groups = whole["param_groups"] * 2
    without = {key: value for key, value in whole.items() if key != "kept"}
    for state, words in (
        (whole | {"param_groups": groups}, "different number of parameter groups"),
        (without, "has no 'kept'"),
        (whole | {"kept": [torch.ones(2, dtype=torch.bool)]}, "other shapes than the parameters"),
        (whole | {"kept": torch.ones(2, dtype=torch.bool)}, "other shapes than the parameters"),
    ):
        with pytest.raises(ValueError, match=words):
            optimizer.load_state_dict(state)
        after = optimizer.state_dict()
        assert after["window"]["count"] == 3
        for key in "gradients", "gram", "scales":
            for ours, theirs in zip(after["window"][key], before["window"][key], strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert after["kept"] is not None


def test_sparse_gradients(torch, mfac):
    found = []
    for is_sparse in (False, True):
        torch.manual_seed(0)
        table = torch.nn.Embedding(6, 2, sparse=is_sparse)
        optimizer = mfac(table.parameters(), **OPTIONS)
        for _ in range(3):
            optimizer.zero_grad()
            (table(torch.tensor([1, 4, 1])) ** 2).sum().backward()
            optimizer.step()
        found.append(table.weight.detach().numpy())
    np.testing.assert_array_equal(*found)


def test_nothing_happens_without_gradients(torch, mfac):
    model = net(torch)
    optimizer = mfac(model.parameters(), **OPTIONS)
    train(torch, model, optimizer, 0, 2)
    before = flat(torch, model)
    optimizer.zero_grad()
    assert optimizer.step() is None
    assert optimizer.step(lambda: 3.0) == 3.0
    assert optimizer.window.count == 2
    np.testing.assert_array_equal(flat(torch, model), before)


def test_a_number_may_be_the_first_parameter(torch, mfac):
    scale = torch.nn.Parameter(torch.tensor(2.0))
    optimizer = mfac([scale], lr=1.0, n_gradients=2, damping=1.0)
    (scale**2).backward()
    optimizer.step()  # of g / (damping + g² / 2)
    assert scale.item() == pytest.approx(2 - 4 / (1 + 16 / 2))


def test_parameter_without_gradient_is_left(torch, mfac):
    one, two = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = mfac([one, two], weight_decay=0.1, n_gradients=2, damping=0.1)
    (one**2).sum().backward()
    optimizer.step()
    assert (two == 1).all()
    assert (one != 1).all()


def test_refusals(torch, mfac):
    p = torch.nn.Parameter(torch.ones(2))
    for options, words in (({"lr": -1}, "lr must"), ({"momentum": 1.0}, "momentum must")):
        with pytest.raises(ValueError, match=words):
            mfac([p], **options)
    for options in {"lr": "fast"}, {"momentum": None}, {"weight_decay": "0.1"}:
        with pytest.raises(TypeError, match=f"{next(iter(options))} must be a number"):
            mfac([p], **options)
    with pytest.raises(TypeError, match="sparse must be True or False; got 'no'"):
        mfac([p], sparse="no")
    with pytest.raises(ValueError, match="lr must be at least 0"):
        mfac([{"params": [p], "lr": -0.1}])
    optimizer = mfac([p], n_gradients=2)
    with pytest.raises(ValueError, match="not one of MFAC: it has no window"):
        optimizer.load_state_dict(torch.optim.SGD([p]).state_dict())
    damaged = optimizer.state_dict()
    del damaged["window"]["next"]
    with pytest.raises(ValueError, match="the state has no 'next'"):
        optimizer.load_state_dict(damaged)
    with pytest.raises(ValueError, match="fixed set"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    p.grad = torch.tensor([0.0, float("nan")])
    with pytest.raises(ValueError, match="g is not finite at 1"):
        optimizer.step()
