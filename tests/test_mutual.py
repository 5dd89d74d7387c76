"""DML and KDCL: losses against slow versions, ensembles against brute force, and who gets which gradient."""

import math

import pytest
import torch
from tiny import example
from torch import nn
from torch.nn import functional as F

from kd_lib import losses, models
from kd_lib.config import ConfigError
from kd_lib.methods import DML, KDCL, METHODS
from kd_lib.shapes import Batch, Outputs
from kd_lib.teachers import POLICIES, Peers

TARGETS = {
    "naive": losses.kdcl_naive,
    "linear": losses.kdcl_linear,
    "minlogit": losses.kdcl_minlogit,
    "general": losses.kdcl_general,
}
SHAPES = [(2, 12, 4), (3, 4, 7), (4, 6, 3)]


def group(m, b, c, *, seed=0, spread=2.0):
    """Logits of m members and labels, in float64."""
    generator = torch.Generator().manual_seed(seed)
    z = [spread * torch.randn(b, c, generator=generator, dtype=torch.float64) for _ in range(m)]
    return z, torch.randint(c, (b,), generator=generator)


def slow_ce(z, y):
    return math.log(sum(math.exp(v) for v in z.tolist())) - z[y].item()


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))


@pytest.mark.parametrize(("m", "b", "c"), SHAPES)
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_dml_is_the_mean_over_peers(m, b, c, tau):
    z, _ = group(m, b, c)
    soft = [F.softmax(one / tau, 1) for one in z]
    expected = sum(tau**2 * slow_kl(soft[j][n], soft[0][n]) for j in range(1, m) for n in range(b)) / (b * (m - 1))
    assert losses.dml(z[0], z[1:], tau=tau).item() == pytest.approx(expected, rel=1e-9)
    assert losses.dml(z[0], [z[0]] * 2).item() == pytest.approx(0, abs=1e-12)


def test_dml_gradient():
    z, _ = group(3, 4, 5)
    assert torch.autograd.gradcheck(lambda own: losses.dml(own, z[1:]), z[0].requires_grad_())
    with pytest.raises(ValueError, match="at least one peer"):
        losses.dml(z[0], [])


@pytest.mark.parametrize(("m", "b", "c"), SHAPES)
def test_naive_takes_each_samples_best_member(m, b, c):
    z, y = group(m, b, c)
    target = losses.kdcl_naive(z, y)
    chosen = []
    for n in range(b):
        ce = [slow_ce(one[n], y[n]) for one in z]
        chosen.append(ce.index(min(ce)))
        assert torch.equal(target[n], z[chosen[-1]][n])
    assert len(set(chosen)) > 1  # for each sample, not for the batch


def test_minlogit_by_hand():
    z = [torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([[0.0, 2.0, 5.0]])]
    # over the right class, 1: (-3, 0, -2) and (-2, 0, 3)
    assert losses.kdcl_minlogit(z, torch.tensor([1])).tolist() == [[-3.0, 0.0, -2.0]]


@pytest.mark.parametrize(("m", "b", "c"), SHAPES)
def test_linear_finds_the_best_convex_combination(m, b, c):
    """Against a grid over the simplex (two members) and the conditions of optimality (any number)."""
    z, y = group(m, b, c)
    target = losses.kdcl_linear(z, y)
    stack = torch.stack(z)
    if m == 2:
        shares = torch.linspace(0, 1, 2001, dtype=torch.float64)
        mixtures = [share * stack[0] + (1 - share) * stack[1] for share in shares]
        every = torch.stack([F.cross_entropy(mixture, y, reduction="none") for mixture in mixtures])
        ce = F.cross_entropy(target, y, reduction="none")
        assert (ce <= every.amin(0) + 1e-6).all()  # the bisection ends 2^-25 beside a corner
        assert (ce >= every.amin(0) - 1e-5).all()
    for n in range(b):
        gradient = F.softmax(target[n], 0)
        gradient[y[n]] -= 1
        slopes = stack[:, n] @ gradient  # of the cross-entropy in each member's weight
        # no member is worth more weight than the mixture has on average: Frank-Wolfe's gap is zero
        assert (target[n] @ gradient - slopes.min()).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("m", [3, 5])
