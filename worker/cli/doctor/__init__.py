"""`unlink-worker doctor`: the checks of a deployment, and what is expected of Enterprise Manager."""
