"""A file server on io_uring: HTTP/1.0, GET and HEAD, files sent by `loop.sendfile`.

    python examples/file_server.py                      the server with a client, and the end
    python examples/file_server.py PORT [DIRECTORY]     the server alone, until Ctrl-C (0: any free port)

`loop.sendfile` gives a file to the socket in the kernel, by sendfile(2): its bytes never come into Python.

Nothing outside the directory is served, however the path is written: `..`, `%2e%2e` and a symbolic link lead
to a path that is resolved first, and then has to lie inside. What is no plain file is not there either, as a
pipe that nobody writes to would keep its reader for ever.
"""

import argparse
import asyncio
import hashlib
import html
import mimetypes
import os
import stat
import tempfile
import urllib.parse
from http import HTTPStatus
from pathlib import Path

import uringloop

PATIENCE = 10.0     # seconds in which a request has to be told


class Refused(Exception):
    """The request gets this status, and no file."""

    def __init__(self, status):
        self.status = status


def look_up(root, target):
    """Return the open file that a request's target means, or of a directory the page that lists it.

    root has to be resolved. Raises Refused where there is nothing to be served.
    """
    if not target.startswith("/"):
        raise Refused(HTTPStatus.BAD_REQUEST)
    name = os.fsdecode(urllib.parse.unquote_to_bytes(target.partition("?")[0])).lstrip("/")
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise Refused(HTTPStatus.NOT_FOUND)
        if path.is_dir():
            return listing(root, path)
        # Not blocking: opening a pipe would. Not following: what is a link by now was none before.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags), "rb")
    except PermissionError:
        raise Refused(HTTPStatus.FORBIDDEN) from None
    except (OSError, ValueError, RuntimeError):
        # Not there, a name too long; a zero byte; links in a circle, until Python 3.12.
        raise Refused(HTTPStatus.NOT_FOUND) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Refused(HTTPStatus.NOT_FOUND)
    return file


def listing(root, directory):
    # Links from the root: `/a` and `/a/` name the same directory.
    base = "" if directory == root else f"{directory.relative_to(root)}/"
    with os.scandir(directory) as entries:
        names = sorted(f"{entry.name}/" if os.path.isdir(entry) else entry.name for entry in entries)
    page = ["<!DOCTYPE html>", "<meta charset=utf-8>", "<ul>"]
    for name in names:
        link = urllib.parse.quote(os.fsencode(base + name))
        page.append(f'<li><a href="/{link}">{html.escape(name)}</a></li>')
    return "\n".join([*page, "</ul>", ""]).encode(errors="replace")


class FileServer:
    def __init__(self, directory):
        self.root = Path(directory).resolve(strict=True)

    async def serve(self, reader, writer):
        """Answer one request, and close."""
        try:
            await self.answer(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass        # it went away, or never said what it wants
        except asyncio.CancelledError:
            pass        # Ctrl-C; not raised again, as the streams of early 3.12 would log that
        finally:
            writer.transport.abort()    # does nothing where it is closed

    async def answer(self, reader, writer):
        method, status, kind = None, HTTPStatus.OK, "text/html"
        try:
            method, target = await self.request(reader)
            # File names are looked up in a thread: a disk may be slow.
            found = await asyncio.to_thread(look_up, self.root, target)
        except Refused as exc:
            status, kind = exc.status, "text/plain"
            found = f"{status.value} {status.phrase}\n".encode()
        if isinstance(found, bytes):
            self.write_head(writer, status, kind, len(found))
            if method != "HEAD":
                writer.write(found)
            await writer.drain()
            return
        with found as file:
            kind = mimetypes.guess_type(target.partition("?")[0])[0] or "application/octet-stream"
            size = os.fstat(file.fileno()).st_size
            self.write_head(writer, status, kind, size)
            if method == "GET" and size:
                # It waits until the head is out. No more than was promised, should the file grow.
                await asyncio.get_running_loop().sendfile(writer.transport, file, count=size)

    async def request(self, reader):
        """Return (method, target) of a request's first line; its headers are read, and change nothing."""
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        print(f"Request: {' '.join(words)!r}", flush=True)
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            raise Refused(HTTPStatus.BAD_REQUEST)
        if words[0] not in ("GET", "HEAD"):
            raise Refused(HTTPStatus.NOT_IMPLEMENTED)
        return words[0], words[1]

    @staticmethod
    def write_head(writer, status, kind, size):
        writer.write(f"HTTP/1.0 {status.value} {status.phrase}\r\n"
                     f"Content-Type: {kind}\r\n"
                     f"Content-Length: {size}\r\n"
                     f"X-Content-Type-Options: nosniff\r\n"
                     f"\r\n".encode())


async def ask(address, method, target):
    """Make a request; return (status line, body)."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"{method} {target} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0].decode(), body


async def demonstrate(address, expected):
    for method, target in (
            ("GET", "/"), ("GET", "/hello.txt"), ("HEAD", "/hello.txt"), ("GET", "/big.bin"),
            ("GET", "/nothing"), ("GET", "/../secret.txt"), ("GET", "/%2e%2e/secret.txt"),
            ("GET", "/link.txt"), ("POST", "/hello.txt")):
        status, body = await ask(address, method, target)
        print(f"    {status}, {len(body)} bytes")
        if target in expected:
            same = hashlib.sha256(body).digest() == hashlib.sha256(expected[target]).digest()
            print(f"    the body is {'the file' if same else 'something else'}")


async def main(port, directory, expected=None):
    files = FileServer(directory)
    server = await asyncio.start_server(files.serve, "127.0.0.1", port or 0)
    try:
        address = server.sockets[0].getsockname()
        print(f"Serving on {address}", flush=True)
        if expected is not None:
            await demonstrate(address, expected)
        else:
            await asyncio.Event().wait()    # which nobody sets: until Ctrl-C
    finally:
        server.close()


def run(*arguments):
    try:
        with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
            runner.run(main(*arguments))
    except KeyboardInterrupt:
        print("Stopped")


def run_demonstration():
    with tempfile.TemporaryDirectory() as outer:
        directory = Path(outer, "files")
        directory.mkdir()
        big = os.urandom(3 * 1024 * 1024)
        (directory / "hello.txt").write_bytes(b"Hello, World!\n")
        (directory / "big.bin").write_bytes(big)
        Path(outer, "secret.txt").write_bytes(b"nobody may read this\n")
        (directory / "link.txt").symlink_to("../secret.txt")
        run(None, directory, {"/big.bin": big})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A file server on io_uring; without a port, with a client")
    parser.add_argument("port", nargs="?", type=int, metavar="PORT")
    parser.add_argument("directory", nargs="?", default=".", metavar="DIRECTORY")
    arguments = parser.parse_args()
    if not os.path.isdir(arguments.directory):
        parser.error(f"{arguments.directory} is no directory")
    if arguments.port is None:
        run_demonstration()
    else:
        run(arguments.port, arguments.directory)
