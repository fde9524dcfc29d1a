"""The command that enlarges images:  python -m npsrgan.upscale

    __main__.py   the command
    enlarge.py    enlarging one picture with a generator; npsrgan.super_resolve calls it, too
    picture.py    image files with all that they hold: grey levels, transparency, colour profile, EXIF data
"""
