"""The command that trains:  python -m npsrgan.train

    __main__.py    the command: the run, its images, the training loop, and the results
    settings.py    everything that determines what a run computes; the presets; the command line
    folder.py      the folder of a run
    checkpoint.py  saving a run, and resuming it
    report.py      the log, the sample pictures and the final comparison
"""
