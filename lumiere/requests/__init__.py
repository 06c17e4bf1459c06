"""A video to make: one `Request`, its checks, its CSV form and its JSON form. Nothing here needs torch.

The `generate` stage and `lumiere generate` share these modules.
"""

from lumiere.requests.csv_form import Row, read_rows
from lumiere.requests.json_form import change_request, find_sidecar, read_sidecar, sidecar
from lumiere.requests.request import MAX_FRAMES, Box, Request, make_request

__all__ = [
    "MAX_FRAMES",
    "Box",
    "Request",
    "Row",
    "change_request",
    "find_sidecar",
    "make_request",
    "read_rows",
    "read_sidecar",
    "sidecar",
]
