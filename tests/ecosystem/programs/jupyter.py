"""Jupyter's kernel client, and a kernel whose loops are ours by the policy.

Cells with top-level await, megabytes of output, an interrupt, a restart.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from ecosystem import kit

PACKAGES = ["jupyter_client>=8", "ipykernel>=6.29"]

KERNEL = """
import asyncio, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from ecosystem import kit
if kit.LOOP != "selector":
    import uringloop
    class Policy(uringloop.IouringProactorEventLoopPolicy):
        _loop_factory = staticmethod(kit.new_event_loop)
    asyncio.set_event_loop_policy(Policy())
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


async def run(client, code, ok=True):
    """Run a cell; return what it has printed."""
    printed = []

    def output(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = await client.execute_interactive(code, timeout=20, output_hook=output)
    assert (reply["content"]["status"] == "ok") is ok, reply["content"]
    return "".join(printed)


async def main():
    from jupyter_client import AsyncKernelManager

    Path("kernels/it").mkdir(parents=True)
    Path("kernels/it/kernel.json").write_text(json.dumps({
        "argv": [sys.executable, "-c", KERNEL, "-f", "{connection_file}"], "display_name": "it", "language": "python"}))
    os.environ["JUPYTER_PATH"] = os.environ["JUPYTER_RUNTIME_DIR"] = os.environ["IPYTHONDIR"] = os.getcwd()
    manager = AsyncKernelManager(kernel_name="it")
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=30)

    assert await run(client, "import asyncio; print(type(asyncio.get_running_loop()).__name__)") == f"{kit.LOOP_KIND}\n"
    for number in range(50):
        assert await run(client, f"await asyncio.sleep(0); print({number} * 2)") == f"{number * 2}\n"
    assert len(await run(client, "for _ in range(20): print('x' * 100000)")) == 20 * 100_001
    assert await run(client, "task = asyncio.create_task(asyncio.sleep(0.1, 'slept'))") == ""
    assert await run(client, "print(await task)") == "slept\n"

    waiting = asyncio.create_task(run(client, "import time; time.sleep(3600)", ok=False))
    await asyncio.sleep(0.5)
    await manager.interrupt_kernel()
    await waiting
    assert await run(client, "print('alive')") == "alive\n"
    await manager.restart_kernel(now=True)
    await client.wait_for_ready(timeout=30)
    await run(client, "task", ok=False)
    assert await run(client, "print('again')") == "again\n"
    client.stop_channels()
    await manager.shutdown_kernel()
