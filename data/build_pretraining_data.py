"""Build pictures and captions for a longer training of the demo's text-to-image model.

    npm install --prefix /tmp/emoji @lobehub/fluent-emoji-3d@1.1.0 @lobehub/fluent-emoji-anim-{1,2,3,4} \\
        emoji-datasource-google@16 emojibase-data@17
    python data/build_pretraining_data.py --packages /tmp/emoji/node_modules

The script lays every subject on the plain background of the sample videos and reduces it to 32x32
by the mean over 5x5 boxes, as the decode stage does. It writes two files:

    pictures.webp   an atlas of all pictures, lossless, 64 in a row
    subjects.csv    one row per subject: name, group, split, video (a path in data/), pictures, captions

The frames of videos are not in the atlas, because `data/raw` and `data/pretraining/raw` have them.
Their rows in `subjects.csv` name the video and add short captions to its sentences, which are in a
`captions.csv` beside the folder of the video. The short captions are made from the names of the
emoji standard; `short_captions.csv` replaces them where such a name is not what people say ("man
red hair", "backhand index pointing up").

The hash that holds out videos (`lumiere.curation.split`) also holds out subjects. So a subject that
becomes a sample video later is already on the right side.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lumiere.curation.split import is_validation

HERE = Path(__file__).resolve().parent
BACKGROUND = (236, 239, 244)
LARGE, SIZE, PER_ROW = 160, 32, 64
FRACTION, SEED = 0.1, 0  # curate.validation_fraction and curate.seed
SKIN_TONES = tuple(f"1f3f{digit}" for digit in "bcdef")

# These groups have too many subjects, or subjects that look alike or are too small at 32 pixels.
LEFT_OUT = {
    "Flags", "Component", "family", "time", "alphanum", "arrow", "av-symbol", "currency", "gender", "keycap",
    "other-symbol", "punctuation", "religion", "transport-sign", "warning", "zodiac", "math", "person-symbol",
}  # fmt: skip
# Pictures that show a held-out sample subject again.
LIKE_HELD_OUT = {
    "service_dog", "guide_dog", "skull_and_crossbones", "light_blue_heart", "spiral_note_pad", "mending_heart",
}  # fmt: skip

MOVES = {
    "animal-mammal": ("runs", "walks", "jumps", "moves", "is walking", "is running", "looks around"),
    "animal-bird": ("flies", "flaps its wings", "walks", "is flying", "moves"),
    "animal-amphibian": ("jumps", "hops", "moves"),
    "animal-reptile": ("crawls", "walks", "moves"),
    "animal-marine": ("swims", "is swimming", "moves"),
    "animal-bug": ("crawls", "flies", "moves", "is crawling"),
    "transport-ground": ("drives", "moves", "is driving", "drives along the road"),
    "transport-air": ("flies", "is flying", "takes off", "in the sky"),
    "transport-water": ("sails", "floats on the water", "is sailing", "moves"),
    "plant-flower": ("sways", "blooms", "in the wind"),
    "plant-other": ("sways", "in the wind"),
    "food-fruit": ("turns", "bounces"),
    "person-activity": (), "person-sport": (),
}  # fmt: skip
# What people call the subjects, the most usual name first.
SAYINGS = {
    "fox_face": ("fox", "red fox", "fox face"), "dog": ("dog", "puppy", "dog face", "cute dog"),
    "cat": ("cat", "kitten", "cat face"), "cat2": ("cat", "orange cat", "tabby cat"), "black_cat": ("black cat", "cat"),
    "car": ("car", "red car"), "blue_car": ("blue car", "SUV", "car"), "taxi": ("taxi", "yellow taxi", "cab"),
    "bus": ("bus", "yellow bus"), "airplane": ("plane", "airplane"), "boat": ("sailboat", "sailing boat", "boat"),
    "rocket": ("rocket", "space rocket", "spaceship"), "smile": ("smiling face", "smiley", "happy face"),
    "smiley": ("smiling face", "smiley face", "happy face"), "grinning": ("grinning face", "happy face", "smiley"),
    "slightly_smiling_face": ("smiling face", "slightly smiling face"), "horse": ("horse", "horse face"),
    "racehorse": ("horse", "brown horse"), "bird": ("bird",), "fish": ("fish", "blue fish"),
    "heart": ("red heart", "heart", "love heart"), "sunny": ("sun", "yellow sun"), "apple": ("apple", "red apple"),
    "tree": ("tree", "green tree"), "evergreen_tree": ("pine tree", "fir tree", "Christmas tree"),
    "deciduous_tree": ("tree", "green tree", "leafy tree"), "house": ("house", "home"), "ship": ("ship", "big ship"),
    "train": ("tram", "tram car"), "tractor": ("tractor", "green tractor"), "truck": ("truck", "delivery truck"),
    "fire_engine": ("fire engine", "fire truck", "red fire truck"), "cow": ("cow", "cow face"), "cow2": ("cow",),
    "pig": ("pig", "pink pig", "pig face"), "pig2": ("pig", "pink pig"), "mouse": ("mouse", "mouse face"),
    "mouse2": ("mouse", "white mouse"), "rabbit2": ("rabbit", "bunny"), "bear": ("bear", "brown bear"),
    "panda_face": ("panda", "panda bear"), "tiger": ("tiger", "tiger face"), "tiger2": ("tiger",),
    "lion_face": ("lion", "lion face"), "monkey": ("monkey",), "frog": ("frog", "green frog"),
    "bike": ("bicycle", "bike"), "racing_motorcycle": ("motorcycle", "motorbike"), "rose": ("rose", "red rose"),
    "soccer": ("football", "soccer ball"), "basketball": ("basketball", "orange ball"),
    "ghost": ("ghost", "white ghost"), "robot_face": ("robot", "robot face"), "alien": ("alien", "green alien"),
    "snowman": ("snowman",),
    "snowman_without_snow": ("snowman",), "pizza": ("pizza", "slice of pizza"), "hamburger": ("burger", "hamburger"),
    "tropical_fish": ("fish", "yellow fish", "tropical fish"), "whale": ("whale", "blue whale"), "shark": ("shark",),
    "octopus": ("octopus", "pink octopus"), "crab": ("crab", "red crab"), "turtle": ("turtle", "green turtle"),
    "snake": ("snake", "green snake"), "elephant": ("elephant", "gray elephant"), "penguin": ("penguin",),
    "owl": ("owl", "brown owl"), "duck": ("duck",), "chicken": ("chicken", "hen"), "star": ("star", "yellow star"),
    "full_moon_with_face": ("moon", "full moon"), "crescent_moon": ("moon", "crescent moon"), "fire": ("fire", "flame"),
    "balloon": ("balloon", "red balloon"), "birthday": ("birthday cake", "cake"),
    "coffee": ("cup of coffee", "coffee"), "bee": ("bee", "honeybee"), "butterfly": ("butterfly", "blue butterfly"),
    "dragon": ("dragon", "green dragon"),
    "dragon_face": ("dragon", "dragon head"), "t-rex": ("dinosaur", "T-rex"),
    "sauropod": ("dinosaur", "long-necked dinosaur"), "unicorn_face": ("unicorn",),
    "ladybug": ("ladybug", "red beetle with black dots"), "robot": ("robot",),
}  # fmt: skip
# Maps a short caption without its verb, if it fits several subjects, to the subject that people mean by it. A small
# network mixes two subjects that share a caption: "a pig" gave a body with a face on its side.
MEANT = {
    "cat": "cat2", "mouse": "mouse2", "cow": "cow2", "tiger": "tiger2", "dragon": "dragon", "whale": "whale2",
    "light blue whale": "whale2", "horse": "racehorse", "brown horse": "racehorse", "pig": "pig2", "pink pig": "pig2",
    "fish": "fish", "monkey": "monkey", "brown monkey": "monkey", "dinosaur": "t-rex", "car": "car", "tram": "train",
    "snowman": "snowman", "Christmas tree": "christmas_tree", "heart": "heart", "red heart": "heart",
    "full moon": "full_moon", "smiling face": "smiley", "smiley": "smiley", "happy face": "smile",
    "grinning face": "grinning", "laughing face": "laughing", "sad face": "slightly_frowning_face",
    "surprised face": "open_mouth", "astonished face": "astonished", "kissing face": "kissing",
    "tired face": "tired_face", "dizzy face": "dizzy_face", "sweating face": "hot_face", "shocked face": "anguished",
}  # fmt: skip
COLORS = {
    "red": (215, 50, 60), "orange": (250, 140, 40), "yellow": (252, 205, 60), "green": (70, 170, 70),
    "blue": (50, 125, 230), "light blue": (140, 205, 250), "purple": (150, 90, 200), "pink": (250, 130, 180),
    "brown": (135, 85, 65), "black": (45, 45, 50), "gray": (150, 150, 155), "white": (245, 245, 248),
}  # fmt: skip


@dataclass
class Subject:
    """A subject with its pictures, each uint8 (32, 32, 3), and its captions."""

    name: str
    group: str
    split: str
    video: str = ""
    pictures: list[np.ndarray] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


# --- pictures ---------------------------------------------------------------------------------------------------------


def reduce(rgba: Image.Image) -> np.ndarray:
    """Lay an RGBA picture on the background and reduce it by box means: uint8 (32, 32, 3)."""
    rgba = rgba.convert("RGBA").resize((LARGE, LARGE), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
    canvas.alpha_composite(rgba)
    side = LARGE // SIZE
    boxes = np.asarray(canvas.convert("RGB"), dtype=np.float32).reshape(SIZE, side, SIZE, side, 3)
    return boxes.mean((1, 3)).round().astype(np.uint8)


def read_frames(path: Path, count: int) -> list[np.ndarray]:
    """Read `count` evenly spaced frames of an animated WebP; none of a still."""
    image = Image.open(path)
    total = getattr(image, "n_frames", 1)
    if total < 2:
        return []
    pictures = []
    for number in np.linspace(0, total, count, endpoint=False).astype(int):
        image.seek(int(number))
        pictures.append(reduce(image))
    return pictures


def main_color(picture: np.ndarray) -> str:
    """Return the colour that covers most of a subject, or "" if none covers half of it."""
    pixels = picture.reshape(-1, 3).astype(float)
    subject = pixels[np.abs(pixels - BACKGROUND).max(1) > 24]
    if len(subject) < 40:
        return ""
    distances = ((subject[:, None] - np.array(list(COLORS.values()))) ** 2).sum(2)
    counts = np.bincount(distances.argmin(1), minlength=len(COLORS))
    return list(COLORS)[int(counts.argmax())] if counts.max() > len(subject) / 2 else ""


# --- captions ---------------------------------------------------------------------------------------------------------


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun, except a plural or a name with a capital."""
    is_name = noun[:1].isupper() and not noun.startswith(("T-rex", "SUV", "Christmas"))
    many = noun.startswith(("men ", "women ", "people ", "children "))
    ends_as_plural = noun.endswith("s") and not noun.endswith(("ss", "us", "is"))
    if is_name or many or ends_as_plural:
        return noun
    vowel = noun[:1].lower() in "aeiou" and not noun.startswith(("uni", "eu", "ewe", "one", "ute"))
    return f"{'an' if vowel else 'a'} {noun}"


