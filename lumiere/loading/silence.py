"""Silences transformers while a model loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Keep transformers from printing, such as a bar or a report on the heads that are left out.

    Its log level and its bars return to their earlier settings afterwards, even after an error.
    """
    from transformers.utils import logging  # takes seconds

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
