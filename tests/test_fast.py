"What `make test-fast` runs after a change."
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip('execnb', reason='needs nbdev, of the developers\' extra: pip install -e ".[dev,test]"')

root = Path(__file__).resolve().parents[1]
GRAPH = {f: Counter(names) for f,names in {              # file → how many names it takes from each
    'catalog_tagger/a.py': {}, 'catalog_tagger/b.py': {'catalog_tagger/a.py': 2},
    'catalog_tagger/c.py': {'catalog_tagger/b.py': 1, 'c.css': 1}, 'tests/test_a.py': {'catalog_tagger/a.py': 1, 'catalog_tagger/c.py': 1},
    'tests/test_b.py': {'catalog_tagger/b.py': 1}, 'tests/test_c.py': {'catalog_tagger/c.py': 3}, 'tests/test_none.py': {}}.items()}

@pytest.fixture
def fast(monkeypatch):
    monkeypatch.syspath_prepend(root/'scripts')
    import fast
    yield fast
    for o in ('fast', 'check', 'notebook'): sys.modules.pop(o)   # names that packages may have

@pytest.mark.parametrize('changed, tests', [
    ('catalog_tagger/a.py', 'a b c'), ('catalog_tagger/b.py', 'b c a'), ('catalog_tagger/c.py', 'c a'), ('c.css', 'c a'),
    ('tests/test_none.py', 'none'), ('nbs/a.ipynb', ''), ('LICENSE', '')])
def test_nearest_tests_come_first(fast, changed, tests):
    assert fast.nearest(GRAPH, {changed}) == [f'tests/test_{o}.py' for o in tests.split()]

def test_graph_of_this_repository(fast):
    graph = fast.import_graph({'scripts/docs.py', 'catalog_tagger/apps/web.css'})
    assert 'catalog_tagger/core/files.py' in graph['catalog_tagger/core/table.py']       # a name of a module
    assert 'catalog_tagger/catalog/split.py' in graph['tests/test_split.py']             # a module of a package
    assert 'tests/processes.py' in graph['tests/test_batch.py']                          # what tests share
    assert 'catalog_tagger/apps/cli.py' in graph['tests/test_cli.py']                    # a command of a process
    assert 'scripts/docs.py' in graph['tests/test_docs.py'] and 'catalog_tagger/apps/web.css' in graph['catalog_tagger/apps/web.py']
