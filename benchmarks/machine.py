"""The two cores, and what else they do while something is measured there."""

import os
import platform
import resource
import time

# Above these a measurement is invalid: cores busy with what is not measured, cores that the hypervisor took.
FOREIGN_LIMIT = 0.15
STOLEN_LIMIT = 0.05
# Of the load generator's core: a closed loop's rate is then the load generator's, and an open loop's times mean nothing.
CLIENT_LIMIT = 0.95
# Of an open loop's rate: below that the server is saturated, and the latencies only tell for how long it ran.
RATE_LIMIT = 0.95


def choose_cores():
    """The cores of the server and of the load generator; raises OSError where there are not two."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise OSError("two CPU cores are needed: one for the server, one for the load generator")
    return allowed[-2], allowed[-1]


def raise_descriptor_limit():
    """As high as it goes without privileges: some workloads hold 2,000 connections. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def read_ticks(cores):
    """Seconds since boot for which cores were busy, and for which the hypervisor ran something else on them."""
    busy = stolen = 0
    with open("/proc/stat") as file:
        for line in file:
            name, *fields = line.split()
            if name in {f"cpu{core}" for core in cores}:
                user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
                busy += user + nice + system + irq + softirq
                stolen += steal
    hertz = os.sysconf("SC_CLK_TCK")
    return busy / hertz, stolen / hertz


def own_cpu():
    """CPU seconds of this process and of its children that have ended and were waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def process_cpu(pid):
    """CPU seconds of a process that runs, of all its threads; 0 for None, and for one that is gone."""
    try:
        return time.clock_gettime(~pid << 3 | 2) if pid else 0.0  # as c/load_common.c has it
    except OSError:
        return 0.0


class Watch:
    """Tells what else happened on the cores between its making and `noise()`: cores that were busy, of all the time.

    Not counted is the process `pid`, and what was started in between, which has to have been waited for.
    """

    def __init__(self, cores, pid=None):
        self.cores, self.pid = cores, pid
        self.start = time.monotonic()
        self.busy, self.stolen = read_ticks(cores)
        self.own = own_cpu() + process_cpu(self.pid)

    def noise(self):
        seconds = time.monotonic() - self.start
        busy, stolen = read_ticks(self.cores)
        foreign = (busy - self.busy) - (own_cpu() + process_cpu(self.pid) - self.own)
        return {"foreign": max(0.0, foreign / seconds), "stolen": (stolen - self.stolen) / seconds}


def describe():
    """What a reader of the figures has to know of the machine."""
    model = ""
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"kernel": platform.release(), "cpu": model, "cores": os.cpu_count()}
