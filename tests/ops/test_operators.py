"""Every operator: registration (opcheck), gradients of the reference, float32 against float64, poison.

All but the gradients run on the device that V4NPU_TEST_DEVICE names; what is expected is computed on the CPU.
"""

import pytest
import torch

import v4npu
from v4npu import _C, reference
from v4npu.testing.cases import arguments
from v4npu.testing.compare import max_error

OPS = _C.op_names()
QUANTISERS = ("act_quant", "fp4_act_quant")


def moved(args, device):
    """The arguments with every tensor on the device."""
    return tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in args)


def results(op, args):
    """What the operator returns, as a tuple on the CPU."""
    out = getattr(torch.ops.v4npu, op)(*args)
    return tuple(r.cpu() for r in (out if isinstance(out, tuple) else (out,)))


@pytest.mark.parametrize("op", OPS)
def test_registration(op, device):
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if op in ("fp8_linear", "fp4_linear"):
        tests.remove("test_schema")  # it compares tensors with allclose, which torch lacks for float8
    torch.library.opcheck(getattr(torch.ops.v4npu, op).default, moved(arguments(op), device), test_utils=tests)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["kernel", "reference"])
@pytest.mark.parametrize("op", OPS)
def test_results_lie_as_the_fake_kernel_says(op, dtype, device):
    """Whatever the strides of what is given per token. float64, which not every device has, is the CPU's."""
    args = moved(arguments(op, dtype), device if dtype == torch.float32 else torch.device("cpu"))
    args = [
        a.mT.contiguous().mT if isinstance(a, torch.Tensor) and a.shape[0] == 12 and a.dim() > 1 else a for a in args
    ]
    torch.library.opcheck(getattr(torch.ops.v4npu, op).default, args, test_utils="test_faketensor")


@pytest.mark.parametrize("op", OPS)
def test_the_wrapper_says_what_the_op_does(op):
    assert getattr(v4npu.ops, op).__doc__


@pytest.mark.parametrize("op", [op for op in OPS if op not in QUANTISERS])
def test_float32_against_float64(op, device):
    low, high = results(op, moved(arguments(op), device)), results(op, arguments(op, torch.float64))
    for a, b in zip(low, high, strict=True):
        assert torch.equal(torch.isinf(a), torch.isinf(b))
        if not a.is_floating_point():
            assert torch.equal(a, b)
        elif a.isfinite().any():
            assert max_error(a[a.isfinite()], b[b.isfinite()]) < 1e-5


@pytest.mark.parametrize("op", [op for op in OPS if op not in (*QUANTISERS, "indexer_topk", "indexer_scores")])
def test_gradients(op):  # of the reference, in float64, which not every device has
    args = list(arguments(op, torch.float64))
    if op == "compressor":
        args[7:9] = None, None  # state is updated in place
        args[5:7] = torch.tensor([0, 12], dtype=torch.int32), torch.tensor([0], dtype=torch.int32)
    inputs = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.dtype == torch.float64]
    for i in inputs:
        args[i] = args[i].clone().requires_grad_()

    def call(*values):
        full = list(args)
        for i, value in zip(inputs, values, strict=True):
            full[i] = value
        return tuple(r for r in results(op, full) if r.is_floating_point())

    assert torch.autograd.gradcheck(call, [args[i] for i in inputs], fast_mode=True, check_forward_ad=True)


@pytest.mark.parametrize("op", ["rms_norm", "linear", "qkv_prepare", "csa_attention", "gate", "moe_experts"])
def test_gradients_per_sample(op):
    """torch.func.vmap of grad: of each sample what it has alone, checked as it is alone."""
    first, *rest = arguments(op, torch.float64)
    samples = torch.stack([first, first.flip(0), first * 2])

    def loss(x):
        out = getattr(v4npu.ops, op)(x, *rest)
        return sum(r.square().sum() for r in (out if isinstance(out, tuple) else (out,)) if r.is_floating_point())

    alone = torch.stack([torch.func.grad(loss)(x) for x in samples])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(samples), alone)
    with pytest.raises(ValueError, match=rf"v4npu\.{op}: \w+ must be"):
        torch.func.vmap(torch.func.grad(loss))(samples[..., 1:])


