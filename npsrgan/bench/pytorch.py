"""PyTorch equivalents of the three networks and the training step, for `bench` to compare with.  Needs torch."""
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from npsrgan import layers
from npsrgan.models import Discriminator
from npsrgan.models.vgg19 import LAYERS, VGG19

_layout, _device, _adam = torch.contiguous_format, "cpu", {}


def configure(threads, channels_last):
    """Set the number of threads and the memory layout of images and kernels: PyTorch's default, or ours."""
    global _layout
    _layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.set_num_threads(threads)


def configure_gpu(best, precision):
    """Compute on the GPU: as commonly run, with cudnn.benchmark on; or at its best, with our layout and fused Adam that can be
    captured.  precision: of convolutions, "tf32" or "float32"; matrix products are in float32, PyTorch's default."""
    global _layout, _device, _adam
    _layout, _device = torch.channels_last if best else torch.contiguous_format, "cuda"
    _adam = {"fused": True, "capturable": True} if best else {}
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def captured(run, times=1, warm_up=3):
    """A function that runs `run` `times` times as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            result = run()

    def replay():
        graph.replay()
        return result
    return replay


def tensor(values):
    """Images (N, H, W, C) -> (N, C, H, W); kernels (kh, kw, C, O) -> (O, C, kh, kw); anything else keeps its shape."""
    if values.ndim != 4:
        return torch.from_numpy(values.copy()).to(_device)
    kernel = values.shape[0] == values.shape[1]
    moved = torch.from_numpy(values.transpose((3, 2, 0, 1) if kernel else (0, 3, 1, 2)).copy())
    return moved.to(_device).contiguous(memory_format=_layout)


def array(tensor):
    """(N, C, H, W) -> (N, H, W, C), on the same device."""
    return tensor.detach().permute(0, 2, 3, 1)


def operation(function, arrays, cotangent, channels=None):
    """A function that runs `function` on tensors and returns y; with a cotangent, it also computes gradients and returns that of x.

    channels: the order of x's channels that torch needs, if not ours.  The gradient is returned in ours.
    """
    x, *others = arrays
    tensors = [tensor(a).requires_grad_(cotangent is not None) for a in (x if channels is None else x[..., channels], *others)]
    seed = None if cotangent is None else tensor(cotangent)

    def run():
        y = function(F, *tensors)
        if seed is None:
            return array(y)
        dx = array(torch.autograd.grad(y, tensors, seed)[0])
        # reordered by `rows.plain`, outside the timed run
        return dx if channels is None else SimpleNamespace(cpu=lambda: dx.cpu().numpy()[..., np.argsort(channels)])
    return run


def adam_step(ours):
    """A step of torch.optim.Adam on the equivalent of our network, with all gradients 1."""
    module = network(ours)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    return torch.optim.Adam(module.parameters(), 1e-4, **_adam).step


def inference(ours, lr):
    """A function that runs the equivalent of our generator on images (N, h, w, 3), in inference mode."""
    module, image = network(ours), tensor(lr)

    def run():
        with torch.inference_mode():
            return array(module(image))
    return run


class Residual(nn.Module):
    """The equivalent of layers.Residual: the output of its inner layers for x, plus x."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + x


