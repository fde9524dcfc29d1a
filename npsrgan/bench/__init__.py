"""The benchmark:  python -m npsrgan.bench

    __main__.py   the command, and how it measures on a CPU
    gpu.py        how it measures on a GPU
    rows.py       what is measured
    pytorch.py    the same in PyTorch
    methods.py    every way to convolve, timed
"""
