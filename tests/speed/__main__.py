"""`python -m tests.speed [names] [--rounds 5]`: a table on screen, and tests/speed/results.json."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch

from tests.speed import cases, networks, recurrent
from tests.speed.cases import Row

CASES = cases.CASES | networks.CASES | recurrent.CASES
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Run the cases asked for on one thread; results of the others stay in the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.speed", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of interleaved runs (default 5)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in CASES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; known are {', '.join(CASES)}")
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": 1,
        "zero_gradient_candidates": "computed like all others, where a row does not say otherwise",
    }
    print(f"{'':70}{'against':36}{'ratio':>9}  {'goal':16}{'ms':>9}{'of peak':>9}")
    for name in options.names or CASES:
        rows = CASES[name](options.rounds)
        results[name] = {"rounds": options.rounds, "rows": rows}
        for row in rows:
            print(_line(row), flush=True)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _line(row: Row) -> str:
    ms = f"{row['ms']:9.1f}" if "ms" in row else " " * 9
    share = f"{row['share_of_peak']:9.0%}" if "share_of_peak" in row else ""
    return f"{row['what']:70}{row['against']:36}{row['ratio']:9.3g}  {row['goal']:16}{ms}{share}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
