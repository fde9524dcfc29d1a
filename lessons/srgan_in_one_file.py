"""SRGAN in one file: the whole subject in one sitting.

    python lessons/srgan_in_one_file.py

draws its own training images, trains a network that enlarges images four times, trains a second
network against it, and saves the result: about a minute on two cores.  NumPy does the
arithmetic, Pillow draws and saves, and every gradient is written out.

The paper is Ledig et al. 2017, arXiv 1609.04802.  Its perceptual loss needs VGG19, a network of 20
million weights that somebody else has trained.  Without it, this is the paper's SRGAN-MSE.
"""
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# == The tape ======================================================================================
# Every operation leaves a record when it runs.  A result always comes after what it was computed
# from, so the chain rule is one walk over the list of records, newest first.
TAPE = []

class Tensor:
    """An array with an identity: the tape can tell it from another array with the same values."""
    def __init__(self, array):
        self.array = array

def op(function):
    """Turn a function on arrays into an operation on tensors that leaves a record on the tape.

    The function returns its value, then a rule for each input that may need a gradient: the chain
    rule, from dL/d(value) to dL/d(input).
    """
    def operation(*inputs):
        inputs = [x if isinstance(x, Tensor) else Tensor(x) for x in inputs]
        value, *rules = function(*[x.array for x in inputs])
        TAPE.append((Tensor(value), inputs, rules))
        return TAPE[-1][0]
    return operation

def gradients(loss, parameters):
    """dL/dp for each parameter p.  Only rules on a path from these parameters are called."""
    follow = set(parameters)
    for output, inputs, _ in TAPE:
        if not follow.isdisjoint(inputs):
            follow.add(output)
    found = {loss: np.ones_like(loss.array)}
    for output, inputs, rules in reversed(TAPE):
        if output in found and output in follow:
            dy = found.pop(output)
            for x, rule in zip(inputs, rules):
                if x in follow:
                    found[x] = found.get(x, 0) + rule(dy)  # where paths meet, gradients add
    return [found[p] for p in parameters]

# == The operations ================================================================================
# Images are (N, H, W, C): image, row, column, channel.  In every rule, dy stands for dL/dy.
PIXELS = (0, 1, 2)  # the axes to sum over for one number per channel

add = op(lambda a, b: (a + b, lambda dy: dy, lambda dy: dy))
scale = op(lambda x, factor: (factor * x, lambda dy: factor * dy))
Tensor.__add__, Tensor.__rmul__ = add, scale
flatten = op(lambda x: (x.reshape(len(x), 1, 1, -1), lambda dy: dy.reshape(x.shape)))

def slide(image, w, stride=1):
    """Sum over i, j of  image[n, stride * r + i, stride * c + j] @ w[i, j], row by row of w."""
    height, width = image.shape[1] - len(w) + 1, image.shape[2] - len(w) + 1
    beside = np.concatenate([image[:, :, j:j + width:stride] for j in range(len(w))], axis=3)
    return sum(beside[:, i:i + height:stride] @ np.vstack(row) for i, row in enumerate(w))

@op
def conv2d(x, w, b, stride):
    """y[n, r, c] = b + the sum over i, j of  image[n, stride * r + i, stride * c + j] @ w[i, j].

    image is x (N, H, W, C) in a frame of zeros, which keep its size at stride 1; w (k, k, C, O).
    """
    k, margin, (n, height, width, _) = len(w), len(w) // 2, x.shape
    frame = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    image = np.pad(x, frame)

    def d_x(dy):  # a convolution again, with the kernel turned by 180 degrees, from O to C
        spread = np.zeros((n, height, width, len(b)), dy.dtype)
        spread[:, ::stride, ::stride] = dy
        return slide(np.pad(spread, frame), w[::-1, ::-1].swapaxes(2, 3))

    def d_w(dy):  # w[i, j] was multiplied by one window of the image, shifted by i and j
        met = [image[:, i:i + height:stride, j:j + width:stride] for i, j in np.ndindex(k, k)]
        return np.reshape([(window.swapaxes(2, 3) @ dy).sum((0, 1)) for window in met], w.shape)

    return slide(image, w, stride) + b, d_x, d_w, lambda dy: dy.sum(PIXELS)

@op
def batch_norm(x, gamma, beta, averages, training):
    """gamma * x_hat + beta, where x_hat is x with mean 0 and variance 1 in each channel.

    In training, mean and variance are those of the batch.  Every output then depends on every input
    of its channel: hence the last two terms of d_x.  Later, their running averages (2, C) are used.
    """
    statistics = np.stack([x.mean(PIXELS), x.var(PIXELS)]) if training else averages
    averages += 0.1 * (statistics - averages)
    mean, variance = statistics
    inverse = 1 / np.sqrt(variance + 1e-5)
    x_hat = (x - mean) * inverse
    d_x = lambda dy: gamma * inverse * (dy - dy.mean(PIXELS) - x_hat * (dy * x_hat).mean(PIXELS))
    d_gamma = lambda dy: (dy * x_hat).sum(PIXELS)
    return gamma * x_hat + beta, d_x, d_gamma, lambda dy: dy.sum(PIXELS)

