# %% [markdown]
# # Lesson 20: The bug museum, second room: networks
#
# **The question.** Which bugs hide in how networks are initialised, named, averaged and run?
#
# You should know: batch norm (lesson 08), initialisation (lesson 09) and SRResNet (lesson
# 12). Lesson 19 explains how the museum works.
#
# Paper: Ioffe and Szegedy 2015, section 3.1.
#
# Lives in: nowhere in the package, we hope. The cures are in `npsrgan/layers.py`,
# `npsrgan/ops/normalisation.py` and `npsrgan/inference/`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, plt, predict, save
from _museum import catches, exhibit

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.data import Photograph, downscale
from npsrgan.images import to_float, to_uint8
from npsrgan.layers import BatchNorm, Linear, Sequential, initialise
from npsrgan.models import Discriminator, SRResNet
from npsrgan.ops.normalisation import keep_running
from npsrgan.tape import Tape, Tensor

photo = downscale(Photograph().load(0)[60:316, 130:386], 2)  # (128, 128, 3)
tiles = photo.reshape(4, 32, 4, 32, 3).transpose(0, 2, 1, 3, 4).reshape(16, 32, 32, 3)
tiles = np.roll(tiles, -5, axis=0)  # first, a piece of the face
hr = to_float(tiles)  # (16, 32, 32, 3)
lr = to_float(np.stack([downscale(tile, 2) for tile in tiles]))  # (16, 16, 16, 3)

# %% [markdown]
# ## 1. The initialiser that also draws gamma
#
# *Symptom.* "Nothing happens in the first thousand steps." "D answers 0.50 to everything."
#
# *The bug.* Every parameter of the network is drawn from a normal distribution with standard deviation
# 0.01. Batch norm's gamma is a parameter too, and so it starts near 0 in place of 1.
#
# *Why does the next batch norm not undo it?* Because of eps. A signal with standard deviation 0.01
# that goes through a convolution of $9 \cdot 64$ weights with standard deviation 0.01 has one of
#
# $$0.01 \cdot \sqrt{9 \cdot 64} \cdot 0.01 = 0.0024$$
#
# and the next batch norm makes of it
#
# $$0.0024 / \sqrt{0.0024^2 + 10^{-5}} = 0.6$$
#
# where it should make 1. This shrinking multiplies over the seven batch norms, and on the way back the
# small last gamma multiplies the gradient once more. Lesson 09 separates the factors and measures
# them on pictures of 64 x 64 pixels. The factor below is for pictures of 16 x 16 pixels, so it is
# another number. All that is known in advance is that it is far above 100, the contribution of the
# last gamma alone.


# %%
def beginner(bug):
    """A discriminator before training; with the bug, gamma and beta are drawn as well."""
    d = Discriminator(64, 16, init="normal")
    if bug:
        for index, p in enumerate(d.parameters()):
            p.array[...] = 0.01 * np.random.default_rng([14, index]).standard_normal(p.shape)
    return d


def gradient_at_input(d):
    """The length of the gradient of the logits with respect to the images."""
    x = Tensor(lr)
    with Tape() as tape:
        loss = ops.sum(d(x))
    return np.linalg.norm(tape.gradient(loss, x))


shrunk = gradient_at_input(beginner(False)) / gradient_at_input(beginner(True))
predict(
    "How many times shorter does a drawn gamma make the gradient at the image?",
    guess=None,
    value=float(shrunk),
    because="100 from the last gamma, and the rest from eps",
)
assert shrunk > 100


@exhibit
def test_signal_survives_initialisation(bug):
    kept = gradient_at_input(beginner(bug)) / gradient_at_input(beginner(False))
    assert kept > 0.1, (
        f"the logit's gradient at the image is {1 / kept:.0f} times shorter than with gamma = 1"
    )


# %% [markdown]
# *The cure.* Initialise by kind of layer, as `initialise` does: weights are drawn, gamma stays 1.
#
# ## 2. Two layers called fc1
#
# *Symptom.* "After a restart D's loss jumps, every time." "My 60 million parameters train as fast as 6
# million."
#
# *The bug.* Layers are registered under names typed by hand, and two of them have the same name. The
# second replaces the first in the register. Both are used, but only the second is trained and saved.
# After a restart the first is another random projection.
#
# *The cure.* Names that cannot be equal, because they are the paths of attributes (`Layer.walk`), and a
# test that saves and loads.


# %%
def classifier(bug, seed):
    network = initialise(Sequential(Linear(48, 8), Linear(8, 1)), seed)
    register = {"fc1": network.steps[0]}
    register["fc1" if bug else "fc2"] = network.steps[1]
    return network, register


@exhibit
def test_a_restart_brings_back_every_layer(bug):
    network, saved = classifier(bug, seed=1)
    again, register = classifier(bug, seed=2)  # another run, with another seed
    for name, layer in saved.items():
        register[name].weight.array[...] = layer.weight.array
    x = lr[:, 0].reshape(16, 48)  # a row of pixels of each picture
    change = np.abs(again(x).array - network(x).array).max()
    assert change == 0, (
        f"the same pictures, before and after the restart: logits differ by up to {change:.1f}"
    )


