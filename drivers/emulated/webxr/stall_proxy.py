"""A TCP proxy that misbehaves as networks do: it stalls and lets go in a burst, or cuts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future

from teleop.errors import DeviceError

CHUNK_BYTES = 1 << 16
ANSWER_S = 10.0
CLOSING_S = 0.01


class StallProxy:
    """Carries connections from a loopback port of its own to another port.

    Args:
        host: Where the connections go.
        port: The same.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self._started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, name="stall-proxy", daemon=True)

    def start(self) -> int:
        """Listen; returns the port.

        Raises:
            DeviceError: no port is to be had.
        """
        self._thread.start()
        return self._started.result(ANSWER_S)

    def stall(self) -> None:
        """Carry nothing, lose nothing: what is sent meanwhile comes in one burst afterwards."""
        self._do(self._flowing.clear)

    def flow(self) -> None:
        """End of ``stall`` and ``cut``."""
        self._refusing = False
        self._do(self._flowing.set)

    def cut(self) -> None:
        """Break all connections, and new ones until ``flow``."""
        self._refusing = True
        self._do(self._break)

    def close(self) -> None:
        """Break all connections and free the port."""
        if self._thread.is_alive():
            self._refusing = True
            self._do(self._stop.set)
            self._thread.join(ANSWER_S)

    def _do(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)

    # All below runs in the proxy's thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._started.set_exception(DeviceError(f"stall proxy: {error}"))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._flowing, self._stop = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self._started.set_result(int(server.sockets[0].getsockname()[1]))
        await self._stop.wait()
        server.close()
        self._flowing.set()
        self._break()
        while self._writers:  # a connection that is cancelled instead complains aloud
            await asyncio.sleep(CLOSING_S)

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._refusing:
                return
            onward_reader, onward = await asyncio.open_connection(*self._target)
            self._writers.add(onward)
            try:
                await asyncio.gather(self._pump(reader, onward), self._pump(onward_reader, writer))
            finally:
                self._writers.discard(onward)
                onward.transport.abort()
        except OSError:
            pass  # one side broke: the other is broken too
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()
