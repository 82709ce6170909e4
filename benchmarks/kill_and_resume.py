"""Is anything lost when work is killed at random moments, and how much longer does it take?

    python benchmarks/kill_and_resume.py

Three commands run in processes of their own: `assocjax sweep` with frequent checkpoints, `assocjax
tokenize` of a .jsonl file, and `assocjax statistics` of these tokens in sparse sums. Each runs once
undisturbed; then again, killed by SIGKILL at random moments of half that time, started again after
each, and at last left alone. Prints whether the files are the same, bit for bit, the time of all
starts against the undisturbed one, and the largest memory of any process, and writes the same as
JSON. With `--megabytes 2000 --corpus FILE.txt --commands tokenize statistics --kills 3` it answers
in how much memory a large text is tokenised and counted.
"""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from harness import device, finish, gibibytes, parser, repeated_text

from assocjax.corpora import read_documents


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--corpus", default="fables", help="whose documents are repeated")
    options.add_argument("--megabytes", type=float, default=60, help="of the text")
    options.add_argument("--steps", type=int, default=40, help="of the sweep")
    commands = ("sweep", "tokenize", "statistics")
    options.add_argument("--commands", nargs="+", choices=commands, default=commands)
    options = options.parse_args(arguments)
    kills, megabytes, steps = options.kills, options.megabytes, options.steps
    if options.small:
        kills, megabytes, steps = 1, 0.02, 3
        options.commands = ("statistics",)  # processes of a sweep take longest to begin
    rng = np.random.default_rng(options.seed)
    result: dict = {"kills": kills, "seed": options.seed, "megabytes": megabytes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repeated_text(folder / "text.jsonl", read_documents(options.corpus).documents, megabytes)
        sweep = ["sweep", "--num-sequences", "64", "--steps", str(steps), "--checkpoint-every", "1"]
        sweep += ["--learning-rates", "0.5", "1"]
        sweep += ["--seeds", "0", "1", "--init-scales", "0", "1e-4"]
        tokenize = ["tokenize", "--corpus", str(folder / "text.jsonl"), "--seq-len", "64"]
        count = ["statistics", "--corpus", str(folder / "tokenize-0"), "--matrices", "sparse"]
        files = {
            "sweep": (sweep, ["sweep.nc", "summary.json"]),
            "tokenize": (tokenize, ["tokens.bin", "tokens.json"]),
            "statistics": (count, ["counts.nc", "correlations.nc"]),
        }
        if "tokenize" not in options.commands:
            _run([*tokenize, "--out", str(folder / "tokenize-0")])
        print(f"{kills} kills of each on {device()}, text of {megabytes:g} MB")
        for what in options.commands:
            arguments, names = files[what]
            row = _compare(arguments, names, folder / what, kills, rng)
            result[what] = row
            same = "the same bits" if row["same"] else "DIFFERENT"
            print(
                f"{what:10} {same} as undisturbed; {len(row['killed_after_s'])} kills, after "
                f"{', '.join(f'{t:.1f}' for t in row['killed_after_s'])} s; all starts "
                f"{row['seconds'] / row['undisturbed_s']:.2f} of {row['undisturbed_s']:.1f} s; "
                f"at most {row['gib']:.2f} GiB",
                flush=True,
            )
    return finish(result, options.out)


def _compare(arguments, names, folder: Path, kills: int, rng) -> dict:
    undisturbed, memory = _run([*arguments, "--out", f"{folder}-0"])
    command, moments, spent = [*arguments, "--out", f"{folder}-1"], [], 0.0
    for _ in range(kills):
        moment = rng.uniform(0, undisturbed / 2)  # or it would end before it is killed so often
        seconds, gib = _run(command, killed_after=moment)
        spent, memory = spent + seconds, max(memory, gib)
        if seconds < moment:
            break  # it has ended before it could be killed so often
        moments.append(moment)
    seconds, gib = _run(command)
    spent, memory = spent + seconds, max(memory, gib)
    hashes = [[_hash(Path(f"{folder}-{i}") / name) for name in names] for i in (0, 1)]
    return {
        "same": hashes[0] == hashes[1],
        "killed_after_s": moments,
        "seconds": spent,
        "undisturbed_s": undisturbed,
        "gib": memory,
        "sha256": hashes[0],
    }


def _run(arguments: list[str], killed_after: float | None = None) -> tuple[float, float]:
    """Runs a command; returns the seconds it took, and the GiB that it held at most."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    began = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "assocjax.cli", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        killer = threading.Timer(killed_after or threading.TIMEOUT_MAX, process.kill)
        killer.daemon = True
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, -signal.SIGKILL if killed_after else 0):
            errors.seek(0)
            raise RuntimeError(errors.read().decode())
    return time.monotonic() - began, gibibytes(usage)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
