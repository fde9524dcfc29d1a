"""Training and validation data: sources of images, their degradation, and batches prepared ahead of time.

A source of images has `len`, `.name(i)` and `.load(i)`, which returns uint8 (H, W, 3) or raises images.ImageError.
"""
from npsrgan.data.batches import Batches, validation_pairs
from npsrgan.data.dead_leaves import DeadLeaves
from npsrgan.data.degrade import downscale, patch_pair, upscale
from npsrgan.data.folder import ImageFolder, split
from npsrgan.data.photograph import Photograph

__all__ = ["Batches", "DeadLeaves", "ImageFolder", "Photograph", "downscale", "patch_pair", "split", "upscale", "validation_pairs"]
