"""Everything that only a machine with a card can say, in one go:

    python tests/gpu/run_all.py --data FACES --vgg VGG19.h5 --out FOLDER [--minutes 9]

runs the tests on the card, the benchmark, and a short training on the images, prints one table, and leaves in FOLDER at most eight
files of less than 16 MB each: report.json, output.txt, log.csv, srresnet.h5, srgan.h5, result.png, loss.png and sample.png.  A stage
that fails, or takes longer than its share of the time that is left, is reported and does not stop the others.

FACES: a folder of images, or one that holds train/ and val/.   VGG19.h5: as for `python -m npsrgan.train --vgg`.
"""
import argparse
import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from npsrgan.device import select  # noqa: E402
from npsrgan.system.errors import UserError, command  # noqa: E402

SHARES = {"tests": 0.3, "benchmark": 0.4, "training": 0.3}        # of the time: who needs less leaves more to those behind
ENDING = 0.06                                                     # of the time, for starting and ending
WORKERS = 4                                                       # processes that test, where pytest-xdist is installed
HEADER = [("ours", 9), ("torch", 9), ("best", 9), ("/torch", 8), ("/best", 7), ("MB", 8), ("torch", 8), ("GEMM", 6), ("copy", 6)]
LARGEST = 16 * 2**20 - 1
KEPT = {"log.csv": "log.csv", "srresnet.h5": "srresnet.h5", "srgan.h5": "srgan.h5", "result.png": "result.png", "loss.png": "loss.png"}


def run(words, seconds, output, gently=False):
    """Run `python WORDS` for at most so many seconds.  gently: at their end ask it to stop, as Ctrl-C does, and give it time to save.

    Returns the exit status, or None if it had to be stopped.  What it says is appended to the file `output`.
    """
    with open(output, "a") as file:
        file.write(f"\n$ python {' '.join(map(str, words))}\n")
        file.flush()
        process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                                   start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            if gently:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def tests(work, seconds, options):
    """Every test that asks for CuPy's arrays: how many passed, failed and were skipped, and the first line of each failure."""
    words = ["-m", "pytest", "tests", "-q", "-k", "cupy", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={work / 'tests.xml'}"]
    several = ["-n", WORKERS] if importlib.util.find_spec("xdist") else []          # most of the time goes into compiling kernels
    status = run([*words, *several], seconds, work / "output.txt", gently=True)
    if not (work / "tests.xml").exists():
        return {"error": f"not done in {seconds:.0f} s" if status is None else f"pytest ended with status {status}"}
    cases = list(ElementTree.parse(work / "tests.xml").iter("testcase"))
    failed = {case.get("name"): (case.find(kind).get("message") or "").splitlines()[:1]
              for case in cases for kind in ("failure", "error") if case.find(kind) is not None}
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "failed": len(failed), "skipped": skipped, "failures": failed} | (
        {"ended": "out of time"} if status in (2, None) else {})


def benchmark(work, seconds, options):
    """Rows of the benchmark, whole training steps first, as many as the time allows."""
    path = work / "benchmark.json"
    status = run(["-m", "npsrgan.bench", "--device", "gpu", "--json", path], seconds, work / "output.txt")
    result = json.loads(path.read_text()) if path.exists() else {"error": "no row was finished"}
    return result | ({} if status == 0 else {"ended": "out of time" if status is None else f"with status {status}"})


def training(work, seconds, options, words=("--preset", "seed", "--device", "gpu", "--log-every", 200, "--save-every", 10**9)):
    """Train for the time there is, then write and measure what came of it."""
    out, faces = work / "run", Path(options.data)
    data = ["--data", faces / "train", "--val", faces / "val"] if (faces / "train").is_dir() else ["--data", faces]
    from npsrgan import storage
    start = time.monotonic()
    status = run(["-m", "npsrgan.train", *words, *data, "--vgg", options.vgg, "--steps", 10**6, "--out", out],
                 0.65 * seconds, work / "output.txt", gently=True)
    if not (out / "checkpoint.h5").exists():
        return {"error": f"no checkpoint (exit status {status})"}
    taken = storage.read(out / "checkpoint.h5")[1]["srresnet_steps"]
    rest = max(20, seconds - (time.monotonic() - start))
    run(["-m", "npsrgan.train", "--resume", "--steps", taken, "--out", out], rest, work / "output.txt")
    with open(out / "log.csv", newline="") as file:
        log = list(csv.DictReader(file))
    result = {"steps": taken, "log": [{name: float(value) for name, value in row.items() if value} for row in log]}
    if (out / "result.json").exists():
        result |= {name: value for name, value in json.loads((out / "result.json").read_text()).items() if name != "settings"}
    return result


