"""The emulated Desk: the robot's web interface, with brakes, control token, FCI and buttons.

The FR3 answers to the present interface (``/api``) and the older one (``/admin``, ``/desk``),
the Panda to the older one only. A server thread of its own speaks TLS with a certificate made
on the spot; what concerns the robot is carried out in the robot's thread.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from drivers.emulated.franka.certificate import server_context
from drivers.emulated.franka.profile import JOINTS, RobotName
from teleop.errors import DeviceError, MissingExtraError

try:
    from aiohttp import web
except ImportError as error:
    raise MissingExtraError("aiohttp", "sim", "the emulated Desk") from error

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 2.0
BUTTONS = ("check", "circle", "cross", "up", "down", "left", "right")
ARROWS = ("up", "down", "left", "right")
"""Buttons that Desk does not report while the control interface is active."""
POLL_S = 0.05
SELF_TEST_DUE_S = 80_000
"""Of the 24 h after which the robot wants its safety test."""
TOKEN_FORCE_TIMEOUT_S = 30

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DeskRobot(Protocol):
    """What Desk needs of the robot; called in the robot's thread by way of ``ask``."""

    def ask(self, action: Callable[[], T]) -> Future[T]:
        """Have something done in the robot's thread."""

    def fci_is_active(self) -> bool:
        """Whether the control interface is switched on."""

    def set_fci(self, active: bool) -> None:
        """Switch it."""

    def brakes_are_locked(self) -> bool:
        """Whether the joints are held by their brakes."""

    def lock_brakes(self, locked: bool) -> None:
        """Lock or open them."""


