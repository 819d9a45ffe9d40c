"""`python -m rllib_tag` is the `rllib` command, whichever package's command of that name was installed last."""

import sys

from rllib_tag.cli import main

sys.argv[0] = "rllib"  # as records of a run name it
main()
