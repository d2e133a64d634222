"""A bar on standard error: how much is done, what is running, how long it still takes."""

import shutil
import sys
import time

WIDTH = 24


class Bar:
    """On a terminal one line that changes; elsewhere a line for each twentieth."""

    def __init__(self, limit=None, stream=None, now=time.monotonic):
        """limit: seconds after which all ends, if there is such a limit."""
        self.now = now
        self.stream = stream or sys.stderr
        self.limit = limit
        self.start = now()
        self.told = -1

    def __call__(self, done, total, text):
        share = done / total if total else 1
        spent = self.now() - self.start
        left = spent / share - spent if share else self.limit or 0
        if self.limit is not None:
            left = max(0, min(left, self.limit - spent))
        filled = round(WIDTH * share)
        bar = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {share:4.0%}  {clock(spent)} + {clock(left)}  {text}"
        if self.stream.isatty():
            columns = shutil.get_terminal_size().columns - 1
            print("\r" + bar[:columns].ljust(columns), end="\n" if done == total else "", file=self.stream, flush=True)
        elif int(share * 20) > self.told:
            self.told = int(share * 20)
            print(bar, file=self.stream, flush=True)


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
