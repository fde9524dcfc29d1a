"""Batches on their way to a GPU, copied while the step before them computes."""
from itertools import cycle

import numpy as np

from npsrgan.data.feed import Feed


class Upload(Feed):
    """The same onto a GPU: through pinned memory, on a second stream, so that a batch is copied while the step before computes.

    cupy: the module.   stream: the one that computes.  lr and hr are arrays there; the next but one batch overwrites them.
    """

    def __init__(self, batches, cupy, stream):
        super().__init__(batches)
        self.cupy, self.stream, self._copying = cupy, stream, cupy.cuda.Stream(non_blocking=True)
        self._slots, self._gaps = cycle([_Slot(cupy), _Slot(cupy)]), []

    def __iter__(self):
        asked = None
        for slot, (step, *arrays) in zip(self._slots, super().__iter__()):
            slot.copy(arrays, self._copying)
            self.stream.wait_event(slot.copied)
            if asked:
                self._gaps.append((asked, self._now()))
            yield step, *slot.arrays
            asked = slot.used = self._now()

    def waited(self):
        """Seconds that the GPU, done with a step, has waited for the next batch, by its own clock, since this was last asked."""
        if self._gaps:
            self._gaps[-1][1].synchronize()
        seconds = sum(self.cupy.cuda.get_elapsed_time(*gap) for gap in self._gaps) / 1000
        self._gaps.clear()
        return seconds

    def _now(self):
        """An event that the computing stream passes when it comes here."""
        event = self.cupy.cuda.Event()
        event.record(self.stream)
        return event


class _Slot:
    """Room for a batch on the GPU, and pinned memory that it comes from.  There are two: one is filled while the other is used."""

    def __init__(self, cupy):
        self.cupy, self.arrays, self.pinned = cupy, None, None
        self.copied, self.used = cupy.cuda.Event(disable_timing=True), None

    def copy(self, arrays, stream):
        """Start to copy arrays from main memory; the event `copied` says when they are there."""
        if self.arrays is None:
            self.arrays = [self.cupy.empty(array.shape, array.dtype) for array in arrays]
            self.pinned = [self._pin(array) for array in arrays]
            self.cupy.cuda.Device().synchronize()       # whoever had this memory before is done with it
        self.copied.synchronize()           # until then the pinned memory is still being read
        if self.used:
            stream.wait_event(self.used)    # until then the arrays are
        for pinned, mine, array in zip(self.pinned, self.arrays, arrays):
            pinned[...] = array
            mine.set(pinned, stream=stream)
        self.copied.record(stream)

    def _pin(self, array):
        memory = self.cupy.cuda.alloc_pinned_memory(array.nbytes)
        return np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
