# %% [markdown]
# # Lesson 07: Winograd's convolution
#
# **The question.** How can a 3 x 3 convolution be computed exactly with a quarter of the
# multiplications?
#
# You should know: convolution (lesson 05); its forms as matrix products, and the roofline (lesson
# 06).
#
# Papers: Winograd 1980, "Arithmetic Complexity of Computations"; Lavin and Gray 2016, "Fast
# Algorithms for Convolutional Neural Networks", sections 4.1 and 4.2.
#
# Lives in: `npsrgan/fast/winograd.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import time

import numpy as np
from _lesson import exercise, plt, predict, save

from npsrgan import ops
from npsrgan.fast import winograd as package
from npsrgan.ops.operation import reference_only

# %% [markdown]
# ## 1. Two outputs for four multiplications
#
# Take one dimension. A filter $g_0, g_1, g_2$ slides over four numbers $d_0, \ldots, d_3$ and gives
# two outputs:
#
# $$y_0 = d_0 g_0 + d_1 g_1 + d_2 g_2 \qquad\qquad y_1 = d_1 g_0 + d_2 g_1 + d_3 g_2$$
#
# That is six multiplications. Here are four others:
#
# $$m_0 = (d_0 - d_2)\, g_0 \qquad\qquad m_1 = (d_1 + d_2)\, \frac{g_0 + g_1 + g_2}{2}$$
#
# $$m_3 = (d_1 - d_3)\, g_2 \qquad\qquad m_2 = (d_2 - d_1)\, \frac{g_0 - g_1 + g_2}{2}$$
#
# and the outputs are sums of them:
#
# $$y_0 = m_0 + m_1 + m_2 \qquad\qquad y_1 = m_1 - m_2 - m_3$$
#
# To see that, multiply out. In $m_1 + m_2$ the halves combine: $d_1$ keeps the factor $g_1$, and
# $d_2$ keeps $g_0 + g_2$. Together with $m_0 = d_0 g_0 - d_2 g_0$ the $d_2 g_0$ cancels, and $y_0$
# remains. In $m_1 - m_2$, $d_1$ keeps $g_0 + g_2$ and $d_2$ keeps $g_1$; subtracting
# $m_3 = d_1 g_2 - d_3 g_2$ leaves $y_1$.
#
# The bracket with the $g$ belongs to the filter alone. It is computed once and used for the whole
# image.


# %%
def from_image(d):
    """Four numbers of the image -> four factors."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def from_kernel(g):
    """Three weights -> four factors."""
    return g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]


def to_outputs(m):
    """Four products -> two outputs."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


d = [1, 2, 4, 8]
g = [3, 5, 7]
two = to_outputs([a * b for a, b in zip(from_image(d), from_kernel(g))])
assert two == (1 * 3 + 2 * 5 + 4 * 7, 2 * 3 + 4 * 5 + 8 * 7)
print("two outputs with four multiplications:", two)

# %% [markdown]
# Where does it come from? The product of two polynomials with 3 and 2 coefficients has degree 3, so
# it is determined by its values at four points. Evaluate both factors at 0, 1, -1 and infinity,
# multiply the four pairs of values, and recover the four coefficients. A filter is the transpose of
# such a product: it turns four numbers into two, where the product turns two into four. So
# `from_kernel` evaluates the kernel (up to the factors 1/2), `from_image` is the transpose of
# recovering the coefficients, and `to_outputs` is the transpose of evaluating.
#
# ## 2. Two dimensions
#
# The same trick along the rows *and* along the columns: a tile of 4 x 4 pixels gives 2 x 2 outputs.
# The formula of lesson 05 makes 9 multiplications for each of the four.

# %%
tile = np.arange(16.0).reshape(4, 4) ** 1.5
kernel = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 10]])


def nested(transform, array):
    """A transform along the first axis, then along the second."""
    rows = np.array(transform(array))
    return np.array(transform(rows.swapaxes(0, 1))).swapaxes(0, 1)


v = nested(from_image, tile)  # (4, 4)
u = nested(from_kernel, kernel)  # (4, 4)
y = nested(to_outputs, v * u)  # (2, 2): u * v are all multiplications there are
direct = [[(tile[h : h + 3, k : k + 3] * kernel).sum() for k in (0, 1)] for h in (0, 1)]
assert np.allclose(y, direct)
predict(
    "36 multiplications become how many?",
    guess=None,
    value=v.size,
    within=0,
    because="One for each entry of the 4 x 4 transformed tile.",
)

