"""Lesson 08: batch normalisation.  What is the gradient of a layer in which every output depends on every input?

You should know: mean and variance, the chain rule, and what a gradient check is (lesson 02).
Paper: Ioffe and Szegedy 2015, "Batch Normalization", section 3, algorithms 1 and 2.  Lives in: npsrgan/ops/normalisation.py.
"""
# %% The question: sixteen tiles of a photograph, eight random filters, and no two channels alike
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, plt, save

from npsrgan import ops
from npsrgan.data import Photograph, downscale
from npsrgan.gradcheck import check
from npsrgan.images import to_float, to_uint8
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

photo = to_float(downscale(Photograph().load(0)[:512], 2)).astype(np.float64)               # (256, 256, 3) in [-1, 1]
tiles = photo.reshape(4, 64, 4, 64, 3).transpose(0, 2, 1, 3, 4).reshape(16, 64, 64, 3)      # a batch: N, H, W, C
rng = np.random.default_rng(5)
filters = rng.standard_normal((3, 3, 3, 8))
x = ops.conv2d(tiles, filters).array
print("standard deviations of the channels:", x.std((0, 1, 2)).round(1))    # many such layers, and the signal explodes or is gone

# %% The formula, for each channel by itself, over the m = N*H*W numbers that it has in the batch:
#
#       mean = sum(x) / m       var = sum((x - mean)^2) / m       x_hat = (x - mean) / sqrt(var + eps)       y = gamma * x_hat + beta
#
# gamma and beta are learned: the layer can give back any size and any centre, but it chooses them itself.
AXES, EPS = (0, 1, 2), 1e-5


def normalise(x):
    m = x.size // x.shape[-1]
    mean = x.sum(AXES) / m
    var = ((x - mean) ** 2).sum(AXES) / m
    std = np.sqrt(var + EPS)
    return (x - mean) / std, mean, std, m


x_hat, mean, std, m = normalise(x)
# Prediction: multiplying the input by 3 and adding 7 changes nothing (eps apart).  The gradient must know that too.
assert np.allclose(normalise(3 * x + 7)[0], x_hat, atol=1e-4)

# %% The gradient, the long way.  Call dy = dL/dy, and so on.  x reaches y by three roads: directly, through var and through mean.
#
#       d_x_hat = gamma * dy
#       d_var   = sum(d_x_hat * (x - mean)) * (-1/2) * (var + eps)^(-3/2)           x_hat divides by sqrt(var + eps)
#       d_mean  = -sum(d_x_hat) / sqrt(var + eps)                                   (through var: sum(x - mean) = 0)
#       d_x     = d_x_hat / sqrt(var + eps)  +  d_var * 2 * (x - mean) / m  +  d_mean / m


def gradient_long(dy, gamma, x):
    x_hat, mean, std, m = normalise(x)
    d_x_hat = gamma * dy
    d_var = (d_x_hat * (x - mean)).sum(AXES) * -0.5 * std**-3
    d_mean = -d_x_hat.sum(AXES) / std
    return d_x_hat / std + d_var * 2 * (x - mean) / m + d_mean / m


# %% The same, simplified: put d_var and d_mean into the last line, and take gamma / std out of it.  What is left can be read:
# dy, minus its mean, minus the part of it that looks like x_hat.
def gradient_short(dy, gamma, x):
    x_hat, mean, std, m = normalise(x)
    return gamma / std * (dy - dy.sum(AXES) / m - x_hat * ((dy * x_hat).sum(AXES) / m))


gamma, beta, dy = rng.standard_normal(8), rng.standard_normal(8), rng.standard_normal(x.shape)
dx = gradient_short(dy, gamma, x)
assert np.allclose(dx, gradient_long(dy, gamma, x), rtol=1e-10, atol=1e-12)
# Prediction: adding a constant to x changes nothing, so sum(dx) = 0.  Stretching x changes nothing, so sum(dx * x_hat) = 0.
print(f"sum(dx) = {dx.sum(AXES)[0]:.0e}, sum(dx * x_hat) = {(dx * x_hat).sum(AXES)[0]:.0e}, while sum(dy) = {dy.sum(AXES)[0]:.0f}")
assert np.abs(dx.sum(AXES)).max() < 1e-6 and np.abs((dx * x_hat).sum(AXES)).max() < 0.01       # eps keeps the second from being 0


# %% Is it right?  Value and rules together make an operation; finite differences are the judge (lesson 02), on a tiny input.
@op
def by_hand(x, gamma, beta):
    x_hat = normalise(x)[0]
    return gamma * x_hat + beta, (lambda dy: gradient_short(dy, gamma, x), lambda dy: (dy * x_hat).sum(AXES), lambda dy: dy.sum(AXES))


for result in check(by_hand, x[:2, :3, :3, :3], gamma[:3], beta[:3]):
    print(result)
    assert result.passed
# And the package's version: the same numbers.
tensor = Tensor(x)
with Tape() as tape:
    y = ops.batch_norm(tensor, gamma, beta)
    loss = ops.sum(y * dy)
