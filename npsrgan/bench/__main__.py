"""Measure our speed and memory on the CPU or the GPU, compared with PyTorch if torch is installed.

    python -m npsrgan.bench [--device gpu] [--quick] [--json FILE] [--profile] [--methods] [--loader] [--threads N]

rows.py says what is measured, driver.py how, and cpu.py and gpu.py by which clock.
"""
import argparse
import importlib
import json
import platform

import numpy as np

from npsrgan import fast
from npsrgan.bench.driver import Process, close, compare, find_limits, measure, row_line
from npsrgan.bench.loader import print_loader
from npsrgan.bench.methods import print_methods
from npsrgan.bench.profile import print_profile
from npsrgan.bench.rows import CONVOLUTIONS, QUICK
from npsrgan.system.errors import UserError, command, whole_number
from npsrgan.system.terminal import progress, say


@command
def main(arguments=None):
    """The command: measure and print every row, and write the JSON file after each."""
    parser = argparse.ArgumentParser(
        prog="python -m npsrgan.bench", usage="%(prog)s [options]", description="Measure the speed and memory of npsrgan, and of PyTorch "
        "if it is installed.", epilog="Example: python -m npsrgan.bench --quick")
    parser.add_argument("--quick", action="store_true", help="measure only a few rows, in about a minute")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="measure only the rows whose name contains one of these "
                        "words, such as srgan_step")
    parser.add_argument("--pairs", type=whole_number(1), default=5, metavar="N", help="number of measurements of each side (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to compute; on a GPU, whole training steps are "
                        "measured at batch sizes 16 and 64, and their parts at 16 (default: cpu)")
    parser.add_argument("--precision", choices=("tf32", "float32"), default="tf32", help="of convolutions on a GPU (default: tf32)")
    parser.add_argument("--threads", type=whole_number(1), metavar="N", help="number of CPU threads of both sides (default: one per core)")
    other = parser.add_argument_group("other measurements, in place of the comparison")
    other.add_argument("--profile", action="store_true", help="where the time of our SRGAN step goes, on a CPU")
    other.add_argument("--methods", action="store_true", help="the time of each convolution method; on a GPU, of each tile that is tried")
    other.add_argument("--loader", nargs="?", const="", metavar="FOLDER", help="training patches per second from a folder of images, a zip "
                       "archive and a pack of them (default: crops of a photograph)")
    arguments = parser.parse_args(arguments)
    if arguments.profile and arguments.device == "gpu":
        raise UserError("--profile measures the step on a CPU: leave out --device gpu")
    if arguments.loader is not None:
        return print_loader(arguments.loader)
    fast.set_threads(arguments.threads)
    machine = importlib.import_module(f"npsrgan.bench.{arguments.device}")
    facts = {**machine.facts(arguments), "threads": fast.get_threads(), "python": platform.python_version(), "numpy": np.__version__}
    rows = [row for row in machine.rows(arguments.quick)
            if any(word in row.name for word in arguments.only) and row.precision != arguments.precision]
    if not rows:
        raise UserError(f"no row's name contains {' or '.join(arguments.only)}")
    processes = {side: Process(arguments.device, side, arguments) for side in (machine.SIDES if "torch" in facts else ["ours"])}
    try:
        limits = find_limits(machine.ceilings(), processes["ours"], arguments.precision)
        facts |= {f"{name}_per_s": value for name, value in limits.items()}
        print(", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()))
        if arguments.profile:
            return print_profile(limits["flops"])
        if arguments.methods:
            return print_methods(QUICK if arguments.quick else CONVOLUTIONS, arguments, limits["flops"])
        if "torch" not in facts:
            print("PyTorch is not installed, or finds no GPU: our times alone")
        for row in progress(rows, desc="bench"):
            first = {}
            for group in [processes] if machine.TURNS else [{side: process} for side, process in processes.items()]:
                if machine.TURNS:           # new processes, since memory is a process's peak
                    close(processes)
                first |= measure(row, group, arguments.pairs)
            compare(row, first, limits)
            say(row_line(row))
            if arguments.json:
                with open(arguments.json, "w") as file:
                    json.dump({"rows": [{"name": row.name} | row.result for row in rows if row.result], "machine": facts}, file, indent=1)
    finally:
        close(processes)


if __name__ == "__main__":
    main()
