"""`rllib play`: a game that goes on, its server, and its page in a real browser."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from rllib_tag.errors import ConfigError
from rllib_tag.playing.live_game import ROUND, LiveGame, Settings
from rllib_tag.playing.play import PlayServer
from rllib_tag.playing.restore import TrainedTeam, restore
from rllib_tag.report.replay import play_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_S = 60


@pytest.fixture(scope="module")
def team() -> TrainedTeam:
    return restore("evasive_prey")


def test_the_prey_goes_where_it_is_pushed_and_the_team_hunts_it(team: TrainedTeam) -> None:
    game = LiveGame(team, Settings(), seed=3)
    for across, up in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        before = np.array(game.state()["velocities"][-1])
        game.step(across, up)
        change = np.array(game.state()["velocities"][-1]) - 0.75 * before  # MPE's damping
        assert np.argmax(np.abs(change)) == (0 if across else 1)
        assert np.sign(change[np.argmax(np.abs(change))]) == across + up
    for _ in range(150):
        game.step(0, 0)
    state = game.state()
    assert state["contacts"] > 10  # of prey that does not move
    assert state["score"] <= -10 * state["contacts"]


def test_rounds_follow_each_other_and_the_best_score_stays(team: TrainedTeam) -> None:
    game = LiveGame(team, Settings(num_class_a=0, num_class_b=1), seed=0)
    scores = []
    for _ in range(2):
        assert game.state()["best"] == (max(scores) if scores else None)
        for _ in range(ROUND - 1):
            game.step(0, 0)
        assert game.state()["step"] == ROUND - 1
        game.step(0, 0)
        scores.append(game.state()["best"])
        assert game.state()["step"] == 0
    assert scores[1] >= scores[0]


def test_settings_change_what_is_heard(team: TrainedTeam) -> None:
    game = LiveGame(team, Settings(comm_range=99.0), seed=1)
    N = 4
    assert np.array(game.state()["heard"]).all()
    assert all(all(known) for known in game.state()["knows"])
    np.testing.assert_allclose(np.sum(game.state()["attention"], axis=1), 1, atol=0.01)
    game.change(cut=True)
    game.step(0, 0)
    assert game.state()["heard"] == np.eye(N, dtype=int).tolist()
    assert game.state()["knows"] == [[True, False]] * 2 + [[False, True]] * 2
    assert np.array(game.state()["links"]).all()
    game.change(cut=False, lost=1.0)
    game.step(0, 0)
    assert game.state()["heard"] == np.eye(N, dtype=int).tolist()
    game.change(lost=0.0, comm_range=0.0)
    game.step(0, 0)
    assert game.state()["links"] == np.eye(N, dtype=int).tolist()
    game.change(num_class_a=3, num_obstacles=0)
    state = game.state()
    assert (len(state["classes"]), state["landmarks"], state["step"]) == (5, [], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_class_a": 7}, "num_class_a: expected a number between 0 and 6, got 7"),
        ({"num_class_a": 0, "num_class_b": 0}, "expected at least one adversary"),
        ({"lost": 2}, "lost: expected a number between 0 and 1, got 2"),
        ({"comm_range": -1}, "comm_range: expected a number of at least 0"),
        ({"cut": 1}, "cut: expected true or false"),
        ({"speed": 3}, "unknown key 'speed'"),
    ],
)
def test_wrong_settings_change_nothing(team: TrainedTeam, changes: dict[str, Any], message: str) -> None:
    game = LiveGame(team, Settings(), seed=1)
    before = game.state()
    with pytest.raises(ConfigError, match=message):
        game.change(**changes)
    assert game.state() == before


def test_what_was_trained_is_where_it_starts() -> None:
    env_config = {"num_class_a": [1, 9], "num_class_b": 3, "comm_range": [0.0, 0.5], "max_cycles": 7}
    assert Settings.as_trained(env_config, num_obstacles=0) == Settings(6, 3, 0, 0.5)


def test_a_team_without_a_class_is_never_given_one(team: TrainedTeam) -> None:
    class_b = TrainedTeam({"class_b": team.nets["class_b"]}, {**team.env_config, "num_class_a": 0}, "x")
    game = LiveGame(class_b, Settings(num_class_a=0), seed=0)
    before = game.state()
    with pytest.raises(ConfigError, match="class_a"):
        game.change(num_class_a=1)
    assert game.state() == before
    game.step(1, 0)


def test_a_round_in_which_the_channel_changes_does_not_count(team: TrainedTeam) -> None:
    game = LiveGame(team, Settings(num_class_a=0, num_class_b=1), seed=0)
    game.change(cut=True)
    for _ in range(ROUND):
        game.step(0, 0)
    assert (game.state()["step"], game.state()["best"]) == (0, None)


def test_a_team_of_another_game_is_refused(tmp_path: Path) -> None:
    ours = restore("evasive_prey")
    with pytest.raises(ConfigError, match="policies"):
        LiveGame(TrainedTeam(ours.nets, {"game": "rllib_tag.games.Spread"}, "x"), Settings(), seed=0)


def serving(team: TrainedTeam, use: Callable[[PlayServer, aiohttp.ClientSession], Awaitable[None]]) -> None:
    """Runs a server, and something that uses it."""

    async def both() -> None:
        started = asyncio.Event()
        server = PlayServer(play_page(), team, Settings(), seed=0)
        running = asyncio.create_task(server.run(lambda url: started.set()))
        await asyncio.wait_for(started.wait(), WAIT_S)
        try:
            async with aiohttp.ClientSession() as session:
                await asyncio.wait_for(use(server, session), WAIT_S)
        finally:
            server.stop()
            await asyncio.wait_for(running, WAIT_S)

    asyncio.run(both())


def test_only_its_own_page_is_answered(team: TrainedTeam) -> None:
    async def use(server: PlayServer, session: aiohttp.ClientSession) -> None:
        port = server.url.split(":")[2].split("/")[0]
        for url, headers, status in (
            (server.url, {}, 200),
            (server.url.replace("127.0.0.1", "localhost"), {}, 200),
            (server.url[:-3] + "x/", {}, 403),
            (f"http://127.0.0.1:{port}/", {}, 403),
            (server.url, {"Host": f"evil.example:{port}"}, 403),
            (server.url, {"Origin": "http://evil.example"}, 403),
            (server.url + "live", {"Origin": "http://evil.example"}, 403),
        ):
            async with session.get(url, headers=headers) as answer:
                assert answer.status == status, (url, headers)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(server.url + "live", origin="http://evil.example")
        async with session.get(server.url) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert f"connect-src ws://127.0.0.1:{port};" in policy
        async with session.ws_connect(server.url + "live") as page:
            await page.send_str("[" * 4000)
            while "error" not in await page.receive_json():
                pass

    serving(team, use)


def test_two_pages_have_games_of_their_own(team: TrainedTeam) -> None:
    async def use(server: PlayServer, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(server.url + "live") as one, session.ws_connect(server.url + "live") as other:
            await one.send_json({"settings": {"num_class_a": 5}, "push": [1, 0]})
            await other.send_json({"push": [-1, 0]})
            await one.send_json({"settings": {"speed": 3}})
            await one.send_str("no JSON")
            await one.send_str('{"push": [NaN, 0]}')
            said: list[Any] = [None, None]
            errors = []
            while not said[0] or not said[1] or min(each["step"] for each in said) < 20 or len(errors) < 3:
                for i, page in enumerate((one, other)):
                    got = await page.receive_json()
                    if "error" in got:
                        errors.append(got["error"])
                    else:
                        said[i] = got
            assert [len(each["classes"]) for each in said] == [7, 4]
            assert said[0]["velocities"][-1][0] > 0 > said[1]["velocities"][-1][0]
            assert "unknown key 'speed'" in errors[0]
            assert "push: expected a number between -1 and 1, got nan" in errors[2]

    serving(team, use)


def test_it_ends_when_the_last_page_is_closed(team: TrainedTeam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rllib_tag.playing.play.CLOSE_AFTER_S", 0.2)

    async def use(server: PlayServer, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(server.url + "live") as one:
            async with session.ws_connect(server.url + "live"):
                pass
            await asyncio.sleep(0.5)
            await one.receive_json()  # goes on
        await server._ended.wait()

    serving(team, use)


def test_an_error_in_a_game_ends_the_server(team: TrainedTeam, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise LookupError("broken")

    async def use(server: PlayServer, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(server.url + "live") as page:
            monkeypatch.setattr(LiveGame, "step", broken)
            async for _ in page:
                pass
        await server._ended.wait()

    with pytest.raises(LookupError, match="broken"):
        serving(team, use)


@pytest.mark.parametrize(("port", "seed"), [(80, 0), (70000, 0), (-1, 0), (0, -1)])
def test_wrong_numbers_are_refused(team: TrainedTeam, port: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="port: expected" if port else "seed: expected"):
        PlayServer("", team, Settings(), seed, port)


def test_a_taken_port_is_named(team: TrainedTeam) -> None:
    async def use(server: PlayServer, session: aiohttp.ClientSession) -> None:
        port = int(server.url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigError, match=f"expected a free port, got {port}"):
            await PlayServer("", team, Settings(), seed=0, port=port).run(lambda url: None)

    serving(team, use)


@pytest.fixture
def served() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it prints."""
    command = [sys.executable, "-u", "-m", "rllib_tag", "play", "evasive_prey", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, next(line for line in process.stdout if "Play at " in line).split()[-1]
        process.kill()


def test_ctrl_c_ends_it(served: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = served
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 0


class Browser:
    """A headless Chromium, driven by its own protocol.

    Args:
        page: The page's socket.
    """

    def __init__(self, page: aiohttp.ClientWebSocketResponse) -> None:
        self._page, self._calls = page, itertools.count()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._calls)
        await self._page.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = await self._page.receive_json()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def value(self, expression: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        while not await self.value(expression):
            await asyncio.sleep(0.05)

    async def key(self, kind: str, code: str) -> None:
        await self.call("Input.dispatchKeyEvent", type=kind, code=code, key=code)

    async def picture(self, path: Path) -> None:
        shot = await self.call("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_person_plays_in_a_browser(served: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    process, url = served
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,900", url]

    async def use() -> None:
        port = tmp_path / "profile" / "DevToolsActivePort"
        while not port.exists() or not port.read_text():
            await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as session:
            address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json"
            async with session.get(address) as answer:
                (target,) = (each for each in await answer.json() if each["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as page:
                await play_with(Browser(page))

    async def play_with(browser: Browser) -> None:
        await browser.until("typeof state !== 'undefined' && state !== null && state.step > 2")
        for code, axis, sign in (("ArrowRight", 0, 1), ("KeyW", 1, 1), ("KeyA", 0, -1), ("ArrowDown", 1, -1)):
            await browser.key("keyDown", code)
            await browser.until(f"{sign} * state.velocities.at(-1)[{axis}] > 0.5")
            await browser.key("keyUp", code)
        await browser.key("keyDown", "KeyK")
        await browser.picture(tmp_path / "knows.png")
        await browser.key("keyUp", "KeyK")
        await browser.value("find('cut').click()")
        await browser.until("state.settings.cut && state.heard.flat().reduce((a, b) => a + b) === 4")
        await browser.value("find('num_class_a').value = 3; find('num_class_a').dispatchEvent(new Event('change'))")
        await browser.until("state.classes.length === 5")
        assert await browser.value("find('note').textContent") == ""
        await browser.call("Page.close")

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as chromium:
        try:
            asyncio.run(asyncio.wait_for(use(), WAIT_S))
        finally:
            chromium.kill()
    assert process.wait(WAIT_S) == 0  # the only page has been closed
