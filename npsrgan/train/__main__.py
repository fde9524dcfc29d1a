"""Train SRResNet and SRGAN:  python -m npsrgan.train --help

Top to bottom: the run, its images, the training loop, and the results.
"""
import dataclasses
import math
import sys
import time
import traceback
import warnings
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

from npsrgan import storage
from npsrgan.data import Batches, DeadLeaves, Photograph, by_partition, open_images, split, upscale, validation_pairs
from npsrgan.data.folder import PARTITION
from npsrgan.device import select
from npsrgan.fast import keep_memory, set_threads
from npsrgan.inference import apply_in_tiles, fold
from npsrgan.metrics import CAP, psnr, ssim
from npsrgan.ops.operation import reference_only
from npsrgan.system import files
from npsrgan.system.errors import Stopped, UserError, command, on_gpu, on_signal
from npsrgan.system.terminal import progress, say
from npsrgan.system.workers import connect, ending_all
from npsrgan.train import checkpoint, folder, report
from npsrgan.train.checkpoint import Diverged
from npsrgan.train.settings import merge, parse
from npsrgan.trainer import Trainer, numbers


@command
def main(arguments=None):
    """The command.  Returns the exit status: 0 when done, 128 plus the signal number if a signal stopped it after a step (130 for Ctrl-C).

    Raises SystemExit with the status if it ends in any other way.
    """
    workers = connect()
    with workers.in_background(), ExitStack() as held:
        settings, resume, force, given = workers.share(lambda: parse(arguments))
        out = workers.share(lambda: folder.choose(settings, resume))
        if out.is_dir() and workers.rank == 0:
            held.enter_context(files.locked(out))
        return run(settings, resume, force, given, out, held, workers)


def run(settings, resume, force, given, out, held, workers):
    """Do what the command line asks for.  held: an ExitStack that keeps the lock on a folder created here."""
    saved = workers.in_turn(lambda: folder.find_checkpoint(out / "checkpoint.h5", resume))
    if saved:
        of_checkpoint, *state = saved
        settings = merge(of_checkpoint, settings, given)
        for name in ("data", "val", "vgg"):
            path = getattr(settings, name)
            if path and not Path(path).exists():
                raise UserError(f"{path} does not exist any more: give its new path with --{name}")
    settings.validate()
    if settings.batch_size % workers.size:
        raise UserError(f"a batch of {settings.batch_size} cannot be divided equally among {workers.size} processes: "
                        f"give a --batch-size that is a multiple of {workers.size}")
    set_threads(settings.threads or workers.threads)
    keep_memory()
    device, remark = select(settings.device, workers.local_rank)
    if workers.highest(bool(device.cuda))[0] != bool(device.cuda):
        raise UserError("some processes have a GPU and this one has none: start one process for each GPU, or give --device cpu")
    say(remark or device.description)
    if workers.size > 1:
        say(f"{workers.size} processes, each with {settings.batch_size // workers.size} of a batch's {settings.batch_size} images")
    if device.cuda:
        from npsrgan.fast import cuda
        from npsrgan.fast.cuda.nccl import on_gpus
        cuda.set_precision(settings.precision)
        workers = on_gpus(workers, device, say)
        say("the first steps are slow, because the kernels are compiled for this GPU once")

    images = None if saved else sources(settings)        # a missing folder is reported before the networks are built
    trainer = Trainer(settings, device, say, fresh=not saved, workers=workers)
    attributes = {}
    if saved:
        attributes = state[1]
        checkpoint.restore(trainer, *state)
        del saved, state        # they take as much memory as all networks and Adam's moments
        if trainer.steps >= settings.total_steps and (out / "result.json").exists():
            say(f"this run is finished ({trainer.steps} steps); to continue, give a larger --steps or --gan-steps")
            return 0
        say(f"continuing from step {trainer.steps} of {settings.total_steps}")
    training, validation = images or sources(settings)
    trainer.inputs = {"data": training.contents(), "val": validation.contents(), "vgg": checkpoint.vgg_contents(trainer)}
    require_same(attributes, trainer.inputs, force)
    if workers.rank == 0:
        existed = out.is_dir()
        out = folder.prepare(out, fresh=not (settings.out or resume))
        if not existed:
            held.enter_context(files.locked(out))
    say(f"results in {folder.shown(out)}")

    try:
        with reference_only() if settings.reference else nullcontext():
            stopped = train(trainer, training, validation, out)
            if not stopped:
                if workers.rank == 0:
                    finish(trainer, validation, out)
                return 0
        say(f"stopped after step {trainer.steps} and saved; {folder.how_to_continue(out)}")
        return stopped.status
    except KeyboardInterrupt as error:
        say(f"interrupted; {folder.how_to_continue(out)}")
        raise SystemExit(getattr(error, "status", 130)) from None
    except OSError as error:
        raise UserError(f"writing to {folder.shown(out)} failed ({error.strerror or error}); {folder.how_to_continue(out)}") from error


