"""The three networks of SRGAN: a generator, the discriminator and VGG19."""
from npsrgan.models.assembled import Assembled
from npsrgan.models.discriminator import Discriminator
from npsrgan.models.generator import Generator
from npsrgan.models.srresnet import SRResNet
from npsrgan.models.vgg19 import VGG19

GENERATORS = {"SRResNet": SRResNet}     # by class name; to train a new generator, add it here

__all__ = ["GENERATORS", "VGG19", "Assembled", "Discriminator", "Generator", "SRResNet"]
