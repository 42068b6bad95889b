"""Questions asked of the log: runs, replays, comparisons and their statistics."""
