"""Methods on maps and relations: which stages meet, the layers between them, what trains, and that it learns."""

import itertools
import math

import pytest
import torch
from torch import nn

from kd_lib import losses, models
from kd_lib.methods import METHODS
from kd_lib.methods.connect import Regressor, pair_stages
from kd_lib.shapes import Batch, Outputs, Pair

ON_MAPS, ON_RELATIONS = ("fitnet", "at", "vid", "nst"), ("sp", "cc", "rkd", "pkt")
PAIRS = {
    "wider": ("resnet8-w2", "resnet8-w4", (1, 12, 20)),
    "other family": ("wrn-16-1", "resnet8", (1, 12, 20)),
    "more stages": ("resnet8-w2", "vgg8", (3, 32, 32)),
    "fewer stages": ("vgg8", "resnet8-w2", (1, 12, 20)),
}
every_method = pytest.mark.parametrize("name", ON_MAPS + ON_RELATIONS)
every_pair = pytest.mark.parametrize("networks", PAIRS.values(), ids=PAIRS)


def outputs(*sizes: tuple[int, int], channels: int = 2) -> Outputs:
    return Outputs(torch.zeros(2, 3), torch.zeros(2, channels), tuple(torch.zeros(2, channels, *s) for s in sizes))


def squares(*sides: int) -> Outputs:
    return outputs(*((side, side) for side in sides))


def meet(student: Outputs, teacher: Outputs | None) -> list[tuple[int, int]]:
    return pair_stages(Pair(("small", "big"), student, teacher, 10, (32, 32)))


def connected(name: str, networks: tuple, b: int = 8):
    """A method connected to two real networks, the student, both networks' outputs (the student's live) and the batch."""
    student_name, teacher_name, shape = networks
    x = torch.randn(b, *shape, generator=torch.Generator().manual_seed(1))
    student, teacher = (
        models.build(n, n_classes=5, in_channels=shape[0]).train() for n in (student_name, teacher_name)
    )
    with torch.no_grad():
        frozen = teacher(x)  # batch statistics, since an untrained network's running ones are not those of its maps
        pair = Pair((student_name, teacher_name), student(x), frozen, b, tuple(x.shape[2:]))
    method = METHODS[name].method()
    method.connect(pair)
    return method.train(), student, frozen, Batch(torch.arange(b), x, torch.arange(b) % 5)


# which stages meet


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ((32, 16, 8), (32, 16, 8), [(0, 0), (1, 1), (2, 2)]),
        ((32, 16, 8), (32, 16, 8, 4, 4), [(0, 0), (1, 1), (2, 2)]),
        ((32, 16, 8, 4, 4), (32, 16, 8), [(0, 0), (1, 1), (2, 2)]),
        ((32, 16, 8), (16, 8, 4), [(0, 0), (1, 1), (2, 2)]),
        ((32, 16, 8, 4), (16, 8, 4), [(1, 0), (2, 1), (3, 2)]),
        ((56, 7), (56, 28, 14, 7), [(0, 0), (1, 3)]),
        ((8, 4), (8, 4, 4), [(0, 0), (1, 2)]),
        ((8, 8, 4, 4), (8, 4), [(1, 0), (3, 1)]),
        ((4,), (32, 16, 8), [(0, 2)]),
        ((8, 8), (8, 8, 8, 8), [(0, 2), (1, 3)]),
    ],
)
def test_stages_meet_by_size_and_among_equals_the_latest(student, teacher, expected):
    assert meet(squares(*student), squares(*teacher)) == expected


def test_stages_of_images_that_are_not_square_and_halve_to_odd_sizes():
    resnet, vgg = outputs((12, 20), (6, 10), (3, 5)), outputs((12, 20), (6, 10), (3, 5), (1, 2), (1, 2))
    assert meet(resnet, vgg) == meet(vgg, resnet) == [(0, 0), (1, 1), (2, 2)]


def test_stages_meet_in_order_once_and_fit_as_well_as_they_can():
    """Against a recursion that knows nothing of combinations: the last stages meet, or one of them stays alone."""

    def least(a, b, k):
        if k == 0:
            return 0.0
        if min(len(a), len(b)) < k:
            return math.inf
        together = abs(math.log2(a[-1] ** 2) - math.log2(b[-1] ** 2)) + least(a[:-1], b[:-1], k - 1)
        return min(together, least(a[:-1], b, k), least(a, b[:-1], k))

    sides = [s for k in (1, 2, 3) for s in itertools.combinations_with_replacement((32, 12, 7, 4), k)]
    for a, b in itertools.product(sides[::2], sides[::3]):
        stages = meet(squares(*a), squares(*b))
        i_s, i_t = zip(*stages, strict=True)
        assert len(stages) == min(len(a), len(b))
        assert list(i_s) == sorted(set(i_s)) and list(i_t) == sorted(set(i_t))
        misfit = sum(2 * abs(math.log2(a[i]) - math.log2(b[j])) for i, j in stages)
        assert misfit == pytest.approx(least(a, b, len(stages)))


