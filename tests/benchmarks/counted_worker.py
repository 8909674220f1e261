"""`unlink-worker run` that counts the calls of Python functions, of its own and of libraries, in all threads.

Run as `python -m tests.benchmarks.counted_worker FILE`; the counts are written to the file when the worker stops. A
count does not depend on what else the machine does, as time does.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from worker.service import run
from worker.settings import Settings, load, secrets_of
from worker.telemetry import logs

_calls: Counter[CodeType] = Counter()


def _count(frame: FrameType, event: str, argument: Any) -> None:
    del argument
    if event == "call":
        _calls[frame.f_code] += 1


def main(file: Path) -> None:
    """Run the worker until SIGTERM."""
    settings = load(Settings)
    logs.configure(settings.log, secrets_of(settings))
    threading.setprofile(_count)
    sys.setprofile(_count)
    run(settings)
    sys.setprofile(None)
    counts: Counter[str] = Counter()
    for code, count in _calls.items():
        counts[f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}"] += count
    file.write_text(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
