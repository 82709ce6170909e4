"""Is anything lost when work is killed at random moments, and how much longer does it take?

    python benchmarks/kill_and_resume.py

Two commands run in processes of their own: `assocjax sweep` with frequent checkpoints, and
`assocjax statistics` of a token file in sparse sums. Each runs once undisturbed; then again, killed
by SIGKILL at random moments of half that time, started again after each, and at last left alone.
Prints whether the files are the same, bit for bit, and the time of all starts against the
undisturbed one, and writes the same as JSON.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import device, finish, parser


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--sequences", type=int, default=4000, help="of the statistics")
    options.add_argument("--steps", type=int, default=40, help="of the sweep")
    options = options.parse_args(arguments)
    kills, sequences, steps = options.kills, options.sequences, options.steps
    if options.small:
        kills, sequences, steps = 1, 40, 3
    rng = np.random.default_rng(options.seed)
    result: dict = {"kills": kills, "seed": options.seed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = ["--num-documents", str(max(60, sequences // 2)), "--seq-len", "64"]
        tokenized = ["tokenize", *tokens, "--out", str(folder / "tokens")]
        subprocess.run(_command(tokenized), check=True, capture_output=True)
        sweep = ["sweep", "--num-sequences", "64", "--steps", str(steps), "--checkpoint-every", "1"]
        sweep += ["--learning-rates", "0.5", "1"]
        sweep += ["--seeds", "0", "1", "--init-scales", "0", "1e-4"]
        count = ["statistics", "--corpus", str(folder / "tokens"), "--seq-len", "64"]
        files = {
            "sweep": (sweep, ["sweep.nc", "summary.json"]),
            "statistics": (count, ["counts.nc", "correlations.nc"]),
        }
        if options.small:
            del files["sweep"]  # whose processes take longest to begin
        print(f"{kills} kills of each on {device()}")
        for what, (arguments, names) in files.items():
            row = _compare(arguments, names, folder / what, kills, rng)
            result[what] = row
            same = "the same bits" if row["same"] else "DIFFERENT"
            print(
                f"{what:10} {same} as undisturbed; {len(row['killed_after_s'])} kills, after "
                f"{', '.join(f'{t:.1f}' for t in row['killed_after_s'])} s; all starts "
                f"{row['seconds'] / row['undisturbed_s']:.2f} of {row['undisturbed_s']:.1f} s"
            )
    return finish(result, options.out)


def _compare(arguments, names, folder: Path, kills: int, rng) -> dict:
    began = time.monotonic()
    subprocess.run(_command([*arguments, "--out", f"{folder}-0"]), check=True, capture_output=True)
    undisturbed = time.monotonic() - began
    command, moments, spent = _command([*arguments, "--out", f"{folder}-1"]), [], 0.0
    while len(moments) < kills:
        moment = rng.uniform(0, undisturbed / 2)  # or it would end before it is killed so often
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, error = process.communicate(timeout=moment)
            if process.returncode:
                raise RuntimeError(error.decode())
            break  # it has ended before it could be killed so often
        process.kill()
        process.communicate()
        moments.append(moment)
        spent += time.monotonic() - began
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    spent += time.monotonic() - began
    hashes = [
        [hashlib.sha256((Path(f"{folder}-{i}") / name).read_bytes()).hexdigest() for name in names]
        for i in (0, 1)
    ]
    return {
        "same": hashes[0] == hashes[1],
        "killed_after_s": moments,
        "seconds": spent,
        "undisturbed_s": undisturbed,
    }


def _command(arguments: list[str]) -> list[str]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return [sys.executable, "-m", "assocjax.cli", *arguments]


if __name__ == "__main__":
    main()
