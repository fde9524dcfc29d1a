"""The three networks of SRGAN."""
from npsrgan.models.discriminator import Discriminator
from npsrgan.models.srresnet import SRResNet
from npsrgan.models.vgg19 import VGG19

__all__ = ["Discriminator", "SRResNet", "VGG19"]
