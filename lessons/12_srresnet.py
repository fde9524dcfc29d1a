"""Lesson 12: SRResNet, the generator.  What is it made of, what does it cost, how far does it see, and can it learn?

You should know: convolution (05), batch norm (08), PReLU (09), pixel shuffle (10), Adam (11): here they come together.
Paper: Ledig et al. 2017, section 2.1 and figure 4.  Lives in: npsrgan/models/srresnet.py, made of npsrgan/layers.py.
"""
# %% The whole network, by hand
import sys; sys.path[:0] = ["lessons", "."]
import numpy as np
from _lesson import exercise, picture_row, plt, save
from tqdm import tqdm

from npsrgan import images, losses, metrics, ops
from npsrgan.adam import Adam, schedule
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.gradcheck import check_directions, normal
from npsrgan.models import SRResNet
from npsrgan.ops.operation import reference_only
from npsrgan.tape import Tape, Tensor


# A block learns only what to ADD to its input: y = x + inner(x).  Where it has nothing to say it says 0, and the way back
# has a straight lane: dL/dx = dL/dy + what comes through the block.  That is what lets sixteen of them train.
def srresnet(x, p, blocks):
    """x (N, h, w, 3) -> (N, 4 h, 4 w, 3).  p: parameters by name.  Batch norm with the batch's own statistics."""
    def conv(x, name): return ops.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"])
    def norm(x, name): return ops.batch_norm(x, p[f"{name}.gamma"], p[f"{name}.beta"])
    def prelu(x, name): return ops.prelu(x, p[f"{name}.slope"])

    first = x = prelu(conv(x, "head.0"), "head.1")                          # 9x9: what is at every pixel
    for k in range(blocks):                                                 # 3x3, at low resolution, where it is cheap
        inner = prelu(norm(conv(x, f"body.{k}.0"), f"body.{k}.1"), f"body.{k}.2")
        x = x + norm(conv(inner, f"body.{k}.3"), f"body.{k}.4")
    x = first + norm(conv(x, f"body.{blocks}"), f"body.{blocks + 1}")       # one long lane over all blocks
    for k in (0, 1):                                                        # twice as large, twice
        x = prelu(ops.pixel_shuffle(conv(x, f"upsampling.{k}.0")), f"upsampling.{k}.2")
    return conv(x, "tail")                                                  # 9x9: back to colours


small = SRResNet(4, 2).to(lambda array: array.astype(np.float64))
lr = np.clip(normal(2, 5, 6, 3), -1, 1)
named = {p.name: p for p in small.parameters()}
np.testing.assert_allclose(srresnet(lr, named, 2).array, small(lr).array, rtol=1e-9, atol=1e-12)
cotangent = normal(2, 20, 24, 3)
for result in check_directions(lambda: ops.mean(srresnet(lr, named, 2) * cotangent), small.parameters(), "SRResNet by hand", 2):
    print(result)
    assert result.passed

# %% What it costs, predicted
# c channels, b blocks.  A k x k convolution from i to o channels has k*k*i*o weights and o biases, and multiplies k*k*i*o
# times per pixel of its output.  So, per low-resolution pixel (the second shuffle's convolution sees 4, the tail 16):
c, b = 64, 16
weights = 81 * 3 * c + (2 * b + 1) * 9 * c * c + 2 * 9 * c * 4 * c + 81 * c * 3
others = (c + c) + b * (2 * c + 4 * c + c) + (c + 2 * c) + 2 * (4 * c + c) + 3      # biases, batch norms, PReLUs: head to tail
multiplications = 81 * 3 * c + (2 * b + 1) * 9 * c * c + (1 + 4) * 9 * c * 4 * c + 16 * 81 * c * 3
generator = SRResNet(c, b)
print(f"parameters: {weights + others:,} predicted, {generator.flat.size:,} counted")
assert weights + others == generator.flat.size
# The multiplications are counted by standing at the door of every convolution.
counted, conv2d = [], ops.conv2d


def counting(x, w, b=None, stride=1, padding=None):
    y = conv2d(x, w, b, stride, padding)
    counted.append(np.prod(y.shape[:3]) * w.array.size)
    return y


ops.conv2d = counting
generator.eval()(np.zeros((1, 8, 8, 3), np.float32))
ops.conv2d = conv2d
print(f"multiplications per LR pixel: {multiplications:,} predicted, {sum(counted) // 64:,} counted; "
      f"a picture of 512 x 512 from 128 x 128: {multiplications * 128**2 / 1e9:.0f} thousand million")
assert sum(counted) == 64 * multiplications

# %% How far it sees
# Which input pixels can change output pixel Y?  Walk back, with intervals: a k x k convolution widens by (k - 1) / 2 on each
# side, a shuffle halves both ends.  It depends on the layers only, not on the channels: 8 will do.


