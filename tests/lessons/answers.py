"""Answers to the lessons' exercises: for each lesson {number: (a right answer, a wrong one)}.  Spoilers, and a test of the checks."""
import numpy as np

from npsrgan import ops


def twice_used(gradients_of):
    """Lesson 03: a tensor that is used twice.  The names are the lesson's, which runs as __main__."""
    from __main__ import Tensor, add, records
    records.clear()
    a = Tensor(3)
    return gradients_of(add(a, a))[a] == 2


def tall_batch():
    """Lesson 08: dy, gamma, x."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 8, 8, 3)), np.ones(3), rng.standard_normal((2, 8, 8, 3))


def stretching_changes_nothing(rule):
    """Lesson 08: the derivative along x itself is 0."""
    dy, gamma, x = tall_batch()
    return abs((rule(dy, gamma, x) * x).sum()) < 0.01


def a_flat_wall_stays_flat(projection):
    """Lesson 10."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((3, 3, 2, 8)), rng.standard_normal(8)
    projection(weight, bias)
    wall = np.broadcast_to(rng.standard_normal(2), (1, 8, 8, 2))
    inside = ops.pixel_shuffle(ops.conv2d(wall, weight, bias)).array[0, 2:-2, 2:-2]
    return bool(np.allclose(inside, inside[0, 0]))


def batch_norm_rule(dy, x, gamma, axes=(0, 1, 2)):
    """Lesson 13."""
    std = np.sqrt(x.var(axes) + 1e-5)
    x_hat = (x - x.mean(axes)) / std
    return gamma / std * (dy - dy.mean(axes) - x_hat * (dy * x_hat).mean(axes))


def find(steps):
    """Lesson 13: from the output back, the first step whose input's gradient is wrong."""
    from __main__ import Tape, Tensor, loss_from, lr
    tensors = [Tensor(lr)]
    with Tape() as tape:
        for _, _, function in steps:
            tensors.append(function(tensors[-1]))
        loss = loss_from(tensors[-1], [])
    for k, gradient in reversed(list(enumerate(tape.gradient(loss, tensors[:-1])))):
        step = 1e-6 * np.random.default_rng(k).standard_normal(gradient.shape) / gradient.size**0.5
        difference = float(loss_from(tensors[k].array + step, steps[k:])) - float(loss_from(tensors[k].array - step, steps[k:]))
        if abs(difference / 2 - (gradient * step).sum()) > 1e-6 * np.linalg.norm(gradient) * np.linalg.norm(step):
            return steps[k][0]
    return None


def zero_biases(network):
    """Lesson 04: in place."""
    for layer in (network.first, network.second, network.third):
        layer.bias.array[...] = 0


def columns_rule(d_columns, x):
    """Lesson 06: windows overlap, so their gradients add."""
    images, height, width, channels = x.shape
    d_windows = d_columns.reshape(images, height, width, 3, 3, channels)
    dxp = np.zeros((images, height + 2, width + 2, channels))
    for i, j in np.ndindex(3, 3):
        dxp[:, i:i + height, j:j + width] += d_windows[:, :, :, i, j]
    return dxp[:, 1:-1, 1:-1]


def two_taps(d, g):
    """Lesson 07."""
    middle = d[1] * (g[0] + g[1])
    return (d[0] - d[1]) * g[0] + middle, middle - (d[1] - d[2]) * g[1]


def absolute(p, hr, w):
    u, (through, *_) = ops.conv2d.reference(p, w)
    f, f_hr = np.maximum(u, 0), np.maximum(ops.conv2d(hr, w).array, 0)
    return through(np.where(u > 0, np.sign(f - f_hr), 0) / f.size)


def absolute_without_the_kink(p, hr, w):
    u, (through, *_) = ops.conv2d.reference(p, w)
    return through(np.sign(np.maximum(u, 0) - np.maximum(ops.conv2d(hr, w).array, 0)) / u.size)


