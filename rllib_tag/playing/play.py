"""`rllib play`: a person moves the prey in a browser, against a trained team that runs live in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import webbrowser
from collections.abc import Awaitable, Callable
from typing import Any

from rllib_tag.errors import ConfigError
from rllib_tag.playing.live_game import LiveGame, Settings
from rllib_tag.playing.restore import TrainedTeam

try:
    from aiohttp import WSMsgType, web
except ImportError:
    raise ConfigError("play: expected aiohttp, got none. Install rllib_tag[play].") from None

HOST = "127.0.0.1"
STEPS_PER_SECOND = 20
CLOSE_AFTER_S = 5.0  # without a page; one that is loaded again comes back sooner
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
        port: The port; 0 takes a free one. Default: 0.
        closes: Whether it ends when the last page has been closed. Default: True.

    Attributes:
        url: The page's address, once the server runs.
    """

    def __init__(
        self, page: str, team: TrainedTeam, settings: Settings, seed: int, port: int = 0, closes: bool = True
    ) -> None:
        LiveGame(team, settings, seed)  # an error comes before anything starts
        self._html, self._team, self._settings, self._seed = page, team, settings, seed
        self._port, self._closes = port, closes
        self._token = secrets.token_urlsafe(16)
        self._pages: set[web.WebSocketResponse] = set()
        self._ended = asyncio.Event()
        self.url = ""

    async def run(self, on_start: Callable[[str], object]) -> None:
        """Serves until the last page is closed, or until `stop`.

        Args:
            on_start: Called with the page's address.

        Raises:
            ConfigError: If the port is taken.
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
            for page in set(self._pages):
                await page.close(message=b"the server has ended")
            await runner.cleanup()

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
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
        return web.Response(text=self._html, content_type="text/html", headers=headers)

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
                    except (ConfigError, ValueError, TypeError, AttributeError) as error:
                        await page.send_json({"error": str(error)})
        finally:
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await playing
            self._pages.discard(page)
            if self._closes and not self._pages:
                asyncio.get_running_loop().call_later(CLOSE_AFTER_S, self._close)
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
        finally:
            await page.close()


def _take(said: Any, game: LiveGame, push: list[float]) -> None:
    """Takes what a page says: `push`, where the prey goes, or `settings` to change."""
    if "push" in said:
        across, up = (min(max(float(each), -1.0), 1.0) for each in said["push"])
        push[:] = across, up
    if "settings" in said:
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
            if opens:
                webbrowser.open(url)

        await server.run(started)

    asyncio.run(serve())
