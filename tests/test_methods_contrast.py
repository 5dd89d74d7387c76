"""CRD's memories and draws, SSKD's views and phases: what they compute, what trains, and that it learns."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib import losses, models
from kd_lib.methods import METHODS
from kd_lib.methods.crd import CRD, draw_others, remember
from kd_lib.methods.sskd import SSKD, four_views
from kd_lib.shapes import Batch, Outputs, Pair

N_TRAIN, CLASSES = 60, 6
LABELS = torch.arange(N_TRAIN) % CLASSES
INDEX = torch.tensor([3, 9, 17, 44, 58])
SIZES = {"narrow from wide": (3, 7), "wide from narrow": (8, 2)}
PAIRS = {
    "not square": ("resnet8-w2", "resnet8-w4", (1, 12, 20)),
    "other family": ("resnet8-w2", "vgg8", (3, 32, 32)),
}
every_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
every_pair = pytest.mark.parametrize("networks", PAIRS.values(), ids=PAIRS)


def random_outputs(rows: int, features: int, *, live: bool = False, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits, embedding = (torch.randn(rows, n, generator=generator) for n in (CLASSES, features))
    return Outputs(logits.requires_grad_(live), embedding.requires_grad_(live))


def batch_of(index: Tensor = INDEX, seed: int = 11) -> Batch:
    return Batch(index, torch.zeros(len(index), 1, 4, 4), LABELS[index], seed)


def crd(sizes: tuple[int, int] = (3, 7), *, known: bool = True, n_train: int = N_TRAIN, **settings) -> CRD:
    method = CRD(**{"features": 4, "negatives": 12, **settings})
    student, teacher = (random_outputs(2, d) for d in sizes)
    method.connect(Pair(("small", "big"), student, teacher, n_train, (12, 20)))
    if known:
        method.labels.copy_(LABELS)
    return method


def connected(name: str, networks: tuple[str, str, tuple], b: int = 8, **settings):
    """A method connected to two real networks, the student, the teacher's outputs and the expanded batch."""
    student_name, teacher_name, shape = networks
    x = torch.randn(b, *shape, generator=torch.Generator().manual_seed(1))
    student, teacher = (
        models.build(n, n_classes=CLASSES, in_channels=shape[0]).train() for n in (student_name, teacher_name)
    )
    method = METHODS[name].method(**settings)
    batch = method.expand(Batch(torch.arange(b), x, torch.arange(b) % CLASSES, 5))
    with torch.no_grad():
        frozen = teacher(batch.x)
        method.connect(Pair((student_name, teacher_name), student(x), frozen, N_TRAIN, (12, 20)))
    return method.train(), student, frozen, batch


def no_gradient(parameters) -> bool:
    return all(p.grad is None or not p.grad.any() for p in parameters)


def some_gradient(parameters) -> bool:
    return all(p.grad is not None and p.grad.any() for p in parameters)


# CRD: the draw


@pytest.mark.parametrize("source", ["other_classes", "other_images"])
def test_never_the_positive_among_the_negatives(source: str):
    method = crd(negatives_from=source, negatives=N_TRAIN)
    same_class = 0
    for seed in range(50):
        drawn = method._draw(batch_of(seed=seed))
        assert drawn.shape == (5, N_TRAIN) and drawn.min() >= 0 and drawn.max() < N_TRAIN
        assert (drawn != INDEX[:, None]).all()
        same_class += int((LABELS[drawn] == LABELS[INDEX][:, None]).sum())
    assert (same_class == 0) == (source == "other_classes")


def test_draws_reach_every_other_row_equally_often():
    groups = torch.tensor([4, 1, 4, 0, 1, 4, 7])
    own, count = torch.tensor([4, 0, 7]), 40_000
    drawn = draw_others(groups, own, count=count, generator=torch.Generator().manual_seed(0))
    for row, group in zip(drawn, own, strict=True):
        others = (groups != group).nonzero().flatten()
        counts = row.bincount(minlength=7).double()
        assert counts[others].sum() == count
        expected = count / len(others)
        # five standard deviations of a binomial count
        assert (counts[others] - expected).abs().max() < 5 * math.sqrt(expected)


