# %% [markdown]
# # Lesson 15: What a loss wants
#
# **The question.** Why does a network that was trained on squared error draw blurred faces? And what
# does a loss that compares features of VGG19 want instead?
#
# You should know: convolution (lesson 05), Adam (lesson 11) and VGG19 (lesson 14).
#
# Papers: Ledig et al. 2017, sections 2.2.1 and 3.3; Johnson et al. 2016, "Perceptual losses for
# real-time style transfer and super-resolution".
#
# Lives in: `npsrgan/losses.py` and `npsrgan/models/vgg19.py`.
#
# VGG19's trained weights are not part of this project, so a VGG19 with random weights stands in for
# it here. The README says where to get the real ones. With a file of them, run
#
#     VGG19=vgg19.h5 python lessons/15_what_a_loss_wants.py
#
# and the lesson repeats its experiments with both.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import os

import numpy as np
from _lesson import exercise, picture_row, predict, save
from tqdm import tqdm

from npsrgan import images, losses, ops
from npsrgan.adam import Adam
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.gradcheck import check_directions, normal
from npsrgan.layers import Layer, Parameter
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.storage import load_vgg19
from npsrgan.tape import Tape, Tensor

# %% [markdown]
# ## One question, many answers
#
# A pixel of the small picture does not say where, within its 4 x 4 pixels of the large one, an edge
# runs. To see what follows from that, take a face at $K = 16$ places, one for each shift of 0 to 3
# pixels down and to the right. All sixteen are good answers, and nothing in the small picture
# prefers one of them.
#
# Call them $a_1, \ldots, a_K$, arrays of shape (128, 128, 3). A network must answer with a single
# picture $p$. Trained on squared error, it pays on average
#
# $$L(p) = \frac{1}{K} \sum_k |p - a_k|^2$$
#
# The gradient has one entry for each entry of $p$:
#
# $$\frac{dL}{dp} = \frac{2}{K} \sum_k (p - a_k) = 2 (p - m), \qquad m = \frac{1}{K} \sum_k a_k$$
#
# It is zero at one picture only, $p = m$, the mean of all answers. The mean of sixteen sharp faces
# is a blurred face, and it is none of the sixteen.
#
# How much better than a sharp answer does the blur score? Write $V$ for what the mean pays,
# $V = \frac{1}{K} \sum_k |a_k - m|^2$. For the squared difference of two answers, insert $m$:
#
# $$|a_i - a_j|^2 = |a_i - m|^2 + |a_j - m|^2 - 2 (a_i - m) \cdot (a_j - m)$$
#
# Average this over all $K^2$ pairs. The first two terms give $V$ each. The last gives zero, because
# the deviations $a_i - m$ add up to zero. So the average over all pairs is $2V$. But $K$ of those
# pairs compare an answer with itself and count zero, so over the $K^2 - K$ pairs of *different*
# answers the average is
#
# $$\frac{K^2}{K^2 - K} \cdot 2V = 2V \cdot \frac{K}{K - 1}$$

# %%
photo = images.to_float(downscale(Photograph().load(0), 2))
faces = np.stack([photo[20 + i : 148 + i, 65 + j : 193 + j] for i in range(4) for j in range(4)])
average = faces.mean(0)
K = len(faces)


def square_error(a, b):
    return np.mean((a - b) ** 2)


blurred = np.mean([square_error(face, average) for face in faces])
other = np.mean([square_error(faces[i], faces[j]) for i in range(K) for j in range(K) if i != j])
predict(
    "A sharp face in a wrong place is how many times as wrong as the blur, for K = 16?",
    guess=None,
    value=other / blurred,
    because="2 K / (K - 1) = 32 / 15",
)
np.testing.assert_allclose(other / blurred, 2 * K / (K - 1), rtol=1e-3)
gain = 10 * np.log10(other / blurred)
print(f"In decibels: the blur is {gain:.1f} dB better than a sharp face in the wrong place.")

# %% [markdown]
# So squared error does not merely tolerate blur. It *teaches* blur, to every network, however large:
# a perfect face a few pixels away from the truth scores 3.3 dB worse than the blurred mean of all
# faces.

# %%
save(
    picture_row(
        {
            "one good answer": images.to_uint8(faces[0]),
            "another, 3 pixels away": images.to_uint8(faces[-1]),
            "their average: L2's best": images.to_uint8(average),
            "the two answers' difference": 0.5 + (faces[0] - faces[-1]) / 4,
        },
        height=3,
        vmin=0,
        vmax=1,
    ),
    "15_average_face",
)

