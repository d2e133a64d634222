"""Where io_uring is blocked, for tests: a made-up /proc, made-up limits, and a real seccomp filter."""

import resource

NO_CAPS = "0000000000000000"
ALL_CAPS = "000001ffffffffff"


def made_up_proc(tmp_path, *, seccomp=0, caps=NO_CAPS, gid=1000, groups="27 1000", disabled=0, group=-1, file_max=None):
    """Make a proc(5) in a directory; return its path."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(
        "Name:\tpython3\nUmask:\t0022\n"
        f"Gid:\t{gid}\t{gid}\t{gid}\t{gid}\nGroups:\t{groups} \n"
        f"CapPrm:\t{ALL_CAPS}\nCapEff:\t{caps}\n"
        f"NoNewPrivs:\t0\nSeccomp:\t{seccomp}\nSeccomp_filters:\t{seccomp // 2}\n"
    )
    (tmp_path / "sys/kernel").mkdir(parents=True)
    if disabled is not None:  # a kernel before 6.6 has neither
        (tmp_path / "sys/kernel/io_uring_disabled").write_text(f"{disabled}\n")
        (tmp_path / "sys/kernel/io_uring_group").write_text(f"{group}\n")
    if file_max is not None:
        (tmp_path / "sys/fs").mkdir(parents=True)
        (tmp_path / "sys/fs/file-max").write_text(f"{file_max}\n")
    return str(tmp_path)


def limits(**values):
    def getrlimit(which):
        for name, value in values.items():
            if which == getattr(resource, "RLIMIT_" + name):
                return value, resource.RLIM_INFINITY
        return resource.RLIM_INFINITY, resource.RLIM_INFINITY

    return getrlimit


# seccomp_data.nr is its first word; io_uring_setup is 425, _enter 426 and _register 427 on every architecture but alpha.
INSTALL_FILTER = """
import ctypes, struct
LD_NR, JGE, JGT, RET = 0x20, 0x35, 0x25, 0x06
def bpf(code, jt, jf, k):
    return struct.pack("=HBBI", code, jt, jf, k)
program = (
    bpf(LD_NR, 0, 0, 0)
    + bpf(JGE, 0, 2, {first})
    + bpf(JGT, 1, 0, {last})
    + bpf(RET, 0, 0, 0x00050000 | {errno})  # SECCOMP_RET_ERRNO
    + bpf(RET, 0, 0, 0x7fff0000)            # SECCOMP_RET_ALLOW
)
code = ctypes.create_string_buffer(program, len(program))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + 4 * [ctypes.c_ulong]
fprog = Filter(len(program) // 8, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0, ctypes.get_errno()  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.addressof(fprog), 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
"""
