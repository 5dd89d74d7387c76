"""When the student learns from whom: curricula as plain chains of runs.

Each function takes the run that a curriculum improves on, a student (`run`) distilled from `run.teacher`, and returns the run
that ends the chain; the earlier ones hang on it as `teacher` and `start_from`, and are trained first. Nothing trains here.

    student = Run(network="resnet8", method="kd", teacher=Run(network="resnet56"))
    runs.ensure(takd(student, assistants=["resnet32", "resnet14"]))
"""

from collections.abc import Sequence

from kd_lib.config import Run


def takd(run: Run, assistants: Sequence[str]) -> Run:
    """Teacher assistants: the teacher teaches the first assistant, that one the next, the last one the student.

    Source: Mirzadeh et al. 2020 (TAKD); ATKD Table 6, rows "TA".
    Args:
        run: the student with its teacher; every step is trained as it is: method, settings, epochs, seed.
        assistants: networks from the teacher's size down to the student's, at least one.
    """
    teacher = _teacher(run, "takd")
    if not assistants:
        raise ValueError("takd needs at least one assistant, such as assistants=['resnet14'].")
    for network in assistants:
        teacher = run.replace(network=network, teacher=teacher)
    return run.replace(teacher=teacher)


def early_stopped_teacher(run: Run, fraction: float = 1 / 4) -> Run:
    """The student of a teacher whose training was cut off early.

    Source: Cho and Hariharan 2019; ATKD Table 6, rows "ES", and Table 7 (60 of 240 epochs).
    The papers leave open: the learning rate. Here the schedule is the full one's and ends where it is stopped, before its first
    milestone for 60 of 240 epochs; with `run.teacher.replace(epochs=60)` it would be compressed.
    Args:
        run: the student with its teacher.
        fraction: share of the teacher's epochs, above 0, up to 1.
    """
    teacher = _teacher(run, "early_stopped_teacher")
    return run.replace(teacher=teacher.replace(stop_after=_share(teacher.epochs, fraction)))


def eskd(run: Run, teacher_fraction: float = 1 / 4, kd_fraction: float = 150 / 240) -> Run:
    """Early-stopped KD: the teacher is cut off early, and the student learns from it in the first part of its training only.

    Source: Cho and Hariharan 2019 (ESKD).
    The paper leaves open: when a student of 240 epochs lets go. Here at its first milestone.
    Args:
        run: the student with its teacher; method "kd" or a preset of it.
        teacher_fraction: as in `early_stopped_teacher`.
        kd_fraction: share of the student's epochs with KD; then cross-entropy alone.
    """
    settings = {**run.settings, "until_epoch": _share(run.epochs, kd_fraction)}
    return early_stopped_teacher(run, teacher_fraction).replace(settings=settings)


def patient_teacher(run: Run, epochs: int) -> Run:
    """A patient and consistent teacher: nothing but its predictions, for very many epochs.

    A control for "the gap is only impatience". Consistent: the training loop shows both networks the same crop.
    Source: Beyer et al. 2022 (KL at temperature 1, no labels).
    Differs from the paper: no mixup, and the run's own optimiser and schedule in place of Adam with a cosine.
    Args:
        run: the student with its teacher; its method and settings are replaced.
        epochs: of the student; the paper goes on for thousands.
    """
    _teacher(run, "patient_teacher")
    return run.replace(method="patient", policy=None, settings={}, epochs=epochs)


def rco(run: Run, anchors: int = 4) -> Run:
    r"""Route-constrained optimisation in one stage: within one training, the teacher grows up beside the student.

    Anchors are the teacher's own checkpoints at equal epoch intervals (EEI): with 4 of them after 60, 120, 180 and 240 of
    240 epochs. The student's epochs are divided alike; in each part it learns from the next anchor. Its learning rate goes
    on along the run's schedule; momentum, and the order of the batches (a function of seed and epoch), begin anew.

    Source: Jin et al. 2019 (anchors, EEI); SFTN Table 4, row "RCO", the "one-stage EEI".
    Args:
        run: the student with its teacher; schedule "step", the only one whose parts are runs of their own.
        anchors: number of checkpoints, at least 1, at most the epochs of either.
    Raises:
        ValueError: another schedule.
    """
    if run.schedule != "step":
        raise ValueError(
            f"rco cuts the schedule into pieces, which 'step' allows, got {run.schedule!r}. "
            "Allowed: schedule='step', or rco_eei, where each anchor has a schedule of its own."
        )
    ends = _equal_parts(run.epochs, anchors)
    parts = [_part(run, first, last) for first, last in zip([0, *ends], ends, strict=False)]
    return _along_the_route(run, parts)


