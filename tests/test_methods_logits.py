"""Methods on logits: weights, warm-ups, temperatures, and what of their own learns."""

import math

import pytest
import torch
from tiny import student as tiny_student
from torch.nn import functional as F

from kd_lib import losses, methods
from kd_lib.config import ConfigError
from kd_lib.methods import CTKD, DIST, DKD, DTKD, KD, METHODS, SKD, TTM, WTTM, LogitStd, NormKD
from kd_lib.methods.logits import warm_up
from kd_lib.shapes import Batch, Outputs

B, C = 6, 10
ALL = ["kd", "patient", "skd", "normkd", "logit_std", "dtkd", "ttm", "wttm", "ctkd", "dkd", "dist"]


def outputs(seed: int, *, grad: bool = False) -> Outputs:
    z = 4 * torch.randn(B, C, generator=torch.Generator().manual_seed(seed))
    return Outputs(z.requires_grad_(grad), torch.zeros(B, 3))


def batch() -> Batch:
    return Batch(torch.arange(B), torch.zeros(B, 1, 2, 2), torch.arange(B) % C)


def preset(name: str):
    return METHODS[name].method(**METHODS[name].settings)


def expected_terms(name: str, z_s, z_t, y) -> dict[str, torch.Tensor]:
    """Each method's terms after its warm-up, written out with the weights of METHODS section 1."""
    ce = F.cross_entropy(z_s, y)
    theta = torch.tensor(1.0)
    return {
        "kd": lambda: {"kd": 0.9 * losses.kd(z_s, z_t, tau=4.0), "ce": 0.1 * ce},
        "patient": lambda: {"kd": losses.kd(z_s, z_t, tau=1.0), "ce": 0 * ce},
        "skd": lambda: {"kd": 0.9 * losses.skd(z_s, z_t, tau=4.0), "ce": 0.1 * ce},
        "normkd": lambda: {"kd": 0.9 * losses.normkd(z_s, z_t, tau=2.0), "ce": 0.1 * ce},
        "logit_std": lambda: {"kd": 9 * losses.logit_std(z_s, z_t, tau=2.0), "ce": 0.1 * ce},
        "dtkd": lambda: {
            "dtkd": 3 * losses.dtkd(z_s, z_t, tau=4.0),
            "kd": losses.kd(z_s, z_t, tau=4.0),
            "ce": ce,
        },
        "ttm": lambda: {"kd": 45 * losses.ttm(z_s, z_t, gamma=0.1), "ce": ce},
        "wttm": lambda: {"kd": 2.25 * losses.wttm(z_s, z_t, gamma=0.1), "ce": ce},
        "ctkd": lambda: {"kd": 0.9 * losses.ctkd(z_s, z_t, theta=theta), "ce": 0.1 * ce},
        "dkd": lambda: {
            "tckd": losses.tckd(z_s, z_t, y, tau=4.0),
            "nckd": 8 * losses.nckd(z_s, z_t, y, tau=4.0),
            "ce": ce,
        },
        "dist": lambda: {"kd": 2 * losses.dist(z_s, z_t, tau=4.0), "ce": ce},
    }[name]()


@pytest.mark.parametrize("name", ALL)
def test_terms_and_their_weights(name):
    s, t, data = outputs(1), outputs(2), batch()
    torch.testing.assert_close(preset(name)(s, t, data, 30.0), expected_terms(name, s.logits, t.logits, data.y))


@pytest.mark.parametrize("name", ALL)
def test_thirty_steps_lower_the_loss(name):
    method, t, data = preset(name), outputs(2), batch()
    torch.manual_seed(0)
    network, x = torch.nn.Linear(8, C), torch.randn(B, 8)
    optimiser = torch.optim.SGD([*network.parameters(), *method.parameters()], lr=0.03)
    values = []
    for _ in range(31):
        terms = method(Outputs(network(x), x), t, data, 30.0)
        values.append(sum(terms.values()).item())
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("name", ALL)
def test_only_the_student_learns_from_a_detached_teacher_and_both_from_a_live_one(name):
    s, t, data = outputs(1, grad=True), outputs(2, grad=True), batch()
    sum(preset(name)(s, t._replace(logits=t.logits.detach()), data, 5.0).values()).backward()
    assert s.logits.grad.abs().max() > 0 and t.logits.grad is None
    sum(preset(name)(s, t, data, 5.0).values()).backward()
    assert t.logits.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("method", "scale"),
    [
        (KD(tau=3.0), 9.0),
        (KD(tau=4.0, tau_teacher=5.0), 20.0),
        (SKD(tau=3.0), 9.0),
        (NormKD(tau=1.5), "teacher"),
        (LogitStd(tau=3.0), 9.0),
        (DTKD(tau=3.0), "both"),
        (DTKD(tau=3.0, centred=True), "both"),
        (TTM(gamma=0.2), 1.0),
        (CTKD(theta=0.0), 121.0),
    ],
    ids=["kd", "kd unequal", "skd", "normkd", "logit_std", "dtkd", "dtkd centred", "ttm", "ctkd"],
)
def test_each_method_compares_at_the_temperatures_it_names(method, scale):
    s, t = outputs(1), outputs(2)
    tau_s, tau_t = method.temperatures(s.logits, t.logits)
    factor = {"teacher": lambda: tau_t**2, "both": lambda: tau_s * tau_t}.get(scale, lambda: scale)()
    matched = losses.soft_kl(s.logits, t.logits, tau_s=tau_s, tau_t=tau_t, scale=factor)
    name, weight = ("dtkd", method.dtkd_weight) if isinstance(method, DTKD) else ("kd", method.kd_weight)
    torch.testing.assert_close(method(s, t, batch(), 30.0)[name], weight * matched)


