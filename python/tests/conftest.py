"""What the tests share."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def reviews():
    """The reviews of garments, as a pandas data frame."""
    pandas = pytest.importorskip("pandas")
    return pandas.read_csv(ROOT / "data" / "clothing" / "reviews.csv.gz").head(6000)
