"""Installs what the programs need: packages of PyPI by pip, servers by apt-get."""

import os
import subprocess
import sys

from ecosystem import servers


def install(programs):
    """Install what is missing.  What can't be had is said, and its programs are skipped later."""
    for program in programs:
        if None in program.versions().values():
            _call(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *program.packages)
    wanted = {name for program in programs for name in program.servers if not servers.Servers.has(name)}
    if wanted:
        apt_get = ["apt-get"] if os.getuid() == 0 else ["sudo", "apt-get"]
        _call(*apt_get, "update", "-qq")
        # None of them is to be started by Debian: the programs' own are.
        policy = {} if os.path.exists("/usr/sbin/policy-rc.d") else {"RUNLEVEL": "1"}
        _call(*apt_get, "install", "-y", "-qq", "--no-install-recommends", *(servers.PACKAGES[name][0] for name in sorted(wanted)),
              env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", **policy})


def _call(*command, env=None):
    try:
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as exc:
        print(f"ecosystem: {' '.join(command)}: {exc}", file=sys.stderr)
