"""The seeded faults. Each changes one text of a right kernel, which occurs there once: (text, replacement, message).

UB_BYTES, L1_BYTES and so on stand for what the chip has. In a message, <text> stands for "file:line" of the only line
of the changed kernel that holds this text.
"""

from __future__ import annotations

import re
from dataclasses import replace

from v4npu.emulated_kernels import Source

Faults = dict[str, tuple[str, str, str]]

# Of Doubling in faults.asc.
DOUBLING: Faults = {
    "V does not wait for MTE2": (
        "      AscendC::WaitFlag<HardEvent::MTE2_V>(EVENT_ID2);\n", "",
        r"race: Muls at <Muls(out> \(pipe V\) reads byte 0 of the buffer of <InitBuffer(in_buffer_> that DataCopy at"
        r" <DataCopy(in> \(pipe MTE2\) wrote: no wait of V for MTE2 in between",
    ),
    "MTE3 does not wait for V": (
        "      AscendC::WaitFlag<HardEvent::V_MTE3>(EVENT_ID3);\n", "",
        r"race: DataCopy at <DataCopy(out_[tile> \(pipe MTE3\) reads byte 0 of the buffer of <InitBuffer(out_buffer_>"
        r" that Muls at <Muls(out> \(pipe V\) wrote: no wait of MTE3 for V in between",
    ),
    "MTE2 does not wait for V": (
        "      AscendC::WaitFlag<HardEvent::V_MTE2>(EVENT_ID0);\n      Asc", "      Asc",
        r"SetFlag<HardEvent::V_MTE2>\(0\) at .*: already set at .* and not waited for",
    ),
    "V does not wait for MTE3": (
        "      AscendC::WaitFlag<HardEvent::MTE3_V>(EVENT_ID1);\n      Asc", "      Asc",
        r"SetFlag<HardEvent::MTE3_V>\(1\) at .*: already set at .* and not waited for",
    ),
    "swapped event ids": (
        "WaitFlag<HardEvent::V_MTE3>(EVENT_ID3)", "WaitFlag<HardEvent::V_MTE3>(EVENT_ID2)",
        r"WaitFlag<HardEvent::V_MTE3>\(2\) at <WaitFlag<HardEvent::V_MTE3>: deadlock, no SetFlag comes before it",
    ),
    "surplus flag": (
        "    AscendC::WaitFlag<HardEvent::MTE3_V>(EVENT_ID1);\n  }", "  }",
        r"SetFlag<HardEvent::MTE3_V>\(1\) at .*: surplus, the kernel ends and nothing waited for it",
    ),
    "event id out of range": (
        "SetFlag<HardEvent::V_MTE3>(EVENT_ID3)", "SetFlag<HardEvent::V_MTE3>(8)",
        r"SetFlag<HardEvent::V_MTE3>\(8\) at <SetFlag<HardEvent::V_MTE3>: event ids are 0 to 7",
    ),
    "copy of half a block": (
        "x_[tile * kTile], kTile)", "x_[tile * kTile], kTile - 4)",
        r"DataCopy at <DataCopy(in> \(pipe MTE2\): misaligned, 240 bytes are not whole blocks of 32",
    ),
    "copy to an odd address": (
        "DataCopy(in, x_[tile * kTile], kTile)", "DataCopy(in[4], x_[tile * kTile], kTile - 8)",
        r"DataCopy at <DataCopy(in> \(pipe MTE2\): misaligned, byte 16 of the buffer of <InitBuffer(in_buffer_>",
    ),
    "operand at an odd address": (
        "Muls(out, in, 2.0f, kTile)", "Muls(out, in[2], 2.0f, kTile - 2)",
        r"Muls at <Muls(out> \(pipe V\): misaligned, byte 8 of the buffer of <InitBuffer(in_buffer_>",
    ),
    "read of unwritten UB": (
        "      AscendC::DataCopy(in, x_[tile * kTile], kTile);\n", "",
        r"Muls at <Muls(out> \(pipe V\) reads byte 0 of the buffer of <InitBuffer(in_buffer_>, which"
        r" nothing has written",
    ),
    "operands overlap partly": (
        "Muls(out, in, 2.0f, kTile)", "Muls(in[8], in, 2.0f, kTile - 8)",
        r"Muls at <Muls(in[8]> \(pipe V\): byte 32 of the buffer of <InitBuffer(in_buffer_> overlaps a source partly",
    ),
    "UB overflows by 32 bytes": (
        "InitBuffer(out_buffer_, kTile * sizeof(float))", "InitBuffer(out_buffer_, UB_BYTES - 256 + 32)",
        r"InitBuffer at <InitBuffer(out_buffer_>: \d+ bytes of UB needed, 32 more than the (196608|253952) there are",
    ),
    "buffer overflows by 32 bytes": (
        "InitBuffer(out_buffer_, kTile * sizeof(float))", "InitBuffer(out_buffer_, kTile * sizeof(float) - 32)",
        r"Muls at <Muls(out> \(pipe V\) overflows by 32 bytes: 256 from byte 0 of the buffer of"
        r" <InitBuffer(out_buffer_>",
    ),
    "read behind a global tensor": (
        "x_[tile * kTile]", "x_[tile * kTile + 8]",
        r"DataCopy at <DataCopy(in> \(pipe MTE2\): out of bounds, element 64 of a GlobalTensor that ends at element 56",
    ),
    "write behind a global tensor": (
        "out_[tile * kTile]", "out_[tile * kTile + 8]",
        r"DataCopy at <DataCopy(out_[tile> \(pipe MTE3\): out of bounds, element 64 of a GlobalTensor that ends at"
        r" element 56",
    ),
    "read behind an argument": (
        "(x), n);", "(x) + 8);",
        r"DataCopy at <DataCopy(in> \(pipe MTE2\) is out of bounds: bytes 800 to 1056 of x, which has 1024",
    ),
    "write before an argument": (
        "(out), n);", "(out) - 8);",
        r"DataCopy at <DataCopy(out_[tile> \(pipe MTE3\) is out of bounds: bytes -32 to 224 of out, which has 1024",
    ),
    "every block does everything": (
        "tile = 0;", "tile = 0 * AscendC::GetBlockIdx();",
        r"race: DataCopy at <DataCopy(out_[tile> \(pipe MTE3\) writes byte 0 of out that DataCopy at"
        r" <DataCopy(out_[tile> \(pipe MTE3, block 0\) wrote: blocks are not ordered in between",
    ),
    "endless loop": ("tile < tiles_; ++tile", "tiles_ > 0;", r"watchdog: still running at faults\.asc:\d+"),
}  # fmt: skip

