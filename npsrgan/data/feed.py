"""Iteration over batches, with the time that training waits for them."""
from time import perf_counter


class Feed:
    """Iterates over `batches`, (step, lr, hr), and measures the time spent waiting for each."""

    def __init__(self, batches):
        self.batches, self._waited = iter(batches), 0.0

    def __iter__(self):
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
