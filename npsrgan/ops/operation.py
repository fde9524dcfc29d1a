"""Operations: functions on arrays with gradient rules, turned into functions on tensors that the tape records.

To add an operation, write a function with `@op`, and add a line to `CASES` in gradcheck.py.  `composite` and `twin` serve fast/.
"""
import inspect
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps

from npsrgan.tape import Tensor, active_tape

_twins_enabled = ContextVar("twins_enabled", default=True)


def op(reference):
    """Turn a function on arrays that returns (value, (rule, rule, ...)) into an operation on tensors.

    The k-th rule belongs to the k-th positional argument; arguments after the last rule (strides, axes) have no gradient.
    The operation takes tensors, arrays and numbers, always returns a Tensor, and is recorded when a tape is active.
    `operation.reference` is the function itself.
    """
    def run(operation, args, kwargs):
        return _record(operation, args, *evaluate(operation, _arrays(args), kwargs))
    return _operation(reference, run)


def composite(function):
    """Turn a function on tensors that only chains operations into one operation, so that a twin can compute it in one step.

    If no twin handles the arguments, the function runs, and its operations are recorded one by one.
    `operation.reference` is the function itself.
    """
    def run(operation, args, kwargs):
        result = evaluate(operation, _arrays(args), kwargs)
        return operation.reference(*args, **kwargs) if result is NotImplemented else _record(operation, args, *result)
    return _operation(function, run, on_tensors=True)


def with_twins(function):
    """Allow twins for a function that is not an operation: one that changes arrays in place, or a layer's `forward`.  The call itself
    is not recorded on a tape.

    `call.reference` is the function itself.
    """
    @wraps(function)
    def call(*args):
        result = _ask_twins(call, args, {})
        return call.reference(*args) if result is NotImplemented else result

    call.reference, call.twins = function, []
    return call


def _operation(function, run, on_tensors=False):
    signature = inspect.signature(function)

    @wraps(function)
    def operation(*args, **kwargs):
        if kwargs:                       # rules belong to positions: make keyword arguments positional
            bound = signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        return run(operation, args, kwargs)

    operation.reference, operation.on_tensors, operation.twins = function, on_tensors, []
    return operation


def _arrays(args):
    return [a.array if isinstance(a, Tensor) else a for a in args]


def _record(operation, args, value, rules):
    """Return the value as a tensor, and record it on the active tape, if there is one."""
    output = Tensor(value)
    tape = active_tape.get()
    if tape is not None:
        inputs = tuple(a if isinstance(a, Tensor) else None for a in args[:len(rules)])
        tape.record(output, inputs, rules, operation.__name__)
    return output


def twin(operation):
    """Register a faster function for an operation: same arguments, same (value, rules), equal results within rounding.

    Twins are tried first, the newest before the older.  A twin returns NotImplemented for arguments that it does not handle
    (another kind of array, a shape on which it is slow).  If all twins do, the reference runs.
    """
    def register(function):
        operation.twins.insert(0, function)
        return function
    return register


def evaluate(operation, arrays, kwargs):
    """(value, rules) of an operation on arrays, from a twin or the reference.  NotImplemented for a composite that no twin handles."""
    result = _ask_twins(operation, arrays, kwargs)
    return operation.reference(*arrays, **kwargs) if result is NotImplemented and not operation.on_tensors else result


def _ask_twins(operation, arrays, kwargs):
    """The result of the first twin that handles the arguments; otherwise NotImplemented."""
    for function in operation.twins if _twins_enabled.get() else ():
        result = function(*arrays, **kwargs)
        if result is not NotImplemented:
            return result
    return NotImplemented


@contextmanager
def reference_only():
    """Inside `with reference_only():`, operations run the functions in ops/, not their fast twins, so breakpoints there are hit.

    It applies only to the thread that enters it.  `python -m npsrgan.train --reference` trains in it.
    """
    token = _twins_enabled.set(False)
    try:
        yield
    finally:
        _twins_enabled.reset(token)
