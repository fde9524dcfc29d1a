"""The benchmark:  python -m npsrgan.bench

    __main__.py   the command, and how it measures on a CPU
    gpu.py        how it measures on a GPU
    rows.py       what is measured
    pytorch.py    PyTorch equivalents of our networks and training step
    methods.py    times every convolution method
"""