_INIT = {"L1": "first_buffer_, kCount * sizeof(half)", "L0A": "left_buffer_, kCount * sizeof(half)",
         "L0B": "right_buffer_, kCount * sizeof(half)", "L0C": "sum_buffer_, kCount * sizeof(float)"}  # fmt: skip

# Of cube_pair in pairs.asc.
CUBE: Faults = {
    **{f"{memory} overflows by 32 bytes": (
        f"InitBuffer({init})", f"InitBuffer({init.split(',')[0]}, {memory}_BYTES + 32)",
        rf"InitBuffer at <InitBuffer({init.split(',')[0]}>: \d+ bytes of {memory} needed, 32 more than the \d+",
    ) for memory, init in _INIT.items()},
    **{f"buffer in {memory} overflows by 32 bytes": (
        f"InitBuffer({init})", f"InitBuffer({init} - 32)",
        rf" overflows by 32 bytes: \d+ from byte \d+ of the buffer of <InitBuffer({init.split(',')[0]}>",
    ) for memory, init in _INIT.items()},
    "tensor placed by hand overflows L1 by 32 bytes": (
        "first_buffer_.Get<half>()", "AscendC::LocalTensor<half>(TPosition::A1, L1_BYTES - 480, kCount)",
        r"LocalTensor at <first_ = >: \d+ bytes of L1 needed, 32 more than the \d+ there are",
    ),
    "stride too large for the copy to L1": (
        "0, kSize, kSize, 1, 0)", "0, kSize, 16385, 1, 0)",
        r"DataCopy at <DataCopy(first_> \(pipe MTE2\): nValue and destination strides end at 16384",
    ),
    "event id that TPipe keeps": (
        "  CubePipes pipes(x, out);\n",
        "  CubePipes pipes(x, out);\n  AscendC::SetFlag<HardEvent::M_MTE1>(EVENT_ID2);\n",
        r"SetFlag<HardEvent::M_MTE1>\(2\) at <SetFlag<HardEvent::M_MTE1>: a queue or TPipe itself uses this event id",
    ),
    "misaligned load": (
        "LoadData(right_,", "LoadData(right_[kSize],",
        r"LoadData at <LoadData(right_[kSize]> \(pipe MTE1\): misaligned, byte 32 of the buffer of"
        r" <InitBuffer(right_buffer_> is not a multiple of 512 bytes",
    ),
    "read of unwritten L1": (
        "touch<PIPE_MTE2>();\n    AscendC::PipeBarrier<PIPE_ALL>();\n    touch<PIPE_MTE1>",
        "AscendC::PipeBarrier<PIPE_ALL>();\n    touch<PIPE_MTE1>",
        r"Mmad at <Mmad(sum_> \(pipe M\) reads byte 0 of the buffer of <InitBuffer(right_buffer_>, which"
        r" nothing has written",
    ),
    "read behind a global tensor": (
        "Nd2NzParams(1, kSize, kSize,", "Nd2NzParams(1, kSize + 1, kSize,",
        r"DataCopy at <DataCopy(first_> \(pipe MTE2\): out of bounds, element 272 of a GlobalTensor that ends at"
        r" element 256",
    ),
    "write behind an argument": (
        "(out), kCount);\n    pipe_.InitBuffer(first", "(out) + 8, kCount);\n    pipe_.InitBuffer(first",
        r"Fixpipe at <Fixpipe(out_> \(pipe FIX\) is out of bounds: bytes 992 to 1056 of out, which has 1024",
    ),
}  # fmt: skip

