"""A worker and who started it, which outlives it and writes down how it ended: as a container's runtime would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

#: Where to write the exit status, and how many seconds passed since the first signal.
ENDED = "SUPERVISED_WORKER_ENDED"

if __name__ == "__main__":
    signalled: list[float] = []
    # Signals reach the group; the worker has them too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: signalled.append(time.monotonic()))
    file = Path(os.environ.pop(ENDED))
    status = subprocess.run([sys.executable, "-m", "worker", "run"], check=False).returncode
    seconds = time.monotonic() - signalled[0] if signalled else 0
    written = file.with_suffix(".part")
    written.write_text(f"{status} {seconds}")
    written.rename(file)
