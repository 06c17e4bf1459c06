"""Tests the pretraining of the image model, with a tiny network and a few coloured squares."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lumiere.curation.split import is_validation
from lumiere.diffusion.objective import Objective, make_scheduler
from lumiere.errors import DataError, ParamsError
from lumiere.models.text_to_image import TextToImage
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.params_file import read
from lumiere.tensor_files import read_metadata, read_tensors

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "data")]

import build_pretraining_data as building  # noqa: E402
import pretraining_data as data_module  # noqa: E402
import train_pretrained as script  # noqa: E402

SUBJECTS, HELD_OUT = 6, 2


@pytest.fixture
def data() -> data_module.PretrainingData:
    """Make six subjects with two pictures and two captions each; the third is held out."""
    generator = torch.Generator().manual_seed(0)
    colors = torch.randint(256, (2 * SUBJECTS, 3, 1, 1), generator=generator).to(torch.uint8)
    return data_module.PretrainingData(
        pictures=colors.expand(-1, -1, 32, 32).contiguous(),
        picture_starts=torch.arange(0, 2 * SUBJECTS + 1, 2),
        caption_starts=torch.arange(0, 2 * SUBJECTS + 1, 2),
        caption_weights=torch.full((2 * SUBJECTS,), 0.5),
        prompt_embeds=torch.randn(2 * SUBJECTS + 1, 32, 384, generator=generator).half(),
        prompt_mask=torch.ones(2 * SUBJECTS + 1, 32, dtype=torch.uint8),
        weights=torch.tensor([float(i != HELD_OUT) for i in range(SUBJECTS)]),
        held_out=torch.tensor([int(i == HELD_OUT) for i in range(SUBJECTS)], dtype=torch.uint8),
        may_shift=torch.tensor([0, 1] * SUBJECTS, dtype=torch.uint8),
        may_mirror=torch.tensor([0, 1] * SUBJECTS + [1], dtype=torch.uint8),
    )


@pytest.fixture
def settings(tmp_path: Path) -> script.Settings:
    """Make settings with two pictures a step and a network of two levels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build_text_to_image_unet(32, (16, 32), 1, 384).save_pretrained(tmp_path / "unet")
    return script.Settings(
        init_from=str(tmp_path / "unet"), batch_size=2, warmup=4, precision="fp32"
    )


def batches_of(data: data_module.PretrainingData, settings: script.Settings) -> script.Batches:
    return script.Batches(data, settings, Objective(make_scheduler()))


def trained(
    data: Any, settings: script.Settings, begin: Path | None, last_step: int, work: Path
) -> script.Training:
    work.mkdir(exist_ok=True)
    training = script.Training(settings, torch.device("cpu"))
    if begin is not None:
        training.load(begin / script.STATE)
    clock = script.Clock(10.0, last_step)
    script.train(training, batches_of(data, settings), work, clock, script.Decay())
    return training


def test_a_batch_follows_from_its_step(data: Any, settings: script.Settings) -> None:
    first, again = (batches_of(data, settings).at(3) for _ in range(2))
    assert all(torch.equal(vars(first)[name], vars(again)[name]) for name in vars(first))


def test_held_out_subjects_are_drawn_for_validation_alone(
    data: Any, settings: script.Settings
) -> None:
    batches = batches_of(data, settings)
    own = set(range(2 * HELD_OUT, 2 * HELD_OUT + 2))
    held_out = {tuple(script.to_model_range(data.pictures[i])[:, 9, 9].tolist()) for i in own}
    seen = {tuple(x_0[:, 9, 9].tolist()) for step in range(20) for x_0 in batches.at(step).x_0}
    validated = {tuple(x_0[:, 9, 9].tolist()) for x_0 in batches.held_out(8).x_0}
    assert not seen & held_out
    assert validated <= held_out


def test_a_tint_is_a_smooth_part_of_the_noise_alone(data: Any, settings: script.Settings) -> None:
    tinted = batches_of(data, replace(settings, tint=0.5)).at(0)
    plain = batches_of(data, replace(settings, tint=0.0)).at(0)
    assert torch.equal(tinted.x_0, plain.x_0)
    assert torch.equal(tinted.timesteps, plain.timesteps)
    tint = tinted.noise - plain.noise
    assert tint.abs().amax() > 0.01
    steps = (tint[..., 1:] - tint[..., :-1]).abs().amax()
    assert steps < (plain.noise[..., 1:] - plain.noise[..., :-1]).abs().amax() / 4