def reach(pixel, blocks=16):
    """First and last row of the LR picture that the output's row `pixel` can see."""
    low, high = (pixel - 4) // 2 - 1, (pixel + 4) // 2 + 1          # 9x9, then the second shuffle and its 3x3
    return low // 2 - 1 - (2 * blocks + 1) - 4, high // 2 + 1 + (2 * blocks + 1) + 4


# The measurement: the gradient of one output pixel with respect to the input is 0 where the network cannot see.
# (Without the fast twins: Winograd would leave rounding errors where exact zeros belong.)
eye = SRResNet(8, 16)
scene = Tensor(np.random.default_rng(9).uniform(-1, 1, (2, 100, 100, 3)).astype(np.float32))
seen = {}
for mode in ("evaluation", "training"):
    eye.train(mode == "training")
    with reference_only(), Tape() as tape:
        pixel = ops.sum(eye(scene)[0, 200, 200])
    seen[mode] = np.abs(tape.gradient(pixel, scene)).max(-1)
rows = np.flatnonzero(seen["evaluation"][0].any(axis=1))
print(f"output row 200 sees LR rows {reach(200)} by prediction, ({rows[0]}, {rows[-1]}) by its gradients: 40 above its own, row 50")
assert (rows[0], rows[-1]) == reach(200) == (10, 89) and not seen["evaluation"][1].any()
# In training the batch's mean and variance depend on every pixel of every picture.  We predict: it sees everything, even
# the OTHER picture of the batch.
print(f"training: it sees {np.mean(seen['training'][0] > 0):.0%} of its own picture, {np.mean(seen['training'][1] > 0):.0%} of the other")
assert np.mean(seen["training"] > 0) > 0.99

figure, axes = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
for axis, (title, gradient) in zip(axes, {"evaluation: 80 x 80 pixels": seen["evaluation"][0], "training: everything": seen["training"][0],
                                          "training: another picture": seen["training"][1]}.items()):
    strength = np.log10(gradient / seen[title.split(":")[0]].max() + 1e-12)
    picture = axis.imshow(np.where(gradient > 0, strength, np.nan), vmin=-9, vmax=0, cmap="magma")
    axis.set(title=title, xlabel="LR column", ylabel="LR row")
figure.colorbar(picture, ax=axes, label="log10 |d one output pixel / d input|")
save(figure, "12_how_far_it_sees")

# %% Can it learn?  One photograph, by heart
# The first test of any new network: give it one example and let it overfit.  If it cannot even do that, something is
# broken.  38 thousand weights, 28 thousand numbers to remember.  And we predict the price: elsewhere it is good for little.
photo = Photograph().load(0)
SIZE, STEPS = 96, 500
hr, elsewhere = photo[125:125 + SIZE, 190:190 + SIZE], photo[330:330 + SIZE, 60:60 + SIZE]
x, target = images.to_float(downscale(hr, 4))[None], images.to_float(hr)[None]
student = SRResNet(16, 2)
adam = Adam(student, schedule("cosine", 2e-3, STEPS))       # the rate falls, along a cosine, to a hundredth
print(f"{student.flat.size} weights, {hr.size} numbers")
for _ in tqdm(range(STEPS), "learning by heart"):
    with Tape() as tape:
        loss = losses.mean_squared_error(student(x), target)
    adam.step(tape.gradient(loss, student.parameters()))
student.eval()
panels, gain = {}, []
for crop in (hr, elsewhere):
    lr = downscale(crop, 4)
    sr = images.to_uint8(student(images.to_float(lr)[None]).array[0])
    ours, bicubic = metrics.psnr(sr, crop), metrics.psnr(upscale(lr, 4), crop)
    gain.append(ours - bicubic)
    panels |= {f"LR ({len(gain)})": lr, f"bicubic, {bicubic:.1f} dB": upscale(lr, 4), f"by heart, {ours:.1f} dB": sr,
               "the photograph" if crop is hr else "never seen": crop}
print(f"against bicubic: {gain[0]:+.1f} dB where it learned, {gain[1]:+.1f} dB where it did not")
assert gain[0] > 3 and gain[1] < gain[0] - 2
save(picture_row(panels, columns=4), "12_by_heart")

# %% Exercises
exercise(1, "With 5 blocks instead of 16, how many LR rows above its own (row 50) does output row 200 see?", answer=None,
         check=lambda n: n == 18, hint="every block has two 3x3 convolutions")
exercise(2, "If all 16 blocks worked behind the upsampling, at 16 times the pixels: how many times as many multiplications, roughly, "
         "would the whole network make?", answer=None, check=lambda n: abs(n - 9) < 1,
         hint="33 of 3x3 cost 1.22 of 2.22 million per LR pixel")
