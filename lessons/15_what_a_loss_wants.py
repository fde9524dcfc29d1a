"""Lesson 15: what a loss wants.  Why does a network trained on squared error draw blurred faces, and what does a loss on
VGG19's features want instead?

You should know: convolution (05), Adam (11).  Papers: Ledig et al. 2017, sections 2.2.1 and 3.3; Johnson et al. 2016.
Lives in: npsrgan/losses.py, npsrgan/models/vgg19.py.  The weights of VGG19 are no part of this project.  Without them a VGG19
with random weights stands in; with a file (the README says where to get one):  VGG19=FILE.h5 python lessons/15_...py
"""
# %% One question, many answers
import sys; sys.path[:0] = ["lessons", "."]
import os

import numpy as np
from _lesson import exercise, picture_row, save
from tqdm import tqdm

from npsrgan import images, losses, ops
from npsrgan.adam import Adam
from npsrgan.data import Photograph, downscale, upscale
from npsrgan.gradcheck import check_directions, normal
from npsrgan.layers import Layer, Parameter
from npsrgan.models.vgg19 import random_vgg19
from npsrgan.storage import load_vgg19
from npsrgan.tape import Tape, Tensor

# A low-resolution pixel does not say where within its 4 x 4 pixels an edge runs.  Sixteen faces, each at another of the 16
# places, are all (nearly) good answers.  Which single picture p has the least squared error to all of them, on average?
#
#     L(p) = mean over k of |p - a_k|^2        dL/dp = 2 (p - mean of a_k)        zero at p = mean of a_k
#
# The mean: none of the answers, and a blur.  And a second prediction.  Two answers differ by twice what each differs from
# the mean, whatever they show:  E|a_i - a_j|^2 = 2 E|a_i - mean|^2 * K / (K - 1).  For K = 16 that is 2.13 times, 3.3 dB:
# a perfect face in another place scores 3.3 dB WORSE, on average, than the blur.  So L2 teaches every network to blur.
photo = images.to_float(downscale(Photograph().load(0), 2))
faces = np.stack([photo[20 + i:148 + i, 65 + j:193 + j] for i in range(4) for j in range(4)])
average = faces.mean(0)


def square_error(a, b):
    return np.mean((a - b) ** 2)


other = np.mean([square_error(faces[i], faces[j]) for i in range(16) for j in range(16) if i != j])
blurred = np.mean([square_error(face, average) for face in faces])
print(f"another good face is {other / blurred:.4f} times as wrong as the average face ({10 * np.log10(other / blurred):.1f} dB)")
np.testing.assert_allclose(other / blurred, 2 * 16 / 15, rtol=1e-3)
save(picture_row({"one good answer": images.to_uint8(faces[0]), "another, 3 pixels beside it": images.to_uint8(faces[-1]),
                  "their average: L2's best": images.to_uint8(average), "what the two answers differ by": 0.5 + (faces[0] - faces[-1]) / 4},
                 height=3, vmin=0, vmax=1), "15_average_face")

# %% A loss that looks at features
# Ledig et al. compare not pixels but what VGG19, a network trained to recognise things, makes of them: its features phi, the numbers that
# one of its inner layers puts out.  (conv3_1 is the first convolution of its third block.  Between blocks stands pooling, which keeps only
# the largest of every 2 x 2 numbers.)
#
#     L(p) = mean |phi(p) - phi(hr)|^2        dL/dp: back through phi, whose weights stay as they are
#
# By hand, with a phi of one convolution and one ReLU: the error's gradient, through the kink, through d_x of the convolution.
p, hr, w = normal(1, 6, 6, 3), normal(1, 6, 6, 3, seed=1), normal(3, 3, 3, 8)
before, (through, *_) = ops.conv2d.reference(p, w)
error = np.maximum(before, 0) - np.maximum(ops.conv2d(hr, w).array, 0)
by_hand = through(2 * error / error.size * (before > 0))
picture = Tensor(p)
with Tape() as tape:
    loss = losses.mean_squared_error(ops.relu(ops.conv2d(picture, w)), ops.relu(ops.conv2d(hr, w)).array)
np.testing.assert_allclose(tape.gradient(loss, picture), by_hand, rtol=1e-10, atol=1e-14)

small = random_vgg19("conv2_2").to(lambda array: array.astype(np.float64))
for result in check_directions(lambda: losses.mean_squared_error(small(picture), small(hr).array), [picture], "loss on features", 2):
    print(result)
    assert result.passed

