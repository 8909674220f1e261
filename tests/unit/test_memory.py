"""What the process does with memory that it does not need any more."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

#: Eight threads read a document of 8 MB one after the other, and stay. Prints by how many MB the process has grown.
READERS = """
import threading
from worker import memory
from worker.enterprise_manager.documents.reading import read_document

document = b'[' + b'{"Name": "Scale-out 3", "Type": "RepositoryReference"},' * 20_000 + b'"' + b'x' * 7_000_000 + b'"]'

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024

def read(done, over):
    read_document(document)
    done.set()
    over.wait()

{prepare}
read_document(document)
before, over = resident(), threading.Event()
for _ in range(8):
    done = threading.Event()
    threading.Thread(target=read, args=(done, over)).start()
    done.wait()
print(resident() - before)
over.set()
"""


def growth(prepare: str) -> int:
    """By how many MB reading grows a process."""
    program = [sys.executable, "-c", READERS.replace("{prepare}", prepare)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True, timeout=90).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_threads_keep_nothing_of_the_long_documents_that_they_have_read() -> None:
    """In an hour of large lists a worker grew to 270 MB, 20 MB for each thread that had read one."""
    kept, given_back = growth(""), growth("memory.prepare()")
    assert given_back < kept / 2
