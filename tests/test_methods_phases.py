"""AB, FT, FSP and OFD: what trains in which phase, how stages are weighted and paired, what stays fixed."""

import copy

import pytest
import torch
from tiny import TEACHER, student
from torch.nn import functional as F

from kd_lib import data, losses, models
from kd_lib.config import Run
from kd_lib.methods import AB, FSP, FT, METHODS, OFD
from kd_lib.session import start
from kd_lib.shapes import Batch, Outputs, Pair
from kd_lib.train import train

IMAGE = (1, 12, 20)
UNEQUAL, EQUAL = ("resnet8-w2", "vgg8"), ("resnet8", "resnet14")  # widths of the paired stages
CASES = [
    *((method, *names) for method in (AB, OFD) for names in (UNEQUAL, ("wrn-16-1", "resnet8-w6"))),
    *((FT, *names) for names in (("resnet8-w2", "resnet14-w4"), ("wrn-16-1", "resnet8-w6"))),
    *((FSP, *names) for names in (EQUAL, ("wrn-10-1", "resnet8"))),
]


def networks(names):
    torch.manual_seed(0)
    both = [models.build(name, n_classes=10, in_channels=1) for name in names]
    for network in both:
        network.keep_preactivations = True
    return both[0], both[1].eval().requires_grad_(False)


def connected(method, names):
    """Method, student, teacher and one batch."""
    own, teacher = networks(names)
    batch = Batch(torch.arange(8), torch.randn(8, *IMAGE), torch.arange(8) % 10)
    with torch.no_grad():
        pair = Pair(names, copy.deepcopy(own).eval()(batch.x), teacher(batch.x), 100, tuple(batch.x.shape[2:]))
    method.connect(pair)
    return method, own, teacher, batch


def has_gradient(module):
    return {
        name for name, parameter in module.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }


def descend(terms, parameters, lr, steps=30):
    optimiser = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    values = []
    for _ in range(steps):
        loss = sum(terms().values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    return values


@pytest.mark.parametrize("method, student, teacher", CASES)
def test_thirty_steps_lower_the_loss(method, student, teacher):
    method, own, teacher, batch = connected(method(), (student, teacher))
    target = teacher(batch.x)
    phases = []
    if method.setup_epochs:
        phases.append(lambda: method.setup(own(batch.x), target, batch))
    if not method.setup_moves_student:
        phases.append(lambda: method(own(batch.x), target, batch, 0.0))
    for terms in phases:
        values = descend(terms, [*own.parameters(), *method.parameters()], lr=0.02)
        assert values[-1] < 0.8 * values[0]


def test_presets_have_the_numbers_of_the_papers():
    common = {"ce_weight": 1.0, "kd_weight": 0.0, "tau": 4.0}
    expected = {
        "ab": {"method_weight": 3e-3, "margin": 1.0, "setup_epochs": 30},
        "ft": {"method_weight": 200.0, "rate": 0.5, "p": 1, "setup_epochs": 30},
        "fsp": {"method_weight": 1.0, "setup_epochs": 30},
        "ofd": {"method_weight": 1e-3},
    }
    for name, settings in expected.items():
        run = student(name)
        assert run.method_settings == {**settings, **common}
        assert run.setup_epochs == settings.get("setup_epochs", 0)
        assert METHODS[name].policy == "frozen" and METHODS[name].method.needs_live_teacher()
        assert METHODS[name].method.setup_moves_student == (name in ("ab", "fsp"))


@pytest.mark.parametrize("method, names", [(AB, UNEQUAL), (FSP, EQUAL)])
def test_an_initialisation_trains_the_student_up_to_its_last_stage_and_then_matches_nothing(method, names):
    method, own, teacher, batch = connected(method(kd_weight=0.5), names)
    target = teacher(batch.x)
    method.setup(own(batch.x), target, batch)["match"].backward()
    assert has_gradient(own) == {name for name, _ in own.named_parameters() if "classifier" not in name}
    # the gradient of a bias before a batch norm is zero, but there is none in a connector
    assert has_gradient(method) == {name for name, _ in method.named_parameters()}
    out = own(batch.x)
    terms = method(out, target, batch, 0.0)
    assert set(terms) == {"ce", "kd"}
    assert terms["ce"] == F.cross_entropy(out.logits, batch.y)
    assert terms["kd"] == 0.5 * losses.kd(out.logits, target.logits)


def test_ab_and_ofd_halve_each_stage_before_the_last():
    for method in (AB(method_weight=2.0), OFD(method_weight=2.0)):
        method, own, teacher, batch = connected(method, UNEQUAL)
        out, target = own(batch.x), teacher(batch.x)
        assert method.stages == [(0, 0), (1, 1), (2, 2)]  # of vgg8's five: 12x20, 6x10, 3x5, 1x2, 1x2 pixels
        expected = 0.0
        for i, weight in enumerate((0.25, 0.5, 1.0)):
            f_s, f_t = method.connectors[i](out.preactivations[i]), target.preactivations[i]
            if isinstance(method, AB):
                expected += weight * losses.ab(f_s, f_t)
            else:
                expected += weight * losses.ofd(f_s, f_t, margin=losses.negative_mean(f_t))
        terms = method.setup(out, target, batch) if isinstance(method, AB) else method(out, target, batch, 0.0)
        torch.testing.assert_close(terms["match"], 2 * expected)


def test_connectors_end_linear_and_read_maps_before_activation():
    for method in (AB(), OFD()):
        method, own, _, batch = connected(method, UNEQUAL)
        f = method.connectors[0](own(batch.x).preactivations[0])
        assert method.needs_preactivations and f.min() < -0.5 and f.max() > 0.5


def test_the_paraphraser_trains_alone_in_its_phase():
    method, own, teacher, batch = connected(FT(), UNEQUAL)
    with torch.no_grad():  # as the loop does it
        out, target = own.eval()(batch.x), teacher(batch.x)
    (loss,) = method.setup(out, target, batch).values()
    f_t = target.maps[-1]
    assert loss == (method.decoder(method.paraphraser(f_t)) - f_t).square().mean()
    loss.backward()
    # weights only: the mean that a bias before a batch norm moves is subtracted again
    weights = {name for name, parameter in method.named_parameters() if parameter.ndim == 4}
    assert {name for name in has_gradient(method) if name in weights} == {n for n in weights if "translator" not in n}
    assert not any("translator" in name for name in has_gradient(method))


def test_the_paraphraser_is_fixed_beside_the_student():
    method, own, teacher, batch = connected(FT(), UNEQUAL)
    method.setup(own(batch.x), teacher(batch.x), batch)
    before = copy.deepcopy(method.state_dict())
    descend(
        lambda: method.train()(own(batch.x), teacher(batch.x), batch, 0.0),
        [*own.parameters(), *method.parameters()],
        lr=0.01,
        steps=2,
    )
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"translator"}
    assert all(parameter.grad is None for parameter in method.paraphraser.parameters())


def test_a_factor_has_the_rates_channels_and_the_teachers_size():
    method, own, teacher, batch = connected(FT(rate=0.25, p=2), UNEQUAL)  # 3x5 pixels learn from 1x2
    factors = {}
    for name in ("paraphraser", "translator"):
        getattr(method, name).register_forward_hook(lambda *call, name=name: factors.update({name: call[-1]}))
    out, target = own(batch.x), teacher(batch.x)
    terms = method(out, target, batch, 0.0)
    assert factors["paraphraser"].shape == factors["translator"].shape == (8, 128, *target.maps[-1].shape[2:])
    torch.testing.assert_close(terms["match"], 200 * losses.ft(factors["translator"], factors["paraphraser"], p=2))
    kinds = [type(layer).__name__ for layer in method.paraphraser]
    assert kinds == ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3
    assert [type(layer).__name__ for layer in method.decoder] == ["ConvTranspose2d", "BatchNorm2d", "LeakyReLU"] * 3
    assert [layer.out_channels for layer in method.paraphraser[::3]] == [512, 128, 128]
    assert [layer.out_channels for layer in method.decoder[::3]] == [128, 512, 512]


