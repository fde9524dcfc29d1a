# %% [markdown]
# # Lesson 27: What came after
#
# **The question.** SRGAN is from 2017. What did ESRGAN, Real-ESRGAN and diffusion change, and why, in
# terms of what was built here?
#
# You should know: everything so far, most of all batch norm (lesson 08), what a loss wants (lesson
# 15), the two players (lesson 16) and reading the results (lesson 24).
#
# Papers: Wang et al. 2018 (ESRGAN); Jolicoeur-Martineau 2018, "The relativistic discriminator"; Wang et
# al. 2021 (Real-ESRGAN); Saharia et al. 2021 (SR3), "Image super-resolution via iterative refinement".
#
# Lives in: `npsrgan/models/vgg19.py` (`before_relu`), `npsrgan/losses.py`,
# `npsrgan/data/degrade.py`. The network is built in this lesson.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import io

import numpy as np
from _lesson import exercise, picture_row, plt, predict, save
from PIL import Image, ImageFilter
from tqdm import tqdm

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.data import Batches, DeadLeaves, Photograph, downscale, upscale
from npsrgan.gradcheck import check_directions, normal
from npsrgan.images import to_float, to_uint8
from npsrgan.layers import BatchNorm, Conv2d, Layer, LeakyReLU, Sequential, initialise
from npsrgan.metrics import psnr
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.tape import Tape

# %% [markdown]
# ## ESRGAN, first change: no batch norm
#
# Batch norm computes with the statistics of the batch in training, and with running averages in use
# (lesson 08). For a classifier that is harmless. A network that must return exact pixels sees two
# different functions, and where a test image's statistics are unlike the training images', its
# brightness and contrast are wrong. ESRGAN leaves batch norm out. It saves memory and time as well.
#
# But batch norm also keeps a deep network trainable: whatever the weights, each block begins with a
# signal of the same size. Something must replace that. ESRGAN's answer is the *residual-in-residual
# dense block* (RRDB):
#
# - In a **dense block**, each convolution sees the block's input and the outputs of all convolutions
#   before it. With $C$ channels and a growth of $g$, the $k$-th convolution takes $C + (k - 1) g$
#   channels to $g$, and the last one takes all of them back to $C$.
# - What a block computes is multiplied by 0.2 before it is added to its input. So at the beginning each
#   block is nearly the identity, and the signal's size hardly grows. This is done on two levels, which
#   gives the name: an RRDB contains three dense blocks.
#
# | step | channels in | channels out |
# |---|---|---|
# | convolution 1, LeakyReLU | $C$ | $g$ |
# | convolution 2, LeakyReLU | $C + g$ | $g$ |
# | convolution 3 | $C + 2g$ | $C$ |
# | times 0.2, plus the input | $C$ | $C$ |
#
# (ESRGAN has five convolutions in a block, $C = 64$ and $g = 32$. Three are enough to see how it
# works.) To enlarge, ESRGAN does not use pixel shuffle: it repeats every pixel 2 x 2 times, and
# then convolves. The four copies are equal, and the convolution treats them alike, so a flat area
# stays flat, without a mesh (lesson 10).
#
# Here is the whole generator, in some thirty lines:


# %%
class Dense(Layer):
    def __init__(self, c, growth, convolutions=3):
        inputs = [c + k * growth for k in range(convolutions)]
        outputs = [growth] * (convolutions - 1) + [c]
        self.convolutions = Sequential(*[Conv2d(i, o, 3) for i, o in zip(inputs, outputs)])

    def forward(self, x):
        seen = x
        *growing, last = self.convolutions.steps
        for convolution in growing:
            seen = ops.concatenate(seen, ops.leaky_relu(convolution(seen)), axis=-1)
        return ops.scale(last(seen), 0.2) + x


class RRDB(Sequential):
    def forward(self, x):
        return ops.scale(super().forward(x), 0.2) + x


class Nearest(Layer):
    def forward(self, x):
        return ops.pixel_shuffle(ops.concatenate(x, x, x, x, axis=-1), 2)


class RRDBNet(Layer):
    def __init__(self, c=16, growth=8, blocks=2, seed=0):
        self.head = Conv2d(3, c, 3)
        self.body = Sequential(
            *[RRDB(*[Dense(c, growth) for _ in range(3)]) for _ in range(blocks)], Conv2d(c, c, 3)
        )
        up = [layer for _ in range(2) for layer in (Nearest(), Conv2d(c, c, 3), LeakyReLU())]
        self.tail = Sequential(*up, Conv2d(c, 3, 3))
        initialise(self, seed)

    def forward(self, lr):
        shallow = self.head(lr)
        return self.tail(self.body(shallow) + shallow)


