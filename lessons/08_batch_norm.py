# %% [markdown]
# # Lesson 08: Batch normalisation
#
# **The question.** What is the gradient of a layer in which every output depends on every input?
#
# You should know: mean and variance, the chain rule, convolution (lesson 05), the gradient check
# (lesson 02).
#
# Paper: Ioffe and Szegedy 2015, "Batch Normalization", section 3, algorithms 1 and 2.
#
# Lives in: `npsrgan/ops/normalisation.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save

from npsrgan import ops
from npsrgan.data import Photograph, downscale
from npsrgan.gradcheck import check
from npsrgan.images import to_float, to_uint8
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

# %% [markdown]
# ## 1. Why normalise
#
# Sixteen tiles of a photograph go through a convolution with eight random filters. No two of the
# resulting channels have the same size. After many such layers the signal would have exploded or
# vanished.

# %%
# (256, 256, 3) in [-1, 1]
photo = to_float(downscale(Photograph().load(0)[:512], 2)).astype(np.float64)
tiles = photo.reshape(4, 64, 4, 64, 3).transpose(0, 2, 1, 3, 4).reshape(16, 64, 64, 3)
rng = np.random.default_rng(5)
filters = rng.standard_normal((3, 3, 3, 8))
x = ops.conv2d(tiles, filters).array
print("x has the shape (N, H, W, C) =", x.shape)
print("standard deviations of its channels:", x.std((0, 1, 2)).round(1))

# %% [markdown]
# ## 2. The formula
#
# Each channel is treated by itself. In a batch it consists of $m = N \cdot H \cdot W$ numbers. For
# these,
#
# $$\mu = \frac{1}{m} \sum x \qquad \sigma^2 = \frac{1}{m} \sum (x - \mu)^2 \qquad
# \hat{x} = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \qquad y = \gamma\,\hat{x} + \beta$$
#
# $\hat{x}$ has the mean 0 and the standard deviation 1. $\epsilon = 10^{-5}$ keeps the division
# safe where a channel is constant. $\gamma$ and $\beta$, one number each for every channel, are
# learned: the layer can restore any size and any centre, but it chooses them itself. All sums run
# over the axes N, H and W.

# %%
AXES = (0, 1, 2)
EPS = 1e-5


def normalise(x):
    """x (N, H, W, C) -> x_hat (N, H, W, C), mean (C,), std (C,)."""
    mean = x.mean(AXES)
    std = np.sqrt(((x - mean) ** 2).mean(AXES) + EPS)
    return (x - mean) / std, mean, std


x_hat, mean, std = normalise(x)
changed = np.abs(normalise(3 * x + 7)[0] - x_hat).max()
predict(
    "x is replaced by 3 x + 7. By how much does x_hat change at most?",
    guess=None,
    value=round(changed, 3),
    because="The mean moves along, and the standard deviation scales along. What is left comes "
    "from epsilon.",
)
assert changed < 1e-4

# %% [markdown]
# ## 3. The gradient, step by step
#
# $x$ reaches $\hat{x}$ by three paths: directly, through the variance, and through the mean. Write
# $dy$ for $dL/dy$, and so on, and $s = \sqrt{\sigma^2 + \epsilon}$. Going backward through the four
# formulas:
#
# 1. $y = \gamma \hat{x} + \beta$, so $d\hat{x} = \gamma\,dy$.
# 2. $\hat{x} = (x - \mu)(\sigma^2 + \epsilon)^{-1/2}$. The variance is one number that all $m$
#    outputs share, so its gradient is a sum over all of them:
#    $d\sigma^2 = \sum d\hat{x}\,(x - \mu) \cdot (-\frac{1}{2})\,s^{-3}$.
# 3. The mean appears in every $\hat{x}$, with the factor $-1/s$: $d\mu = -\sum d\hat{x} / s$. It
#    also appears in the variance, but there its derivative is $-\frac{2}{m} \sum (x - \mu) = 0$.
# 4. $x$ appears directly, with $1/s$; in the variance, with $2 (x - \mu) / m$; in the mean, with
#    $1/m$. Together:
#
# $$dx = \frac{d\hat{x}}{s} + d\sigma^2\, \frac{2 (x - \mu)}{m} + \frac{d\mu}{m}$$


# %%
def gradient_step_by_step(dy, gamma, x):
    x_hat, mean, std = normalise(x)
    m = x.size // x.shape[-1]
    d_x_hat = gamma * dy
    d_var = (d_x_hat * (x - mean)).sum(AXES) * -0.5 * std**-3
    d_mean = -d_x_hat.sum(AXES) / std
    return d_x_hat / std + d_var * 2 * (x - mean) / m + d_mean / m


