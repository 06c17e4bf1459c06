"""Shows pictures as a viewer shows them, for every reader of pictures."""

from __future__ import annotations

import io
import struct

from PIL import Image, ImageCms, ImageOps

# More than 8 bits a pixel: Pillow's own conversion to 8 bits cuts off all above 255.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def as_shown(picture: Image.Image) -> Image.Image:
    """Turn a picture upright, and convert its colours to sRGB: RGB, or RGBA if it has transparency.

    Args:
        picture: of at most 8 bits per channel, see `cannot_be_shown`.
    """
    turned = upright(picture)
    has_alpha = turned.has_transparency_data
    profile = picture.info.get("icc_profile")
    alpha = turned.convert("RGBA").getchannel("A") if has_alpha else None
    if turned.mode not in ("RGB", "L", "CMYK"):
        turned = turned.convert("RGB")
    shown = _to_srgb(turned, profile) if profile else turned.convert("RGB")
    if alpha is not None:
        shown.putalpha(alpha)
    return shown


def cannot_be_shown(picture: Image.Image) -> str:
    """Return why a picture has no single right appearance, and what to do; empty if it has one."""
    if not is_still(picture):
        return "an animated picture; give one frame of it as a picture"
    if picture.mode in DEEP_MODES:
        return f"more than 8 bits a pixel ({picture.mode}); save it as an 8-bit PNG or a JPEG"
    return ""


def is_still(picture: Image.Image) -> bool:
    """Return whether a picture is still. Cameras' JPEGs (MPO) may hold a preview, or the other
    eye's view, after the picture itself.
    """
    return picture.format == "MPO" or getattr(picture, "n_frames", 1) == 1


def upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says; ignore EXIF that cannot be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, struct.error):
        return picture


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Convert from a colour profile to sRGB; a profile that cannot be used is ignored."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return picture.convert("RGB")
        converted = ImageCms.profileToProfile(
            picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture.convert("RGB")
    return picture.convert("RGB") if converted is None else converted
