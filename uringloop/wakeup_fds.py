"""Who has the descriptor that signals' numbers are written to.

`signal.set_wakeup_fd` knows one. A loop wants it while it runs, so that Ctrl-C ends its sleep, and
as long as it has signal handlers. Whoever had it before gets it back afterwards: another loop, or
the program.

A descriptor's number outlives its file: whoever gets the number next must not get the signals. So
a `WakeupFile` is what the file was when it was noted, and is asked again before it is used.

Only the main thread of the main interpreter may set it, and which one that is `threading` does not
always know: it takes the thread for it in which it was first imported (before Python 3.13), and in
a sub-interpreter there is none. So it is tried. Elsewhere a loop does without signals.

A signal that came for another loop's handler while this one had the descriptor is passed on.

Nowhere is the descriptor unset to be asked for: a signal that came then would be lost. One exception: a
loop that nobody stands behind gives it back in one call, which tells who had it; should somebody have set
his own during the run, behind the loop's back, he has it again a microsecond later.

Source: signal.set_wakeup_fd in the Python library reference.
"""

import contextlib
import os
import signal
import stat

_NOBODY = -1

# Those who want it, as WakeupFiles; the last has it. Loops are here from take() to give_back(). Of
# others there is one at most, whom a loop had it from.
_wanted = []

# Of loops that were closed where they could not give it back: (WakeupFile, both ends of its pipe).
_orphans = []

# How many forks lie between this process and the one that imported this module.
_forks = 0


class WakeupFile:
    """A descriptor and the file that it stood for when this was made.

    is_loop_s: it is one of our loops', and not what somebody else has set.
    taken: it was had by take(), and is to be given back.
    """

    __slots__ = ('fd', 'is_loop_s', 'taken', '_file', '_forks')

    def __init__(self, fd, is_loop_s=True):
        self.fd = fd
        self.is_loop_s = is_loop_s
        self.taken = False
        self._file = _identify(fd)
        self._forks = _forks

    @property
    def is_same(self):
        """The descriptor still stands for that file."""
        return self._file is not None and _identify(self.fd) == self._file

    @property
    def is_inherited(self):
        """It is the parent's, who reads what is written to it."""
        return self._forks != _forks

    @property
    def is_taken(self):
        """Signals may be written to it in this process."""
        return self.taken and not self.is_inherited


def _identify(fd):
    """Return what tells a file from others, None for a closed one.

    Anonymous files (an eventfd) share one inode; but none of them takes a signal's single byte.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


def _forget_all():
    """In a fork's child: it begins with the descriptor unset (asyncio.events.on_fork)."""
    global _forks
    _forks += 1
    _wanted.clear()
    while _orphans:
        _, *ends = _orphans.pop()
        for end in ends:
            end.close()


os.register_at_fork(after_in_child=_forget_all)


def _discard(file):
    if file in _wanted:
        _wanted.remove(file)


def _learn(before):
    """Learn from `before`, which had it until now, what others have done since the last time."""
    last = _wanted[-1] if _wanted else None
    if last is not None and last.is_loop_s and last.fd == before:
        return
    # Somebody has set or unset it: what was known of others is out of date.
    _wanted[:] = [file for file in _wanted if file.is_loop_s]
    for file in _wanted:
        if file.fd == before:
            _wanted.remove(file)
            _wanted.append(file)
            return
    if before != _NOBODY:
        _wanted.append(WakeupFile(before, is_loop_s=False))


def _set_last():
    """Give it to the last who wants it."""
    while _wanted:
        if _wanted[-1].is_same:
            try:
                signal.set_wakeup_fd(_wanted[-1].fd)
            except (ValueError, OSError):
                # Closed in this moment, or no longer non-blocking.
                pass
            else:
                return
        _wanted.pop()
    signal.set_wakeup_fd(_NOBODY)


def take(file):
    """Have signals written to a loop's file; return whether that can be had here."""
    if file._forks != _forks:
        return False
    taken = file.taken
    # First: a signal's handler may raise behind the call, and give_back() must know.
    file.taken = True
    try:
        before = signal.set_wakeup_fd(file.fd)
    except ValueError:
        # Not the main thread of the main interpreter.
        file.taken = taken
        return False
    if before != file.fd:
        _learn(before)
    elif _wanted and _wanted[-1] is file and not _orphans:
        return True
    while _orphans:
        orphan, reader, writer = _orphans.pop()
        pass_on(orphan, reader.read(65536) or b'')
        _discard(orphan)
        reader.close()
        writer.close()
    _discard(file)
    _wanted.append(file)
    return True


def take_again(file):
    """Undo that the stdlib's own code has unset it, for a file that was taken just before."""
    signal.set_wakeup_fd(file.fd)


def give_back(file):
    """End what take() began, in whatever order loops do so; return whether the file may hold others' signals.

    Where it can't be given back, `file.is_taken` stays true.
    """
    if not file.taken or file._forks != _forks:
        return False
    if len(_wanted) == 1 and _wanted[0] is file and not _orphans:
        # Nobody else wants it: the usual case, in one call.
        try:
            before = signal.set_wakeup_fd(_NOBODY)
        except ValueError:
            return False
        if before != file.fd:
            _learn(before)
            if before != _NOBODY:
                # (It may be closed by now.)
                with contextlib.suppress(ValueError, OSError):
                    signal.set_wakeup_fd(before)
        _discard(file)
        file.taken = False
        return before != file.fd
    if not take(file):
        return False
    _wanted.pop()
    _set_last()
    file.taken = False
    return True


def give_up(file):
    """Give back a file that was closed already: the number may be another's."""
    if not file.is_taken:
        return
    try:
        before = signal.set_wakeup_fd(_NOBODY)
    except ValueError:
        return
    _learn(before)
    _discard(file)
    _set_last()
    file.taken = False


def leave(file, reader, writer):
    """Keep a pipe open whose number is still written to, until a loop can take it over."""
    _orphans.append((file, reader, writer))


def pass_on(file, numbers):
    """Write signals' numbers to whom they would have gone without file."""
    # A copy: another thread's loop may have had signals before it moved there.
    below = _wanted[:]
    if file in below:
        del below[below.index(file):]
    while numbers and below:
        other = below.pop()
        if other.is_same:
            # Full: then they are lost, as with the module's own writes.
            with contextlib.suppress(OSError):
                os.write(other.fd, numbers)
            return
