"""A chat server on io_uring: what one says, all others read.

    python examples/chat_server.py          the server with three clients, and the end
    python examples/chat_server.py PORT     the server alone, until Ctrl-C (0: any free port)

To talk to it: `nc 127.0.0.1 PORT`. The first line is your name, every other one is said to all.
"""

import argparse
import asyncio

import uringloop

# What may wait for a client that does not read: it must not fill the memory of all others' server.
BACKLOG = 256 * 1024


class Chat:
    def __init__(self):
        self.clients = {}       # name -> StreamWriter
        self.empty = asyncio.Event()    # the last client has left

    async def serve(self, reader, writer):
        """Serve one client, from its first line to its last."""
        try:
            name = await self.welcome(reader, writer)
            if name is not None:
                await self.talk(name, reader)
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            pass        # gone without a word
        except ValueError:
            print("A line without an end: disconnected")
        except asyncio.CancelledError:
            pass        # Ctrl-C; not raised again, as the streams of early 3.12 would log that
        finally:
            writer.transport.abort()    # does nothing where it is closed

    async def talk(self, name, reader):
        try:
            while line := await read_line(reader):
                self.broadcast(f"{name}: {line}", but=name)
        finally:
            del self.clients[name]
            self.broadcast(f"* {name} has left")
            if not self.clients:
                self.empty.set()

    async def welcome(self, reader, writer):
        """Take the client in under a name that nobody has; None where it goes before that."""
        writer.write(b"What is your name?\n")
        while name := await read_line(reader):
            if name not in self.clients:
                here = ", ".join(self.clients) or "nobody else"
                writer.write(f"Welcome, {name}. Here: {here}\n".encode())
                self.broadcast(f"* {name} has come")
                self.clients[name] = writer
                return name
            writer.write(b"That name is taken. Another?\n")
        return None

    def broadcast(self, message, but=None):
        print(message, flush=True)
        for name, writer in self.clients.items():
            if name == but or writer.is_closing():
                continue
            # No drain(): one slow reader would stop all others. It is disconnected instead.
            if writer.transport.get_write_buffer_size() > BACKLOG:
                writer.transport.abort()
            else:
                writer.write(f"{message}\n".encode())


async def read_line(reader):
    """Return the next line that is not empty, without what might steer a terminal; '' at the end."""
    while data := await reader.readline():
        if line := "".join(filter(str.isprintable, data.decode(errors="replace"))).strip():
            return line
    return ""


class Client:
    """A client of the demonstration, which prints what it reads."""

    def __init__(self, name):
        self.name = name

    async def connect(self, address):
        self.reader, self.writer = await asyncio.open_connection(*address)
        await self.reader.readline()
        self.say(self.name)
        await self.read()

    def say(self, line):
        self.writer.write(f"{line}\n".encode())

    async def read(self):
        line = await self.reader.readline()
        print(f"    {self.name} reads: {line.decode().strip()}")

    async def leave(self):
        self.writer.close()
        await self.writer.wait_closed()


async def demonstrate(address):
    ann, ben, cid = clients = [Client(name) for name in ("Ann", "Ben", "Cid")]
    for number, client in enumerate(clients):
        await client.connect(address)
        for other in clients[:number]:
            await other.read()
    for speaker, line in ((ann, "Hello, World!"), (ben, "Hello, Ann!")):
        speaker.say(line)
        for client in clients:
            if client is not speaker:
                await client.read()
    await cid.leave()
    for client in (ann, ben):
        await client.read()
    await ben.leave()
    await ann.read()
    await ann.leave()


async def main(port):
    chat = Chat()
    server = await asyncio.start_server(chat.serve, "127.0.0.1", port or 0)
    # Not `async with server`: its end would wait for clients that stay, and those are disconnected.
    try:
        address = server.sockets[0].getsockname()
        print(f"Serving on {address}", flush=True)
        if port is None:
            await demonstrate(address)
            await chat.empty.wait()
        else:
            await asyncio.Event().wait()    # which nobody sets: until Ctrl-C
    finally:
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Chat on io_uring; without a port, with three clients")
    parser.add_argument("port", nargs="?", type=int, metavar="PORT")
    arguments = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
            runner.run(main(arguments.port))
    except KeyboardInterrupt:
        print("Stopped")