network = RRDBNet()
assert not any(isinstance(layer, BatchNorm) for layer in network.layers())
predict(
    "A dense block with C = 16, g = 8 and three 3 x 3 convolutions: how many weights, without biases?",
    guess=None,
    value=sum(p.array.size for p in Dense(16, 8).parameters() if p.array.ndim == 4),
    because="9 * (16 * 8 + 24 * 8 + 32 * 16)",
)

# %% [markdown]
# No gradient rule needs to be written: the tape knows `concatenate`, `scale` and the rest. The gradient
# must be checked all the same. And the claim about the signal's size can be measured: send a signal
# through twenty dense blocks, and through twenty without the factor 0.2.

# %%
exact = RRDBNet(c=4, growth=2, blocks=1).to(lambda array: array.astype(np.float64))
small, large = normal(2, 4, 4, 3), normal(2, 16, 16, 3)
for result in check_directions(
    lambda: losses.mean_squared_error(exact(small), large), exact.parameters(), "RRDBNet", 2
):
    print(result)
    assert result.passed


def growth_of_signal(factor, blocks=20):
    """How many times as strong a signal is after dense blocks whose results are multiplied by `factor`."""
    x = np.random.default_rng(0).standard_normal((1, 12, 12, 8)).astype(np.float32)
    start = x.std()
    for seed in range(blocks):
        block = initialise(Dense(8, 4), seed)
        x = x + factor * (block(x).array - x) / 0.2  # what the block adds, without its own 0.2
    return float(x.std() / start)


grown = {factor: growth_of_signal(factor) for factor in (1.0, 0.2)}
predict(
    "After twenty dense blocks without the 0.2, how many times as strong is the signal?",
    guess=None,
    value=grown[1.0],
    because=f"each block makes it about {grown[1.0] ** (1 / 20):.1f} times as strong",
)
print(f"with the 0.2: {grown[0.2]:.2f} times")
assert grown[1.0] > 100 > 3 > grown[0.2]

# %% [markdown]
# Now train it for a few hundred small steps on dead leaves, with the pixel loss of ESRGAN, which is
# the absolute error in place of the squared error (`--pixel-loss absolute` trains SRResNet with it):

# %%
STEPS = 300
batches = Batches(DeadLeaves(40, 64), 4, 8)
photo = Photograph().load(0)[60:316, 130:386]
lr_photo = downscale(photo, 4)
network.tail.steps[-1].weight.array *= 0.1  # begin near grey, as SRResNet does
adam = Adam(network, lambda step: 2e-3 * (1 - step / STEPS))
history = []
for step in tqdm(range(STEPS), "training", leave=False):
    lr, hr = map(to_float, batches.batch(step))
    with Tape() as tape:
        loss = losses.mean_absolute_error(network(lr), hr)
    adam.step(tape.gradient(loss, network.parameters()))
    history.append(float(loss))
made = to_uint8(network(to_float(lr_photo)[None]).array[0])
print(f"the loss: {np.mean(history[:10]):.3f} at first, {np.mean(history[-20:]):.3f} at the end")
print(f"bicubic: {psnr(upscale(lr_photo, 4), photo):.2f} dB")
print(f"RRDBNet after {STEPS} steps: {psnr(made, photo):.2f} dB")
assert np.mean(history[-20:]) < np.mean(history[:10]) / 2

# %% [markdown]
# ## Second change: a discriminator that compares
#
# SRGAN's $D$ judges each picture by itself: is it a photograph? ESRGAN's $D$ compares: is this
# picture *more* like a photograph than the others are on average? With the logits $z_r$ of
# photographs and $z_f$ of generated pictures, the discriminator's belief is
#
# $$D_r = \sigma(z_r - \overline{z_f}) \qquad D_f = \sigma(z_f - \overline{z_r})$$
#
# $D$ wants $D_r$ to be 1 and $D_f$ to be 0, and $G$ wants the opposite of *both*. So $G$'s loss has two
# terms, where SRGAN's has one:
#
# $$L_G = -\frac{1}{2} \overline{\log(1 - D_r)} - \frac{1}{2} \overline{\log D_f}$$
#
# (ESRGAN's paper uses their sum; the factor 1/2 keeps the loss as large as SRGAN's.)
#
# What does that change? Add the same number to every logit: SRGAN's losses change, and so do their
# gradients. The relativistic ones do not, because only differences count.


# %%
def relativistic_generator(real, fake):
    """ESRGAN's L_G, from logits (N, 1)."""
    above = real - ops.mean(fake)
    below = fake - ops.mean(real)
    return ops.scale(ops.mean(ops.softplus(above)) + ops.mean(ops.softplus(-below)), 0.5)


