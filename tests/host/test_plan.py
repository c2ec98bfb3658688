"""Plans are pure functions of the operator and an (invented) machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from v4npu import _C


def machine(kind: str, name: str = "", **fields: object) -> _C.DeviceCaps:
    caps = _C.DeviceCaps()
    caps.kind, caps.name = kind, name
    for field, value in fields.items():
        setattr(caps, field, value)
    return caps


MACHINES = [
    machine("cpu", "x86_64", available=True, features=["avx2"], num_cores=2),
    machine("cpu", "aarch64", available=True, features=["sve"], num_cores=256, memory_bytes=1 << 40),
    machine("cuda", "sm_90", available=True),
    machine("cuda", "sm_90", available=True, features=["kernels"]),
    machine("npu", "ascend950dt", available=False, reason="not here"),
    machine("abacus"),
]


@pytest.mark.parametrize("caps", MACHINES, ids=lambda c: f"{c.kind}-{c.name}")
@pytest.mark.parametrize("op", _C.op_names())
def test_every_op_has_a_plan_with_a_reason_on_any_machine(op: str, caps: _C.DeviceCaps) -> None:
    plan = _C.plan(op, caps)
    assert plan.variant
    assert plan.reason
    if plan.variant == "reference":
        assert caps.kind in plan.reason or "sm80" in plan.reason
    else:
        variants = {"cpu": ("amx", "avx512", "avx512f", "avx2", "neon", "portable"), "cuda": ("sm80",)}
        assert plan.variant in variants[caps.kind]


# The second cache of several machines; 0 is one that does not say.
CACHES = [0, 1 << 18, 1 << 19, 1 << 20, 2 << 20, 64 << 20]


def test_tiles_of_the_flash_and_pro_shapes_fit_the_second_cache() -> None:
    """64 cores or 2 make no difference: what fits a core's own cache does."""
    for cores in (2, 64):
        cpus = [machine("cpu", num_cores=cores, l2_bytes=l2) for l2 in CACHES]
        assert [_C.plan_cpu_query_tile(64, 128, c) for c in cpus] == [16, 4, 8, 16, 32, 32]
        assert [_C.plan_cpu_head_group(512, c) for c in cpus] == [64, 16, 64, 64, 64, 64]
        assert [_C.plan_cpu_block_tokens(1024, 4, c) for c in cpus] == [96, 96, 96, 96, 192, 480]
        assert [_C.plan_cpu_block_tokens(1024, 2, c) for c in cpus] == [192, 96, 96, 192, 480, 480]


@pytest.mark.parametrize("l2", CACHES)
def test_tiles_are_what_kernels_have_room_for(l2: int) -> None:
    cpu = machine("cpu", l2_bytes=l2)
    for heads, dim in ((1, 1), (3, 80), (64, 128), (128, 512), (4096, 4096)):
        assert _C.plan_cpu_query_tile(heads, dim, cpu) in (4, 8, 16, 32)
        assert _C.plan_cpu_head_group(dim, cpu) in (16, 32, 64)
        tokens = _C.plan_cpu_block_tokens(heads * dim, 4, cpu)
        assert tokens % 96 == 0 and 96 <= tokens <= 480


