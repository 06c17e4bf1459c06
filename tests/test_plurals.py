"""Messages count one thing in the singular."""

from __future__ import annotations

from lumiere.data.remote import not_fetched
from lumiere.data.video_source import Damage
from lumiere.plurals import counted, there_are


def test_one_thing_is_in_the_singular() -> None:
    assert [counted(n, "score") for n in (0, 1, 2)] == ["0 scores", "1 score", "2 scores"]
    assert there_are(1, "clip") == "there is 1 clip" and there_are(2, "clip") == "there are 2 clips"
    assert str(Damage(1, 1)) == "1 damaged frame and 1 unreadable packet"


def test_one_video_that_cannot_be_fetched_is_named_alone() -> None:
    assert str(not_fetched(["a.mp4: gone"])).startswith("a.mp4: gone; check the network")
    assert str(not_fetched(["b: x", "a: y"])).startswith("2 videos, such as a: y; check")