def test_a_state_saved_before_the_first_step_can_be_resumed(
    data: Any, settings: script.Settings, tmp_path: Path
) -> None:
    trained(data, settings, None, 0, tmp_path / "work")
    resumed = trained(data, settings, tmp_path / "work", 2, tmp_path / "work")
    assert resumed.step == 2


def test_a_resumed_training_that_began_from_an_export_still_warms_up(
    data: Any, settings: script.Settings, tmp_path: Path
) -> None:
    trained(data, settings, None, 3, tmp_path / "work")
    script.export(tmp_path / "work", tmp_path / "export")
    first = script.Training(settings, torch.device("cpu"))
    first.load_export(tmp_path / "export")
    script.train(first, batches_of(data, settings), tmp_path, script.Clock(10.0, 4), script.Decay())
    resumed = script.Training(settings, torch.device("cpu"))
    resumed.load(tmp_path / script.STATE)
    assert (resumed.step, resumed.began) == (4, 3)
    assert resumed.optimizer.state[resumed.weights["conv_in.weight"]]["step"] == 1


@pytest.mark.parametrize(
    ("decay", "factors"),
    [
        (script.Decay(), [1, 1, 1]),
        (script.Decay(minutes=2), [1, 1, 0.5]),
        (script.Decay(steps=4), [1, 0.5, 0.25]),
        (script.Decay(minutes=2, steps=4), [1, 0.5, 0.25]),
    ],
)
def test_the_learning_rate_falls_over_the_last_minutes_or_steps(
    decay: script.Decay, factors: list[float]
) -> None:
    left = [(300, 8), (120, 2), (60, 1)]  # seconds and steps

    assert [decay(*both) for both in left] == factors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decay-steps", "-1", "--last-step", "9"], "--decay-steps: allowed: at least 0"),
        (["--decay-minutes", "-1"], "--decay-minutes: allowed: at least 0"),
        (["--decay-steps", "4"], "--decay-steps: needs --last-step"),
    ],
)
def test_a_decay_that_would_not_end_at_zero_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--work", str(tmp_path), *arguments])
    with pytest.raises(SystemExit):
        script.run(script._parser())
    assert message in capsys.readouterr().err


def test_a_shift_brings_in_the_background() -> None:
    moved, still = script.shift(torch.zeros(2, 3, 32, 32), torch.tensor([[2, -1], [0, 0]]))
    background = script.to_model_range(torch.tensor(data_module.BACKGROUND))
    for row, column in ((5, 0), (5, 1), (31, 5)):
        torch.testing.assert_close(moved[:, row, column], background)
    torch.testing.assert_close(moved[:, :31, 2:], torch.zeros(3, 31, 30))
    torch.testing.assert_close(still, torch.zeros(3, 32, 32))


def test_only_stills_with_captions_that_allow_it_are_mirrored(
    data: Any, settings: script.Settings
) -> None:
    x_0 = torch.arange(32.0).expand(4, 3, 32, 32)
    pictures, captions = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    for share, expected in ((1.0, [False, False, False, True]), (0.0, [False] * 4)):
        batches = batches_of(data, replace(settings, mirrored=share))
        made = batches._mirrored(x_0, pictures, captions, torch.Generator().manual_seed(0))
        assert [torch.equal(row, x_0[0].flip(2)) for row in made] == expected
        assert [torch.equal(row, x_0[0]) for row in made] == [not each for each in expected]
    holds = data_module.holds_mirrored
    assert holds("fox_face", "a fox") and holds("bulb", "a bright bulb")
    assert not holds("fox_face", "a fox on the left") and not holds("leftwards_hand", "a hand")
    assert not holds("calendar", "a calendar")


def test_captions_are_drawn_by_their_weights(data: Any, settings: script.Settings) -> None:
    data.caption_weights[:2] = torch.tensor([0.25, 0.75])
    batches = batches_of(data, settings)
    _, captions = batches._draw(
        torch.zeros(4000, dtype=torch.long), torch.Generator().manual_seed(0)
    )
    assert set(captions.tolist()) == {0, 1}
    assert abs(captions.double().mean() - 0.75) < 0.03