def nouns_for(name: str, label: str, subcategory: str) -> list[str]:
    """Return what the subject is called, the most usual word first."""
    label = label.replace("’", "'").replace("“", "").replace("”", "").replace(": ", " ")
    plain = label.removesuffix(" face") if subcategory.startswith("animal") else label
    names = [*SAYINGS.get(name, ()), plain, label]
    return list(dict.fromkeys(names))


def captions_for(name: str, label: str, subcategory: str, color: str) -> list[str]:
    """Make short captions such as "a fox", "fox", "an orange fox", "a fox runs" and "a red fox runs"."""
    nouns = nouns_for(name, label, subcategory)
    captions = [with_article(noun) for noun in nouns]
    captions.append(nouns[0])
    movers = [nouns[0], *SAYINGS.get(name, ())]
    if (
        color
        and not subcategory.startswith(("person", "face"))
        and color.split()[-1] not in nouns[0]
    ):
        movers.append(f"{color} {nouns[0]}")
        captions.append(with_article(movers[-1]))
    if subcategory.startswith("person"):
        return list(dict.fromkeys(captions))
    for noun in movers:
        # A part of an animal neither runs nor flies.
        if noun == nouns[0] or not noun.endswith((" face", " head")):
            moves = MOVES.get(subcategory, ("moves",))
            captions += [f"{with_article(noun)} {move}" for move in moves]
    return list(dict.fromkeys(captions))


