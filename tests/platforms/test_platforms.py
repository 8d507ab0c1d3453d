"""What a machine is taken to be, from folders that look like /proc and /sys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from espalier.errors import ConfigError, UnknownName
from espalier.platforms.base import DEVICES, known_device
from espalier.platforms.cpu import cores, cpu_platform, instruction_sets, numa_nodes
from espalier.platforms.detect import for_planning, this_machine

MIB = 1 << 20


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_that_tells_nothing_is_still_one(tmp_path: Path) -> None:
    platform = cpu_platform(tmp_path)
    assert platform.device == "cpu"
    assert platform.memory_bytes > 0
    assert platform.cores >= 1
    assert (platform.numa_nodes, platform.instruction_sets) == (1, frozenset())
    assert not platform.supports_bf16
    assert not platform.queues_work


def test_instruction_sets_are_those_that_kernels_choose_by(tmp_path: Path) -> None:
    root = machine(
        tmp_path, {"proc/cpuinfo": "model name\t: A CPU\nflags\t\t: fpu avx2 avx512_bf16\n"}
    )
    assert instruction_sets(root) == {"avx2", "avx512_bf16"}
    platform = cpu_platform(root)
    assert platform.supports_bf16
    assert platform.name == "A CPU"


def test_an_arm_machine_calls_them_features(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/cpuinfo": "Features\t: fp asimd i8mm bf16\n"})
    assert instruction_sets(root) == {"asimd", "i8mm", "bf16"}


def test_numa_nodes_are_counted(tmp_path: Path) -> None:
    for name in ("node0", "node1", "possible", "node"):
        (tmp_path / "sys/devices/system/node" / name).mkdir(parents=True)
    assert numa_nodes(tmp_path) == 2


@pytest.mark.parametrize(
    "files",
    [
        {"sys/fs/cgroup/memory.max": f"{64 * MIB}\n"},
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/memory.max": f"{64 * MIB}\n",
        },
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n",
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{64 * MIB}\n",
        },
    ],
    ids=["a container", "a limit above", "version 1"],
)
def test_a_containers_memory_counts_and_not_the_machines(
    tmp_path: Path, files: dict[str, str]
) -> None:
    assert cpu_platform(machine(tmp_path, files)).memory_bytes == 64 * MIB


@pytest.mark.parametrize(
    ("files", "is_limited"),
    [
        ({"sys/fs/cgroup/cpu.max": "100000 100000\n"}, True),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, True),  # half a core is one that rests
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, False),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            True,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, False),
        ({"sys/fs/cgroup/cpu.max": "100000 0\n"}, False),
        ({"sys/fs/cgroup/cpu.max": "garbage\n"}, False),
    ],
)
def test_a_containers_cpu_time_counts(
    tmp_path: Path, files: dict[str, str], is_limited: bool
) -> None:
    free = cores(tmp_path)
    assert cores(machine(tmp_path, files)) == (1 if is_limited else free)


def test_known_devices_need_not_be_there() -> None:
    assert for_planning("H200").memory_bytes > 130 << 30
    assert for_planning("RTX 4090") == known_device("rtx4090")
    with pytest.raises(UnknownName, match="did you mean 'rtx4090'"):
        for_planning("rtx4080")


@pytest.mark.parametrize("name", DEVICES)
def test_every_known_device_is_sound(name: str) -> None:
    device = DEVICES[name]
    assert name == name.lower()
    assert device.device == "cuda"
    assert 8 << 30 < device.memory_bytes < 512 << 30
    assert device.supports_bf16 == (device.capability >= (8, 0))
    assert device.with_memory(1).memory_bytes == 1


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cpu:1", "", "cuda:-1"])
def test_a_device_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="hint"):
        this_machine(name)


def test_the_cpu_is_always_there() -> None:
    assert this_machine("cpu").device == "cpu"


def test_describing_a_device_needs_no_torch() -> None:
    code = (
        "import sys, espalier.platforms.base, espalier.platforms.cpu, espalier.loading.facts, "
        "espalier.loading.files, espalier.loading.hub, espalier.front.plan, espalier.front.resolve;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
