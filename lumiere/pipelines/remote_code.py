"""The small Python files in a saved pipeline's folder by which diffusers' own loaders find our
classes: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

The files import this package, so loading still needs it. `LumierePipeline.from_pretrained` never
runs them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin

from lumiere.files import read_json
from lumiere.models import SpaceTimeUNet
from lumiere.models.code_file import NETWORK_CLASS, code_of, write_network_code

PIPELINE_MODULE = "pipeline"  # diffusers looks for pipeline.py
PACKAGE = "lumiere"
# diffusers looks for a component's base class in the module that an index names; this module can be
# named too, and no folder has a file of its name.
__all__ = [
    "ModelMixin",
    "SpaceTimeUNet",
    "class_name",
    "use_installed_classes",
    "write_remote_code",
]


def write_remote_code(folder: Path, pipeline_class: type[DiffusionPipeline]) -> None:
    """Write the files, and name them in the folder's index as diffusers' loaders want it.

    A class from outside this package is left as it is: its own file belongs in its place.
    """
    if pipeline_class.__module__.partition(".")[0] != PACKAGE:
        return
    path = folder / pipeline_class.config_name
    index = read_json(path)
    index["_class_name"] = [PIPELINE_MODULE, pipeline_class.__name__]
    code = code_of("lumiere.pipelines", pipeline_class.__name__)
    (folder / f"{PIPELINE_MODULE}.py").write_text(code, encoding="utf-8")
    for name, component in index.items():
        # from_pipe notes components that it did not take, with an underscore.
        if component == [SpaceTimeUNet.__module__, NETWORK_CLASS] and not name.startswith("_"):
            # diffusers looks for a component's file by the module's whole name.
            write_network_code(folder / name, SpaceTimeUNet.__module__)
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def use_installed_classes(index: dict[str, Any]) -> None:
    """Change an index in place, so that it names the installed classes instead of files."""
    kind = index.get("_class_name")
    if isinstance(kind, list) and kind[:1] == [PIPELINE_MODULE]:
        index["_class_name"] = kind[-1]
    for name, component in index.items():
        if component == [SpaceTimeUNet.__module__, NETWORK_CLASS]:
            index[name] = [__name__, NETWORK_CLASS]


def class_name(index: dict[str, Any]) -> str:
    """Return the name of the class of a saved pipeline."""
    kind = index.get("_class_name")
    return str(kind[-1] if isinstance(kind, list) and kind else kind)
