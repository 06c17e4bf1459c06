"""Stage `blend_style`: W = alpha W_style + (1 - alpha) W_orig on the spatial weights."""

from __future__ import annotations

import math
import shutil

from safetensors.torch import save_file

import stages
from lumiere import tracking
from lumiere.config import load_params, to_dict
from lumiere.errors import DataError
from lumiere.models.text_to_image import TextToImage
from lumiere.style import blend_file, blend_style
from lumiere.tensor_files import read_tensors


def main() -> None:
    """Parse, blend, write `<style>/<alpha>.safetensors`."""
    arguments = stages.parse_arguments(
        __doc__,
        t2i="the text-to-image model",
        style="folder with a style's weights",
        out="folder for the blended weights",
    )
    config = load_params(arguments.params).blend_style
    with tracking.stage_run("blend_style", to_dict(config)) as run:
        with stages.reading(arguments.t2i):
            orig = TextToImage.load(arguments.t2i).unet.state_dict()
        styles = {}
        for path in sorted(arguments.style.glob("*.safetensors")):
            with stages.reading(path):
                styles[path] = read_tensors(path)
                # Raise if the two do not fit, before anything is replaced.
                blend_style(orig, styles[path], 0.0)
        if not styles:
            raise DataError(f"{arguments.style}: has no style; expected <style>.safetensors")
        shutil.rmtree(arguments.out, ignore_errors=True)
        arguments.out.mkdir(parents=True)
        for path, style in styles.items():
            for alpha in config.alphas:
                blended = blend_style(orig, style, alpha)
                distance = math.sqrt(sum(float(((blended[k] - orig[k]) ** 2).sum()) for k in orig))
                target = arguments.out / blend_file(path.stem, alpha)
                target.parent.mkdir(exist_ok=True)
                save_file(blended, target)
                run.log_metrics({f"weight_distance_{path.stem}-{alpha:g}": distance})
                print(f"{path.stem} at alpha {alpha:g}: {distance:.3f} away from the original")


if __name__ == "__main__":
    stages.run(main)