# %% [markdown]
# ## A loss that looks at features
#
# Ledig et al. do not compare pixels. They compare what VGG19, a network trained to recognise
# things, makes of the pixels: its *features* $\phi$, the numbers that one of its inner layers
# computes. (`conv3_1` names the first convolution of the third block. Between two blocks stands a
# pooling layer, which keeps the largest of every 2 x 2 numbers.)
#
# $$L(p) = \frac{1}{N} \sum (\phi(p) - \phi(hr))^2$$
#
# where the sum runs over all $N$ features. VGG19's weights stay as they are. Only the picture $p$
# receives a gradient, which follows from the chain rule through $\phi$, from its end to its
# beginning. Take the smallest example of $\phi$, one convolution and one ReLU:
#
# | step | value | shape | gradient of $L$ with respect to it |
# |---|---|---|---|
# | picture | $p$ | (1, 6, 6, 3) | `through(...)`: the convolution's rule for its input |
# | convolution | $u = p * w$ | (1, 6, 6, 8) | $dL/du = dL/df$ where $u > 0$, else 0 |
# | ReLU | $f = \max(u, 0)$ | (1, 6, 6, 8) | $dL/df = 2 (f - f_{hr}) / N$ |

# %%
p, hr, w = normal(1, 6, 6, 3), normal(1, 6, 6, 3, seed=1), normal(3, 3, 3, 8)


def gradient_by_hand(p, hr, w):
    u, (through, *_) = ops.conv2d.reference(p, w)  # the value, and one rule for each input
    f = np.maximum(u, 0)
    f_hr = np.maximum(ops.conv2d(hr, w).array, 0)
    d_f = 2 * (f - f_hr) / f.size
    d_u = np.where(u > 0, d_f, 0)
    return through(d_u)


picture = Tensor(p)
with Tape() as tape:
    loss = losses.mean_squared_error(ops.relu(ops.conv2d(picture, w)), ops.relu(ops.conv2d(hr, w)).array)
from_tape = tape.gradient(loss, picture)
np.testing.assert_allclose(from_tape, gradient_by_hand(p, hr, w), rtol=1e-10, atol=1e-14)
print("one convolution and one ReLU: the gradient by hand is the tape's")

# %% [markdown]
# The tape follows any depth. Finite differences agree for four convolutions and a pooling layer:

# %%
small = random_vgg19("conv2_2").to(lambda array: array.astype(np.float64))
for result in check_directions(
    lambda: losses.mean_squared_error(small(picture), small(hr).array), [picture], "loss on features", 2
):
    print(result)
    assert result.passed

# %% [markdown]
# ## Which loss prefers the texture?
#
# Now take stripes that are finer than a pixel of the small picture. In the small picture, all their
# positions look the same: grey. The truth is one of 16 positions, and you may answer with another
# position or with plain grey. For pixels the calculation above holds: stripes in the wrong place are
# 32/15 times as wrong as grey.
#
# Features are another matter. Pooling keeps *that* something is in its window and drops *where* it
# is, so the features of two sets of stripes resemble each other more than they resemble those of
# nothing at all.

# %%
S = 48
y, x = np.mgrid[:S, :S]
waves = np.stack([np.sin(2 * np.pi * ((0.88 * x + 0.48 * y) / 5 + (k + 0.3) / 16)) for k in range(16)])
stripes = np.repeat(0.6 * np.sign(waves)[..., None], 3, axis=3).astype(np.float32)

file = os.environ.get("VGG19")
eyes = {"random VGG19": random_vgg19}
if file:
    eyes["VGG19"] = lambda layer: load_vgg19(file, layer)


def wrong_place(features):
    """How many times as wrong as grey are stripes in another place, as `features` see it?"""
    seen = features(stripes).array
    grey = features(np.zeros_like(stripes[:1])).array[0]
    return np.mean([square_error(seen[0], s) for s in seen[1:]]) / square_error(seen[0], grey)


def pixels(picture):
    return ops.scale(picture, 1)


ratios = {"pixels": wrong_place(pixels)}
for eye, build in eyes.items():
    for layer in ("conv2_2", "conv3_1", "conv4_4"):
        ratios[f"{eye}, {layer}"] = wrong_place(build(layer))
