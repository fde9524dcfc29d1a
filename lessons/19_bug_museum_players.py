"""Lesson 19: the bug museum, first room: the two players.  Which errors let a GAN run, print fine losses, and learn nothing?

You should know: the SRGAN step (lesson 17).  All exhibits were found in public SRGAN code.  Papers: Ledig et al. 2017, section 2;
Goodfellow et al. 2014.  Lives in: nowhere in npsrgan/, it is to be hoped; the cures live in trainer.py, losses.py and tape.py.
"""
# %% How to visit.  Every exhibit is a function with a switch `bug`, and a test that fails with it and passes without.  The
# decorator runs the test both ways.  Take the test home: it is what would have found the error in an afternoon.
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, plt, save
from _museum import exhibit
from threadpoolctl import threadpool_limits

from npsrgan import losses, ops
from npsrgan.adam import Adam
from npsrgan.gradcheck import normal
from npsrgan.layers import LeakyReLU, Linear, Sequential, initialise
from npsrgan.models import Discriminator, SRResNet
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.tape import Tape, Tensor

threadpool_limits(1)        # all matrices here are small
lr, hr = (np.clip(normal(4, side, side, 3), -1, 1).astype(np.float32) for side in (4, 16))
generator, discriminator, vgg = SRResNet(8, 1), Discriminator(4, 16), random_vgg19("conv1_2")
discriminator.classifier.steps[-1].weight.array *= 1e-3         # an undecided beginner: D = 0.5 for everything


def join(gradients): return np.concatenate([g.ravel() for g in gradients]).astype(np.float64)
def cosine(a, b):    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# %% 1. D's loss flows into G
# Symptom: "D's loss drops to zero in no time, G's pictures get no sharper; removing the adversarial loss changes nothing."
# The bug: loss_g.backward(); loss_d.backward(); then both optimisers step.  Gradients add up in the parameters, and D's loss
# depends on G's parameters too, through D(sr).  So G descends on loss_g + loss_d: it helps D to find it out.
# By hand, at D = 0.5, with the adversarial weight 1e-2:     wanted  d/dz 1e-2 * -log D            = -1e-2 * (1 - D)  = -0.005
#                                                            leak    d/dz 1/2 * -log(1 - D)        =   1/2 * D         = +0.25
# Prediction: the leak is 50 times what was wanted and points exactly the other way, cosine -1.  The cure: ask.  A tape's question
# names the parameters (`tape.gradient(loss_g, generator.parameters())`), and nothing adds up behind one's back.  (In frameworks
# that accumulate: detach sr for D's loss, and clear the gradients between the two.)


def adversarial_gradient(bug):
    """What reaches G's parameters from the game, with the weight 1e-2."""
    with Tape() as tape:
        fake, real = discriminator(generator(lr)), discriminator(hr)
        wanted, loss_d = ops.scale(losses.generator_adversarial(fake), 1e-2), losses.discriminator_adversarial(real, fake)
        loss = wanted + loss_d if bug else wanted
    reaches, wanted, leak = (join(tape.gradient(x, generator.parameters(), keep=True)) for x in (loss, wanted, loss_d))
    return reaches, wanted, leak


_, wanted, leak = adversarial_gradient(bug=True)
factor = np.linalg.norm(leak) / np.linalg.norm(wanted)
print(f"the leak is {factor:.1f} times the wanted gradient, cosine {cosine(leak, wanted):.4f}")
assert abs(factor - 50) < 0.5 and cosine(leak, wanted) < -0.999


@exhibit
def test_d_loss_does_not_reach_g(bug):
    reaches, wanted, _ = adversarial_gradient(bug)
    assert cosine(reaches, wanted) > 0.999, f"G moves against its own loss: cosine {cosine(reaches, wanted):.3f}"


# The game of lesson 16 for 700 steps, with the leak and without: with it, G stays where D can tell.
spots = 2 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)