def test_a_resumed_training_gives_the_same_bits(
    data: Any, settings: script.Settings, tmp_path: Path
) -> None:
    whole = trained(data, settings, None, 4, tmp_path / "whole")
    trained(data, settings, None, 2, tmp_path / "half")
    resumed = trained(data, settings, tmp_path / "half", 4, tmp_path / "half")
    assert whole.step == resumed.step == 4
    for name, weight in whole.weights.items():
        assert torch.equal(weight, resumed.weights[name]), name


def test_an_export_is_where_another_training_begins(
    data: Any, settings: script.Settings, tmp_path: Path
) -> None:
    first = trained(data, settings, None, 3, tmp_path / "work")
    script.export(tmp_path / "work", tmp_path / "export")
    assert json.loads((tmp_path / "export/state.json").read_text())["step"] == 3
    other = script.Training(settings, torch.device("cpu"))
    other.load_export(tmp_path / "export")
    assert other.step == 3
    for name, weight in first.weights.items():
        torch.testing.assert_close(other.weights[name], weight, atol=1e-3, rtol=1e-3)


def test_an_export_holds_a_text_to_image_model(
    data: Any, settings: script.Settings, tmp_path: Path
) -> None:
    first = trained(data, settings, None, 1, tmp_path / "work")
    script.export(tmp_path / "work", tmp_path / "export")
    config = (tmp_path / "export/t2i/unet/config.json").read_text()
    assert settings.init_from not in config and str(ROOT) not in config
    model = TextToImage.load(tmp_path / "export/t2i")
    shipped = TextToImage.load(ROOT / "pretrained/t2i")
    assert model.text_encoder == shipped.text_encoder
    assert model.scheduler.config == shipped.scheduler.config
    for name, weight in model.unet.named_parameters():
        torch.testing.assert_close(weight, first.weights[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3", "batchsize: unknown key"),
        ("precision: fp16", "precision: 'fp16'; allowed: bf16, fp32"),
        ("warmup: 0", "warmup: 0; allowed: at least 1"),
        ("ema_lengths: []", "ema_lengths: .*allowed: at least one"),
    ],
)
def test_a_bad_setting_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        read(script.Settings, tmp_path / "profile.yaml")