@pytest.mark.parametrize("op", ["qkv_prepare", "compressor", "indexer_query", "moe_experts"])
def test_derivatives_pass_through_the_quantisers(op):
    """<u, J v> is <J'u, v> in official numerics, though the function is a staircase, and its values are the same."""
    args = list(arguments(op, torch.float64, official=True))
    if op == "moe_experts":
        for i in (3, 5, 7):
            args[i : i + 2] = reference.formats.quantise_weight_fp8(args[i])
    at, draw = int(op == "qkv_prepare"), torch.Generator().manual_seed(1)

    def call(x):
        with_x = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]  # a compressor's state moves on
        with_x[at] = x
        out = getattr(torch.ops.v4npu, op)(*with_x)
        return out[1] if at else out

    x = args[at]
    v = torch.randn(x.shape, generator=draw, dtype=x.dtype)
    out, tangent = torch.func.jvp(call, (x,), (v,))
    same, back = torch.func.vjp(call, x)
    u = torch.randn(out.shape, generator=draw, dtype=out.dtype)
    assert torch.equal(out, call(x)) and torch.equal(same, out)
    assert (u * tangent).sum().item() == pytest.approx((back(u)[0] * v).sum().item()) != 0


@pytest.mark.parametrize("op", [op for op in OPS if op not in QUANTISERS])
def test_autocast_changes_nothing(op, device):
    """Not where a gradient is wanted, and not where the reference runs for its dtype's sake."""
    for dtype in (torch.float32, torch.float16):
        args, again = (list(moved(arguments(op, dtype), device)) for _ in range(2))
        args[0].requires_grad_(dtype == torch.float32), again[0].requires_grad_(dtype == torch.float32)
        plain = results(op, args)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            cast = results(op, again)
        for a, b in zip(plain, cast, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("op", [op for op in OPS if op not in QUANTISERS])
@pytest.mark.parametrize("official", [False, True])
def test_runs_twice_alike_and_leaves_inputs_alone(op, official, device):
    args = moved(arguments(op, torch.bfloat16, official=official), device)
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    first = results(op, args)
    if op == "compressor":
        assert not torch.equal(args[7], before[7])  # the state moved on
    else:
        for a, b in zip(args, before, strict=True):
            assert not isinstance(a, torch.Tensor) or torch.equal(a, b)
    for a, b in zip(first, results(op, before), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", ["window_attention", "csa_attention", "hca_attention"])
@pytest.mark.parametrize("official", [False, True])
def test_attention_never_reads_what_is_not_visible(op, official, device):
    args = moved(arguments(op, torch.float32, official=official), device)
    poisoned = list(args)
    poisoned[1] = args[1].clone()
    poisoned[1][1, 5:] = torch.nan  # sequence 1 holds positions 0..4, in page 1
    poisoned[1][3, :2] = torch.nan  # sequence 0 sees positions 2..15, in pages 3 and 0
    poisoned[1][[2, 4]] = torch.nan  # nobody's pages
    if op == "hca_attention":  # sequence 1 sees its entry 0 only, not row [1, 1]; [0, 1] is sequence 0's fourth
        poisoned[3] = args[3].clone()
        poisoned[3][:2, 1] = torch.nan
    clean, dirty = results(op, args)[0], results(op, poisoned)[0]
    last = 1 if op == "hca_attention" else 0  # that fourth entry is visible to the last token of sequence 0 alone
    assert torch.equal(dirty[7:], clean[7:])
    assert torch.equal(dirty[: 7 - last], clean[: 7 - last])
    assert dirty[7 - last : 7].isnan().all()
