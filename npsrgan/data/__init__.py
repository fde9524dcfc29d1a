"""Training and validation data: sources of images, their degradation, and batches prepared ahead of time.

A source of images has `len`, `.name(i)` and `.load(i)`, which returns uint8 (H, W, 3) or raises images.ImageError.

    sources.py                      opening a folder, an archive or a pack; validation images
    folder.py archive.py pack.py    images in a folder, in a zip archive, or decoded in one file (python -m npsrgan.data pack)
    photograph.py dead_leaves.py    images that are always available
    degrade.py bicubic.py           from high to low resolution
    batches.py feed.py              batches of patches, and their way to the training step
"""
from npsrgan.data.batches import Batches, validation_pairs
from npsrgan.data.dead_leaves import DeadLeaves
from npsrgan.data.degrade import downscale, patch_pair, upscale
from npsrgan.data.folder import ImageFolder
from npsrgan.data.photograph import Photograph
from npsrgan.data.sources import by_partition, open_images, split

__all__ = ["Batches", "DeadLeaves", "ImageFolder", "Photograph", "by_partition", "downscale", "open_images", "patch_pair", "split",
           "upscale", "validation_pairs"]
