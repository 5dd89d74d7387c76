"""CRD and SSKD between real networks: they learn, with the papers' defaults."""

import pytest
import torch
from torch import nn
from toy_outputs import CLASSES, N_TRAIN

from kd_lib import models
from kd_lib.methods import METHODS
from kd_lib.methods.crd import CRD
from kd_lib.methods.sskd import SSKD
from kd_lib.shapes import Batch, Pair

PAIRS = {
    "not square": ("resnet8-w2", "resnet8-w4", (1, 12, 20)),
    "other family": ("resnet8-w2", "vgg8", (3, 32, 32)),
}
every_pair = pytest.mark.parametrize("networks", PAIRS.values(), ids=PAIRS)


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
