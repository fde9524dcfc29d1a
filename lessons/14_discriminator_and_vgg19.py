# %% [markdown]
# # Lesson 14: The discriminator and VGG19
#
# **The question.** Besides the generator, SRGAN has two networks that look at pictures. What are
# they made of, and how does a gradient pass through the parts that are new: pooling, and the
# adversarial loss?
#
# You should know: convolution (lesson 05), batch norm (08), LeakyReLU (09), SRResNet (12).
#
# Papers: Ledig et al. 2017, section 2.1 and figure 4; Simonyan and Zisserman 2015, "Very deep
# convolutional networks for large-scale image recognition", table 1.
#
# Lives in: `npsrgan/models/discriminator.py`, `npsrgan/models/vgg19.py`, `npsrgan/ops/pooling.py`,
# `npsrgan/ops/activations.py`.

# %%
import sys

sys.path[:0] = ["lessons", "."]

import numpy as np
from _lesson import exercise, plt, predict, save

from npsrgan import ops
from npsrgan.gradcheck import check, check_directions, normal
from npsrgan.layers import Sequential
from npsrgan.models import VGG19, Discriminator, SRResNet
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.ops.operation import op

# %% [markdown]
# ## 1. The three networks
#
# The **generator** enlarges. The **discriminator** looks at a picture and answers with one number,
# the **logit** $z$: positive for "an original", negative for "made by the generator". **VGG19** was
# trained by other people to name the object in a photograph. Here it only serves the perceptual
# loss, which compares the numbers inside it, its **features**. Its weights never change.
#
# The diagram is drawn from the networks themselves. Each box is run on the output of the box above
# it, and the shape at the arrow is the shape of that output: height, width, channels.

# %%
LR = 24  # side of the small picture, as in the paper
HR = 4 * LR


def generator_boxes():
    """(text, function) for each box of SRResNet, at its full size."""
    network = SRResNet(64, 16).eval()
    head = network.head
    *blocks, convolution, norm = network.body.steps
    boxes = [
        ("conv 9x9, PReLU", head),
        ("16 residual blocks:\nconv 3x3, BN, PReLU, conv 3x3, BN, +", Sequential(*blocks)),
        ("conv 3x3, BN, + the first box", Sequential(convolution, norm)),
    ]
    for stage in network.upsampling.steps:
        boxes.append(("conv 3x3 to 256 channels,\npixel shuffle, PReLU", stage))
    boxes.append(("conv 9x9", network.tail))
    return boxes


def discriminator_boxes():
    network = Discriminator(64, HR).eval()
    first, leaky, *layers = network.features.steps
    boxes = [("conv 3x3, LeakyReLU", Sequential(first, leaky))]
    for start in range(0, len(layers), 3):
        stride = layers[start].stride
        text = f"conv 3x3{', stride 2' if stride == 2 else ''}, BN, LeakyReLU"
        boxes.append((text, Sequential(*layers[start : start + 3])))
    flatten, dense, leaky, last = network.classifier.steps
    boxes.append(("flatten", flatten))
    boxes.append(("dense, LeakyReLU", Sequential(dense, leaky)))
    boxes.append(("dense: the logit", last))
    return boxes


def vgg19_boxes():
    network = VGG19("conv5_4")
    boxes = []
    for block, depth in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 4)):
        names = [f"conv{block}_{k + 1}" for k in range(depth)]
        convolutions = [getattr(network, name) for name in names]
        layers = [layer for convolution in convolutions for layer in (convolution, ops.relu)]
        boxes.append((f"{names[0]} to {names[-1]}:\n{depth} x (conv 3x3, ReLU)", Sequential(*layers)))
        if block < 5:
            boxes.append(("max-pool 2x2", ops.max_pool2d))
    return boxes


