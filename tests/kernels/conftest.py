from typing import Any

import pytest

from tests.conftest import ON_GPU, load_kernels
from tests.kernels import emulated


@pytest.fixture(scope="session", params=["cpu", "emulated", ON_GPU], name="kernels")
def all_kernels(request):
    """As everywhere, and the CUDA kernels emulated on the CPU."""
    return emulated_or_skip() if request.param == "emulated" else load_kernels(request.param)


@pytest.fixture(scope="session", params=["emulated", ON_GPU])
def cuda(request):
    """The module `kernels.cuda`, emulated and, where there is a GPU, real."""
    return emulated_or_skip() if request.param == "emulated" else load_kernels(request.param)


def emulated_or_skip() -> Any:
    if emulated.NEEDS:
        pytest.skip(emulated.NEEDS)
    return emulated.load()
