"""An error in a params file names the file, the key, the value and what is allowed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from lumiere.config import Params, TrainStyleConfig, load_params, to_dict
from lumiere.errors import ParamsError
from lumiere.pipelines.styles import StyleBook
from tests.conftest import REPOSITORY


def load(tmp_path: Path, text: str) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path)


# text of the file -> what the message must hold, besides the file
BAD = {
    "curate: {sead: 1}": ("curate.sead", "unknown key", "seed"),
    "currate: {seed: 1}": ("currate", "unknown key", "curate"),
    "1: {seed: 1}": ("1: unknown key",),
    "curate: {seed: true}": ("curate.seed", "True", "int"),
    "curate: {seed: 1.0}": ("curate.seed", "1.0", "int"),
    "curate: {seed: '1'}": ("curate.seed", "'1'", "int"),
    "curate: {seed: -1}": ("curate.seed", "-1", "at least 0"),
    "curate: {seed: null}": ("curate.seed", "None", "int"),
    "curate: {seed: [1]}": ("curate.seed", "[1]", "int"),
    "curate: {seed: {a: 1}}": ("curate.seed", "{'a': 1}", "int"),
    "curate: {timeout_s: 0}": ("curate.timeout_s", "0", "above 0"),
    "curate: {timeout_s: .nan}": ("curate.timeout_s", "nan", "finite"),
    "curate: {timeout_s: .inf}": ("curate.timeout_s", "inf", "finite"),
    "curate: {timeout_s: yes}": ("curate.timeout_s", "True", "float"),
    "curate: {validation_fraction: 0.6}": ("curate.validation_fraction", "0.6", "at most 0.5"),
    "curate: {max_hash_distance: 65}": (
        "curate.max_hash_distance",
        "65",
        "at least 0",
        "at most 64",
    ),
    "generate: {fps: 8}": ("generate.fps", "8", "decode.fps (16)", "set both"),
    "decode: {fps: 24}": ("generate.fps", "16", "decode.fps (24)", "set both"),
    "decode: {size: 4}": ("decode.size", "4", "at least 8"),
    "decode: {text_encoder: 3}": ("decode.text_encoder", "3", "str"),
    "decode: {max_text_tokens: 2}": ("decode.max_text_tokens", "2", "at least 3"),
    "train_base: {optim: {learning_rate: 1e-3}}": (
        "train_base.optim.learning_rate",
        "'1e-3'",
        "1.0e-3",
    ),
    "train_base: {optim: {learning_rate: -.inf}}": (
        "train_base.optim.learning_rate",
        "-inf",
        "finite",
    ),
    "train_base: {optim: {lr: 0.1}}": ("train_base.optim.lr", "unknown key", "learning_rate"),
    "train_base: {optim: 3}": ("train_base.optim", "3", "a mapping"),
    "train_base: {optim: [1]}": ("train_base.optim", "[1]", "a mapping"),
    "train_base: {optim: {ema_decay: 1.0}}": (
        "train_base.optim.ema_decay",
        "1.0",
        "at most 0.99999",
    ),
    "train_base: {optim: {divergence_factor: 1}}": (
        "train_base.optim.divergence_factor",
        "1.0",
        "above 1",
    ),
    "train_base: {optim: {batch_size: 0}}": ("train_base.optim.batch_size", "0", "at least 1"),
    "train_base: {resampling_init: random}": (
        "train_base.resampling_init",
        "'random'",
        "nearest, he",
    ),
    "train_conditioned: {mask_weights: {loop: 1}}": (
        "train_conditioned.mask_weights.loop",
        "unknown",
        "inpainting",
    ),
    "train_conditioned: {mask_weights: {inpainting_box: -1}}": (
        "train_conditioned.mask_weights",
        "-1",
        "at least 0",
    ),
    "train_conditioned: {mask_weights: {inpainting_box: 0}}": (
        "train_conditioned.mask_weights",
        "sum above 0",
    ),
    "train_conditioned: {mask_weights: {}}": ("train_conditioned.mask_weights", "sum above 0"),
    "train_conditioned: {mask_weights: {inpainting_box: .nan}}": (
        "train_conditioned.mask_weights.inpainting",
        "nan",
        "finite",
    ),
    "train_conditioned: {mask_weights: {inpainting_box: x}}": (
        "train_conditioned.mask_weights.inpainting",
        "'x'",
        "number",
    ),
    "train_conditioned: {mask_weights: [1]}": (
        "train_conditioned.mask_weights",
        "[1]",
        "a mapping",
    ),
    "prepare_t2i: {block_out_channels: 48}": ("prepare_t2i.block_out_channels", "48", "a list"),
    "prepare_t2i: {block_out_channels: [48, 9.5]}": (
        "prepare_t2i.block_out_channels[1]",
        "9.5",
        "int",
    ),
    "prepare_t2i: {block_out_channels: [48, -16]}": (
        "prepare_t2i.block_out_channels",
        "-16",
        "multiple of 16",
    ),
    "train_ssr: {block_out_channels: []}": ("train_ssr.block_out_channels", "[]", "at least one"),
    "blend_style: {alphas: [0.5, 1.5]}": ("blend_style.alphas", "1.5", "0 to 1"),
    "blend_style: {alphas: [0.5, 0.5]}": ("blend_style.alphas", "[0.5, 0.5]", "once"),
    "blend_style: {alphas: []}": ("blend_style.alphas", "[]", "at least one"),
    "train_ssr: {low_size: 128}": ("train_ssr.low_size", "128", "below size (128)"),
    "train_ssr: {low_size: 64}": ("train_ssr.low_size", "64", "prepare_t2i.size (32)"),
    "train_ssr: {crop: 256}": ("train_ssr.crop", "256", "train_ssr.size (128)"),
    "train_ssr: {optim: {text_dropout: 0.1}}": (
        "train_ssr.optim.text_dropout",
        "unknown key",
        "learning_rate",
    ),
    "train_ssr: {image_optim: {text_dropout: 0.1}}": (
        "train_ssr.image_optim.text_dropout",
        "unknown key",
    ),
    "{prepare_t2i: {size: 64}, train_ssr: {low_size: 64, size: 128}, decode: {size: 48}}": (
        "prepare_t2i.size",
        "64",
        "decode.size (48)",
    ),
    "decode: {size: []}": ("decode.size", "a number, [height, width], or a list"),
    "decode: {size: [128, 128, 128]}": ("decode.size", "[height, width]"),
    "decode: {size: [[128, 128], 128]}": ("decode.size", "a list of such pairs"),
    "decode: {size: [[128, 128], [96, 4]]}": ("decode.size", "at least 8"),
    "decode: {size: [[128, 128], [128, 128]]}": ("decode.size", "each pair once"),
    "decode: {size: [128, 1.5]}": ("decode.size[1]", "1.5", "int"),
    "decode: {size: [128, 130]}": ("decode.size", "128 x 130", "whole pixels", "prepare_t2i.size"),
    "decode: {size: [96, 160]}": ("train_ssr.size", "128", "decode.size (96)"),
    "decode: {size: [[128, 128], [32, 256]]}": ("train_ssr.crop", "64", "at most 32", "32 x 256"),
    "decode: {size: 64}": ("train_ssr.size", "128", "decode.size (64)"),
    "train_base: {init_from: a/b, resampling_init: he}": (
        "train_base.resampling_init",
        "'he'",
        "nearest",
        "'a/b'",
    ),
    "train_style: {style: my ink.v2}": (
        "train_style.style",
        "'my ink.v2'",
        "letters, digits, - and _",
    ),
    "train_style: {style: ''}": ("train_style.style", "''", "letters"),
    "generate: {seam_window_size: 16}": (
        "generate.seam_window_size",
        "16",
        "below num_frames (16)",
    ),
    "generate: {window_size: 1, overlap: 0}": ("generate.window_size", "1", "at least 2"),
    "generate: {num_frames: 12}": ("evaluate.num_frames", "16", "generate.num_frames (12)"),
    "{generate: {num_frames: 24}, evaluate: {num_frames: 24}}": (
        "evaluate.num_frames",
        "24",
        "decode.num_frames (16)",
    ),
    "evaluate: {num_videos: 25}": ("evaluate.num_videos", "25", "generate.set_size (24)"),
    "generate: {window_size: 4, overlap: 4}": ("generate.overlap", "4", "0 to window_size - 1 (3)"),
    "generate: {seam_overlap: 4}": ("generate.seam_overlap", "4", "0 to seam_window_size - 1 (3)"),
    "generate: {seam_crop: 33}": ("generate.seam_crop", "33", "prepare_t2i.size (32)"),
    "generate: {seam_videos: 25}": ("generate.seam_videos", "25", "generate.set_size (24)"),
    "generate: {image_set_size: 25}": ("generate.image_set_size", "25", "generate.set_size (24)"),
    "generate: {style_prompts: 25}": ("generate.style_prompts", "25", "generate.set_size (24)"),
    "generate: {guidance_interval: [0.9, 0.2]}": ("generate.guidance_interval", "low <= high"),
    "generate: {noise_correlation: 0.5}": (
        "generate.noise_correlation: 0.5",
        "train_conditioned.noise_correlation (0.0)",
    ),
    "train_ssr: {noise_correlation: 0.5}": (
        "generate.ssr_noise_correlation: 1.0",
        "train_ssr.noise_correlation (0.5)",
    ),
    "generate: {guidance_interval: [0.2]}": ("generate.guidance_interval", "[low, high]"),
    "generate: {guidance_type: apg}": ("generate.guidance_type", "'apg'", "cfg, auto"),
    "generate: {guidance_type: auto}": (
        "generate.guidance_type",
        "'auto'",
        "allowed without guide_unet: cfg",
    ),
    "generate: {guidance_eta: -0.1}": ("generate.guidance_eta", "-0.1", "at least 0, at most 1"),
    "generate: {guidance_threshold: -1}": ("generate.guidance_threshold", "-1.0", "at least 0"),
    "generate: {guidance_momentum: 0.5}": ("generate.guidance_momentum", "0.5", "at most 0"),
    "generate: {long_noise: shuffled}": (
        "generate.long_noise",
        "'shuffled'",
        "independent, rescheduled",
    ),
    "generate: {guidance_rescale: 2}": ("generate.guidance_rescale", "2.0", "at most 1"),
    "registry: {name: it's}": ("registry.name", "it's", "without slashes, colons, quotation marks"),
    "registry: {name: 'a\"b'}": ("registry.name", "quotation marks"),
    "registry: {name: a/b}": ("registry.name", "'a/b'", "slashes"),
    "curate:": ("curate", "None", "a mapping of seed"),
    "": ("the file", "None", "a mapping of curate"),
    "- 1": ("the file", "[1]", "a mapping"),
    "curate: {seed: 1": ("not valid YAML",),
    "curate: {seed: 1, seed: 2}": ("seed", "given 2 times", "once"),
    "curate: {seed: 1}\ncurate: {workers: 1}": ("curate", "given 2 times"),
    "curate: !!python/object/apply:os.getcwd []": ("not valid YAML",),
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'params.yaml'}: ") and "\n" not in message
    for words in BAD[text]:
        assert words in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"nowhere\.yaml: no such file"):
        load_params(tmp_path / "nowhere.yaml")
    with pytest.raises(ParamsError, match="cannot be read"):
        load_params(tmp_path)
    (tmp_path / "params.yaml").write_bytes(b"curate: \xff")
    with pytest.raises(ParamsError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def missing_keys(config: Any, raw: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Return the full names of the keys that a params file leaves to a default."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name not in raw:
            yield prefix + item.name
        elif dataclasses.is_dataclass(value):
            yield from missing_keys(value, raw[item.name], f"{prefix}{item.name}.")


def test_params_yaml_has_every_key() -> None:
    """DVC does not see defaults in the code, so the project's own params file sets every key."""

    path = REPOSITORY / "params.yaml"
    assert (
        list(missing_keys(load_params(path), yaml.safe_load(path.read_text(encoding="utf-8"))))
        == []
    )


