"""`python -m rllib_tag` is the `rllib` command, whichever package's command of that name was installed last."""

from rllib_tag.cli import main

main()
