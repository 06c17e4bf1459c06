"""Loading a model of transformers prints nothing, and leaves its settings as they were."""

from __future__ import annotations

import pytest

from lumiere.loading.silence import silent_transformers

# isort: split
from transformers.utils import logging


@pytest.mark.parametrize("has_bars", [True, False])
def test_transformers_is_silent_and_then_as_before(
    has_bars: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "_tqdm_active", has_bars)
    before = logging.get_verbosity()
    with pytest.raises(KeyError), silent_transformers():
        logging.get_logger("transformers").warning("a head is left out")
        for _ in logging.tqdm(range(2)):
            pass
        raise KeyError
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (before, has_bars)
