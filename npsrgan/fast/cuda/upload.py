"""Uploads batches to a GPU while the previous step computes."""
from itertools import cycle

import numpy as np

from npsrgan.data.feed import Feed
from npsrgan.images import to_float


class Upload(Feed):
    """A Feed onto a GPU.  It copies each batch through pinned memory on a second stream while the previous step computes.

    The uint8 levels are copied, a quarter of the bytes, and converted to float32 on the GPU.
    cupy: the module.   stream: the computing stream.   lr and hr are GPU arrays.
    """

    def __init__(self, batches, cupy, stream):
        super().__init__(batches)
        self.cupy, self.stream, self._copying = cupy, stream, cupy.cuda.Stream(non_blocking=True)
        self._slots, self._gaps = cycle([_Slot(cupy), _Slot(cupy)]), []

    def __iter__(self):
        asked = None
        for slot, (step, *levels) in zip(self._slots, self._timed()):
            slot.copy(levels, self._copying)
            self.stream.wait_event(slot.copied)
            if asked:
                self._gaps.append((asked, self._now()))
            with self.stream:
                arrays = [to_float(array) for array in slot.arrays]
            slot.used = self._now()
            yield step, *arrays
            asked = self._now()

    def waited(self):
        """Seconds that the GPU has waited for the next batch after a step since the last call, measured by GPU events."""
        if self._gaps:
            self._gaps[-1][1].synchronize()
        seconds = sum(self.cupy.cuda.get_elapsed_time(*gap) for gap in self._gaps) / 1000
        self._gaps.clear()
        return seconds

    def _now(self):
        """An event recorded on the computing stream at this point."""
        event = self.cupy.cuda.Event()
        event.record(self.stream)
        return event


class _Slot:
    """GPU arrays for a batch, and the pinned memory they are copied from.  There are two slots: one is filled while the other is used."""

    def __init__(self, cupy):
        self.cupy, self.arrays, self.pinned = cupy, None, None
        self.copied, self.used = cupy.cuda.Event(disable_timing=True), None

    def copy(self, arrays, stream):
        """Start copying arrays from host memory; the event `copied` marks the end of the copy."""
        if self.arrays is None:
            self.arrays = [self.cupy.empty(array.shape, array.dtype) for array in arrays]
            self.pinned = [self._pin(array) for array in arrays]
            self.cupy.cuda.Device().synchronize()       # earlier work that uses this memory is done
        self.copied.synchronize()           # the pinned memory is in use until then
        if self.used:
            stream.wait_event(self.used)    # the GPU arrays are in use until then
        for pinned, mine, array in zip(self.pinned, self.arrays, arrays):
            pinned[...] = array
            mine.set(pinned, stream=stream)
        self.copied.record(stream)

    def _pin(self, array):
        memory = self.cupy.cuda.alloc_pinned_memory(array.nbytes)
        return np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
