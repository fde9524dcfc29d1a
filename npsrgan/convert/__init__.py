"""The command that converts weights:  python -m npsrgan.convert

    __main__.py      the command
    formats.py       tells the kinds of files apart and reads them
    pickles.py       unpickles tensors and plain containers, and refuses everything else
    pytorch.py, paddle.py, safetensors.py    the formats
    networks.py      matches arrays with the layers of a network
    ranges.py        finds out which pixel ranges a generator takes and returns
"""
