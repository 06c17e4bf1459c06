"""The folder of a pipeline: as diffusers saves and loads it, plus the text encoder and the styles."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from diffusers import DiffusionPipeline

from lumiere.hub_folders import find_folder
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines.argument_checks import check_text_encoder
from lumiere.pipelines.base import LumiereBasePipeline
from lumiere.pipelines.pipeline_ssr import LumiereUpscalePipeline
from lumiere.pipelines.remote_code import class_name
from lumiere.pipelines.styles import FOLDER as STYLES_FOLDER
from lumiere.pipelines.styles import StyleBook
from lumiere.text import DiffusersTextEncoder, TextEncoder, load_text_encoder
from lumiere.text_config import CONFIG_NAME

TEXT_ENCODER_FOLDER = "text_encoder"

# Whether a pipeline that learns its folder loads text encoder and styles from there.
_LOADS_EXTRAS = ContextVar("_LOADS_EXTRAS", default=True)


@contextmanager
def loading_extras(wanted: bool) -> Iterator[None]:
    """Say whether pipelines that learn their folder load text encoder and styles from there."""
    token = _LOADS_EXTRAS.set(wanted)
    try:
        yield
    finally:
        _LOADS_EXTRAS.reset(token)


class LumiereFolders(LumiereBasePipeline):
    """Saves and loads a pipeline with its text encoder and its styles."""

    styles: StyleBook

    def _save_parts(self, folder: Path, **options: Any) -> None:
        """Write the folder as diffusers does, with extra folders for the text encoder's config and
        the styles.
        """
        text_encoder = self.text_encoder
        # diffusers saves and loads only the kinds of component that it knows; our text encoder is
        # not among them. This pipeline keeps it, because other threads may use it now.
        plain = copy.copy(self)
        plain.register_modules(text_encoder=None)
        super(LumiereFolders, plain)._save_parts(folder, **options)
        if text_encoder is None:  # remove an earlier pipeline's
            for name in (CONFIG_NAME, "config.json"):
                (folder / TEXT_ENCODER_FOLDER / name).unlink(missing_ok=True)
        else:
            text_encoder.save_pretrained(folder / TEXT_ENCODER_FOLDER)
        self.styles.save(folder / STYLES_FOLDER)

    @classmethod
    def _check_index(cls, folder: Path, index: dict[str, Any]) -> None:
        _check_own_folder(folder, index, cls)

    @classmethod
    def _load(cls, folder: Path, **kwargs: Any) -> Self:
        if "text_encoder" not in kwargs:
            kwargs["text_encoder"] = _stored_text_encoder(folder)
        text_encoder = kwargs.pop("text_encoder")
        if text_encoder is not None:
            check_text_encoder(text_encoder)
        with loading_extras(False):
            # diffusers would refuse a text encoder of ours in the place of one of transformers.
            pipe = super()._load(folder, text_encoder=None, **kwargs)
        pipe.register_modules(text_encoder=text_encoder)
        pipe.styles.load(folder / STYLES_FOLDER)
        return pipe

    def register_to_config(self, **kwargs: Any) -> None:
        """Add settings to the config, as in diffusers.

        `DiffusionPipeline.from_pretrained` ends with the name of the folder or of the hub's model
        as a setting. It knows neither our text encoders nor styles, so they are loaded then.
        """
        super().register_to_config(**kwargs)
        source = kwargs.get("_name_or_path")
        if not (_LOADS_EXTRAS.get() and source):
            return
        folder = Path(source) if Path(source).is_dir() else self._hub_folder(str(source))
        if self.text_encoder is None:
            self.register_modules(text_encoder=_stored_text_encoder(folder))
        self.styles.load(folder / STYLES_FOLDER)

    def _hub_folder(self, name: str) -> Path:
        """Return the hub's folder that diffusers loaded the base network from, with the text
        encoder and the styles of the same commit.

        Raises:
            ValueError: if the network is not from there.
        """
        loaded_from = getattr(self.unet, "loaded_from", None)
        snapshot = Path(loaded_from).parent if loaded_from else None
        if snapshot is None or snapshot.parents[1].name != f"models--{name.replace('/', '--')}":
            raise ValueError(
                f"{name}: its text encoder and styles cannot be found, because unet is from "
                f"elsewhere; use {type(self).__name__}.from_pretrained, or pass text_encoder"
            )
        patterns = [f"{TEXT_ENCODER_FOLDER}/*", f"{STYLES_FOLDER}/*"]
        places: dict[str, Any] = {"revision": snapshot.name, "cache_dir": snapshot.parents[2]}
        return find_folder(name, "a saved pipeline", patterns, **places)


def _stored_text_encoder(folder: Path) -> TextEncoder | None:
    """Load the text encoder in a pipeline's folder, ours or that of a pipeline of diffusers; None
    if there is none.
    """
    if (folder / TEXT_ENCODER_FOLDER / CONFIG_NAME).is_file():
        return load_text_encoder(folder / TEXT_ENCODER_FOLDER)
    if (folder / TEXT_ENCODER_FOLDER / "config.json").is_file():
        return DiffusersTextEncoder(str(folder))
    return None


def _check_own_folder(folder: Path, index: dict[str, Any], cls: type[DiffusionPipeline]) -> None:
    """Raise ValueError unless the base network of a pipeline's folder is a Space-Time U-Net for
    generation.
    """
    other = LumiereUpscalePipeline.__name__
    if class_name(index) == other:
        raise ValueError(f"{folder}: a {other}; load it with that class")
    component = index.get("unet")
    if isinstance(component, list) and component[-1] == SpaceTimeUNet.__name__:
        return
    what = component[-1] if isinstance(component, list) else "missing"
    raise ValueError(
        f"{folder}: a {class_name(index)}, whose unet is {what}; inflate its U-Net, and pass "
        "that: unet = SpaceTimeUNet.from_unet2d(UNet2DConditionModel.from_pretrained(folder, "
        f"subfolder='unet')); {cls.__name__}.from_pretrained(folder, unet=unet)"
    )