# %% [markdown]
# The transforms themselves are only additions (and halvings of weights). But do these additions not
# cost as much as the multiplications that were saved? No, and that is the point. With C input and O
# output channels, the image is transformed once for each *input* channel, and the outputs once for
# each *output* channel. The multiplications are made for each *pair* of channels: 64 x 64 pairs,
# against 64 + 64 transforms.
#
# ## 3. Again a matrix product
#
# For all tiles and all channels, entry $(a, b)$ of the transformed tiles is an array of (tiles, C)
# numbers, and the same entry of the transformed kernel is (C, O). The sum over the input channels
# is their matrix product. So
#
# **a convolution is sixteen matrix products, each with a quarter as many rows as there are
# pixels.**
#
# The tiles are 2 pixels apart and overlap by 2.


# %%
def winograd(x, w):
    """x (N, H, W, C) with even H and W, w (3, 3, C, O) -> (N, H, W, O)."""
    images, height, width, channels = x.shape
    outputs = w.shape[3]
    xp = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # tiles[a][b]: pixel (a, b) of every tile, (N, H/2, W/2, C)
    tiles = np.array(
        [[xp[:, a : a + height : 2, b : b + width : 2] for b in range(4)] for a in range(4)]
    )
    v = nested(from_image, tiles).reshape(16, -1, channels)  # (16, tiles, C)
    u = nested(from_kernel, w).reshape(16, channels, outputs)  # (16, C, O)
    m = (v @ u).reshape(4, 4, images, height // 2, width // 2, outputs)
    y = nested(to_outputs, m)  # (2, 2, N, H/2, W/2, O)
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(images, height, width, outputs)


rng = np.random.default_rng(7)
x = rng.standard_normal((2, 8, 10, 3))
w = rng.standard_normal((3, 3, 3, 5))
assert np.allclose(winograd(x, w), ops.conv2d.reference(x, w)[0])
print("Winograd by hand agrees with the nine shifted products")

# %% [markdown]
# ## 4. Larger tiles
#
# Why stop at 4 x 4? Six points in place of four turn 6 x 6 pixels into 4 x 4 outputs: 36
# multiplications in place of $16 \cdot 9 = 144$. The package does that. It writes the transforms as
# matrices: with a tile $d$, (6, 6), and a kernel $g$, (3, 3),
#
# $$y = A^T \left[ (G\,g\,G^T) * (B^T d\,B) \right] A$$
#
# where $*$ multiplies entry by entry. The points are 0, 1, -1, $\sqrt 2$, $-\sqrt 2$ and infinity.

# %%
BT, G, AT = package.BT, package.G, package.AT
tile = rng.standard_normal((6, 6))
kernel = rng.standard_normal((3, 3))
y = AT @ ((G @ kernel @ G.T) * (BT @ tile @ BT.T)) @ AT.T
direct = [[(tile[h : h + 3, k : k + 3] * kernel).sum() for k in range(4)] for h in range(4)]
assert np.allclose(y, direct)
predict(
    "By which factor does that reduce the multiplications of a 3 x 3 convolution?",
    guess=None,
    value=16 * 9 / 36,
    within=0,
    because="144 for 16 outputs become 36.",
)

# %% [markdown]
# ## 5. The gradient
#
# The gradient with respect to the image is again a 3 x 3 convolution, of $dy$ with the turned
# kernel (lesson 05, part 4), so it needs nothing new. For the kernel, apply the chain rule to the
# formula. Every step is linear, and the rule of $y = M z$ is $dz = M^T dy$:
#
# $$dg = G^T \left[ \sum_{\mathrm{tiles}} (B^T d\,B) * (A\,dy\,A^T) \right] G$$
#
# Finite differences on one tile:

# %%
dy = rng.standard_normal((4, 4))
dg = G.T @ ((BT @ tile @ BT.T) * (AT.T @ dy @ AT)) @ G
numeric = np.zeros((3, 3))
for index in np.ndindex(3, 3):
    values = []
    for h in (1e-6, -1e-6):
        moved = kernel.copy()
        moved[index] += h
        values.append((dy * (AT @ ((G @ moved @ G.T) * (BT @ tile @ BT.T)) @ AT.T)).sum())
    numeric[index] = (values[0] - values[1]) / 2e-6
error = np.abs(dg - numeric).max() / np.abs(numeric).max()
print(f"largest difference from finite differences, relative: {error:.0e}")
assert error < 1e-7

# %% [markdown]
# ## 6. What it costs: digits
#
# Additions and subtractions of large numbers lose digits. The larger the tile, the larger the
# factors in the matrices, and the more is lost. Compare in float32, against the truth in float64.

# %%
x = rng.standard_normal((2, 48, 48, 64))
w = rng.standard_normal((3, 3, 64, 64)) * np.sqrt(2 / 576)
truth = ops.conv2d.reference(x, w)[0]
x32, w32 = x.astype(np.float32), w.astype(np.float32)
errors = {}
for name, value in {
    "nine shifted products": ops.conv2d.reference(x32, w32)[0],
    "2 x 2 outputs at a time, by hand": winograd(x32, w32),
    "4 x 4 outputs at a time, the package": ops.conv2d(x32, w32).array,
}.items():
    errors[name] = np.sqrt(np.mean((value - truth) ** 2)) / truth.std()
    print(f"{name:38} error {errors[name]:.1e} of the output's size")
lost = errors["4 x 4 outputs at a time, the package"] / errors["nine shifted products"]
predict(
    "How many times as large is the package's rounding error as that of the plain products?",
    guess=None,
    value=lost,
    within=0.5,
    because="About one decimal digit is lost. Training in float32 does not notice.",
)
assert lost < 50

# %% [markdown]
# ## 7. What it gains: time
#
# By the roofline of lesson 06, fewer multiplications only help where multiplications are the limit.
# By hand, the transforms move the image through memory some 35 times, which can cost more than the
# multiplications saved. The package works in pieces that stay in the cache, on all cores.

# %%
x32 = rng.standard_normal((4, 96, 96, 64), np.float32)


def milliseconds(function):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - began))
    return min(times)