# %% [markdown]
# ## 4. The same, simplified
#
# Substitute $d\sigma^2$ and $d\mu$ in the last line, and replace $(x - \mu)/s$ by $\hat{x}$. The
# middle term becomes
#
# $$-\frac{1}{2} \left[ \sum d\hat{x}\,(x - \mu) \right] s^{-3} \cdot \frac{2 (x - \mu)}{m}
# = -\frac{1}{s}\; \hat{x}\; \frac{1}{m} \sum d\hat{x}\,\hat{x}$$
#
# and so, with $d\hat{x} = \gamma\,dy$ and the common factor $\gamma / s$ in front,
#
# $$dx = \frac{\gamma}{s} \left( dy - \mathrm{mean}(dy) - \hat{x} \cdot \mathrm{mean}(dy\,\hat{x}) \right)$$
#
# In words: the gradient is passed on, *without* its mean and *without* the part of it that is
# proportional to $\hat{x}$. The layer ignores shifts and stretches of its input, so no gradient
# points in these directions.
#
# The other two rules are those of a product and a sum over everything that shares $\gamma$ and
# $\beta$: $d\gamma = \sum dy\,\hat{x}$ and $d\beta = \sum dy$.


# %%
def gradient(dy, gamma, x):
    x_hat, mean, std = normalise(x)
    return gamma / std * (dy - dy.mean(AXES) - x_hat * (dy * x_hat).mean(AXES))


gamma = rng.standard_normal(8)
beta = rng.standard_normal(8)
dy = rng.standard_normal(x.shape)
dx = gradient(dy, gamma, x)
assert np.allclose(dx, gradient_step_by_step(dy, gamma, x), rtol=1e-10, atol=1e-12)
print(f"first channel: sum of dy {dy.sum(AXES)[0]:.0f}")
predict(
    "What is the sum of dx over that channel?",
    guess=None,
    value=round(dx.sum(AXES)[0], 6),
    because="Adding a constant to x changes no output. The derivative in that direction is the "
    "sum of dx.",
)
assert np.abs(dx.sum(AXES)).max() < 1e-6
assert np.abs((dx * x_hat).sum(AXES)).max() < 0.01  # stretching: only epsilon keeps it from being 0

# %% [markdown]
# ## 5. The check
#
# Value and rules together make an operation. Finite differences decide, on a tiny input.


# %%
@op
def by_hand(x, gamma, beta):
    x_hat = normalise(x)[0]

    def d_x(dy):
        return gradient(dy, gamma, x)

    def d_gamma(dy):
        return (dy * x_hat).sum(AXES)

    def d_beta(dy):
        return dy.sum(AXES)

    return gamma * x_hat + beta, (d_x, d_gamma, d_beta)


for result in check(by_hand, x[:2, :3, :3, :3], gamma[:3], beta[:3]):
    print(result)
    assert result.passed

tensor = Tensor(x)
with Tape() as tape:
    y = ops.batch_norm(tensor, gamma, beta)  # the package's version
    loss = ops.sum(y * dy)
assert np.allclose(y.array, by_hand(x, gamma, beta).array)
assert np.allclose(tape.gradient(loss, tensor), dx, atol=1e-9)

# %% [markdown]
# ## 6. What one pixel owes to all the others
#
# Let $dy$ be 1 at the brightest pixel of one channel and 0 elsewhere, with $\gamma = 1$. The
# formula predicts for every *other* pixel
# $-(1 + \hat{x}_{\mathrm{here}}\,\hat{x}_{\mathrm{there}}) / (m\,s)$: a faint negative of the whole
# batch, all sixteen tiles of it.

# %%
shown = x_hat[..., 2]
pixel = np.unravel_index(shown.argmax(), shown.shape)
one = np.zeros_like(x)
one[(*pixel, 2)] = 1
ghost = (gradient(one, np.ones(8), x) * std)[..., 2]
m = x.size // 8
assert np.allclose(ghost - one[..., 2], -(1 + shown[pixel] * shown) / m)


def mosaic(tiles):
    """Sixteen tiles laid out as one picture."""
    return np.array(tiles).reshape(4, 4, 64, 64, -1).swapaxes(1, 2).reshape(256, 256, -1).squeeze()


figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for channel in (1, 2, 3):
    axes[0].hist(x[..., channel].ravel(), 80, range=(-12, 12), alpha=0.6)
    axes[1].hist(x_hat[..., channel].ravel(), 80, range=(-4, 4), alpha=0.6)
axes[0].set(title="three channels of x: no two alike", yticks=[], xlabel="value of a pixel")
axes[1].set(title="x_hat: mean 0, deviation 1", yticks=[], xlabel="value of a pixel")
axes[2].imshow(
    mosaic(shown), cmap="gray", vmin=np.percentile(shown, 1), vmax=np.percentile(shown, 99)
)
axes[2].set_title("a channel of x_hat, 16 tiles")
axes[3].imshow(
    mosaic(ghost), cmap="gray", vmin=np.percentile(ghost, 1), vmax=np.percentile(ghost, 99)
)
axes[3].set_title("d (brightest pixel of y) / d x")
for axis in axes[2:]:
    axis.axis("off")
save(figure, "08_gradient")