z_real, z_fake = normal(6, 1), normal(6, 1, seed=1)
change = {
    "SRGAN": float(
        losses.generator_adversarial(z_fake + 3.0).array - losses.generator_adversarial(z_fake).array
    ),
    "relativistic": float(
        relativistic_generator(z_real + 3.0, z_fake + 3.0).array
        - relativistic_generator(z_real, z_fake).array
    ),
}
predict(
    "All logits grow by 3. By how much does the relativistic loss change?",
    guess=None,
    value=change["relativistic"],
    because=f"SRGAN's changes by {change['SRGAN']:.2f}",
)
assert abs(change["relativistic"]) < 1e-12
assert abs(change["SRGAN"]) > 0.1

# %% [markdown]
# ## Third change: features before the ReLU
#
# SRGAN compares VGG19's features after the ReLU, where many are zero, and in the deep layers most. A
# zero says little, and where both pictures have a zero no gradient flows. ESRGAN compares the
# numbers before the ReLU. (In the trained VGG19, blocks 4 and 5 stored in 8 bits, 85 % of `conv4_4`
# and 97 % of `conv5_4` are zero for the picture below.) This package can do both: with several layers
# in `--vgg-layer`, training calls `before_relu` and weights them with `weighted_absolute_error`. Count
# the zeros, with random weights:

# %%
vgg = random_vgg19("conv4_4")
image = to_float(photo)[None, 64:192, 64:192]
zeros = float(np.mean(vgg(image).array == 0))
zeros_before = float(np.mean(vgg.before_relu(image, ["conv4_4"])[0].array == 0))
predict(
    "What share of the features of conv4_4 is zero after the ReLU?",
    guess=None,
    value=zeros,
    because="random filters answer below zero as often as above; in the trained VGG19 it is 85 %",
)
assert zeros > 0.3 and zeros_before < 0.01

# %% [markdown]
# ## Real-ESRGAN: better training data
#
# A photograph from the web was not made by a clean bicubic reduction. It was blurred by a lens, has
# noise, was compressed, resized, and compressed again. A network that has seen only bicubic reductions
# sharpens all of this, or does nothing. Real-ESRGAN keeps ESRGAN's generator and changes the
# *data*: each training image is blurred, resized, given noise and JPEG-compressed, with random
# strengths, and then the same once more. The discriminator must now judge many more kinds of pictures.
# It becomes a U-Net that answers for every pixel, with spectral normalisation, which limits how fast
# its answer can change. This package has one pass of such a degradation: `python -m npsrgan.train
# --degradation photo`.
#
# Why does that matter? Take one picture, and two small versions of it: a clean one, and one that went
# through a little blur and JPEG. Enlarge both in the same way.

# %%
blurred = Image.fromarray(photo).filter(ImageFilter.GaussianBlur(1.5))
memory = io.BytesIO()
Image.fromarray(downscale(np.array(blurred), 4)).save(memory, "JPEG", quality=40)
found = np.array(Image.open(memory).convert("RGB"))
found_made = to_uint8(network(to_float(found)[None]).array[0])
lost = psnr(made, photo) - psnr(found_made, photo)
lost_bicubic = psnr(upscale(lr_photo, 4), photo) - psnr(upscale(found, 4), photo)
predict(
    "How many dB does the network lose when the small picture was blurred and compressed?",
    guess=None,
    value=lost,
    because=f"bicubic loses {lost_bicubic:.2f} dB, because detail is gone",
)
gains = [
    psnr(network_made, photo) - psnr(upscale(x, 4), photo)
    for x, network_made in ((lr_photo, made), (found, found_made))
]
print(
    f"gain over bicubic: {gains[0]:+.2f} dB for the clean small picture, {gains[1]:+.2f} dB for the other"
)
assert lost > 0.3
assert gains[0] > gains[1]
close = np.s_[20:148, 56:184]
shown = {
    "bicubic": upscale(lr_photo, 4),
    "RRDBNet, clean": made,
    "RRDBNet, blur and JPEG": found_made,
    "the photograph": photo,
}
save(picture_row({title: picture[close] for title, picture in shown.items()}, height=3), "27_rrdb")

