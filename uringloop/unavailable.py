"""Why there is no ring, and what to do about it.

No counterpart in the stdlib: a selector loop can nearly always be had, an io_uring can't. One errno
stands for several causes (EPERM is seccomp's answer, the sysctl's and a security module's), so
`explain` reads what the system says about itself before it names one.

Owns the texts and nothing else: it makes the exception, the caller raises it. It must be imported before it is
needed and must import nothing late: with EMFILE not even a module can be opened any more, which is
also why every read here may fail and none of them may raise.

Facts used:

* seccomp filters answer before the kernel looks at anything. `Seccomp: 2` in /proc/self/status says that one
  is in force, not what it refuses (proc(5), seccomp(2)).
* `kernel.io_uring_disabled` (Linux 6.6): 1 leaves io_uring to CAP_SYS_ADMIN and to the members of
  `kernel.io_uring_group`, 2 to nobody (Documentation/admin-guide/sysctl/kernel.rst).
* RLIMIT_MEMLOCK counts per user, over all processes; the memory of a closed ring is given back late.
"""

import errno
import os
import resource

__all__ = ("IouringUnavailableError", "explain")

MINIMUM_KERNEL = (5, 19)

_PROFILE = "docs/seccomp.json of uringloop's sources"

_CAP_IPC_LOCK = 14  # linux/capability.h
_CAP_SYS_ADMIN = 21


class IouringUnavailableError(OSError):
    """An io_uring can't be had here; the text names the cause and the cure.

    `errno` is the kernel's own answer. `cause` is one word for programs: "seccomp", "sysctl", "kernel",
    "memlock", "memory", "files", "system-files", "security-module", "restriction", "descriptor", "refused" or
    "unknown". `call` is the system call, or the operation, that failed; `memory_needed` the bytes that a ring locks,
    None where that is unknown.
    """

    cause = "unknown"
    call = "io_uring_setup"
    memory_needed = None


def explain(
    errno_,
    *,
    stage="io_uring_setup",
    memory_needed=None,
    proc="/proc",
    release=None,
    getrlimit=resource.getrlimit,
):
    """Make the IouringUnavailableError for a ring that could not be set up, or can't be used any more.

    errno_: the positive errno of the call that failed.
    stage: the name of that call, as the text shall tell it, or of an operation of io_uring's, IORING_OP_...
    memory_needed: the bytes that one ring locks in memory, if known.
    proc, release, getrlimit: where to look: a mounted proc(5), `uname -r`, resource.getrlimit.

    Returns the exception, for the caller to raise; never raises itself.
    """
    system = System(proc, release, getrlimit)
    if stage.startswith("IORING_OP_"):
        cause, text = _operation(errno_, system, stage)
    elif errno_ in (errno.EPERM, errno.EACCES):
        cause, text = _refused(errno_, system, stage)
    elif errno_ == errno.ENOSYS:
        # Some container managers (Podman's default among them) answer ENOSYS to what they don't know.
        cause, text = _seccomp(system) if system.filtered() else _kernel(errno_, system)
    elif stage == "io_uring_enter":
        cause, text = _not_entered(errno_, system)
    elif errno_ == errno.EINVAL:
        cause, text = _kernel(errno_, system)
    elif errno_ == errno.ENOMEM:
        cause, text = _memory(memory_needed, system)
    elif errno_ == errno.EMFILE:
        cause, text = _files(system)
    elif errno_ == errno.ENFILE:
        cause, text = _system_files(system)
    else:
        cause, text = "unknown", "no known cause: please report it with the output of `uname -a`"
    error = IouringUnavailableError(
        errno_, f"io_uring is not available: {stage} failed ({_name(errno_)}): {text}"
    )
    error.cause = cause
    error.call = stage
    error.memory_needed = memory_needed
    return error


