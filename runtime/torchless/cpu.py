"""What the processor can do and how much of it this process may use."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

_X86_FEATURES = ("avx2", "avx512_vnni", "avx_vnni")


@functools.cache
def features() -> frozenset[str]:
    """Return which of "avx2", "avx512_vnni", "avx_vnni" and "arm64" this processor has.

    Read from the operating system: `/proc/cpuinfo` on Linux, `sysctl` on macOS,
    `IsProcessorFeaturePresent` on Windows. Empty where nothing is known, so that nothing is assumed.
    """
    machine = platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return frozenset({"arm64"})
    if machine not in ("x86_64", "amd64"):
        return frozenset()
    try:
        if platform.system() == "Linux":
            return _linux_flags(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"))
        if platform.system() == "Darwin":
            return _macos_flags()
        if platform.system() == "Windows":
            import ctypes

            # PF_AVX2_INSTRUCTIONS_AVAILABLE is 40; Windows names no VNNI constant.
            return frozenset({"avx2"} if ctypes.CDLL("kernel32").IsProcessorFeaturePresent(40) else ())
    except OSError:
        pass
    return frozenset()


def processor_name() -> str:
    """Return what the operating system calls the processor: "AMD EPYC 7763 64-Core Processor", at least "x86_64"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _linux_flags(cpuinfo: str) -> frozenset[str]:
    lines = [line for line in cpuinfo.splitlines() if line.startswith("flags")]
    if not lines:
        return frozenset()
    # On a machine with unlike cores only what all of them have can be relied on.
    common = frozenset.intersection(*(frozenset(line.partition(":")[2].split()) for line in lines))
    return common & frozenset(_X86_FEATURES)


def _macos_flags() -> frozenset[str]:
    import subprocess

    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.leaf7_features"]
    try:
        words = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.lower().split()
    except subprocess.TimeoutExpired:
        return frozenset()
    names = {"avx2": "avx2", "avx512vnni": "avx512_vnni"}
    return frozenset(names[word] for word in words if word in names)


def usable_cpus() -> int:
    """Return how many CPUs this process may really use: affinity and cgroup quota, at least 1.

    `os.cpu_count` counts the machine's: in a container limited to 2 of 64 CPUs, 64 threads would
    take turns on 2 and be throttled.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        count = os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return max(1, min(count, quota) if quota else count)


def _cgroup_quota(root: Path, membership: Path) -> int | None:
    """Return the CPU quota of this process's cgroup or of any above it, rounded up to whole CPUs; None: no limit.

    Version 2: `cpu.max` holds "quota period" or "max period" in microseconds. Version 1:
    `cpu.cfs_quota_us` (-1: no limit) and `cpu.cfs_period_us`. (Linux, Documentation/admin-guide/cgroup-v2.rst)
    """
    limits: list[float] = []
    for line in _text(membership).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base, read = root, _v2_limit
        elif "cpu" in controllers.split(","):
            base, read = root / "cpu", _v1_limit
        else:
            continue
        here = base / group.lstrip("/")
        limits.extend(
            limit
            for folder in (here, *here.parents)
            if folder.is_relative_to(base) and (limit := read(folder)) is not None
        )
    return max(1, -int(-min(limits) // 1)) if limits else None


def _v2_limit(folder: Path) -> float | None:
    match _text(folder / "cpu.max").split():
        case [quota, period]:
            return _ratio(quota, period)
    return None


def _v1_limit(folder: Path) -> float | None:
    quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
    return _ratio(quota, period)


def _ratio(quota: str, period: str) -> float | None:
    # "max", -1 and nothing at all each say that there is no limit.
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(quota) and int(period) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