# %% [markdown]
# ## 3. An average with its factors swapped
#
# *Symptom.* "Averaging the weights does not help." "The running mean jumps about, and evaluation is
# noise."
#
# *The bug.* The average is updated like this, so that with a momentum of 0.999, 99.9 % of it is the
# last value:
#
# ```python
# average = (1 - momentum) * average + momentum * new
# ```
#
# *What an average should do.* Feed it noise of variance 1. The right update is
# $a \leftarrow m a + (1 - m) x$. In the long run the variance $v$ of $a$ no longer changes, so
#
# $$v = m^2 v + (1 - m)^2 \quad \Rightarrow \quad v = \frac{(1 - m)^2}{1 - m^2} = \frac{1 - m}{1 + m}$$
#
# At $m = 0.9$ the standard deviation is $\sqrt{0.1 / 1.9} = 0.23$. Swapped, $m$ is 0.1, and it is 0.90.


# %%
def averaged(noise, bug, momentum=0.9):
    """The running average after each value of `noise`."""
    average, history = np.zeros(1), []
    for value in noise:
        keep_running(average, value, 1 - momentum if bug else momentum)
        history.append(average[0])
    return np.array(history)


noise = np.random.default_rng(14).standard_normal(500)


@exhibit
def test_an_average_is_calmer_than_its_values(bug):
    left = averaged(noise, bug)[50:].std() / noise.std()
    assert left < 0.4, f"{left:.0%} of the noise is left"


# %% [markdown]
# ## 4. Evaluating in training mode
#
# *Symptom.* "PSNR depends on the batch size of the test." "One and the same face looks different each
# time."
#
# *The bug.* `eval()` was never called. Batch norm measures the test batch, so an image's result depends on
# its neighbours. (The running averages learn from the test images, too.)
#
# *The cure.* Call `eval()` before the test and `train()` after it; or `fold()` the network, which then
# has no training mode.

# %%
generator = SRResNet(16, 2, scale=2)
adam = Adam(generator, 3e-3)
for _ in range(120):  # it learns these 16 pictures, until it knows them well
    with Tape() as tape:
        loss = losses.mean_squared_error(generator(lr), hr)
    adam.step(tape.gradient(loss, generator.parameters()))
friends = lr[:8]
black = np.concatenate([lr[:1], np.full_like(lr[1:8], -1)])


def enlarge_first(batch, bug):
    return to_uint8(generator.train(bug)(batch).array[0])  # train(True) is the bug


@exhibit
def test_neighbours_do_not_matter(bug):
    levels = np.abs(enlarge_first(friends, bug).astype(int) - enlarge_first(black, bug)).mean()
    assert levels < 0.1, f"black neighbours move the picture by {levels:.0f} of 255 levels on average"


# %% [markdown]
# ## Three of them in pictures

# %%
figure, axes = plt.subplots(2, 3, figsize=(10.5, 6.4), layout="constrained")
for bug, style in ((False, "o-"), (True, "x-")):
    sizes, x = [], Tensor(lr)
    for layer in beginner(bug).features.steps:
        x = layer(x)
        if isinstance(layer, BatchNorm):
            sizes.append(float(x.array.std((0, 1, 2)).mean()))
    label = "gamma from normal(0, 0.01)" if bug else "gamma = 1"
    axes[0, 0].plot(range(1, len(sizes) + 1), sizes, style, label=label)
    label = "swapped" if bug else "right"
    axes[0, 1].plot(averaged(noise[:150], bug), style[1:], lw=2 - bug, label=label, zorder=2 - bug)
axes[0, 0].set(
    title="1. Signal after D's batch norms",
    xlabel="batch norm number",
    ylabel="standard deviation",
    yscale="log",
)
axes[0, 0].legend()
axes[0, 1].set(title="3. A running average of noise", xlabel="step")
axes[0, 1].legend()
pictures = {
    "4. The original": tiles[0],
    "4. Evaluation mode": enlarge_first(black, False),
    "4. Training mode, among friends": enlarge_first(friends, True),
    "4. Training mode, among black pictures": enlarge_first(black, True),
}
for axis, (title, picture) in zip(axes.flat[2:], pictures.items()):
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
    axis.axis("off")
save(figure, "20_networks")

# %% [markdown]
# ## Exercises
#
# Put your answers in place of `None` and run the cell. Right and wrong answers are in
# [answers.py](../tests/lessons/answers.py).

# %%
exercise(
    1,
    "An average with momentum 0.99 of pure noise: which share of the noise's standard deviation is left?",
    answer=None,
    check=lambda a: abs(a - (0.01 / 1.99) ** 0.5) < 2e-3,
    hint="sqrt((1 - m) / (1 + m))",
)
exercise(
    2,
    "A batch norm layer's gamma and beta are drawn from normal(0, 0.01), and its input becomes 100 times "
    "as large. How many times as large is its output?",
    answer=None,
    check=lambda a: abs(a - 1) < 1e-6,
    hint="batch norm divides by what?",
)

# %% [markdown]
# Write a test that catches exhibit 2 without saving and loading anything. It takes a pair
# `(network, register)`, as `classifier` returns it, and must raise an AssertionError or return False
# if a layer of the network is not in the register.

# %%
exercise(
    3,
    "Write my_test(pair).",
    answer=None,
    check=catches(lambda bug: classifier(bug, seed=1)),
    hint="compare the layers in network.steps with register.values()",
)
