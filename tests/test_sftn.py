"""SFTN: its losses, where its branches begin, and what trains in each phase."""

import math

import pytest
import torch
from tiny import TEACHER, example
from torch.nn import functional as F

from kd_lib import losses, models, runs
from kd_lib.methods import METHODS, SFTN
from kd_lib.shapes import Batch, Pair

C = 5


def logits(n, *, b=4, c=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(b, c, generator=generator, dtype=torch.float64) for _ in range(n)]


def images(size, b=3):
    return torch.randn(b, 1, *size, generator=torch.Generator().manual_seed(1))


def connected(student, teacher, *, size=(12, 20), **settings):
    """The teacher's network, in training mode, and the method with its branches."""
    torch.manual_seed(0)
    network = models.build(teacher, n_classes=C, in_channels=1)
    with torch.no_grad():
        out = network.eval()(images(size))
    method = SFTN(student=student, **settings)
    method.connect(Pair((teacher, ""), out, None, 100, size))
    return network.train(), method


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("direction", ["branch_to_teacher", "teacher_to_branch"])
def test_branch_kl_by_loops(n, tau, direction):
    *z_branches, z_t = logits(n + 1)
    total = 0.0
    for z in z_branches:
        for one, own in zip(F.softmax(z / tau, 1).tolist(), F.softmax(z_t / tau, 1).tolist(), strict=True):
            p, q = (one, own) if direction == "branch_to_teacher" else (own, one)
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    value = losses.branch_kl(z_branches, z_t, tau=tau, direction=direction)
    assert value.item() == pytest.approx(total / (4 * n), rel=1e-9)


def test_the_two_directions_differ_and_agree_at_zero():
    *z_branches, z_t = logits(3)
    printed, usual = (
        losses.branch_kl(z_branches, z_t, direction=d) for d in ("branch_to_teacher", "teacher_to_branch")
    )
    assert not torch.isclose(printed, usual)
    torch.testing.assert_close(losses.branch_kl(z_branches, z_t), printed)  # Eq. 5 is the default
    assert losses.branch_kl([z_t, z_t + 3], z_t).item() == pytest.approx(0, abs=1e-12)


def test_branch_losses_have_gradients_on_both_sides():
    z_r, z_t = (z.requires_grad_() for z in logits(2))
    assert torch.autograd.gradcheck(lambda a, b: losses.branch_kl([a], b, tau=2.0), (z_r, z_t))
    losses.branch_kl([z_r], z_t).backward()
    assert z_r.grad.any() and z_t.grad.any()


def test_branch_ce_is_the_mean_over_branches():
    z, y = logits(3), torch.tensor([0, 3, 5, 1])
    expected = sum(F.cross_entropy(one, y).item() for one in z) / 3
    assert losses.branch_ce(z, y).item() == pytest.approx(expected)


def test_what_losses_of_branches_refuse():
    (z,) = logits(1)
    with pytest.raises(ValueError, match="at least one branch"):
        losses.branch_kl([], z)
    with pytest.raises(ValueError, match="at least one branch"):
        losses.branch_ce([], torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"unknown direction of branch_kl: 'teacher'. Did you mean"):
        losses.branch_kl([z], z, direction="teacher")


GEOMETRY = {
    # student, teacher, image: for each branch (teacher's stage, its map, the student's map in its place, student's next stage)
    ("resnet8-w4", "resnet14", (12, 20)): [(0, (16, 12, 20), (4, 12, 20), 1), (1, (32, 6, 10), (8, 6, 10), 2)],
    ("resnet8", "vgg8", (12, 20)): [(0, (64, 12, 20), (16, 12, 20), 1), (1, (128, 6, 10), (32, 6, 10), 2)],
    ("vgg8", "resnet8-w2", (12, 20)): [(0, (2, 12, 20), (64, 12, 20), 1), (1, (4, 6, 10), (128, 6, 10), 2)],
    ("wrn-16-1", "resnet8x4", (32, 32)): [(0, (64, 32, 32), (16, 32, 32), 1), (1, (128, 16, 16), (32, 16, 16), 2)],
}


