"""Lesson 20: the bug museum, second room: networks.  Which errors hide in how they are built, averaged and run?

You should know: batch norm (lesson 08), initialisation (09), SRResNet (12).  Paper: Ioffe and Szegedy 2015, section 3.1.
Lives in: nowhere in npsrgan/, it is to be hoped; the cures live in layers.py, ops/normalisation.py and inference.py.
"""
# %% The rules of the house: a function with a switch `bug`, and a test that fails with it and passes without (see lesson 19).
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, plt, save
from _museum import exhibit

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.data import Photograph, downscale
from npsrgan.images import to_float, to_uint8
from npsrgan.layers import BatchNorm, Linear, Sequential, initialise
from npsrgan.models import Discriminator, SRResNet
from npsrgan.ops.normalisation import keep_running
from npsrgan.tape import Tape, Tensor

photo = downscale(Photograph().load(0)[60:316, 130:386], 2)                         # (128, 128, 3)
tiles = photo.reshape(4, 32, 4, 32, 3).transpose(0, 2, 1, 3, 4).reshape(16, 32, 32, 3)
tiles = np.roll(tiles, -5, axis=0)                                                  # first, a piece of the face
hr, lr = to_float(tiles), to_float(np.stack([downscale(tile, 2) for tile in tiles]))
# %% 1. The initialiser that also hits gamma
# Symptom: "nothing happens in the first thousand steps"; "D answers 0.50 to everything".
# The bug: `for p in net.parameters(): p = normal(0, 0.01)`.  Batch norm's gamma is a parameter, and starts near 0 instead of 1.
# Why does the next batch norm not undo it?  Because of eps.  By hand, for 64 channels: a signal of 0.01 through 9 * 64 weights
# of 0.01 becomes 0.01 * sqrt(9 * 64) * 0.01 = 0.0024; 0.0024 / sqrt(0.0024^2 + 1e-5) = 0.6, not 1, and the next is worse.  The gradient on
# its way back is multiplied by 0.6 or less, seven times over, and by a small gamma at the end.
# The cure: initialise by kind of layer (layers.initialise): weights are drawn, gamma stays 1.


def beginner(bug):
    d = Discriminator(64, 16, init="normal")
    for index, p in enumerate(d.parameters() if bug else []):
        p.array[...] = 0.01 * np.random.default_rng([14, index]).standard_normal(p.shape)
    return d


def gradient_at_input(d):
    x = Tensor(lr)
    with Tape() as tape:
        loss = ops.sum(d(x))
    return np.linalg.norm(tape.gradient(loss, x))


@exhibit
def test_signal_survives_initialisation(bug):
    kept = gradient_at_input(beginner(bug)) / gradient_at_input(beginner(False))
    assert kept > 0.1, f"the logit's gradient at the image is {1 / kept:.0f} times smaller than with gamma = 1"


# %% 2. Two layers called fc1
# Symptom: "after a restart D's loss jumps, every time"; "my 60 million parameters train as fast as 6 million".
# The bug: layers are registered by a name typed by hand, twice the same.  The second takes the first one's place in the register.
# Both are used; only the second is trained and saved.  After a restart the first is another random projection.
# The cure: names from attribute paths (Layer.walk), which cannot be equal; and a test that saves and loads.


def classifier(bug, seed):
    network = initialise(Sequential(Linear(48, 8), Linear(8, 1)), seed)
    register = {"fc1": network.steps[0]}
    register["fc1" if bug else "fc2"] = network.steps[1]
    return network, register


@exhibit
def test_a_restart_brings_back_every_layer(bug):
    (network, saved), (again, register) = classifier(bug, seed=1), classifier(bug, seed=2)     # another run, another seed
    for name, layer in saved.items():
        register[name].weight.array[...] = layer.weight.array
    x = lr[:, 0].reshape(16, 48)        # a row of pixels of each picture
    change = np.abs(again(x).array - network(x).array).max()
    assert change == 0, f"the same pictures, before and after the restart: logits differ by up to {change:.1f}"


# %% 3. An average with its factors swapped
# Symptom: "averaging the weights does not help"; "running_mean jumps about, evaluation is noise".
# The bug: average = (1 - momentum) * average + momentum * new.  With momentum 0.999 it is the last value, 99.9 % of it.
# By hand: an average of noise with factor m keeps sqrt((1 - m) / (1 + m)) of its deviation.  At 0.9: 0.23; swapped: 0.90.


def averaged(noise, bug, momentum=0.9):
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


# %% 4. Evaluating in training mode
# Symptom: "PSNR depends on the batch size of the test"; "one and the same face looks different each time".
# The bug: no network.eval().  Batch norm measures the test batch; an image's result depends on its neighbours (and the running
# averages learn from the test images).  The cure: eval() before, train() after; or fold(), which has no other mode.
generator = SRResNet(16, 2, scale=2)
adam = Adam(generator, 3e-3)
for _ in range(120):                    # learns these 16 pictures, until it knows them well
    with Tape() as tape:
        loss = losses.mean_squared_error(generator(lr), hr)
    adam.step(tape.gradient(loss, generator.parameters()))
friends, black = lr[:8], np.concatenate([lr[:1], np.full_like(lr[1:8], -1)])


def enlarge_first(batch, bug):
    return to_uint8(generator.train(bug)(batch).array[0])         # training=True is the bug


@exhibit
def test_neighbours_do_not_matter(bug):
    levels = np.abs(enlarge_first(friends, bug).astype(int) - enlarge_first(black, bug)).mean()
    assert levels < 0.1, f"black neighbours move the picture by {levels:.0f} of 255 levels on average"


# %% Three of them, drawn
figure, axes = plt.subplots(2, 3, figsize=(10.5, 6.4), layout="constrained")
for bug, style in ((False, "o-"), (True, "x-")):
    sizes, x = [], Tensor(lr)
    for layer in beginner(bug).features.steps:
        x = layer(x)
        sizes += [float(x.array.std((0, 1, 2)).mean())] * isinstance(layer, BatchNorm)
    axes[0, 0].plot(range(1, len(sizes) + 1), sizes, style, label="gamma from normal(0, 0.01)" if bug else "gamma = 1")
    axes[0, 1].plot(averaged(noise[:150], bug), style[1:], lw=2 - bug, label="swapped" if bug else "right", zorder=2 - bug)
axes[0, 0].set(title="1. Signal behind D's batch norms", xlabel="batch norm number", ylabel="standard deviation", yscale="log")
axes[0, 1].set(title="3. A running average of noise", xlabel="step")
_ = axes[0, 0].legend(), axes[0, 1].legend()
pictures = {"4. The original": tiles[0], "4. Evaluation mode": enlarge_first(black, False),
            "4. Training mode, photographs beside it": enlarge_first(friends, True),
            "4. Training mode, black pictures beside it": enlarge_first(black, True)}
for axis, (title, picture) in zip(axes.flat[2:], pictures.items()):
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
    axis.axis("off")
save(figure, "20_networks")

# %% Your turn
exercise(1, "An average with momentum 0.99 of pure noise: which share of the noise's standard deviation is left?", None,
         lambda a: abs(a - (0.01 / 1.99) ** 0.5) < 2e-3, hint="sqrt((1 - m) / (1 + m))")
exercise(2, "A batch norm layer's gamma and beta are drawn from normal(0, 0.01) and its input is 100 times louder than before.  "
         "How many times louder is its output?", None, lambda a: abs(a - 1) < 1e-6, hint="batch norm divides by what?")
