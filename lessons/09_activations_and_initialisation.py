# %% [markdown]
# # Lesson 09: Activations and initial weights
#
# **The question.** Which function should stand between two layers, how large should the initial
# weights be, and what breaks when batch norm's gamma is drawn at random along with them?
#
# You should know: what a layer is and why two linear ones need something between them (lesson 04),
# convolution (lesson 05), batch norm (lesson 08).
#
# Paper: He et al. 2015, "Delving Deep into Rectifiers", sections 2.1 (PReLU) and 2.2
# (initialisation).
#
# Lives in: `npsrgan/ops/activations.py`, and `initialise` in `npsrgan/layers.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save

from npsrgan import images, ops
from npsrgan.data import Photograph, downscale
from npsrgan.gradcheck import check, normal
from npsrgan.layers import BatchNorm, Conv2d, initialise
from npsrgan.models import Discriminator
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

# %% [markdown]
# ## 1. One kink, three functions
#
# The function between two layers is called an **activation**. A kink at 0 is enough:
#
# $$y = x \;\text{ where } x > 0, \qquad y = a\,x \;\text{ elsewhere}$$
#
# | name | slope below zero | used in |
# |---|---|---|
# | ReLU | $a = 0$ | VGG19 |
# | LeakyReLU | $a = 0.2$, a constant | the discriminator |
# | PReLU | $a$ is learned, one for each channel | SRResNet, the generator |
#
# ## 2. Its gradient
#
# When $x$ moves by a little, $y$ moves by 1 times as much above zero, and by $a$ times as much
# below. So $dx = dy$ above and $dx = a\,dy$ below.
#
# PReLU's slope $a$ is used by every pixel of its channel. It appears as $a\,x$ where $x$ is below
# zero, and not at all elsewhere. So it collects $da = \sum_{x < 0} dy\,x$.


# %%
@op
def prelu(x, a):
    """x (N, H, W, C), one learned slope for each channel: a (C,)."""

    def d_x(dy):
        return dy * np.where(x > 0, 1, a)

    def d_a(dy):
        return (dy * np.minimum(x, 0)).sum((0, 1, 2))

    return np.where(x > 0, x, a * x), (d_x, d_a)


x = normal(2, 5, 5, 4)  # random numbers, none of them closer to 0 than 0.1
a = np.array([0.25, 0.1, 0.0, -0.5])
for result in check(prelu, x, a):
    print(result)
    assert result.passed
dy = normal(2, 5, 5, 4, seed=1)
for mine, package in zip(prelu.reference(x, a)[1], ops.prelu.reference(x, a)[1]):
    assert np.allclose(mine(dy), package(dy), rtol=1e-12, atol=1e-12)

# %% [markdown]
# ## 3. On the kink itself
#
# At $x = 0$ there are two slopes, one on each side. A rule must choose one of them. A central
# difference takes one value on each side, so it sees both.

# %%
h = 1e-6
zero = np.zeros((1, 1, 1, 1))
slope = ((prelu(zero + h, 0.25).array - prelu(zero - h, 0.25).array) / (2 * h)).item()
predict(
    "The slopes are 1 and 0.25. What does the central difference give at 0?",
    guess=None,
    value=slope,
    because="The mean of both. No rule returns that, so a gradient check that steps on a kink "
    "fails. Training does not mind: "
    "no pixel stays at exactly 0.",
)
assert abs(slope - 0.625) < 1e-6

# %% [markdown]
# ## 4. How large should the initial weights be?
#
# One output of a layer is a sum of $n$ products. $n$ is called the **fan-in**: $k \cdot k \cdot C$
# for a convolution. If the weights are independent, with mean 0, the products are uncorrelated, and
# their variances add:
#
# $$E[y^2] = n\; \mathrm{Var}[w]\; E[x^2]$$
#
# Half of the outputs are negative. A ReLU replaces them by zero, which halves the mean square:
#
# $$E[\mathrm{relu}(y)^2] = \frac{1}{2}\, E[y^2] = \frac{n\,\mathrm{Var}[w]}{2}\; E[x^2]$$
#
# So from layer to layer the size of the signal, its root mean square, is multiplied by
# $\sqrt{n\,\mathrm{Var}[w] / 2}$. He et al. choose $\mathrm{Var}[w] = 2/n$, which makes the factor
# 1.
#
# Much code draws all weights from a normal distribution with standard deviation 0.01, whatever the
# fan-in is. Take a fan-in of 576, which is a 3 x 3 convolution of 64 channels.