def test_the_draw_follows_the_seed_of_the_batch_and_nothing_else():
    method, before = crd(), torch.get_rng_state()
    first, again, other = (method._draw(batch_of(seed=s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    method.match(random_outputs(5, 3), random_outputs(5, 7), batch_of(), 0.0)
    assert torch.equal(before, torch.get_rng_state())


def test_no_more_negatives_than_images():
    assert crd(negatives=16384)._draw(batch_of()).shape == (5, N_TRAIN)
    assert crd(negatives=9)._draw(batch_of()).shape == (5, 9)


def test_classes_are_learned_as_they_come():
    method = crd(known=False, negatives=N_TRAIN)
    assert (method.labels == -1).all()
    for index in torch.arange(N_TRAIN).split(5):
        method.match(random_outputs(5, 3), random_outputs(5, 7), batch_of(index), 0.0)
        drawn = method._draw(batch_of(index))
        seen = method.labels[drawn] >= 0
        assert (LABELS[drawn] != LABELS[index][:, None])[seen].all() and (drawn != index[:, None]).all()
    assert torch.equal(method.labels, LABELS)


# CRD: the loss


def slow_match(method: CRD, student: Outputs, teacher: Outputs, index: Tensor, drawn: Tensor) -> float:
    """The two sides by loops over rows of the memories, with Z from the drawn rows."""
    total = 0.0
    sides = ((method.head_s, student, method.memory_t), (method.head_t, teacher, method.memory_s))
    for head, out, memory in sides:
        g, memory = (head.weight @ out.embedding.T).T + head.bias, memory.double()
        g = [row.double() / row.double().norm() for row in g.detach()]
        scores = [
            [math.exp(float(g[b] @ memory[j]) / method.nce_tau) for j in row] for b, row in enumerate(drawn.tolist())
        ]
        n, m = drawn.shape[1], len(memory)
        z = m * sum(map(sum, scores)) / (len(g) * n)
        for b, row in enumerate(scores):
            own = math.exp(float(g[b] @ memory[index[b]]) / method.nce_tau) / z
            total -= math.log(own / (own + n / m)) + sum(math.log(1 - s / z / (s / z + n / m)) for s in row)
    return total / len(index)


@every_size
def test_match_is_the_slow_one(sizes: tuple[int, int]):
    method = crd(sizes, nce_tau=0.3)
    student, teacher = (random_outputs(5, d, seed=d) for d in sizes)
    expected = slow_match(method, student, teacher, INDEX, method._draw(batch_of()))
    assert method.match(student, teacher, batch_of(), 0.0).item() == pytest.approx(expected, rel=1e-5)


def test_memory_by_hand():
    memory = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    moved = remember(memory, torch.tensor([0, 2]), torch.tensor([[0.0, 1.0], [0.6, 0.8]]), momentum=0.5)
    assert torch.allclose(moved, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0], [0.6, 0.8]]))
    assert memory.tolist() == [[1.0, 0.0], [0.0, 1.0], pytest.approx([0.6, 0.8])]
    fast = remember(memory, torch.tensor([0]), torch.tensor([[0.0, 1.0]]), momentum=0.25)
    assert torch.allclose(fast[0], torch.tensor([0.25, 0.75]) / math.hypot(0.25, 0.75))


def test_a_step_moves_its_own_rows_only():
    method = crd()
    old_s, old_t = method.memory_s, method.memory_t
    student, teacher = random_outputs(5, 3, live=True), random_outputs(5, 7)
    method.match(student, teacher, batch_of(), 0.0).backward()
    for new, old, head, out in (
        (method.memory_s, old_s, method.head_s, student),
        (method.memory_t, old_t, method.head_t, teacher),
    ):
        others = torch.ones(N_TRAIN, dtype=bool).index_fill(0, INDEX, False)
        assert torch.equal(new[others], old[others]) and not new.requires_grad
        g = F.normalize(head(out.embedding), dim=1).detach()
        assert torch.allclose(new[INDEX], F.normalize(0.5 * old[INDEX] + 0.5 * g, dim=1), atol=1e-6)
        assert torch.allclose(new.norm(dim=1), torch.ones(N_TRAIN))


def test_the_constant_is_estimated_once():
    method = crd()
    assert (method.z == 0).all()
    method.match(random_outputs(5, 3), random_outputs(5, 7), batch_of(), 0.0)
    first = method.z.clone()
    assert (first > 0).all() and first[0] != first[1]
    method.match(random_outputs(5, 3, seed=4), random_outputs(5, 7, seed=4), batch_of(seed=12), 0.0)
    assert torch.equal(method.z, first)