def tell_apart(subjects: Sequence[Subject]) -> None:
    """If `MEANT` assigns a caption to one subject, remove it from all other subjects, including
    held-out ones. If the assigned subject is itself held out, every subject keeps the caption.

    Raises:
        SystemExit: if a subject has no caption left.
    """
    trained = {subject.name for subject in subjects if subject.split == "train"}
    ends = ["", *(f" {move}" for moves in MOVES.values() for move in moves)]
    owners = {
        caption + end: name
        for noun, name in MEANT.items()
        if name in trained
        for caption in (noun, with_article(noun))
        for end in ends
    }
    for subject in subjects:
        name = subject.name
        kept = [caption for caption in subject.captions if owners.get(caption, name) == name]
        if not kept:
            raise SystemExit(
                f"error: {subject.name} has no caption left; write one in short_captions.csv"
            )
        subject.captions = kept


def read_short_captions(
    path: Path = HERE / "pretraining/short_captions.csv",
) -> dict[str, list[str]]:
    """Read the short captions that were written by hand, by the name of the subject."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["name"]: row["captions"].split("|") for row in csv.DictReader(file)}


# --- subjects ---------------------------------------------------------------------------------------------------------


def short(code: str) -> str:
    """Remove variation selectors from a code sequence, because the packages use them differently."""
    return code.lower().replace("-fe0f", "")


def read_labels(packages: Path) -> dict[str, str]:
    """Read the English names of emojibase, by code sequence."""
    entries = json.loads((packages / "emojibase-data/en/data.json").read_text(encoding="utf-8"))
    return {short(entry["hexcode"]): entry["label"] for entry in entries}


def is_subject(entry: Mapping[str, Any]) -> bool:
    """Return whether an emoji becomes a subject."""
    code = entry["unified"].lower()
    left_out = entry["category"] in LEFT_OUT or entry["subcategory"] in LEFT_OUT
    return not left_out and not any(tone in code for tone in SKIN_TONES)


def read_videos(path: Path, folder: str) -> dict[str, str]:
    """Read a list of videos: paths in `data/`, by code sequence."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {short(row["code_points"]): f"{folder}/{row['name']}.mp4" for row in rows}