def test_defaults_are_themselves_allowed_and_come_back(tmp_path: Path) -> None:
    text = yaml.safe_dump(to_dict(Params()))
    assert load(tmp_path, text) == Params()


def test_to_dict_is_plain_data() -> None:
    plain = to_dict(Params())
    assert json.loads(json.dumps(plain)) == plain
    assert isinstance(plain["prepare_t2i"]["block_out_channels"], list)
    assert plain["curate"].keys() == {item.name for item in dataclasses.fields(Params().curate)}


def test_values_are_taken_and_the_rest_has_its_default(tmp_path: Path) -> None:
    params = load(
        tmp_path, "train_ssr: {block_out_channels: [16, 32], optim: {learning_rate: 1, steps: 0}}"
    )
    assert params.train_ssr.block_out_channels == (16, 32)
    assert params.train_ssr.optim.learning_rate == 1.0 and isinstance(
        params.train_ssr.optim.learning_rate, float
    )
    assert params.train_ssr.optim.steps == 0
    assert params.train_ssr.optim.batch_size == Params().train_ssr.optim.batch_size
    assert params.decode == Params().decode


def test_what_goes_together_is_taken(tmp_path: Path) -> None:
    assert load(tmp_path, "train_base: {resampling_init: he}").train_base.init_from == ""
    # Longer than trained.
    assert load(tmp_path, "generate: {num_frames: 80, window_size: 24}").train_ssr.window_size == 8
    assert (
        load(tmp_path, "{prepare_t2i: {size: 64}, train_ssr: {low_size: 64}}").train_ssr.low_size
        == 64
    )
    assert (
        load(tmp_path, "train_base: {optim: {text_dropout: 0}}").train_base.optim.text_dropout == 0
    )


@pytest.mark.parametrize("name", ["ink", "my-ink_2", "my ink.v2", "../ink", "ink\n", "é", ""])
def test_a_style_that_can_be_trained_can_be_generated_with(name: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    expected = (
        pytest.raises(ValueError, match="letters, digits, - and _")
        if name not in ("ink", "my-ink_2")
        else nullcontext()
    )
    with expected:
        TrainStyleConfig(style=name)
    with expected:
        StyleBook().add(name, weights)


def test_params_are_read_without_torch() -> None:
    code = "import sys, lumiere.config; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
    )


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = "train_base: {optim: &optim {steps: 7, seed: 3}}\ntrain_conditioned: {optim: {<<: *optim, seed: 4}}\n"
    params = load(tmp_path, text)
    assert (params.train_conditioned.optim.steps, params.train_conditioned.optim.seed) == (7, 4)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Params().curate.seed = 3  # type: ignore[misc]
