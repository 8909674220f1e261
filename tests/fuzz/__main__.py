"""Coverage-guided fuzzing: `make fuzz`, or `python -m tests.fuzz --seconds 60 document`.

It starts from the kept corpus. An input that breaks a promise is added to the corpus, where `test_corpus.py` fails on
it until the cause is mended. With `--keep`, inputs that reach code which the corpus did not reach are added too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.targets import TARGETS, WORDS

CORPUS = Path(__file__).with_name("corpus")

#: The longest input, in bytes.
LONGEST = 4096


def main() -> None:
    """Fuzz each target for a while; exit 1 if an input broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    names = ", ".join(sorted(TARGETS))
    parser.add_argument("target", nargs="*", default=sorted(TARGETS), help=f"of {names}; all, unless some are named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--keep", action="store_true", help="add to the corpus what reaches more code")
    options = parser.parse_args()
    if unknown := set(options.target) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    broken = [name for name in options.target if not _fuzz(name, options.seconds, keep=options.keep)]
    if broken:
        sys.exit(f"a promise is broken: {', '.join(broken)}; the input is the newest file in {CORPUS}")


def _fuzz(name: str, seconds: int, *, keep: bool) -> bool:
    kept = CORPUS / name
    with TemporaryDirectory() as folder:
        words, found = Path(folder, "words"), Path(folder, "found")
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS))
        found.mkdir()
        limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=10", "-rss_limit_mb=2048"]
        well = _run(name, str(found), str(kept), f"-dict={words}", f"-artifact_prefix={kept}/", *limits)
        if keep:
            _run(name, "-merge=1", f"-max_len={LONGEST}", str(kept), str(found))
        return well


def _run(*arguments: str) -> bool:
    return subprocess.run([sys.executable, "-m", "tests.fuzz.one_target", *arguments], check=False).returncode == 0


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    main()