_ALLOC = "AscendC::LocalTensor<T> in = x_queue_.template AllocTensor<T>();\n    "
_COPY = "AscendC::DataCopyPad(in, x_[row * n_ + start], one_run<T>(count), AscendC::DataCopyPadExtParams<T>());"

# Of rms_norm_kernel.asc.
RMS_NORM: Faults = {
    "queue depth exceeded": (
        _ALLOC + _COPY, f"{_ALLOC}{_COPY}\nx_queue_.EnQue(in); in = x_queue_.template AllocTensor<T>();\n{_COPY}\n",
        r"EnQue at .*, the VECIN queue of <InitBuffer(x_queue_>: the queue's depth of 1 is exceeded",
    ),
    "buffer not given back": (
        "    x_queue_.FreeTensor(in);\n", "",
        r"AllocTensor at <in = x_queue_.template AllocTensor>, the VECIN queue of <InitBuffer(x_queue_>: all 2"
        r" buffers are in use, one since <in = x_queue_.template DeQue>",
    ),
    "buffer given back twice": (
        "x_queue_.FreeTensor(in);", "x_queue_.FreeTensor(in);\nx_queue_.FreeTensor(in); // again",
        r"FreeTensor at <// again>, the VECIN queue of <InitBuffer(x_queue_>: already freed at",
    ),
    "nothing in the queue": (
        "x_queue_.EnQue(in);", "", r"DeQue at <in = x_queue_.template DeQue>, .*: deadlock, the queue is empty",
    ),
    "event id of a queue": (
        "one_tile && rows.first < rows.last) load_weight(0, n_);",
        """one_tile && rows.first < rows.last) load_weight(0, n_);
    const AscendC::TEventID early = pipe_.FetchEventID(AscendC::HardEvent::MTE2_V);
    AscendC::SetFlag<AscendC::HardEvent::MTE2_V>(early);""",
        r"SetFlag<HardEvent::MTE2_V>\(0\) at <SetFlag<AscendC::HardEvent::MTE2_V>: a queue takes this event id at"
        r" <x_queue_.EnQue>, before anything waited for the flag",
    ),
    "use of the padding": (
        "widen(row32_, in, count);", "widen(row32_, in, count + 1);",
        r"Cast at rows\.h:\d+ \(pipe V\) reads byte 602 of the VECIN queue of <InitBuffer(x_queue_>, buffer 0, which"
        r" nothing has written",
    ),
    "padded copy to an odd address": (
        _COPY, _COPY.replace("in,", "in[3],"),
        r"DataCopyPad at <DataCopyPad(in[3]> \(pipe MTE2\): misaligned, byte 6 of the VECIN queue of"
        r" <InitBuffer(x_queue_>",
    ),
    "write to an input": (
        "out_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(out)",
        "static_cast<void>(out); out_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(x)",
        r"DataCopyPad at <DataCopyPad(out_> \(pipe MTE3\) writes to x, which is read-only",
    ),
    "wrong rounding mode": (
        "narrow(result, row32_, count)", "AscendC::Cast(result, row32_, AscendC::RoundMode::CAST_NONE, count)",
        r"Cast at <CAST_NONE> \(pipe V\): this pair of types is emulated for CAST_RINT only",
    ),
}  # fmt: skip

