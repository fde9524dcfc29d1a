"""Iteration over batches on their way to the training step: begun ahead of time, and with the time that it waits for them."""
from collections import deque
from time import perf_counter

from npsrgan.images import to_float


def ahead_of(begun, count):
    """Yield the items of an iterator, each after `count` more have been taken from it: work that threads have begun by then."""
    waiting = deque()
    for item in begun:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


class Feed:
    """Iterates over `batches`, (step, lr, hr), converts lr and hr from uint8 to float32 in [-1, 1], and measures the time spent
    waiting for each."""

    def __init__(self, batches):
        self.batches, self._waited = iter(batches), 0.0

    def __iter__(self):
        for step, *levels in self._timed():
            yield step, *map(to_float, levels)

    def _timed(self):
        """Iterate over the batches as they come."""
        while True:
            start = perf_counter()
            batch = next(self.batches, None)
            self._waited += perf_counter() - start
            if batch is None:
                return
            yield batch

    def waited(self):
        """Seconds that training has waited since the last call."""
        seconds, self._waited = self._waited, 0.0
        return seconds
