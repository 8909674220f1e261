"""`unlink-worker doctor`: the checks of a deployment, and of the worker's assumptions about Enterprise Manager."""
