"What `make notebook` stores of a page, and when the check of outputs calls two texts the same."
import base64, io, subprocess, sys
from pathlib import Path

import pytest
from PIL import Image

nbio = pytest.importorskip('execnb.nbio', reason='needs nbdev, of the developers\' extra: pip install -e ".[dev,test]"')

root = Path(__file__).resolve().parents[1]

@pytest.fixture(scope='module')
def nb():
    "The script as a module; its name is that of a package of Jupyter."
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location('scripts_notebook', root/'scripts'/'notebook.py')
    module = module_from_spec(spec); spec.loader.exec_module(module)
    return module

@pytest.mark.parametrize('a, b', [('F1 0.512', 'F1   0.514'), ('57%', '58%'), ('[1.00e-03]', '[1.01e-03]'), ('-0.01', '0.0')])
def test_same(nb, a, b): assert nb.same(a, b)

@pytest.mark.parametrize('a, b', [('3 pictures', '4 pictures'), ('F1 0.51', 'F1 0.54'), ('1e-03', '1e-02'), ('red 0.5', 'blue 0.5'),
                                  ('', '0.5'), ('50%', '57%'), ('[1, 2]', '[1, 2, 3]')])
def test_not_same(nb, a, b): assert not nb.same(a, b)

def page(*cells):
    "A notebook of code cells, each its source and what it printed."
    res = nbio.dict2nb(dict(cells=[nbio.mk_cell(source) for source, _ in cells], metadata={}, nbformat=4, nbformat_minor=5))
    for i, (c, (_, said)) in enumerate(zip(res.cells, cells)):
        c.id, c.outputs = f'{i:08x}', [dict(output_type='stream', name='stdout', text=[said])] if said else []
    return res

def test_stale(nb):
    stored = page(('a', '0.5'), ('b', ''), ('# not stored', ''), ('c', 'red'))
    run = page(('a', '0.501'), ('b', 'seen'), ('# not stored', '/a/path'), ('c', 'blue'))
    assert list(nb.stale(stored, run)) == [('00000001', 'nothing', "'seen'"), ('00000003', "'red'", "'blue'")]

def test_logs_and_bars_are_no_words(nb):
    said = [dict(output_type='stream', name=n, text=[s]) for n, s in [('stderr', 'log'), ('stdout', '█\r\repoch'), ('stdout', 'a,b\r\n')]]
    value = dict(output_type='execute_result', data={'text/plain': ['<IPython.core.display.Markdown object>'], 'text/markdown': ['# Seen']})
    assert nb.words([*said, value]).split() == ['a,b', '#', 'Seen']
    assert [nb.kept(o, 1000) is None for o in said] == [True, True, False]
    assert list(nb.kept(dict(value, metadata={}), 1000)['data']) == ['text/markdown']

def test_photos_become_jpeg_and_drawings_stay_sharp(nb):
    def png(im): buf = io.BytesIO(); im.save(buf, 'PNG'); return base64.b64encode(buf.getvalue()).decode()
    photo = Image.merge('RGB', [Image.effect_noise((100, 25), 90).resize((2000, 500)) for _ in range(3)])
    (kind, small), = nb.smaller(png(photo), 60_000).items()
    assert kind == 'image/jpeg' and Image.open(io.BytesIO(base64.b64decode(small))).width == 1024
    assert list(nb.smaller(png(Image.new('RGB', (300, 200), 'white')), 60_000)) == ['image/png']

def test_wrong_name_ends_in_one_line():
    r = subprocess.run([sys.executable, root/'scripts'/'notebook.py', 'catalog/08_splt'], text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)
    said, = r.stdout.splitlines()
    assert r.returncode and said.startswith('nbs/ holds no catalog/08_splt.ipynb; near it: catalog/08_split')
