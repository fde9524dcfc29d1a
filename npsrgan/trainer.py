"""The training steps of SRResNet and SRGAN."""
import copy
import math
import traceback

import numpy as np

from npsrgan import losses, ops, storage
from npsrgan.adam import Adam, schedule
from npsrgan.data.feed import Feed
from npsrgan.models import GENERATORS, Discriminator
from npsrgan.models.vgg19 import LAYERS, random_vgg19
from npsrgan.ops.normalisation import keep_running
from npsrgan.system.errors import UserError
from npsrgan.system.workers import ALONE, statistics_over
from npsrgan.tape import Tape


class Trainer:
    """The networks by name, an Adam optimiser for each, and the number of steps taken.

    settings: a settings.Settings.   device: a device.Device.   say: called with one line of text if random weights replace VGG19's.
    fresh: False for a resumed run, which does not need its initial weights.
    workers: the processes of this run, a workers.Alone or workers.Workers.  Each process trains on its part of every batch.

    A step returns a row of the log: {name: loss}.  On a CPU the losses are numbers.  On a GPU they are arrays in its memory, which the
    next step overwrites: `numbers(row)` waits until they are computed.
    Raises UserError if a weight file is missing or does not match.
    """

    def __init__(self, settings, device, say=print, fresh=True, workers=ALONE):
        self.settings, self.device, self.workers = settings, device, workers
        self.inputs = {}        # a description of the training data, for checkpoints
        self.srresnet_steps = self.srgan_steps = 0
        s, self.vgg = settings, None
        self.networks = {"srresnet": _generator(s).train(not (s.frozen_batch_norm and s.init))}
        if s.together or s.gan_steps:
            self.networks |= {"srgan": _generator(s), "discriminator": Discriminator(s.discriminator_channels, s.image_size, s.leaky_slope,
                                                                                     s.seed + 1, s.weight_init)}
            self.vgg = load_vgg19(s, say) if s.perceptual_weight else None
            self.networks["srgan"].train(not s.frozen_batch_norm)
        if s.init and fresh:
            weights = _initial_weights(s, self.networks["srresnet"])
            for name in self.networks.keys() - {"discriminator"}:
                self.networks[name].load_state_dict(weights)
                self.networks[name].constrain()
        if device.module is not np:
            for network in filter(None, [*self.networks.values(), self.vgg]):
                network.to(device.array)
        if self.vgg:
            self.vgg.freeze()
        averaged = [name for name in ("srresnet", "srgan") if name in self.networks and (name == "srgan" or s.schedule == "constant")]
        self.averages = {name: copy.deepcopy(self.networks[name]).eval().pack() for name in averaged if s.average}
        self.graphs = _graphs(device, s.graph and workers.graphs and not s.reference, say) if device.cuda else None
        self._run = self.graphs or call
        gan_rate = schedule(s.gan_schedule, s.gan_learning_rate, s.steps if s.together else s.gan_steps)
        rates = {"srresnet": schedule(s.schedule, s.learning_rate, s.steps), "srgan": gan_rate, "discriminator": gan_rate}
        self.adam = {name: Adam(network, rates[name]) for name, network in self.networks.items()}

    @property
    def steps(self):
        """Steps of the run so far; a step that trains both generators counts once."""
        return self.srresnet_steps if self.settings.together else self.srresnet_steps + self.srgan_steps

    def trained(self, name):
        """The network that is validated and saved under this name: with averaged weights, if an average is kept."""
        return self.averages.get(name, self.networks[name])

    def feed(self, batches):
        """Iterate over `batches`, (step, lr, hr) as `Batches` yields them.  lr and hr become float32 in [-1, 1] on the device.
        See data.feed.Feed."""
        if not self.device.cuda:
            return Feed(batches)
        from npsrgan.fast.cuda.upload import Upload
        return Upload(batches, self.device.module, self._run.stream)

    def step(self, lr, hr, diagnose=False):
        """Take the next step of the run, on a batch from `feed` or from main memory; see `srresnet_step` for its shapes.
        Returns a row of the log.  diagnose: see `srgan_step`.  Raises TypeError for images of integers."""
        lr, hr = (self.device.array(array) if isinstance(array, np.ndarray) else array for array in (lr, hr))
        if self.settings.together:
            return self.srresnet_step(lr, hr) | self.srgan_step(lr, hr, diagnose)
        if self.srresnet_steps < self.settings.steps:
            return self.srresnet_step(lr, hr)
        if self.srgan_steps == 0:       # SRGAN starts from the trained SRResNet
            for network in {self.networks["srgan"], self.trained("srgan")}:
                for mine, trained in zip(*(n.state_dict().values() for n in (network, self.trained("srresnet")))):
                    mine[...] = trained
        return self.srgan_step(lr, hr, diagnose)

    def srresnet_step(self, lr, hr):
        """One step of SRResNet on the pixel loss (Ledig et al. 2017, eq. 4, or the absolute error).

        lr (N, h, w, 3), hr (N, scale*h, scale*w, 3) in [-1, 1].  Returns {"srresnet_pixel": loss}.
        """
        row = self._take(self._train_srresnet, lr, hr, "srresnet")
        self._average("srresnet", self.srresnet_steps)
        self.srresnet_steps += 1
        return row

    def srgan_step(self, lr, hr, diagnose=False):
        """One step of generator and discriminator, from one forward pass (Ledig et al. 2017, eqs. 2, 3 and 6).

        lr, hr: as in `srresnet_step`.  Returns the losses; with `diagnose`, also D's mean outputs and `_gradient_norms`.
        """
        work = self._train_srgan_and_diagnose if diagnose else self._train_srgan
        row = self._take(work, lr, hr, "srgan", "discriminator", record=not diagnose)
        self._average("srgan", self.srgan_steps)
        self.srgan_steps += 1
        return row

    def _take(self, work, lr, hr, *names, record=True):
        """Run the work of a step, which updates the named networks.  Its inputs are lr, hr and the networks' rates and step counts."""
        if lr.dtype.kind != "f" or hr.dtype.kind != "f":
            raise TypeError(f"a step takes float images in [-1, 1], not {lr.dtype} and {hr.dtype}: convert them with images.to_float")
        adams = [self.adam[name] for name in names]
        with statistics_over(self.workers if self.settings.batch_norm == "whole" else ALONE):
            row = self._run(work, lr, hr, *(number for adam in adams for number in (adam.rate, adam.steps + 1)), record=record)
        for adam in adams:
            adam.steps += 1
        return row if self.device.cuda else numbers(row)

    def _average(self, name, steps):
        """Update the moving average of a generator's weights, if one is kept.  Its decay is smaller in the first steps."""
        if name in self.averages:
            average, newest = self.averages[name], self.networks[name]
            decay = min(self.settings.average, (1 + steps) / (10 + steps))
            keep_running(average.flat, newest.flat, decay)
            for mine, statistic in zip(average.state().values(), newest.state().values()):
                keep_running(mine, statistic, decay)

    # The work of a step.  A CUDA graph may repeat it, so it must be the same in every step and never wait for a result.

    def _train_srresnet(self, lr, hr, rate, count):
        srresnet = self.networks["srresnet"]
        with Tape() as tape:
            loss = losses.PIXEL_LOSSES[self.settings.pixel_loss](srresnet(lr), hr)
        gradients = tape.gradient(loss, srresnet.parameters())
        self.adam["srresnet"].step(self.workers.gradients(gradients), rate, count)
        srresnet.constrain()
        return {"srresnet_pixel": loss.array}

    def _train_srgan(self, lr, hr, rate_g, count_g, rate_d, count_d, diagnose=False):
        """Both losses are recorded on one tape.  The gradient of each loss is requested for its own network's parameters only,
        so neither gradient can leak into the other network."""
        s, generator, discriminator = self.settings, self.networks["srgan"], self.networks["discriminator"]
        hr_features = [features.array for features in self._features(hr)] if self.vgg else None
        with Tape() as tape:
            sr = generator(lr)
            real, fake = discriminator.both(hr, sr)     # each batch has its own statistics
            parts = {"pixel": losses.mean_squared_error(sr, hr), "adversarial": losses.generator_adversarial(fake)}
            weights = {"pixel": s.pixel_weight, "adversarial": s.adversarial_weight}
            if self.vgg:
                parts["perceptual"] = (losses.weighted_absolute_error(self._features(sr), hr_features, s.vgg_weights.values())
                                       if s.vgg_weights else losses.mean_squared_error(*self._features(sr), *hr_features))
                weights["perceptual"] = s.perceptual_weight
            weighted = {name: ops.scale(part, weights[name]) for name, part in parts.items()}
            generator_loss = sum(weighted.values())
            discriminator_loss = losses.discriminator_adversarial(real, fake)

        row = {name: part.array for name, part in (parts | {"discriminator": discriminator_loss}).items()}
        if diagnose:
            row |= {"d_hr": ops.mean(ops.sigmoid(real)).array, "d_sr": ops.mean(ops.sigmoid(fake)).array}
            row |= _gradient_norms(tape, weighted, sr, self.workers)
        generator_gradients = tape.gradient(generator_loss, generator.parameters(), keep=True)
        discriminator_gradients = tape.gradient(discriminator_loss, discriminator.parameters())
        self.adam["srgan"].step(self.workers.gradients(generator_gradients), rate_g, count_g)
        generator.constrain()
        self.adam["discriminator"].step(self.workers.gradients(discriminator_gradients), rate_d, count_d)
        return row

    def _features(self, image):
        """The features that the perceptual loss compares, a list of tensors: of one layer after ReLU, or of several before it."""
        layers = self.settings.vgg_weights
        return self.vgg.before_relu(image, layers) if layers else [self.vgg(image)]

    def _train_srgan_and_diagnose(self, *inputs):
        return self._train_srgan(*inputs, diagnose=True)

    def largest_batch(self, lr, hr):
        """After a MemoryError: halve the batch until a step fits in memory, and return its number of images, or 0 if none fits.

        This takes training steps: discard the trainer afterwards.
        """
        count = len(lr) // 2
        while count:
            self._run.forget()
            try:
                numbers(self.step(lr[:count], hr[:count]))
                return count
            except MemoryError as error:
                traceback.clear_frames(error.__traceback__)     # its frames hold all arrays of the step
                count //= 2
        return 0

    def arrays(self):
        """{name: array} of everything that training changes: the arrays themselves, not copies."""
        arrays = {}
        for name, network in self.networks.items():
            adam = self.adam[name]
            arrays |= {f"{name}/parameters": network.flat, f"{name}/adam_m": adam.m, f"{name}/adam_v": adam.v}
            arrays |= {f"{name}/state/{key}": array for key, array in network.state().items()}
        for name, network in self.averages.items():
            arrays |= {f"{name}/average": network.flat} | {f"{name}/average_state/{key}": array for key, array in network.state().items()}
        return arrays


