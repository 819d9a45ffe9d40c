"""Names that results, tables and figures share: policies, metrics, baselines and the size of a game."""

from __future__ import annotations

from collections.abc import Container

POLICIES = ("class_a", "class_b")
GOOD_POLICY = "good"
GOOD_POLICIES = ("random", "evasive", "learned")  # what controls good agents, besides exported weights

GAME = ("num_class_a", "num_class_b", "num_good", "num_obstacles")  # the keys that determine the size of a game

# Episode metrics, whose names are the same in custom metrics, CSV and tables, with their labels in tables and their
# number formats.
METRICS = {
    "return_adversary": ("return per adversary", "{:.1f}"),
    "return_class_a": ("return per class A", "{:.1f}"),
    "return_class_b": ("return per class B", "{:.1f}"),
    "return_good": ("return per good agent", "{:.1f}"),
    "contacts": ("contacts", "{:.1f}"),
    "captured": ("captured", "{:.0%}"),
    "steps_to_first_contact": ("steps to first contact", "{:.1f}"),
    "mean_links": ("links per adversary", "{:.2f}"),
}
RETURN_ADVERSARY = "return_adversary"  # the metric by which teams are compared
TAG = "tag"  # what messages call the game that `env_config: {game: …}` does not name
RETURN_TEAM = "return_team"  # the same in games other than tag
METRICS_OF_ALL_GAMES = (RETURN_TEAM, "mean_links")  # other than tag, without those of the game itself


def team_return(metrics: Container[str]) -> str:
    """Returns the one of an episode's metrics by which teams are compared."""
    return RETURN_ADVERSARY if RETURN_ADVERSARY in metrics else RETURN_TEAM


# Metrics of how much a class's policy depends on the other class's messages, with labels and number formats.
INFLUENCE = {
    "kl": ("KL divergence from the policy without them (nats)", "{:.3f}"),
    "logit_shift": ("mean absolute logit change", "{:.3f}"),
    "action_changes": ("most likely action changes", "{:.0%}"),
    "heard": ("teammates heard", "{:.2f}"),
    "attention_entropy": ("entropy of attention (nats)", "{:.3f}"),
    "attention_entropy_uniform": ("entropy of uniform attention (nats)", "{:.3f}"),
}

# Baselines, and their labels in figures.
RANDOM = "random"  # the only baseline that all games have
BASELINES = {
    RANDOM: "random",
    "class_b_chases": "class B chases, class A random",
    "all_chase": "all chase, full information",
}