def collapsed(points):
    angles = np.arange(8) * np.pi / 4
    spots = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    nearest = np.linalg.norm(points[:, None] - spots, axis=2).argmin(1)
    return np.bincount(nearest, minlength=8).min() < len(points) / 8 / 4


def sick(row):
    return (not all(value == value for value in row.values()) or row["d_hr"] - row["d_sr"] > 0.98
            or row["gradient_adversarial"] > 100 * row["gradient_pixel"])


def small_stripes_are_grey(shrink):
    stripes = 127 + 100 * (np.arange(96) % 3 - 1)
    image = np.repeat(np.tile(stripes, (96, 1))[..., None], 3, axis=2).astype(np.uint8)
    return shrink(image)[4:-4, 4:-4].std() < 10


def relativistic_discriminator(real, fake):
    above, below = real - ops.mean(fake), fake - ops.mean(real)
    return ops.scale(ops.mean(ops.softplus(-above)) + ops.mean(ops.softplus(below)), 0.5)


def shared(dy, x):
    """Lesson 14: each of the four values has a quarter of the mean."""
    return np.repeat(np.repeat(dy, 2, axis=1), 2, axis=2) / 4


def both(low, high, flip, turns):
    """Lesson 18."""
    return tuple(np.rot90(picture[:, ::-1] if flip else picture, turns) for picture in (low, high))


