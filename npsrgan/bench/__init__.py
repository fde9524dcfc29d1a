"""The benchmark:  python -m npsrgan.bench

    __main__.py   the command
    driver.py     how it measures: sides, processes, comparisons
    cpu.py        the sides on a CPU, and what is measured there
    gpu.py        the sides on a GPU, and what is measured there
    rows.py       training steps, inference and operations to measure
    pytorch.py    PyTorch equivalents of our networks and training step
    methods.py    times every convolution method
    profile.py    times every operation of a training step
    loader.py     times the preparation of training patches
"""
