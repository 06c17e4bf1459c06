"""Finds the cache of the DVC project that a folder belongs to, without DVC.

With `cache.type symlink`, DVC puts links into its cache in place of the files that it tracks.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from lumiere.errors import DataError

# Where DVC 3 and DVC 2 store a file by its hash, within the cache.
STORED = re.compile(r"(files/md5/)?[0-9a-f]{2}/[0-9a-f]{30}")
CONFIG_FILES = ("config", "config.local")  # the later one counts


def is_in_cache(real: Path, folder: Path) -> bool:
    """Return whether a real path is a file that the DVC project of a folder keeps in its cache.

    Raises:
        DataError: if the project's settings cannot be read.
    """
    cache = cache_folder(folder)
    if cache is None or not real.is_relative_to(cache):
        return False
    return STORED.fullmatch(real.relative_to(cache).as_posix()) is not None


def cache_folder(folder: Path) -> Path | None:
    """Return the real path of the project's cache; None if no folder above belongs to a project.

    Only the project's own settings count (`.dvc/config` and `.dvc/config.local`), not those of the
    user or the machine.

    Raises:
        DataError: if they cannot be read.
    """
    real = folder.resolve()
    for project in (real, *real.parents):
        settings = project / ".dvc"
        if settings.is_dir():
            return (settings / _cache_setting(settings)).resolve()
    return None


def _cache_setting(settings: Path) -> Path:
    """Return `cache.dir`, which may be relative to the folder of the settings."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read([settings / name for name in CONFIG_FILES], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{settings}/config: not valid settings of DVC: {error}") from None
    named = parser.get("cache", "dir", fallback="cache").strip().strip("'\"")
    return Path(named).expanduser()