# Of moe_experts_kernel.asc, what gives the choices their rows.
EXPERTS: Faults = {
    "blocks begin at the same rows": (
        "if (block < AscendC::GetBlockIdx())", "if (block < 0)",
        r"race: DataCopyPad at <DataCopyPad(rows_> \(pipe MTE3\) writes byte 0 of rows that DataCopyPad at"
        r" <DataCopyPad(rows_> \(pipe MTE3, block 0\) wrote: blocks are not ordered in between",
    ),
    "starts have no end": (
        "one_run<int32_t>(experts_ + 1)", "one_run<int32_t>(experts_ + 2)",
        r"DataCopyPad at <DataCopyPad(starts_> \(pipe MTE3\) reads byte 20 of the buffer of <InitBuffer(first_buffer_>,"
        r" which nothing has written",
    ),
}  # fmt: skip


BYTES = {
    2201: {"UB": 196608, "L1": 524288, "L0A": 65536, "L0B": 65536, "L0C": 131072},
    3510: {"UB": 253952, "L1": 524288, "L0A": 65536, "L0B": 65536, "L0C": 262144},
}


def mutant(source: Source, fault: tuple[str, str, str], entry: str, suffix: str, arch: int = 2201) -> Source:
    """The source with the fault, and of its kernels the one that is run."""
    text, replacement, _ = fault
    for memory, size in BYTES[arch].items():
        replacement = replacement.replace(f"{memory}_BYTES", str(size))
    assert source.text.count(text) == 1, f"{text!r} occurs {source.text.count(text)} times in {source.name}"
    head, *entries = re.split(r'(?=extern "C" __global__)', source.text.replace(text, replacement))
    return replace(source, text=head + "".join(e for e in entries if f" {entry}(" in e), suffix=suffix)


def message(source: Source, pattern: str) -> str:
    """The pattern with every <text> replaced by the place of that text in the source."""

    def place(match: re.Match[str]) -> str:
        lines = [number for number, line in enumerate(source.text.splitlines(), 1) if match[1] in line]
        assert len(lines) == 1, f"{match[1]!r} is on lines {lines}"
        return re.escape(f"{source.name}:{lines[0]}")

    return re.sub(r"(?<!Flag)<((?:WaitFlag<|SetFlag<)?[^<>]+)>", place, pattern)
