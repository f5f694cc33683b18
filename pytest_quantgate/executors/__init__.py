"""Where a step runs: one file per place."""
