# %% [markdown]
# # Lesson 05: Convolution
#
# **The question.** What does a convolution compute, and what is its gradient?
#
# You should know: gradient rules and their check (lesson 02); what weights and a bias are (lesson
# 04).
#
# Paper: LeCun et al. 1989, "Backpropagation Applied to Handwritten Zip Code Recognition", section
# 3.
#
# Lives in: `npsrgan/ops/convolution.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, picture_row, predict, save

from npsrgan import ops
from npsrgan.data import Photograph
from npsrgan.gradcheck import check
from npsrgan.metrics import luma
from npsrgan.ops.operation import op
from npsrgan.tape import Tape, Tensor

# %% [markdown]
# ## 1. The formula
#
# A linear layer (lesson 04) connects every input with every output. For a photograph that would be
# far too many weights, and each would be tied to one place. A **convolution** uses two facts about
# pictures: related pixels lie close together, and a thing may lie anywhere. So an output pixel
# looks only at a small **window** of the input, and all output pixels use the same weights, the
# **kernel**.
#
# The input has several numbers per pixel, its channels: at first red, green and blue, and deeper in
# a network 64 channels that it has computed. Each output pixel has several channels, too. With a
# window of 3 x 3 pixels,
#
# $$y_{nhko} = \sum_{i=0}^{2} \sum_{j=0}^{2} \sum_{c} \bar{x}_{n,\,h+i,\,k+j,\,c}\; w_{ijco}$$
#
# | symbol | shape | meaning |
# |---|---|---|
# | $x$ | (N, H, W, C) | N images of H x W pixels with C channels |
# | $\bar{x}$ | (N, H + 2, W + 2, C) | $x$ with a border of one pixel of zeros |
# | $w$ | (3, 3, C, O) | the kernel: for each place in the window, a matrix from C to O channels |
# | $y$ | (N, H, W, O) | the output |
#
# The border of zeros, the **padding**, lets the window stand on the outermost pixels, so that the
# output is as large as the input. (In mathematics, a convolution turns the kernel by 180 degrees,
# and the formula above is called a cross-correlation. Deep-learning libraries all use this formula
# and call it convolution.)
#
# As code, the formula is six loops. The loop over the images is left to NumPy.


# %%
def pad(x):
    """(N, H, W, C) -> (N, H + 2, W + 2, C): zeros around."""
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def six_loops(x, w):
    images, height, width, channels = x.shape
    outputs = w.shape[3]
    xp = pad(x)
    y = np.zeros((images, height, width, outputs), x.dtype)
    for h in range(height):
        for k in range(width):
            for i in range(3):
                for j in range(3):
                    for c in range(channels):
                        for o in range(outputs):
                            y[:, h, k, o] += xp[:, h + i, k + j, c] * w[i, j, c, o]
    return y


rng = np.random.default_rng(4)
x = rng.standard_normal((2, 8, 9, 3))
w = rng.standard_normal((3, 3, 3, 4))
y = six_loops(x, w)
predict(
    "How many multiplications per image does that take, from 3 channels to 4 on 8 x 9 pixels?",
    guess=None,
    value=8 * 9 * w.size,
    within=0,
    because="Every pixel uses every weight once: 8 * 9 * (3 * 3 * 3 * 4).",
)
assert np.allclose(y, ops.conv2d(x, w).array)  # the package's version
print("six loops and the package's conv2d agree")

# %% [markdown]
# ## 2. What a kernel looks for
#
# On a grey picture, C = O = 1, a kernel is nine numbers, and you can see what each set of nine
# responds to.

# %%
photo = luma(Photograph().load(0))[None, 100:400, 100:400, None] / 255
mean = np.full((3, 3), 1 / 9)
middle = np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
slope = np.array([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]])
kernels = {
    "blur:\nthe mean": mean,
    "vertical edges:\nright minus left": slope,
    "horizontal edges:\nbelow minus above": slope.T,
    "detail:\nmiddle minus mean": middle - mean,
}

wall = np.full((1, 8, 8, 1), 0.7)
on_the_wall = ops.conv2d(wall, slope[..., None, None]).array[0, 1:-1, 1:-1, 0]
predict(
    "What is the answer of 'right minus left' on a wall of constant brightness?",
    guess=None,
    value=np.abs(on_the_wall).max(),
    because="Its weights sum to 0. Three of the four kernels answer 0 where nothing changes; "
    "the blur's weights sum to 1.",
)

