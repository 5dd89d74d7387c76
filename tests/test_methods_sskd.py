"""SSKD: its views, and what each of its phases trains."""

import pytest
import torch
from torch.nn import functional as F
from toy_outputs import INDEX, LABELS, N_TRAIN, batch_of, every_size, no_gradient, random_outputs, some_gradient

from kd_lib import losses
from kd_lib.methods.sskd import SSKD, four_views
from kd_lib.shapes import Batch, Pair

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
