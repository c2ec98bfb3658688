"""Launching kernels on an emulated chip, and the matrix products among them, with the arguments of v4npu.ops."""

from __future__ import annotations

import torch
from torch import Tensor

from v4npu.testing.ascend import In, InOut, Kernels, Out, Report

GUARD = 64  # bytes before and behind every output
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def output(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of NaNs (all bits set) with guard words around it."""
    size = torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
    memory = torch.full((size + 2 * GUARD,), 0xA5, dtype=torch.uint8)
    inside = memory[GUARD : GUARD + size]
    inside.fill_(0xFF)
    return inside.view(dtype).view(shape)


def unharmed(out: Tensor) -> Tensor:
    memory = torch.empty(0, dtype=torch.uint8).set_(out.untyped_storage())
    guards = torch.cat((memory[:GUARD], memory[-GUARD:]))
    if not bool((guards == 0xA5).all()):
        raise AssertionError("a kernel wrote beside its output")
    return out


class EmulatedProducts:
    """Kernels of matrix products on one SKU; `report` is what the last launch did."""

    report: Report

    def __init__(
        self, kernels: Kernels, sku: str, num_blocks: int = 3, ignored_wait: str = "", suffix: str = ""
    ) -> None:
        self.kernels, self.sku, self.num_blocks = kernels, sku, num_blocks
        self.ignored_wait, self.suffix = ignored_wait, suffix

    def linear(
        self, x: Tensor, weight: Tensor, out_dtype: torch.dtype, tile_rows: int = 32, tile_columns: int = 32
    ) -> Tensor:
        return self._product("linear", x[:, None], weight, None, out_dtype, (tile_rows, tile_columns))[:, 0]

    def fp8_linear(
        self, x: Tensor, x_scale: Tensor | None, weight: Tensor, scale: Tensor, out_dtype: torch.dtype
    ) -> Tensor:
        if (
            x_scale is not None
            and f"fp8_linear_mx_{DTYPES[out_dtype]}" in self.kernels.entries
            and x.shape[1] % 64 == 0
        ):
            return self._mx_product(x, x_scale, weight, scale, out_dtype)
        return self._product("fp8_linear", self._expanded(x, x_scale)[:, None], weight, scale, out_dtype)[:, 0]

    def fp4_linear(
        self, x: Tensor, x_scale: Tensor | None, weight: Tensor, scale: Tensor, out_dtype: torch.dtype
    ) -> Tensor:
        return self._product("fp4_linear", self._expanded(x, x_scale)[:, None], weight, scale, out_dtype)[:, 0]

    def grouped_linear(self, x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        op = "grouped_linear" if scale is None else "grouped_linear_fp8"
        return self._product(op, x, weight, scale, x.dtype)

    def _mx_product(self, x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, out_dtype: torch.dtype) -> Tensor:
        (tokens, k), rows = x.shape, weight.shape[0]
        spread = []
        for kind, scales, count in (("x", x_scale, tokens), ("weight", scale, rows)):
            spread.append(output((count, k // 32), torch.uint8))
            self._run(f"fp8_linear_{kind}_scales", In(scales), Out(spread[-1]), count, k)
        out = output((tokens, -(-rows // 16) * 16), out_dtype)
        operands = (In(x), In(unharmed(spread[0])), In(weight), In(unharmed(spread[1])), Out(out))
        self._run(f"fp8_linear_mx_{DTYPES[out_dtype]}", *operands, tokens, rows, k, 1, 32, 32)
        return unharmed(out)[:, :rows].contiguous()

    def _expanded(self, x: Tensor, x_scale: Tensor | None) -> Tensor:
        if x_scale is None:
            return x
        out = output(x.shape, torch.bfloat16)
        self._run("fp8_linear_x", In(x), In(x_scale), Out(out), *x.shape)
        return unharmed(out)

    def _product(
        self,
        op: str,
        x: Tensor,
        weight: Tensor,
        scale: Tensor | None,
        out_dtype: torch.dtype,
        tile: tuple[int, int] = (32, 32),
    ) -> Tensor:
        tokens, groups, k = x.shape
        rows = weight.shape[0] // groups
        out = output((tokens, groups, -(-rows // 16) * 16), out_dtype)
        kind = DTYPES[x.dtype] if out_dtype == x.dtype else f"{DTYPES[x.dtype]}_{DTYPES[out_dtype]}"
        more = () if scale is None else (In(scale), self._slots())
        self._run(f"{op}_{kind}", In(x), In(weight), *more, Out(out), tokens, rows, k, groups, *tile)
        return unharmed(out)[..., :rows].contiguous()

    def expert_product(
        self, x: Tensor, starts: Tensor, weight: Tensor, scale: Tensor | None, out_dtype: torch.dtype
    ) -> Tensor:
        """Rows starts[e] to starts[e + 1] of x with weight[e]; columns rounded up to 16."""
        (num_rows, k), (experts, columns, _) = x.shape, weight.shape
        out = output((num_rows, -(-columns // 16) * 16), out_dtype)
        kind = DTYPES[x.dtype] if out_dtype == x.dtype else f"{DTYPES[x.dtype]}_{DTYPES[out_dtype]}"
        form = {torch.int8: "fp4_", torch.float8_e4m3fn: "fp8_"}.get(weight.dtype, "")
        more = () if scale is None else (In(scale), self._slots())
        sizes = (num_rows, columns, k, experts, weight.stride(0) // weight.stride(1), 32, 32)
        self._run(f"moe_experts_{form}{kind}", In(x), In(weight), *more, In(starts), Out(out), *sizes)
        return unharmed(out)

    def _slots(self) -> InOut:
        return InOut(output((self.num_blocks, 2 * 256 * (512 if self.kernels.arch == 2201 else 256)), torch.uint8))

    def _run(self, name: str, *arguments: In | Out | InOut | int | float, num_blocks: int = 0) -> None:
        self.report = self.kernels.launch(
            name + self.suffix, self.sku, num_blocks or self.num_blocks, *arguments, ignored_wait=self.ignored_wait
        )
