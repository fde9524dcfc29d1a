"""Batch norm over a batch that several processes share.  Threads take their place; system/workers.py has the real ones."""
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from comparisons import wave

from npsrgan import ops
from npsrgan.fast import fusion
from npsrgan.ops.operation import reference_only
from npsrgan.system.workers import statistics_over
from npsrgan.tape import Tape, Tensor

CHANNELS = 6


class Group:
    """`size` threads that wait for each other in `mean`, and run one at a time."""

    def __init__(self, size):
        self.size, self.given, self.turn, self.barrier = size, {}, threading.Lock(), threading.Barrier(size, timeout=60)

    def mean(self, array):
        self.given[threading.get_ident()] = array.copy()
        self._wait()
        result = sum(self.given[thread] for thread in sorted(self.given)) / self.size
        self._wait()
        return result

    def _wait(self):
        self.turn.release()
        self.barrier.wait()
        self.turn.acquire()

    def each(self, work):
        """[work(rank) for each of the threads]"""
        def run(rank):
            with self.turn, statistics_over(self):
                return work(rank)
        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(run, range(self.size)))


def normalised(x, dy, version, operation=ops.batch_norm):
    """What batch norm gives for a part of the batch: y, d_x, d_gamma, d_beta, and the running statistics afterwards."""
    more = {fusion.batch_norm_prelu: [wave(CHANNELS, seed=5)], fusion.batch_norm_add: [0.3 * dy]}.get(operation, [])
    x = Tensor(x)
    gamma, beta = (Tensor(wave(CHANNELS, seed=seed).astype(x.dtype)) for seed in (1, 2))
    running = [np.zeros(CHANNELS, x.dtype), np.ones(CHANNELS, x.dtype)]
    with reference_only() if version == "reference" else nullcontext(), Tape() as tape:
        y = operation(x, gamma, beta, *more, *running)
        loss = ops.sum(y * dy)
    return [y.array, *tape.gradient(loss, [x, gamma, beta]), *running]


def together(processes, x, dy, version, operation):
    """The same for the whole batch, from so many threads: sample r, r + n, ... goes to thread r."""
    parts = Group(processes).each(lambda rank: normalised(x[rank::processes], dy[rank::processes], version, operation))
    whole = [np.empty_like(x), np.empty_like(x)]
    for array, pieces in zip(whole, zip(*(part[:2] for part in parts))):
        for rank, piece in enumerate(pieces):
            array[rank::processes] = piece
    for part in parts[1:]:
        assert [running.tobytes() for running in part[4:]] == [running.tobytes() for running in parts[0][4:]]
    return [*whole, *(sum(part[k] for part in parts) for k in (2, 3)), *parts[0][4:]]


@pytest.mark.parametrize("operation", [ops.batch_norm, fusion.batch_norm_prelu, fusion.batch_norm_add], ids=lambda each: each.__name__)
@pytest.mark.parametrize("processes", [2, 4])
def test_statistics_and_gradients_are_those_of_the_whole_batch(version, processes, operation):
    x, dy = (wave(8, 5, 4, CHANNELS, seed=seed) for seed in (3, 4))
    x[1::2] += 0.5          # samples of one process are unlike those of the other
    for mine, theirs in zip(together(processes, x, dy, version, operation), normalised(x, dy, version, operation), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_process_on_its_own_would_normalise_otherwise():
    x, dy = (wave(8, 5, 4, CHANNELS, seed=seed) for seed in (3, 4))
    x[1::2] += 0.5
    assert abs(normalised(x[::2], dy[::2], "reference")[0] - normalised(x, dy, "reference")[0][::2]).max() > 0.1