def test_each_side_trains_its_own_head_and_its_own_network():
    method = crd()
    student, teacher = random_outputs(5, 3, live=True), random_outputs(5, 7, live=True)
    method.match(student, teacher, batch_of(), 0.0).backward()
    assert len(list(method.parameters())) == 4 and some_gradient(method.parameters())
    assert some_gradient([student.embedding, teacher.embedding])  # a teacher that moves is not cut off


def test_everything_remembered_is_in_the_state():
    method, copy = crd(), crd(known=False)
    assert {"memory_s", "memory_t", "z", "labels"} < set(method.state_dict())
    student, teacher = random_outputs(5, 3), random_outputs(5, 7)
    method.match(student, teacher, batch_of(), 0.0)
    copy.load_state_dict(method.state_dict())
    later = batch_of(INDEX + 1, seed=13)
    assert torch.equal(copy.match(student, teacher, later, 0.0), method.match(student, teacher, later, 0.0))
    assert torch.equal(copy.memory_s, method.memory_s)


@pytest.mark.parametrize(("student", "teacher", "megabytes"), [("resnet20", "resnet56", 0.07), ("vgg8", "vgg13", 0.53)])
def test_the_heads_weigh_what_the_papers_tables_say(student: str, teacher: str, megabytes: float):
    # PESF-KD v1 Table 1, v2 Table 7: CRD 1.18M against 1.11M, and 16.39M against 15.86M
    x = torch.zeros(1, 3, 32, 32)
    networks = [models.build(name).eval() for name in (student, teacher)]
    method = CRD()
    with torch.no_grad():
        method.connect(Pair((student, teacher), *(network(x) for network in networks), 10, (12, 20)))
    weights = sum(p.numel() for p in method.parameters())
    assert weights == sum(network.classifier.in_features for network in networks) * 128 + 2 * 128
    assert round(4 * weights / 1e6, 2) == megabytes


def test_crd_refuses():
    with pytest.raises(ValueError, match="CRD of small from big needs at least two training images"):
        crd(n_train=1, known=False)
    for wrong in ({"negatives": 0}, {"features": 0}, {"memory_momentum": 1.0}, {"memory_momentum": -0.1}):
        with pytest.raises(ValueError, match=f"got .*{next(iter(wrong.values()))}"):
            CRD(**wrong)


# SSKD: the views


@pytest.mark.parametrize("shape", [(1, 12, 20), (3, 8, 8)])
def test_expand_puts_the_images_first_and_their_views_in_order(shape: tuple):
    x = torch.randn(5, *shape)
    batch = SSKD().expand(Batch(INDEX, x, LABELS[INDEX], 7))
    assert batch.x.shape == (20, *shape) and batch.seed == 7
    assert torch.equal(batch.x[:5], x)
    for view in range(4):
        rows = slice(5 * view, 5 * view + 5)
        assert torch.equal(batch.index[rows], INDEX) and torch.equal(batch.y[rows], LABELS[INDEX])
        for image, turned in zip(x, batch.x[rows], strict=True):
            assert torch.equal(image.flatten().sort().values, turned.flatten().sort().values)
    assert len({tuple(view.flatten().tolist()) for view in batch.x}) == 20


def test_views_by_hand():
    square = torch.tensor([[[[1, 2], [3, 4]]]])
    turned = [view.squeeze().tolist() for view in four_views(square)]
    assert turned == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    wide = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]])
    turned = [view.squeeze().tolist() for view in four_views(wide)]
    assert turned == [[[1, 2, 3], [4, 5, 6]], [[6, 5, 4], [3, 2, 1]], [[3, 2, 1], [6, 5, 4]], [[4, 5, 6], [1, 2, 3]]]


# SSKD: the phases


def sskd(sizes: tuple[int, int] = (3, 7), b: int = 5, live_teacher: bool = False, **settings):
    method = SSKD(**settings)
    student = random_outputs(4 * b, sizes[0], live=True, seed=1)
    teacher = random_outputs(4 * b, sizes[1], live=live_teacher, seed=2)
    method.connect(Pair(("small", "big"), student, teacher, N_TRAIN, (12, 20)))
    return method, student, teacher, method.expand(batch_of())


def test_setup_trains_the_teachers_head_alone():
    method, student, teacher, batch = sskd(live_teacher=True)
    terms = method.setup(student, teacher, batch)
    sum(terms.values()).backward()
    assert list(terms) == ["prediction"] and not method.setup_moves_student
    assert some_gradient(method.head_t.parameters()) and no_gradient(method.head_s.parameters())
    assert teacher.embedding.grad is None and student.embedding.grad is None