def test_preactivations_serve_where_there_are_no_maps():
    student = squares(8, 4)
    assert meet(student._replace(maps=(), preactivations=student.maps), squares(8, 4, 2)) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("name", [*ON_MAPS, "sp"])
def test_a_network_without_maps_is_named(name):
    for student, teacher, culprit in ((squares(), squares(4), "small"), (squares(4), squares(), "big")):
        pair = Pair(("small", "big"), student, teacher, 10, (32, 32))
        with pytest.raises(ValueError, match=f"student small, teacher big: {culprit} has no maps"):
            METHODS[name].method().connect(pair)
    with pytest.raises(ValueError, match="big has no maps"):
        meet(squares(4), None)


# the regressor


@pytest.mark.parametrize(
    ("size_in", "size_out", "layer", "kernel", "stride"),
    [
        ((8, 8), (8, 8), nn.Conv2d, 1, 1),
        ((16, 16), (8, 8), nn.Conv2d, 3, 2),
        ((3, 5), (2, 3), nn.Conv2d, 3, 2),
        ((12, 20), (6, 10), nn.Conv2d, 3, 2),
        ((4, 4), (8, 8), nn.ConvTranspose2d, 4, 2),
        ((3, 5), (6, 10), nn.ConvTranspose2d, 4, 2),
        ((3, 5), (1, 2), nn.AdaptiveAvgPool2d, 1, 1),
        ((2, 3), (3, 5), nn.AdaptiveAvgPool2d, 1, 1),
        ((32, 32), (8, 8), nn.AdaptiveAvgPool2d, 1, 1),
        ((1, 2), (12, 20), nn.AdaptiveAvgPool2d, 1, 1),
        ((8, 2), (4, 4), nn.AdaptiveAvgPool2d, 1, 1),
        ((1, 1), (1, 1), nn.Conv2d, 1, 1),
    ],
)
def test_the_regressor_makes_exactly_the_other_shape(size_in, size_out, layer, kernel, stride):
    regressor = Regressor((2, 3, *size_in), (2, 7, *size_out))
    assert isinstance(regressor.layers[0], layer)
    convolution = next(m for m in regressor.layers if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
    assert (convolution.kernel_size, convolution.stride) == ((kernel, kernel), (stride, stride))
    f = torch.randn(4, 3, *size_in, dtype=torch.bfloat16, requires_grad=True)
    result = regressor(f)
    assert (result.shape, result.dtype) == ((4, 7, *size_out), torch.float32)
    assert result.min() >= 0
    result.square().sum().backward()
    assert f.grad.abs().sum() > 0 and convolution.weight.grad.abs().sum() > 0


def test_the_regressor_by_formula():
    f, regressor = torch.randn(4, 3, 5, 5), Regressor((4, 3, 5, 5), (4, 2, 5, 5))
    mixed = torch.einsum("oc,bchw->bohw", regressor.layers[0].weight[:, :, 0, 0], f)
    mean, var = mixed.mean((0, 2, 3), keepdim=True), mixed.var((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(regressor(f), ((mixed - mean) / (var + 1e-5).sqrt()).clamp_min(0))
    linear = Regressor((4, 3, 5, 5), (4, 2, 5, 5), relu=False)
    assert linear(f).min() < 0


def test_the_regressor_refuses_maps_it_was_not_made_for():
    regressor = Regressor((2, 3, 8, 8), (2, 7, 4, 4))
    for shape in ((2, 3, 7, 7), (2, 4, 8, 8)):  # 7 pixels would become 4 as well
        with pytest.raises(ValueError, match=r"\[3, 8, 8\] \(channels, H, W\)"):
            regressor(torch.randn(shape))


# the methods


@every_pair
@every_method
def test_the_value_is_that_of_the_loss_and_gradients_reach_both_sides(name, networks):
    method, student, frozen, batch = connected(name, networks)
    teacher = Outputs(*(t.clone().requires_grad_() for t in frozen[:2]), tuple(f.clone() for f in frozen.maps))
    for f in teacher.maps:
        f.requires_grad_()
    live = student(batch.x)
    f_s, f_t = live.maps[:3], teacher.maps[:3]  # the vgg's last two stages have no counterpart
    last, h = (live.maps[-1], teacher.maps[-1]), (live.embedding, teacher.embedding)
    expected = {
        "fitnet": lambda: losses.fitnet(method.regressor(f_s[1]), f_t[1]),
        "at": lambda: sum(map(losses.at, f_s, f_t)),
        "vid": lambda: sum(
            losses.vid(p.mean(a), b, p.variance()) for p, a, b in zip(method.predictions, f_s, f_t, strict=True)
        ),
        "nst": lambda: sum(map(losses.nst, f_s, f_t)),
        "sp": lambda: losses.sp(*last),
        "cc": lambda: losses.cc(*h),
        "rkd": lambda: 25 * losses.rkd_distance(*h) + 50 * losses.rkd_angle(*h),
        "pkt": lambda: losses.pkt(*h),
    }[name]()
    weight = {"fitnet": 100, "at": 1000, "vid": 1, "nst": 50, "sp": 3000, "cc": 0.02, "rkd": 1, "pkt": 30000}[name]
    terms = method(live, teacher, batch, 0.0)
    assert list(terms) == ["ce", "match"]  # no KD term by default: CRD's tradition
    torch.testing.assert_close(terms["match"], weight * expected)
    terms["match"].backward()
    assert next(student.parameters()).grad.abs().sum() > 0  # down to the student's first layer
    gradients = [t.grad for t in (*teacher.maps, teacher.embedding) if t.grad is not None]
    assert gradients and any(g.abs().sum() > 0 for g in gradients)  # a policy may let the teacher move
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


@every_method
def test_thirty_steps_lower_what_is_matched(name):
    method, student, frozen, batch = connected(name, PAIRS["other family"])
    parameters = [*student.parameters(), *method.parameters()]
    lr = 2.0 if name == "vid" else 0.05  # the mean over channels leaves each of VID's variances a small gradient
    optimiser = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    values = []
    for _ in range(31):
        loss = method.match(student(batch.x), frozen, batch, 0.0)
        values.append(loss.item())
        optimiser.zero_grad()
        (loss / values[0]).backward()  # so that one learning rate does for all
        optimiser.step()
    assert values[-1] < 0.95 * values[0], values


def test_vids_variances_train_and_start_at_five():
    """They are parameters of the method, so the optimiser gets them."""
    method, student, frozen, batch = connected("vid", PAIRS["wider"])
    variances = [p.variance() for p in method.predictions]
    assert [len(v) for v in variances] == [4, 8, 16]
    for v in variances:
        torch.testing.assert_close(v, torch.full_like(v, 5.0))
    named = dict(method.named_parameters())
    assert {"predictions.0.a", "predictions.1.a", "predictions.2.a"} <= named.keys()
    method.match(student(batch.x), frozen, batch, 0.0).backward()
    # Nothing is predicted yet, so the squared error is near the map's own mean square: smaller variances fit better.
    assert all((named[f"predictions.{i}.a"].grad > 0).all() for i in range(3))


def test_vids_predictions_by_formula():
    method, student, _, batch = connected("vid", PAIRS["wider"])
    predict, f = method.predictions[1], student(batch.x).maps[1]
    x = f
    for layer in (predict.mean[0], predict.mean[2], predict.mean[4]):
        x = torch.einsum("oc,bchw->bohw", layer.weight[:, :, 0, 0], x if x is f else x.clamp_min(0))
    torch.testing.assert_close(predict(f), x)
    with torch.no_grad():
        predict.a.fill_(-100.0)
    torch.testing.assert_close(predict.variance(), torch.full((8,), 1e-5))


def test_fitnets_hint_is_the_middle_stage():
    for sides, middle in (((8,), 0), ((16, 8), 0), ((32, 16, 8), 1), ((32, 16, 8, 4), 1), ((32, 16, 8, 4, 4), 2)):
        method = METHODS["fitnet"].method()
        method.connect(Pair(("small", "big"), squares(*sides), squares(*sides), 10, (32, 32)))
        assert (method.i_s, method.i_t) == (middle, middle)


def test_what_each_method_asks_for():
    for name in ON_MAPS + ON_RELATIONS:
        method = METHODS[name].method
        assert method.needs_maps == (name in (*ON_MAPS, "sp"))
        assert method.relates_samples == (name in ON_RELATIONS)
        assert METHODS[name].policy == "frozen"


@every_method
def test_sftns_tradition_adds_kd_and_a_weight_of_zero_leaves_the_term_out(name):
    _, student, frozen, batch = connected(name, PAIRS["wider"])
    live = student(batch.x)
    method = METHODS[name].method(method_weight=0.0, kd_weight=0.9, ce_weight=0.1, tau=4.0)
    terms = method(live, frozen, batch, 0.0)
    assert list(terms) == ["ce", "kd"]
    torch.testing.assert_close(terms["kd"], 0.9 * losses.kd(live.logits, frozen.logits, tau=4.0))


def test_settings_reach_the_losses():
    _, student, frozen, batch = connected("cc", PAIRS["wider"])
    live, h_t = student(batch.x), frozen.embedding
    cc = METHODS["cc"].method(gamma=1.5, order=4).match(live, frozen, batch, 0.0)
    torch.testing.assert_close(cc, losses.cc(live.embedding, h_t, gamma=1.5, order=4))
    rkd = METHODS["rkd"].method(distance_weight=2.0, angle_weight=0.0).match(live, frozen, batch, 0.0)
    torch.testing.assert_close(rkd, 2 * losses.rkd_distance(live.embedding, h_t))
