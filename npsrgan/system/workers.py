"""One run on several processes, started by `mpiexec`: data-parallel, by MPI between CPUs and by NCCL between GPUs.

Each of n processes has a copy of all networks and takes 1/n of every batch.  The mean of their gradients is the gradient of the
whole batch, so all copies take the same step, the one that a single process would take:

    gradients    are averaged before Adam, in one message for each network
    batch norm   takes its statistics over the whole batch: `ops.normalisation.sharing`
    losses       are averaged for the log; one that is not finite is so for all
    agreement    after each step, on whether to save and whether to stop
    process 0    writes every file and prints; the others only compute

A process that fails ends all of them, because the others would wait for it for ever.
The parts are those of ChainerMN (Akiba, Fukuda and Suzuki 2017, arXiv 1710.11351).
"""
import os
import sys
import time
import traceback
from contextlib import contextmanager, nullcontext, redirect_stdout

import numpy as np

from npsrgan.device import to_numpy
from npsrgan.ops.normalisation import sharing
from npsrgan.system.errors import UserError

# By these, mpiexec (of MPICH and its relatives, Open MPI, MVAPICH) tells a process how many it started, and the number of this one.
STARTED = {"PMI_SIZE": "PMI_RANK", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK"}


class Alone:
    """The only process of a run: every batch is its own, and it agrees with itself.

    rank, size: the number of this process, from 0, and how many there are.   local_rank: its number on this machine.
    threads: as for `fast.set_threads`.   graphs: whether a CUDA graph can record `mean` and `gradients`.
    """

    rank, size, local_rank, threads, graphs = 0, 1, 0, None, True

    def mean(self, array):
        """The mean of an array over all processes: an array of the same kind, shape and dtype."""
        return array

    def gradients(self, gradients):
        """The mean over all processes of a network's gradients, for `Adam.step`."""
        return gradients

    def row(self, row):
        """The mean over all processes of a row of the log, {name: number}."""
        return row

    def highest(self, *numbers):
        """The maximum over all processes of each of some integers."""
        return numbers

    def share(self, compute):
        """compute() of process 0, for all.  The others do not call it."""
        return compute()

    def in_turn(self, compute):
        """compute() of this process.  Process 0 is done with its own before the others begin."""
        return compute()

    def in_background(self):
        """Context manager for all that a process other than the first does."""
        return nullcontext()


ALONE = Alone()


class Workers(Alone):
    """Several processes, which exchange arrays by MPI through main memory.  All must call the same methods in the same order."""

    graphs = False

    def __init__(self, mpi):
        self.mpi, self.world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self.world.rank, self.world.size
        here = self.world.Split_type(mpi.COMM_TYPE_SHARED)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        self.local_rank, self.local_size = here.rank, here.size
        self.threads = max(1, len(cores) // here.allgather(cores).count(cores))     # processes on the same cores divide them

    def mean(self, array):
        mine = np.asarray(to_numpy(array), order="C")
        total = np.empty_like(mine)
        self.world.Allreduce(mine, total)       # the sum, the same bits for all
        total /= self.size
        return np.asarray(total, like=array) if hasattr(array, "get") else total

    def gradients(self, gradients):
        return [self.mean(np.concatenate([gradient.ravel() for gradient in gradients]))]

    def row(self, row):
        return dict(zip(row, Workers.mean(self, np.array(list(row.values()), np.float64)).tolist()))

    def highest(self, *numbers):
        result = np.empty(len(numbers), np.int64)
        self.world.Allreduce(np.array(numbers, np.int64), result, self.mpi.MAX)
        return result.tolist()

    def share(self, compute):
        return self.world.bcast(compute() if self.rank == 0 else None)

    def in_turn(self, compute):
        if self.rank > 0:
            self.world.barrier()
        result = compute()
        if self.rank == 0:
            self.world.barrier()
        return result

    @contextmanager
    def in_background(self):
        """It prints nothing.  It reports an error a second later than process 0, whose end ends it: one of all is reported once."""
        if self.rank == 0:
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            try:
                yield
            except Exception:
                time.sleep(1)
                raise


def connect():
    """The workers of this run: Alone, or Workers if mpiexec started several processes.

    Raises UserError if it did and they cannot reach each other, because mpi4py is missing or belongs to another MPI.
    """
    size, rank = max((int(os.environ.get(size, 1)), int(os.environ.get(rank, 0))) for size, rank in STARTED.items())
    if size == 1:
        return ALONE
    try:
        from mpi4py import MPI  # optional
        problem = "" if MPI.COMM_WORLD.size == size else f"mpi4py, made for another MPI, finds {MPI.COMM_WORLD.size}"
    except (ImportError, RuntimeError):         # RuntimeError: it finds no MPI library
        problem = "mpi4py cannot be imported"
    if problem:
        if rank > 0:
            raise SystemExit(2)         # the first one speaks for all
        raise UserError(f"mpiexec started {size} processes, but {problem}: pip install mpi4py mpich, and use the mpiexec that they install")
    return Workers(MPI)


@contextmanager
def statistics_over(workers):
    """Context manager: batch norm takes its statistics over the batches of all these workers together."""
    token = sharing.set(workers)
    try:
        yield
    finally:
        sharing.reset(token)


def ending_all(main):
    """main().  If it raises an exception or calls sys.exit on one of several processes, all end, with its exit status."""
    try:
        return main()
    except BaseException as error:
        mpi = sys.modules.get("mpi4py.MPI")
        if mpi and mpi.COMM_WORLD.size > 1:
            if not isinstance(error, SystemExit):
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            time.sleep(0.5)         # mpiexec does not pass on what has not reached it when a process aborts
            status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
            mpi.COMM_WORLD.Abort(status)
            os._exit(status)        # Abort may return before it ends this process
        raise
