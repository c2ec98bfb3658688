"""Everything that a GPU has to say about the CUDA kernels, in one run: right, invariant, clean, fast, and beside whom.

    python bench/cuda_device.py --jsonl results.jsonl        builds the kernels with nvcc, then every part
    python bench/cuda_device.py check time --op moe_experts csa_attention --sizes flash
    python bench/cuda_device.py --device cpu                 a dry run of the same code on small sizes, without a GPU
    python bench/cuda_device.py --status results.jsonl       writes the table of backends/cuda/README.md; needs no GPU

Needs torch with CUDA, this checkout, g++ and nvcc; no nvcc if --kernels names prebuilt files. Where the extension is
not built, g++ alone builds it first, in build/bench: a minute or two on 16 cores, and kept.

    check        every operator at the sizes of a layer of V4-Flash and V4-Pro, decode, prompts and ragged batches,
                 against the float64 oracle; whatever would fall back to the reference fails
    invariance   the same bits from run to run, and of the first tokens of a batch alone
    sanitizer    check on small sizes under compute-sanitizer's memcheck and racecheck
    nano         greedy text of the bundled model, which must be the CPU's
    graph        a decode step of it captured as a CUDA graph and replayed for the next tokens
    time         decode of 1 and 32 sequences, prefill of 4,096 tokens: medians, warm (inside a graph of 20 calls) and
                 cold (behind a write larger than the caches), and the floor: bytes that must move and flops at the
                 peaks of this device's own copy and bfloat16 GEMM, measured first. The first tokens are checked before.
    peers        DeepGEMM, FlashMLA, FlashInfer, vLLM, fast-hadamard-transform and torch on the same arguments, as far
                 as they can be imported; the rows stand beside ours
    transformers tokens per second of a random model, beside transformers' eager one

Each row goes to --jsonl as soon as it is known; a short table ends the run. Exit code: 0 all is well, 1 a row failed, 2
there is no device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT)]

import cuda_status  # noqa: E402
import torch  # noqa: E402

try:
    import v4npu._C  # noqa: F401
except ImportError:
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(__doc__)
    import extension

    try:
        extension.build(ROOT / f"build/bench/{torch.__version__}", os.cpu_count() or 2)
    except extension.Missing as missing:
        sys.exit(f"the extension is not built: {missing}")
    for name in [name for name in sys.modules if name.split(".")[0] == "v4npu"]:  # of the import that failed
        del sys.modules[name]

import cuda_model  # noqa: E402
import cuda_ops  # noqa: E402
import cuda_peers  # noqa: E402
from accelerator import Cpu, Device, Gpu  # noqa: E402

from v4npu.testing.bench import CONFIGS  # noqa: E402
from v4npu.testing.cuda import BORROWED, kernel_sources, script  # noqa: E402

Row = dict[str, Any]
TOOLS = ("memcheck", "racecheck")


def output_of(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Exit code and output of a program.

    Raises:
        subprocess.TimeoutExpired: it took longer; it was killed with all that it started, which might use the device.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as program:
        try:
            text, _ = program.communicate(timeout=seconds)
        except BaseException:
            os.killpg(program.pid, signal.SIGKILL)
            raise
    return program.returncode, text


class Run:
    """The arguments, the device and what has been found."""

    def __init__(self, args: argparse.Namespace, device: Device, out: Any) -> None:
        self.args, self.device, self._out = args, device, out
        self.rows: list[Row] = []
        self.small = args.sizes == ["small"]
        self.ops = args.op or sorted(kernel_sources())
        self._peaks: tuple[float, float] | None = None

    def cases(self, timed: bool, ops: Sequence[str] = ()) -> Iterator[cuda_ops.Case]:
        return cuda_ops.cases([op for op in ops or self.ops if op in self.ops], self.args.sizes, timed, self.small)

    @property
    def peaks(self) -> tuple[float, float]:
        if self._peaks is None:
            self._peaks = self.device.peaks()
            copy, gemm = self._peaks
            self.note("time", {"op": "", "case": "peaks", "status": "ok", "copy_bytes_per_s": copy, "gemm_flops": gemm})
        return self._peaks

    def note(self, part: str, row: Row) -> None:
        row = {"part": part, **row, "device": self.device.name, "torch": torch.__version__}
        self.rows.append(row)
        print(json.dumps(row), file=self._out, flush=True)
        print(f"{len(self.rows):5} {cuda_status.line(row)}", file=sys.stderr, flush=True)

    def sanitizer(self) -> Iterator[Row]:
        program = shutil.which(self.args.sanitizer)
        if program is None:
            yield {"op": "", "case": "compute-sanitizer", "status": f"not installed: no {self.args.sanitizer}"}
            return
        again = [sys.executable, __file__, "check", "--sizes", "small", "--device", self.args.device]
        if self.args.op:
            again += ["--op", *self.args.op]
        if self.device.kind == "cuda":  # the kernels that this run has
            again += ["--kernels", os.environ["V4NPU_CUDA_KERNELS"]]
        for tool in TOOLS:
            command = [program, "--tool", tool, "--error-exitcode", "9", *again]
            try:
                code, text = output_of(command, self.args.sanitizer_seconds)
                said = [line for line in text.splitlines() if line.startswith("=========")]
                status = "ok" if code == 0 else f"exit code {code}: " + "; ".join(said[:3])
            except subprocess.TimeoutExpired:
                status = f"not finished after {self.args.sanitizer_seconds} s"
            yield {"op": "", "case": f"compute-sanitizer {tool}", "status": status}

    def over(self, what: Callable[..., Iterator[Row]], cases: Iterator[cuda_ops.Case], *more: Any) -> Iterator[Row]:
        """The rows of every case; an exception is one of them."""
        for case in cases:
            try:
                yield from what(self.device, case, *more)
            except Exception as error:
                yield case.row(case.tokens[0]) | {"status": f"failed: {type(error).__name__}: {error}"}

    def part(self, name: str) -> Iterator[Row]:
        args, device, small = self.args, self.device, self.small
        if name == "check":
            return self.over(cuda_ops.check, self.cases(False))
        if name == "invariance":
            return self.over(cuda_ops.invariance, self.cases(False))
        if name == "time":
            return self.over(cuda_ops.timing, self.cases(True), args.repeats, self.peaks)
        if name == "peers":
            ops = [op for op in self.ops if op in {p.op for p in cuda_peers.PEERS}]
            rows = self.over(cuda_peers.beside, self.cases(True, ops) if ops else iter(()), args.repeats)
            return itertools.chain(cuda_peers.absent(), rows)
        if name == "nano":
            return cuda_model.nano(device, 8 if small else 64)
        if name == "graph":
            return cuda_model.graph(device)
        if name == "transformers":
            return cuda_model.end_to_end(device, [16] if small else [512, 4_096], 2 if small else 32)
        return self.sanitizer()


PARTS = ("check", "invariance", "sanitizer", "nano", "graph", "time", "peers", "transformers")


def build_kernels(parts: Sequence[str], ops: Sequence[str]) -> Path:
    """Fatbins of the kernels that the parts need, in build/cuda, by nvcc; a whole model needs all."""
    ops = [] if {"nano", "graph", "transformers"} & set(parts) else ops
    needed = {name for op in ops for name in (op, *BORROWED.get(op, ()))}
    script("backends/cuda/build.py").build(ROOT / "build/cuda", sorted(needed), jobs=os.cpu_count() or 2)
    return ROOT / "build/cuda"


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--op", nargs="+", default=[], choices=sorted(kernel_sources()), metavar="OP")
    parser.add_argument("--sizes", nargs="+", choices=list(CONFIGS), help="default: flash pro; a dry run: small")
    parser.add_argument("--kernels", type=Path, help="folder of prebuilt fatbins; otherwise nvcc builds them")
    parser.add_argument("--repeats", type=int, default=30, help="of a time")
    parser.add_argument("--jsonl", type=Path, help="a line per row; lines that are there are kept")
    parser.add_argument("--sanitizer", default="compute-sanitizer", help="name or path of the program")
    parser.add_argument("--sanitizer-seconds", type=int, default=240, help="for each of its tools")
    parser.add_argument("--status", type=Path, metavar="JSONL", help="write the README's table from these rows")
    args = parser.parse_args(argv)
    args.parts = args.parts or list(PARTS)
    if unknown := [p for p in args.parts if p not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    args.sizes = args.sizes or (["small"] if args.device == "cpu" else ["flash", "pro"])
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parsed(argv)
    if args.status:
        cuda_status.write(cuda_status.read(args.status))
        print(f"{cuda_status.README.relative_to(ROOT)}: table of {args.status}")
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        for part in args.parts:
            print(f"{part}: not run, no CUDA device is present (torch {torch.__version__})", file=sys.stderr)
        return 2
    if args.device == "cuda":
        os.environ["V4NPU_CUDA_KERNELS"] = str(args.kernels or build_kernels(args.parts, args.op))
    with open(args.jsonl or os.devnull, "a") as out:
        run = Run(args, Gpu() if args.device == "cuda" else Cpu(), out)
        for part in args.parts:
            try:
                for row in run.part(part):
                    run.note(part, row)
            except Exception as error:  # the other parts still have something to say
                run.note(part, {"op": "", "case": "", "status": f"failed: {type(error).__name__}: {error}"})
    print(cuda_status.summary(run.rows))
    return int(any(cuda_status.failed(row) for row in run.rows))


if __name__ == "__main__":
    sys.exit(main())
