"""Programs that bench/cuda_device.py starts, and ends where they take too long."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence


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


def lines(command: Sequence[str], patience: Callable[[], float]) -> Iterator[str]:
    """What a program says.

    Raises:
        subprocess.TimeoutExpired: nothing for so many seconds; it was killed.
        subprocess.CalledProcessError: its exit code is not 0.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as program:
        assert program.stdout
        try:
            while select.select([program.stdout], [], [], seconds := patience())[0]:
                if not (line := program.stdout.readline()):
                    break
                yield line.decode()
            else:
                raise subprocess.TimeoutExpired(command, seconds)
        except BaseException:
            program.kill()
            raise
    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, command)