def module_of(layer):
    """The torch module equivalent to one of our layers, with the same weights."""
    kind = type(layer)
    if kind is layers.Residual:
        return Residual(nn.Sequential(*map(module_of, layer.steps)))
    if kind is layers.Sequential:
        return nn.Sequential(*map(module_of, layer.steps))
    if kind is layers.Conv2d:
        k, _, inputs, outputs = layer.weight.shape
        module = nn.Conv2d(inputs, outputs, k, layer.stride, k // 2)
        return _fill(module, weight=layer.weight.array.transpose(3, 2, 0, 1), bias=layer.bias.array)
    if kind is layers.Linear:
        return _fill(nn.Linear(*layer.weight.shape), weight=layer.weight.array.T, bias=layer.bias.array)
    if kind is layers.BatchNorm:
        module = nn.BatchNorm2d(len(layer.gamma.array)).train(layer.training)
        return _fill(module, weight=layer.gamma.array, bias=layer.beta.array, running_mean=layer.running_mean,
                     running_var=layer.running_var)
    if kind is layers.PReLU:
        return _fill(nn.PReLU(len(layer.slope.array)), weight=layer.slope.array)
    return {layers.LeakyReLU: lambda: nn.LeakyReLU(layer.slope), layers.PixelShuffle: lambda: nn.PixelShuffle(layer.r),
            layers.Flatten: nn.Flatten}[kind]()


def _fill(module, **arrays):
    with torch.no_grad():
        for name, values in arrays.items():
            getattr(module, name).copy_(torch.from_numpy(values.copy()))
    return module


class SRResNet(nn.Module):
    """The equivalent of models.SRResNet.  The convolutions before pixel shuffles are reordered, as PyTorch orders their channels."""

    def __init__(self, ours):
        super().__init__()
        self.head, self.body, self.upsampling, self.tail = map(module_of, (ours.head, ours.body, ours.upsampling, ours.tail))
        for conv, _, _ in self.upsampling:
            with torch.no_grad():
                for parameter in conv.parameters():     # our channel (i*r + j)*C + c is their c*r*r + i*r + j
                    parameter.copy_(parameter.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1).clone())

    def forward(self, lr):
        features = self.head(lr)
        return self.tail(self.upsampling(self.body(features) + features))


def network(ours):
    """The equivalent of one of our networks."""
    if isinstance(ours, Discriminator):
        module = nn.Sequential(module_of(ours.features), module_of(ours.classifier))
        side = ours.settings["image_size"] // 16
        with torch.no_grad():           # the first linear layer gets the features (H, W, C) in PyTorch's order, (C, H, W)
            weight = module[1][1].weight
            weight.copy_(weight.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2).flatten(1))
    elif isinstance(ours, VGG19):
        steps = []
        for name in LAYERS[:LAYERS.index(ours.settings["layer"]) + 1]:
            steps += [nn.MaxPool2d(2)] * (name.endswith("_1") and name != "conv1_1")
            steps += [module_of(getattr(ours, name)), nn.ReLU(inplace=True)]
        module = nn.Sequential(*steps).requires_grad_(False)
    else:
        module = SRResNet(ours)
    return module.to(_device, memory_format=_layout)


class Trainer:
    """The equivalent of trainer.Trainer when both generators train together: the same losses, with one Adam per network."""

    def __init__(self, ours):
        self.settings = ours.settings
        self.networks = {name: network(each) for name, each in ours.networks.items()}
        self.adam = {name: torch.optim.Adam(module.parameters(), 1e-4, **_adam) for name, module in self.networks.items()}
        if ours.vgg:
            self.vgg, self.feature_scale = network(ours.vgg), ours.vgg.settings["feature_scale"]

    def srresnet_step(self, lr, hr):
        adam = self.adam["srresnet"]
        adam.zero_grad()
        loss = F.mse_loss(self.networks["srresnet"](lr), hr)
        loss.backward()
        adam.step()
        return {"srresnet_pixel": loss.detach()}

    def srgan_step(self, lr, hr):
        s, generator, discriminator = self.settings, self.networks["srgan"], self.networks["discriminator"]
        with torch.no_grad():
            hr_features = self.vgg(hr) * self.feature_scale
        sr = generator(lr)
        features, classifier = discriminator
        real, fake = classifier(torch.cat([features(hr), features(sr)])).split(len(hr))
        pixel, adversarial = F.mse_loss(sr, hr), F.softplus(-fake).mean()
        perceptual = F.mse_loss(self.vgg(sr) * self.feature_scale, hr_features)
        generator_loss = s.pixel_weight * pixel + s.adversarial_weight * adversarial + s.perceptual_weight * perceptual
        discriminator_loss = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
        for name, loss, keep in (("srgan", generator_loss, True), ("discriminator", discriminator_loss, False)):
            parameters = list(self.networks[name].parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, retain_graph=keep)):
                parameter.grad = gradient
        for name in ("srgan", "discriminator"):
            self.adam[name].step()
        losses = {"pixel": pixel, "adversarial": adversarial, "perceptual": perceptual, "discriminator": discriminator_loss}
        return {name: loss.detach() for name, loss in losses.items()}

    def step(self, lr, hr):
        return self.srresnet_step(lr, hr) | self.srgan_step(lr, hr)
