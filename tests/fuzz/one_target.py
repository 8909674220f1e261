"""Fuzz one target in this process, which libFuzzer ends: `python -m tests.fuzz.one_target NAME [its options]`."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr

import atheris
import structlog

# It names every module that it instruments.
with (
    redirect_stderr(io.StringIO()),
    atheris.instrument_imports(
        include=[
            *("worker.enterprise_manager", "http.client", "urllib3", "email", "defusedxml"),
            *(
                "contracts.reading",
                "contracts.commands",
                "worker.broker",
                "worker.ledger.documents",
                "worker.ledger.batches",
                "worker.cli.output",
                "worker.cli.watch",
                "pika.data",
                "pika.spec",
            ),
            *("worker.ledger.search_terms", "worker.ledger.rows", "worker.unlinks.outcome"),
        ]
    ),
):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    name, *options = sys.argv[1:]
    # The first argument is the command by which libFuzzer starts itself again, to merge.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.one_target {name}", *options], TARGETS[name])
    atheris.Fuzz()