@op
def prelu(x, slope):
    """x where x > 0, slope * x elsewhere; slope: parameters (C,), or a constant (LeakyReLU)."""
    d_x = lambda dy: np.where(x > 0, dy, slope * dy)
    d_slope = lambda dy: np.where(x > 0, 0, x * dy).sum(PIXELS)
    return np.where(x > 0, x, slope * x), d_x, d_slope

@op
def pixel_shuffle(x):
    """4 C channels of a pixel become C channels of 2 x 2 pixels: (N, 2 H, 2 W, C)."""
    n, h, w, c = x.shape
    d_x = lambda dy: dy.reshape(n, h, 2, w, 2, c // 4).swapaxes(2, 3).reshape(x.shape)
    return x.reshape(n, h, w, 2, 2, c // 4).swapaxes(2, 3).reshape(n, 2 * h, 2 * w, c // 4), d_x

@op
def mean_squared_error(a, b):
    """Mean of (a - b)^2; b is the target and needs no gradient."""
    return np.mean((a - b) ** 2), lambda dy: dy * 2 * (a - b) / a.size

@op
def cross_entropy(z, real):
    """Mean of -log D where `real` is 1 and of -log(1 - D) where it is 0, with D = sigmoid(z).

    That is log(1 + exp(-z)) or log(1 + exp(z)), written so that exp cannot overflow.  Its gradient
    is D - real, which vanishes only where the answer is right.
    """
    signed = -z if real else z
    softplus = np.maximum(signed, 0) + np.log1p(np.exp(-abs(signed)))
    sigmoid = (1 + np.tanh(z / 2)) / 2
    return softplus.mean(), lambda dy: dy * (sigmoid - real) / z.size

# == The networks ==================================================================================
class Network:
    """Layers that take their parameters from a list, in order; the first pass creates them."""
    def __init__(self, channels, blocks=0, seed=0):
        self.channels, self.blocks, self.random = channels, blocks, np.random.default_rng(seed)
        self.parameters, self.averages = [], {}

    def __call__(self, x, training=True):
        self.unused, self.training = iter(self.parameters[:]), training
        return self.forward(x)

    def parameter(self, *shape, value=0.0, gain=0.0):
        """The next one; a new one is `value` plus noise of variance 2 / fan_in (He et al. 2015)."""
        p = next(self.unused, None)
        if p is None:
            noise = self.random.standard_normal(shape, np.float32)
            p = Tensor(value + gain * math.sqrt(2 / math.prod(shape[:-1])) * noise)
            self.parameters.append(p)
        return p

    def conv(self, x, channels, size=3, stride=1, gain=1.0):
        w = self.parameter(size, size, x.array.shape[3], channels, gain=gain)
        return conv2d(x, w, self.parameter(channels), stride)

    def norm(self, x):
        gamma = self.parameter(x.array.shape[3], value=1.0)
        beta = self.parameter(x.array.shape[3])
        averages = self.averages.setdefault(gamma, np.stack([beta.array, gamma.array]))
        return batch_norm(x, gamma, beta, averages, self.training)

    def prelu(self, x):
        return prelu(x, self.parameter(x.array.shape[3], value=0.25))

class SRResNet(Network):
    """The generator (figure 4, top): (N, h, w, 3) in [-1, 1] -> (N, 4 h, 4 w, 3)."""
    def forward(self, x):
        c = self.channels
        x = first = self.prelu(self.conv(x, c, size=9))
        for _ in range(self.blocks):
            y = self.prelu(self.norm(self.conv(x, c)))
            x = x + self.norm(self.conv(y, c))  # a block learns what to add to its input
        x = first + self.norm(self.conv(x, c))
        for _ in range(2):
            x = self.prelu(pixel_shuffle(self.conv(x, 4 * c, gain=0.3)))
        return self.conv(x, 3, size=9, gain=0.3)

    def constrain(self):
        """Prevent a mesh: all phases of a shuffle answer constant inputs alike (lesson 10)."""
        for k, taps in (-8, 3), (-7, 1), (-5, 3), (-4, 1):  # weight, bias; weight, bias
            phases = self.parameters[k].array.reshape(taps, taps, -1, 2, 2, self.channels)
            for tap, phase in (0, 3), (1, 4):  # rows, columns
                answer = phases.mean(tap, keepdims=True)
                phases -= answer - answer.mean(phase, keepdims=True)

class Discriminator(Network):
    """The second player (figure 4, bottom): (N, H, W, 3) -> N logits, positive for "original"."""
    def forward(self, x):
        c = self.channels
        x = prelu(self.conv(x, c), 0.2)
        for width, stride in [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)]:
            x = prelu(self.norm(self.conv(x, width * c, stride=stride)), 0.2)
        x = prelu(self.conv(flatten(x), 16 * c, size=1), 0.2)  # on one pixel: a dense layer
        return self.conv(x, 1, size=1)

# == Learning ======================================================================================
class Adam:
    """Steps against the gradient, about `rate` long in each parameter (Kingma and Ba 2015)."""
    def __init__(self, network):
        self.network, self.moments, self.steps = network, {}, 0

    def descend(self, loss, rate):
        self.steps += 1
        for p, g in zip(self.network.parameters, gradients(loss, self.network.parameters)):
            m, v = self.moments.get(p, (0, 0))
            m = 0.9 * m + 0.1 * g  # running averages of the gradient and of its square
            v = 0.999 * v + 0.001 * g * g
            self.moments[p] = m, v
            m = m / (1 - 0.9 ** self.steps)  # corrected for their start at 0
            v = v / (1 - 0.999 ** self.steps)
            p.array = p.array - rate * m / (np.sqrt(v) + 1e-8)  # new: the tape keeps the old one

def pixel_step(adam, low, high, rate):
    """The generator learns to match the original in every pixel (equation 4)."""
    TAPE.clear()
    pixel = mean_squared_error(adam.network(low), high)
    adam.descend(pixel, rate)
    adam.network.constrain()
    return {"pixel": pixel}

def game_step(adam_g, adam_d, low, high, rate, weight=1e-2):  # the paper's weight is 1e-3
    """The discriminator learns to tell originals from made images, the generator to deceive it
    (equations 2, 3 and 6).

    One pass gives both losses.  Each player asks for the gradients of its own loss with respect to
    its own parameters, so that neither learns the other's goal."""
    TAPE.clear()
    made = adam_g.network(low)
    real, fake = adam_d.network(high), adam_d.network(made)
    pixel, adversarial = mean_squared_error(made, high), cross_entropy(fake, 1)
    verdicts = 0.5 * (cross_entropy(real, 1) + cross_entropy(fake, 0))
    adam_g.descend(pixel + weight * adversarial, rate)
    adam_g.network.constrain()
    adam_d.descend(verdicts, rate)
    return {"pixel": pixel, "adversarial": adversarial, "discriminator": verdicts}

# == The images ====================================================================================
def resize(image, factor, how=Image.Resampling.BICUBIC):
    return image.resize((round(image.width * factor), round(image.height * factor)), how)

def dead_leaves(random, side):
    """Random shapes on top of each other: edges and corners at every scale, as in photographs."""
    image = Image.new("RGB", (2 * side, 2 * side))
    pen = ImageDraw.Draw(image)
    smallest = 2 * math.exp(random.uniform(1, 2.7))
    leaves = random.random((round(2.5 * (side / smallest) ** 2), 9)).tolist()
    for size, x, y, turn, corners, light, *tint in leaves:
        place = (2 * side * x, 2 * side * y, min(smallest / math.sqrt(1 - size), side))
        colour = tuple(int(150 * light + 105 * t) for t in tint)
        pen.regular_polygon(place, (3, 4, 5, 30)[int(4 * corners)], 360 * turn, colour)
    return resize(image, 1 / 2)

def to_tensor(images):
    return Tensor(np.float32([np.asarray(image) for image in images]) / 127.5 - 1)

def enlarge(generator, image):
    array = generator(to_tensor([image]), training=False).array[0]
    return Image.fromarray(np.rint(127.5 * np.clip(array + 1, 0, 2)).astype(np.uint8))

def psnr(image, original):
    """In dB: 20 log10 of the largest level, 255, over the root mean square error."""
    error = np.asarray(image, float) - np.asarray(original, float)
    return 20 * math.log10(255 / np.sqrt(np.mean(error ** 2)))

def main(pixel_steps=1000, game_steps=150):
    """Train the generator alone, then against the discriminator.  Returns {method: PSNR}."""
    original = dead_leaves(np.random.default_rng(0), 256)
    small = resize(original, 1 / 4)
    results = {"bicubic": resize(small, 4)}
    adam_g, adam_d = Adam(SRResNet(16, blocks=1)), Adam(Discriminator(8))
    for step in range(pixel_steps + game_steps):
        random = np.random.default_rng([1, step])  # the images of this step, and of no other
        images = [dead_leaves(random, 64) for _ in range(4)]
        low, high = to_tensor([resize(image, 1 / 4) for image in images]), to_tensor(images)
        if step < pixel_steps:
            losses = pixel_step(adam_g, low, high, rate=4e-3 * (1 - step / pixel_steps))
        else:
            losses = game_step(adam_g, adam_d, low, high, rate=5e-4)
        if step == pixel_steps - 1:
            results["SRResNet"] = enlarge(adam_g.network, small)
        if step % 50 == 0:
            print(step, *[f"{name} {float(loss.array):.4f}" for name, loss in losses.items()])
    results["SRGAN"] = enlarge(adam_g.network, small)
    path = Path(__file__).parent / "output" / "srgan_in_one_file.png"
    path.parent.mkdir(exist_ok=True)
    row = [resize(small, 4, Image.Resampling.NEAREST), *results.values(), original]
    Image.fromarray(np.hstack(row)).save(path)
    scores = {name: psnr(image, original) for name, image in results.items()}
    print(*[f"{name} {score:.2f} dB," for name, score in scores.items()], "picture:", path)
    return scores

if __name__ == "__main__":
    main()
