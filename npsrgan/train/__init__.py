"""The command that trains:  python -m npsrgan.train

    __main__.py   the command: where the run lives, what it trains on, the loop, and what it leaves
    settings.py   everything that decides what a run computes; the presets; the command line
    checkpoint.py  saving a run, and going on from there
    report.py     the log, the sample pictures and the final comparison
"""
