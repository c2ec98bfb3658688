class DeviceCaps:
    kind: str
    name: str
    available: bool
    reason: str
    features: list[str]
    only: str
    num_cores: int
    memory_bytes: int
    l2_bytes: int

class Plan:
    @property
    def variant(self) -> str: ...
    @property
    def reason(self) -> str: ...

class VendorOperator:
    @property
    def op(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def schema(self) -> str: ...
    @property
    def used(self) -> bool: ...
    @property
    def why(self) -> str: ...

class RowFormat:
    @property
    def payload(self) -> int: ...
    @property
    def scales(self) -> int: ...
    @property
    def row(self) -> int: ...
    def page(self, rows: int) -> int: ...

class CacheGeometry:
    block_tokens: int
    head_dim: int
    index_head_dim: int
    window: RowFormat
    entry: RowFormat
    key: RowFormat
    state_element: int
    ratios: list[int]
    overlaps: list[bool]

class LayerLayout:
    entries: int
    keys: int
    window: int
    overlap: int
    index_overlap: int
    state: int
    index_state: int
    entries_per_block: int
    state_rows: int
    state_cols: int
    index_cols: int
    overlap_rows: int

class CacheLayout:
    layers: list[LayerLayout]
    entry_block: int
    window_block: int
    open_state: int

class GpuGemmPlan:
    wide: bool
    row_tiles: int
    token_tiles: int

class GpuExpertPlan:
    wide: bool
    tile_tokens: int
    max_tiles: int

KEEP_TOKENS: int

def row_format(name: str, dim: int, rope_dim: int, element: int) -> RowFormat: ...
def cache_layout(geometry: CacheGeometry) -> CacheLayout: ...
def plan(op: str, caps: DeviceCaps) -> Plan: ...
def vendor_operators() -> list[VendorOperator]: ...
def plan_gpu_gemm(num_tokens: int, num_rows: int, groups: int, caps: DeviceCaps) -> GpuGemmPlan: ...
def plan_gpu_experts(num_assignments: int, num_experts: int, caps: DeviceCaps) -> GpuExpertPlan: ...
def plan_gpu_topk_parts(num_tokens: int, num_keys: int, caps: DeviceCaps) -> int: ...
def plan_gpu_attention_parts(num_tokens: int, head_tiles: int, segments: int, caps: DeviceCaps) -> int: ...
def plan_cpu_query_tile(num_heads: int, head_dim: int, caps: DeviceCaps) -> int: ...
def plan_cpu_head_group(head_dim: int, caps: DeviceCaps) -> int: ...
def plan_cpu_block_tokens(k: int, element: int, caps: DeviceCaps) -> int: ...
def op_names() -> list[str]: ...
def schemas() -> list[str]: ...
def caps() -> list[DeviceCaps]: ...
def ascend_architecture(soc: str) -> int: ...
def cpu_isas() -> list[str]: ...
def use_cpu_isa(name: str) -> None: ...
def release_free_heap() -> None: ...
def note_reference_error(is_value_error: bool, text: str) -> None: ...