# %%
LAYERS, WIDTH = 30, 576
he = np.sqrt(2 / WIDTH)
predict(
    "By what factor does one layer with weights of standard deviation 0.01 multiply the "
    "signal's size?",
    guess=None,
    value=0.01 * np.sqrt(WIDTH / 2),
    because="sqrt(576 * 0.0001 / 2). After 30 layers, about 10^-23 of the signal is left.",
)


def sizes_through(std):
    """The root mean square of the output of each of 30 layers, before its ReLU."""
    y = np.random.default_rng(6).standard_normal((200, WIDTH))
    sizes = []
    for layer in range(LAYERS):
        weights = np.random.default_rng([6, layer]).normal(0, std, (WIDTH, WIDTH))
        y = y @ weights
        sizes.append(np.sqrt((y * y).mean()))
        y = np.maximum(y, 0)
    return np.array(sizes)


signal = {}
for name, std in {"He": he, "1.5 x He": 1.5 * he, "normal(0, 0.01)": 0.01}.items():
    sizes = sizes_through(std)
    expected = std * np.sqrt(WIDTH / 2)
    measured = (sizes[-1] / sizes[0]) ** (1 / (LAYERS - 1))
    print(f"{name:16} factor per layer: {expected:.3f} by the formula, {measured:.3f} measured")
    assert abs(measured / expected - 1) < 0.05
    signal[name] = sizes, expected

# %% [markdown]
# The package's `initialise` uses the same formula, for every convolution and linear layer.

# %%
weights = initialise(Conv2d(64, 64, 3)).weight.array
assert abs(weights.std() / he - 1) < 0.02
print(
    f"standard deviation of a package's convolution, 3 x 3, 64 channels: {weights.std():.4f}; "
    f"He: {he:.4f}"
)

# %% [markdown]
# ## 5. When gamma is drawn at random, too
#
# Batch norm removes any scale. Before a batch norm, even weights from normal(0, 0.01) work. But batch
# norm has a weight of its own, $\gamma$, which should start at 1. An initialiser that says
# "normal(0, 0.01) for every parameter" draws $\gamma$ as well. The tutorial that this project began
# with did that.
#
# We look at the **discriminator** D, SRGAN's second network: it takes a picture and returns one
# number, the *logit*, which is large if D takes the picture for a photograph (lesson 14 builds it,
# lesson 16 explains the game). It has seven batch norms. What matters to the generator is D's
# gradient with respect to the *picture*: that is all it ever learns from D.
#
# Going backward, each batch norm multiplies the gradient by $\gamma / \sqrt{\sigma^2 + \epsilon}$.
# Two cases:
#
# * *Without* $\epsilon$: a $\gamma$ of about 0.01 makes the next layer's variance $0.01^2$ times as
#   large, and the next batch norm divides by 0.01. The two cancel. Only the last $\gamma$ has no
#   batch norm after it. So the gradient shrinks by 1/0.01 = 100.
# * *With* $\epsilon = 10^{-5}$: the small variance may fall below $\epsilon$. Then the division
#   restores only part of the gradient's size, at every layer. How large that part is can be
#   computed from the variances of the forward pass.

# %%
SIZE = 64
photo = images.to_float(downscale(Photograph().load(0), 2))
corners = [(40, 85), *np.random.default_rng(0).integers(0, 256 - SIZE, (7, 2))]
# 8 crops; the first is the face.
batch = np.stack([photo[i : i + SIZE, j : j + SIZE] for i, j in corners])


def look(gamma_std, eps):
    """The gradient of the first picture's logit with respect to that picture, (64, 64, 3); the
    variance that each batch norm divides by, (7,); its factor on the gradient, (7,).

    gamma_std: draw every gamma from normal(0, gamma_std); None leaves it at 1.
    """
    discriminator = Discriminator(64, SIZE, init="normal")
    picture = x = Tensor(batch)
    variances, factors = [], []
    with Tape() as tape:
        for layer in discriminator.features.steps:
            if isinstance(layer, BatchNorm):
                layer.eps = eps
                if gamma_std:
                    drawn = np.random.default_rng([6, len(factors)])
                    layer.gamma.array[...] = drawn.normal(0, gamma_std, layer.gamma.shape)
                variance = x.array.var((0, 1, 2))
                variances.append(variance.mean())
                factors.append(np.sqrt((layer.gamma.array**2 / (variance + eps)).mean()))
            x = layer(x)
        logit = discriminator.classifier(x)[0, 0]
    return tape.gradient(logit, picture)[0], np.array(variances), np.array(factors)


