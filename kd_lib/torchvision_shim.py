"""Lets `import torchvision` and `import transformers` work beside a CPU-only torch.

PyPI's torchvision for Linux is a CUDA build. Beside a CPU-only torch its C++ library cannot be loaded, so the operators
that the library would register do not exist, and the package stops at `operator torchvision::nms does not exist`.
Transformers imports torchvision where it finds one, and stops with it. Networks, transforms and data sets need none of
these operators: two schemas are enough for the import, and they promise nothing, for an operator without a kernel
cannot be called.

Call `repair()` before the first import of torchvision or transformers.
"""

from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec

import torch

# The operators for which torchvision registers a fake kernel without asking whether its C++ library is there.
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def repair() -> bool:
    """Declare the operators that torchvision's import asks for, where its own C++ library cannot.

    On a healthy install, and where there is no torchvision, nothing is declared. After a repair the operators have a
    schema and no kernel: `torchvision.ops.nms` raises torchvision's own RuntimeError (custom C++ ops could not be
    loaded), and `torch.ops.torchvision.nms` a NotImplementedError.

    Returns:
        Whether operators were declared. Later calls in a process repeat the first answer.
    """
    package = find_spec("torchvision")
    if package is None or _load_operators(list(package.submodule_search_locations)):
        return False
    for schema in SCHEMAS:
        _library().define(schema)
    return True


def _load_operators(folders: list[str]) -> bool:
    """Load torchvision's C++ library the way torchvision does; loading it a second time changes nothing."""
    library = PathFinder.find_spec("_C", folders)
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True


@cache
def _library() -> torch.library.Library:
    """The handle of the declared schemas, cached because they vanish with it."""
    return torch.library.Library("torchvision", "FRAGMENT")
