"""Decode steps captured once and replayed: the kernels alone, with no Python and no dispatcher between them.

A step of one token for each of a few sequences launches the same kernels over the same addresses every time: weights
and pools stay where they are, and what differs lies in small tensors (ids, positions, tables, slots). On a CPU only.
A step is captured anew when a weight or module is replaced, and not replayed while there is a hook. Two changes go
unseen: a Python function that is replaced after the capture, and a weight whose `data` is set to another layout at the
same address (`w.data = w.data.t()`; a new parameter is seen).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import _len_torch_function_stack
from torch.utils._python_dispatch import TorchDispatchMode, _len_torch_dispatch_stack

from v4npu import _C
from v4npu.cache import Store
from v4npu.model.step import Step

if TYPE_CHECKING:
    from v4npu.model import Model

MAX_TOKENS = 8  # of a step worth capturing: what a graph holds grows with them, what it saves does not
MAX_GRAPHS = 16  # of one store
TABLE_BLOCKS = 64  # block tables grow by so many columns at once: with each growth a step is captured anew

Layers = Callable[[Step], Tensor]  # one pass -> streams [T, m, d]


class _Recorder(TorchDispatchMode):
    """Notes torch's operators between our kernels: a replay calls them again, into the same tensors."""

    def __init__(self, capture: _C.Capture) -> None:
        super().__init__()
        self.capture = capture
        self.parts: list[Callable[[], object]] = []
        self.whole = True
        self._done = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first capture imports torch's compiler, for more than a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "v4npu":
            return func(*args, **kwargs)
        with self:  # in inference mode composite operators arrive whole, and some copy only at times: note parts
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        result = func(*args, **kwargs)
        if func.is_view:
            return result
        if isinstance(result, Tensor) and not func._schema.is_mutable:
            self.close()
            self.parts.append(_again(func, args, kwargs, result))
        else:
            self.whole = False
        return result

    def close(self) -> None:
        """Ends a run of kernels."""
        if self.capture.size > self._done:
            self.parts.append(functools.partial(self.capture.replay, self._done, self.capture.size))
            self._done = self.capture.size


def _again(func: Any, args: Any, kwargs: Any, result: Tensor) -> Callable[[], object]:
    """The call again, into the same result."""
    if func is torch.ops.aten._to_copy.default or func is torch.ops.aten.clone.default:
        return functools.partial(result.copy_, args[0])
    if func is torch.ops.aten.add.Tensor or func is torch.ops.aten.mul.Tensor:
        return functools.partial(func.overloadpacket.out, *args, **kwargs, out=result)
    if func is torch.ops.aten.embedding.default:
        return functools.partial(torch.index_select, args[0], 0, args[1], out=result)
    return lambda: result.copy_(func(*args, **kwargs))


class StepGraph:
    """The launches of one step over tensors of its own, which are filled before each replay."""

    def __init__(self, step: Step, ratios: tuple[int, ...], layers: Layers) -> None:
        self._step = step.own(ratios, TABLE_BLOCKS)
        capture = _C.Capture()
        with _Recorder(capture) as recorder:
            capture.begin()
            try:
                self.streams = layers(self._step)
            finally:
                capture.end()
        recorder.close()
        self._parts = recorder.parts
        self.whole = recorder.whole and capture.whole

    def replay(self, step: Step) -> Tensor:
        """What `layers` gives for this step, until the next replay."""
        self._step.assign(step)
        for part in self._parts:
            part()
        return self.streams


def run_step(model: Model, step: Step, store: Store, layers: Layers) -> Tensor:
    """`layers(step)`: replayed where the same step was captured, captured where another of its kind is expected."""
    key = _key(model, step, store)
    if key is None:
        return layers(step)
    graphs: Any = store.graphs
    if key not in graphs:
        for old in [old for old in graphs if old[-1] != key[-1]]:
            del graphs[old]  # of weights that are no more, which it would keep
        graphs[key] = None
        if len(graphs) > MAX_GRAPHS:
            graphs.popitem(last=False)
        if len(step.lengths) > 1:  # such steps come and go; of one sequence there are few kinds
            return layers(step)
    graphs.move_to_end(key)
    graph = graphs[key]
    if graph is None:
        graph = StepGraph(step, store.compressed, layers)
        graphs[key] = graph if graph.whole else False
        return graph.streams.clone()
    return graph.replay(step).clone() if graph else layers(step)


def _key(model: Model, step: Step, store: Store) -> tuple[Hashable, ...] | None:
    """Whatever the launches of a step depend on, weights last; None where it is to be run as it is."""
    tokens = len(step.lengths)
    if model.device.type != "cpu" or tokens > MAX_TOKENS or any(n != 1 for n in step.lengths):
        return None
    if step.tables is None or step.trace is not None or _watched():
        return None
    weights = model.generation()
    if weights is None:
        return None
    width = -(-step.tables.block_table.shape[1] // TABLE_BLOCKS)
    entries = tuple(step.entries(ratio) for ratio in store.compressed)
    return tokens, width, entries, torch.get_num_threads(), torch.is_inference_mode_enabled(), weights


def _watched() -> bool:
    """Whether somebody looks at every operator."""
    return bool(
        _len_torch_dispatch_stack() or _len_torch_function_stack() or torch.autograd.profiler._is_profiler_enabled
    )
