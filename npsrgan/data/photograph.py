"""A photograph that is always available, for viewing and evaluation, never for training."""
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
        from matplotlib.cbook import get_sample_data  # slow to import, and only needed here

        return images.read(get_sample_data(self.name(index), asfileobj=False))
