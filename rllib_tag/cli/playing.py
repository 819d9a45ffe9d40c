"""The commands that play: `rllib evaluate`, `transfer`, `rollout`, `play` and `export`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

import typer

import rllib_tag.cli.options as opt
from rllib_tag.cli.output import Progress, console, joined
from rllib_tag.errors import ConfigError, check_choice
from rllib_tag.experiment.pretrained import DEFAULT_TEAM
from rllib_tag.files import write_files


@opt.takes
def evaluate(
    game: opt.GameOptions,
    checkpoint: opt.Team = DEFAULT_TEAM,
    episodes: opt.Episodes = 128,
    seed: opt.Seed = 1_000_000,
    out: Annotated[str, typer.Option("--out", help="Folder for the results (CSV, JSON).")] = "evaluation",
    stochastic: opt.Stochastic = False,
    baseline: opt.Baselines = None,
    yardstick: opt.Yardsticks = None,
    beside: Annotated[
        list[str] | None, typer.Option("--beside", help="Also play another team: NAME=CHECKPOINT; may be repeated.")
    ] = None,
    messages: Annotated[
        list[str] | None,
        typer.Option(
            "--messages",
            help="Also play the team under this channel intervention: cut, swap, shuffle, silence[:NAME], delay:STEPS, "
            "drop:P, range:R, quantize:BITS, or all for a series of them (without quantize, which needs a team with "
            "encoder: shared); may be repeated.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Play seeded episodes with a trained team of any size; print a table, write CSV and JSON."""
    from rllib_tag.playing.channel import read_conditions
    from rllib_tag.playing.evaluate import FILES
    from rllib_tag.playing.evaluate import evaluate as run
    from rllib_tag.report.table import conditions_table, influence_table, read_summary, summary_table

    overrides = _overrides(game)
    opt.check_outputs(out, FILES)
    baselines = (baseline or []) + (yardstick or [])
    others, conditions = _named("--beside", beside or []), messages or []
    team = restored(checkpoint, overrides)
    played = read_conditions(conditions, team.env_config_for(**overrides))
    with Progress("episodes", episodes * (1 + len(baselines) + len(others) + len(played))) as advance:
        result = run(
            team, episodes=episodes, first_seed=seed, deterministic=not stochastic, baselines=baselines,
            beside=others, messages=conditions, on_episodes=advance, **overrides,
        )  # fmt: skip
    paths = result.write(out)
    content = read_summary(out)
    console.print(summary_table(content))
    if conditions:
        console.print(conditions_table(content))
        console.print(influence_table(content))
    console.print(f"wrote {joined(paths)}")


def transfer(
    checkpoint: opt.Team = DEFAULT_TEAM,
    episodes: opt.Episodes = 128,
    seed: opt.Seed = 1_000_000,
    out: Annotated[str, typer.Option("--out", help="Folder for transfer.csv and the heat map.")] = "transfer",
    native: Annotated[
        list[str] | None,
        typer.Option(
            "--native", help="Also play this team on the game of the grid that it was trained on; may be repeated."
        ),
    ] = None,
    largest: Annotated[int, typer.Option("--largest", help="Maximum number of members per class.")] = 6,
) -> None:
    """Play a trained team, without further training, with 0 to 6 members per class; write a CSV and a heat map."""
    from rllib_tag.files import as_csv
    from rllib_tag.playing.transfer import transfer as run
    from rllib_tag.playing.transfer import transfer_games
    from rllib_tag.report.figures import IMAGES, image
    from rllib_tag.report.heat_map import draw_heat_map

    plots = {f"transfer{suffix}": suffix for suffix in IMAGES}
    opt.check_outputs(out, ["transfer.csv", *plots])
    team = restored(checkpoint)
    with Progress("games", len(transfer_games(team.tag_config_for("transfer"), largest))) as advance:
        rows = run(
            team, natives=native or [], largest=largest, episodes=episodes, first_seed=seed,
            on_game=lambda _: advance(1),
        )  # fmt: skip
    drawn = draw_heat_map(rows)
    images = {name: image(drawn, suffix) for name, suffix in plots.items()}
    console.print(f"wrote {joined(write_files(out, {'transfer.csv': as_csv(rows), **images}))}")


