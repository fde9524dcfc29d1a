"""The tape: it records operations as they run, and computes gradients by walking the records backward.

Each executed operation appends a record: its output, its inputs and, for each input, a *gradient rule*, a function from
dL/d(output) to dL/d(input).  The order of execution is already a topological order of the graph, so the tape is a list,
and the chain rule is one walk over it, newest record first.

    with Tape() as tape:
        loss = mean(square(subtract(generator(lr), hr)))
    gradients = tape.gradient(loss, generator.parameters())

ops/operation.py turns functions on arrays into operations that record themselves.
"""
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

active_tape = ContextVar("active_tape", default=None)      # one per thread


class Tensor:
    """An array with an identity, which lets the tape follow it from operation to operation.

    `array` is a NumPy or CuPy array with the value.  A tensor holds nothing else, not even a gradient.
    Tensors are compared and hashed by identity, so two tensors with equal values are still different tensors.
    """

    __array_ufunc__ = None      # `array * tensor` calls Tensor.__rmul__ once, not once per entry of the array

    def __init__(self, array):
        self.array = array if hasattr(array, "dtype") else np.asarray(array)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    def __float__(self):
        return float(self.array)

    def __repr__(self):
        return f"{type(self).__name__}({self.array!r})"


class Record(NamedTuple):
    """One executed operation: `rules[k]` maps dL/d(output) to dL/d(inputs[k]).  Inputs that are not tensors are None."""

    output: Tensor
    inputs: tuple
    rules: tuple[Callable, ...]
    name: str


class Tape:
    """Records every operation executed inside `with Tape() as tape:` and computes gradients from the records."""

    def __init__(self):
        self._records = []
        self._spent = False

    def __enter__(self):
        if self._spent:
            raise RuntimeError(_SPENT)
        self._token = active_tape.set(self)
        return self

    def __exit__(self, *exception):
        active_tape.reset(self._token)

    def record(self, output, inputs, rules, name):
        """Append an executed operation.  See `Record`."""
        self._records.append(Record(output, inputs, rules, name))

    def __len__(self):
        return len(self._records)

    def gradient(self, loss, wrt, keep=False):
        """dL/dt for each tensor t in `wrt`.

        loss: a tensor with one entry, computed on this tape.
        wrt:  one tensor or a list of tensors: parameters or intermediate results.
        keep: False drops each record once it has been processed, which frees memory as the walk proceeds and leaves the
              tape spent; True keeps the tape for another call.

        Returns one array or a list of arrays, shaped like `wrt`.  Only rules on a path from `wrt` to the loss are called,
        so no weight gradients are computed for a frozen network.  The arrays may share memory: do not write into them.
        Raises ValueError if the loss is not a scalar or does not depend on `wrt`, RuntimeError if the tape is spent.
        """
        sources = list(wrt) if isinstance(wrt, (list, tuple)) else [wrt]
        if self._spent:
            raise RuntimeError(_SPENT)
        if loss.array.size != 1:
            raise ValueError(f"a loss must be a scalar, but this one has shape {loss.shape}: reduce it with mean or sum first")
        self._check_paths(loss, sources)
        self._spent = not keep

        follow = self._dependents(sources)
        gradients = {loss: np.ones_like(loss.array)}
        for output, inputs, rules, name in (reversed(self._records) if keep else _pop_each(self._records)):
            needed = output in gradients and output in follow
            follow.discard(output)      # all records that use it have been processed: release its array
            if not needed:
                continue
            dy = gradients[output] if output in sources else gradients.pop(output)
            for tensor, rule in zip(inputs, rules):
                if tensor not in follow:
                    continue
                dx = rule(dy)
                if dx.shape != tensor.shape:
                    raise ValueError(f"{name}: a rule returned a gradient of shape {dx.shape} for an input of shape {tensor.shape}")
                # Where paths meet, their gradients add.  The sum is a new array: a rule may have returned the same array to others.
                gradients[tensor] = gradients[tensor] + dx if tensor in gradients else dx
        answers = [gradients[source] for source in sources]
        return answers if isinstance(wrt, (list, tuple)) else answers[0]

    def _dependents(self, sources):
        """The sources and every tensor computed from them."""
        found = set(sources)
        for record in self._records:
            if not found.isdisjoint(record.inputs):
                found.add(record.output)
        return found

    def _check_paths(self, loss, sources):
        """Raise ValueError if the loss does not depend on some source, before anything is computed or dropped."""
        ancestors = {loss}
        for record in reversed(self._records):
            if record.output in ancestors:
                ancestors.update(t for t in record.inputs if isinstance(t, Tensor))
        lost = [getattr(s, "name", None) or f"wrt[{i}], shape {s.shape}" for i, s in enumerate(sources) if s not in ancestors]
        if lost:
            raise ValueError("on this tape the loss does not depend on " + "; ".join(lost)
                             + " (computed before the tape began, or after it ended?)")


_SPENT = "this tape is spent: its records were dropped by an earlier gradient(); ask that one with keep=True, or record again"


def _pop_each(records):
    """Yield the records, newest first, and remove each from the list, so that the arrays its rules hold can be freed."""
    while records:
        yield records.pop()
