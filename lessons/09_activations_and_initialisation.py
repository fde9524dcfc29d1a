"""Lesson 09: kinks and first weights.  Why does a network need a kink, how large should its first weights be, and what
breaks when batch norm's gamma is drawn at random along with them?

You should know: convolution (05) and batch norm (08).  Papers: He et al. 2015, "Delving Deep into Rectifiers", sections 2.1
(PReLU) and 2.2 (initialisation).  Lives in: npsrgan/ops/activations.py, and `initialise` in npsrgan/layers.py.
"""
# %% A kink, by hand
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, plt, save

from npsrgan import images, ops
from npsrgan.data import Photograph, downscale
from npsrgan.gradcheck import check, normal
from npsrgan.layers import BatchNorm, Conv2d, initialise
from npsrgan.models import Discriminator
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

# Without something between them two layers are one: (x A) B = x (A B).  What stands between may be very simple: a kink at 0.
#
#     y = x  where x > 0,  a x  elsewhere          a = 0: ReLU.   a = 0.2, a constant: LeakyReLU.   a learned: PReLU.
#
# Gradients.  y moves by 1 or by a when x moves by 1.  The slope a is used by every pixel of its channel, so it collects
# a gradient from each one below zero: dL/da = sum of dy * x over x < 0.


@op
def prelu(x, a):
    """x (N, H, W, C), one learned slope per channel: a (C,)."""
    def d_x(dy): return dy * np.where(x > 0, 1, a)
    def d_a(dy): return (dy * np.minimum(x, 0)).sum((0, 1, 2))
    return np.where(x > 0, x, a * x), (d_x, d_a)


x, a, dy = normal(2, 5, 5, 4), np.array([0.25, 0.1, 0.0, -0.5]), normal(2, 5, 5, 4, seed=1)
for result in check(prelu, x, a):
    print(result)
    assert result.passed
for mine, package in zip(prelu.reference(x, a)[1], ops.prelu.reference(x, a)[1]):
    np.testing.assert_allclose(mine(dy), package(dy), rtol=1e-12, atol=1e-12)
assert np.array_equal(prelu(x, a).array, ops.prelu(x, a).array)

# %% On the kink itself.  At x = 0 there is no slope, only one on each side.  A central difference averages both: predicted (1 + 0.25) / 2.
# The rule must pick a side: it says a.  Both are fine in training (no pixel stays at exactly 0), but a gradient check that
# steps on a kink fails.  That is why `gradcheck.normal` keeps its entries 0.1 away from zero.
h = 1e-6
kink = float((prelu(np.full((1, 1, 1, 1), h), 0.25).array - prelu(np.full((1, 1, 1, 1), -h), 0.25).array).item() / (2 * h))
print(f"finite difference across the kink: {kink:.3f}, the rule: 0.25")
assert abs(kink - 0.625) < 1e-6

# %% How large should the first weights be?
# One output of a layer is a sum of n products, n = "fan in": k * k * C for a convolution.  Independent products of mean 0
# add their variances:
#
#     E[y^2] = n * Var[w] * E[x^2],      and a ReLU throws away half:   E[relu(y)^2] = E[y^2] / 2.
#
# So every layer multiplies the signal's size by sqrt(n Var[w] / 2).  He et al. choose Var[w] = 2 / n: the factor is 1.
# The tutorial this project began with draws all weights from normal(0, 0.01), whatever n.  For n = 576 we predict a factor of
# 0.01 * sqrt(576 / 2) = 0.17 a layer: after 30 layers about 10^-23.  A little too much, 1.5 * He: 1.5^30, about 200 000.
LAYERS, WIDTH = 30, 576
x = np.random.default_rng(6).standard_normal((200, WIDTH))
signal = {}
for name, std in {"He": (2 / WIDTH) ** 0.5, "1.5 x He": 1.5 * (2 / WIDTH) ** 0.5, "normal(0, 0.01)": 0.01}.items():
    y, sizes = x, []
    for layer in range(LAYERS):
        y = np.maximum(y @ np.random.default_rng([6, layer]).normal(0, std, (WIDTH, WIDTH)), 0)
        sizes.append(np.sqrt(2 * (y * y).mean()))       # times sqrt(2): the size before the ReLU's loss
    factor = std * (WIDTH / 2) ** 0.5
    signal[name] = sizes, factor
    print(f"{name:16} predicted factor a layer {factor:.3f}, measured {(sizes[-1] / sizes[0]) ** (1 / (LAYERS - 1)):.3f}")
    assert abs((sizes[-1] / sizes[0]) ** (1 / (LAYERS - 1)) / factor - 1) < 0.05

assert abs(initialise(Conv2d(64, 64, 3)).weight.array.std() / (2 / 576) ** 0.5 - 1) < 0.02      # the package's: the same formula

