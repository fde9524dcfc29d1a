"""Measures rows, on a CPU and on a GPU in the same way.

All sides do the same computation with the same weights, each in its own process, so that none inherits another's settings, threads
or memory.  If a side fails, its error is reported and the others are measured.

A device's module, cpu.py or gpu.py, has

    SIDES           {name: a subclass of Side}
    TURNS           True: the sides take turns (A B C A B C), in new processes for each row.  False: each measures a row completely before
                    the next, in a process that it keeps.
    rows(quick)     yields every Row, or a few of them
    ceilings()      yields rows that measure the device's limits
    facts(options)  {name: value} about the machine.  "torch" is PyTorch's version, and is absent if PyTorch cannot be measured.
"""
import importlib
import multiprocessing
from collections import defaultdict

import numpy as np

from npsrgan.bench.rows import plain
from npsrgan.system.errors import first_line

PATIENCE = 600              # seconds to wait for an answer


class Side:
    """One side, in its own process.  Subclasses define `prepare`, `time` and `memory`, and `note`, `warm_up` and `clear` if needed."""

    note = None             # a remark to print

    def warm_up(self):
        """Called after the first run."""

    def clear(self):
        """Free the row's memory."""

    def begin(self, row):
        """Prepare a row and warm up.  Returns the first result; see `rows.plain`."""
        self.run = self.prepare(row)
        result = plain(self.run())
        self.warm_up()
        return result

    def finish(self):
        """(peak bytes, remark or None)."""
        found = self.memory(), self.note
        self.run = None
        self.clear()
        return found


class Failed(Exception):
    """A side gave no answer.  The message is the reason, in one line."""


def serve(pipe, device, side, options):
    """The loop of a side's process: call the side's method that each request names, and send its result, or a Failed."""
    module, made = importlib.import_module(f"npsrgan.bench.{device}"), None
    found = {row.name: row for row in [*module.rows(quick=False), *module.ceilings()]}
    while True:
        method, *names = pipe.recv()
        try:
            made = made or module.SIDES[side](options)
            pipe.send(getattr(made, method)(*map(found.get, names)))
        except Exception as error:
            pipe.send(Failed(f"{type(error).__name__}: {first_line(error)}"))


class Process:
    """A side's process.  It is replaced after an error, since no process survives one of CUDA's."""

    def __init__(self, device, side, options):
        self.arguments, self.pipe = (device, side, options), None

    def ask(self, *request):
        """The result of the side's method.  request: "begin" and a row's name, "time", or "finish".  Raises Failed."""
        if self.pipe is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, far_end = context.Pipe()
            self.process = context.Process(target=serve, args=(far_end, *self.arguments), daemon=True)
            self.process.start()
            far_end.close()
        try:
            self.pipe.send(request)
            answer = self.pipe.recv() if self.pipe.poll(PATIENCE) else Failed(f"no answer in {PATIENCE} s")
        except (EOFError, OSError):
            answer = Failed("its process ended early (out of memory?)")
        if isinstance(answer, Failed):
            self.close()
            raise answer
        return answer

    def close(self):
        if self.pipe:
            self.process.kill()
            self.process.join()
            self.pipe = None


def close(processes):
    """End all processes; those that are asked again start anew."""
    for process in processes.values():
        process.close()


def measure(row, processes, repeats):
    """Measure a row: {side: its first result}, of the sides that did not fail.

    Fills row.result with medians in seconds and their median absolute deviations, MB (10^6 bytes), remarks and errors.
    processes: {side: Process}, which take turns.   repeats: how often each is timed.
    """
    times, processes = defaultdict(list), dict(processes)

    def ask(*request):
        """{side: answer} of those that have not failed."""
        answers = {}
        for side, process in list(processes.items()):
            try:
                answers[side] = process.ask(*request)
            except Failed as error:
                row.result[f"{side}_error"] = str(error)
                del processes[side]
        return answers

    first = ask("begin", row.name)
    for _ in range(repeats):
        for side, seconds in ask("time").items():
            times[side] += seconds
    for side, (peak, note) in ask("finish").items():
        median = np.median(times[side])
        row.result |= {f"{side}_s": float(median), f"{side}_mb": peak / 1e6,
                       f"{side}_spread_s": float(np.median(np.abs(times[side] - median)))}
        if note:
            row.result[f"{side}_note"] = note
    return {side: first[side] for side in processes}


def find_limits(ceilings, process, precision):
    """{"flops": per second, "bytes": per second}, measured on the ceilings; precision: of the matrix product to use."""
    limits = {}
    for row in ceilings:
        measure(row, {"ours": process}, 5)
        if "ours_s" in row.result:
            limits |= {name: work / row.result["ours_s"] for name, work in (("flops", row.flops), ("bytes", row.bytes))
                       if work and row.precision in (None, precision)}
    return limits


def compare(row, first, limits):
    """Add to row.result the ratios of our side to the others, and the name of the fastest of these; the ratio of our speed to the
    limits; images per second; and the relative difference between the first results."""
    r = row.result
    if "ours_s" not in r:
        return
    others = [side for side in first if side != "ours"]
    for other in others:
        r[f"ratio_{other}"], r[f"memory_ratio_{other}"] = r["ours_s"] / r[f"{other}_s"], r["ours_mb"] / r[f"{other}_mb"]
    if others:
        r["fastest"] = min(others, key=lambda other: r[f"{other}_s"])
    if first["ours"] is not None and first.get("torch") is not None:
        r["difference"] = float(np.linalg.norm(first["ours"] - first["torch"]) / np.linalg.norm(first["torch"]))
    if row.step and "batch" in row.name:
        r["images_per_s"] = int(row.name.split()[-1]) / r["ours_s"]
    r |= {f"share_of_{name}": getattr(row, name) / r["ours_s"] / limits[name] for name in limits if getattr(row, name)}


def row_line(row):
    """A measured row as one line."""
    r, parts = row.result, [f"{row.name:36}"]
    for side in ("ours", "torch", "channels_last", "best"):
        if f"{side}_s" in r:
            parts.append(f"{side} {r[f'{side}_s'] * 1e3:9.3f} ms ±{r[f'{side}_spread_s'] * 1e3:6.3f} {r[f'{side}_mb']:6.0f} MB")
        elif f"{side}_error" in r:
            parts.append(f"{side} {r[f'{side}_error'][:60]}")
    if "fastest" in r:
        parts.append(f"ratio {r['ratio_' + r['fastest']]:5.2f} to {r['fastest']}, memory {r['memory_ratio_' + r['fastest']]:5.2f}")
    texts = {"share_of_flops": "{:.0%} of GEMM",
             "share_of_bytes": "{:.0%} of bandwidth", "images_per_s": "{:.0f} images/s", "difference": "difference {:.0e}",
             "ours_note": "ours {}"}
    return "  ".join(parts + [text.format(r[name]) for name, text in texts.items() if name in r])