# %% [markdown]
# ## 7. A bias before it is dead
#
# The bias of a convolution adds a constant to a channel, and batch norm's mean takes it away again.

# %%
w = Tensor(filters)
b = Tensor(rng.standard_normal(8))
with Tape() as tape:
    loss = ops.mean(ops.batch_norm(ops.conv2d(tiles, w, b), gamma, beta) * dy)
dw, db = tape.gradient(loss, [w, b])
print(f"largest entry of the weights' gradient: {np.abs(dw).max():.1e}")
predict(
    "How large is the largest entry of the bias's gradient?",
    guess=None,
    value=float(np.abs(db).max()),
    because="Not small: zero. What is left is rounding.",
)
assert np.abs(db).max() < 1e-9 < 1e-6 < np.abs(dw).max()

# %% [markdown]
# ## 8. Training mode and evaluation mode
#
# In use, the result for a picture must not depend on which other pictures are in the batch. So
# during training the layer keeps **running averages** of the mean and the variance, starting from 0
# and 1,
#
# $$\mathrm{running} \leftarrow 0.9 \cdot \mathrm{running} + 0.1 \cdot \mathrm{batch}$$
#
# and in evaluation these are used in place of the batch's own. To see the difference, choose
# $\gamma$ and $\beta$ such that the layer does nothing to the photograph as a whole. Then send the
# sixteen tiles through it one at a time, in both modes.

# %%
running_mean = np.zeros(3)
running_var = np.ones(3)
gamma = np.sqrt(tiles.var(AXES) + EPS)
beta = tiles.mean(AXES)
for _ in range(200):
    ops.batch_norm(tiles, gamma, beta, running_mean, running_var)

evaluated, trained = [], []
for tile in tiles:
    alone = tile[None]
    evaluated.append(
        ops.batch_norm(alone, gamma, beta, running_mean, running_var, training=False).array
    )
    trained.append(ops.batch_norm(alone, gamma, beta).array)
evaluated = mosaic(evaluated)
trained = mosaic(trained)
assert np.abs(evaluated - photo).max() < 1e-3  # evaluation: the photograph again
same_mean = np.allclose(trained[:64, :64].mean((0, 1)), trained[64:128, 192:].mean((0, 1)))
predict(
    "In training mode, do a tile of the sky and a tile of the face come out with the same mean "
    "colour? (yes or no)",
    guess=None,
    value="yes" if same_mean else "no",
    because="Every tile gets the mean and the contrast of the whole photograph.",
)
assert same_mean
save(
    picture_row(
        {
            "the photograph": to_uint8(photo),
            "tile by tile, evaluation mode:\nthe photograph": to_uint8(evaluated),
            "tile by tile, training mode:\nall tiles get one mean and one contrast": to_uint8(
                trained
            ),
        },
        height=3.4,
    ),
    "08_modes",
)

# %% [markdown]
# The picture on the right is what forgetting `network.eval()` looks like: seams, false colours,
# noise where the sky was.
#
# The two modes differ in another way. In training, a small batch of patches has statistics of its own,
# so the network learns in a mode in which it is never used. Near the end of training, it can
# normalise with the running averages already and keep them as they are: `--frozen-batch-norm`. The
# file `srgan.h5` comes from such a last part, and `weights/README.md` has the comparison.
#
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "SRResNet has 16 blocks of two convolutions and one more convolution after them, each with"
    " 64 output channels, a bias, and "
    "a batch norm after it. How many of its parameters always have the gradient 0?",
    answer=None,
    check=lambda a: a == 33 * 64,
    hint="count the convolutions that a batch norm follows; each has 64 biases",
)
exercise(
    2,
    "All batches are alike, and the momentum is 0.9. After how many steps has the running mean "
    "covered 99 % of its way from 0?",
    answer=None,
    check=lambda a: a == np.ceil(np.log(0.01) / np.log(0.9)),
    hint="after n steps, 0.9^n of the way is left",
)

# %%
exercise(
    3,
    "Write d_x of evaluation mode: a function of (dy, gamma, running_var).",
    answer=None,
    check=lambda rule: np.allclose(
        rule(dy[..., :3], gamma, running_var), dy[..., :3] * gamma / np.sqrt(running_var + EPS)
    ),
    hint="mean and variance are constants now: only the direct path is left",
)

# %% [markdown]
# The rule below forgets the path through the variance. It passes the most natural test there is:
# the sum of $dx$ is 0. Write a test that it does not pass: a function `test(rule)` that returns
# True for `gradient` and False for the broken rule. Both are functions of `(dy, gamma, x)`.


# %%
def broken_gradient(dy, gamma, x):
    std = normalise(x)[2]
    return gamma / std * (dy - dy.mean(AXES))


def check_rule_test(test):
    if not test(gradient):
        return "the test rejects the correct rule"
    return "the test accepts the broken rule" if test(broken_gradient) else True


exercise(
    4,
    "Write test(rule).",
    answer=None,
    check=check_rule_test,
    hint="what happens to y when x is stretched?",
)
