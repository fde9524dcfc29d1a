"""The command that measures networks:  python -m npsrgan.evaluate

    __main__.py   the command: images, methods, measurements
    report.py     means and intervals, tables, JSON and CSV, the figure of crops and the curve
    lpips.py      LPIPS, a distance between images in the features of AlexNet
"""
