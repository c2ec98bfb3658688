"""`python -m v4npu`: the command."""

from v4npu.cli import main

main()
