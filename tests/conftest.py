"""What several test files share: the package on the path, the two versions of every operation, the kinds of arrays."""
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
# A plain `pytest` finds the package, and each test file those of other folders that it takes something from.
sys.path[:0] = map(str, [TESTS.parent, *(folder for folder in sorted(TESTS.iterdir()) if any(folder.glob("*.py")))])

from runs import photos, tiny  # noqa: E402, F401  (fixtures)

from npsrgan.fast import blocks  # noqa: E402
from npsrgan.ops.operation import reference_only  # noqa: E402
from npsrgan.system.errors import UserError  # noqa: E402

# Some tests press Ctrl-C.  A shell that starts a command in the background has it ignore that; undo it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """The long forms run only where they are asked for, with `-m long`.  What a newer Python or library will remove is an error."""
    for category in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"):
        config.addinivalue_line("filterwarnings", f"error::{category}")
    config.addinivalue_line("markers", "long: takes many minutes")
    config.option.markexpr = config.option.markexpr or "not long"


@pytest.fixture(params=["reference", "twins"])
def version(request, monkeypatch):
    """Run the test with the operations one reads, then with their fast twins, which must not decline because an array is
    small and must cut even small ones into blocks."""
    monkeypatch.setattr(blocks, "SMALL", 2)
    monkeypatch.setattr(blocks, "BLOCK", 50)
    with reference_only() if request.param == "reference" else nullcontext():
        yield request.param


@pytest.fixture(params=["numpy", "cupy"])
def xp(request):
    """The module whose arrays the test uses: numpy, then cupy where a GPU is."""
    if request.param == "numpy":
        return np
    from npsrgan.device import select
    try:
        return select("gpu")[0].module
    except UserError as reason:
        pytest.skip(f"no GPU: {reason}")


@pytest.fixture
def count_rules(monkeypatch):
    """`count_rules(operation)`: a list that from now on receives the position of each of the operation's rules that is called."""
    def install(operation):
        called, reference = [], operation.reference

        def counted(position, rule):
            def call(dy):
                called.append(position)
                return rule(dy)
            return call

        def counting(*args, **kwargs):
            value, rules = reference(*args, **kwargs)
            return value, tuple(counted(position, rule) for position, rule in enumerate(rules))

        monkeypatch.setattr(operation, "reference", counting)
        monkeypatch.setattr(operation, "twins", [])
        return called
    return install