# %% Batch norm's gamma in the discriminator
# The discriminator D is SRGAN's second network (lesson 16): a picture in, one number out, the logit, large for "a photograph".
# Batch norm divides any size away, so behind it even normal(0, 0.01) weights work.  But it has a weight of its own, gamma, which
# should start at 1.  An initialiser that says "normal(0, 0.01) for every weight" draws gamma too.
#
# Going backward, each of D's 7 batch norms multiplies the gradient by  gamma / sqrt(var + eps).  So we predict:
# * Without eps: a gamma of 0.01 makes the next var 0.01^2 times as large, and they cancel.  Only the LAST gamma has no
#   batch norm behind it: the gradient of the logit with respect to the image is 1 / 0.01 = 100 times smaller.
# * With eps = 1e-5, var may fall below it, and then less than all is made good.  How much, the forward pass can tell.
SIZE = 64
photo = images.to_float(downscale(Photograph().load(0), 2))
corners = np.random.default_rng(0).integers(0, 256 - SIZE, (7, 2))
batch = np.stack([photo[40:40 + SIZE, 85:85 + SIZE], *[photo[i:i + SIZE, j:j + SIZE] for i, j in corners]])


def look(gamma_std, eps=1e-5):
    """d (first image's logit) / d (first image); each batch norm's var, (7,), and the factor it puts on the gradient, (7,)."""
    discriminator, index = Discriminator(64, SIZE, init="normal"), 0
    image = x = Tensor(batch)
    variances, factors = [], []
    with Tape() as tape:
        for step in discriminator.features.steps:
            if isinstance(step, BatchNorm):
                if gamma_std:
                    step.gamma.array[...] = np.random.default_rng([6, index]).normal(0, gamma_std, step.gamma.shape)
                step.eps, index, var = eps, index + 1, x.array.var((0, 1, 2))
                variances.append(var.mean())
                factors.append(np.sqrt((step.gamma.array ** 2 / (var + eps)).mean()))
            x = step(x)
        logit = discriminator.classifier(x)[0, 0]
    return tape.gradient(logit, image)[0], np.array(variances), np.array(factors)


results, smaller = {}, {}
for eps in (1e-14, 1e-5):
    ones, drawn = results[eps] = look(None, eps), look(0.01, eps)
    predicted, smaller[eps] = np.prod(ones[2] / drawn[2]), np.linalg.norm(ones[0]) / np.linalg.norm(drawn[0])
    print(f"eps {eps:.0e}: with gamma drawn the gradient is {smaller[eps]:.0f} times smaller; from var we predict {predicted:.0f}")
    assert 0.4 < predicted / smaller[eps] < 2.5
assert 50 < smaller[1e-14] < 200 < smaller[1e-5] < 4000
(gradient, var_ones, _), (lost, var_drawn, _) = results[1e-5]

# %% What it means for a picture
# The generator learns realism from one thing only: this gradient with respect to its picture.  Adam would forgive D's own
# weights a gradient 1000 times too small (lesson 11).  But the generator ADDS it to the gradient of its error: it drowns there.
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
t = np.linspace(-3, 3, 301)
for label, slope in [("ReLU, a = 0", 0), ("LeakyReLU, a = 0.2", 0.2), ("PReLU may learn a = -0.5", -0.5)]:
    axes[0].plot(t, np.where(t > 0, t, slope * t), label=label)
axes[0].set(title="one kink, three slopes", xlabel="x", ylabel="y")
for name, (sizes, factor) in signal.items():
    line, = axes[1].semilogy(range(1, LAYERS + 1), sizes, "o", markersize=3, label=name)
    axes[1].semilogy(range(1, LAYERS + 1), sizes[0] * factor ** np.arange(LAYERS), color=line.get_color(), alpha=0.5)
axes[1].set(title="signal through 30 layers (lines: predicted)", xlabel="layer", ylabel="root mean square")
for label, var in [("gamma = 1", var_ones), ("every gamma drawn", var_drawn)]:
    axes[2].semilogy(range(1, 8), var, "o-", label=label)
axes[2].axhline(1e-5, color="black", linestyle=":", label="eps")
axes[2].set(title="what each batch norm of D divides by", xlabel="batch norm", ylabel="variance")
for axis in axes:
    axis.legend(fontsize=8)
save(figure, "09_sizes")

scale = 0.15 / gradient.std()
told = {"what G is told, gamma = 1": gradient, "every gamma drawn": lost, "the same, times 1000": 1000 * lost}
save(picture_row({"what D looks at": images.to_uint8(batch[0])} | {title: np.clip(0.5 + scale * array, 0, 1)
                                                                   for title, array in told.items()}, height=3), "09_what_g_is_told")

# %% Exercises
exercise(1, "What standard deviation does He initialisation give the generator's first convolution, 9x9 on RGB?",
         answer=None, check=lambda std: abs(std - (2 / (81 * 3)) ** 0.5) < 1e-3, hint="the fan-in is 9 * 9 * 3")
exercise(2, "With LeakyReLU's slope a in place of ReLU, which Var[w], as a function of (n, a), keeps the signal's size?",
         answer=None, check=lambda f: abs(f(576, 0.2) * 576 * 1.04 / 2 - 1) < 1e-3 and abs(f(9, 1) - 1 / 9) < 1e-6,
         hint="E[y^2] / 2 comes through above zero, a^2 * E[y^2] / 2 below; with a = 1 nothing is lost")
exercise(3, "Every gamma of the discriminator at 0.1, and eps = 0: how many times smaller is the logit's gradient?",
         answer=None, check=lambda times: abs(times - 10) < 0.5, hint="which of the seven has no batch norm behind it?")
