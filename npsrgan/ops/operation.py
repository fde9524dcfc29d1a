"""Operations: functions on arrays with gradient rules, made functions on tensors that the tape records.

`@op` is all that a new operation needs.  `composite` and `twin` are for faster versions: see ops/fused.py and fast/.
"""
import inspect
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps

from npsrgan.tape import Tensor, active_tape

_twins_enabled = ContextVar("twins_enabled", default=True)


def op(reference):
    """Make an operation on tensors of a function on arrays that returns (value, (rule, rule, ...)).

    The k-th rule belongs to the k-th positional argument; arguments after the last rule (strides, axes) have no gradient.
    The operation takes tensors, arrays and numbers, always returns a Tensor, and is recorded when a tape is active.
    `operation.reference` is the function itself.
    """
    def run(operation, args, kwargs):
        return _record(operation, args, *evaluate(operation, _arrays(args), kwargs))
    return _operation(reference, run)


def composite(function):
    """Make an operation of a function on tensors that is nothing but operations in a row: for twins that do all of it at once.

    Where no twin takes the arguments, the function runs, and its operations are recorded one by one.
    `operation.reference` is the function itself.
    """
    def run(operation, args, kwargs):
        result = _ask_twins(operation, _arrays(args), kwargs)
        return operation.reference(*args, **kwargs) if result is NotImplemented else _record(operation, args, *result)
    return _operation(function, run)


def with_twins(function):
    """Let a function that changes arrays in place, and that no tape records, have twins too.

    A twin that has done the work returns None.  `function` itself is `.reference`.
    """
    @wraps(function)
    def call(*args):
        if _ask_twins(call, args, {}) is NotImplemented:
            call.reference(*args)

    call.reference, call.twins = function, []
    return call


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
    tape = active_tape.get()
    if tape is not None:
        inputs = tuple(a if isinstance(a, Tensor) else None for a in args[:len(rules)])
        tape.record(output, inputs, rules, operation.__name__)
    return output


def twin(operation):
    """Register a faster function for an operation: same arguments, same (value, rules), equal results within rounding.

    Twins are asked first, the newest before the older; one that does not handle its arguments (another kind of array,
    a shape it is slow on) returns NotImplemented, and at last the reference runs.
    """
    def register(function):
        operation.twins.insert(0, function)
        return function
    return register


def evaluate(operation, arrays, kwargs):
    """(value, rules) of an operation on arrays: a twin's, or the reference's."""
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
    """Inside `with reference_only():` every operation runs the function in ops/, none of its fast twins: a breakpoint there is hit.

    It holds for the thread that enters it.  `python -m npsrgan.train --reference` trains in it.
    """
    token = _twins_enabled.set(False)
    try:
        yield
    finally:
        _twins_enabled.reset(token)


def may_overwrite():
    """Whether an operation may write its value over an input that nobody else holds.  A tape's rules would find other values there,
    and `reference_only` asks for the plain operation."""
    return active_tape.get() is None and _twins_enabled.get()
