"""A photograph that is always available, for viewing and evaluation, never for training."""
from pathlib import Path

from npsrgan import images


class Photograph:
    """A source of one image: the portrait of Grace Hopper that comes with Matplotlib (600 x 512, public domain)."""

    def __len__(self):
        return 1

    def contents(self):
        """A short description of the image."""
        return "the photograph of Grace Hopper"

    def name(self, index):
        """Its file name."""
        return "grace_hopper.jpg"

    def load(self, index):
        """uint8 (600, 512, 3).  Raises images.ImageError if Matplotlib was installed without its sample data."""
        from matplotlib import get_data_path  # slow to import; threads may import the package at once, but no module in it

        return images.read(Path(get_data_path(), "sample_data", self.name(index)))