def require_same(attributes, inputs, force):
    """Raise UserError if a run would resume with other images or another VGG19 than it was saved with; with --force, only report it."""
    for name, now in inputs.items():
        before = attributes.get(f"{name}_contents")
        if before and now and before != now:
            change = f"--{name} is not what this run was saved with ({now}; it had {before})"
            if not force:
                raise UserError(f"{change}: give the same one, or continue with --force")
            say(change)


def sources(settings):
    """(training images, validation images)."""
    if not settings.data:
        generated = DeadLeaves(settings.leaves, 2 * settings.image_size, settings.seed)
        return generated, open_images(settings.val) if settings.val else Photograph()
    images = open_images(settings.data, settings.cache * 2**20)
    if settings.val:
        return images, open_images(settings.val)
    training, validation, test = by_partition(images)
    if training and validation:
        say(f"no --val given: by {PARTITION}, {len(training)} images are for training and {len(validation)} for validation; "
            f"{len(test)} are left for python -m npsrgan.evaluate")
    else:
        training, validation = split(images)
        say(f"no --val given: {len(validation)} of {len(images)} images, chosen by file name, are kept for validation")
    return training, validation


def train(trainer, training, validation, out):
    """Take the remaining steps and save a checkpoint.  Returns the errors.Stopped if a signal asked to stop, else None.

    Raises Diverged for a loss that is not finite; the last checkpoint predates it.  On a CPU every loss is checked; on a GPU, only
    those of steps that are logged or saved, so that it never waits for Python.
    Raises UserError if memory runs out; for a GPU, the message gives a batch size that fits.
    """
    s, total, workers = trainer.settings, trainer.settings.total_steps, trainer.workers
    if trainer.steps >= total:
        return None
    first = workers.rank == 0       # this one writes
    pairs = first and list(validation_pairs(validation, s.scale, s.val_count, say, s.photo))
    log = first and report.Log(out / "log.csv", trainer.steps)
    batches = Batches(training, s.batch_size, s.patch_size, s.scale, s.seed, s.photo, report=say if first else None,
                      rank=workers.rank, ranks=workers.size)
    saved = counted = trainer.steps
    saved_at = clock = time.perf_counter()
    shortage = None
    with (stop_signals() as stop, closing(batches.ahead_from(trainer.steps, total)) as stream,
          warnings.catch_warnings(action="ignore", category=RuntimeWarning),        # about overflows: `require_finite` reports them
          progress(total=total, initial=trainer.steps, unit=" steps") as bar):
        feed = trainer.feed(stream)
        for _, lr, hr in feed:
            step = trainer.steps + 1
            logged = step % s.log_every == 0 or step in (total, s.steps)
            try:
                losses = trainer.step(lr, hr, diagnose=logged)
                if logged or not trainer.device.cuda:
                    losses = require_finite(workers.row(numbers(losses)), step)
                    bar.set_postfix({name: f"{losses[name]:.3g}" for name in report.LOSSES if name in losses}, refresh=False)
                bar.update()
                if logged:
                    seconds = time.perf_counter() - clock
                    row = losses | {"step": step, "images_per_s": (step - counted) * s.batch_size / seconds,
                                    "data_wait": min(feed.waited() / seconds, 1.0)}
                if logged and first:
                    try:
                        row |= validate(trainer, pairs, out, step)
                    except Exception as error:      # whatever fails in validation, keep the training so far
                        with suppress(Exception):
                            checkpoint.save(out / "checkpoint.h5", trainer)
                            saved = step
                        if isinstance(error, MemoryError):
                            raise UserError(f"out of memory{on_gpu(error)} while validating at step {step}, {kept(saved)}: "
                                            "give smaller images with --val, or fewer with --val-count") from None
                        raise
                    log.add(row)
                    say(report.health_line(row, total, s.generator))
                    clock, counted = time.perf_counter(), step
                due = time.perf_counter() - saved_at >= 60 * s.save_minutes or s.save_every and step % s.save_every == 0
                due, signal = workers.highest(due, stop[0].number if stop else 0)       # read once: a later one stops the next step
                if due or step == total or signal:
                    require_finite(workers.row(numbers(losses)), step)
                    if first:
                        checkpoint.save(out / "checkpoint.h5", trainer)
                    saved, saved_at = step, time.perf_counter()
            except Diverged as error:
                raise Diverged(f"{error}: training stopped and {kept(saved)}; start anew with {remedy(s, step)}") from None
            except MemoryError as error:
                traceback.clear_frames(error.__traceback__)     # the frames hold all arrays of the step
                shortage = f"out of memory{on_gpu(error)} at step {step}"
                break
            if signal:
                break
        if shortage:
            fits = trainer.largest_batch(lr, hr) if trainer.device.cuda and workers.size == 1 else 0
            raise UserError(f"{shortage}, {kept(saved)}: " + (f"--batch-size {fits} fits" if fits else "try a smaller --batch-size"))
    if batches.skipped:
        say(f"{len(batches.skipped)} of {len(training)} training images could not be used and were skipped")
    return Stopped(signal) if signal else None


