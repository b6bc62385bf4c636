"""Processor features and usable CPUs, read from faked systems."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from torchless import cpu

INTEL = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni avx_vnni\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return root


V2 = "0::/a/b\n"
V1 = "12:memory:/a\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        (V2, {}, None),
        (V2, {"a/b/cpu.max": "max 100000\n"}, None),
        (V2, {"a/b/cpu.max": "200000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "150000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "1000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        (V2, {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "300000 100000\n", "cpu.max": "800000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "250000 50000\n"}, 5),
        ("0::/../../x\n", {"cpu.max": "100000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "garbage\n", "a/cpu.max": "x 100000\n", "cpu.max": "200000 0\n"}, None),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "350000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "350000\n"}, None),
        (V1, {"memory/a/b/cpu.cfs_quota_us": "100000\n", "memory/a/b/cpu.cfs_period_us": "100000\n"}, None),
        (V1 + V2, {"a/cpu.max": "300000 100000", "cpu/cpu.cfs_quota_us": "2", "cpu/cpu.cfs_period_us": "1"}, 2),
        ("3:cpuset:/c\n", {"cpu/c/cpu.cfs_quota_us": "100000", "cpu/c/cpu.cfs_period_us": "100000"}, None),
        ("", {"cpu.max": "100000 100000\n"}, None),
    ],
)
def test_cgroup_quota(tmp_path, membership, files, quota):
    root = write(tmp_path / "cgroup", files)
    write(tmp_path, {"membership": membership})
    assert cpu._cgroup_quota(root, tmp_path / "membership") == quota


def test_no_cgroups_at_all(tmp_path):
    assert cpu._cgroup_quota(tmp_path / "none", tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"), [(64, None, 64), (64, 2, 2), (2, 8, 2), (1, None, 1), (4, 4, 4)]
)
def test_usable_cpus_is_the_lesser_of_affinity_and_quota(monkeypatch, affinity, quota, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(cpu, "_cgroup_quota", lambda root, membership: quota)
    assert cpu.usable_cpus() == usable


@pytest.mark.parametrize(("count", "usable"), [(8, 8), (None, 1)])
def test_usable_cpus_without_affinity(monkeypatch, count, usable):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    monkeypatch.setattr(cpu, "_cgroup_quota", lambda root, membership: None)
    assert cpu.usable_cpus() == usable


def test_usable_cpus_here():
    assert 1 <= cpu.usable_cpus() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        (INTEL, {"avx2", "avx512_vnni", "avx_vnni"}),
        (INTEL + "processor : 1\nflags : fpu avx2 avx_vnni\n", {"avx2", "avx_vnni"}),
        ("flags : fpu sse4_2\n", set()),
        ("model name : has avx2 in its name\n", set()),
        ("", set()),
    ],
)
def test_linux_flags(cpuinfo, features):
    assert cpu._linux_flags(cpuinfo) == features


@pytest.mark.parametrize(
    ("machine", "system", "features"),
    [
        ("aarch64", "Linux", {"arm64"}),
        ("arm64", "Darwin", {"arm64"}),
        ("ARM64", "Windows", {"arm64"}),
        ("riscv64", "Linux", set()),
        ("x86_64", "FreeBSD", set()),
        ("x86_64", "Linux", {"avx2", "avx512_vnni", "avx_vnni"}),
        ("AMD64", "Linux", {"avx2", "avx512_vnni", "avx_vnni"}),
    ],
)
def test_features_by_machine(monkeypatch, machine, system, features):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr(Path, "read_text", lambda path, **options: INTEL)
    assert cpu.features.__wrapped__() == features


@pytest.mark.parametrize(
    ("answer", "features"),
    [
        ("SMEP AVX2 BMI2 AVX512F AVX512VNNI\n", {"avx2", "avx512_vnni"}),
        ("", set()),
        (FileNotFoundError("no sysctl"), set()),
        (subprocess.TimeoutExpired("sysctl", 5), set()),
    ],
)
def test_features_on_macos(monkeypatch, answer, features):
    def run(command, **options):
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, 0, stdout=answer)

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", run)
    assert cpu.features.__wrapped__() == features


def test_an_unreadable_cpuinfo_says_nothing(monkeypatch):
    def read_text(path, **options):
        raise PermissionError

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(Path, "read_text", read_text)
    assert cpu.features.__wrapped__() == set()
