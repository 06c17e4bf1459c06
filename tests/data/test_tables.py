"""CSV files that people write: what does not fit is told by file, line and cure, and nothing is cut or guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lumiere.data.captioned_pictures import load_captioned_folder
from lumiere.data.tables import read_table
from lumiere.requests import read_rows


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_cells_come_as_they_were_written(table: Path, encoding: str, newline: str) -> None:
    lines = ["Text, name ,", '"a, ""b"" é", one ,', "", " , ,", 'c, "d, e",x']
    table.write_bytes(newline.join([lines[0] + "extra", *lines[1:]]).encode(encoding))
    rows = read_table(table, ("name", "text"), ("extra", "other"))
    assert rows == [
        (2, {"name": "one", "text": 'a, "b" é', "extra": "", "other": ""}),
        (5, {"name": "d, e", "text": "c", "extra": "x", "other": ""}),
    ]


# the file's bytes -> what the message must hold, besides the file
BAD: dict[bytes, tuple[str, ...]] = {
    b"name,text\na,an ink drawing, of a cat\n": ("line 2", "3 cells for 2 columns", "in quotes"),
    b"name,text\na,b\n\nc\n": ("line 4", "1 cell for 2 columns", "not absent"),
    b"name,text\na,caf\xe9\n": ("line 2", "UTF-8"),
    "name,text\n".encode("utf-16"): ("line 1", "UTF-8"),
    b'name,text\na,"b\nc,d\n': ("line 3", "not CSV", "ends with a quote"),
    b'name,text\na,"b" c\n': ("line 2", "not CSV", "written twice"),
    b"name\na\n": ("no column 'text'", "columns name, text, extra", "found: name"),
    b"name;text\na;b\n": ("separated by ';'", "commas"),
    b"name,text,more\na,b,c\n": ("unknown column 'more'", "name, text, extra"),
    b"name,text,\na,b,c\n": ("unknown column ''",),
    b"name,text,Name\na,b,c\n": ("column 'name' is given twice",),
    b"name,text\n\n , \n": ("no rows", "at least one row"),
    b"": ("no column 'name'", "found: none"),
}


@pytest.mark.parametrize("content", BAD)
def test_what_is_wrong_is_told_in_one_line(content: bytes, table: Path) -> None:
    table.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_table(table, ("name", "text"), ("extra",))
    message = str(error.value)
    assert message.startswith(str(table)) and "\n" not in message
    for words in BAD[content]:
        assert words in message


def test_a_file_that_is_not_there_is_told(table: Path) -> None:
    with pytest.raises(ValueError, match=r"table\.csv: no such file; .*columns a, b"):
        read_table(table, ("a",), ("b",))
    with pytest.raises(ValueError, match="columns a"):
        read_table(table.parent, ("a",))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("x.png,an ink drawing, of a cat", "line 2: 3 cells for 2 columns"),
        ("x.png,", "line 2: the caption is empty"),
        ("x.png", "line 2: 1 cell for 2 columns"),
        (",a cat", "line 2: the image is empty"),
        ("x.png,a cat\n\nx.png, ", "line 4: the caption is empty"),
    ],
)
def test_pictures_without_their_whole_caption_are_refused(
    rows: str, expected: str, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "captions.csv").write_text(f"image,caption\n{rows}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"captions\.csv, {expected}"):
        load_captioned_folder(tmp_path, 8)


def test_prompts_are_whole(table: Path) -> None:
    header = "name,mode,prompt,clip,mask,style,alpha,strength\n"
    table.write_text(header + "a,text_to_video,a cat, asleep,,,,,\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"table\.csv, line 2: 9 cells for 8 columns; .*quotes"):
        read_rows(table)
    table.write_text("name,mode,prompt\na,text_to_video,a cat, asleep\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"table\.csv, line 2: 4 cells for 3 columns"):
        read_rows(table)
    table.write_text('name,mode,prompt\na,text_to_video,"a cat, asleep"\n', encoding="utf-8-sig")
    (row,) = read_rows(table)
    assert row.request is not None
    assert (row.request.prompt, row.request.clip, row.request.alpha) == (
        "a cat, asleep",
        None,
        None,
    )
