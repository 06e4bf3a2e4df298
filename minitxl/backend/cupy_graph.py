"""Many launches as one: a call is recorded as a CUDA graph and then replayed.

A training step of four layers is some 400 launches, told by Python one by one, and a small model's
GPU waits for its next order most of the time (docs/MEASURED.md). The launches are the same in every
step, so they are recorded once and from then on sent as one.

What a recording is bound to: the addresses of all arrays, and every number that the host knew. So
inputs and state are copied into arrays of its own before each replay, and memory that the call
takes comes from a pool of its own, where it stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ALIGN = 256  # bytes; as CUDA aligns what it allocates


class Replayed:
    """function(inputs, state) -> (outputs, state) with the launches of a call sent as one.

    A call of new shapes runs as it is, which compiles its kernels; the next of the same shapes is
    recorded, it and all further ones replayed. A function that cannot be recorded (it looks at a
    number, or uses a library of CuPy's) runs as it is for good; `why_not` says why.
    """

    def __init__(self, cupy, function: Callable):
        self._cupy, self._function = cupy, function
        self._given = self._graph = None
        self.why_not = ""

    def __call__(self, inputs, state):
        given = _shapes((inputs, state))
        if self.why_not or given != self._given:
            self._given, self._graph = given, None
            return self._function(_mapped(self._cupy.asarray, inputs), state)
        if self._graph is None:
            self._record(inputs, state)
            if self.why_not:
                return self._function(_mapped(self._cupy.asarray, inputs), state)
        self._inputs.set(inputs)
        for own, new in zip(_leaves(self._state), _leaves(state), strict=True):
            if new is not own:
                own[...] = new
        self._graph.launch()
        # The next replay writes over the outputs: the caller gets copies. The state goes on.
        return _mapped(lambda a: a.copy(), self._outputs), self._state

    def _record(self, inputs, state) -> None:
        cupy = self._cupy
        cupy.cuda.get_current_stream().synchronize()
        cupy.get_default_memory_pool().free_all_blocks()  # of the calls that ran as they are
        self._inputs = Packed(cupy, inputs)
        self._state = _mapped(lambda a: a.copy(), state)
        cupy.cuda.get_current_stream().synchronize()
        self._pool = cupy.cuda.MemoryPool()
        stream = cupy.cuda.Stream(non_blocking=True)  # the default stream cannot be recorded
        with cupy.cuda.using_allocator(self._pool.malloc), stream:
            stream.begin_capture()
            try:
                self._outputs, new = self._function(self._inputs.arrays, self._state)
                for own, a in zip(_leaves(self._state), _leaves(new), strict=True):
                    own[...] = a
            except Exception as error:
                self.why_not = f"{type(error).__name__}: {str(error)[:200]}"
            try:
                self._graph = stream.end_capture()
            except Exception as error:  # what went wrong in between has ended the recording
                self.why_not = self.why_not or f"{type(error).__name__}: {str(error)[:200]}"
        if self.why_not:
            self._graph = self._inputs = self._state = self._outputs = self._pool = None


class Packed:
    """Arrays of fixed shapes on the GPU; what comes from the host is set by one copy."""

    def __init__(self, cupy, values):
        self._cupy = cupy
        leaves = [self._array(a) for a in _leaves(values)]
        self._places, size = [], 0
        for a in leaves:
            self._places.append((size, size + a.nbytes))
            size += -(-a.nbytes // ALIGN) * ALIGN
        self._line = cupy.empty((max(size, 1),), dtype=np.uint8)
        views = iter(
            self._line[first:stop].view(a.dtype).reshape(a.shape)
            for a, (first, stop) in zip(leaves, self._places, strict=True)
        )
        self.arrays = _mapped(lambda _: next(views), values)
        self.set(values)

    def set(self, values) -> None:
        """Copy values of the same shapes to these arrays."""
        line, there = np.empty(self._line.shape, dtype=np.uint8), []
        leaves = zip(_leaves(values), _leaves(self.arrays), self._places, strict=True)
        for a, own, (first, stop) in leaves:
            if isinstance(a, self._cupy.ndarray):  # already on the GPU: no way over the host
                there.append((own, a))
            else:
                line[first:stop] = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
        self._line.set(line)
        for own, a in there:
            own[...] = a

    def _array(self, a):
        return a if isinstance(a, self._cupy.ndarray) else np.asarray(a)


def _mapped(function: Callable, x):
    """The same nested lists and tuples with function(leaf) for every leaf but None."""
    if isinstance(x, (list, tuple)):
        mapped = [_mapped(function, a) for a in x]
        return type(x)(*mapped) if hasattr(x, "_fields") else type(x)(mapped)
    return None if x is None else function(x)


def _leaves(x):
    """The leaves of nested lists and tuples, in order, without None."""
    if isinstance(x, (list, tuple)):
        for a in x:
            yield from _leaves(a)
    elif x is not None:
        yield x


def _shapes(x):
    """What two calls must share so that one recording serves both."""
    if isinstance(x, (list, tuple)):
        return tuple(_shapes(a) for a in x)
    return None if x is None else (tuple(np.shape(x)), str(getattr(x, "dtype", type(x))))