@pytest.mark.parametrize("method", [FT, OFD])
def test_the_gradient_reaches_a_teacher_that_moves(method):
    method, own, teacher, batch = connected(method(), UNEQUAL)
    teacher.requires_grad_(True)
    method(own(batch.x), teacher(batch.x), batch, 0.0)["match"].backward()
    assert any("stages" in name for name in has_gradient(teacher))


def test_margins_are_memories_of_the_teacher_as_it_was():
    method, own, teacher, batch = connected(OFD(), UNEQUAL)
    expected = [losses.negative_mean(f) for f in teacher(batch.x).preactivations[:3]]
    assert torch.equal(method.margins, torch.cat(expected)) and (method.margins < 0).any()
    assert "margins" in method.state_dict() and "margins" not in dict(method.named_parameters())
    loud = Outputs(*[tuple(10 * f for f in part) if isinstance(part, tuple) else part for part in teacher(batch.x)])
    method.train()(own(batch.x), loud, batch, 0.0)
    assert torch.equal(method.margins, torch.cat(expected))


@pytest.fixture(scope="module")
def images():
    return data.load("digits100", **TEACHER.data_settings)


@pytest.mark.parametrize("method", ["ab", "ft", "ofd"])
def test_a_teacher_handed_over_in_training_mode_changes_nothing(method, images):
    settings = {"setup_epochs": 1} if method != "ofd" else {}
    run = student(method, epochs=1, settings=settings)
    torch.manual_seed(7)
    teacher = models.build("resnet8-w4", n_classes=100, in_channels=1)
    results = []
    for mode in (True, False):
        made = start(
            run,
            images,
            device=torch.device("cpu"),
            precision="fp32",
            teacher_network=teacher.train(mode),
            test_memory=Outputs(torch.zeros(100, 100), torch.zeros(100, 16)),
        )
        list(train(made))
        results.append({**made.student.state_dict(), **made.method.state_dict()})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


@pytest.mark.parametrize("method, student, teacher", CASES)
def test_half_precision_maps_give_a_float32_loss(method, student, teacher):
    method, own, teacher, batch = connected(method(), (student, teacher))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out, target = own(batch.x), teacher(batch.x)
    assert out.preactivations[-1].dtype == torch.bfloat16
    terms = {**method(out, target, batch, 0.0), **(method.setup(out, target, batch) if method.setup_epochs else {})}
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


def test_fsp_pairs_stages_by_their_sizes_and_needs_their_widths():
    method, own, teacher, batch = connected(FSP(method_weight=3.0), EQUAL)
    out, target = own(batch.x), teacher(batch.x)
    torch.testing.assert_close(method.setup(out, target, batch)["match"], 3 * losses.fsp(out.maps, target.maps))
    with pytest.raises(ValueError, match=r"student resnet8-w2 has \[2, 4, 8\] where teacher vgg8 has \[64, 128, 256\]"):
        connected(FSP(), UNEQUAL)
    one_stage = Outputs(torch.zeros(2, 10), torch.zeros(2, 4), (torch.zeros(2, 4, 6, 6),))
    with pytest.raises(ValueError, match=r"two or more stages .* student a has \[4\] where teacher b has \[4\]"):
        FSP().connect(Pair(("a", "b"), one_stage, one_stage, 100, (8, 8)))


def test_ft_needs_a_factor_with_channels():
    with pytest.raises(
        ValueError, match=r"rate=0\.05 leaves no channel of the 8 of teacher resnet8-w2 \(student vgg8\)"
    ):
        connected(FT(rate=0.05), ("vgg8", "resnet8-w2"))


def test_setup_epochs_are_a_part_of_the_run():
    assert Run(**{**student("ab").model_dump(), "teacher": TEACHER}).total_epochs == 30 + 2
    assert student("ab").key != student("ab", settings={"setup_epochs": 5}).key
