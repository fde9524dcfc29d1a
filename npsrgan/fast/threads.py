"""A small thread pool.  NumPy releases the GIL while it computes, so threads can use all cores.

The caller works too: with n threads, n - 1 helpers and the caller take jobs from one list.  While a pool is busy, BLAS runs
each product on the calling thread only; its previous setting is restored when the last busy pool is done.

A training step hands work to the helpers some 300 times.  Two locks do so in three quarters of the time of the standard
library's executors, with their queues and futures.
"""
import math
import os
import threading
from collections import deque
from functools import wraps

import numpy as np
from threadpoolctl import ThreadpoolController

SMALL_PRODUCT = 10**6       # multiplications: up to this size OpenBLAS does not copy the operands first, and is faster

_lock = threading.Lock()
_local = threading.local()          # .inside: this thread is running a pool's jobs; .buffers: its scratch memory
_idle = None                        # helpers that wait for work; None before the first use
_threads = None


def available_cores():
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_threads():
    """The number of threads the fast twins use."""
    return _threads or available_cores()


def set_threads(n):
    """Set the number of threads the fast twins use.  None, the default: one per core available to this process.

    Results are bitwise reproducible for a given number of threads.  Raises ValueError for n < 1.
    """
    global _threads, _idle
    if n is not None and n < 1:
        raise ValueError(f"the number of threads must be at least 1, not {n}")
    with _lock:
        _threads, retired, _idle = n, _idle, None
    for helper in retired or ():
        helper.start(None)


def parallel(work, jobs):
    """[work(job) for job in jobs] on all threads.  Results are returned in the order of jobs.

    Jobs must be independent.  The caller takes the first of them and the helpers the last, until they meet.  So an image tends to stay
    with one thread from layer to layer, and in its cache.  A call from inside a job runs in that job's thread, and so does a call from
    another Python thread while all helpers are busy.  The first exception raised by a job, in the order of jobs, is raised here after
    all threads have stopped.
    """
    global _idle
    jobs = list(jobs)
    if getattr(_local, "inside", False):
        return [work(job) for job in jobs]
    results, errors, queue = [None] * len(jobs), {}, deque(range(len(jobs)))

    def take_jobs(take=queue.pop):
        _local.inside = True
        try:
            while not errors:
                index = take()          # each index goes to exactly one thread
                try:
                    results[index] = work(jobs[index])
                except BaseException as error:
                    errors[index] = error
        except IndexError:              # no job is left
            pass
        finally:
            _local.inside = False

    with _one_blas_thread:
        with _lock:
            if _idle is None:
                _idle = [_Helper() for _ in range(get_threads() - 1)]
            pool, helpers = _idle, _idle[:max(len(jobs) - 1, 0)]
            del pool[:len(helpers)]
        for helper in helpers:
            helper.start(take_jobs)
        take_jobs(queue.popleft)
        for helper in helpers:
            try:
                helper.done.acquire()
            except KeyboardInterrupt as interrupt:      # counts as the first error
                errors[-1] = interrupt
                helper.done.acquire()
        with _lock:
            pool += helpers
    if errors:
        raise errors[min(errors)]
    return results


def shares(count, parts=None):
    """Split range(count) into at most `parts` (default: one per thread) ranges of nearly equal length: [(begin, end), ...].

    The first range is as long as any: the caller takes it while the helpers wake.
    """
    parts = max(1, min(get_threads() if parts is None else parts, count))
    return [(-(-count * i // parts), -(-count * (i + 1) // parts)) for i in range(parts)]


def scratch(role, shape, dtype):
    """Uninitialised memory for this thread and role.  It is reused, which avoids page faults and keeps it in the cache."""
    buffers = _local.__dict__.setdefault("buffers", {})
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if role not in buffers or buffers[role].nbytes < size:
        buffers[role] = np.empty(1 << (size - 1).bit_length(), np.uint8)     # a power of two, so that it rarely grows
    return buffers[role][:size].view(dtype).reshape(shape)


def per_thread(build):
    """Cache, for each thread, the result of build(*arguments): scratch memory and views into it.

    Creating a view takes Python longer than NumPy needs to fill a small one, and blocks the other threads meanwhile.
    """
    @wraps(build)
    def get(*arguments):
        built = _local.__dict__.setdefault(build, {})
        if arguments not in built:
            if len(built) >= 100:       # limit the memory used by images of many sizes
                built.clear()
            built[arguments] = build(*arguments)
        return built[arguments]
    return get


class _Helper:
    """A thread that waits for work.  It releases `done` when it has done it."""

    def __init__(self):
        self.work, self.ready, self.done = None, threading.Lock(), threading.Lock()
        self.ready.acquire(), self.done.acquire()
        threading.Thread(target=self._serve, name="npsrgan", daemon=True).start()

    def start(self, work):
        """Let the thread call `work`, or end if it is None."""
        self.work = work
        self.ready.release()

    def _serve(self):
        while self.ready.acquire() and self.work:
            self.work()
            self.work = None        # it holds arrays
            self.done.release()


class _OneBlasThread:
    """Limits BLAS to one thread while any pool is busy.  Counts the busy pools, because several Python threads may run pools at once."""

    def __init__(self):
        self.busy, self.lock, self.libraries, self.before = 0, threading.Lock(), None, None

    def __enter__(self):
        with self.lock:
            if self.busy == 0:
                if self.libraries is None:      # looked up once, because it is slow
                    self.libraries = ThreadpoolController().select(user_api="blas").lib_controllers
                self.before = [library.num_threads for library in self.libraries]
                self._set([1] * len(self.libraries))
            self.busy += 1

    def __exit__(self, *exception):
        with self.lock:
            self.busy -= 1
            if self.busy == 0:
                self._set(self.before)

    def _set(self, numbers):
        for library, number in zip(self.libraries, numbers):
            library.set_num_threads(number)
            # Newer threadpoolctl lets only the thread that set a limit change it, but here another thread may be the last to leave.
            getattr(library, "clear_controlling_thread", lambda: None)()


_one_blas_thread = _OneBlasThread()


def _after_fork():      # a fork does not copy the helper threads
    global _idle, _lock, _one_blas_thread
    _idle, _lock, _one_blas_thread = None, threading.Lock(), _OneBlasThread()
    _local.__dict__.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