def call(work, *arrays, record=True):
    """Run the work of a step on a CPU.  Graphs in fast/cuda/graph.py is the GPU's equivalent."""
    return work(*arrays)


def _graphs(device, record, say):
    from npsrgan.fast.cuda.graph import Graphs  # not needed on a CPU
    return Graphs(device.module, record, say)


def numbers(row):
    """{name: float} of a row of losses, on either device.  On a GPU, this waits until they are computed."""
    return {name: float(value) for name, value in row.items()}


def _gradient_norms(tape, parts, sr, workers):
    """The norm of the gradient of each weighted part of the generator's loss with respect to SR, and the cosine of the angle
    between the adversarial gradient and the content gradient (all other parts): -1 means opposed, 0 orthogonal."""
    gradients = {name: tape.gradient(part, sr, keep=True) for name, part in parts.items()}
    content = sum(gradient for name, gradient in gradients.items() if name != "adversarial")

    def dot(a, b):      # over all workers.  The run's loss is the mean of their losses, so each gradient counts 1 / size
        return float(workers.mean((a * b).sum())) / workers.size

    norms = {f"gradient_{name}": math.sqrt(dot(gradient, gradient)) for name, gradient in gradients.items()}
    lengths = norms["gradient_adversarial"] * math.sqrt(dot(content, content))
    return norms | {"cosine": dot(gradients["adversarial"], content) / lengths if lengths else 0.0}


