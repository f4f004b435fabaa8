"""What a process has held at most. Not `ru_maxrss`: a child begins with what its parent held when it was started."""

from pathlib import Path


def peak_kb() -> int:
    """Kilobytes that this process has held at once since it began to run its own program."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
