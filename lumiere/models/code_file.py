"""The Python file beside a saved network by which diffusers' loaders find its class."""

from __future__ import annotations

from pathlib import Path

NETWORK_CLASS = "SpaceTimeUNet"
NETWORK_MODULE = "stunet"  # the last part of the class's module, as in a config's auto_map


def code_of(module: str, name: str) -> str:
    """Return the content of a file that passes on an installed class.

    diffusers would advise to install the package `lumiere` if the import failed outside `try`; on
    PyPI that name belongs to another project.
    """
    return (
        "try:\n"
        f"    import {module}\n"
        "except ImportError as error:\n"
        '    message = "this model needs lumiere-stunet; install it from its repository"\n'
        "    raise ImportError(message) from error\n\n"
        f"{name} = {module}.{name}\n"
    )


def write_network_code(folder: Path, module: str = NETWORK_MODULE) -> None:
    """Write the file of a network's folder, named after `module`."""
    code = code_of("lumiere.models", NETWORK_CLASS)
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