found = {}
for name, kernel in kernels.items():
    answer = ops.conv2d(photo, kernel[..., None, None]).array[0, 1:-1, 1:-1, 0]
    # Extreme values are clipped, for display.
    found[name] = np.clip(answer, *np.percentile(answer, (1, 99)))
    assert (abs(kernel.sum()) < 1e-9) == (abs(answer.mean()) < 0.02)
save(picture_row({"a photograph": photo[0, ..., 0]} | found, height=2.6), "05_filters")

# %% [markdown]
# Nobody chooses the kernels of a network. They are learned, like all weights, and for that the
# convolution needs gradient rules.
#
# ## 3. The gradient
#
# The formula is a sum of products $\bar{x} \cdot w$. As in lesson 04, ask for each factor in which
# products it appears, and what the other factor is.
#
# * The product of $\bar{x}_{n,h+i,k+j,c}$ and $w_{ijco}$ is added to $y_{nhko}$. So on the way
#   back, that input pixel receives $dy_{nhko}\, w_{ijco}$,
# * and that weight receives $dy_{nhko}\, \bar{x}_{n,h+i,k+j,c}$, from every pixel and every image.
#
# $$d\bar{x}_{n,\,h+i,\,k+j,\,c} += \sum_o dy_{nhko}\; w_{ijco}
# \qquad\qquad dw_{ijco} = \sum_{n,h,k} dy_{nhko}\; \bar{x}_{n,\,h+i,\,k+j,\,c}$$
#
# In code these are the same six loops, with the roles exchanged. The gradient of the padding is
# discarded at the end, because nobody needs it.


# %%
def d_x_six_loops(dy, w, x):
    images, height, width, channels = x.shape
    dxp = np.zeros_like(pad(x))
    for h, k, i, j, c, o in np.ndindex(height, width, 3, 3, channels, w.shape[3]):
        dxp[:, h + i, k + j, c] += dy[:, h, k, o] * w[i, j, c, o]
    return dxp[:, 1:-1, 1:-1]


def d_w_six_loops(dy, w, x):
    images, height, width, channels = x.shape
    xp = pad(x)
    dw = np.zeros_like(w)
    for h, k, i, j, c, o in np.ndindex(height, width, 3, 3, channels, w.shape[3]):
        dw[i, j, c, o] += (dy[:, h, k, o] * xp[:, h + i, k + j, c]).sum()
    return dw


# %% [markdown]
# Finite differences (lesson 02) decide whether that is right. (`ops.conv2d.reference` is the
# package's function on arrays: it returns the value and the rules, before `op` has made an
# operation of it.) The input is tiny, because every entry of it is moved twice.


# %%
@op
def by_hand(x, w):
    def d_x(dy):
        return d_x_six_loops(dy, w, x)

    def d_w(dy):
        return d_w_six_loops(dy, w, x)

    return six_loops(x, w), (d_x, d_w)


for result in check(by_hand, rng.standard_normal((2, 3, 4, 2)), rng.standard_normal((3, 3, 2, 2))):
    print(result)
    assert result.passed

dy = rng.standard_normal(y.shape)
package_d_x, package_d_w, *_ = ops.conv2d.reference(x, w)[1]
assert np.allclose(d_x_six_loops(dy, w, x), package_d_x(dy))
assert np.allclose(d_w_six_loops(dy, w, x), package_d_w(dy))

# %% [markdown]
# ## 4. The same gradient, read from the other side
#
# So far an output pixel *hands out* its gradient to the window it has read. Now take the view of an
# input pixel, and ask where its gradient comes from: from the nine outputs around it. The output
# below and to the right has seen it in the upper left corner of its window, and so on: the kernel
# appears turned by 180 degrees. So
#
# * $dx$ is the convolution of $dy$ with the kernel turned, its $C$ and $O$ exchanged.
#
# The gradient of a convolution is again a convolution. Whatever makes the one fast makes the other
# fast.

