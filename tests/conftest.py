"What the tests share."
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from catalog_tagger.testing.browser import find_chromium

def pytest_configure(config): config.addinivalue_line('markers', "nbdev: needs nbdev, or what else is in the developers' extra alone")

def pytest_collection_modifyitems(items):
    "nbdev runs with fastcore 1 alone, so an environment of the newest releases has none."
    if find_spec('nbdev'): return
    skip = pytest.mark.skip(reason='needs nbdev, of the developers\' extra: pip install -e ".[dev,test]"')
    for o in items:
        if 'nbdev' in o.keywords: o.add_marker(skip)

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

@pytest.fixture(scope='module')
def browser():
    "A headless Chromium, driven by playwright; a module each, for its event loop would be in the way of other tests' loops."
    drive = pytest.importorskip('playwright.sync_api', reason='needs playwright: pip install playwright').sync_playwright
    if (path := find_chromium()) is None: pytest.skip('needs Chromium: install the package chromium, or set CHROMIUM to the path of one')
    with drive() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])   # its sandbox refuses to start for root, as in containers
        yield browser
        browser.close()

@pytest.fixture
def page(browser):
    "A new page; an error on its console, or a script that fails, fails the test."
    page, faults = browser.new_page(), []
    page.on('console', lambda o: o.type == 'error' and faults.append(o.text)); page.on('pageerror', lambda o: faults.append(str(o)))
    yield page
    page.close()
    assert not faults, faults
