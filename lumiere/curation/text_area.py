"""Finds text in pictures with RapidOCR (PP-OCR's detector), whose package brings its weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence

import cv2
import numpy as np

from lumiere.errors import DataError

PACKAGE = "rapidocr-onnxruntime"


class RapidOCRReader:
    """The detector alone: where text is, not what it says.

    Attributes:
        identity: a hash over the versions of the packages.
    """

    def __init__(self) -> None:
        """
        Raises:
            DataError: if the package is missing.
        """
        try:
            from rapidocr_onnxruntime import RapidOCR  # an extra
        except ImportError:
            raise DataError(
                f"'rapidocr' needs the package {PACKAGE}, which is not installed",
                cure="pip install -e '.[ocr]' (Python below 3.13), or use none",
            ) from None
        self._engine = RapidOCR(intra_op_num_threads=2, inter_op_num_threads=1)
        versions = [importlib.metadata.version(name) for name in (PACKAGE, "onnxruntime")]
        self.identity = hashlib.sha256("\n".join([PACKAGE, *versions]).encode()).hexdigest()

    def boxes(self, picture: np.ndarray) -> Sequence[np.ndarray]:
        """Return the four corners (4, 2) of each line of text, in pixels.

        Args:
            picture: uint8 (h, w, 3), RGB.
        """
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        corners, _ = self._engine(bgr, use_det=True, use_cls=False, use_rec=False)
        return [np.asarray(box, np.float64) for box in corners or ()]
