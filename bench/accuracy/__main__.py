"""Every table of PROTOCOLS with one command: learners and plain baselines side by side, several seeds.

    python -m bench.accuracy --ml-1m DIR --ml-100k DIR --out DIR [--only p1,p3] [--publish docs/results.md]

--ml-1m is the folder of MovieLens-1M (ratings.parquet, episodes.parquet, emerging/ ...), --ml-100k a dataset directory as
`metarec data fetch ml-100k` makes it. Protocols whose data is not given are left out and named. What is finished below --out is
not run again unless its settings, the data or the code have changed, which is told: an interrupted run goes on where it was.
Writes results.md, results.json and the plots into --out after every protocol, and with --publish the same page and plots there.
--collect runs nothing and writes them from what is there, whatever code it is from; missing pieces are named.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from bench.accuracy.command import EXIT_INTERRUPTED, ended, holding, ignore_ctrl_c, seed_list, setting
from bench.accuracy.page import which_half, write_json, write_page
from metarec.data.dataset import Dataset

PROTOCOLS = {"p1": "ml_1m", "p3": "ml_1m", "p5": "ml_100k", "p4": "ml_1m"}
"""Modules of this package by the data they need, the longest last."""
STOP_SECONDS, LAST_SECONDS = 5.0, 1.0
"""How long a protocol may take to end of Ctrl-C before it is told again, and after the second before it is killed."""


def run_protocol(name: str, data: Path, given: argparse.Namespace) -> int:
    """One protocol as a command of its own; its table goes to standard error."""
    command = [sys.executable, "-m", f"bench.accuracy.{name}", "--data", str(data), "--out", str(given.out.resolve() / name)]
    command += ["--seeds", given.seeds] if given.seeds else []
    command += [part for setting in given.set for part in ("--set", setting)]
    command += ["--threads", str(given.threads)] + (["--collect"] if given.collect else [])
    print(" ".join(command), file=sys.stderr, flush=True)
    process = subprocess.Popen(command, stdout=sys.stderr)
    try:
        return process.wait()
    except KeyboardInterrupt:
        _stop(process)
        # However it ended then.
        return EXIT_INTERRUPTED


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end that Ctrl-C asked for, and hand it on where the terminal has not; a second Ctrl-C ends it at once.

    What is finished is kept, whenever it comes.
    """
    try:
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
    except KeyboardInterrupt:
        ignore_ctrl_c()
        process.send_signal(signal.SIGINT)  # it may have a process of its own to end
        try:
            process.wait(timeout=LAST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def collect(given: argparse.Namespace) -> None:
    """results.md and results.json of all that is there, and the published page."""
    data = {}
    if given.ml_1m:
        data["MovieLens-1M"] = which_half(given.ml_1m)
    if given.ml_100k:
        dataset = Dataset.open(given.ml_100k)
        data["MovieLens-100K"] = f"whole ({len(dataset.interactions):,} interactions, fingerprint {dataset.fingerprint})"
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out)
    write_page(given.out, given.out / "results.md", given.out / "plots", data)
    if given.publish:
        write_page(given.out, given.publish, given.publish.parent / given.publish.stem, data)


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """What the protocols would refuse, one after the other, is refused once and sooner."""
    try:
        for check, texts in ((seed_list, [given.seeds] if given.seeds else []), (setting, given.set)):
            for text in texts:
                check(text)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))


def _option(name: str) -> str:
    return f"--{PROTOCOLS[name].replace('_', '-')}"


def main() -> int:
    """The command: 0 when every protocol whose data was given ran, 1 when one of them failed, 2 for wrong usage, 130 stopped."""
    parser = argparse.ArgumentParser(
        prog="bench.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ml-1m", type=holding("ratings.parquet", "episodes.parquet", "emerging/train.parquet"), help="folder of MovieLens-1M"
    )
    parser.add_argument("--ml-100k", type=holding("dataset.json"), help="dataset directory of MovieLens-100K")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PROTOCOLS), help="protocols, comma-separated")
    parser.add_argument("--seeds", default="", help="of training; by default 0 to 2, for p4 0 to 4")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="recipe settings of every protocol")
    parser.add_argument("--threads", type=int, default=0, help="of training; 0: the cores, up to 8")
    parser.add_argument("--collect", action="store_true", help="run nothing: write what is there")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="write the page there too, plots into a folder beside it")
    given = parser.parse_args()
    names = given.only.split(",")
    unknown = sorted(set(names) - set(PROTOCOLS))
    if unknown:
        parser.error(f"unknown protocols: {', '.join(unknown)}; use {', '.join(PROTOCOLS)}")
    if not any(getattr(given, PROTOCOLS[name]) for name in names):
        parser.error(f"no data for {', '.join(names)}: give {' or '.join(sorted({_option(name) for name in names}))}")
    _check(parser, given)
    failed: list[str] = []
    for name in names:
        data = getattr(given, PROTOCOLS[name])
        if data is None:
            print(f"{name} left out: it needs {_option(name)}", file=sys.stderr)
            continue
        status = run_protocol(name, data.resolve(), given)
        if status == EXIT_INTERRUPTED:
            return status
        failed += [name] if status else []
        collect(given)
    print((given.out / "results.md").read_text() if (given.out / "results.md").exists() else "no results")
    if failed:
        print(f"failed: {', '.join(failed)}; what went wrong is said above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(ended(main))
