"""
Runs of the laboratories, as they are recorded.
"""

import pytest

from benchmarks import provenance
from benchmarks.laboratory.experiments import config_digest, options_of
from benchmarks.laboratory.laboratories import LABORATORIES

laboratories = pytest.mark.parametrize("laboratory", LABORATORIES)


def line_of(made, ap, **fields):
    return {
        **made._asdict(),
        "test_split": "val",
        "options": options_of(made),
        "config": config_digest(LABORATORIES[made.laboratory].config),
        **{"AP": ap, "AP50": None if ap is None else ap + 10},
        "diverged_at": 117 if ap is None else None,
        "curves": {"num_fg": [6, 8, *[0] * 16, 10, 12], "num_bg": [26, 24, *[32] * 16, 22, 20]},
        **dict.fromkeys(provenance.PROVENANCE, "abc"),
        **fields,
    }
