"""Against PyTorch's answers kept in golden/ (by make_golden.py): the comparison of test_torch.py where there is no PyTorch."""
from pathlib import Path

import numpy as np
import pytest
from comparisons import OPERATIONS, PAPER_NETWORKS, SMALL_NETWORKS, digest, small_trainer, training_run, worst_error

GOLDEN = Path(__file__).parents[1] / "golden"


def check(comparison, kept, zero, limit):
    mine = {name: digest(array) for name, array in comparison.run().items()}
    theirs = {name.removeprefix(f"{comparison}/"): kept[name] for name in kept if name.startswith(f"{comparison}/")}
    error, name = worst_error(mine, theirs, zero)
    assert error < limit, name


@pytest.fixture(scope="module")
def operations():
    return np.load(GOLDEN / "operations.npz")


@pytest.fixture(scope="module")
def networks():
    return np.load(GOLDEN / "networks.npz")


@pytest.mark.parametrize("comparison", OPERATIONS, ids=str)
def test_operation(comparison, operations, version):
    check(comparison, operations, (), 1e-12)


@pytest.mark.parametrize("comparison", SMALL_NETWORKS + PAPER_NETWORKS, ids=str)
def test_network(comparison, networks):
    check(comparison, networks, comparison.zero(), 1e-11)       # a digest may be a little smaller than what rounding goes by


def test_ten_steps_of_srresnet_and_srgan():
    mine = {name: digest(array) for name, array in training_run(small_trainer()).items()}
    error, name = worst_error(mine, dict(np.load(GOLDEN / "training.npz")))
    assert error < 1e-8, name


def test_the_kept_answers_are_those_of_the_comparisons():
    for name, comparisons in [("operations", OPERATIONS), ("networks", SMALL_NETWORKS + PAPER_NETWORKS)]:
        assert {key.rsplit("/", 1)[0] for key in np.load(GOLDEN / f"{name}.npz")} == {str(c) for c in comparisons}


def test_the_golden_files_are_small():
    assert sum(file.stat().st_size for file in GOLDEN.iterdir()) < 1_000_000
