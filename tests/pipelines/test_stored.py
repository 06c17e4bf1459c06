"""A pipeline's folder is what was saved last, and a pipeline made from another has its styles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere.pipelines import LumierePipeline
from tests.pipelines.test_files_and_styles import files_of, style_weights
from tests.pipelines.test_modes import STEPS, seed


def test_saving_over_a_folder_leaves_nothing_of_the_earlier_pipeline(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    pipe.add_style("ink", style_weights(pipe))
    pipe.add_style("ink", style_weights(pipe), alpha=0.5)
    pipe.save_pretrained(tmp_path)
    plain = LumierePipeline(pipe.unet, pipe.scheduler)
    plain.add_style("oil", style_weights(pipe))
    (tmp_path / "text_encoder" / "notes.txt").write_text("the user's own")
    plain.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path)
    assert (
        list(loaded.styles) == ["oil"] and loaded.text_encoder is None and loaded.ssr_unet is None
    )
    assert [file for file in files_of(tmp_path) if "ink" in file] == []
    assert (tmp_path / "text_encoder" / "notes.txt").is_file()


def test_styles_that_lie_in_the_folder_itself_are_read_before_they_are_replaced(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    old, new = style_weights(pipe), {name: 2 * value for name, value in style_weights(pipe).items()}
    pipe.add_style("ink", old)
    pipe.save_pretrained(tmp_path / "pipe")
    save_file(new, tmp_path / "new.safetensors")
    loaded = LumierePipeline.from_pretrained(tmp_path / "pipe")
    before = files_of(tmp_path / "pipe")
    loaded.save_pretrained(tmp_path / "pipe")  # onto itself
    assert files_of(tmp_path / "pipe") == before
    loaded.add_style("ink", tmp_path / "new.safetensors")
    loaded.add_style("oil", tmp_path / "pipe" / "styles" / "ink" / "1.0.safetensors")
    loaded.save_pretrained(tmp_path / "pipe")
    other = LumierePipeline(pipe.unet, pipe.scheduler)
    for name in ("oil", "ink"):  # exchanged
        path = tmp_path / "pipe" / "styles" / {"oil": "ink", "ink": "oil"}[name] / "1.0.safetensors"
        assert torch.equal(
            load_file(path)["conv_in.weight"], (new if name == "oil" else old)["conv_in.weight"]
        )
        other.add_style(name, path)
    other.save_pretrained(tmp_path / "pipe")
    for each in (other, LumierePipeline.from_pretrained(tmp_path / "pipe")):
        for name, weights in (("oil", new), ("ink", old)):
            with each.styles.applied(each.unet, name, 1.0):
                assert torch.equal(each.unet.unet.conv_in.weight, weights["conv_in.weight"])
    kept = [file for file in files_of(tmp_path / "pipe") if file.startswith("styles")]
    assert kept == ["styles/ink/1.0.safetensors", "styles/oil/1.0.safetensors"]


def test_a_pipeline_made_from_another_has_its_styles(pipe: LumierePipeline) -> None:
    pipe.add_style("ink", style_weights(pipe))
    other = LumierePipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    options = {"style": "ink", "alpha": 0.5, **STEPS}
    made = [each("a cat", generator=seed(), **options).frames for each in (pipe, other)]
    assert torch.equal(*made)
    other.add_style("oil", style_weights(pipe))
    other.add_style("ink", style_weights(pipe), alpha=0.5)
    assert list(pipe.styles) == ["ink"] and list(pipe.styles._styles["ink"]) == [1.0]


def test_weights_are_never_pickled(pipe: LumierePipeline, tmp_path: Path) -> None:
    for each in (pipe, pipe.upscaler()):
        with pytest.raises(ValueError, match=r"^safe_serialization is False; "):
            each.save_pretrained(tmp_path, safe_serialization=False)
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_pipeline_is_loaded_in_another_precision(
    pipe: LumierePipeline, name: str, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path, **{name: torch.bfloat16})
    assert loaded.unet.dtype == loaded.ssr_unet.dtype == torch.bfloat16