# %% Who prefers the texture?
# Stripes finer than a low-resolution pixel: at low resolution all their positions look the same, grey.  The truth is one of
# 16; you may answer with another position, or with grey.  Prediction for pixels: as above, the stripes are 2.13 times as
# wrong as grey.  For features: pooling forgets WHERE in its window something is but not THAT it is there.  Stripes should win.
S = 48
y, x = np.mgrid[:S, :S]
waves = np.stack([np.sin(2 * np.pi * ((0.88 * x + 0.48 * y) / 5 + (k + 0.3) / 16)) for k in range(16)])
stripes = np.repeat(0.6 * np.sign(waves)[..., None], 3, axis=3).astype(np.float32)
file = os.environ.get("VGG19")
eyes = {"random VGG19": lambda layer: random_vgg19(layer)} | ({"VGG19": lambda layer: load_vgg19(file, layer)} if file else {})
pixels = {"pixels": lambda a: ops.scale(a, 1)}
ratios = {}
for name, features in (pixels | {f"{eye}, {layer}": build(layer) for eye, build in eyes.items()
                                 for layer in ("conv2_2", "conv3_1", "conv4_4")}).items():
    seen, grey = features(stripes).array, features(np.zeros_like(stripes[:1])).array[0]
    ratios[name] = np.mean([square_error(seen[0], s) for s in seen[1:]]) / square_error(seen[0], grey)
    print(f"{name:22} stripes in another place are {ratios[name]:.3f} times as wrong as grey")
assert abs(ratios["pixels"] - 2.13) < 0.05 and ratios["random VGG19, conv2_2"] < 1 and ratios["random VGG19, conv4_4"] < 0.2


# %% Let each loss draw what it wants
# A picture whose pixels are the weights, and Adam.  The mean of the answers' features will do as the target:
# mean of |phi(p) - phi_k|^2 = |phi(p) - mean phi_k|^2 + a constant.
class Canvas(Layer):
    def __init__(self):
        self.grey = Parameter(np.random.default_rng(10).normal(0, 0.1, (1, S, S, 1)).astype(np.float32))

    def forward(self):
        return self.grey * np.ones(3, np.float32)


drawn = {"one of 16 good answers": stripes[0]}
for name, features in (pixels | {eye: build("conv3_1") for eye, build in eyes.items()}).items():
    canvas, target = Canvas(), features(stripes).array.mean(0, keepdims=True)
    adam = Adam(canvas, 0.03)
    for _ in tqdm(range(100), f"drawing for {name}", leave=False):
        with Tape() as tape:
            loss = losses.mean_squared_error(features(canvas.forward()), target)
        adam.step(tape.gradient(loss, canvas.parameters()))
    contrast = canvas.flat.std() / stripes.std()
    print(f"drawn for {name:13} contrast {contrast:.2f} of the answers'")
    assert contrast < 0.1 if name == "pixels" else contrast > 0.4
    drawn[f"drawn for {name}: contrast {contrast:.2f}"] = canvas.forward().array[0]
# L2 draws grey.  A random VGG19 knows HOW MUCH detail there was, not which: it draws noise.  The trained one, which sees edges
# and their direction, draws stripes: run this lesson with a file, and see.  (Its ratios in the cell above: 0.57, 0.016 and 0.004.)
save(picture_row({title: images.to_uint8(array) for title, array in drawn.items()}, height=3.4), "15_what_they_draw")

# %% Where 1/12.75 comes from
# The paper divides the features by 12.75 "to obtain VGG losses of a scale that is comparable to the MSE loss", which it says
# multiplies the loss by about 0.006: 1 / 12.75^2 = 0.00615.  It is a choice of units, then, and can be measured.  Is it the
# features' own size?  No.  This cell, run with a VGG19 in Keras's format whose blocks 4 and 5 have been stored in 8 bits, found
# a root mean square of 6.6 (not 12.75) for conv5_4, and between a photograph and its bicubic version 906 times the squared
# difference of the pixels: scaled, 5.6 times.  "Comparable" is the word: within a factor of ten, so that neither is lost.
assert abs(1 / 12.75**2 - 0.006) < 0.0002
sharp = Photograph().load(0)[40:296, 130:386]
blurry = upscale(downscale(sharp, 4), 4)
a, b = (images.to_float(picture)[None] for picture in (sharp, blurry))
if file:
    vgg = load_vgg19(file, feature_scale=1.0)
    fa, fb = vgg(a).array, vgg(b).array
    print(f"conv5_4: root mean square {np.sqrt(np.mean(fa**2)):.2f}; between the photograph and its bicubic: features differ by "
          f"{square_error(fa, fb):.3g}, pixels by {square_error(a, b):.3g}: {square_error(fa, fb) / square_error(a, b):.0f} to 1, "
          f"scaled {square_error(fa, fb) / square_error(a, b) / 12.75**2:.1f} to 1")

# %% Exercises
exercise(1, "The truth is 0 (70 %) or 1 (30 %).  L2 answers with the mean, 0.3.  What does L1, |p - truth|, answer?", answer=None,
         check=lambda p: abs(p) < 0.01, hint="its best answer is the median: there half of the truths lie above, half below")
exercise(2, "In pixels' PSNR, how many dB is a texture in the wrong place behind grey, with very many possible places?", answer=None,
         check=lambda d: abs(d - 3.01) < 0.02, hint="K / (K - 1) goes to 1")
exercise(3, "The features are scaled by 1/10 in place of 1/12.75.  By what factor must the weight of that loss change?", answer=None,
         check=lambda f: abs(f - (10 / 12.75) ** 2) < 0.01, hint="a loss of squares feels a scale twice")