@opt.takes
def rollout(
    game: opt.GameOptions,
    checkpoint: opt.Team = DEFAULT_TEAM,
    episodes: opt.Episodes = 1,
    seed: opt.Seed = 1_000_000,
    out: Annotated[str, typer.Option("--out", help="Folder for the recorded episodes.")] = "rollout",
    video: Annotated[
        list[str] | None,
        typer.Option("--video", help="gif, mp4, html (a page with a slider) or none; may be repeated. [default: gif]"),
    ] = None,
    with_messages: Annotated[
        bool, typer.Option("--with-messages", help="Also write the messages sent, of a team with encoder: shared.")
    ] = False,
) -> None:  # fmt: skip
    """Record episodes step by step, as JSON and as video with the communication graph."""
    from rllib_tag.playing.rollout import rollout as run
    from rllib_tag.report.replay import replay_page
    from rllib_tag.report.video import FORMATS
    from rllib_tag.report.video import video as draw

    kinds: dict[str, Any] = {**{form: partial(draw, form=form) for form in FORMATS}, "html": replay_page}
    wanted = video or ["gif"]
    for name in wanted:
        check_choice("--video", name, [*kinds, "none"])
    overrides = _overrides(game)
    suffixes = ("json", "messages.npz", *kinds)
    opt.check_outputs(out, [f"episode_{seed + i}.{suffix}" for i in range(episodes) for suffix in suffixes])
    run(
        restored(checkpoint, overrides), out, episodes=episodes, first_seed=seed,
        views={kind: view if kind in wanted else None for kind, view in kinds.items()},
        on_episode=lambda written: console.print(f"wrote {joined(written)}"), messages=with_messages, **overrides,
    )  # fmt: skip


@opt.takes
def play(
    game: opt.PlayOptions,
    checkpoint: opt.Team = DEFAULT_TEAM,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first round; the others count up from it.")] = 0,
    port: Annotated[int, typer.Option("--port", help="Port of the page, of at least 1024; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Play the prey yourself, with the arrow keys, in a browser, against a trained team that plays live."""
    from rllib_tag.playing.live_game import Settings
    from rllib_tag.playing.play import play as run
    from rllib_tag.report.replay import play_page

    team = restored(checkpoint)
    changes = {key: value for key, value in dataclasses.asdict(game).items() if value is not None}
    settings = Settings.as_trained(team.env_config, **changes)

    def said(url: str) -> None:
        console.print(f"Press Ctrl-C or close the page to stop. Play at {url}")

    run(play_page(), team, settings, seed, port, browser, said)


def export(
    checkpoint: opt.Checkpoint,
    out: Annotated[
        str, typer.Option("--out", help="Folder to write: a new one, or an earlier export to replace.")
    ] = "exported",
) -> None:
    """Write each policy's weights as safetensors, with a JSON manifest; they open without unpickling anything."""
    from rllib_tag.places import check_output
    from rllib_tag.playing.restore import export as run

    check_output(out, is_file=True)
    console.print(f"wrote {run(checkpoint, out)}")


def _overrides(game: opt.GameOptions) -> dict[str, Any]:
    """Returns the options of the game that a command was given, as keys of `TagEnv`."""
    from rllib_tag.playing.evaluate import parse_overrides

    return parse_overrides(**dataclasses.asdict(game))


def restored(checkpoint: str, overrides: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Returns a team, and says which one it is and, if options change its game, what it plays."""
    import torch

    from rllib_tag.playing.restore import game_in_words, restore

    # Networks this small gain nothing from more threads, which wait for each other when another process has a core.
    torch.set_num_threads(1)
    team = restore(checkpoint)
    team.check_options(overrides)
    console.print(f"{checkpoint}: trained on {team.training}")
    if overrides:
        team.env_config_for(**overrides)  # what is wrong with it is said first
        other = "".join(
            f", {key} {value:g}" for key, value in overrides.items() if key in ("num_obstacles", "comm_range")
        )
        console.print(f"plays {game_in_words({**team.env_config, **overrides})}{other}")
    return team


def _named(option: str, given: list[str]) -> dict[str, str]:
    """Returns NAME=VALUE options as a mapping."""
    out = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value or name in out:
            raise ConfigError(
                f"{option}: expected NAME=CHECKPOINT, each name once, got {text!r}. "
                "Give each team a name of its own, such as old=out/old."
            )
        out[name] = value
    return out
