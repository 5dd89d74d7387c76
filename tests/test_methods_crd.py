"""CRD: its draws, its memories, and what trains."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toy_outputs import (
    INDEX,
    LABELS,
    N_TRAIN,
    batch_of,
    every_size,
    random_outputs,
    some_gradient,
)

from kd_lib import models
from kd_lib.methods.crd import CRD, draw_others, remember
from kd_lib.shapes import Outputs, Pair


def crd(sizes: tuple[int, int] = (3, 7), *, known: bool = True, n_train: int = N_TRAIN, **settings) -> CRD:
    method = CRD(**{"features": 4, "negatives": 12, **settings})
    student, teacher = (random_outputs(2, d) for d in sizes)
    method.connect(Pair(("small", "big"), student, teacher, n_train, (12, 20)))
    if known:
        method.labels.copy_(LABELS)
    return method


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
