"""asyncssh, client and server.

Sessions, SFTP of megabytes, forwarded ports, commands that are given up, a connection that is cut and made again.
"""

import asyncio
import os

import asyncssh

from ecosystem import kit

PACKAGES = ["asyncssh>=2.17"]

FILE = kit.payload(6 << 20)


async def session(process):
    if process.command == "never":
        await asyncio.sleep(3600)
    data = await process.stdin.read()
    process.stdout.write(data[::-1])
    process.exit(7)


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False

    def connection_requested(self, *args):
        return True


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen("127.0.0.1", 0, server_factory=Server, server_host_keys=[key], process_factory=session,
                                   sftp_factory=True, encoding=None)
    port = server.sockets[0].getsockname()[1]

    def connect():
        return asyncssh.connect("127.0.0.1", port, known_hosts=([key.convert_to_public()], [], []), username="anybody", config=None)

    async def one(number):
        result = await connection.run("reverse", input=kit.payload(20_000, number), encoding=None)
        assert (result.stdout, result.exit_status) == (kit.payload(20_000, number)[::-1], 7)

    async with connect() as connection:
        await kit.in_waves(100, 20, one)

        with open("here", "wb") as file:
            file.write(FILE)
        async with connection.start_sftp_client() as sftp:
            await sftp.put("here", os.path.abspath("there"))
            await sftp.get(os.path.abspath("there"), "back")
        for name in ("there", "back"):
            with open(name, "rb") as file:
                assert file.read() == FILE

        async def serve(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as echo:
            listener = await connection.forward_local_port("", 0, "127.0.0.1", echo.sockets[0].getsockname()[1])

            async def forwarded(number):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
                writer.write(kit.payload(100_000, number))
                writer.write_eof()
                assert await reader.read() == kit.payload(100_000, number)
                writer.close()
                await writer.wait_closed()

            await kit.in_waves(20, 10, forwarded)
            listener.close()
            await listener.wait_closed()
        for _ in range(5):
            try:
                await asyncio.wait_for(connection.run("never"), 0.1)
            except TimeoutError:
                pass
        await kit.in_waves(10, 10, one)
        connection.abort()
        try:
            await one(0)
        except (asyncssh.Error, OSError):
            pass
        else:
            raise AssertionError
    async with connect() as connection:
        await kit.in_waves(10, 10, one)
    server.close()
    await server.wait_closed()