def test_then_the_students_head_alone():
    method, student, teacher, batch = sskd(live_teacher=True)
    sum(method(student, teacher, batch, 0.0).values()).backward()
    assert some_gradient(method.head_s.parameters())
    assert all(p.grad is None for p in method.head_t.parameters())  # untouched, weight decay included
    assert some_gradient([student.embedding, student.logits, teacher.embedding, teacher.logits])


@every_size
def test_terms_are_the_weighted_losses(sizes: tuple[int, int]):
    method, student, teacher, batch = sskd(sizes, keep_transformed=0.5)
    terms = method(student, teacher, batch, 0.0)
    z_s, z_t, y = student.logits, teacher.logits, LABELS[INDEX]
    a_s, a_t = (
        torch.stack([torch.stack([F.cosine_similarity(h[5 + i], h[j], dim=0) for j in range(5)]) for i in range(15)])
        for h in (method.head_s(student.embedding), method.head_t(teacher.embedding))
    )
    expected = {
        "ce": 0.1 * F.cross_entropy(z_s[:5], y),
        "kd": 0.9 * losses.kd(z_s[:5], z_t[:5], tau=4.0),
        "transformed": 2.7 * losses.transformed_kd(z_s[5:], z_t[5:], y.repeat(3), tau=4.0, keep_wrong=0.5),
        "similarity": 10 * losses.sskd(a_s, a_t, tau=0.5, keep_wrong=0.75),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    prediction = losses.contrastive_prediction(a_t)
    assert method.setup(student, teacher, batch)["prediction"].item() == pytest.approx(prediction.item(), rel=1e-5)


def test_a_student_like_its_teacher_has_nothing_left_but_ce():
    method, student, _, batch = sskd((3, 3))
    method.head_s.load_state_dict(method.head_t.state_dict())
    terms = method(student, student, batch, 0.0)
    assert terms["ce"] > 0
    assert all(abs(terms[name].item()) < 1e-5 for name in ("kd", "transformed", "similarity"))


def test_an_adjusted_teacher_is_right_about_every_view():
    # the policy adjusts all 4 B rows, because expand repeats the labels; then nothing is left to leave out
    method, student, teacher, batch = sskd(keep_transformed=0.0)
    adjusted = teacher._replace(logits=losses.label_adjustment(teacher.logits, batch.y))
    everything = losses.kd(student.logits[5:], adjusted.logits[5:], tau=4.0)
    assert method(student, adjusted, batch, 0.0)["transformed"].item() == pytest.approx(
        2.7 * everything.item(), rel=1e-5
    )


# both


@every_pair
@pytest.mark.parametrize("name", ["crd", "sskd"])
def test_thirty_steps_lower_the_loss(name: str, networks: tuple):
    method, student, teacher, batch = connected(name, networks, b=6)
    assert method.relates_samples and METHODS[name].policy == "frozen"
    modules = nn.ModuleList([student, method])
    optimiser = torch.optim.SGD(modules.parameters(), lr=0.01, momentum=0.9)
    totals = []
    for _ in range(31):
        terms = method(student(batch.x), teacher, batch, 0.0)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        totals.append({key: term.item() for key, term in terms.items()})
    assert sum(totals[-1].values()) < 0.9 * sum(totals[0].values())
    own = "match" if name == "crd" else "similarity"
    assert totals[-1][own] < totals[0][own]


@every_pair
def test_the_teachers_head_learns_to_find_the_original(networks: tuple):
    method, _, teacher, batch = connected("sskd", networks)
    optimiser = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    values = []
    for _ in range(31):
        (value,) = method.setup(None, teacher, batch).values()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.1


def test_only_views_need_a_teacher_that_is_asked_again():
    assert SSKD.needs_live_teacher() and not CRD.needs_live_teacher()


def test_defaults_are_the_papers():
    method = SSKD()
    assert (method.ce_weight, method.kd_weight, method.transformed_weight, method.similarity_weight) == (
        0.1,
        0.9,
        2.7,
        10,
    )
    assert (method.tau, method.transformed_tau, method.similarity_tau, method.setup_epochs) == (4, 4, 0.5, 60)
    crd_defaults = CRD()
    assert (crd_defaults.method_weight, crd_defaults.negatives, crd_defaults.nce_tau) == (0.8, 16384, 0.07)
    assert (crd_defaults.memory_momentum, crd_defaults.features, crd_defaults.kd_weight) == (0.5, 128, 0)
