"""An ordinary user's limits, 8 MiB of locked memory and 1,024 descriptors, are enough for many loops."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("ordinary_user.py")
# Each takes a few seconds.
TIME_LIMIT = 60


def has_nobody():
    try:
        return pwd.getpwnam("nobody").pw_uid != 0
    except KeyError:
        return False


pytestmark = [
    pytest.mark.alone("the limit of locked memory is one for all that a user runs"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(not has_nobody(), reason="there is no user `nobody`"),
]


@pytest.mark.parametrize("way", ["sequence", "alive", "threads"])
def test_loops_of_an_ordinary_user(way):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", PROGRAM, way],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert (done.returncode, done.stdout) == (0, "")