def draw(axis, title, start, boxes, side):
    """Run the boxes, one on the output of the other, and draw them with the shapes between them.

    Returns the last output.
    """
    x = np.zeros((1, side, side, 3), np.float32)
    axis.set(xlim=(0, 1), ylim=(-11.9, 0.4), title=title)
    axis.axis("off")
    axis.text(0.5, 0, start, ha="center", va="center", fontsize=9, style="italic")
    for row, (text, function) in enumerate([*boxes, ("", None)], start=1):
        shape = " x ".join(map(str, x.shape[1:]))
        axis.annotate("", (0.5, 0.24 - row), (0.5, 0.76 - row), arrowprops={"arrowstyle": "->"})
        axis.text(0.53, 0.52 - row, shape, va="center", fontsize=8, color="C0")
        if function:
            frame = {"boxstyle": "round", "facecolor": "#eef3f8", "edgecolor": "#8899aa"}
            axis.text(0.5, -row, text, ha="center", va="center", fontsize=8, bbox=frame)
            x = function(x)
    return x


figure, axes = plt.subplots(1, 3, figsize=(13, 8.5), layout="constrained")
enlarged = draw(axes[0], "Generator: SRResNet", "the small picture", generator_boxes(), LR)
around = {"arrowstyle": "->", "connectionstyle": "arc3,rad=0.7"}
axes[0].annotate("", (0.3, -3), (0.37, -1), arrowprops=around)  # the sum goes around the blocks
logit = draw(axes[1], "Discriminator", "an original, or a generated picture", discriminator_boxes(), HR)
features = draw(axes[2], "VGG19, up to conv5_4", "an original, or a generated picture", vgg19_boxes(), HR)
save(figure, "14_three_networks")
assert enlarged.shape == (1, HR, HR, 3)
assert logit.shape == (1, 1)
assert features.shape == (1, HR // 16, HR // 16, 512)

# %% [markdown]
# The diagram shows two patterns. First, both networks that look at pictures halve the resolution
# again and again and double the channels in exchange: from *where* to *what*. Second, the
# discriminator halves by stride, that is by computing only every other output, and VGG19 halves by
# pooling. Four halvings need a side that is divisible by $2^4 = 16$.
#
# ## 2. The discriminator by hand
#
# It has no new operation. In the function below, `p` holds the parameters by name, as in lesson 12.
# Batch norm uses the statistics of the batch, which is why the originals and the generated pictures
# pass in two batches: mixed into one, each would leak into the other's statistics.


# %%
def discriminator(x, p):
    """x (N, 16 k, 16 k, 3) -> logits (N, 1)."""

    def conv(x, layer, stride):
        return ops.conv2d(x, p[f"features.{layer}.weight"], p[f"features.{layer}.bias"], stride)

    def dense(x, layer):
        return ops.linear(x, p[f"classifier.{layer}.weight"], p[f"classifier.{layer}.bias"])

    x = ops.leaky_relu(conv(x, 0, 1), 0.2)
    for block, stride in enumerate([2, 1, 2, 1, 2, 1, 2]):
        layer = 2 + 3 * block
        x = conv(x, layer, stride)
        x = ops.batch_norm(x, p[f"features.{layer + 1}.gamma"], p[f"features.{layer + 1}.beta"])
        x = ops.leaky_relu(x, 0.2)
    x = ops.leaky_relu(dense(ops.flatten(x), 1), 0.2)
    return dense(x, 3)


def double(array):
    return array.astype(np.float64)


small = Discriminator(2, 16).to(double)
pictures = normal(3, 16, 16, 3)
named = {parameter.name: parameter for parameter in small.parameters()}
np.testing.assert_allclose(discriminator(pictures, named).array, small(pictures).array, rtol=1e-9)
print("by hand and by the package: the same logits", small(pictures).array.ravel().round(3))

full = Discriminator(64, 96)
flat_entries = (96 // 16) ** 2 * 512
dense_weights = flat_entries * 1024
predict(
    "For 96 x 96 pixels, what share of the discriminator's parameters is in its first dense layer?",
    guess=None,
    value=dense_weights / full.flat.size,
    because="6 * 6 * 512 numbers, each with a weight for each of 1024 outputs: 18.9 million weights. "
    "All eight convolutions together have 4.7 million.",
)
assert dense_weights == full.classifier.steps[1].weight.array.size

# %% [markdown]
# The dense layer ties the discriminator to one size of picture. A convolution accepts any size.
#
# ## 3. The adversarial loss, and a softplus that does not overflow
#
# The discriminator's belief that a picture is an original is $D = \sigma(z) = 1 / (1 + e^{-z})$. If
# it is one, the discriminator pays $-\log D$; if it is not, $-\log(1 - D)$. Put $\sigma$ in:
#
# $$-\log \sigma(z) = \log(1 + e^{-z}) = s(-z), \qquad -\log(1 - \sigma(z)) = \log(1 + e^{z}) = s(z)$$
#
# Both are one function, the **softplus** $s(z) = \log(1 + e^z)$. Computed as written, it fails:
# $e^{z}$ is infinite in float32 from $z = 89$ on. Take the larger of the two summands out of the
# logarithm:
#
# $$\log(1 + e^z) = z + \log(e^{-z} + 1) \quad (z > 0), \qquad
# s(z) = \max(z, 0) + \log(1 + e^{-|z|})$$
#
# Now the exponential is at most 1, for every $z$. The derivative is the sigmoid:
#
# $$\frac{ds}{dz} = \frac{e^z}{1 + e^z} = \sigma(z)$$


# %%
@op
def softplus(z):
    small = np.exp(-np.abs(z))  # between 0 and 1

    def d_z(dy):
        sigmoid = np.where(z > 0, 1, small) / (1 + small)
        return dy * sigmoid

    return np.maximum(z, 0) + np.log1p(small), (d_z,)


for result in check(softplus, np.linspace(-4, 4, 9)):
    print(result)
    assert result.passed

certain = np.float32([-100, 0, 100])
with np.errstate(over="ignore"):
    naive = np.log(1 + np.exp(certain))
print("as written:   ", naive)
print("rearranged:   ", softplus(certain).array)
predict(
    "What does the discriminator pay for a generated picture if its logit is 100?",
    guess=None,
    value=softplus(certain).array[-1],
    because="For large z, log(1 + e^z) is z: being wrong and sure costs in proportion to the logit.",
)
assert np.isinf(naive[-1])
np.testing.assert_array_equal(softplus(certain).array, ops.softplus(certain).array)

# %% [markdown]
# ## 4. Max-pooling and its gradient
#
# VGG19 halves a picture by keeping the largest of every 2 x 2 values, channel by channel:
#
# $$y_{hkc} = \max_{i, j \in \{0, 1\}} x_{2h + i,\; 2k + j,\; c} \qquad (H, W, C) \to (H/2, W/2, C)$$
#
# Move one of the four values a little. If it is not the largest, $y$ does not move: derivative 0. If
# it is, $y$ moves with it: derivative 1. So the whole gradient goes to the winner, and the other
# three get nothing:
#
# $$\frac{dL}{dx} = \frac{dL}{dy} \text{ at the winner, 0 elsewhere}$$
#
# Where two values are equally large there is a kink, as in ReLU at 0. In the package, the first one
# in reading order wins.


# %%
@op
def max_pool(x):
    """x (N, H, W, C) -> (N, H/2, W/2, C)."""
    n, h, w, c = x.shape
    windows = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
    windows = windows.reshape(n, h // 2, w // 2, c, 4)  # the four values side by side
    winner = windows.argmax(-1)

    def d_x(dy):
        d_windows = np.zeros_like(windows)
        np.put_along_axis(d_windows, winner[..., None], dy[..., None], axis=-1)
        d_windows = d_windows.reshape(n, h // 2, w // 2, c, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        return d_windows.reshape(x.shape)

    return windows.max(-1), (d_x,)


rng = np.random.default_rng(14)
x = rng.permutation(2 * 4 * 6 * 3).reshape(2, 4, 6, 3) / 10  # no two values within 0.1: no kinks
for result in check(max_pool, x):
    print(result)
    assert result.passed
dy = normal(2, 2, 3, 3)
value, (by_hand,) = max_pool.reference(x)
package_value, (package_rule,) = ops.max_pool2d.reference(x)
np.testing.assert_array_equal(value, package_value)
np.testing.assert_array_equal(by_hand(dy), package_rule(dy))
predict(
    "What share of the inputs receives a gradient through one pooling layer?",
    guess=None,
    value=np.mean(by_hand(dy) != 0),
    because="One winner in each window of four.",
)
assert np.mean(by_hand(dy) != 0) == 1 / 4

# %% [markdown]
# ## 5. VGG19 by hand
#
# Blocks of 3x3 convolutions, each with a ReLU, and a pooling layer between the blocks: two, two,
# four, four and four convolutions with 64, 128, 256, 512 and 512 channels. That makes 16; three
# dense layers, which name the object in the photograph, make it 19. The name is not needed here, so
# the network is cut off after a convolution. `conv5_4` is the last one.
#
# The package pools *before* the ReLU. ReLU never changes the order of two numbers, so the largest
# of four ReLUs is the ReLU of the largest. The values are the same, and only a quarter of the ReLUs
# is computed.


# %%
def vgg19(x, p, cut):
    """x (N, H, W, 3) -> the features after the convolution `cut` and its ReLU."""
    x = x * p["input_gain"] + p["input_shift"]  # what the trained weights expect
    for block, depth in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 4)):
        for k in range(depth):
            name = f"conv{block}_{k + 1}"
            x = ops.relu(ops.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"]))
            if name == cut:
                return x
        x = max_pool(x)
    raise ValueError(f"VGG19 has no layer {cut}")


vgg = random_vgg19("conv3_1").to(double)
pictures = normal(1, 8, 8, 3)
by_name = vgg.state_dict()
np.testing.assert_allclose(
    vgg19(pictures, by_name, "conv3_1").array, vgg(pictures).array, rtol=1e-9, atol=1e-12
)
picture = ops.scale(pictures, 1)  # a tensor


def loss():
    return ops.mean(ops.square(vgg19(picture, by_name, "conv3_1")))


for result in check_directions(loss, [picture], "VGG19", 2):
    print(result)
    assert result.passed

weights = sum(array.size for name, array in VGG19("conv5_4").state_dict().items() if "input" not in name)
predict(
    "How many million weights and biases does VGG19 have up to conv5_4?",
    guess=None,
    value=weights / 1e6,
    because="Most of them are in blocks 4 and 5: a convolution from 512 to 512 channels has 2.36 million.",
)
assert weights == 20_024_384

# %% [markdown]
# How large is the receptive field of one feature? Walk back from it, as in lesson 12. A 3x3 convolution
# widens the view by one value on each side, and a pooling layer doubles it:
#
# $$v \to v + 2 \quad \text{(convolution)}, \qquad v \to 2v \quad \text{(pooling)}$$

# %%
view = 1
sizes = {}
for block, depth in ((5, 4), (4, 4), (3, 4), (2, 2), (1, 2)):
    view = view + 2 * depth
    if block > 1:
        view = 2 * view
predict(
    "How many pixels wide is the receptive field of one feature of conv5_4?",
    guess=None,
    value=view,
    because="1 + 8 = 9, 18 + 8 = 26, 52 + 8 = 60, 120 + 4 = 124, 248 + 4 = 252. Wider than the training "
    "patches of 96: each of the 6 x 6 features sees nearly all of them.",
)
assert view == 252

# %% [markdown]
# So features of `conv5_4` compare what is in a large part of the picture, and hardly where. Lesson
# 15 asks what a loss on such features wants, and lesson 16 what a discriminator does to a generator.
#
# ## 6. Exercises

# %%
exercise(
    1,
    "How many weights does the discriminator's first dense layer have for pictures of 176 x 176 pixels?",
    answer=None,
    check=lambda n: n == 11 * 11 * 512 * 1024,
    hint="176 halved four times is 11",
)


def averages_are_shared(rule):
    """Compare a rule (dy, x) -> dx for mean pooling with finite differences."""

    @op
    def mean_pool(x):
        n, h, w, c = x.shape
        return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4)), (lambda dy: rule(dy, x),)

    return all(result.passed for result in check(mean_pool, normal(1, 4, 6, 2)))


exercise(
    2,
    "Mean-pooling keeps the mean of every 2 x 2 values. Write its rule: a function (dy, x) -> dx, with "
    "dy (N, H/2, W/2, C) and x (N, H, W, C).",
    answer=None,
    check=averages_are_shared,
    hint="np.repeat along axes 1 and 2 gives each value of a window the same gradient; how much of it?",
)
exercise(
    3,
    "The generator pays -log D for each picture it makes. What is the derivative of that with respect "
    "to the logit z, at z = -100, where the discriminator is sure that the picture was made?",
    answer=None,
    check=lambda slope: abs(slope + 1) < 1e-6,
    hint="-log D is softplus(-z); its derivative is D - 1",
)