class System:
    """What the system says about itself; None for what it doesn't say."""

    def __init__(self, proc, release, getrlimit):
        self._proc = proc
        self._release = release
        self._getrlimit = getrlimit

    def read(self, name):
        try:
            with open(os.path.join(self._proc, name), "rb") as file:
                # latin-1 is decoded without a codec, which would be a module to import.
                return file.read().decode("latin-1")
        except OSError:
            return None

    def number(self, name):
        try:
            return int(self.read(name))
        except (TypeError, ValueError):
            return None

    def status(self, key):
        for line in (self.read("self/status") or "").splitlines():
            name, colon, value = line.partition(":")
            if colon and name == key:
                return value.strip()
        return None

    def filtered(self):
        return self.status("Seccomp") == "2"

    def capable(self, capability):
        try:
            return bool(int(self.status("CapEff"), 16) >> capability & 1)
        except (TypeError, ValueError):
            return False

    def capable_of_locking(self):
        return self.capable(_CAP_IPC_LOCK)

    def in_group(self, group):
        # in_group_p() of the kernel asks the fsgid and the supplementary groups.
        gids = (self.status("Gid") or "").split()[3:] + (self.status("Groups") or "").split()
        return str(group) in gids

    def release(self):
        if self._release is not None:
            return self._release
        try:
            return os.uname().release
        except OSError:
            return "unknown"

    def limit(self, which):
        """Return the soft limit; None for unlimited and unknown."""
        try:
            soft = self._getrlimit(which)[0]
        except (OSError, ValueError):
            return None
        return None if soft == resource.RLIM_INFINITY else soft


def _refused(errno_, system, stage):
    if stage != "io_uring_setup":
        # The sysctl is asked for at set-up, and has let it pass.
        return _seccomp(system) if system.filtered() else _security_module(errno_)
    disabled = system.number("sys/kernel/io_uring_disabled")
    group = system.number("sys/kernel/io_uring_group")
    member = group is not None and group >= 0 and system.in_group(group)
    if disabled == 2 or (disabled == 1 and not member and not system.capable(_CAP_SYS_ADMIN)):
        cause, text = _sysctl(disabled, group)
        if system.filtered():
            text += (
                " A seccomp filter is active as well (Seccomp: 2 in /proc/self/status) and may refuse it, "
                "too: a container needs a profile that allows io_uring_setup, io_uring_enter and "
                f"io_uring_register, such as {_PROFILE}."
            )
        return cause, text
    if system.filtered():
        return _seccomp(system)
    if disabled == 1:
        # Privileged or a member here, yet refused: the kernel asks its first user namespace, and a
        # container's root, or a mapped group, is nobody there.
        return _sysctl(disabled, group)
    return _security_module(errno_)


def _security_module(errno_):
    return (
        "security-module",
        f"neither a seccomp filter nor kernel.io_uring_disabled refuses it, so a security module "
        f"(SELinux, AppArmor) or a sandbox does: look for `{_name(errno_)}` or `io_uring` in the audit log "
        "(`journalctl -k`) and allow io_uring for this program.",
    )


# What an enter says that should not be said to it, or not for ever. Source: io_uring_enter(2).
_NOT_A_RING = ("descriptor", "the ring's descriptor is no ring's any more: something in this program has closed it, or another"
               " file of its number (os.close(), os.closerange(), a file object that was dropped late).")
_NO_MEMORY = ("the kernel has no memory for a request. Look at the memory limit of the container or service (memory.max of its"
              " cgroup) and at free memory.")
_TEXTS = {
    errno.EBUSY: ("refused", "again and again, for a second or more: completions are to be read first, it says, and there are none."),
    errno.EINTR: ("refused", "again and again, for a second or more, as if a signal had come; none has."),
    errno.EBADR: ("refused", "completions were dropped, it says, and none was."),
    errno.EEXIST: ("refused", "it says that the ring is another thread's, and it is this thread's."),
    errno.EAGAIN: ("memory", f"again and again, for a second or more: {_NO_MEMORY}"),
    errno.ENOMEM: ("memory", _NO_MEMORY),
    errno.EBADF: _NOT_A_RING,
    errno.ENXIO: _NOT_A_RING,
    errno.EOPNOTSUPP: _NOT_A_RING,
}


def _not_entered(errno_, system):
    cause, text = _TEXTS.get(errno_, ("unknown", "no known cause: please report it with the output of `uname -a`"))
    if system.filtered():
        # (It may have come after the ring, and it answers what it likes.)
        text += " A seccomp filter is active (Seccomp: 2 in /proc/self/status), and the answer may be its."
    return cause, text


def _operation(errno_, system, stage):
    if errno_ not in (errno.EPERM, errno.EACCES):
        return _kernel(errno_, system)
    return (
        "restriction",
        f"rings can be had, but not this operation, without which nothing can be waited for or ended. A seccomp "
        "filter can't tell one operation from another: look for a restriction that a service or container manager "
        "lays upon io_uring (IORING_REGISTER_RESTRICTIONS, a BPF filter of io_uring's), or a security module, and "
        f"have it allow {stage}.",
    )