def play(bug, steps=700):
    g, d = (initialise(Sequential(Linear(n, 64), LeakyReLU(), Linear(64, 64), LeakyReLU(), Linear(64, out)), out)
            for n, out in ((4, 2), (2, 1)))
    adam_g, adam_d = Adam(g, 4e-3, beta1=0.5), Adam(d, 4e-3, beta1=0.5)
    for step in range(steps):
        rng = np.random.default_rng([13, step])
        real = (spots[rng.integers(8, size=128)] + 0.1 * rng.standard_normal((128, 2))).astype(np.float32)
        with Tape() as tape:
            made = g(rng.standard_normal((128, 4), np.float32))
            z_real, z_fake = d(real), d(made)
            loss_d = losses.discriminator_adversarial(z_real, z_fake)
            loss_g = ops.scale(losses.generator_adversarial(z_fake), 1e-2)
            loss = loss_g + loss_d if bug else loss_g
        gradients = tape.gradient(loss, g.parameters(), keep=True)
        adam_d.step(tape.gradient(loss_d, d.parameters()))
        adam_g.step(gradients)
    return made.array, float(loss_d)


figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
for axis, bug in zip(axes, (True, False)):
    made, loss_d = play(bug)
    axis.plot(*made.T, "k.", ms=6, label="made by G")
    axis.plot(*spots.T, "o", mfc="none", mec="green", mew=2, ms=14, label="photographs")
    axis.set(title=f"{'with' if bug else 'without'} the leak: D pays {loss_d:.2g}", aspect="equal", xlim=(-5, 5), ylim=(-5, 5))
    axis.legend(loc="upper right", fontsize=8)
save(figure, "19_leak")

# %% 2. sigmoid, then log
# Symptom: "G learns for an epoch, then stops for good"; or "loss is nan" where the 1e-8 is missing.
# The bug: -log(sigmoid(z) + 1e-8).  At z = -30 D = 1e-13, far below 1e-8: the sum no longer feels it.  The cure: softplus(-z).


def literal_adversarial(fake_logits, eps=1e-8):
    """The mean of -log(D(sr) + eps), as it is often written."""
    return ops.mean(-ops.log(ops.sigmoid(fake_logits) + eps))


@exhibit
def test_a_beaten_generator_still_hears(bug):
    z = Tensor(np.full((1, 1), -30, np.float32))
    with Tape() as tape:
        loss = (literal_adversarial if bug else losses.generator_adversarial)(z)
    slope = float(tape.gradient(loss, z)[0, 0])
    assert abs(slope + 1) < 1e-3, f"the gradient at z = -30 is {slope:.1e}, and should be -1"


# %% 3. One batch norm for both
# Symptom: "D is right about everything after 50 steps, and its accuracy falls to chance on single images."
# The bug: d(concatenate([sr, hr])), one pass to save time.  Batch norm then measures the mean of a mixture: an image's verdict
# depends on its neighbours, and the halves are told apart by where they lie from the common mean.
# The cure: two passes.  (The tape keeps both, and each is used twice: for G's question and for D's.)


@exhibit
def test_verdict_on_photographs_does_not_depend_on_made_ones(bug):
    def verdict(sr):
        return discriminator(np.concatenate([sr, hr])).array[len(sr):] if bug else discriminator(hr).array
    grey, black = verdict(np.zeros_like(hr)), verdict(np.full_like(hr, -1))
    change = np.abs(grey - black).max() / grey.std()
    assert change < 1e-6, f"black instead of grey SR moves the verdicts on HR by {change:.1f} of their own spread"


# %% 4. A loss made anew:  Tensor([value])
# Symptom: "the content loss is printed and never falls; its weight may be 0 or 1000, the pictures are the same."
# The bug: the number is taken out of the graph and wrapped again.  It prints the same; it is attached to nothing.
# The cure: keep the tensor.  `tape.gradient` of such a loss alone raises: "the loss does not depend on ...".


@exhibit
def test_content_weight_matters(bug):
    def gradient(weight):
        with Tape() as tape:
            sr = generator(lr)
            content = losses.mean_squared_error(vgg(sr), vgg(hr).array)
            content = Tensor(np.array(float(content), np.float32)) if bug else content
            loss = ops.scale(content, weight) + losses.generator_adversarial(discriminator(sr))
        return join(tape.gradient(loss, generator.parameters()))
    assert np.any(gradient(1.0) != gradient(0.0)), "G's gradient is the same with content weights 0 and 1"


# %% Your turn
exercise(1, "With the paper's adversarial weight, 1e-3, how many times the wanted gradient is the leak at D = 0.5?", None,
         lambda a: abs(a - 500) < 1, hint="0.25 against 1e-3 * 0.5")
exercise(2, "And with weight 1e-2 where D is nearly fooled, D(sr) = 0.9?  (By hand: 1/2 D against 1e-2 (1 - D).)", None,
         lambda a: abs(a - 450) < 1)