predict(
    "To a random VGG19's conv2_2, how many times as wrong as grey are stripes in another place?",
    guess=None,
    value=ratios["random VGG19, conv2_2"],
    because="one pooling layer already forgets much of where",
)
for name, ratio in ratios.items():
    print(f"{name:22} stripes in another place are {ratio:.3f} times as wrong as grey")
assert abs(ratios["pixels"] - 32 / 15) < 0.05
assert ratios["random VGG19, conv4_4"] < 0.2 < ratios["random VGG19, conv2_2"] < 1

# %% [markdown]
# The deeper the layer, the more pooling lies before it, and the less the place matters. The trained
# VGG19 (blocks 4 and 5 stored in 8 bits) gave 0.569, 0.016 and 0.004 for the same three layers.
#
# ## Let each loss draw what it wants
#
# A picture whose pixels are the parameters, Adam, and nothing else: no generator, no training set.
# The target is the mean of the features of all 16 answers, because the calculation of the first
# section holds for features just as well:
#
# $$\frac{1}{K} \sum_k |\phi(p) - \phi_k|^2 = |\phi(p) - m_\phi|^2 + \text{a constant}$$


# %%
class Canvas(Layer):
    """A grey picture of S x S pixels, every one of them a parameter."""

    def __init__(self):
        self.grey = Parameter(np.random.default_rng(10).normal(0, 0.1, (1, S, S, 1)).astype(np.float32))

    def forward(self):
        return self.grey * np.ones(3, np.float32)


def draw_for(features, name):
    canvas = Canvas()
    target = features(stripes).array.mean(0, keepdims=True)
    adam = Adam(canvas, 0.03)
    for _ in tqdm(range(100), f"drawing for {name}", leave=False):
        with Tape() as tape:
            loss = losses.mean_squared_error(features(canvas.forward()), target)
        adam.step(tape.gradient(loss, canvas.parameters()))
    return canvas.forward().array[0]


drawn = {"pixels": draw_for(pixels, "pixels")}
for eye, build in eyes.items():
    drawn[eye] = draw_for(build("conv3_1"), eye)
contrast = {name: array.std() / stripes.std() for name, array in drawn.items()}
predict(
    "Which share of the stripes' contrast is left in the picture that squared error of pixels draws?",
    guess=None,
    value=contrast["pixels"],
    because="the mean of the sixteen is grey",
)
print("contrast of what was drawn:", {name: round(float(value), 2) for name, value in contrast.items()})
assert contrast["pixels"] < 0.1
assert all(value > 0.4 for name, value in contrast.items() if name != "pixels")
titles = {"one of 16 good answers": images.to_uint8(stripes[0])}
for name, array in drawn.items():
    titles[f"drawn for {name}: contrast {contrast[name]:.2f}"] = images.to_uint8(array)
save(picture_row(titles, height=3.4), "15_what_they_draw" + ("_vgg19" if file else ""))

# %% [markdown]
# Squared error draws grey. A random VGG19 notices *how much* detail there was, but its filters are
# noise, and so is what it draws. The trained VGG19 has filters for edges and their directions, and
# it draws stripes. They are not one of the sixteen given sets, but stripes of its own, with the right
# width and direction. This is the picture that the lesson draws when it is given VGG19's weights:
#
# ![Drawn for pixels: grey. For a random VGG19: noise. For VGG19: stripes.](.pictures/15_vgg19.jpg)
#
# ## A loss can be paid in noise
#
# The random VGG19's answer is a warning. Originals have grain, from film, sensors or skin. A blurred
# picture lacks it, and a loss that measures *how much* grain there is, and hardly where, can be
# lowered by adding any grain at all. To see this, add white noise to a blurred photograph, the bicubic
# enlargement of its own reduction. The noise knows nothing of the photograph.

# %%
sharp = images.to_float(Photograph().load(0)[40:296, 130:386])[None]
blurry = images.to_float(upscale(downscale(images.to_uint8(sharp[0]), 4), 4))[None]
noise = np.random.default_rng(10).standard_normal((*blurry.shape[:3], 1)).astype(np.float32) / 127.5
levels = (0, 1, 2, 4, 8)


def loss_with_noise(features):
    """The loss of the blurred photograph with noise of each level, relative to none."""
    wanted = features(sharp).array
    found = np.array([square_error(features(blurry + level * noise).array, wanted) for level in levels])
    return found / found[0]


paid = {"pixels": loss_with_noise(pixels)}
for eye, build in eyes.items():
    paid[f"{eye}, conv3_4"] = loss_with_noise(build("conv3_4"))
if file:
    paid["VGG19, conv5_4"] = loss_with_noise(eyes["VGG19"]("conv5_4"))
