"""A generator for converted weights: a list of steps."""
from fractions import Fraction
from math import ceil

import numpy as np

from npsrgan import ops
from npsrgan.layers import Conv2d, Layer, LeakyReLU, Parameter, PixelShuffle, PReLU
from npsrgan.models.generator import Generator
from npsrgan.tape import Tensor


class Affine(Layer):
    """gain * x + shift with gain and shift (C,): a change of units, or a batch norm that cannot be folded into a convolution."""

    def __init__(self, channels):
        self.gain, self.shift = Parameter(np.ones(channels, np.float32)), Parameter(np.zeros(channels, np.float32))

    def forward(self, x):
        return x * self.gain + self.shift


def _cubic(x):
    """The cubic kernel with a = -0.75, which PyTorch uses.  Keys 1981, eq. 4."""
    x, a = np.abs(x), -0.75
    return np.where(x < 1, ((a + 2) * x - (a + 3)) * x**2 + 1, np.where(x < 2, a * (((x - 5) * x + 8) * x - 4), 0))


class Enlarge(Layer):
    """Interpolation to r times the size, with half-pixel centres and replicated edge pixels: (N, h, w, C) -> (N, r*h, r*w, C).

    The same as interpolate(..., align_corners=False) in PyTorch and UpSampling2D in Keras.  kind: "nearest", "bilinear" or "bicubic".
    """

    REACH = {"nearest": 0, "bilinear": 1, "bicubic": 2}

    def __init__(self, r, kind):
        self.r, self.reach = r, self.REACH[kind]
        kernel = {"nearest": np.ones_like, "bilinear": lambda x: np.maximum(1 - np.abs(x), 0), "bicubic": _cubic}[kind]
        centres = (np.arange(r) + 0.5) / r - 0.5        # of the r output pixels of an input pixel at 0
        self.taps = [[(n + self.reach, float(kernel(np.float64(n - centre)))) for n in range(-self.reach, self.reach + 1)]
                     for centre in centres]

    def forward(self, x):
        height, width = x.shape[1:3]
        for before in ((slice(None),), (slice(None), slice(None))):
            first, last = x[*before, :1], x[*before, -1:]
            x = ops.concatenate(*[first] * self.reach, x, *[last] * self.reach, axis=len(before))

        def pixel(rows, columns):       # one of the r * r output pixels of an input pixel, for all pixels at once
            terms = [ops.scale(x[:, i:i + height, j:j + width], a * b) for i, a in rows for j, b in columns if a * b]
            return sum(terms[1:], terms[0])
        return ops.pixel_shuffle(ops.concatenate(*[pixel(rows, columns) for rows in self.taps for columns in self.taps]), self.r)


class Squash(Layer):
    """kind: "tanh" or "sigmoid"."""

    def __init__(self, kind):
        self.kind = kind

    def forward(self, x):
        return ops.sigmoid(x) if self.kind == "sigmoid" else ops.scale(ops.sigmoid(ops.scale(x, 2)), 2) - 1.0


LAYERS = {"conv": Conv2d, "prelu": PReLU, "leaky": LeakyReLU, "shuffle": PixelShuffle, "affine": Affine, "enlarge": Enlarge,
          "squash": Squash}


class Assembled(Generator):
    """A generator assembled from steps, as `convert` writes it for networks other than the paper's.  It is not for training.

    (N, h, w, 3) in [-1, 1] -> (N, scale*h, scale*w, 3), about [-1, 1].  While a file is converted, parts of a generator may have
    another number of channels and other units.

    scale: of the whole network.   inputs: number of channels of the image.
    steps: [[kind, argument, ...], ...].  Each step takes the previous value.  Value 0 is the image, value k the output of step k.

        conv in out kernel   prelu channels   leaky slope   shuffle r   affine channels   enlarge r kind   squash kind
        recall k             value k
        add k factor         value k plus factor times the previous value

    Raises ValueError if a step is unknown or does not fit the others.
    """

    def __init__(self, scale, steps, inputs=3):
        self.steps, self.layer, self.size, channels = steps, {}, [1], [inputs]      # size: side of a value, relative to the image
        self.last = [0]                                                             # the last step that needs each value
        for number, (kind, *arguments) in enumerate(steps):
            if kind in LAYERS:
                self.layer[number] = LAYERS[kind](*arguments)
            elif kind not in ("recall", "add") or arguments[0] > number:
                raise ValueError(f"there is no step {kind} {arguments}")
            for k in self._sources(number):
                self.last[k] = number
            k = self._sources(number)[0]
            if kind in ("conv", "affine") and channels[k] != arguments[0] or kind == "add" and (
                    (channels[k], self.size[k]) != (channels[arguments[0]], self.size[arguments[0]])):
                raise ValueError(f"step {number + 1}, {kind} {arguments}, does not fit {channels[k]} channels")
            channels.append(arguments[1] if kind == "conv" else channels[k] // arguments[0]**2 if kind == "shuffle" else channels[k])
            self.size.append(self.size[k] * (arguments[0] if kind in ("shuffle", "enlarge") else 1))
            self.last.append(number + 1)
        # The second half starts with the convolution before the first enlargement.  The first half returns every value it needs.
        larger = next((k for k, size in enumerate(self.size) if size > 1), len(steps) + 1)
        self.cut = max(larger - 2, 0)
        self.live = {k: channels[k] for k in range(self.cut + 1) if self.last[k] >= self.cut}
        self.settings = {"scale": scale, "steps": steps}
        self.live_channels = 4 * max(channels[:self.cut + 1])
        if self.parameters():
            self.pack()

    def children(self):
        return [(str(number + 1), layer) for number, layer in self.layer.items()]

    def features(self, lr):
        """The first half, at low resolution: (N, h, w, C) -> (N, h, w, all channels that the second half needs)."""
        values = self._run({0: lr if isinstance(lr, Tensor) else Tensor(lr)}, 0, self.cut)
        return ops.concatenate(*[values[k] for k in self.live]) if len(self.live) > 1 else values[self.cut]

    def enlarge(self, features):
        """The second half."""
        ends = np.cumsum(list(self.live.values())).tolist()
        parts = {k: features[..., end - count:end] for (k, count), end in zip(self.live.items(), ends)}
        return self._run(parts, self.cut, len(self.steps))[len(self.steps)]

    def radius(self, half=False):
        reach = [Fraction(0)]
        for number, (kind, *arguments) in enumerate(self.steps):
            more = arguments[2] // 2 if kind == "conv" else self.layer[number].reach if kind == "enlarge" else 0
            seen = max(reach[k] for k in self._sources(number))
            reach.append(seen + Fraction(more, self.size[self._sources(number)[0]]) if number >= self.cut or not half else reach[0])
        return ceil(reach[-1])

    def _sources(self, number):
        """The numbers of the values that a step needs: its input first, then the one to add to, if any."""
        kind, *arguments = self.steps[number]
        return [arguments[0]] if kind == "recall" else [number, arguments[0]] if kind == "add" else [number]

    def _run(self, values, start, stop):
        """Run steps `start` to `stop` - 1 on {number: value}.  Returns the values that later steps need."""
        for number in range(start, stop):
            kind, *arguments = self.steps[number]
            x = values[self._sources(number)[0]]
            if number in self.layer:
                x = self.layer[number](x)
            elif kind == "add":
                x = values[arguments[0]] + (x if arguments[1] == 1 else ops.scale(x, arguments[1]))
            values[number + 1] = x
            values = {k: value for k, value in values.items() if self.last[k] > number}
        return values