@contextmanager
def stop_signals():
    """Context manager: a first signal is appended to the list and does not interrupt the step; a second interrupts at once."""
    received = []

    def handle(number, frame):
        received.append(Stopped(number))
        if len(received) > 1:
            raise received[0]
        say("stopping after this step ...")

    with on_signal(handle):
        yield received


def require_finite(losses, step):
    """Return the losses, {name: number}.  Raises Diverged if one is NaN or infinite."""
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise Diverged(f"at step {step} the loss {bad[0]} is {losses[bad[0]]}")
    return losses


def remedy(settings, step):
    """What to change after a run diverged: a setting that is far too large; at step 1, the initial weights; otherwise the
    learning rate."""
    suspects = ("pixel_weight", "perceptual_weight", "adversarial_weight", "leaky_slope", "feature_scale")
    huge = [name for name in suspects if (getattr(settings, name) or 0) > 1000]
    if huge:
        return f"a smaller --{huge[0].replace('_', '-')} (it is {getattr(settings, huge[0]):g})"
    given = [f"--{name}" for name in ("init", "vgg") if getattr(settings, name)]
    if step == 1 and given:
        return f"other weights in {' and '.join(given)}: nothing was learned yet"
    return "a smaller --gan-learning-rate" if not settings.together and step > settings.steps else "a smaller --learning-rate"


def kept(saved):
    """Words on the checkpoint to resume from.  saved: the step of the last checkpoint, or 0."""
    return f"the checkpoint of step {saved} is kept" if saved else "there was no checkpoint yet"


def validate(trainer, pairs, out, step):
    """Mean PSNR on the validation images in memory, as columns of the log.  Also writes a sample picture of the first one."""
    s, first = trainer.settings, {}
    row = {"bicubic_psnr": np.mean([min(psnr(upscale(lr, s.scale), hr, s.scale), CAP) for _, lr, hr in pairs])}
    for name, label in report.generators(trainer).items():
        generator = fold(trainer.trained(name))
        enlarged = [apply_in_tiles(generator, lr, trainer.device) for _, lr, _ in pairs]
        row[f"{name}_psnr"] = np.mean([min(psnr(sr, hr, s.scale), CAP) for sr, (_, _, hr) in zip(enlarged, pairs)])
        first[label] = enlarged[0]
    name, lr, hr = pairs[0]
    report.sample_picture(out / "samples" / f"step_{step:07}.png", lr, first, hr, f"{name}, step {step}")
    return {name: float(value) for name, value in row.items()}


def finish(trainer, validation, out):
    """Write the weights; evaluate on every validation image; write the picture, the curves and result.json."""
    s, scores = trainer.settings, {"bicubic": []}
    labels = report.labels(s.generator)
    about = f"trained by npsrgan, preset {s.preset}, {trainer.srresnet_steps} {s.generator} and {trainer.srgan_steps} SRGAN steps"
    for name in trainer.networks:
        storage.save_network(out / f"{name}.h5", trainer.trained(name), about)
    log = report.Log(out / "log.csv", trainer.steps)
    log.plot(out / "loss.png", s.generator)
    generators = {name: fold(trainer.trained(name)) for name in report.generators(trainer)}
    pairs = validation_pairs(validation, s.scale, s.final_count, say, s.photo)
    for name, lr, hr in progress(pairs, "measuring", min(s.final_count, len(validation)), unit=" images", delay=2):
        results = {"bicubic": upscale(lr, s.scale)}
        results |= {name: apply_in_tiles(generator, lr, trainer.device) for name, generator in generators.items()}
        for method, image in results.items():
            scores.setdefault(method, []).append((min(psnr(image, hr, s.scale), CAP), ssim(image, hr, s.scale)))
        if len(scores["bicubic"]) == 1:
            named = {labels[method]: image for method, image in results.items()}
            report.comparison_picture(out / "result.png", lr, named, hr, f"{name}, which training never saw")
    count = len(scores["bicubic"])
    result = report.write_result(out / "result.json", scores, count, dataclasses.asdict(s))
    say("", f"on {count} held-out image{'s' * (count > 1)}, Y channel, without a border of {s.scale} pixels:")
    for method, score in result.items():
        say(f"  {labels[method]:9} PSNR {score['psnr_y']:6.2f} dB   SSIM {score['ssim_y']:.4f}")
    say(f"in {folder.shown(out)}: result.png to look at, loss.png, log.csv, result.json, and the weights "
        + ", ".join(f"{name}.h5" for name in trainer.networks))


if __name__ == "__main__":
    sys.exit(ending_all(main))
