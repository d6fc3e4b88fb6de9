"""Properties of this machine: processor, usable cores, memory in use."""

import contextlib
import os
import platform
import sys
from pathlib import Path


def cpu_name() -> str:
    """Name of the CPU as its maker prints it, or the machine type where that is not to be had."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0].split(":", 1)[1].strip() if lines else platform.processor() or platform.machine()


def is_main() -> bool:
    """Whether this is the process of several that writes and prints, as its launcher set it; needs no accelerator."""
    return os.environ.get("RANK", "0") == "0"


def cpu_has_bf16() -> bool:
    """Whether this CPU has bfloat16 arithmetic (AVX512-BF16 or AMX), not just emulation."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def cpu_has_vnni() -> bool:
    """Whether this CPU adds products of bytes in 32 bits (VNNI), where AVX2 alone clips their sums to 16."""
    return bool({"avx_vnni", "avx512_vnni"} & cpu_flags())


def cpu_flags() -> set[str]:
    """What Linux says this CPU can do; empty elsewhere."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return set(next((line for line in file if line.startswith("flags")), "").split())
    return set()


def usable_cores() -> int:
    """Cores this process may use: those it is bound to, shared with the other processes of a training here."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, bound // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def memory() -> int:
    """Memory of this machine, bytes."""
    if sys.platform == "win32":
        import ctypes

        kibibytes = ctypes.c_ulonglong()
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes))
        return kibibytes.value * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    try:
        # Not getrusage: on Linux what it says begins with the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    except OSError:
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
