"""The same mathematics in PyTorch: every operation under its own name, the three networks, and runs of comparisons.py."""
import numpy as np
import torch
import torch.nn.functional as F
from comparisons import RATES, STEPS, WEIGHTS, small_batch, wave
from torch import nn

from npsrgan.adam import schedule

torch.set_num_threads(1)        # the networks are small, and idle threads would only get in the way


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def tensor(array, requires_grad=True):
    return torch.tensor(np.array(array, order="C"), dtype=torch.float64, requires_grad=requires_grad)


def shuffle_order(channels, r=2):
    """Where torch's channel c*r*r + i*r + j stands in ours: at (i*r + j)*C + c."""
    return torch.arange(channels).reshape(r * r, -1).T.reshape(-1)


class operations:
    """Each operation of `npsrgan.ops`, in our layout, with our names of arguments."""

    add, subtract, multiply = torch.add, torch.subtract, torch.multiply
    square, absolute, log, relu, sigmoid = torch.square, torch.abs, torch.log, torch.relu, torch.sigmoid

    def scale(x, factor):
        return factor * x

    def sum(x, axis=None, keepdims=False):
        return torch.sum(x, dim=axis, keepdim=keepdims)

    def mean(x, axis=None, keepdims=False):
        return torch.mean(x, dim=axis, keepdim=keepdims)

    def leaky_relu(x, slope=0.2):
        return F.leaky_relu(x, slope)

    def prelu(x, slope):
        return F.prelu(x.movedim(-1, 1), slope).movedim(1, -1)

    def softplus(x):
        return -F.logsigmoid(-x)            # F.softplus leaves the exponential out above 20

    def linear(x, w, b=None):
        return F.linear(x, w.T, b)

    def conv2d(x, w, b=None, stride=1, padding=None):
        around = (w.shape[0] // 2, w.shape[1] // 2) if padding is None else padding
        return nhwc(F.conv2d(nchw(x), w.permute(3, 2, 0, 1), b, stride, around))

    def batch_norm(x, gamma, beta, running_mean=None, running_var=None, training=True, momentum=0.9, eps=1e-5):
        return F.batch_norm(x.movedim(-1, 1), running_mean, running_var, gamma, beta, training, 1 - momentum, eps).movedim(1, -1)

    def max_pool2d(x, size=2, stride=2):
        return nhwc(F.max_pool2d(nchw(x), size, stride))

    def pixel_shuffle(x, r=2):
        return nhwc(F.pixel_shuffle(nchw(x)[:, shuffle_order(x.shape[-1], r)], r))

    def reshape(x, shape):
        return x.reshape(shape)

    def flatten(x):
        return x.flatten(1)

    def slice(x, index):
        return x[index]

    def concatenate(*xs, axis=-1):
        return torch.cat(xs, axis)


def run_operation(comparison):
    """What `Comparison.run` computes."""
    tensors = [tensor(array) for array in comparison.inputs()]
    options = {name: tensor(value, False) if hasattr(value, "shape") else value for name, value in comparison.options.items()}
    value = getattr(operations, comparison.operation)(*tensors, **options)
    (value * tensor(wave(*value.shape, seed=99), False)).sum().backward()
    return ({"value": value.detach().numpy()} | {f"gradient {k}": t.grad.numpy() for k, t in enumerate(tensors)}
            | {name: option.numpy() for name, option in options.items() if torch.is_tensor(option)})


class Shuffle(nn.PixelShuffle):
    """PixelShuffle that finds its channels in our order."""

    def forward(self, x):
        return super().forward(x[:, shuffle_order(x.shape[1])])


class SRResNet(nn.Module):
    def __init__(self, channels=64, blocks=16, scale=4):
        super().__init__()
        c = channels

        def conv(inputs, outputs, size):
            return nn.Conv2d(inputs, outputs, size, padding=size // 2)

        self.head = nn.Sequential(conv(3, c, 9), nn.PReLU(c))
        self.blocks = nn.ModuleList(nn.Sequential(conv(c, c, 3), nn.BatchNorm2d(c), nn.PReLU(c), conv(c, c, 3), nn.BatchNorm2d(c))
                                    for _ in range(blocks))
        self.after = nn.Sequential(conv(c, c, 3), nn.BatchNorm2d(c))
        self.up = nn.Sequential(*[layer for _ in range(scale // 2) for layer in (conv(c, 4 * c, 3), Shuffle(2), nn.PReLU(c))])
        self.tail = conv(c, 3, 9)

    def forward(self, x):
        first = x = self.head(x)
        for block in self.blocks:
            x = x + block(x)
        return self.tail(self.up(first + self.after(x)))


class Discriminator(nn.Module):
    def __init__(self, channels=64, image_size=176, slope=0.2):
        super().__init__()
        c, layers = channels, [nn.Conv2d(3, channels, 3, padding=1), nn.LeakyReLU(slope)]
        for inputs, outputs, stride in [(1, 1, 2), (1, 2, 1), (2, 2, 2), (2, 4, 1), (4, 4, 2), (4, 8, 1), (8, 8, 2)]:
            layers += [nn.Conv2d(inputs * c, outputs * c, 3, stride, padding=1), nn.BatchNorm2d(outputs * c), nn.LeakyReLU(slope)]
        self.features = nn.Sequential(*layers)
        self.dense = nn.Sequential(nn.Linear(8 * c * (image_size // 16) ** 2, 16 * c), nn.LeakyReLU(slope), nn.Linear(16 * c, 1))

    def forward(self, x):
        return self.dense(nhwc(self.features(x)).flatten(1))        # our order: the channels of one place stand together


class VGG19(nn.Module):
    def __init__(self, layer="conv5_4", feature_scale=1.0):
        super().__init__()
        self.feature_scale, block, number = feature_scale, int(layer[4]), int(layer[6])
        depths = [2, 2, 4, 4, 4][:block - 1] + [number]
        layers, before = [], 3
        for index, (channels, depth) in enumerate(zip([64, 128, 256, 512, 512], depths)):
            if index:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
                before = channels
        self.features = nn.Sequential(*layers)
        self.register_buffer("input_gain", torch.ones(3))
        self.register_buffer("input_shift", torch.zeros(3))

    def forward(self, x):
        x = x * self.input_gain[:, None, None] + self.input_shift[:, None, None]
        return self.feature_scale * self.features(x)


def to_ours(array):
    """A weight or its gradient in our layout: OIHW -> HWIO, (out, in) -> (in, out)."""
    array = array.detach().numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch(network):
    """The torch network with our network's settings, weights, running statistics and mode.  Both define their layers in the
    same order, so that the n-th parameter of one is the n-th of the other."""
    module = globals()[type(network).__name__](**network.settings).double().train(network.training)
    buffers = [b for name, b in module.named_buffers() if not name.endswith("num_batches_tracked")]
    with torch.no_grad():
        for theirs, mine in zip(module.parameters(), network.parameters(), strict=True):
            w = mine.array
            theirs.copy_(torch.tensor(w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T))
        for theirs, mine in zip(buffers, network.state().values(), strict=True):
            theirs.copy_(torch.tensor(mine))
    return module


def run_network(comparison):
    """What `NetworkComparison.run` computes."""
    network = comparison.build()
    module, image = to_torch(network), tensor(wave(*comparison.shape))
    value = module(nchw(image))
    value = nhwc(value) if value.ndim == 4 else value
    (value * tensor(wave(*value.shape, seed=99), False)).mean().backward()
    buffers = [b for name, b in module.named_buffers() if not name.endswith("num_batches_tracked")]
    return ({"value": value.detach().numpy(), "gradient of the input": image.grad.numpy()}
            | {name: b.numpy() for name, b in zip(network.state(), buffers, strict=True)}
            | {f"gradient of {mine.name}": to_ours(theirs.grad)
               for mine, theirs in zip(network.parameters(), module.parameters(), strict=True)})


def run_training(trainer):
    """What `training_run` computes, as a training loop is written in torch, where D's loss must be cut off from G by hand."""
    networks = {name: to_torch(network) for name, network in trainer.networks.items()}
    srresnet, generator, discriminator = networks.values()
    vgg = to_torch(trainer.vgg).requires_grad_(False)
    optimisers = {name: torch.optim.Adam(network.parameters(), 1.0) for name, network in networks.items()}

    def step(lr, hr, taken):
        for name, optimiser in optimisers.items():
            optimiser.zero_grad()
            optimiser.param_groups[0]["lr"] = schedule(*RATES[name], STEPS)(taken)
        row = {"srresnet_pixel": F.mse_loss(srresnet(lr), hr)}
        row["srresnet_pixel"].backward()

        sr = generator(lr)
        real, fake = discriminator(hr), discriminator(sr.detach())
        row["discriminator"] = (operations.softplus(-real).mean() + operations.softplus(fake).mean()) / 2
        row["discriminator"].backward()
        discriminator.requires_grad_(False)
        row |= {"pixel": F.mse_loss(sr, hr), "adversarial": operations.softplus(-discriminator(sr)).mean(),
                "perceptual": F.mse_loss(vgg(sr), vgg(hr))}
        sum(weight * row[name] for name, weight in WEIGHTS.items()).backward()
        discriminator.requires_grad_(True)
        for optimiser in optimisers.values():
            optimiser.step()
        return {name: loss.item() for name, loss in row.items()}

    rows = [step(*(nchw(tensor(image, False)) for image in small_batch(taken)), taken) for taken in range(STEPS)]
    return ({name: np.array([row[name] for row in rows]) for name in rows[0]}
            | {f"parameters of {name}": np.concatenate([to_ours(p).ravel() for p in network.parameters()])
               for name, network in networks.items()})
