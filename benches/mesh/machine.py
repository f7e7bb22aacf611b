"""Processes of this machine as /proc shows them, free ports, and what the machine is."""

import os
import platform
import re
import resource
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "target" / "mesh"
BIN = HOME / "bin"
TICKS = os.sysconf("SC_CLK_TCK")

# All hops of a chain share one CPU; load generators, backend and registry have the other.
CPU_PROXY = os.environ.get("MESH_CPU_PROXY", "0")
CPU_LOAD = os.environ.get("MESH_CPU_LOAD", "1")


def pinned(cpu, command):
    return ["taskset", "-c", cpu, *map(str, command)]


def run(command, timeout, check=True):
    """Runs on the load's CPU; gives both outputs."""
    done = subprocess.run(pinned(CPU_LOAD, command), capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}: {(done.stdout + done.stderr)[-800:]}")
    return done.stdout + done.stderr


_last_port = [20000 + os.getpid() % 20000]


def free_port():
    while True:
        _last_port[0] = 20000 + (_last_port[0] + 1) % 12000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", _last_port[0]))
                return _last_port[0]
            except OSError:
                pass


def family(pid):
    """The process and its descendants."""
    children = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue += children.get(found[-1], [])
    return found


def cpu_seconds(pids):
    """User and system time so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def memory_kib(pids, field="VmRSS"):
    total = 0
    for pid in pids:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        total += int(found.group(1)) if found else 0
    return total


def forget_peak(pids):
    """VmHWM begins anew."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def many_files():
    """As many open files as we may have: idle connections are sockets of ours, too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def described():
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpus": os.cpu_count(),
        "cpu": model.group(1) if model else platform.machine(),
        "memory_gib": round(int(memory.group(1)) / 2**20, 1),
        "kernel": re.match(r"[\d.]+", platform.release()).group(0),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
    }


def commit():
    def git(*words):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "src", "Cargo.lock", "Cargo.toml")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" and changes" if changed else "")