predict(
    "Noise of 4 grey levels is added. By what factor does the loss on a random VGG19's conv3_4 change?",
    guess=None,
    value=paid["random VGG19, conv3_4"][3],
    because="below 1: the noise is rewarded",
)
print("noise in grey levels:     ", *(f"{level:6d}" for level in levels))
for name, found in paid.items():
    print(f"{name:26}", *(f"{value:6.3f}" for value in found))
assert paid["pixels"][3] > 1 > paid["random VGG19, conv3_4"][3]

# %% [markdown]
# With the trained VGG19, the same noise lowers the loss on `conv3_4` by 18 %, and *raises* that on
# `conv5_4` by 11 %: the deepest layer represents what is in the picture, and noise obscures it. A
# generator that is rewarded for grain will make grain, and in a flat area, where all small pixels are
# the same, it has only one way to make it: a pattern that repeats with every small pixel. Lesson 25
# comes back to this mesh.
#
# ## Where 1/12.75 comes from
#
# The paper divides VGG19's features by 12.75 "to obtain VGG losses of a scale that is comparable to
# the MSE loss", and says that this multiplies the loss by about 0.006. The square of 1/12.75 is
# 0.00615, so 12.75 is a choice of units. Is it the size of the features themselves? It is not. With
# one file of weights (blocks 4 and 5 in 8 bits), the features of `conv5_4` had a root mean square of
# 6.6. Between this photograph and its bicubic enlargement, the squared difference of the features
# was 906 times that of the pixels; after scaling, 5.6 times. That is what "comparable" means here:
# the two losses are within a factor of ten, so that neither is lost.

# %%
assert abs(1 / 12.75**2 - 0.006) < 0.0002
if file:
    vgg = load_vgg19(file, feature_scale=1.0)
    f_sharp, f_blurry = vgg(sharp).array, vgg(blurry).array
    ratio = square_error(f_sharp, f_blurry) / square_error(sharp, blurry)
    print(
        f"conv5_4: root mean square {np.sqrt(np.mean(f_sharp**2)):.2f}; features to pixels {ratio:.0f} to 1, "
        f"scaled {ratio / 12.75**2:.1f} to 1"
    )

# %% [markdown]
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).


# %%
exercise(
    1,
    "The truth is 0 (70 % of the time) or 1 (30 %). Squared error answers with the mean, 0.3. "
    "Which answer has the least absolute error, |p - truth|?",
    answer=None,
    check=lambda p: abs(p) < 0.01,
    hint="it is the median: half of the truths lie above it, half below",
)
exercise(
    2,
    "By PSNR, how many dB worse than grey is a texture in the wrong place, if there are very many "
    "possible places?",
    answer=None,
    check=lambda d: abs(d - 3.01) < 0.02,
    hint="K / (K - 1) goes to 1",
)
exercise(
    3,
    "The features are scaled by 1/10 in place of 1/12.75. By what factor must the weight of their loss "
    "change to keep its effect?",
    answer=None,
    check=lambda f: abs(f - (10 / 12.75) ** 2) < 0.01,
    hint="in a squared error, a scale counts twice",
)

# %% [markdown]
# Repair this gradient. It was written for absolute error in place of squared error,
# $L = \frac{1}{N} \sum |f - f_{hr}|$, and it is wrong in two places.
#
# ```python
# def absolute(p, hr, w):
#     u, (through, *_) = ops.conv2d.reference(p, w)
#     f, f_hr = np.maximum(u, 0), np.maximum(ops.conv2d(hr, w).array, 0)
#     return through(np.abs(f - f_hr) / f.size)
# ```


# %%
def right_gradient(absolute):
    """Compare the reader's function with finite differences."""

    def value(p):
        return np.abs(
            np.maximum(ops.conv2d(p, w).array, 0) - np.maximum(ops.conv2d(hr, w).array, 0)
        ).mean()

    gradient = absolute(p, hr, w)
    for index in ((0, 0, 0, 0), (0, 3, 2, 1), (0, 5, 4, 2)):
        step = np.zeros_like(p)
        step[index] = 1e-6
        numeric = (value(p + step) - value(p - step)) / 2e-6
        if abs(gradient[index] - numeric) > 1e-6:
            return f"at {index} it says {gradient[index]:.6f}, finite differences say {numeric:.6f}"
    return True


exercise(4, "Write absolute(p, hr, w), repaired.", answer=None, check=right_gradient)