def find_subjects(packages: Path, frames: int) -> Iterator[Subject]:
    """Find all subjects, in the order of the emoji standard."""
    labels = read_labels(packages)
    entries = json.loads(
        (packages / "emoji-datasource-google/emoji.json").read_text(encoding="utf-8")
    )
    stills = {
        short(path.stem): path
        for path in (packages / "@lobehub/fluent-emoji-3d/assets").glob("*.webp")
    }
    moving = {
        short(path.stem): path
        for path in packages.glob("@lobehub/fluent-emoji-anim-*/assets/*.webp")
    }
    videos = {
        **read_videos(HERE / "subjects.csv", "raw"),
        **read_videos(HERE / "pretraining/videos.csv", "pretraining/raw"),
    }
    written = read_short_captions()
    for entry in entries:
        code, name = short(entry["unified"]), entry["short_name"].replace("-", "_")
        if code not in stills or not (code in videos or is_subject(entry)) or name in LIKE_HELD_OUT:
            continue
        video = videos.get(code, "")
        name = Path(video).stem or name
        still = reduce(Image.open(stills[code]))
        subject = Subject(
            name,
            entry["subcategory"],
            "validation" if is_validation(name, SEED, FRACTION) else "train",
        )
        subject.video = video
        subject.pictures = [still]
        if not subject.video and code in moving:
            subject.pictures += read_frames(moving[code], frames)
        label = labels.get(code, entry["name"].lower())
        subject.captions = written.get(name) or captions_for(
            entry["short_name"], label, entry["subcategory"], main_color(still)
        )
        yield subject


def write(folder: Path, subjects: list[Subject]) -> None:
    """Write the atlas and the table."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = np.stack([picture for subject in subjects for picture in subject.pictures])
    rows = -(-len(pictures) // PER_ROW)
    padded = np.zeros((rows * PER_ROW, SIZE, SIZE, 3), np.uint8)
    padded[: len(pictures)] = pictures
    atlas = (
        padded.reshape(rows, PER_ROW, SIZE, SIZE, 3)
        .swapaxes(1, 2)
        .reshape(rows * SIZE, PER_ROW * SIZE, 3)
    )
    Image.fromarray(atlas).save(folder / "pictures.webp", lossless=True, quality=100, method=6)
    with open(folder / "subjects.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "group", "split", "video", "pictures", "captions"])
        for subject in subjects:
            captions = "|".join(subject.captions)
            cells = [subject.name, subject.group, subject.split, subject.video]
            writer.writerow([*cells, len(subject.pictures), captions])


def main() -> None:
    """Build the atlas and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--packages", type=Path, required=True, help="the node_modules folder of the npm packages"
    )
    parser.add_argument("--out", type=Path, default=HERE / "pretraining", help="where the files go")
    parser.add_argument(
        "--frames", type=int, default=2, help="frames of each animation that is not a sample video"
    )
    arguments = parser.parse_args()
    if not (arguments.packages / "emojibase-data").is_dir():
        raise SystemExit(
            f"error: {arguments.packages} has no emojibase-data; install the packages that this file names"
        )
    subjects = list(find_subjects(arguments.packages, arguments.frames))
    tell_apart(subjects)
    write(arguments.out, subjects)
    trained = sum(subject.split == "train" for subject in subjects)
    counts = {
        "subjects": len(subjects),
        "train": trained,
        "pictures": sum(len(s.pictures) for s in subjects),
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
