"""What asyncio/unix_events.py adds to the selector loop, as a base of ours.

So far: Unix stream sockets.  The methods that do not touch the selector are the stdlib's own
functions, borrowed as they are; the others are written anew.

Must not be in here: anything of io_uring; a loop class above this one has the proactor.
"""

import os
from asyncio import unix_events
from asyncio.log import logger


# stdlib: _UnixSelectorEventLoop
class _UnixEventLoopMixin:
    """Unix sockets for a loop that has sock_connect, _create_connection_transport and so on."""

    # stdlib: _UnixSelectorEventLoop.__init__
    def __init__(self, *args, **kwargs):
        # From 3.13 on: the inode of a listening socket's file, to know it again at clean-up.
        self._unix_server_sockets = {}
        super().__init__(*args, **kwargs)

    create_unix_connection = unix_events._UnixSelectorEventLoop.create_unix_connection
    create_unix_server = unix_events._UnixSelectorEventLoop.create_unix_server

    # stdlib: _UnixSelectorEventLoop._stop_serving
    def _stop_serving(self, sock):
        inode = self._unix_server_sockets.pop(sock, None)
        path = sock.getsockname() if inode is not None else None

        super()._stop_serving(sock)

        if path is not None:
            try:
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as err:
                logger.error('Unable to clean up listening UNIX socket '
                             '%r: %r', path, err)