ANSWERS = {
    "00_what_it_is": {1: (1.259, 2), 2: (34.15, 14), 3: (1.32, 0),
                      4: (lambda a, b: 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)),
                          lambda a, b: 10 * np.log10(255**2 / np.mean((a - b).astype(float) ** 2)))},
    "01_images_as_arrays": {1: (5_947_392, 1_486_848), 2: (44, 300),
                            3: (lambda x: np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8), lambda x: np.uint8(255 * x)),
                            4: (lambda function: function(np.array([-2, 0.999, 2])).tolist() == [0, 255, 255],
                                lambda function: function(np.array([-1, 0.999])).tolist() == [0, 255])},
    "02_finite_differences": {1: (17.4, 8.7), 2: (0.5, 1), 3: (lambda dy, x: 2 * (dy - dy.mean(0)), lambda dy, x: dy),
                              4: (lambda dy, x: (dy - (dy * x).sum(1, keepdims=True) / x.sum(1, keepdims=True)) / x.sum(1, keepdims=True),
                                  lambda dy, x: dy / x.sum(1, keepdims=True))},
    "03_the_tape": {1: (96, 24), 2: (65536, 32), 3: (lambda dy: dy - dy.mean(), lambda dy: dy), 4: (twice_used, lambda gradients_of: True)},
    "04_a_first_network": {1: ((10, 7), (7, 10)), 2: (2240, 320), 3: (lambda dy, x: (dy + dy.T) @ x, lambda dy, x: 2 * dy @ x),
                           4: (zero_biases, lambda network: None)},
    "05_convolution": {1: (30_108_672, 10_036_224), 2: (6, 24), 3: (lambda dy: dy.sum((0, 1, 2)), lambda dy: dy.mean((0, 1, 2))),
                       4: (lambda dy, w: ops.conv2d(dy, w[::-1, ::-1].swapaxes(2, 3)).array,
                           lambda dy, w: ops.conv2d(dy, w[::-1, ::-1]).array)},
    "06_convolution_as_products": {1: (339_738_624, 37_748_736), 2: (20, 50),
                                   3: (lambda dy, w: dy @ w[0, 0].T, lambda dy, w: dy @ w[0, 0]),
                                   4: (columns_rule, lambda d_columns, x: x)},
    "07_winograd": {1: (5.06, 4), 2: (3072, 1728), 3: (two_taps, lambda d, g: (d[0] * g[0] + d[1] * g[1], d[1] * g[0] + d[2] * g[1]))},
    "08_batch_norm": {1: (2112, 2048), 2: (44, 43),
                      3: (lambda dy, gamma, var: gamma * dy / np.sqrt(var + 1e-5), lambda dy, gamma, var: gamma * dy),
                      4: (stretching_changes_nothing, lambda rule: abs(rule(*tall_batch()).sum()) < 1e-6)},
    "09_activations_and_initialisation": {1: (0.0907, 0.01), 2: (10, 10**7), 3: (lambda n, a: 2 / (n * (1 + a * a)), lambda n, a: 2 / n),
                                          4: (lambda dy, x: dy * np.sign(x), lambda dy, x: dy)},
    "10_pixel_shuffle": {1: ([4, 6, 6, 9], [5, 5, 5, 5]), 2: (147_456, 36_864), 3: (a_flat_wall_stays_flat, lambda projection: True)},
    "11_adam": {1: (2 / 101, 0.02), 2: (0.67, 1),
                3: (lambda adam: bool(np.allclose(adam([5.0] * 4), 1)), lambda adam: bool(np.allclose(adam([5.0]), 1)))},
    "12_srresnet": {1: (18, 80), 2: (9.2, 16), 3: (lambda x, inner: x + inner(x), lambda x, inner: inner(x) + inner(inner(x)))},
    "13_when_a_gradient_is_wrong": {1: (1, 5), 2: (7, 100), 3: (batch_norm_rule, lambda dy, x, gamma: gamma / x.std() * (dy - dy.mean())),
                                    4: (find, lambda steps: "batch norm")},
    "14_discriminator_and_vgg19": {1: (63_438_848, 18_874_368), 2: (shared, lambda dy, x: 4 * shared(dy, x)), 3: (-1, 0)},
    "15_what_a_loss_wants": {1: (0, 0.3), 2: (3.01, 6), 3: (0.615, 0.784), 4: (absolute, absolute_without_the_kink)},
    "16_two_players": {1: (0, 1), 2: (0.6931, 1.3863), 3: (lambda z: -ops.sigmoid(-z).array, lambda z: -ops.sigmoid(z).array),
                       4: (collapsed, lambda points: len(points) < 800)},
    "17_srgan": {1: (0.693, 0.5), 2: (1, 0), 3: (0.004, 250), 4: (sick, lambda row: row["adversarial"] > 3)},
    "18_data_and_the_loop": {1: (181, 182), 2: (both, lambda low, high, flip, turns: (low, np.rot90(high, turns))), 3: (0.5625, 0.5)},
    "19_bug_museum_players": {1: (500, 50), 2: (450, 50),
                              3: (lambda reaches: not np.any(reaches(0.0)), lambda reaches: np.any(reaches(1.0)))},
    "20_bug_museum_networks": {1: (0.0709, 0.1), 2: (1, 100),
                               3: (lambda pair: len(pair[1]) == len(pair[0].steps), lambda pair: len(pair[1]) > 0)},
    "21_bug_museum_data": {1: (75, 60), 2: (3, 2),
                           3: (lambda run: np.array_equal(run(5), run(None)), lambda run: run(5).shape == run(None).shape)},
    "22_bug_museum_pictures": {1: (44, 255), 2: (27.18, 28.5), 3: (8, 4), 4: (small_stripes_are_grey, lambda shrink: True)},
    "23_gpu": {1: (10, 11), 2: (42, 6), 3: (lambda thread: thread, lambda thread: 3 * thread)},
    "24_reading_the_results": {1: (24.99, 28), 2: (0.509, 0.5 ** 0.5),
                               3: (lambda e, d: 10 * np.log10(np.mean((e + d) ** 2) / np.mean(e**2)),
                                   lambda e, d: 10 * np.log10(1 + np.mean(d**2) / np.mean(e**2)))},
    "25_what_a_number_hides": {1: (8.23, 7.07), 2: (4, 16), 3: (lambda image, photo: np.mean((image.astype(float) - photo) ** 2),
                                                         lambda image, photo: -image.astype(float).std())},
    "26_two_number_plates": {1: (63 / 64, 7 / 8), 2: (lambda shape: (-1.0) ** np.indices(shape).sum(0), np.zeros)},
    "27_what_came_after": {1: (239_616, 184_320), 2: (relativistic_discriminator, lambda real, fake: ops.mean(ops.softplus(-real)))},
}