def test_linear_mixes_more_than_two_members(m):
    """Each member is wrong about a class of its own, so that the best mixture needs all of them, in unequal parts."""
    wrong = torch.linspace(2, 3, m, dtype=torch.float64)
    z = [wrong[i] * F.one_hot(torch.tensor([i + 1]), m + 1).double() for i in range(m)]
    # equal slopes p_i a_i in all members; p_i is proportional to exp(alpha_i a_i)
    target = losses.kdcl_linear(z, torch.tensor([0]))
    slopes = F.softmax(target[0], 0)[1:] * wrong
    torch.testing.assert_close(slopes, slopes.mean().expand(m), rtol=1e-4, atol=0)
    assert (target[0, 1:] > 0).all()


@pytest.mark.parametrize(("m", "b", "c"), SHAPES)
def test_linear_is_convex_and_between_naive_and_minlogit(m, b, c):
    z, y = group(m, b, c)
    ce = {name: F.cross_entropy(TARGETS[name](z, y), y, reduction="none") for name in ("naive", "linear", "minlogit")}
    members = torch.stack([F.cross_entropy(one, y, reduction="none") for one in z])
    torch.testing.assert_close(ce["naive"], members.amin(0))
    assert (ce["linear"] <= ce["naive"] + 1e-6).all()
    assert (ce["minlogit"] <= ce["linear"] + 1e-6).all()
    assert (ce["linear"] < ce["naive"] - 1e-3).any()  # a mixture beats every member somewhere
    stack = torch.stack(z)
    target = losses.kdcl_linear(z, y)
    # in the members' hull, so between the least and the greatest of them
    assert ((target >= stack.amin(0) - 1e-9) & (target <= stack.amax(0) + 1e-9)).all()