@pytest.mark.parametrize(("student", "teacher", "size"), GEOMETRY)
def test_where_branches_begin(student, teacher, size):
    _, method = connected(student, teacher, size=size)
    found = [
        (int(i), branch.transform.shape_in, branch.transform.shape_out, branch.stage)
        for i, branch in method.branches.items()
    ]
    assert found == GEOMETRY[student, teacher, size]


def test_networks_of_as_many_stages_meet_stage_by_stage_whatever_their_sizes():
    """A ShuffleNet's first stage already halves the image (SFTN Table 2): transforms shrink, or grow the other way round."""
    small, large = "shufflenetv1", "resnet8-w4"
    _, method = connected(small, large, size=(32, 32))
    assert [b.transform.shape_in[1:] for b in method.branches.values()] == [(32, 32), (16, 16)]
    assert [b.transform.shape_out[1:] for b in method.branches.values()] == [(16, 16), (8, 8)]
    _, method = connected(large, small, size=(32, 32))
    # the image is twice as large as that teacher's first map
    assert [b.transform.shape_in[1:] for b in method.branches.values()] == [(16, 16), (8, 8)]
    assert [b.transform.shape_out[1:] for b in method.branches.values()] == [(32, 32), (16, 16)]


@pytest.mark.parametrize("student", ["resnet8-w4", "wrn-16-1", "vgg8"])
def test_a_branch_is_the_rest_of_the_student_and_nothing_else(student):
    _, method = connected(student, "resnet8-w2")
    whole = models.build(student, n_classes=C, in_channels=3).eval()
    assert all(part.training for part in method.modules())
    first, second = (branch.eval() for branch in method.branches.values())
    rest = sum(p.numel() for p in whole.stages[1:].parameters()) + sum(p.numel() for p in whole.classifier.parameters())
    rest += sum(p.numel() for p in whole.bn.parameters()) if student.startswith("wrn") else 0
    own = [sum(p.numel() for p in branch.student.parameters()) for branch in (first, second)]
    assert own == [rest, rest - sum(p.numel() for p in whole.stages[1].parameters())]
    # with the student's weights it answers as the student does from there on
    with torch.no_grad():
        f = whole(torch.randn(2, 3, 12, 20)).maps[0]
        mine = first.student.state_dict()
        first.student.load_state_dict({name: value for name, value in whole.state_dict().items() if name in mine})
        torch.testing.assert_close(first.student.forward_from(f, 1).logits, whole.forward_from(f, 1).logits)
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


def test_the_terms_are_the_formula():
    network, method = connected(
        "resnet8-w4", "resnet14", ce_weight=0.5, branch_kl_weight=7.0, branch_ce_weight=2.0, tau=3.0
    )
    x, y = images((12, 20)), torch.tensor([0, 4, 2])
    out = network(x)
    terms = method.eval()(out, None, Batch(None, x, y), 0.0)
    z = [method.branches[i](out.maps[int(i)]) for i in ("0", "1")]
    kl = sum(F.kl_div(F.log_softmax(out.logits / 3, 1), F.softmax(one / 3, 1), reduction="batchmean") for one in z) / 2
    expected = {
        "ce": 0.5 * F.cross_entropy(out.logits, y),
        "sftn_kl": 7.0 * kl,
        "sftn_ce": 2.0 * (F.cross_entropy(z[0], y) + F.cross_entropy(z[1], y)) / 2,
    }
    torch.testing.assert_close(terms, expected)
    method.direction = "teacher_to_branch"
    usual = method(out, None, Batch(None, x, y), 0.0)["sftn_kl"]
    torch.testing.assert_close(usual, 7.0 * losses.branch_kl(z, out.logits, tau=3.0, direction="teacher_to_branch"))
    assert not torch.isclose(usual, terms["sftn_kl"])


