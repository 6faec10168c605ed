"Tutorials: their form, what is stored of them, and the script that stores it."
import json, os, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
pages = sorted((root/'nbs'/'tutorials').glob('*.ipynb'))

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])

@pytest.mark.parametrize('path', pages, ids=lambda o: o.stem)
def test_form(path):
    "A title with one sentence, no module, caches in a temporary folder, and the form that the tests run."
    head, *rest = cells(path)
    assert head['cell_type'] == 'markdown' and source(head).startswith('# ') and '\n> ' in source(head)
    hidden, = [o for o in map(source, rest) if o.startswith('#| hide') and 'IN_TEST' in o]
    assert "os.environ.setdefault('CATALOG_TAGGER_CACHE'" in hidden
    assert not any(o in source(c) for c in rest for o in ('default_exp', '#| export'))

@pytest.mark.parametrize('path', pages, ids=lambda o: o.stem)
def test_stored_outputs(path):
    "From a run that went to the end, with figures, small, and none of a hidden cell."
    code = [c for c in cells(path) if c['cell_type'] == 'code']
    outputs = [o for c in code for o in c['outputs']]
    kinds = {k for o in outputs for k in o.get('data', {})}
    assert kinds & {'image/png', 'image/jpeg'}, f'run `{sys.executable} scripts/tutorials.py {path.stem}`'
    assert all(o['output_type'] in ('stream', 'display_data', 'execute_result') and o.get('name') != 'stderr' for o in outputs)
    assert not any(c['outputs'] for c in code if source(c).startswith('#| hide'))
    assert len(json.dumps(outputs)) < 1_000_000

def notebook(path, *codes):
    nb = dict(
        cells=[dict(cell_type='code', id=f'{i:08x}', metadata={}, source=o, outputs=[], execution_count=None) for i, o in enumerate(codes)],
              metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')), nbformat=4, nbformat_minor=5)
    path.write_text(json.dumps(nb), encoding='utf-8')
    return path

def store(path):
    env = dict(os.environ, IN_TEST='1')
    return subprocess.run([sys.executable, root/'scripts'/'tutorials.py', path.with_suffix('')], env=env, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)

@pytest.mark.nbdev
def test_script_stores_what_is_worth_seeing(tmp_path):
    page = notebook(tmp_path/'page.ipynb', "#| hide\nimport os, sys; print('hidden')",
                    "print('IN_TEST' in os.environ); print('log', file=sys.stderr)",
                    "import matplotlib.pyplot as plt; plt.figure(figsize=(20, 2)); plt.plot([1, 2]);")
    r = store(page)
    assert r.returncode == 0, r.stdout
    hidden, said, figure = cells(page)
    assert hidden['outputs'] == []
    assert [''.join(o['text']) for o in said['outputs']] == ['False\n']   # the full run, and no log
    assert [list(o['data']) for o in figure['outputs']] == [['image/png']] and len(json.dumps(figure)) < 40_000

@pytest.mark.nbdev
def test_script_writes_nothing_where_a_cell_fails(tmp_path):
    page = notebook(tmp_path/'page.ipynb', "print('seen')", '1/0')
    before = page.read_bytes()
    r = store(page)
    assert r.returncode != 0 and 'ZeroDivisionError' in r.stdout and page.read_bytes() == before
