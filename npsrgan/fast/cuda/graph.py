"""A training step as one CUDA graph, recorded once and then launched as a whole.

An SRGAN step launches some 1300 kernels, many so short that the GPU finishes before Python launches the next.  A graph holds
all of them, in order and with their arguments, and launches them with one call.  A graph stores addresses, so inputs are copied
into fixed buffers, and intermediate results come from a dedicated memory pool that lives as long as the graph.
"""
import gc
import traceback
from contextlib import suppress

import numpy as np

from npsrgan.system.errors import first_line

WARM_UP = 2         # unrecorded steps first: they compile the kernels and grow the pool to its final size


class Graphs:
    """Runs functions on a GPU asynchronously, each as a CUDA graph from its third call on.

    cupy:   the module.
    record: False runs every call without a graph, on the same stream and with the same memory pool.
    say:    called with a one-line message if recording fails; all later calls then run without a graph.

    stream: runs all work in order, after earlier work on the default stream.
    """

    def __init__(self, cupy, record=True, say=print):
        self.cupy, self.record, self.say = cupy, record, say
        self.stream, self._given_back = cupy.cuda.Stream(), []
        self.pool = _pool(cupy, self._given_back)
        self.forget()

    def __call__(self, work, *arrays, record=True):
        """Run work(*arrays), directly or by its graph.  Returns {name: array}, which the next call overwrites.

        work: a function (the same object or method in every call) that does the same GPU work whenever it gets arrays of these
            shapes, and never waits for a result.
        arrays: on the GPU.  A float or int becomes a float32 or int32 array of one entry there.
        record: False for a call that will not be repeated.
        """
        with self.stream, self.cupy.cuda.using_allocator(self.pool.malloc):
            if self._given_back:        # memory ran short and the pool freed unused blocks, which the graphs still use
                self._recorded, self._calls = {}, {}
                self._given_back.clear()
            arrays = [array if hasattr(array, "shape") else self._upload(array) for array in arrays]
            key = work, tuple(array.shape for array in arrays)
            if not (record and self.record):
                return work(*arrays)
            if key not in self._recorded:
                if self._calls.setdefault(key, 0) < WARM_UP:
                    self._calls[key] += 1
                    return work(*arrays)
                try:
                    self._recorded[key] = self._capture(work, arrays)
                except Exception as error:
                    self.record = False
                    traceback.clear_frames(error.__traceback__)     # the frames hold all arrays of the step
                    self.say(f"the training step cannot be recorded as a CUDA graph ({first_line(error)}): going on without, slower")
                    return work(*arrays)
            inputs, graph, outputs = self._recorded[key]
            for mine, array in zip(inputs, arrays):
                mine[...] = array
            graph.launch()
            return outputs

    def _upload(self, number):
        """A number as an array.  It is a kernel argument, so nothing waits."""
        array = self.cupy.empty(1, np.int32 if isinstance(number, int) else np.float32)
        array.fill(number)
        return array

    def _capture(self, work, arrays):
        """Record without computing: (inputs, graph, outputs), all of which must stay in memory."""
        gc.collect()        # return memory held by reference cycles to the pool, so that it need not grow
        inputs = [array.copy() for array in arrays]
        self.stream.begin_capture()
        try:
            outputs = work(*inputs)
        except BaseException:
            with suppress(Exception):           # the capture ends even if this raises
                self.stream.end_capture()
            raise
        graph = self.stream.end_capture()
        if self._given_back:
            raise MemoryError("too little memory")
        return inputs, graph, outputs

    def forget(self):
        """Drop all graphs and free their memory."""
        self._recorded, self._calls = {}, {}
        gc.collect()
        self.pool.free_all_blocks()

    def __del__(self):
        self._recorded.clear()
        self.pool.free_all_blocks()     # CuPy 14 never frees what a deleted pool still holds


def _pool(cupy, given_back):
    """A memory pool that lists the blocks it frees.  CuPy's pools free unused blocks by themselves when memory runs short."""
    runtime = cupy.cuda.runtime

    def take(size, device):
        try:
            return runtime.malloc(size)
        except runtime.CUDARuntimeError:
            cupy.get_default_memory_pool().free_all_blocks()        # memory left by a validation
            return runtime.malloc(size)

    def give_back(address, device):
        given_back.append(address)
        runtime.free(address)

    return cupy.cuda.MemoryPool(cupy.cuda.PythonFunctionAllocator(take, give_back).malloc)