class DeskServer:
    """Serves Desk on ``host:port``.

    Args:
        robot: whose Desk it is.
        name: which of the interfaces it has.
        host: where to listen.
        port: 0 for any free one.
        user: who may log in.
        password: and how.

    Raises:
        DeviceError: the port is taken.
    """

    def __init__(
        self, robot: DeskRobot, name: RobotName, host: str, port: int, user: str, password: str
    ) -> None:
        self._robot = robot
        self._user = user
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._login = _encoded_password(user, password)
        self._session = secrets.token_hex(16)
        self._token: str | None = None
        self._token_id = 0
        self._mode = "Execution"
        self._listeners: set[web.WebSocketResponse] = set()
        self._app = web.Application(middlewares=[self._check_login])
        self._app.router.add_get("/desk/api/navigation/events", self._events)
        self._add_older_routes()
        if name == "fr3":
            self._add_present_routes()
        self._ready: Future[int] = Future()
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete,
            args=(self._serve(host, port),),
            name="desk",
            daemon=True,
        )
        self._thread.start()
        try:
            self.port = self._ready.result(START_TIMEOUT_S)
        except OSError as error:
            raise DeviceError(f"emulated Desk at {host}:{port} does not start: {error}") from error

    def press(self, button: str, down: bool) -> None:
        """Report a pilot button; from any thread.

        Raises:
            ValueError: there is no such button.
        """
        if button not in BUTTONS:
            raise ValueError(f"no such button: {button!r}; known: {', '.join(BUTTONS)}")
        if button in ARROWS and self._robot.fci_is_active():
            return
        asyncio.run_coroutine_threadsafe(self._broadcast({button: down}), self._loop)

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_TIMEOUT_S)

    async def _serve(self, host: str, port: int) -> None:
        runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=0.1)
        try:
            await runner.setup()
            site = web.TCPSite(runner, host, port, ssl_context=server_context(host))
            await site.start()
            self._ready.set_result(runner.addresses[0][1])
        except OSError as error:
            self._ready.set_exception(error)
            return
        await self._stop.wait()
        await runner.cleanup()

    async def _broadcast(self, event: dict[str, bool]) -> None:
        for listener in list(self._listeners):
            try:
                await listener.send_json(event)
            except ConnectionError:  # it is going, and the others shall hear
                self._listeners.discard(listener)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        listener = web.WebSocketResponse()
        await listener.prepare(request)
        self._listeners.add(listener)
        try:
            async for _ in listener:
                pass
        finally:
            self._listeners.discard(listener)
        return listener

    @web.middleware
    async def _check_login(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        cookie = request.cookies.get("authorization", "")
        known = given in (self._basic, self._session) or cookie == self._session
        if not known and request.path != "/admin/api/login":
            return web.json_response({"code": "Unauthorized"}, status=401)
        return await handler(request)

    # The older interface.

    def _add_older_routes(self) -> None:
        post, get = self._app.router.add_post, self._app.router.add_get
        post("/admin/api/login", self._log_in)
        post("/admin/api/logout", _nothing)
        get("/admin/api/safety", self._safety)
        get("/admin/api/system-status", self._system_status)
        get("/admin/api/control-token", self._active_token)
        post("/admin/api/control-token/request", self._take_token)
        self._app.router.add_delete("/admin/api/control-token", self._release_token)
        post("/admin/api/control-token/fci", self._fci_on)
        self._app.router.add_delete("/admin/api/control-token/fci", self._fci_off)
        post("/desk/api/system/fci", self._fci_on)
        for lock in ("/desk/api/joints/lock", "/desk/api/robot/close-brakes"):
            post(lock, self._lock)
        for unlock in ("/desk/api/joints/unlock", "/desk/api/robot/open-brakes"):
            post(unlock, self._unlock)
        post("/desk/api/operating-mode/execution", self._execution)
        post("/desk/api/operating-mode/programming", self._programming)

    async def _log_in(self, request: web.Request) -> web.Response:
        body = await request.json()
        given = (body.get("login"), body.get("password", "").strip())
        if given != (self._user, self._login):
            return web.json_response({"code": "Unauthorized"}, status=401)
        return web.Response(text=self._session)

    async def _safety(self, _: web.Request) -> web.Response:
        return web.json_response({"tokenForceTimeout": TOKEN_FORCE_TIMEOUT_S})

    async def _system_status(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "controlToken": self._holder(),
                "derived": {"operatingMode": self._mode},
                "safety": {
                    "brakeState": [self._brakes()] * JOINTS,
                    "recoverableErrors": {"td2Timeout": False},
                    "safetyControllerStatus": "Idle",
                },
            }
        )

    async def _active_token(self, _: web.Request) -> web.Response:
        return web.json_response(self._holder())

    async def _take_token(self, request: web.Request) -> web.Response:
        if self._token is not None and "force" not in request.query:
            return web.json_response({"code": "ControlTokenHeld"}, status=423)
        self._new_token()
        return web.json_response({"id": self._token_id, "token": self._token})

    async def _release_token(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("token") != self._token:
            return web.json_response({"code": "ControlTokenUnknown"}, status=400)
        self._token = None
        return web.Response(status=204)

    async def _programming(self, _: web.Request) -> web.Response:
        self._mode = "Programming"
        return web.json_response({})

    async def _execution(self, _: web.Request) -> web.Response:
        self._mode = "Execution"
        return web.json_response({})

    # The present interface.

    def _add_present_routes(self) -> None:
        post, get = self._app.router.add_post, self._app.router.add_get
        get("/api/system", self._system)
        get("/api/system/control-token", self._token_holder)
        post("/api/system/control-token:take", self._take_in_turn)
        post("/api/system/control-token:release", self._with_token(self._give_back))
        get("/api/system/operating-mode", self._operating_mode)
        post("/api/system/operating-mode:change", self._with_token(self._change_mode))
        get("/api/arm/joints", self._joints)
        post("/api/arm/joints:unlock", self._with_token(self._unlock))
        post("/api/arm/joints:lock", self._with_token(self._lock))
        get("/api/fci", self._fci)
        post("/api/fci:activate", self._with_token(self._fci_on))
        post("/api/fci:deactivate", self._with_token(self._fci_off))
        get("/api/safety/recovery", _nothing)
        post("/api/safety/self-tests:execute", self._with_token(_nothing))
        get("/api/safety/self-tests", self._self_tests)

    def _with_token(self, handler: Handler) -> Handler:
        """Only for the session that holds control."""

        async def checked(request: web.Request) -> web.StreamResponse:
            if self._token is None or request.headers.get("X-Control-Token") != self._token:
                return web.json_response({"code": "ControlTokenInvalid"}, status=403)
            return await handler(request)

        return checked

    async def _system(self, _: web.Request) -> web.Response:
        return web.json_response({"safety": {"timeToTd2": SELF_TEST_DUE_S}})

    async def _token_holder(self, _: web.Request) -> web.Response:
        if self._token is None:
            return web.json_response({})
        return web.json_response({"tokenId": self._token_id, "owner": self._user})

    async def _take_in_turn(self, request: web.Request) -> web.Response:
        """Give control, or wait as long as the client likes for its holder to release it."""
        body = await request.json()
        for _ in range(max(1, round(body.get("timeout", 0) / POLL_S))):
            if self._token is None:
                self._new_token()
                return web.json_response({"tokenId": self._token_id, "token": self._token})
            await asyncio.sleep(POLL_S)
        return web.json_response({"code": "Timeout"}, status=424)

    async def _give_back(self, _: web.Request) -> web.Response:
        self._token = None
        return web.json_response({})

    async def _operating_mode(self, _: web.Request) -> web.Response:
        return web.json_response({"status": self._mode})

    async def _change_mode(self, request: web.Request) -> web.Response:
        self._mode = (await request.json())["desiredOperatingMode"]
        return web.json_response({})

    async def _joints(self, _: web.Request) -> web.Response:
        return web.json_response([{"brakeStatus": self._brakes()}] * JOINTS)

    async def _fci(self, _: web.Request) -> web.Response:
        status = "Active" if self._robot.fci_is_active() else "Inactive"
        return web.json_response({"status": status})

    async def _self_tests(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "Idle"})

    # What concerns the robot.

    async def _fci_on(self, _: web.Request) -> web.Response:
        if self._robot.brakes_are_locked():
            return web.json_response({"code": "BrakesLocked"}, status=409)
        return await self._carry_out(lambda: self._robot.set_fci(True))

    async def _fci_off(self, _: web.Request) -> web.Response:
        return await self._carry_out(lambda: self._robot.set_fci(False))

    async def _lock(self, _: web.Request) -> web.Response:
        return await self._carry_out(lambda: self._robot.lock_brakes(True))

    async def _unlock(self, _: web.Request) -> web.Response:
        return await self._carry_out(lambda: self._robot.lock_brakes(False))

    async def _carry_out(self, action: Callable[[], None]) -> web.Response:
        await asyncio.wrap_future(self._robot.ask(action))
        return web.json_response({})

    def _brakes(self) -> str:
        return "Locked" if self._robot.brakes_are_locked() else "Unlocked"

    def _holder(self) -> dict[str, Any]:
        holder = {"id": self._token_id, "ownedBy": self._user}
        return {"activeToken": None if self._token is None else holder}

    def _new_token(self) -> None:
        self._token_id += 1
        self._token = secrets.token_hex(16)


async def _nothing(_: web.Request) -> web.Response:
    return web.json_response({})


def _encoded_password(user: str, password: str) -> str:
    """How the older interface's clients send a password."""
    digest = hashlib.sha256(f"{password}#{user}@franka".encode()).digest()
    return base64.encodebytes(",".join(map(str, digest)).encode()).decode().strip()