def test_pictures_are_counted_over_batches_of_different_sizes(
    data: Any, settings: script.Settings, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    trained(data, settings, None, 2, work)
    trained(data, replace(settings, batch_size=3), work, 3, work)
    script.export(work, tmp_path / "export")
    record = json.loads((tmp_path / "export" / script.RECORD).read_text())
    assert (record["step"], record["pictures_seen"]) == (3, 2 * 2 + 3)


def test_weights_of_another_network_are_refused(
    data: Any, settings: script.Settings, tmp_path: Path
) -> None:
    trained(data, settings, None, 0, tmp_path / "work")
    build_text_to_image_unet(32, (16, 48), 1, 384).save_pretrained(tmp_path / "other")
    other = replace(settings, init_from=str(tmp_path / "other"))
    with pytest.raises(DataError, match=r"state\.safetensors: raw\..* has another shape"):
        trained(data, other, tmp_path / "work", 1, tmp_path / "work")


def change_state(
    path: Path, metadata: dict[str, str] | None = None, without: str = "", twice: str = ""
) -> None:
    """Write a state again with other metadata, without a tensor, or with a tensor of twice its length."""
    kept = read_metadata(path) if metadata is None else metadata
    tensors = read_tensors(path)
    if without:
        del tensors[without]
    if twice:
        tensors[twice] = torch.cat([tensors[twice]] * 2)
    save_file(tensors, path, kept)


def test_a_state_that_is_damaged_or_foreign_is_named_with_the_cure(
    data: Any, settings: script.Settings, tmp_path: Path
) -> None:
    trained(data, settings, None, 1, tmp_path)
    path = tmp_path / script.STATE
    whole, training = path.read_bytes(), script.Training(settings, torch.device("cpu"))
    foreign = "no state of this script"
    missing = r"adam\.exp_avg_sq\.conv_in\.weight is missing"
    changes: list[tuple[dict[str, Any], str]] = [
        ({"metadata": {}}, f"{foreign}: KeyError: 'step'"),
        ({"metadata": {"step": "2"}}, f"{foreign}: KeyError: 'settings'"),
        ({"metadata": {"step": "two", "settings": "{}"}}, f"{foreign}: ValueError"),
        ({"metadata": {"step": "2", "settings": "half"}}, foreign),
        ({"metadata": {"step": "2", "settings": "[]"}}, foreign),
        ({"metadata": {"step": "2", "settings": '{"ema_lengths": []}'}}, foreign),
        ({"without": "adam.exp_avg_sq.conv_in.weight"}, missing),
        ({"twice": "adam.exp_avg.conv_in.bias"}, r"adam\.exp_avg\.conv_in\.bias .* another shape"),
    ]
    for change, words in changes:
        path.write_bytes(whole)
        change_state(path, **change)
        with pytest.raises(DataError, match=rf"state\.safetensors: {words}.*; put a copy of a wh"):
            training.load(path)
    path.write_bytes(whole)
    training.load(path)


@pytest.mark.parametrize("name", ["raw.conv_in.weight", "ema.16000.conv_in.weight"])
def test_weights_that_are_not_whole_are_not_exported(
    data: Any, settings: script.Settings, tmp_path: Path, name: str
) -> None:
    trained(data, settings, None, 0, tmp_path / "work")
    change_state(tmp_path / "work" / script.STATE, without=name)
    with pytest.raises(DataError, match=r"state\.safetensors: no whole weights in raw"):
        script.export(tmp_path / "work", tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_prepared_data_of_another_kind_is_refused(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    data.save(path)
    assert torch.equal(data_module.PretrainingData.load(path).pictures, data.pictures)
    change_state(path, {}, without="weights")
    with pytest.raises(DataError, match=r"data\.safetensors: expected the tensors .*; delete it"):
        data_module.PretrainingData.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data\.safetensors: not a whole safetensors file"):
        data_module.PretrainingData.load(path)


def test_an_export_without_a_state_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"state\.safetensors: no such file"):
        script.export(tmp_path, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_the_profile_can_be_read() -> None:
    assert read(script.Settings, ROOT / "profiles/pretrained.yaml").batch_size > 0


def names_in(listing: str) -> set[str]:
    with open(ROOT / "data" / listing, newline="", encoding="utf-8") as file:
        return {row["name"] for row in csv.DictReader(file)}


def test_the_atlas_holds_what_the_table_says_and_the_split_is_the_videos() -> None:
    rows = data_module.read_subjects()
    assert all(len(row.pictures) >= 1 and row.captions[0] for row in rows)
    assert all(row.held_out == is_validation(row.name, 0, 0.1) for row in rows)
    videos = {row.name for row in rows if row.video}
    demo, further = names_in("subjects.csv"), names_in("pretraining/videos.csv")
    assert not demo & further
    shown_again = {"guide_dog", "service_dog"}  # they show a held-out video's dog
    assert videos == (demo | further) - shown_again
    assert all((ROOT / "data" / row.video).is_file() for row in rows if row.video)
    sentences = data_module.read_sentences()
    assert all(len(sentences[row.video]) == 2 for row in rows if row.video)
    assert {row.name for row in rows} >= data_module.NEVER_MIRRORED
    runner = next(row for row in rows if row.name == "woman_running")
    assert "a woman runs" in runner.captions
    fox = next(row for row in rows if row.name == "fox_face")
    assert "a red fox" in fox.captions
    red, green, blue = fox.pictures[0].reshape(-1, 3).mean(0)
    assert red > green > blue


def test_a_short_caption_that_people_type_has_one_subject() -> None:
    """A small network that sees two subjects with one caption mixes them."""
    subjects = [row for row in data_module.read_subjects() if not row.held_out]
    for noun, name in building.MEANT.items():
        captions = {noun, building.with_article(noun)}
        assert {row.name for row in subjects if captions & set(row.captions)} == {name}, noun
    walking = [row.name for row in subjects if "a cat walks" in row.captions]
    assert walking == ["cat2"]


def test_a_subject_without_a_caption_of_its_own_is_named() -> None:
    subjects = [
        building.Subject(name, "animal-mammal", "train", captions=captions)
        for name, captions in (("pig2", ["a pig", "a pig runs"]), ("pig", ["a pig", "a pig runs"]))
    ]
    with pytest.raises(SystemExit, match="pig has no caption left; write one in short_captions"):
        building.tell_apart(subjects)
    subjects[1].captions.append("a pig face")
    building.tell_apart(subjects)
    assert [subject.captions for subject in subjects] == [["a pig", "a pig runs"], ["a pig face"]]
