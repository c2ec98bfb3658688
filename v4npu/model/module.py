"""nn.Module whose parameters, buffers and children are quickly found."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from v4npu import _C, derivatives


class _Registered:
    """Reads an attribute from nn.Module's own dictionaries in every access, so that a replaced one is seen.

    Without this descriptor Python looks for the attribute everywhere else, makes an exception, and then asks nn.Module:
    a tenth of what decoding a token of `nano` on a CPU takes.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        if module is None:
            return self
        name, kept = self._name, module.__dict__
        for kind in ("_parameters", "_modules", "_buffers"):
            if name in kept[kind]:
                return kept[kind][name]
        raise AttributeError(name)


class Module(nn.Module):
    """The base of every module of the model."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self._declare(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        super().register_parameter(name, param)
        self._declare(name)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        super().register_buffer(name, tensor, persistent)
        self._declare(name)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: all but the tree, which refers to this very object's dictionaries."""
        return {name: kept for name, kept in self.__dict__.items() if name != "_tree"}

    def _declare(self, name: str) -> None:
        if name not in self.__dict__ and not hasattr(type(self), name):
            setattr(type(self), name, _Registered(name))

    def generation(self) -> int | None:
        """A number that no other tree has, and that rises when a module, parameter or buffer of this one was replaced
        or moved; None while a hook, or a `forward` set on one object, is to be called, or a derivative recorded.

        A tensor whose `data` was set to another layout at the same address goes unseen: asking each for its dtype,
        shape and strides would take nearly as long again as all of this.
        """
        return self._known().generation()

    def records(self, *inputs: Tensor) -> bool:
        """Whether a derivative by a weight of the tree, or by an input, is recorded now."""
        return derivatives.possible() and (
            derivatives.recorded(inputs) or derivatives.recorded(self._known().tensors())
        )

    def _known(self) -> _Tree:
        tree: _Tree | None = self.__dict__.get("_tree")
        if tree is None or not tree.complete(self):
            tree = self.__dict__["_tree"] = _Tree(self)
        return tree


_GENERATIONS = itertools.count()


class _Tree:
    """The dictionaries of a module and all below it: looking for them again would take as long as a small step."""

    def __init__(self, root: nn.Module) -> None:
        modules = [module.__dict__ for module in root.modules()]
        self._modules = modules
        self._families = [kept["_modules"] for kept in modules]  # the empty ones too: they may be filled later
        self._tensors = [kept[kind] for kept in modules for kind in ("_parameters", "_buffers")]
        self._hooks = [kept[kind] for kept in modules for kind in ("_forward_hooks", "_forward_pre_hooks")]
        self._hooks += [_global_forward_hooks, _global_forward_pre_hooks]  # those of every module
        self._children = _values(self._families)
        self._weights = _Weights([])

    def complete(self, root: nn.Module) -> bool:
        """Whether it is still this module's (a `__dict__` may be copied), and no module came, went or was replaced."""
        return self._modules[0] is root.__dict__ and _C.same_values(self._families, self._children)

    def tensors(self) -> list[Tensor]:
        seen = self._weights
        if _C.same_values(self._tensors, seen.seen):
            return seen.present
        return [t for t in _values(self._tensors) if t is not None]

    def generation(self) -> int | None:
        if _C.any_filled(self._hooks) or _C.any_has(self._modules, "forward"):
            return None
        weights = self._weights  # replaced as a whole: other threads may be reading it
        if not _C.same_values(self._tensors, weights.seen):
            weights = self._weights = _Weights(_values(self._tensors))
        if derivatives.recorded(weights.present):
            return None
        if weights.where() != weights.addresses:
            weights = self._weights = _Weights(weights.seen)
        return weights.generation


class _Weights:
    """The tensors of a tree as they were found; kept alive, so that no new one can have the address of an old one."""

    def __init__(self, seen: list[Tensor | None]) -> None:
        self.seen = seen
        self.present = [t for t in seen if t is not None]
        self._lines = array("Q", itertools.chain.from_iterable(map(_lines, self.present))).tobytes()
        self.addresses = self.where()
        self.generation = next(_GENERATIONS)

    def where(self) -> bytes:
        """Where every one lies, 8 bytes each."""
        return _C.data_ptrs(Tensor.data_ptr, self.present, self._lines)


def _values(dictionaries: list[dict[str, Any]]) -> list[Any]:
    return [*itertools.chain.from_iterable(map(dict.values, dictionaries))]


def _lines(tensor: Tensor) -> Iterator[int]:
    """Addresses of the cache lines that data_ptr() of a tensor reads."""
    for begin, size in ((id(tensor), 2), (tensor._cdata, 4), (tensor.untyped_storage()._cdata, 2)):
        yield from range(begin, begin + 64 * size, 64)