assert np.allclose(y.array, by_hand(x, gamma, beta).array) and np.allclose(tape.gradient(loss, tensor), dx, atol=1e-9)

# %% What one output pixel owes to all the others.  dy is 1 at the brightest pixel of one channel, and 0 elsewhere.
# Prediction: d_x is not 0 elsewhere.  It is -(1 + x_hat_here * x_hat_there) / m: a faint negative of the whole batch.
shown = x_hat[..., 2]
pixel = np.unravel_index(shown.argmax(), shown.shape)
one = np.zeros_like(x)
one[(*pixel, 2)] = 1
ghost = (gradient_short(one, np.ones(8), x) * std)[..., 2]
assert np.allclose(ghost - one[..., 2], -(1 + shown[pixel] * shown) / m)


def mosaic(tiles):
    return np.array(tiles).reshape(4, 4, 64, 64, -1).swapaxes(1, 2).reshape(256, 256, -1).squeeze()


figure, axes = plt.subplots(1, 4, figsize=(10.5, 2.9), layout="constrained")
for axis, values, reach, title in zip(axes, (x, x_hat), (12, 4), ("three channels of x: no two alike", "x_hat: mean 0, deviation 1")):
    axis.hist([values[..., c].ravel() for c in (1, 2, 3)], 80, range=(-reach, reach), histtype="stepfilled", alpha=0.6)
    axis.set(title=title, yticks=[], xlabel="value of a pixel")
for axis, values, title in zip(axes[2:], (shown, ghost), ("a channel of x_hat, 16 tiles", "d (brightest pixel of y) / d (all x)")):
    axis.imshow(mosaic(values), cmap="gray", vmin=np.percentile(values, 1), vmax=np.percentile(values, 99))
    axis.set_title(title)
    axis.axis("off")
save(figure, "08_gradient")

# %% The bias in front.  A convolution's bias adds a constant to a channel, and the mean takes it away again.
# Prediction: its gradient is 0, not small: what is left is rounding.
w, b = Tensor(filters), Tensor(rng.standard_normal(8))
with Tape() as tape:
    loss = ops.mean(ops.batch_norm(ops.conv2d(tiles, w, b), gamma, beta) * dy)
dw, db = tape.gradient(loss, [w, b])
print(f"largest gradient: weights {np.abs(dw).max():.1e}, bias {np.abs(db).max():.1e}")
assert np.abs(db).max() < 1e-9 < 1e-6 < np.abs(dw).max()

# %% Evaluation.  A picture's result must not depend on who else is in the batch.  So training keeps running averages of mean and var
# (momentum * old + (1 - momentum) * new, from 0 and 1 on), and evaluation uses these as constants.
# Take gamma and beta such that the layer does nothing to the photograph as a whole, then send the tiles through one by one.
running_mean, running_var = np.zeros(3), np.ones(3)
gamma, beta = np.sqrt(tiles.var(AXES) + EPS), tiles.mean(AXES)
for _ in range(200):
    ops.batch_norm(tiles, gamma, beta, running_mean, running_var)
evaluated = mosaic([ops.batch_norm(t[None], gamma, beta, running_mean, running_var, training=False).array for t in tiles])
trained = mosaic([ops.batch_norm(t[None], gamma, beta).array for t in tiles])
# Prediction: evaluation gives the photograph back.  Training gives every tile the mean and the contrast of the whole photograph.
assert np.abs(evaluated - photo).max() < 1e-3
assert np.allclose([trained[:64, :64].mean((0, 1)), trained[64:128, 192:].mean((0, 1))], beta)
save(picture_row({"the photograph": to_uint8(photo), "tile by tile, evaluation mode:\nthe photograph": to_uint8(evaluated),
                  "tile by tile, training mode:\nall tiles get one mean and one contrast": to_uint8(trained)}, height=3.0), "08_modes")
# That is what forgetting `network.eval()` looks like: seams, false colours, noise where the sky was.

# %% Exercises: put your answer in the place of None.
exercise(1, "An SRResNet has 16 blocks of two convolutions and one more behind them, 64 channels wide, each with a bias and a batch norm "
         "behind it.  How many of its numbers always have the gradient 0?", answer=None, check=lambda a: a == 33 * 64,
         hint="count convolutions with a batch norm behind them; each has 64 biases")
exercise(2, "With momentum 0.9 and batches that are all alike, after how many steps has the running mean come 99 % of the way from 0?",
         answer=None, check=lambda a: a == np.ceil(np.log(0.01) / np.log(0.9)), hint="what is left after n steps is 0.9^n")
exercise(3, "Write the gradient of evaluation mode: a function of (dy, gamma, running_var).", answer=None,
         check=lambda f: np.allclose(f(dy[..., :3], gamma, running_var), dy[..., :3] * gamma / np.sqrt(running_var + EPS)),
         hint="mean and var are constants now: only the direct road is left")