def test_wttm_dkd_and_dist_name_their_temperatures():
    s, t = outputs(1).logits, outputs(2).logits
    assert WTTM(gamma=0.2).temperatures(s, t) == (1.0, 5.0)
    assert DKD(tau=3.0).temperatures(s, t) == DIST(tau=3.0).temperatures(s, t) == (3.0, 3.0)
    assert DIST.relates_samples and not DKD.relates_samples


# kd: one more temperature, an early stop, no labels


def test_kd_ends_after_its_last_epoch():
    s, t, data = outputs(1), outputs(2), batch()
    method = KD(until_epoch=3)
    for progress in (0.0, 2.999):
        torch.testing.assert_close(method(s, t, data, progress), KD()(s, t, data, progress))
    for progress in (3.0, 7.5):
        torch.testing.assert_close(method(s, t, data, progress), {"ce": F.cross_entropy(s.logits, data.y)})


@pytest.mark.parametrize("until_epoch", [0, -1])
def test_kd_without_any_epoch_is_refused(until_epoch):
    with pytest.raises(ValueError, match=rf"until_epoch must be at least 1.*got {until_epoch}"):
        KD(until_epoch=until_epoch)


def test_new_settings_of_kd_leave_old_keys_alone():
    old = tiny_student("kd")
    assert tiny_student("kd", settings={"tau_teacher": None, "until_epoch": None}).key == old.key
    assert tiny_student("kd", settings={"until_epoch": 1}).key != old.key
    spelled = {"tau": 1.0, "kd_weight": 1.0, "ce_weight": 0.0}
    assert tiny_student("patient").key == tiny_student("kd", settings=spelled).key != old.key
    with pytest.raises(ConfigError, match="until_epoch"):
        tiny_student("kd", settings={"until_epoch": 1.5})


# warm-ups


def test_a_warm_up_grows_to_one_and_stays():
    assert [warm_up(progress, 20.0) for progress in (0.0, 5.0, 20.0, 100.0)] == [0.0, 0.25, 1.0, 1.0]
    assert warm_up(0.0, 0.0) == 1.0


@pytest.mark.parametrize("name", ["dtkd", "dkd"])
def test_all_but_the_cross_entropy_warms_up(name):
    s, t, data = outputs(1), outputs(2), batch()
    early, late = (preset(name)(s, t, data, progress) for progress in (5.0, 20.0))
    for term, value in late.items():
        torch.testing.assert_close(early[term], value if term == "ce" else value / 4)
    at_once = METHODS[name].method(warmup=0.0)(s, t, data, 0.0)
    torch.testing.assert_close(at_once, late)


# ctkd


def theta_gradient(method: CTKD, progress: float) -> float:
    method.theta.grad = None
    sum(method(outputs(1), outputs(2), batch(), progress).values()).backward()
    return method.theta.grad.item()


def test_ctkd_reverses_the_gradient_along_half_a_cosine():
    method = CTKD()
    theta = torch.tensor(1.0, requires_grad=True)
    tau = 1 + 20 * theta.sigmoid()
    (plain,) = torch.autograd.grad(0.9 * losses.kd(outputs(1).logits, outputs(2).logits, tau=tau), theta)
    for progress, weight in (
        (0.0, 0.0),
        (2.5, -(1 - math.cos(math.pi / 4)) / 2),
        (5.0, -0.5),
        (10.0, -1.0),
        (99, -1.0),
    ):
        assert theta_gradient(method, progress) == pytest.approx(weight * plain.item(), rel=1e-4, abs=1e-9)


def test_ctkd_moves_its_temperature_against_the_student():
    method = CTKD()
    assert [name for name, _ in method.named_parameters()] == ["theta"]
    optimiser = torch.optim.SGD(method.parameters(), lr=0.5)
    values, temperatures = [], []
    for _ in range(5):
        term = method(outputs(1), outputs(2), batch(), 20.0)["kd"]
        values.append(term.item())
        temperatures.append(method.temperatures(outputs(1).logits, outputs(2).logits)[0].item())
        optimiser.zero_grad()
        term.backward()
        optimiser.step()
    assert values == sorted(values) and values[-1] > values[0]
    assert temperatures[0] == pytest.approx(1 + 20 / (1 + math.exp(-1))) and temperatures[-1] != temperatures[0]


def test_ctkd_keeps_what_it_learned():
    method, fresh = CTKD(theta=-0.7), CTKD()
    fresh.load_state_dict(method.state_dict())
    assert fresh.theta.item() == pytest.approx(-0.7)
    tau_s, tau_t = CTKD(tau_min=2.0, tau_range=4.0, theta=0.0).temperatures(outputs(1).logits, outputs(2).logits)
    assert (tau_s.item(), tau_t.item()) == (4.0, 4.0) and not tau_s.requires_grad


@pytest.mark.parametrize("name", [name for name in ALL if name != "ctkd"])
def test_the_others_have_nothing_to_learn(name):
    assert not list(preset(name).parameters()) and not preset(name).state_dict()


def test_centred_dtkd_has_a_temperature_however_low_the_logits_are():
    z = torch.randn(4, 10, generator=torch.Generator().manual_seed(3))
    batch = Batch(torch.arange(4), torch.zeros(4, 1, 2, 2), torch.arange(4))
    low, teacher = Outputs(z - 30, z), Outputs(2 * z, z)
    with pytest.raises(ValueError, match="positive"):
        methods.DTKD(warmup=0.0)(low, teacher, batch, 1.0)
    centred = methods.DTKD(warmup=0.0, centred=True)
    moved, plain = centred(low, teacher, batch, 1.0), centred(Outputs(z, z), teacher, batch, 1.0)
    torch.testing.assert_close(moved["dtkd"], plain["dtkd"])