AVX2 = ["avx2", "fma", "f16c"]
AVX512F = [*AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl"]
AVX512 = [*AVX512F, "avx512vnni", "avx512vbmi", "avx512bf16"]
AMX = [*AVX512, "amx_tile", "amx_bf16"]


@pytest.mark.parametrize(
    ("features", "only", "variant", "reason"),
    [
        (AMX, "", "amx", "float32 and bfloat16"),
        (AMX, "avx512", "avx512", "amx: avx512 is asked for"),
        (AVX512, "", "avx512", "amx: needs amx_tile amx_bf16, not on this CPU"),
        ([f for f in AVX512 if f != "avx512bf16"], "", "avx512f", "avx512: needs avx512bf16, not on this CPU"),
        (AVX512, "avx512f", "avx512f", "avx512: avx512f is asked for"),
        ([f for f in AVX512F if f != "avx512bw"], "", "avx2", "avx512f: needs avx512bw, not on this CPU"),
        (["avx2"], "", "portable", "avx2: needs fma f16c, not on this CPU; neon: needs neon, not on this CPU"),
        (["neon", "sve"], "", "neon", "avx2: needs avx2 fma f16c, not on this CPU"),
        (AVX512, "avx2", "avx2", "avx512: avx2 is asked for"),
        (AVX2, "avx512", "reference", "avx512: needs avx512f"),
    ],
)
def test_a_cpu_kernel_is_the_best_instruction_set(features: list[str], only: str, variant: str, reason: str) -> None:
    plan = _C.plan("rms_norm", machine("cpu", "invented", available=True, features=features, only=only))
    assert plan.variant == variant
    assert reason in plan.reason


@pytest.mark.parametrize(
    ("name", "features", "variant", "reason"),
    [
        ("sm_80", ["kernels"], "sm80", "float32 and bfloat16"),
        ("sm_89", ["kernels"], "sm80", "float32 and bfloat16"),
        ("sm_90", ["kernels"], "sm80", "float32 and bfloat16"),
        ("sm_100", ["kernels"], "sm80", "float32 and bfloat16"),
        ("sm_103", ["kernels"], "sm80", "float32 and bfloat16"),
        ("sm_75", ["kernels"], "reference", "sm80: needs sm_80 or later, not sm_75"),
        ("sm_120", ["kernels"], "reference", "sm80: built for sm_80, sm_90a and sm_100, not sm_120"),
        ("sm_90", [], "reference", "sm80: the kernels' files are not beside the extension"),
        ("", ["kernels"], "reference", "sm80: the device's architecture is not known"),
    ],
)
def test_a_cuda_kernel_needs_its_file_and_an_architecture(
    name: str, features: list[str], variant: str, reason: str
) -> None:
    plan = _C.plan("rms_norm", machine("cuda", name, available=True, features=features))
    assert plan.variant == variant
    assert reason in plan.reason


@pytest.mark.parametrize(
    ("tokens", "rows", "columns"), [(1, 4096, 128), (768, 1024, 128), (4096, 65536, 256), (0, 0, 256)]
)
def test_tiles_of_a_product_keep_every_cube_core_busy(tokens: int, rows: int, columns: int) -> None:
    for groups in (1, 3):
        tiles = _C.plan_ascend_tiles(3510, tokens, rows, groups, 32)
        assert tiles.rows == 256 and tiles.count == groups * -(-tokens // 256) * -(-rows // tiles.columns)
        assert groups > 1 or tiles.columns == columns


@pytest.mark.parametrize(
    ("element", "tokens", "heads", "tile"),
    [(2, 4096, 128, 64), (2, 8, 128, 32), (2, 1, 128, 16), (2, 4096, 20, 32), (2, 4096, 3, 16), (4, 4096, 64, 32)],
)
def test_tiles_of_heads_keep_every_cube_core_busy(element: int, tokens: int, heads: int, tile: int) -> None:
    assert _C.plan_ascend_head_tile(element, tokens, heads, 24) == tile


@pytest.mark.parametrize(
    ("tokens", "width", "wanted"),
    [(1, 262144, (1, 26)), (1, 65536, (1, 16)), (1, 8192, (1, 4)), (8, 262144, (8, 6)), (4096, 1024, (4096, 1)),
     (4096, 262144, (48, 1)), (4096, 1 << 23, (2, 24)), (4096, 1 << 26, (1, 48)), (0, 64, (1, 1)), (3, 0, (3, 1))],
)  # fmt: skip
def test_scores_to_pick_from_are_bounded_and_long_lists_are_the_work_of_several_cores(
    tokens: int, width: int, wanted: tuple[int, int]
) -> None:
    plan = _C.plan_ascend_topk(tokens, width, 48)
    assert (plan.tokens, plan.parts) == wanted
    assert plan.tokens == 1 or plan.tokens * width * 4 <= 64 << 20


@pytest.mark.parametrize("op", ["", "rms_nor", "rms_norm(", "v4npu::rms_norm"])
def test_an_unknown_op_is_refused_by_name(op: str) -> None:
    with pytest.raises(ValueError, match=r"op must be a declared operator, got"):
        _C.plan(op, MACHINES[0])


def test_the_ascend_page_has_the_vendors_operators() -> None:
    page = (Path(__file__).parents[2] / "backends/ascend/README.md").read_text()
    told = re.findall(r"^\| (\w+) \| (\w+::\w+) \| (yes|no) \| (.*) \|$", page, re.MULTILINE)
    operators = _C.vendor_operators()
    assert told == [(o.op, o.name, "yes" if o.used else "no", o.why) for o in operators if o.schema]
    for operator in (o for o in operators if not o.schema):
        assert not operator.used and (operator.op in page or operator.op.endswith("_attention"))


def test_a_vendors_operator_comes_after_our_kernel_and_before_the_reference() -> None:
    npu = machine("npu", "ascend950dt", available=True, features=["npu::npu_rms_norm", "npu::npu_mhc_post"])
    assert _C.plan("rms_norm", npu).variant == "ascendc"
    npu.available, npu.reason = False, "no compiled kernels"
    assert _C.plan("rms_norm", npu).variant == "npu::npu_rms_norm"
    assert _C.plan("rms_norm", npu).reason.startswith(
        "ascendc: no npu that it can be launched on: no compiled kernels; "
    )
    assert "npu::npu_mhc_post is not used: for the 950" in _C.plan("hc_post", npu).reason
    npu.features = []
    plan = _C.plan("rms_norm", npu)
    assert plan.variant == "reference" and plan.reason.endswith("npu::npu_rms_norm: torch has no such operator")


def test_backends_describe_themselves_without_a_driver() -> None:
    caps = {c.kind: c for c in _C.caps()}
    assert set(caps) == {"cpu", "cuda", "npu"}
    cpu = caps["cpu"]
    assert cpu.available and cpu.num_cores >= 1 and cpu.memory_bytes > 0
    assert cpu.name in {"x86_64", "aarch64", "generic"}
    assert _C.cpu_isas()[-1] == "portable"
    assert all(c.reason for c in caps.values() if not c.available)
