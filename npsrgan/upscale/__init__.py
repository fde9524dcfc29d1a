"""The command that enlarges images:  python -m npsrgan.upscale

    __main__.py   the command
    enlarge.py    one picture through a generator: also what npsrgan.super_resolve calls
    picture.py    image files with everything that belongs to them: grey levels, transparency, colour profile, EXIF data
"""