def _seccomp(system):
    return (
        "seccomp",
        "a seccomp filter refuses it (Seccomp: 2 in /proc/self/status). The default profiles of Docker and "
        "containerd do that: run the container with a profile that also allows io_uring_setup, "
        f"io_uring_enter and io_uring_register, such as {_PROFILE} (`docker run --security-opt "
        "seccomp=seccomp.json`; in Kubernetes securityContext.seccompProfile; `seccomp=unconfined` allows "
        "everything), or, for a systemd service, name the three in SystemCallFilter=.",
    )


def _sysctl(disabled, group):
    if disabled == 2:
        return (
            "sysctl",
            "kernel.io_uring_disabled is 2, which forbids it to every process (as Red Hat Enterprise Linux 9 has it from "
            "the start): as root run "
            "`sysctl kernel.io_uring_disabled=0`, and write that to /etc/sysctl.d/ to keep it.",
        )
    if group is None or group < 0:
        members = "kernel.io_uring_group names no group"
    else:
        members = f"kernel.io_uring_group is {group} and this process is not in that group"
    return (
        "sysctl",
        f"kernel.io_uring_disabled is 1, which leaves it to CAP_SYS_ADMIN and to one group; {members}. As root run "
        "`sysctl kernel.io_uring_group=GID` with a group of this user, or "
        "`sysctl kernel.io_uring_disabled=0`, and write that to /etc/sysctl.d/ to keep it.",
    )


def _kernel(errno_, system):
    release = system.release()
    wanted = "{}.{}".format(*MINIMUM_KERNEL)
    version = _version(release)
    if version is not None and version < MINIMUM_KERNEL:
        return "kernel", f"the kernel is too old: Linux {wanted} or newer is needed, found {release}."
    if errno_ == errno.ENOSYS:
        return (
            "kernel",
            f"Linux {wanted} or newer is needed, built with CONFIG_IO_URING; found {release}, where the "
            "system call does not exist. Sandboxes that emulate a kernel (gVisor) lack it, too: run outside.",
        )
    return (
        "kernel",
        f"the kernel does not know even the oldest set of flags: Linux {wanted} or newer is needed, "
        f"found {release}, which should know them: an emulated or altered kernel?",
    )


def _memory(memory_needed, system):
    allowed = system.limit(resource.RLIMIT_MEMLOCK)
    if allowed is None or system.capable_of_locking():
        return (
            "memory",
            "the kernel has no memory for the ring, and no RLIMIT_MEMLOCK stands in the way: look at the "
            "memory limit of the container or service (memory.max of its cgroup) and at free memory.",
        )
    wants = "one ring needs an unknown number of" if memory_needed is None else f"one ring needs {memory_needed}"
    return (
        "memlock",
        f"{wants} bytes of locked memory, and RLIMIT_MEMLOCK allows {allowed} bytes to this user, all processes "
        "and rings together: raise it (`ulimit -l`, memlock in /etc/security/limits.conf, LimitMEMLOCK= of a "
        "systemd service, `docker run --ulimit memlock=BYTES`), or keep fewer loops open at a time.",
    )


def _files(system):
    allowed = system.limit(resource.RLIMIT_NOFILE)
    count = "" if allowed is None else f": RLIMIT_NOFILE is {allowed}"
    return (
        "files",
        f"this process has as many files open as it may{count}. Close some, or raise the limit "
        "(`ulimit -n`, resource.setrlimit, LimitNOFILE= of a systemd service).",
    )


def _system_files(system):
    allowed = system.number("sys/fs/file-max")
    count = "" if allowed is None else f": fs.file-max is {allowed}"
    return (
        "system-files",
        f"the whole system has as many files open as it may{count}. As root run "
        "`sysctl fs.file-max=NUMBER` with a larger one, or find out who holds them (`lsof`).",
    )


def _version(release):
    """Return (major, minor) of a release such as "6.1.0-28-amd64", or None."""
    major, _, rest = release.partition(".")
    digits = ""
    for character in rest:
        if not "0" <= character <= "9":
            break
        digits += character
    try:
        return int(major), int(digits)
    except ValueError:
        return None


def _name(errno_):
    return errno.errorcode.get(errno_, f"errno {errno_}")
