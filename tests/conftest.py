"What the tests share."
import os
from pathlib import Path

import pytest

@pytest.fixture(scope='session')
def data_root():
    "The folder of real data sets; tests that need it are skipped on a machine that has none."
    path = os.environ.get('CATALOG_TAGGER_DATA')
    if not path: pytest.skip('needs real data: set CATALOG_TAGGER_DATA to the folder that holds the data sets')
    return Path(path)

@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory):
    "Decoded pictures of tests lie in no user's cache."
    os.environ['CATALOG_TAGGER_CACHE'] = str(tmp_path_factory.mktemp('cache'))
