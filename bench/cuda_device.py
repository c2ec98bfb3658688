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
    nano         greedy text of the bundled model, which must be the CPU's
    graph        a decode step of it captured as a CUDA graph and replayed for the next tokens
    time         decode of 1 and 32 sequences, prefill of 4,096 tokens: medians, warm (in a graph of up to 20 calls) and
                 cold (behind a write larger than the caches), and the floor: bytes that must move and flops at the
                 peaks of this device's own copy and bfloat16 GEMM, measured first. The first tokens are checked before.
    peers        DeepGEMM, FlashMLA, FlashInfer, vLLM, fast-hadamard-transform and torch on the same arguments, as far
                 as they can be imported; the rows stand beside ours
    transformers tokens per second of a random model, beside transformers' eager one
    sanitizer    check on small sizes under compute-sanitizer's memcheck and racecheck, which take minutes

Another process does the work. Where a kernel ends it, or no row comes of it for --seconds, a row says so and the next
one goes on behind that case. Each row goes to --jsonl as soon as it is known; a short table ends the run. Exit code: 0
all is well, 1 a row failed, 2 there is no device.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
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
from processes import lines, output_of  # noqa: E402

from v4npu.testing.bench import CONFIGS  # noqa: E402
from v4npu.testing.cuda import BORROWED, kernel_sources, script  # noqa: E402

Row = dict[str, Any]
TOOLS = ("memcheck", "racecheck")
# For them a tensor is an allocation: in the blocks that torch keeps, an access beside it meets another.
UNCACHED = "PYTORCH_NO_CUDA_MEMORY_CACHING=1"
PARTS = ("check", "invariance", "nano", "graph", "time", "peers", "transformers", "sanitizer")
PROGRAM = [sys.executable, __file__]
START_SECONDS = 120  # of a process besides, until its first step
BEGUN, ENDED, LOST = "begun", "ended", "lost"  # said between rows: of a step, of all of them, of the device


class Run:
    """What a process runs, step by step. What it finds are lines of its output: a fault may end it at any time."""

    def __init__(self, args: argparse.Namespace, device: Device) -> None:
        self.args, self.device = args, device
        self.small = args.sizes == ["small"]
        self.ops = args.op or sorted(kernel_sources())
        self._peaks: tuple[float, float] | None = None

    def say(self, row: Row) -> None:
        print(json.dumps({**row, "device": self.device.name, "torch": torch.__version__}), flush=True)

    @property
    def peaks(self) -> tuple[float, float]:
        if self._peaks is None:
            self._peaks = copy, gemm = self.device.peaks()
            self.say({"part": "time", "op": "", "case": "peaks", "status": "ok",
                      "copy_bytes_per_s": copy, "gemm_flops": gemm})  # fmt: skip
        return self._peaks

    def sanitizer(self) -> Iterator[Row]:
        program = shutil.which(self.args.sanitizer)
        if program is None:
            yield {"case": "compute-sanitizer", "status": f"not installed: no {self.args.sanitizer}"}
            return
        again = [*PROGRAM, "check", "--sizes", "small", "--device", self.args.device, "--here"]
        if self.args.op:
            again += ["--op", *self.args.op]
        for tool in TOOLS:
            command = ["env", UNCACHED, program, "--tool", tool, "--error-exitcode", "9", *again]
            try:
                code, text = output_of(command, self.args.sanitizer_seconds)
                status = "ok" if code == 0 else f"exit code {code}"
            except subprocess.TimeoutExpired as late:
                text, status = (late.output or b"").decode(), f"not finished after {self.args.sanitizer_seconds} s"
            said = [line for line in text.splitlines() if line.startswith("=========") and "SANITIZER" not in line]
            if status != "ok" and said:
                status += ": " + "; ".join(said[:5])
            yield {"case": f"compute-sanitizer {tool}", "status": status}

    def steps(self) -> Iterator[tuple[Row, Callable[[], Iterator[Row]]]]:
        """What the rows of a step have in common, and what makes them. Nothing is drawn before a step is run."""
        args, device, small = self.args, self.device, self.small
        whole = {
            "sanitizer": self.sanitizer,
            "nano": lambda: cuda_model.nano(device, 8 if small else 64),
            "graph": lambda: cuda_model.graph(device),
            "peers": cuda_peers.absent,
            "transformers": lambda: cuda_model.end_to_end(device, [16] if small else [512, 4_096], 2 if small else 32),
        }
        over_cases: dict[str, Callable[[cuda_ops.Case], Iterator[Row]]] = {
            "check": lambda case: cuda_ops.check(device, case),
            "invariance": lambda case: cuda_ops.invariance(device, case),
            "time": lambda case: cuda_ops.timing(device, case, args.repeats, self.peaks),
            "peers": lambda case: cuda_peers.beside(device, case, args.repeats),
        }
        for part in args.parts:
            if part in whole:
                yield {"part": part, "op": "", "case": ""}, whole[part]
            if part in over_cases:
                ops = [op for op in self.ops if part != "peers" or op in {p.op for p in cuda_peers.PEERS}]
                for case in cuda_ops.cases(ops, args.sizes, part in ("time", "peers"), small):
                    row = {"part": part, **case.row(case.tokens[0])}
                    yield row, functools.partial(over_cases[part], case)

    def all(self) -> int:
        """Runs every step; 1 if a row failed."""
        wrong = False
        for number, (common, step) in enumerate(self.steps()):
            if number < self.args.skip or common["op"] in self.args.leave_out:
                continue
            self.say({**common, "step": number, "status": BEGUN})
            well = True
            try:
                for found in step():
                    row = {**common, **found}
                    well &= row["status"] == "ok"
                    wrong |= cuda_status.failed(row)
                    self.say(row)
            except Exception as error:
                well, wrong = False, True
                self.say({**common, "status": f"failed: {type(error).__name__}: {error}"})
            if not (well or self.device.works()):
                self.say({"status": LOST})
                os._exit(1)  # what a process does at its end would wait for the device
        self.say({"status": ENDED})
        return int(wrong)