STAGES = {"tests": tests, "benchmark": benchmark, "training": training}


def keep(work, out):
    """Copy what is worth keeping.  Returns what was left out, and why."""
    left_out, found = {}, {work / "run" / name: kept for name, kept in KEPT.items()}
    samples = sorted((work / "run" / "samples").glob("*.png"))
    found |= {samples[-1]: "sample.png"} if samples else {}
    for path, name in found.items():
        if not path.exists():
            left_out[name] = "was not written"
        elif path.stat().st_size > LARGEST:
            left_out[name] = f"has {path.stat().st_size / 2**20:.0f} MB"
        else:
            shutil.copy(path, out / name)
    if (work / "output.txt").exists():
        (out / "output.txt").write_bytes((work / "output.txt").read_bytes()[-LARGEST:])
    return left_out


def table(report):
    """The report in lines for people."""
    lines = [f"{report['gpu']}: {report['seconds']:.0f} s"]
    for name in STAGES:
        stage = report.get(name, {"error": "not begun"})
        notes = [str(stage[word]) for word in ("error", "ended") if word in stage]
        lines.append(f"--- {name}" + ": " * bool(notes) + ", ".join(notes))
        if "passed" in stage:
            lines.append(f"{stage['passed']} passed, {stage['failed']} failed, {stage['skipped']} skipped")
            lines += [f"  FAILED {test}: {' '.join(why)[:100]}" for test, why in list(stage["failures"].items())[:20]]
        if stage.get("rows"):
            lines.append("milliseconds".ljust(34) + "".join(word.rjust(width) for word, width in HEADER))
            lines += [_row(row) for row in stage["rows"]]
        if stage.get("log"):
            last = stage["log"][-1]
            lines.append(f"{stage['steps']} steps, {last['images_per_s']:.0f} images/s, "
                         f"{last['data_wait']:.1%} of the time waiting for data")
        lines += [f"  {method:9} PSNR {stage[method]['psnr_y']:6.2f} dB  SSIM {stage[method]['ssim_y']:.4f}"
                  for method in ("bicubic", "srresnet", "srgan") if method in stage]
    return "\n".join(lines)


def _row(row):
    def cell(name, width, form, factor=1):
        if name not in row:
            return ("error" if name.split("_")[0] + "_error" in row else "").rjust(width)
        return f"{row[name] * factor:{form}}".rjust(width)

    return (f"{row['name']:34}" + "".join(cell(f"{side}_s", 9, ".3f", 1e3) for side in ("ours", "torch", "best"))
            + cell("ratio_torch", 8, ".2f") + cell("ratio_best", 7, ".2f") + cell("ours_mb", 8, ".0f") + cell("torch_mb", 8, ".0f")
            + cell("share_of_flops", 6, ".0%") + cell("share_of_bytes", 6, ".0%") + f"  {row.get('ours_note', '')}".rstrip())


@command
def main(arguments=None):
    """The command.  Ends with status 1 if a test or a stage failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "vgg", "out"):
        parser.add_argument(f"--{name}", required=True, type=lambda path: Path(path).expanduser().absolute())
    parser.add_argument("--minutes", type=float, default=9, help="for everything (default: 9)")
    options = parser.parse_args(arguments)
    for path in (options.data, options.vgg):
        if not path.exists():
            raise UserError(f"there is no {path}")
    start, total = time.monotonic(), 60 * options.minutes
    report = {"gpu": select("gpu")[0].description}
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for name, stage in STAGES.items():
            left = (1 - ENDING) * total - (time.monotonic() - start)
            share = left * SHARES[name] / sum(SHARES[other] for other in list(STAGES)[list(STAGES).index(name):])
            try:
                report[name] = stage(Path(work), share, options) if share > 5 else {"error": "no time was left"}
            except Exception:       # one stage must not take the others with it
                report[name] = {"error": traceback.format_exc().splitlines()[-1]}
                traceback.print_exc()
            report["seconds"] = time.monotonic() - start
            report["left_out"] = keep(Path(work), options.out)
            (options.out / "report.json").write_text(json.dumps(report, indent=1))
    print(table(report))
    return int(any("error" in report[name] or report[name].get("failed") for name in STAGES))


if __name__ == "__main__":
    sys.exit(main())
