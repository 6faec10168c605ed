"Run the tutorials, or those named, at full size and store their outputs, made small; on real data where CATALOG_TAGGER_DATA is."
import base64, io, json, os, sys, time
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from nbdev.clean import nbdev_clean
from PIL import Image

root = Path(__file__).resolve().parents[1]
folder = root/'nbs'/'tutorials'
shown = ('text/plain', 'text/html', 'text/markdown', 'image/png')

def smaller(png, width=1000, colours=96):
    "A figure of few kilobytes: at most `width` px wide, of at most `colours` colours."
    im = Image.open(io.BytesIO(base64.b64decode(png)))
    if im.mode != 'RGBA' or im.getextrema()[3][0] == 255: im = im.convert('RGB')   # else it lets a dark page through
    if im.width > width: im = im.resize((width, round(im.height*width/im.width)))
    buf = io.BytesIO(); im.quantize(colours).save(buf, 'PNG', optimize=True)
    return base64.b64encode(buf.getvalue()).decode()

def kept(o):
    "What stays of an output: no log, no progress bar, of a figure the figure alone; None if nothing does."
    if o['output_type'] == 'stream': return o if o['name'] == 'stdout' else None
    data = {k: v for k, v in o['data'].items() if k in shown}
    if 'image/png' in data: data = {'image/png': smaller(''.join(data['image/png']))}
    return dict(o, data=data, metadata={}) if data else None

def run(path):
    "Run a notebook where it stands and write it with its outputs; the first error ends it, and nothing is written."
    nb, start = read_nb(path), time.time()
    os.chdir(path.parent)
    shell = CaptureShell(path.parent)
    try: shell.run_all(nb, exc_stop=True)
    except Exception: sys.exit(shell.prettytb(fname=path))
    for c in nb.cells:
        if c.cell_type != 'code': continue
        hidden = c.source.lstrip().startswith(('#| hide', '# not stored'))   # real pictures and titles stay out of the repository
        c.outputs, c.execution_count = [] if hidden else [o for o in map(kept, c.outputs) if o], None
    write_nb(nb, path)
    nbdev_clean(path)
    kb = sum(len(json.dumps(c.outputs)) for c in nb.cells if c.cell_type == 'code')/1024
    print(f'{path.name}: {time.time() - start:.0f} s, outputs of {kb:.0f} kB', flush=True)

def main():
    os.environ.pop('IN_TEST', None)   # its short form is for the tests
    names = sys.argv[1:] or sorted(o.stem for o in folder.glob('*.ipynb'))
    if wrong := [o for o in names if not (folder/f'{o}.ipynb').exists()]: sys.exit(f'nbs/tutorials holds no {wrong[0]}.ipynb')
    for o in names: run(folder/f'{o}.ipynb')

if __name__ == '__main__': main()