def shifted():
    with reference_only():
        ops.conv2d(x32, w32)


durations = {
    "nine shifted products": milliseconds(shifted),
    "Winograd by hand, 2 x 2": milliseconds(lambda: winograd(x32, w32)),
    "the package, 4 x 4": milliseconds(lambda: ops.conv2d(x32, w32)),
}
figure, axes = plt.subplots(1, 2, figsize=(10, 2.6), layout="constrained")
axes[0].barh(list(durations), list(durations.values()), color=["C0", "C1", "C2"])
axes[0].set(xlabel="milliseconds", title="a layer of SRResNet, 4 images of 96 x 96")
axes[1].barh(list(errors), list(errors.values()), color=["C0", "C1", "C2"])
axes[1].set(xlabel="error, relative to the output", title="what it costs in float32", yticks=[])
for axis in axes:
    axis.invert_yaxis()
save(figure, "07_winograd")
for name, duration in durations.items():
    print(f"{name:26} {duration:6.1f} ms")

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "With tiles of 8 x 8 pixels for 6 x 6 outputs, by which factor would the multiplications shrink?",
    answer=None,
    check=lambda a: abs(a - 36 * 9 / 64) < 0.01,
    hint="64 in place of 36 * 9",
)
exercise(
    2,
    "A layer goes from 3 to 64 channels. For 2 x 2 outputs, how many multiplications per tile "
    "does Winograd make, "
    "over all pairs of channels?",
    answer=None,
    check=lambda a: a == 16 * 3 * 64,
    hint="16 for each pair",
)

# %% [markdown]
# Write the algorithm for a filter of *two* weights in one dimension: three numbers $d$ give two
# outputs, $d_0 g_0 + d_1 g_1$ and $d_1 g_0 + d_2 g_1$, with three multiplications. Your function is
# called with objects that count multiplications of an image's number with a weight.


# %%
class Counted:
    """A number that counts the products it takes part in."""

    products = 0

    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        return Counted(self.value + other.value)

    def __sub__(self, other):
        return Counted(self.value - other.value)

    def __mul__(self, other):
        Counted.products += 1
        return Counted(self.value * other.value)


def check_two_taps(function):
    Counted.products = 0
    outputs = function([Counted(v) for v in (2, 3, 7)], [Counted(v) for v in (5, 11)])
    if [y.value for y in outputs] != [2 * 5 + 3 * 11, 3 * 5 + 7 * 11]:
        return "the outputs are not right"
    return Counted.products == 3 or f"it made {Counted.products} multiplications"


exercise(
    3,
    "Write two_taps(d, g): two outputs with three multiplications, and otherwise + and - only.",
    answer=None,
    check=check_two_taps,
    hint="use (d0 - d1) g0, d1 (g0 + g1) and (d1 - d2) g1",
)
