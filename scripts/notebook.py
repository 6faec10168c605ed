"Run pages from top to bottom, store what their cells show, and tell what changed: `scripts/notebook.py catalog/08_split`."
import base64, io, json, math, os, re, sys, time
from difflib import get_close_matches
from pathlib import Path
from unittest.mock import patch

import pandas as pd
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from nbdev.clean import clean_nb, nbdev_clean
from nbdev.config import get_config
from PIL import Image

root = Path(__file__).resolve().parents[1]
nbs = root/'nbs'
largest = 200_000                              # Bytes of a notebook
shown = ('text/plain', 'text/html', 'text/markdown', 'image/png')
not_stored = ('#| hide', '# not stored')   # So begins a cell whose outputs stay out of the repository
in_tests = dict(IN_TEST='1', CATALOG_TAGGER_DATA='', NLTK_DATA='', OMP_NUM_THREADS='1', COLUMNS='80')   # Short forms, on drawn catalogs
number = re.compile(r'(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]\d+)?%?')

# -- what a cell shows

class Shell(CaptureShell):
    "execnb's, which forgets what a cell showed before, keeps the prints of one that ends in `;`, and draws no finer than a page needs."
    def __init__(self, path): super().__init__(path, mpl_format='png')

    def run_all(self, nb, **kwargs):
        Shell.nb = nb   # nbdev's `test_nb`, through which pages are checked, does not return it
        pd.reset_option('^display')   # which an earlier page of this process may have set
        pd.set_option('display.max_colwidth', 600)   # as fastai does, but only where no earlier page has imported it
        super().run_all(nb, **kwargs)

    def cell(self, cell, **kwargs):
        if cell.cell_type == 'code': cell.outputs = []
        super().cell(cell, **kwargs)

    def _run(self, raw_cell, *args, **kwargs):
        res = super()._run(f'{raw_cell}\n#', *args, **kwargs)
        res.quiet = raw_cell.rstrip().endswith(';')
        return res

def left_out(cell):
    "Is it no code, or does nbdev's test leave it out?"
    flags = '|'.join(get_config(path=root).tst_flags.split())
    return cell.cell_type != 'code' or re.search(rf'nbdev_export\(|^\s*#\s*\|\s*({flags}|eval:\s*false)\b', cell.source, re.M)

def hidden(cell): return cell.source.lstrip().startswith(not_stored)

def encoded(im, *args, **kwargs):
    buf = io.BytesIO(); im.save(buf, *args, optimize=True, **kwargs)
    return base64.b64encode(buf.getvalue()).decode()

def narrow(im, width): return im if im.width <= width else im.resize((width, round(im.height*width/im.width)))

def smaller(png, limit):
    "A picture by its type: of so few colours, and at last so narrow, that it keeps to `limit`, or a JPEG where that is much smaller."
    im = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGBA')
    opaque = im.getextrema()[3][0] == 255   # else it lets a dark page through
    if opaque: im = im.convert('RGB')
    photo = opaque and encoded(narrow(im, 1024), 'JPEG', quality=60)
    for width, colours in ((1024, 256), (1024, 64), (720, 256), (720, 64), (720, 32), (560, 32)):
        small = encoded(narrow(im, width).quantize(colours), 'PNG')
        if photo and len(photo) < .7*len(small): return {'image/jpeg': photo}
        if len(small) <= limit: break
    return {'image/png': small}

def is_log(o): return o.get('name') == 'stderr' or 'text' in o and re.search(r'\r(?!\n)', ''.join(o['text']))   # or a progress bar

def is_named(plain): return ''.join(plain).startswith('<IPython.core.display')   # says what type a value has, not what it shows

def kept(o, limit):
    "What stays of an output: no log, no progress bar, of a figure the figure alone; None if nothing does."
    if o['output_type'] == 'stream': return None if is_log(o) else o
    data = {k: v for k, v in o['data'].items() if k in shown and not (k == 'text/plain' and is_named(v))}
    if 'image/png' in data: data = smaller(''.join(data['image/png']), limit)
    return dict(o, data=data, metadata={}) if data else None

# -- what differs from what is stored

def is_picture(o): return any(k.startswith('image/') for k in o.get('data', {}))

