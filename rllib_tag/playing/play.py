"""`rllib play`: a person moves the prey in a browser, against a trained team that runs live in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from typing import Any

from rllib_tag.errors import ConfigError, check_int, check_number
from rllib_tag.playing.live_game import STEPS_PER_SECOND, LiveGame, Settings
from rllib_tag.playing.restore import TrainedTeam

try:
    from aiohttp import WSMsgType, web
except ModuleNotFoundError as error:
    if error.name != "aiohttp":
        raise
    raise ConfigError('play: expected aiohttp, got none. Install it: pip install "aiohttp>=3.9".') from None

HOST = "127.0.0.1"
CLOSE_AFTER_S = 5.0  # after the last page has closed; one that is reloaded connects again sooner
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src ws://{host}:{port}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PlayServer:
    """A local server with a game of its own for each page.

    It listens on 127.0.0.1 only, answers only requests with its token, and refuses those that another site's page sends
    or that come under another host's name.

    Args:
        page: The page, in HTML.
        team: The trained team, of tag.
        settings: What games start with.
        seed: Of each game's first round.
        port: The port, of at least 1024; 0 takes a free one. Default: 0.

    Attributes:
        url: The page's address, once the server runs.

    Raises:
        ConfigError: If the team cannot play, or if the seed or the port is not one.
    """

    def __init__(self, page: str, team: TrainedTeam, settings: Settings, seed: int, port: int = 0) -> None:
        LiveGame(team, settings, seed)  # an error comes before anything starts
        check_int("port", port, 0)
        if port:
            check_number("port", port, 1024, 65535)  # browsers leave 80 out of what the guard checks
        self._html, self._team, self._settings, self._seed = page, team, settings, seed
        self._port = port
        self._token = secrets.token_urlsafe(16)
        self._pages: set[web.WebSocketResponse] = set()
        self._ended = asyncio.Event()
        self._error: Exception | None = None
        self.url = ""

    async def run(self, on_start: Callable[[str], object]) -> None:
        """Serves until the last page is closed, or until `stop`.

        Args:
            on_start: Called with the page's address.

        Raises:
            ConfigError: If the port is taken.
            Exception: What a game raised.
        """
        app = web.Application(middlewares=[self._guard])
        app.add_routes([web.get(f"/{self._token}/", self._page), web.get(f"/{self._token}/live", self._live)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, HOST, self._port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(
                f"play: expected a free port, got {self._port}: {error.strerror}. Choose another."
            ) from error
        self._port = runner.addresses[0][1]
        self.url = f"http://{HOST}:{self._port}/{self._token}/"
        on_start(self.url)
        try:
            await self._ended.wait()
        finally:
            closing = [asyncio.create_task(page.close(message=b"the server has ended")) for page in self._pages]
            if closing:
                await asyncio.wait(closing, timeout=1.0)
            await runner.cleanup()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ends the server."""
        self._ended.set()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = {f"{name}:{self._port}" for name in (HOST, "localhost")}
        origin = request.headers.get("Origin")
        if request.host not in hosts or (origin is not None and origin not in {f"http://{host}" for host in hosts}):
            raise web.HTTPForbidden(text="This server answers only its own page on this machine.\n")
        try:
            return await handler(request)
        except web.HTTPNotFound:
            raise web.HTTPForbidden(text="Open the address that `rllib play` prints; it has a token.\n") from None

    async def _page(self, request: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": POLICY.format(host=request.url.host, port=self._port)}
        return web.Response(text=self._html, content_type="text/html", headers=HEADERS | policy)

    async def _live(self, request: web.Request) -> web.WebSocketResponse:
        page = web.WebSocketResponse(heartbeat=10.0, max_msg_size=4096)
        await page.prepare(request)
        self._pages.add(page)
        game = LiveGame(self._team, self._settings, self._seed)
        push = [0.0, 0.0]
        playing = asyncio.create_task(self._play(page, game, push))
        try:
            async for message in page:
                if message.type is WSMsgType.TEXT:
                    try:
                        _take(json.loads(message.data), game, push)
                    except (ValueError, RecursionError) as error:  # ConfigError and broken JSON included
                        await page.send_json({"error": str(error)})
        finally:
            self._pages.discard(page)
            asyncio.get_running_loop().call_later(CLOSE_AFTER_S, self._close)
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await playing
        return page

    def _close(self) -> None:
        if not self._pages:
            self.stop()

    async def _play(self, page: web.WebSocketResponse, game: LiveGame, push: list[float]) -> None:
        clock = asyncio.get_running_loop()
        due = clock.time()
        try:
            while not page.closed:
                await page.send_json(game.state())
                due = max(due + 1 / STEPS_PER_SECOND, clock.time())
                await asyncio.sleep(due - clock.time())
                game.step(*push)
        except ConnectionError:
            pass  # the page has been closed
        except Exception as error:
            self._error = error  # for `run` to raise
            self.stop()


def _take(said: Any, game: LiveGame, push: list[float]) -> None:
    """Takes what a page says: `push`, where the prey goes, or `settings` to change."""
    if not isinstance(said, dict):
        raise ConfigError(f"expected push or settings, got {said!r}. Reload the page.")
    if "push" in said:
        if not isinstance(said["push"], list) or len(said["push"]) != 2:
            raise ConfigError(f"push: expected two numbers, got {said['push']!r}. Reload the page.")
        for each in said["push"]:
            check_number("push", each, -1, 1)
        push[:] = said["push"]
    if "settings" in said:
        if not isinstance(said["settings"], dict):
            raise ConfigError(f"settings: expected a mapping, got {said['settings']!r}. Reload the page.")
        game.change(**said["settings"])


def play(
    page: str, team: TrainedTeam, settings: Settings, seed: int, port: int, opens: bool,
    on_start: Callable[[str], object],
) -> None:  # fmt: skip
    """Serves games until Ctrl-C, or until the last page is closed.

    Args:
        page: The page, in HTML.
        team: The trained team, of tag.
        settings: What games start with.
        seed: Of each game's first round.
        port: The port; 0 takes a free one.
        opens: Whether to open the page in a browser.
        on_start: Called with the page's address.
    """

    async def serve() -> None:
        server = PlayServer(page, team, settings, seed, port)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)

        def started(url: str) -> None:
            on_start(url)
            if opens:  # in a thread that nobody waits for, because a browser in the terminal does not return
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        await server.run(started)

    asyncio.run(serve())
