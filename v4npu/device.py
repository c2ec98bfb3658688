"""Devices: which exist and why not, which kernel serves an operator, and what happens when none does.

The only module that names an accelerator. A driver or vendor plugin is touched only where there is a sign of it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

import torch

from v4npu import _C, vendor

KINDS = ("cpu", "cuda", "npu")
POLICIES = ("warn", "error", "allow")


@dataclass(frozen=True)
class DeviceStatus:
    """One kind of device: how many there are, and the reason when there is none."""

    kind: str
    count: int
    reason: str
    names: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        return f"{self.kind}: {', '.join(self.names)}" if self.available else f"{self.kind}: no, {self.reason}"


@dataclass(frozen=True)
class Explanation:
    """Which kernel would serve an operator, and why that one."""

    op: str
    device: str
    soc: str | None
    variant: str
    reason: str
    dims: dict[str, Any]

    def __str__(self) -> str:
        where = f"{self.device} ({self.soc})" if self.soc else self.device
        return f"{self.op} on {where}: {self.variant} ({self.reason})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """What `doctor` found."""

    versions: dict[str, str]
    devices: tuple[DeviceStatus, ...]
    device: str
    ops: tuple[Explanation, ...]

    def __str__(self) -> str:
        lines = [f"{name:9} {version}" for name, version in self.versions.items()]
        lines += ["", *map(str, self.devices), "", f"operators on {self.device}:"]
        alike: dict[str, list[str]] = {}
        for e in self.ops:
            alike.setdefault(f"  {e.variant}: {e.reason}", []).append(e.op)
        for line, ops in alike.items():
            lines += [line, textwrap.fill(", ".join(ops), 100, initial_indent="    ", subsequent_indent="    ")]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "versions": self.versions,
            "devices": [{**asdict(d), "available": d.available} for d in self.devices],
            "device": self.device,
            "ops": {e.op: {"variant": e.variant, "reason": e.reason} for e in self.ops},
        }


@functools.cache
def _import_torch_npu() -> str:
    """Imports torch_npu if this machine looks like an Ascend host; the reason when it cannot be used."""
    if "torch_npu" in sys.modules:
        return ""
    if importlib.util.find_spec("torch_npu") is None:
        return "torch_npu is not installed"
    if not (os.path.exists("/dev/davinci_manager") or os.environ.get("ASCEND_HOME_PATH")):
        return "neither /dev/davinci_manager nor ASCEND_HOME_PATH exists"
    try:
        importlib.import_module("torch_npu")
    except Exception as error:  # missing libraries, a half-set environment: all of them mean "not here"
        return f"torch_npu cannot be imported: {type(error).__name__}: {error}"
    return ""


def status(kind: str) -> DeviceStatus:
    """Whether devices of `kind` ("cpu", "cuda", "npu") can be used now."""
    if kind == "cpu":
        caps, isas = _caps("cpu"), _C.cpu_isas()
        kernels = f"kernels: {caps.only or isas[0]} (V4NPU_CPU_ISA chooses among {', '.join(isas)})"
        return DeviceStatus("cpu", 1, "", (f"{' '.join([caps.name, *caps.features])}; {kernels}",))
    if kind == "cuda":
        if not torch.backends.cuda.is_built():
            return DeviceStatus("cuda", 0, f"torch {torch.__version__} is built without CUDA")
        runtime, absent = torch.cuda, "torch finds no CUDA driver or device"
    else:
        if reason := _import_torch_npu():
            return DeviceStatus("npu", 0, reason)
        runtime, absent = sys.modules["torch_npu"].npu, "torch_npu finds no device"
    if not runtime.is_available():
        return DeviceStatus(kind, 0, absent)
    names = tuple(runtime.get_device_name(i) for i in range(runtime.device_count()))
    if kind == "npu" and names:
        _prepare_kernels(names[0])
    return DeviceStatus(kind, len(names), "", names)


@functools.cache
def _prepare_kernels(soc: str) -> str:
    """Sees to compiled kernels for an NPU, on first use; the reason when there are none."""
    if os.environ.get("V4NPU_ASCEND_KERNELS"):
        return ""
    from v4npu.build_kernels import build

    try:
        os.environ["V4NPU_ASCEND_KERNELS"] = str(build(soc))
    except (RuntimeError, ValueError, OSError) as error:
        return f"no compiled kernels: {error}"
    return ""


def npu_soc() -> str:
    """The chip of this machine: as torch-npu names it, or SOC_VERSION, which Ascend builds are told.

    Raises:
        ValueError: neither says.
    """
    found = status("npu")
    soc = found.names[0] if found.available else os.environ.get("SOC_VERSION")
    if not soc:
        raise ValueError(f"no NPU to compile for ({found.reason}): name the chip with --soc")
    return soc


def resolve(device: str | torch.device = "auto") -> torch.device:
    """The torch device that `device` names, once it is known to exist.

    Args:
        device: "auto" (npu, then cuda, then cpu), "cpu", "cuda", "npu", or an indexed "cuda:1", "npu:0".

    Raises:
        ValueError: malformed, or not available; names what is available and why the asked one is not.
    """
    if str(device) == "auto":
        kind = next(kind for kind in reversed(KINDS) if status(kind).available)
        return torch.device(kind if kind == "cpu" else f"{kind}:0")
    kind, index = _parse(str(device))
    found = status(kind)
    if index >= found.count:
        why = found.reason or f"there are {found.count}, counted from 0"
        have = ", ".join(s.kind for s in map(status, KINDS) if s.available)
        raise ValueError(f"v4npu: device {str(device)!r} is not available: {why}; available: {have}")
    return torch.device(kind if kind == "cpu" else f"{kind}:{index}")


def _parse(device: str) -> tuple[str, int]:
    """Kind and index of "cpu", "cuda[:i]" or "npu[:i]"."""
    kind, colon, index = device.partition(":")
    if kind not in KINDS or (colon and (kind == "cpu" or not (index.isascii() and index.isdigit()))):
        raise ValueError(f'v4npu: device must be "auto", "cpu", "cuda[:i]" or "npu[:i]", got {device!r}')
    return kind, int(index or 0)


def explain(op: str, device: str | torch.device = "auto", soc: str | None = None, **dims: Any) -> Explanation:
    """Which kernel would serve `op`, without running it; the device need not be present.

    Args:
        op: name of an operator, such as "csa_attention".
        device: as for `resolve`.
        soc: plan for this chip instead of the one found, such as "ascend950dt" or "sm_90"; not for "cpu".
        dims: sizes of the problem, kept in the answer; a size that the kernel does not take is the reference's then.

    Raises:
        ValueError: unknown operator or device; V4NPU_CPU_ISA names an instruction set this CPU lacks.
    """
    if op not in _C.op_names():
        raise ValueError(f"v4npu.explain: op must be one of {', '.join(_C.op_names())}, got {op!r}")
    kind = resolve(device).type if device == "auto" else _parse(str(device))[0]
    caps = _caps(kind)
    if soc is not None:
        if kind == "cpu" or not soc or not isinstance(soc, str):
            raise ValueError(f"v4npu.explain: soc must be the name of a chip, None for the cpu, got {soc!r}")
        caps.name, caps.available = soc, True
    plan = _C.plan(op, caps)
    return Explanation(op, kind, soc, plan.variant, plan.reason, dims)


def fixed_order(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether every operator has a kernel there whose sums run in an order that no batch, chunk or thread changes."""
    if device.type != "cpu" or dtype not in (torch.bfloat16, torch.float32):
        return False
    return all(_C.plan(op, _caps("cpu")).variant != "reference" for op in _C.op_names())


