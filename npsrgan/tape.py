"""The tape: operations write themselves down as they run, and gradients come from reading backward.

An operation is a function on arrays that returns its value and, for each of its inputs, a *gradient rule*:
a function from dL/d(output) to dL/d(input).  `@op` turns it into a function on tensors that leaves a record
on the active tape.  The order of execution already is a topological order of the graph, so the tape is a
list, and the chain rule is one walk over it, newest record first.

    with Tape() as tape:
        loss = mean(square(subtract(generator(lr), hr)))
    gradients = tape.gradient(loss, generator.parameters())
"""
import inspect
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import NamedTuple

import numpy as np

_active_tape = ContextVar("active_tape", default=None)
_twins_enabled = ContextVar("twins_enabled", default=True)


class Tensor:
    """An array with an identity: what the tape follows from operation to operation.

    `array` is a NumPy or CuPy array; the value lives there and nothing else does: a tensor holds no gradient.
    Tensors are compared and hashed by identity, so two tensors with equal values are still two tensors.
    """

    __array_ufunc__ = None      # `array * tensor` is left to Tensor.__rmul__, not spread over the array's entries

    def __init__(self, array):
        self.array = array if hasattr(array, "dtype") else np.asarray(array)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    def __float__(self):
        return float(self.array)

    def __repr__(self):
        return f"{type(self).__name__}({self.array!r})"


class Record(NamedTuple):
    """One executed operation: `rules[k]` takes dL/d(output) to dL/d(inputs[k])."""

    output: Tensor
    inputs: tuple
    rules: tuple[Callable, ...]
    name: str


class Tape:
    """Records every operation executed inside `with Tape() as tape:` and answers gradient questions about them."""

    def __init__(self):
        self._records = []
        self._spent = False

    def __enter__(self):
        if self._spent:
            raise RuntimeError(_SPENT)
        self._token = _active_tape.set(self)
        return self

    def __exit__(self, *exception):
        _active_tape.reset(self._token)

    def __len__(self):
        return len(self._records)

    def gradient(self, loss, wrt, keep=False):
        """dL/dt for each tensor t of `wrt`.

        loss: a tensor with one entry, computed on this tape.
        wrt:  one tensor, or a list of them: parameters or intermediate results.
        keep: False drops each record as the walk passes it, which frees memory on the way and leaves the tape
              spent; True leaves the tape as it is, for another question.

        Returns one array, or a list of arrays, shaped like `wrt`.  Only rules on a path from `wrt` to the loss are
        called: a frozen network costs no weight gradients.  The arrays may share memory: do not write into them.
        Raises ValueError for a loss that is not a scalar or that does not depend on `wrt`, RuntimeError for a spent tape.
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
            follow.discard(output)      # every record that uses it lies behind us: let its array go
            if not needed:
                continue
            dy = gradients[output] if output in sources else gradients.pop(output)
            for tensor, rule in zip(inputs, rules):
                if tensor not in follow:
                    continue
                dx = rule(dy)
                if dx.shape != tensor.shape:
                    raise ValueError(f"{name}: a rule returned a gradient of shape {dx.shape} for an input of shape {tensor.shape}")
                # Where paths meet, their gradients add.  The sum is a new array: a rule may have handed the same one to others.
                gradients[tensor] = _evaluate(accumulate, (gradients[tensor], dx), {})[0] if tensor in gradients else dx
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
        """Refuse sources from which no chain of records leads to the loss, before anything is computed or dropped."""
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
    """The records, newest first, each dropped from the list (and with it the arrays that its rules hold) when the next is asked for."""
    while records:
        yield records.pop()


def op(reference):
    """Make an operation on tensors of a function on arrays that returns (value, (rule, rule, ...)).

    The k-th rule belongs to the k-th positional argument; arguments after the last rule (strides, axes) have no gradient.
    The operation takes tensors, arrays and numbers, always returns a Tensor, and is recorded when a tape is active.
    `operation.reference` is the function itself.
    """
    def run(operation, args, kwargs):
        return _record(operation, args, *_evaluate(operation, _arrays(args), kwargs))
    return _operation(reference, run)


def composite(function):
    """Make an operation of a function on tensors that is nothing but operations in a row: for twins that do all of it at once.

    Where no twin takes the arguments, the function runs, and the operations in it are recorded one by one, as ever.
    `operation.reference` is the function itself.
    """
    def run(operation, args, kwargs):
        result = _ask_twins(operation, _arrays(args), kwargs)
        return operation.reference(*args, **kwargs) if result is NotImplemented else _record(operation, args, *result)
    return _operation(function, run)


def _operation(function, run):
    signature = inspect.signature(function)

    @wraps(function)
    def operation(*args, **kwargs):
        if kwargs:                       # a tensor passed by keyword still belongs to its position
            bound = signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        return run(operation, args, kwargs)

    operation.reference = function
    operation.twins = []
    return operation


def _arrays(args):
    return [a.array if isinstance(a, Tensor) else a for a in args]


def _record(operation, args, value, rules):
    """The value as a tensor, which the active tape, if there is one, remembers."""
    output = Tensor(value)
    tape = _active_tape.get()
    if tape is not None:
        inputs = tuple(a if isinstance(a, Tensor) else None for a in args[:len(rules)])
        tape._records.append(Record(output, inputs, rules, operation.__name__))
    return output


@op
def accumulate(a, b):
    """The sum of two gradients of one tensor.  Made an operation for the sake of its twins; nothing asks for its gradient."""
    return a + b, ()


def twin(operation):
    """Register a faster function for an operation: same arguments, same (value, rules), equal results within rounding.

    Twins are asked first, the newest before the older; one that does not handle its arguments (another kind of array,
    a shape it is slow on) returns NotImplemented, and at last the reference runs.
    """
    def register(function):
        operation.twins.insert(0, function)
        return function
    return register


def _evaluate(operation, arrays, kwargs):
    result = _ask_twins(operation, arrays, kwargs)
    return operation.reference(*arrays, **kwargs) if result is NotImplemented else result


def _ask_twins(operation, arrays, kwargs):
    """The answer of the first twin that gives one; else NotImplemented."""
    for function in operation.twins if _twins_enabled.get() else ():
        result = function(*arrays, **kwargs)
        if result is not NotImplemented:
            return result
    return NotImplemented


@contextmanager
def reference_only():
    """Inside `with reference_only():` every operation runs the version one reads, none of its fast twins."""
    token = _twins_enabled.set(False)
    try:
        yield
    finally:
        _twins_enabled.reset(token)
