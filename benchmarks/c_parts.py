"""The programs in C: compiled at first use, and again when their sources have changed."""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "c"
# Git ignores it.
BUILD = Path(__file__).resolve().parents[1] / "build" / "benchmarks"

LOAD = "load"
PROGRAMS = {
    LOAD: (sorted(path.name for path in SOURCES.glob("load*.c")), [["-lssl", "-lcrypto"], ["-DWITHOUT_TLS"]]),
    "epoll_server": (["epoll_server.c"], [[]]),
    "uring_server": (["uring_server.c"], [["-luring"]]),
}
MIB = 1 << 20
FILE_SIZE = 64 * MIB


class CParts:
    """Compiled programs in a directory. `failed` says of a program why it is missing, `tls` whether the load can do TLS."""

    def __init__(self, directory=None):
        """directory: where to compile; by default build/benchmarks, or, where that can't be written, a temporary one."""
        self.directory = Path(directory or BUILD)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            self.directory = Path(tempfile.gettempdir()) / f"uringloop-benchmarks-{os.getuid()}"
            self.directory.mkdir(mode=0o700, exist_ok=True)
        self.failed = {}
        self.tls = True
        compiler = shlex.split(os.environ.get("CC", "")) or [name for name in ("gcc", "cc") if shutil.which(name)][:1]
        for program in PROGRAMS:
            why = self.compile(program, compiler) if compiler else "there is no C compiler"
            if why:
                self.failed[program] = why

    def path(self, program):
        return str(self.directory / program)

    def compile(self, program, compiler):
        """Make it up to date; return why not, or None."""
        sources, flag_sets = PROGRAMS[program]
        target = self.directory / program
        newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
        why = ""
        for flags in flag_sets:
            # A load generator without TLS is another program: it must not stand for the one that has it.
            with_tls = "-DWITHOUT_TLS" not in flags
            built = target if with_tls else target.with_name(f"{program}-without-tls")
            if not built.exists() or built.stat().st_mtime < newest:
                # Renamed when it is complete: another process may do the same.
                partial = f"{built}.{os.getpid()}"
                command = [*compiler, "-O2", "-std=gnu17", "-o", partial, *(str(SOURCES / name) for name in sources), *flags]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    why = why or next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:])
                    continue
                os.replace(partial, built)
            if program == LOAD:
                self.tls = with_tls
                self.load = str(built)
            return None
        return why

    def write_files(self):
        """What servers read: a certificate with its key, and a file to send."""
        certificate = SOURCES.parents[1] / "tests" / "certificate.pem"
        shutil.copyfile(certificate, self.directory / "certificate.pem")
        file = self.directory / "file"
        if not file.exists() or file.stat().st_size != FILE_SIZE:
            chunk = bytes((i * 7 + (i >> 8) * 13) & 255 for i in range(64 * 1024))
            partial = self.directory / f"file.{os.getpid()}"
            partial.write_bytes(chunk * (FILE_SIZE // len(chunk)))
            os.replace(partial, file)
        return str(self.directory)