# %% [markdown]
# ## Diffusion: a sample without a second player
#
# Lesson 24 says what is wanted: not the mean of all answers, but one of them. A GAN gets there
# by a game, with all its accidents (lesson 16). Diffusion gets there with squared error alone,
# by asking many easy questions in place of one hard one.
#
# Blend the picture with noise, $x_\tau = \sqrt{1 - \tau}\, x + \sqrt{\tau}\, \epsilon$, and train a
# network to predict the picture from $x_\tau$, $\tau$ and the small picture. Where $\tau$ is small, the
# answer is nearly determined, and the mean of all answers is sharp. Where $\tau = 1$, $x_\tau$ is pure
# noise, and the best answer is the blur that a pixel loss always gives. To draw a sample, begin with
# noise, take the network's mean for this noise level, step a little towards it, and ask again. Each
# answer decides some of what was undecided. At the end everything is decided, and the result is one
# picture, not a mean.
#
# The smallest world in which this can be seen has two answers: -1 and +1, equally likely. There the
# best answer is known exactly: the mean of the two, weighted by how well each explains $x_\tau$. It
# is $\tanh(\sqrt{1 - \tau}\, x_\tau / \tau)$.


# %%
def denoise(x, tau):
    """The mean of all answers (-1 or +1) that fit x at noise level tau: what squared error teaches."""
    return np.tanh(np.sqrt(1 - tau) * x / tau)


def draw_samples(count, steps, seed=0):
    """Start from noise and step to smaller and smaller noise levels.  All stages, (steps + 1, count)."""
    x = np.random.default_rng(seed).standard_normal(count)
    taus = np.linspace(0.999, 0.001, steps + 1)
    stages = [x]
    for now, after in zip(taus, taus[1:]):
        answer = denoise(x, now)
        noise = (x - np.sqrt(1 - now) * answer) / np.sqrt(now)
        x = np.sqrt(1 - after) * answer + np.sqrt(after) * noise
        stages.append(x)
    return np.array(stages)


one_step, many = draw_samples(2000, 1)[-1], draw_samples(2000, 100)
predict(
    "Asked once, at full noise, how large is the network's answer on average, without its sign?",
    guess=None,
    value=float(np.abs(denoise(draw_samples(2000, 1)[0], 0.999)).mean()),
    because="the mean of -1 and +1 is 0",
)
landed = float(np.mean(np.abs(np.abs(many[-1]) - 1) < 0.1))
print(f"in 100 steps, {landed:.0%} of the samples land on -1 or +1")
print(f"{np.mean(many[-1] > 0):.0%} of them have found +1")
assert np.abs(denoise(one_step, 0.999)).mean() < 0.1
assert landed > 0.95 and 0.4 < np.mean(many[-1] > 0) < 0.6

figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
axes[0].plot(history, lw=0.8)
axes[0].set(
    title="RRDBNet trains without batch norm", xlabel="step", ylabel="mean absolute error", yscale="log"
)
axes[1].plot(many[:, :40], color="C0", lw=0.6)
axes[1].set(
    title="Forty samples find one of two answers, by squared error alone", xlabel="step", ylabel="x"
)
save(figure, "27_diffusion")

# %% [markdown]
# In this small world no mode is lost, and no second network has to be fooled. The price is time: one
# picture takes tens or hundreds of passes of a large network, where SRGAN takes one. Much of the later
# work tries to get by with fewer.
#
# Everything in lesson 26 still holds. A better sample is still a sample.
#
# ## Where to go from here
#
# Train `RRDBNet` in place of SRResNet; put `relativistic_generator` into the step of lesson
# 17; train on `--degradation photo`. You have built everything that this needs.
#
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "ESRGAN's dense block has C = 64, g = 32 and five 3 x 3 convolutions. How many weights, without biases?",
    answer=None,
    check=lambda n: n == 9 * (32 * (64 + 96 + 128 + 160) + 192 * 64),
    hint="inputs 64, 96, 128, 160, 192; outputs 32, 32, 32, 32, 64",
)

# %% [markdown]
# Write `relativistic_discriminator(real, fake)`, the mean of $-\log D_r$ and $-\log(1 - D_f)$, from
# logits, as a tensor. It must stay finite for logits of 1000.


# %%
def right_discriminator(discriminator):
    r, f = z_real - z_fake.mean(), z_fake - z_real.mean()
    expected = (np.log1p(np.exp(-r)).mean() + np.log1p(np.exp(f)).mean()) / 2
    if abs(float(discriminator(z_real, z_fake)) - expected) > 1e-9:
        return f"for z_real and z_fake it should be {expected:.6f}"
    far = float(discriminator(-1000 * np.ones((2, 1)), 1000 * np.ones((2, 1))))
    return abs(far - 2000) < 1e-6 or f"for logits of -1000 and 1000 it should be 2000, not {far}"


exercise(
    2,
    "Write relativistic_discriminator(real, fake).",
    answer=None,
    check=right_discriminator,
    hint="softplus of minus the one difference, and of the other",
)