def load_vgg19(settings, say):
    """The VGG19 specified by the settings; if they name no file, a random one, announced through `say`."""
    deepest = max(settings.vgg_weights or [settings.vgg_layer], key=LAYERS.index)
    if settings.vgg:
        return storage.load_vgg19(settings.vgg, deepest, settings.feature_scale)
    say(f"no --vgg file given: the perceptual loss uses a VGG19 with random weights, cut at {deepest} "
        "(enough for a demonstration; real training needs the real weights)")
    return random_vgg19(deepest, settings.seed, settings.feature_scale or 1.0)


def _generator(settings):
    """A new generator, as specified by the settings."""
    s = settings
    return GENERATORS[s.generator](s.channels, s.blocks, s.scale, s.seed, s.weight_init, s.equal_phases)


def _initial_weights(settings, like):
    """The arrays of the generator in --init, which must have the same class and sizes as the generator `like`."""
    generator, wanted = storage.load_network(settings.init, type(like)), like.settings
    generator.settings = {name: value for name, value in generator.settings.items() if name != "equal_phases"}
    wanted = {name: value for name, value in wanted.items() if name != "equal_phases"}
    if generator.settings != wanted:
        raise UserError(f"{settings.init} holds another generator: give "
                        + " ".join(f"--{name} {value}" for name, value in generator.settings.items()))
    return generator.state_dict()
