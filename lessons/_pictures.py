"""The small pictures of lessons/README.md:  python lessons/_pictures.py, after the lessons have run.

One for each lesson, from lessons/output/, as lessons/.pictures/NN.jpg of less than 60 kilobytes.
"""
import io

from _lesson import FOLDER, OUTPUT
from PIL import Image

CHOSEN = (
    "00_side_by_side",
    "01_bright_spots",
    "02_checks",
    "03_tape",
    "04_curve",
    "05_filters",
    "06_roofline",
    "07_winograd",
    "08_modes",
    "09_what_g_is_told",
    "10_mesh",
    "11_adam",
    "12_by_heart",
    "13_bisection",
    "14_three_networks",
    "15_what_they_draw",
    "16_mode_collapse",
    "17_srgan",
    "18_antialiasing",
    "19_leak",
    "20_networks",
    "21_one_face",
    "22_downscaling",
    "23_gpu",
    "24_trade",
    "25_mesh",
    "26_two_plates",
    "27_rrdb",
)
WITH_VGG19 = "15_what_they_draw_vgg19"       # drawn by VGG19=vgg19.h5 python lessons/15_what_a_loss_wants.py, and shown in that lesson
WIDTH, LARGEST = 800, 60_000


def shrink(path):
    """The picture at most 800 pixels wide, as JPEG in the best quality that stays below 60 kilobytes: bytes."""
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    for quality in (90, 80, 70, 60, 50, 40):
        memory = io.BytesIO()
        picture.save(memory, "JPEG", quality=quality, optimize=True)
        if memory.tell() < LARGEST:
            break
    return memory.getvalue()


def main():
    """Write them all; say which lesson has not run yet."""
    (FOLDER / ".pictures").mkdir(exist_ok=True)
    if (OUTPUT / f"{WITH_VGG19}.png").exists():
        (FOLDER / ".pictures" / f"{WITH_VGG19[:2]}_vgg19.jpg").write_bytes(shrink(OUTPUT / f"{WITH_VGG19}.png"))
    if (OUTPUT / "srgan_in_one_file.png").exists():
        (FOLDER / ".pictures" / "one_file.jpg").write_bytes(shrink(OUTPUT / "srgan_in_one_file.png"))
    for name in CHOSEN:
        if (OUTPUT / f"{name}.png").exists():
            (FOLDER / ".pictures" / f"{name[:2]}.jpg").write_bytes(shrink(OUTPUT / f"{name}.png"))
        else:
            print(f"lesson {name[:2]} has not drawn {name}.png yet")


if __name__ == "__main__":
    main()
