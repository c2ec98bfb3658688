class DeviceCaps:
    kind: str
    name: str
    available: bool
    reason: str
    features: list[str]
    num_cores: int
    memory_bytes: int

class Plan:
    @property
    def variant(self) -> str: ...
    @property
    def reason(self) -> str: ...

def plan(op: str, caps: DeviceCaps) -> Plan: ...
def op_names() -> list[str]: ...
def schemas() -> list[str]: ...
def caps() -> list[DeviceCaps]: ...

__file__: str
