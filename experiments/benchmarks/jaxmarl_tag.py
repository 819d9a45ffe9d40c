"""Prints environment steps per second, as JSON, of JaxMARL's `MPE_simple_tag_v3` under random actions."""

from __future__ import annotations

import json
import sys
import time

import jax
import jaxmarl

STEPS = 100


def main(num_envs: int, num_adversaries: int, num_good: int) -> None:
    """Steps and resets all environments within one compiled scan, as JaxMARL's own training does."""
    env = jaxmarl.make(
        "MPE_simple_tag_v3", num_good_agents=num_good, num_adversaries=num_adversaries, num_obs=2,
        max_steps=STEPS, action_type="Discrete",
    )  # fmt: skip

    def step(carry: tuple, moves: jax.Array) -> tuple:
        key, state = carry
        key, for_steps = jax.random.split(key)
        actions = dict(zip(env.agents, moves, strict=True))
        observations, state, rewards, _, _ = jax.vmap(env.step)(jax.random.split(for_steps, num_envs), state, actions)
        # Sums, so that the compiler can drop neither.
        return (key, state), (sum(o.sum() for o in observations.values()), sum(r.sum() for r in rewards.values()))

    play = jax.jit(lambda key, state, moves: jax.lax.scan(step, (key, state), moves))
    key, for_moves = jax.random.split(jax.random.PRNGKey(0))
    moves = jax.random.randint(for_moves, (STEPS, len(env.agents), num_envs), 0, 5)
    _, state = jax.vmap(env.reset)(jax.random.split(key, num_envs))
    (key, state), sums = play(key, state, moves)
    jax.block_until_ready(sums)
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < 3:
        (key, state), sums = play(key, state, moves)
        jax.block_until_ready(sums)
        rounds += 1
    print(json.dumps({"env_steps_per_s": rounds * STEPS * num_envs / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