def words(outputs):
    "What outputs say: prints, and values that are no picture."
    said = []
    for o in outputs:
        if is_log(o) or is_picture(o): continue
        data = o.get('data', {}); plain = data.get('text/plain', '')
        said.append(o.get('text') or (data.get('text/markdown', '') if not plain or is_named(plain) else plain))
    return '\n'.join(''.join(o).strip('\n') for o in said)

def near(a, b):
    "Are two numbers alike? A whole one counts something and must be equal; others are measured: 1 % off, or 1 in the last digit."
    if a == b or a.lstrip('-').isdigit(): return a == b
    a, b = a.rstrip('%'), b.rstrip('%')
    digits, _, power = a.partition('e')
    return math.isclose(float(a), float(b), rel_tol=.01, abs_tol=1.01*10**(int(power or 0) - len(digits.partition('.')[2])))

def same(a, b):
    "Do two texts say the same but for spaces and for measured numbers, which another processor computes a little differently?"
    if [o.split() for o in number.split(a)] != [o.split() for o in number.split(b)]: return False
    return all(map(near, number.findall(a), number.findall(b)))

def stale(stored, nb):
    "Id, what is stored and what was found, of each cell of which the run page `nb` says something else."
    clean_nb(nb)
    found = {c.id: words(c.outputs) for c in nb.cells if c.cell_type == 'code'}
    for c in stored.cells:
        if c.cell_type != 'code': continue
        old, new = words(c.outputs), '' if hidden(c) else found[c.id]
        if not same(old, new): yield c.id, short(old), short(new)

def short(text, n=60): return repr(text if len(text) <= 2*n else f'{text[:n]} … {text[-n:]}') if text else 'nothing'

def told(outputs):
    "What outputs say, in a line, with the size of their pictures."
    kb = sum(len(json.dumps(o)) for o in outputs if is_picture(o))/1000
    return short(words(outputs)) if not kb else f'pictures of {kb:.1f} kB' + (f' and {short(words(outputs))}' if words(outputs) else '')

# -- a run

def store(path, full=False):
    "Run a page where it stands and write it with its outputs; the first error ends it, and nothing is written. `full`: not its short form."
    nb, old, start = read_nb(path), read_nb(path), time.time()
    os.chdir(path.parent)
    shell = Shell(path.parent)
    with patch.dict(os.environ, {} if full else in_tests):
        if full: os.environ.pop('IN_TEST', None)
        try: shell.run_all(nb, exc_stop=True, preproc=left_out)
        except (Exception, SystemExit): sys.exit(shell.prettytb(fname=path))
    found = {c.id: [] if hidden(c) else c.outputs for c in nb.cells if not left_out(c)}
    for limit in range(60_000, 5_000, -5_000):   # of a picture, until the page keeps to its own
        for c in nb.cells:
            if c.id in found: c.outputs = [res for o in found[c.id] if (res := kept(o, limit))]
        write_nb(nb, path)
        nbdev_clean(path)
        if path.stat().st_size <= largest: break
    print(f'{path.name}: {time.time() - start:.0f} s, {path.stat().st_size/1000:.0f} kB')
    for a,b in zip(old.cells, read_nb(path).cells):
        if a.get('outputs') != b.get('outputs'): print(f'    {b.id}: {told(a.outputs)} → {told(b.outputs)}', flush=True)

def find(name):
    "The page of this name below nbs/; a wrong one ends in a line with those that are near."
    name = name.removeprefix('nbs/').removesuffix('.ipynb')
    if (path := nbs/f'{name}.ipynb').exists(): return path
    names = {o.relative_to(nbs).with_suffix('').as_posix() for o in nbs.rglob('[!.]*.ipynb')}
    near = [o for o in sorted(names) if Path(name).name in o] or get_close_matches(name, names)
    sys.exit(f'nbs/ holds no {name}.ipynb' + (f'; near it: {", ".join(near)}' if near else ''))

def main():
    if not sys.argv[1:]: sys.exit('name a page below nbs/: make notebook NB=catalog/08_split')
    sys.path.insert(0, str(root))
    for path in list(map(find, sys.argv[1:])): store(path, full=path.parent.name == 'tutorials')

if __name__ == '__main__': main()