def rco_eei(run: Run, anchors: int = 4) -> Run:
    """Route-constrained optimisation in stages: for each anchor the whole of the run's training, from the last one's weights.

    Source: Jin et al. 2019, which lets the student converge on an anchor before it sees the next one; SFTN Table 4.
    The paper leaves open: the learning rate of the later stages. Here each has the run's full schedule, restarted.
    Args:
        run: the student with its teacher; the chain trains `anchors` times its epochs.
        anchors: as in `rco`.
    """
    return _along_the_route(run, [run] * anchors)


def rco_eei_4(run: Run) -> Run:
    """RCO-EEI-4 of SFTN Table 4: four anchors, 240 x 4 epochs."""
    return rco_eei(run, anchors=4)


def sftn(run: Run) -> Run:
    """The student of a student-friendly teacher: trained as `run.teacher` is, with branches of `run.network`.

    Source: SFTN section 3. The student-aware teacher sees the labels only, so `run.teacher` is a network trained alone.
    Args:
        run: the student with its ordinary teacher.
    """
    teacher = _lone_teacher(run, "sftn")
    return run.replace(teacher=teacher.replace(method="sftn", settings={"student": run.network}))


def sftn_finetuned(run: Run, epochs: int = 30) -> Run:
    """The student of an ordinary teacher made student-friendly afterwards.

    Source: SFTN section 4.6, Tables 8 and 9: 30 epochs for the branches alone, 30 for everything.
    Args:
        run: the student with its ordinary teacher, which is where the student-friendly one starts from.
        epochs: of each of the two phases; the paper's are an eighth of its 240.
    """
    teacher = _lone_teacher(run, "sftn_finetuned")
    settings = {"student": run.network, "setup_epochs": epochs}
    friendly = teacher.replace(method="sftn_finetuned", settings=settings, epochs=epochs, start_from=teacher)
    return run.replace(teacher=friendly)


def sftn_4(run: Run) -> Run:
    """SFTN-4 of SFTN Table 4: the student of `sftn`, trained for 240 x 4 epochs.

    The paper leaves open: how the four times are spent, which it calls "more iterations". Here in one training whose schedule is
    four times as long; the teacher's is not.
    """
    return sftn(run).replace(epochs=4 * run.epochs)


def chain(run: Run) -> list[Run]:
    """The runs through which this one's network passed, first to last: those that `start_from` links."""
    return [*(chain(run.start_from) if run.start_from else []), run]


def _along_the_route(run: Run, parts: Sequence[Run]) -> Run:
    """Each part learns from the next anchor and starts where the one before it ended."""
    teacher = _teacher(run, "route-constrained optimisation")
    last = run.start_from
    for part, epoch in zip(parts, _equal_parts(teacher.epochs, len(parts)), strict=True):
        # the last anchor is the trained teacher itself, which other runs share
        anchor = teacher if epoch == teacher.epochs else teacher.replace(stop_after=epoch)
        # the layers that it took over from its teacher, if any, are in the weights of its first part
        begun = {"start_from": last, "student_layers": None} if last else {}
        last = part.replace(teacher=anchor, **begun)
    return last


def _part(run: Run, first: int, last: int) -> Run:
    """Epochs `first` to `last` of a run with schedule "step", as a run of their own."""
    milestones = [round(m * run.epochs) for m in run.milestones]
    passed = sum(m <= first for m in milestones)
    coming = tuple((m - first) / (last - first) for m in milestones if first < m < last)
    return run.replace(epochs=last - first, lr=run.lr * 0.1**passed, milestones=coming)


def _equal_parts(epochs: int, parts: int) -> list[int]:
    """The epochs after which each part of a training ends."""
    if not 1 <= parts <= epochs:
        raise ValueError(f"anchors must lie in 1..{epochs}, the epochs to be divided, got {parts}.")
    return [round(epochs * i / parts) for i in range(1, parts + 1)]


def _share(epochs: int, fraction: float) -> int:
    if not 0 < fraction <= 1:
        raise ValueError(f"a share of the epochs must lie above 0 and not above 1, got {fraction}.")
    return max(1, round(fraction * epochs))


def _teacher(run: Run, what: str) -> Run:
    if run.teacher is None:
        raise ValueError(f"{what} needs a run with a teacher, got: {run.label}.")
    return run.teacher


def _lone_teacher(run: Run, what: str) -> Run:
    teacher = _teacher(run, what)
    if teacher.method != "alone":
        raise ValueError(f"{what} needs a teacher trained alone (it is trained anew), got: {teacher.label}.")
    return teacher