# %%
turned = w[::-1, ::-1].swapaxes(2, 3)  # (3, 3, O, C)
predict(
    "How large is the largest difference between that and the six loops for d_x?",
    guess=None,
    value=float(np.abs(six_loops(dy, turned) - d_x_six_loops(dy, w, x)).max()),
    because="Rounding, and nothing else.",
)
assert np.allclose(six_loops(dy, turned), d_x_six_loops(dy, w, x))

# %% [markdown]
# ## 5. Learning a kernel from an example
#
# Now we can use the rule for $w$. We are given the photograph, and a picture that a secret kernel
# has made from it. Start with a kernel of zeros and go down the gradient of the mean squared error.

# %%
secret = np.array([[1.0, 1, 0], [1, 0, -1], [0, -1, -1]])  # an embossing filter
centred = (photo - photo.mean())[:, :100, :100]
example = ops.conv2d(centred, secret[..., None, None]).array
kernel = Tensor(np.zeros((3, 3, 1, 1)))
snapshots = {}
for step in range(1501):
    if step in (0, 30, 300, 1500):
        snapshots[step] = kernel.array[..., 0, 0].copy()
    with Tape() as tape:
        loss = ops.mean(ops.square(ops.conv2d(centred, kernel) - example))
    kernel.array = kernel.array - 1.2 * tape.gradient(loss, kernel)
distance = np.abs(kernel.array[..., 0, 0] - secret).max()
print("learned kernel:\n", kernel.array[..., 0, 0].round(2))
assert distance < 0.5

figure = picture_row(
    {f"kernel after {step} steps": found for step, found in snapshots.items()}
    | {"the secret kernel": secret},
    vmin=-1.2,
    vmax=1.2,
    height=1.9,
)
save(figure, "05_learned_kernel")

# %% [markdown]
# The difference between right and left is found early, and fine differences between neighbouring
# weights late: neighbouring pixels of a photograph are so similar that it hardly matters which of
# them is used. Lesson 11 comes back to directions in which a loss is steep or flat.
#
# ## 6. Stride and bias
#
# Two small additions complete the operation. With a **stride** of 2 the window moves two pixels at
# a time, so the output is half as large; SRGAN's second network, the discriminator, shrinks
# pictures that way. And a **bias**, one number for each output channel, is added at every pixel.

# %%
half = ops.conv2d(x, w, stride=2).array
assert np.allclose(half, y[:, ::2, ::2])  # every other pixel of every other row
with_bias = ops.conv2d(x, w, np.array([1.0, 2, 3, 4])).array
assert np.allclose(with_bias - y, [1, 2, 3, 4])
print("stride 2 turns", y.shape, "into", half.shape)

# %% [markdown]
# ## Exercises
#
# Put your answer in place of `None` and run the cell. Answers are in
# [tests/lessons/answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "SRResNet's first convolution has a window of 9 x 9 and goes from 3 to 64 channels. How "
    "many multiplications does it make "
    "on an image of 44 x 44 pixels?",
    answer=None,
    check=lambda a: a == 44 * 44 * 81 * 3 * 64,
    hint="every pixel uses every weight once",
)
exercise(
    2,
    "A convolution of 3 x 3 and stride 2 is applied four times to 96 x 96 pixels. How many "
    "pixels wide is the result?",
    answer=None,
    check=lambda a: a == 6,
    hint="each one halves the width",
)

# %%
exercise(
    3,
    "Write d_b, the rule for the bias: a function of dy, (N, H, W, O), that returns (O,).",
    answer=None,
    check=lambda rule: np.allclose(rule(dy), dy.sum((0, 1, 2))),
    hint="the bias of a channel is added at every pixel of every image",
)

# %% [markdown]
# The rule below is wrong. It still passes the check if the kernel is symmetric, such as the blur:
# so check with random kernels, always. Repair it.


# %%
def broken_d_x(dy, w):
    return ops.conv2d(dy, w.swapaxes(2, 3)).array


symmetric = np.broadcast_to(mean[..., None, None], (3, 3, 1, 1))
one_channel = rng.standard_normal((1, 6, 6, 1))
assert np.allclose(
    broken_d_x(one_channel, symmetric),
    ops.conv2d.reference(one_channel, symmetric)[1][0](one_channel),
)
exercise(
    4,
    "Repair broken_d_x: a function of (dy, w).",
    answer=None,
    check=lambda rule: np.allclose(rule(dy, w), package_d_x(dy)),
    hint="part 4",
)
