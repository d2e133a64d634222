"""aiodns, and pycares below it by add_reader and add_writer, against a DNS server on the loop.

Hundreds of names, over UDP and TCP, a server that does not answer, queries that are cancelled.
"""

import asyncio
import socket
import struct

import aiodns
import pycares

from ecosystem import kit

PACKAGES = ["aiodns>=4", "pycares>=5"]


def answer(query):
    """The answer to a question for `N.test`: 10.0.x.y; none for one below `never`, and a promise of more by TCP below `tcp`."""
    number, flags = struct.unpack_from(">HH", query)
    labels, at = [], 12
    while size := query[at]:
        labels.append(query[at + 1:at + 1 + size].decode())
        at += size + 1
    question = query[12:at + 5]
    if "never" in labels:
        return labels, None
    head = struct.pack(">HHHHHH", number, 0x8180, 1, 1, 0, 0)
    address = socket.inet_aton(f"10.0.{int(labels[0]) // 256}.{int(labels[0]) % 256}")
    return labels, head + question + b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + address


class Server(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        labels, found = answer(data)
        if "tcp" in labels:
            # Truncated: nothing but the question.
            found = data[:2] + struct.pack(">HHHHH", 0x8380, 1, 0, 0, 0) + found[12:12 + len(data) - 12]
        if found is not None:
            self.transport.sendto(found, address)


async def serve_tcp(reader, writer):
    try:
        while True:
            query = await reader.readexactly(struct.unpack(">H", await reader.readexactly(2))[0])
            found = answer(query)[1]
            writer.write(struct.pack(">H", len(found)) + found)
    except asyncio.IncompleteReadError:
        writer.close()


async def by_aiodns(port):
    async with aiodns.DNSResolver(nameservers=["127.0.0.1"], udp_port=port, tcp_port=port, timeout=0.3, tries=1) as resolver:
        async def one(number):
            kind = ("udp", "tcp")[number % 5 == 0]
            found = await resolver.query_dns(f"{number}.{kind}.test", "A")
            assert [record.data.addr for record in found.answer] == [f"10.0.{number // 256}.{number % 256}"], found

        await kit.in_waves(500, 50, one)
        try:
            await resolver.query_dns("1.never.test", "A")
        except aiodns.error.DNSError as error:
            assert error.args[0] == aiodns.error.ARES_ETIMEOUT
        else:
            raise AssertionError
        task = asyncio.ensure_future(resolver.query_dns("2.never.test", "A"))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await kit.in_waves(20, 20, one)


async def by_add_reader(port):
    """What aiodns does where c-ares has no thread of its own: c-ares says which descriptors to watch."""
    loop = asyncio.get_running_loop()

    def state(fd, readable, writable):
        loop.remove_reader(fd)
        loop.remove_writer(fd)
        if readable:
            loop.add_reader(fd, channel.process_fd, fd, pycares.ARES_SOCKET_BAD)
        if writable:
            loop.add_writer(fd, channel.process_fd, pycares.ARES_SOCKET_BAD, fd)

    channel = pycares.Channel(servers=["127.0.0.1"], udp_port=port, tcp_port=port, timeout=5, sock_state_cb=state)

    async def one(number):
        done = loop.create_future()
        channel.query(f"{number}.{('udp', 'tcp')[number % 5 == 0]}.test", pycares.QUERY_TYPE_A,
                      callback=lambda found, error: done.done() or done.set_result((found, error)))
        found, error = await done
        assert error is None and [record.data.addr for record in found.answer] == [f"10.0.{number // 256}.{number % 256}"], error

    await kit.in_waves(300, 50, one)
    channel.close()


async def main():
    loop = asyncio.get_running_loop()
    port = kit.free_port()
    transport, _ = await loop.create_datagram_endpoint(Server, ("127.0.0.1", port))
    async with await asyncio.start_server(serve_tcp, "127.0.0.1", port):
        await by_aiodns(port)
        await by_add_reader(port)
    transport.close()
