"""A training step as one CUDA graph: recorded once, then launched as a whole.

A step of SRGAN is some 1300 kernels, many of them so short that the GPU has finished before Python launches the next.  A graph
holds all of them, in order and with their arguments, and starts them with one call.  A graph stores addresses, so inputs are
copied into fixed buffers, and intermediate results come from a memory pool that lives as long as the graph and serves nothing else.
"""
import gc
import traceback
from contextlib import suppress

import numpy as np

from npsrgan.system.errors import first_line

WARM_UP = 2         # plain steps before one is recorded: kernels are compiled, the pool grows to its size


class Graphs:
    """Runs functions on a GPU without ever waiting for it, each from its third call on as a CUDA graph.

    cupy:   the module.
    record: False runs everything as it is called, on the same stream and with the same memory.
    say:    told, in one line, where recording fails; everything then runs as it is called.

    stream: where all work goes, in order, after the work of the default stream that came before.
    """

    def __init__(self, cupy, record=True, say=print):
        self.cupy, self.record, self.say = cupy, record, say
        self.stream, self._given_back = cupy.cuda.Stream(), []
        self.pool = _pool(cupy, self._given_back)
        self.forget()

    def __call__(self, work, *arrays, record=True):
        """work(*arrays), or the same by its graph.  Returns {name: array}, which the next call overwrites.

        work: a function (the same object, or method, in every call) that does the same on the GPU in every call with arrays of
            these shapes, and waits for no result.
        arrays: on the GPU.  A float or int becomes an array of one entry there, float32 or int32.
        record: False for a call that will not come again.
        """
        with self.stream, self.cupy.cuda.using_allocator(self.pool.malloc):
            if self._given_back:        # memory ran short, and the pool gave back what nobody held: the graphs compute in it
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
                    traceback.clear_frames(error.__traceback__)     # which hold all arrays of the step
                    self.say(f"the training step cannot be recorded as a CUDA graph ({first_line(error)}): going on without, slower")
                    return work(*arrays)
            inputs, graph, outputs = self._recorded[key]
            for mine, array in zip(inputs, arrays):
                mine[...] = array
            graph.launch()
            return outputs

    def _upload(self, number):
        """Carried along by the kernel that writes it: nothing waits."""
        array = self.cupy.empty(1, np.int32 if isinstance(number, int) else np.float32)
        array.fill(number)
        return array

    def _capture(self, work, arrays):
        """(inputs, graph, outputs): what must stay in memory.  Nothing is computed yet."""
        gc.collect()        # what earlier steps left behind in circles goes back to the pool, which then need not grow
        inputs = [array.copy() for array in arrays]
        self.stream.begin_capture()
        try:
            outputs = work(*inputs)
        except BaseException:
            with suppress(Exception):           # it ends all the same
                self.stream.end_capture()
            raise
        graph = self.stream.end_capture()
        if self._given_back:
            raise MemoryError("too little memory")
        return inputs, graph, outputs

    def forget(self):
        """Drop all graphs and give their memory back."""
        self._recorded, self._calls = {}, {}
        gc.collect()
        self.pool.free_all_blocks()

    def __del__(self):
        self._recorded.clear()
        self.pool.free_all_blocks()     # CuPy 14 keeps for ever what a pool holds when it goes


def _pool(cupy, given_back):
    """A memory pool that notes in a list what it gives back to the card, as CuPy's do by themselves where memory runs short."""
    runtime = cupy.cuda.runtime

    def take(size, device):
        try:
            return runtime.malloc(size)
        except runtime.CUDARuntimeError:
            cupy.get_default_memory_pool().free_all_blocks()        # what a validation has left
            return runtime.malloc(size)

    def give_back(address, device):
        given_back.append(address)
        runtime.free(address)

    return cupy.cuda.MemoryPool(cupy.cuda.PythonFunctionAllocator(take, give_back).malloc)
