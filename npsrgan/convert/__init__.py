"""The command that converts weights:  python -m npsrgan.convert

    __main__.py      the command
    formats.py       tells the kinds of files apart and reads them
    pickles.py       follows a pickle's instructions without running anything
    pytorch.py, paddle.py, safetensors.py, keras.py, onnx.py    the formats
    networks.py      from a file's contents to a network, and from a network to PyTorch's layout
    structure.py     finds the parts of a network in a state dict
    readings.py      finds by trying what a state dict does not say, and assembles the generator
"""
