"""Batches on their way to training, and how long training waits for them."""
from time import perf_counter


class Feed:
    """Iterates over what `batches` does, (step, lr, hr), and measures how long the next one takes to come."""

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
        """Seconds that training has waited since this was last asked."""
        seconds, self._waited = self._waited, 0.0
        return seconds