def rows_of(args: argparse.Namespace, argv: Sequence[str]) -> Iterator[Row]:
    """What a process of its own finds, and behind each step that ended one, another."""
    skip, left_out = 0, list[str]()
    at, begun = dict[str, Any](), False

    def patience() -> float:
        more = START_SECONDS if not begun else args.sanitizer_seconds if at["part"] == "sanitizer" else 0
        return float(args.seconds + more)

    while True:
        at = {"part": args.parts[0], "op": "", "case": "start", "device": args.device}
        begun, last, how = False, "", "its process ended"
        again = [*PROGRAM, *argv, "--here", "--skip", str(skip), "--leave-out", *left_out]
        try:
            for line in lines(again, patience):
                if not line.startswith("{"):  # a library's
                    print(line, end="", file=sys.stderr)
                    continue
                row = json.loads(line)
                last = row["status"]
                if last == BEGUN:
                    begun, skip, at = True, row.pop("step") + 1, row
                elif last not in (ENDED, LOST):
                    yield row
        except subprocess.TimeoutExpired as late:
            how = f"nothing came of it for {late.timeout:g} s"
            left_out += [at["op"]] if at["op"] else []  # each of its cases might take as long
        except subprocess.CalledProcessError as error:
            how += f" with exit code {error.returncode}"
        if last == ENDED:
            return
        if last != LOST:
            yield {**at, "status": f"failed: {how}"}
        if not begun:
            return


def build_kernels(parts: Sequence[str], ops: Sequence[str]) -> tuple[Path, str]:
    """Fatbins of the kernels that the parts need, in build/cuda, by nvcc, and what was wrong with those that are not
    there; a whole model needs all.
    """
    ops = [] if {"nano", "graph", "transformers"} & set(parts) else ops
    needed = {name for op in ops for name in (op, *BORROWED.get(op, ()))}
    folder, compiler = ROOT / "build/cuda", script("backends/cuda/build.py")
    try:
        compiler.build(folder, sorted(needed), jobs=os.cpu_count() or 2)
    except compiler.BuildError as error:
        return folder, str(error)
    except FileNotFoundError:
        sys.exit("no nvcc is on the path: --kernels names a folder of kernels that were built elsewhere")
    return folder, ""


def parsed(argv: Sequence[str]) -> argparse.Namespace:
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
    parser.add_argument("--seconds", type=float, default=150, help="that a row may take; its operator is then left out")
    # Of the processes that this one begins.
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--skip", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--leave-out", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--status", type=Path, metavar="JSONL", help="write the README's table from these rows")
    args = parser.parse_args(argv)
    args.parts = args.parts or list(PARTS)
    if unknown := [p for p in args.parts if p not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    args.sizes = args.sizes or (["small"] if args.device == "cpu" else ["flash", "pro"])
    return args


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parsed(argv)
    if args.status:
        cuda_status.write(cuda_status.read(args.status))
        print(f"{cuda_status.README.relative_to(ROOT)}: table of {args.status}")
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        for part in args.parts:
            print(f"{part}: not run, no CUDA device is present (torch {torch.__version__})", file=sys.stderr)
        return 2
    if args.here:
        return Run(args, Gpu() if args.device == "cuda" else Cpu()).all()
    rows: list[Row] = []
    with open(args.jsonl or os.devnull, "a") as out:

        def note(row: Row) -> None:
            rows.append(row)
            print(json.dumps(row), file=out, flush=True)
            print(f"{len(rows):5} {cuda_status.line(row)}", file=sys.stderr, flush=True)

        if args.device == "cuda":
            folder, wrong = (args.kernels, "") if args.kernels else build_kernels(args.parts, args.op)
            os.environ["V4NPU_CUDA_KERNELS"] = str(folder)
            if wrong:  # the other operators still have something to say
                note({"part": "build", "op": "", "case": "", "device": "nvcc", "status": f"failed: {wrong}"})
        for row in rows_of(args, argv):
            note(row)
    print(cuda_status.summary(rows))
    return int(any(map(cuda_status.failed, rows)))


if __name__ == "__main__":
    sys.exit(main())
