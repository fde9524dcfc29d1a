"""Write what PyTorch says about comparisons.py to golden/, for machines without PyTorch:  python tests/make_golden.py"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np  # noqa: E402
import oracle  # noqa: E402
from comparisons import OPERATIONS, PAPER_NETWORKS, SMALL_NETWORKS, digest, small_trainer  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"


def main():
    GOLDEN.mkdir(exist_ok=True)
    for name, comparisons, run in [("operations", OPERATIONS, oracle.run_operation),
                                   ("networks", SMALL_NETWORKS + PAPER_NETWORKS, oracle.run_network)]:
        answers = {f"{comparison}/{key}": digest(array) for comparison in comparisons for key, array in run(comparison).items()}
        np.savez_compressed(GOLDEN / f"{name}.npz", **answers)
    np.savez_compressed(GOLDEN / "training.npz", **{name: digest(a) for name, a in oracle.run_training(small_trainer()).items()})


if __name__ == "__main__":
    main()
