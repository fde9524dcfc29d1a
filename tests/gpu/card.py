"""A GPU that is none: a stand-in for the parts of CuPy that train through CUDA graphs, as strict as a card where it matters.

While its stream is being captured nothing is computed into an existing array: what is asked for is written down, and happens when
the graph is launched, on the arrays as they are then and with the Python numbers as they were.  Reading a value, or uploading one,
is an error meanwhile.  Events read a clock that the test moves.
"""
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
from test_dispatch import StandIn


class Array(StandIn):
    """An array on the card that `Array.card` is."""

    card = None

    def get(self):
        self.card.refuse_while_capturing()
        return super().get()

    def __float__(self):
        self.card.refuse_while_capturing()
        return super().__float__()

    def __bool__(self):
        self.card.refuse_while_capturing()
        return super().__bool__()

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        return self.card.run(lambda: StandIn.__array_ufunc__(self, ufunc, method, *inputs, out=out, **kwargs), *out)

    def __array_function__(self, function, types, args, kwargs):
        arrays = [a for a in [*args, *(args[0] if isinstance(args[0], (list, tuple)) else ())] if isinstance(a, StandIn)]
        return self.card.run(lambda: StandIn.__array_function__(self, function, types, args, kwargs), arrays=arrays)

    def __setitem__(self, index, value):
        self.card.run(lambda: StandIn.__setitem__(self, index, value), self)

    def fill(self, value):
        self.card.run(lambda: self._values.fill(value), self)

    def set(self, values, stream):
        self.card.refuse_while_capturing()
        self.card.did.append(("set", stream.name))
        self._values[...] = values


def _method(name):
    method = getattr(StandIn, name)
    return lambda self, *args, **kwargs: self.card.run(lambda: method(self, *args, **kwargs), arrays=[self])


for _name in ("__getitem__", "sum", "mean", "var", "max", "argmax", "all", "reshape", "transpose", "ravel", "copy", "astype"):
    setattr(Array, _name, _method(_name))
Array.T = property(lambda self: Array(self._values.T))


class Pool:
    """CuPy's memory pool.  Its blocks are what a test takes; it never runs short by itself."""

    def __init__(self, malloc=None):
        self._malloc, self.free, self.total_bytes = malloc, [], lambda: 1000

    def malloc(self, size):
        """A function that ends the use of the block: the pool keeps it."""
        block = self._malloc(size)
        return lambda: self.free.append(block)

    def free_all_blocks(self):
        while self.free:
            self.free.pop()()


def allocator(take, give_back):
    """PythonFunctionAllocator; its blocks are functions that give them back."""
    def malloc(size):
        address = take(size, 0)
        return lambda: give_back(address, 0)
    return SimpleNamespace(malloc=malloc)


class CUDARuntimeError(RuntimeError):
    pass


class Card:
    """`module` is what stands in for cupy.  `did`: what the streams and events were asked for, in order.  `graphs`: all recorded."""

    def __init__(self):
        self.recording, self.did, self.graphs, self.clock, self.streams = None, [], [], 0.0, 0
        self.memory, self.taken, default_pool = 1 << 40, {}, Pool(lambda size: partial(self.give_back, self.take(size)))
        self.kind = type("Array", (Array,), {"card": self})
        self.module = SimpleNamespace(
            get_default_memory_pool=lambda: default_pool, array=self.upload,
            empty=lambda shape, dtype: self.kind(np.full(shape, np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max, dtype)),
            cuda=SimpleNamespace(Stream=lambda non_blocking=False: Stream(self, non_blocking), Event=lambda **kwargs: Event(self),
                                 MemoryPool=Pool, PythonFunctionAllocator=allocator,
                                 runtime=SimpleNamespace(malloc=self.take, free=self.give_back, CUDARuntimeError=CUDARuntimeError),
                                 using_allocator=lambda malloc: contextmanager(lambda: (yield))(),
                                 get_elapsed_time=lambda a, b: 1000 * (b.time - a.time),
                                 alloc_pinned_memory=bytearray, Device=lambda: SimpleNamespace(synchronize=lambda: None)))

    def upload(self, values):
        self.refuse_while_capturing()
        return self.kind(np.array(values))

    def take(self, size):
        if size > self.memory - sum(self.taken.values()):
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        address = 512 * (1 + max(self.taken, default=0))
        self.taken[address] = size
        return address

    def give_back(self, address):
        del self.taken[address]

    def refuse_while_capturing(self):
        if self.recording is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing\nand so on")

    def run(self, call, target=None, arrays=()):
        """What `call` makes of `arrays`; while capturing it is also written down, or, where it writes to `target`, only that."""
        if self.recording is None:
            return self._ours(call())
        if target is not None:
            self.recording.append(call)
            return target
        result = self._ours(call())
        if isinstance(result, StandIn) and not any(np.may_share_memory(result._values, a._values) for a in arrays):
            self.recording.append(lambda: np.copyto(result._values, call()._values))        # a view is there already
        return result

    def _ours(self, result):
        return self.kind(result._values) if type(result) is StandIn else result


class Stream:
    def __init__(self, card, non_blocking):
        card.streams += 1
        self.card, self.name = card, "copying" if non_blocking else "computing"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def begin_capture(self):
        self.card.refuse_while_capturing()
        self.card.recording = []

    def end_capture(self):
        thunks, self.card.recording = self.card.recording, None
        graph = SimpleNamespace(thunks=thunks, launched=0)

        def launch():
            self.card.refuse_while_capturing()
            graph.launched += 1
            for thunk in thunks:
                thunk()
        graph.launch = launch
        self.card.graphs.append(graph)
        return graph

    def wait_event(self, event):
        self.card.did.append((self.name + " waits", event))


class Event:
    def __init__(self, card):
        self.card, self.time = card, None

    def record(self, stream=None):
        self.time = self.card.clock
        self.card.did.append((f"{stream.name if stream else 'default'} passes", self))

    def synchronize(self):
        self.card.did.append(("Python waits", self))
