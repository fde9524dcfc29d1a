"""The command that converts weights:  python -m npsrgan.convert

    __main__.py      the command
    formats.py       recognises the kind of file and reads it
    pickles.py       interprets a pickle without calling anything that it names
    pytorch.py, paddle.py, safetensors.py, keras.py, onnx.py    the formats
    networks.py      turns a file's contents into a network, and a network into PyTorch's layout
    structure.py     finds the parts of a network in a state dict
    readings.py      determines by trial what a state dict does not say, and assembles the generator
"""
