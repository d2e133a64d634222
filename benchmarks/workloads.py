"""What is measured: each workload is a server's kind, the load on it, and the figure that is compared."""

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20

# Of each figure less is better, so that a ratio, uvloop's over the peer's, is better above 1.
FIGURES = {
    "cpu_us": "CPU µs",
    "p99_us": "p99 µs",
    "p99_factor": "p99 ×",
    "rss": "RSS B",
}


@dataclass(frozen=True)
class Workload:
    name: str
    kind: str  # of the server (servers.SERVERS), or of the micro benchmark (micro.BATCHES)
    load: str  # a mode of c/load.c; fairness; micro: no load, the loop is busy with itself; process: interpreters
    connections: int = 1
    size: int = 0
    rate: int = 0  # messages a second of all connections: an open loop
    tls: bool = False
    figure: str = "cpu_us"
    unit: str = "msg"  # what the CPU time and the rate are of


def size_name(size):
    return f"{size // KIB}k"


def all_workloads():
    def echo(name, kind, load, size, connections, **options):
        return Workload(f"{name}-{size_name(size)}-{connections}c", kind, load, connections, size, **options)

    counts = (1, 64, 1000)
    found = [echo("tcp", "echo", "streams", size, n) for size in (KIB, 16 * KIB, 100 * KIB) for n in counts]
    # A datagram holds 65,507 bytes at most, so the largest is 60 KiB and not 100.
    found += [echo("udp", "udp", "datagrams", size, n) for size in (KIB, 16 * KIB, 60 * KIB) for n in counts]
    found += [echo("streams", "streams", "streams", KIB, n) for n in counts]
    found += [echo("sock", "sock", "streams", KIB, n) for n in counts]
    found += [echo("tls", "tls", "streams", size, 64, tls=True) for size in (KIB, 64 * KIB)]
    found += [Workload(f"http-{kind}-64c", kind, "http", 64, unit="request") for kind in ("uvicorn", "aiohttp")]
    found += [
        Workload("churn-64c", "churn", "churn", 64, 128, unit="connection"),
        Workload("bulk-sink", "sink", "sink", size=64 * KIB, unit="MiB"),
        Workload("bulk-source", "source", "source", size=64 * MIB, unit="MiB"),
        Workload("sendfile", "sendfile", "source", size=64 * MIB, unit="MiB"),
    ]
    found += [
        Workload(f"schedule-{kind}", kind, "micro", unit="op")
        for kind in ("call_soon", "cancelled_timers", "timers", "sleep0", "tasks", "threadsafe", "executor")
    ]
    found += [
        Workload("spawn", "spawn", "micro", unit="op"),
        Workload("start-loop", "start_loop", "micro", unit="op"),
        Workload("start-process", "once", "process", unit="op"),
    ]
    # (The last is about half of what uvloop can do.)
    found += [
        Workload(f"latency-1k-64c-{rate}", "echo", "streams", 64, KIB, rate, figure="p99_us")
        for rate in (2000, 10000, 60000)
    ]
    found += [
        Workload("fairness-63c", "echo", "fairness", 63, KIB, 2000, figure="p99_factor"),
        Workload("idle-2000c", "echo", "idle", 2000, KIB, figure="rss", unit="connection"),
    ]
    return found


# One of each sort.
QUICK = (
    "tcp-1k-1c", "tcp-1k-64c", "tcp-100k-64c", "udp-1k-64c", "streams-1k-64c", "sock-1k-64c", "tls-1k-64c",
    "http-uvicorn-64c", "churn-64c", "bulk-sink", "schedule-sleep0", "latency-1k-64c-2000", "idle-2000c",
)  # fmt: skip


def choose(prefixes=(), quick=False):
    """The workloads of which a prefix is the name's beginning; without prefixes all, or those of the quick run.

    Raises ValueError for a prefix of nothing.
    """
    every = all_workloads()
    for prefix in prefixes:
        if not any(workload.name.startswith(prefix) for workload in every):
            raise ValueError(f"no workload's name begins with {prefix!r}")
    if prefixes:
        return [workload for workload in every if workload.name.startswith(tuple(prefixes))]
    return [workload for workload in every if not quick or workload.name in QUICK]
