"""`python -m worker` is `unlink-worker`."""

from worker.cli import main

main()