shrinks, expected = {}, {}
for eps in (1e-14, 1e-5):
    gradient, var_ones, factors_ones = look(None, eps)
    lost, var_drawn, factors_drawn = look(0.01, eps)
    shrinks[eps] = np.linalg.norm(gradient) / np.linalg.norm(lost)
    expected[eps] = np.prod(factors_ones / factors_drawn)
    assert 0.4 < expected[eps] / shrinks[eps] < 2.5
predict(
    "With eps = 1e-5, how many times smaller is the gradient that reaches the generator?",
    guess=None,
    value=shrinks[1e-5],
    within=0.5,
    because=f"Without eps it would be {shrinks[1e-14]:.0f} times smaller. Lesson 20 exhibits the"
    " same "
    "bug in a network of another size, with a factor of its own.",
)
for eps, times in shrinks.items():
    print(
        f"eps {eps:.0e}: {times:.0f} times smaller; computed from the variances: {expected[eps]:.0f}"
    )
assert 50 < shrinks[1e-14] < 200 < shrinks[1e-5] < 4000

# %% [markdown]
# Would the optimiser not make up for that? Adam (lesson 11) forgives D's *own* weights a gradient
# that is too small. But the generator adds D's gradient to the gradient of its other losses, and
# there it is too small to matter.

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
t = np.linspace(-3, 3, 301)
for label, slope in {
    "ReLU, a = 0": 0,
    "LeakyReLU, a = 0.2": 0.2,
    "PReLU may learn a = -0.5": -0.5,
}.items():
    axes[0].plot(t, np.where(t > 0, t, slope * t), label=label)
axes[0].set(title="one kink, three slopes", xlabel="x", ylabel="y")
for name, (sizes, factor) in signal.items():
    (line,) = axes[1].semilogy(range(1, LAYERS + 1), sizes, "o", markersize=3, label=name)
    axes[1].semilogy(
        range(1, LAYERS + 1),
        sizes[0] * factor ** np.arange(LAYERS),
        color=line.get_color(),
        alpha=0.5,
    )
axes[1].set(
    title="the signal through 30 layers (lines: the formula)",
    xlabel="layer",
    ylabel="root mean square",
)
axes[2].semilogy(range(1, 8), var_ones, "o-", label="gamma = 1")
axes[2].semilogy(range(1, 8), var_drawn, "o-", label="every gamma drawn")
axes[2].axhline(1e-5, color="black", linestyle=":", label="eps")
axes[2].set(
    title="the variance that each batch norm of D divides by",
    xlabel="batch norm",
    ylabel="variance",
)
for axis in axes:
    axis.legend(fontsize=8)
save(figure, "09_sizes")


def seen(array):
    """A gradient as a picture: grey for zero."""
    return np.clip(0.5 + 0.15 / gradient.std() * array, 0, 1)


save(
    picture_row(
        {
            "what D looks at": images.to_uint8(batch[0]),
            "what G is told, gamma = 1": seen(gradient),
            "every gamma drawn": seen(lost),
            "the same, times 1000": seen(1000 * lost),
        },
        height=3,
    ),
    "09_what_g_is_told",
)

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "What standard deviation does He's rule give the generator's first convolution, 9 x 9 on RGB?",
    answer=None,
    check=lambda std: abs(std - (2 / (81 * 3)) ** 0.5) < 1e-3,
    hint="the fan-in is 9 * 9 * 3",
)
exercise(
    2,
    "Every gamma of the discriminator is 0.1, and eps = 0. How many times smaller is the "
    "logit's gradient?",
    answer=None,
    check=lambda times: abs(times - 10) < 0.5,
    hint="which of the seven gammas has no batch norm after it?",
)


# %%
def check_variance(function):
    return (
        abs(function(576, 0.2) * 576 * 1.04 / 2 - 1) < 1e-3 and abs(function(9, 1) - 1 / 9) < 1e-6
    )


exercise(
    3,
    "With LeakyReLU, slope a, in place of ReLU: which Var[w] keeps the signal's size? A "
    "function of (n, a).",
    answer=None,
    check=check_variance,
    hint="half of E[y^2] passes above zero, and a^2 times the other half below; with a = 1 "
    "nothing is lost",
)

# %% [markdown]
# The absolute value, $|x|$, is an activation with a kink, too. Somebody copied ReLU's rule. Repair
# it.


# %%
def broken_absolute_rule(dy, x):
    return dy * (x > 0)


def check_absolute(rule):
    result = check(op(lambda x: (np.abs(x), (lambda dy: rule(dy, x),))), normal(3, 4))[0]
    return result.passed or str(result)


exercise(4, "Write the rule of |x|: a function of (dy, x).", answer=None, check=check_absolute)