def doctor() -> Report:
    """Versions, devices with the reason of each absence, and the kernel chosen for every operator."""
    from v4npu import __version__

    versions = {
        "v4npu": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    chosen = resolve("auto")
    ops = tuple(explain(op, chosen.type) for op in _C.op_names())
    return Report(versions, tuple(map(status, KINDS)), str(chosen), ops)


_policy: ContextVar[str | None] = ContextVar("v4npu_fallback", default=None)
_warned: set[tuple[str, str]] = set()
_warned_lock = threading.Lock()


def fallback(policy: str) -> AbstractContextManager[None]:
    """What an operator without a kernel for its tensors' device does, inside a `with` block.

    Args:
        policy: "warn" (once per operator and device, the default), "error" (NotImplementedError) or "allow".
            Outside any block the environment variable V4NPU_FALLBACK sets it.

    It does not apply on the CPU, where dtypes that its kernels do not take run the reference silently.
    """
    return _within(_valid(policy, "v4npu.fallback: policy"))


@contextmanager
def _within(policy: str) -> Iterator[None]:
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)


def note_reference(op: str, device_type: str) -> None:
    """Applies the fallback policy; called when the reference is about to serve `op` on a device."""
    if device_type in ("cpu", "meta"):
        return
    policy = _policy.get()
    if policy is None:
        policy = _valid(os.environ.get("V4NPU_FALLBACK") or "warn", "v4npu.fallback: V4NPU_FALLBACK")
    if policy == "allow":
        return
    if policy == "warn":
        with _warned_lock:
            if (op, device_type) in _warned:
                return
            _warned.add((op, device_type))
    reason = _C.plan(op, _caps(device_type)).reason if device_type in KINDS else "no such backend is built in"
    if policy == "error":
        raise NotImplementedError(f'v4npu.{op}: {reason}, and v4npu.fallback is "error"')
    warnings.warn(
        f"v4npu.{op}: the plain torch reference runs on {device_type}: {reason} "
        '(v4npu.fallback("allow") accepts this silently)',
        RuntimeWarning,
        stacklevel=2,
    )


def _valid(policy: str, name: str) -> str:
    if policy not in POLICIES:
        raise ValueError(f'{name} must be "warn", "error" or "allow", got {policy!r}')
    return policy


def _caps(kind: str) -> _C.DeviceCaps:
    found_npu = status(kind) if kind == "npu" else None  # first: it may compile what C++ then finds
    caps = next(caps for caps in _C.caps() if caps.kind == kind)
    if found_npu and found_npu.available:
        caps.reason = _prepare_kernels(found_npu.names[0]) or caps.reason
        caps.features = [*caps.features, *vendor.registered()]
    if kind == "cuda" and status(kind).available:
        found = torch.cuda.get_device_properties(0)
        caps.name, caps.num_cores, caps.available = f"sm_{found.major}{found.minor}", found.multi_processor_count, True
    return caps