def test_error_covariance_is_the_definition():
    z, y = group(3, 4, 5)
    errors = [[(F.softmax(one[n], 0) - F.one_hot(y[n], 5)).tolist() for n in range(4)] for one in z]
    expected = [
        [sum(errors[i][n][c] * errors[j][n][c] for n in range(4) for c in range(5)) / 4 for j in range(3)]
        for i in range(3)
    ]
    torch.testing.assert_close(losses.error_covariance(z, y), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
def test_general_weights_of_two_members_by_brute_force(seed):
    """The best of a fine grid over w1 + w2 = 1 for the ensemble's squared error, measured on its own predictions."""
    z, y = group(2, 8, 5, seed=seed)
    p = [F.softmax(one, 1) for one in z]
    grid = torch.linspace(-3, 4, 70001, dtype=torch.float64)
    d, e = p[0] - p[1], p[1] - F.one_hot(y, 5)
    error = ((grid[:, None, None] * d + e) ** 2).sum((1, 2)) / 8
    best = grid[error.argmin()]
    w = losses.least_error_weights(losses.error_covariance(z, y))
    assert w.sum().item() == pytest.approx(1)
    assert w[0].item() == pytest.approx(best.item(), abs=1e-3)
    mine = ((w[0] * p[0] + w[1] * p[1] - F.one_hot(y, 5)) ** 2).sum() / 8
    assert mine.item() == pytest.approx(error.min().item(), rel=1e-6)
    torch.testing.assert_close(losses.kdcl_general(z, y), w[0] * z[0] + w[1] * z[1])


def test_general_weights_by_hand():
    # uncorrelated errors: weights are inverse to them; C^-1 1 = (1, 1/3)
    torch.testing.assert_close(
        losses.least_error_weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)),
        torch.tensor([0.75, 0.25], dtype=torch.float64), rtol=0, atol=1e-3,
    )  # fmt: skip
    # the second errs as the first, one and a half times as much: it is subtracted, 3 e - 2 (1.5 e) = 0
    copied = losses.least_error_weights(torch.tensor([[1.0, 1.5], [1.5, 2.25]], dtype=torch.float64))
    torch.testing.assert_close(copied, torch.tensor([3.0, -2.0], dtype=torch.float64), rtol=0, atol=0.02)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_members_that_err_alike_share_their_weight(scale):
    w = losses.least_error_weights(torch.full((3, 3), scale))
    torch.testing.assert_close(w, torch.full((3,), 1 / 3), rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_of_one_mind_and_of_wrong_shapes(name):
    z, y = group(1, 5, 4)
    agreed = TARGETS[name]([z[0], z[0].clone(), z[0].clone()], y)
    torch.testing.assert_close(F.log_softmax(agreed, 1), F.log_softmax(z[0], 1), rtol=0, atol=1e-6)
    for wrong in ([z[0]], [z[0], z[0][:, :3]]):
        with pytest.raises(ValueError, match="two or more"):
            TARGETS[name](wrong, y)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_do_not_depend_on_the_order_of_members(name):
    z, y = group(3, 5, 4)
    torch.testing.assert_close(TARGETS[name](z, y), TARGETS[name](z[::-1], y), rtol=0, atol=1e-4)


def outputs(z):
    return [Outputs(one.clone().requires_grad_(), torch.zeros(len(one), 1)) for one in z]


@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("name", ["dml", *(f"kdcl_{target}" for target in TARGETS)])
def test_each_network_gets_the_gradient_of_its_own_loss(name, members):
    preset = METHODS[name]
    method = preset.method(**preset.settings)
    z, y = group(members, 6, 5)
    student, *peers = outputs(z)
    terms = method(student, tuple(peers), Batch(None, None, y), 0.0)
    assert list(terms) == ["ce", "kd", "peers_ce", "peers_kd"]
    sum(terms.values()).backward()
    for i, member in enumerate([student, *peers]):
        own = z[i].clone().requires_grad_()
        if name == "dml":
            learned = sum(losses.kd(own, z[j], tau=1.0) for j in range(members) if j != i) / (members - 1)
        else:
            learned = losses.kd(own, TARGETS[method.target](z, y), tau=4.0)
        (F.cross_entropy(own, y) + learned).backward()
        torch.testing.assert_close(member.logits.grad, own.grad)


def test_weights_of_the_terms():
    z, y = group(2, 6, 5)
    student, peer = outputs(z)
    one = DML()(student, (peer,), Batch(None, None, y), 0.0)
    half = DML(kd_weight=0.5, tau=2.0)(student, (peer,), Batch(None, None, y), 0.0)
    torch.testing.assert_close(half["kd"], 0.5 * losses.kd(z[0], z[1], tau=2.0))
    torch.testing.assert_close(half["ce"], one["ce"])
    torch.testing.assert_close(one["peers_kd"], losses.kd(z[1], z[0], tau=1.0))
    torch.testing.assert_close(one["peers_ce"], F.cross_entropy(z[1], y))
    assert DML(tau=2.0).temperatures(z[0], z[1]) == (2.0, 2.0)
    assert KDCL(target="general").relates_samples and not KDCL().relates_samples


def test_an_unknown_target():
    with pytest.raises(ValueError, match=r"unknown target of KDCL: 'minlogits'. Did you mean 'minlogit'\?"):
        KDCL(target="minlogits")


@pytest.mark.parametrize("name", ["dml", *(f"kdcl_{target}" for target in TARGETS)])
def test_a_group_learns(name):
    """Thirty steps on one batch, two networks of different families, lower every member's loss and move all its weights."""
    torch.manual_seed(0)
    sizes = {"n_classes": 4, "in_channels": 1}
    student, policy = models.build("resnet8-w2", **sizes), Peers([models.build("resnet8-w4", **sizes)])
    preset = METHODS[name]
    method = preset.method(**preset.settings)
    assert not list(method.parameters()) and not method.needs_teacher
    batch = Batch(torch.arange(8), torch.randn(8, 1, 12, 20), torch.arange(8) % 4)
    optimiser = torch.optim.SGD([*student.parameters(), *policy.parameters()], lr=0.02, momentum=0.9)
    before = [p.clone() for p in [*student.parameters(), *policy.parameters()]]
    history = []
    for _ in range(30):
        terms = method(student(batch.x), policy.target(policy(batch.x), batch.y), batch, 0.0)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        history.append(terms)
    for term in ("ce", "peers_ce"):
        assert history[-1][term] < 0.5 * history[0][term]
    after = [*student.parameters(), *policy.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_peers_as_a_policy():
    networks = [nn.Linear(3, 2), nn.Linear(3, 2)]
    policy = Peers(networks)
    assert policy.backbone_moves and policy.from_scratch and policy.lr is None
    assert policy.network is networks[0]
    assert sum(p.numel() for p in policy.parameters()) == 16
    x = torch.randn(4, 3)
    first, second = policy(x)
    assert torch.equal(first, networks[0](x)) and torch.equal(second, networks[1](x))
    assert policy.terms(None, None, None) == {}
    with pytest.raises(ValueError, match="at least one"):
        Peers([])


def test_only_runs_with_peers_are_mutual():
    assert POLICIES["peers"] is Peers
    run = example("dml")
    assert run.teacher is None and run.policy_type is Peers and run.policy_settings == {}
    assert run.replace(peers=("resnet8-w2",)).key != run.key
    with pytest.raises(ConfigError, match="needs peers"):
        run.replace(peers=())