@pytest.mark.parametrize(("student", "teacher"), [("resnet8-w4", "vgg8"), ("wrn-16-1", "resnet14")])
def test_everything_learns(student, teacher):
    """Thirty steps on one batch lower the loss; every weight of the teacher and of the branches gets a gradient."""
    network, method = connected(student, teacher)
    x, y = images((12, 20), b=8), torch.arange(8) % C
    optimiser = torch.optim.SGD([*network.parameters(), *method.parameters()], lr=0.02, momentum=0.9)
    history = []
    for _ in range(30):
        loss = sum(method(network(x), None, Batch(None, x, y), 0.0).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
    named = [*network.named_parameters(), *method.named_parameters()]
    assert [name for name, p in named if p.grad is None] == []


def test_the_branches_reach_the_teachers_maps_and_logits():
    """Without its own cross-entropy the teacher still learns: that is what makes it student-friendly."""
    network, method = connected("resnet8-w4", "resnet14", ce_weight=0.0, branch_ce_weight=0.0)
    x = images((12, 20))
    out = network(x)
    method(out, None, Batch(None, x, torch.zeros(3, dtype=torch.long)), 0.0)["sftn_kl"].backward()
    assert network.classifier.weight.grad.any() and network.stem.conv.weight.grad.any()


def test_in_setup_only_the_branches_learn():
    network, method = connected("resnet8-w4", "resnet14", setup_epochs=30)
    x, y = images((12, 20)), torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        out = network.eval()(x)
    terms = method.setup(out, None, Batch(None, x, y))
    assert list(terms) == ["sftn_kl", "sftn_ce"]
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in method.parameters())
    assert all(p.grad is None for p in network.parameters())
    assert not SFTN.setup_moves_student and (method.setup_epochs, SFTN().setup_epochs) == (30, 0)
    assert METHODS["sftn_finetuned"].settings == {"setup_epochs": 30}


def test_branches_compute_in_the_maps_number_format():
    network, method = connected("resnet8-w4", "resnet14")
    with torch.autocast("cpu", torch.bfloat16):
        out = network(images((12, 20)))
    assert out.maps[0].dtype == torch.bfloat16
    seen = []
    method.branches["0"].student.stages[1].register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    z = method.branches["0"](out.maps[0])
    assert seen == [torch.bfloat16] and z.dtype == torch.float32


def test_what_connect_refuses():
    with pytest.raises(ValueError, match="SFTN must know resnet14's student: settings="):
        connected("", "resnet14")
    with pytest.raises(ValueError, match=r"unknown network: 'resnet8_w4'\. Did you mean"):
        connected("resnet8_w4", "resnet14")
    network = models.build("resnet14", n_classes=C, in_channels=1).eval()
    with torch.no_grad():
        out = network(images((12, 20)))
    with pytest.raises(ValueError, match="student resnet8, teacher resnet14: a branch needs two stages"):
        SFTN(student="resnet8").connect(Pair(("resnet14", ""), out._replace(maps=out.maps[:1]), None, 100, (12, 20)))


def test_connect_is_a_function_of_the_generator():
    (_, one), (_, two) = (connected("resnet8-w4", "vgg8") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_finetuned_teacher_starts_from_the_plain_one():
    run = example("sftn_finetuned")
    assert run.start_from == TEACHER and run.setup_epochs == 1
    result = runs.ensure(run, device="cpu")
    assert list(result.metrics["epoch"]) == [0, 1, 2]
    assert "loss_sftn_kl" in result.metrics
    plain, friendly = (runs.ensure(r, device="cpu").network().state_dict() for r in (TEACHER, run))
    assert not torch.equal(plain["classifier.weight"], friendly["classifier.weight"])
    # in the first phase the teacher answered as it did when it was finished
    assert result.metrics["accuracy"].iloc[0] == runs.ensure(TEACHER, device="cpu").accuracy
