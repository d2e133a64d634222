"""dbus-fast, which waits by add_reader and add_writer, on a bus of its own.

Method calls, signals, properties, descriptors that are passed, a service that goes and comes back.
"""

import asyncio
import os

from dbus_fast import DBusError
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from ecosystem import kit

PACKAGES = ["dbus-fast>=2.20"]
SERVERS = ["dbus"]

NAME, PATH = "test.uringloop", "/test"


class Service(ServiceInterface):
    def __init__(self):
        super().__init__(NAME)
        self.value = 0

    @dbus_method()
    async def Reverse(self, data: "ay") -> "ay":
        await asyncio.sleep(0)
        return data[::-1]

    @dbus_method()
    async def Never(self):
        await asyncio.sleep(3600)

    @dbus_method()
    def Write(self, fd: "h", text: "s"):
        os.write(fd, text.encode())
        os.close(fd)

    @dbus_signal()
    def Told(self, number) -> "u":
        return number

    @dbus_property()
    def Value(self) -> "u":
        return self.value

    @Value.setter
    def Value(self, value: "u"):
        self.value = value


async def connect():
    return await MessageBus(bus_address=os.environ["ECOSYSTEM_DBUS"], negotiate_unix_fd=True).connect()


async def serve():
    bus, service = await connect(), Service()
    bus.export(PATH, service)
    await bus.request_name(NAME)
    return bus, service


async def main():
    bus, service = await serve()
    client = await connect()
    proxy = client.get_proxy_object(NAME, PATH, await client.introspect(NAME, PATH)).get_interface(NAME)

    async def one(number):
        data = kit.payload(200 * (number % 20), number)
        assert await proxy.call_reverse(data) == data[::-1]

    # dbus-fast takes a full socket for an error: no more at once than there is room for.
    await kit.in_waves(1000, 5, one)
    heard, done = [], asyncio.Event()

    def told(number):
        heard.append(number)
        if len(heard) == 300:
            done.set()

    proxy.on_told(told)
    # Answered after the match rule is in place.
    await proxy.set_value(5)
    assert await proxy.get_value() == 5
    for number in range(300):
        service.Told(number)
        if number % 20 == 0:
            await proxy.get_value()
    await done.wait()
    assert heard == list(range(300))

    reader, writer = os.pipe()
    await proxy.call_write(writer, "by another's descriptor")
    os.close(writer)
    assert os.read(reader, 100) == b"by another's descriptor" and os.read(reader, 1) == b""
    os.close(reader)
    for _ in range(5):
        try:
            await asyncio.wait_for(proxy.call_never(), 0.05)
        except TimeoutError:
            pass
    await one(3)

    bus.disconnect()
    await bus.wait_for_disconnect()
    try:
        await one(1)
    except DBusError:
        pass
    else:
        raise AssertionError
    bus, service = await serve()
    await kit.in_waves(20, 5, one)
    for each in (bus, client):
        each.disconnect()
        await each.wait_for_disconnect()
