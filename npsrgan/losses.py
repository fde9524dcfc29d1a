"""The losses of SRResNet and SRGAN (Ledig et al. 2017), as scalar tensors.  Logits are (N, 1); D(x) = sigmoid(logit)."""
from npsrgan.ops import absolute, mean, scale, softplus, square
from npsrgan.ops.operation import composite


@composite
def mean_squared_error(a, b):
    """Mean of (a - b)^2 over all entries of two arrays of the same shape: the pixel loss of images (eq. 4), the perceptual
    loss of VGG19 features (eq. 5)."""
    return mean(square(a - b))


def mean_absolute_error(a, b):
    """Mean of |a - b| over all entries of two arrays of the same shape: the pixel loss of Lim et al. 2017 (EDSR), section 3.2.

    The squared error is dominated by the few pixels that are far off.  This one counts all pixels alike.
    """
    return mean(absolute(a - b))


PIXEL_LOSSES = {"squared": mean_squared_error, "absolute": mean_absolute_error}


def weighted_absolute_error(a, b, weights):
    """The sum over layers of weight * mean |a - b|: the perceptual loss on several layers of VGG19.

    a, b: lists of features from `VGG19.before_relu`, one entry per layer.  weights: numbers, one per layer.
    Raises ValueError if the lists differ in length.
    Wang et al. 2018 (ESRGAN), section 3.3, use one layer; Wang et al. 2021 (Real-ESRGAN), section 3.3, use five.
    """
    return sum(scale(mean_absolute_error(x, y), weight) for x, y, weight in zip(a, b, weights, strict=True))


def generator_adversarial(fake_logits):
    """Mean of -log D(sr): the adversarial loss of the generator (eq. 6).

    Non-saturating (Goodfellow et al. 2014, section 3).  -log sigmoid(z) = softplus(-z) is computed without overflow at any z.
    """
    return mean(softplus(-fake_logits))


def discriminator_adversarial(real_logits, fake_logits):
    """The mean of -log D(hr) and -log(1 - D(sr)): the loss of the discriminator (eq. 2)."""
    return scale(mean(softplus(-real_logits)) + mean(softplus(fake_logits)), 0.5)
