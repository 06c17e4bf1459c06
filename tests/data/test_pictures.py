"""The command line's pictures and the pictures of styles are shown alike, or refused alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lumiere.data.captioned_pictures import load_captioned_folder
from lumiere.data.pictures import as_shown
from lumiere.errors import DataError
from lumiere.pipelines.input_files import read_picture


def as_style(path: Path, size: int) -> np.ndarray:
    """Read a picture as one of a style, uint8 (size, size, 3)."""
    (path.parent / "captions.csv").write_text(f"image,caption\n{path.name},a\n")
    return load_captioned_folder(path.parent, size)[0][0]


def quarters() -> Image.Image:
    """8x8 pixels whose quarters have four colours."""
    colours = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [200, 200, 30]]], np.uint8)
    return Image.fromarray(colours.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_readers_turn_a_picture_alike(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quarters().save(tmp_path / "a.png", exif=exif)
    picture = np.asarray(read_picture("image", tmp_path / "a.png"))
    assert np.array_equal(as_style(tmp_path / "a.png", 8), picture)


def test_both_readers_convert_a_colour_profile(tmp_path):
    # Lab is a profile at hand whose numbers mean other colours than in sRGB.
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    picture = Image.new("RGB", (8, 8), (120, 200, 90))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    assert as_shown(_with_profile(picture, srgb)).getpixel((0, 0)) == (120, 200, 90)
    assert as_shown(_with_profile(picture, lab)).getpixel((0, 0)) == (120, 200, 90), "not of RGB"
    path = tmp_path / "a.png"
    picture.save(path, icc_profile=_swapped_primaries())
    shown = np.asarray(read_picture("image", path))
    assert np.abs(shown[0, 0].astype(int) - (200, 120, 90)).max() <= 3, (
        "red and green change places"
    )
    assert np.array_equal(as_style(path, 8), shown)


def test_styles_refuse_what_the_command_line_refuses(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    for name, problem in (("deep.png", "more than 8 bits"), ("moving.gif", "an animated picture")):
        with pytest.raises(ValueError, match=f"{name}: {problem}"):
            read_picture("image", tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: {problem}"):
            as_style(tmp_path / name, 8)


def test_a_huge_picture_is_refused_by_both(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a\.png"):
        read_picture("image", tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: not a readable picture"):
        as_style(tmp_path / "a.png", 8)


def _with_profile(picture: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    picture = picture.copy()
    picture.info["icc_profile"] = profile.tobytes()
    return picture


def _swapped_primaries() -> bytes:
    """The profile of sRGB with the red and the green primary exchanged, and without its name."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = content.index(b"rXYZ"), content.index(b"gXYZ")
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content).replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
