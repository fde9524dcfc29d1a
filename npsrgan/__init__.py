"""npsrgan: SRGAN (Ledig et al. 2017, arXiv 1609.04802) written by hand on NumPy and CuPy."""
import npsrgan.fast  # noqa: F401  (the fast twins, active by default)
