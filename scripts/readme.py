"Make README.md from nbs/index.ipynb: its prose, its code, and its outputs as far as they are text."
import json, re, sys
from pathlib import Path
from textwrap import indent

root = Path(__file__).resolve().parents[1]
first = '<!-- made from nbs/index.ipynb by scripts/readme.py: edit there -->'
packages = dict(   # In the order in which one may import another
    core='the table\'s contract, files that are whole or absent, records, `RunConfig`, jobs that resume, metrics',
    catalog='readers, pictures, text, labels and their recipe, the split',
    train='data, backbones, losses, the learner, checkpoints, activations, schedules',
    serve='answers, calibration, thresholds, `Tagger` and its bundle, ONNX, many pictures; no fastai',
    search='embeddings, the index of similar products, metric learning, self-supervision',
    runs='`Run`, the folder of a run, and what opens one: training, tagging, evaluating, comparing, indexing',
    report='plots, interpretation, label issues, the one-page report',
    apps='the command, the check of a catalog, the web page, the tour',
    testing='the drawn demo catalog and tiny things for lessons and tests')
directive = re.compile(r'^\s*#\s*\|.*\n?', re.M)

def text(o): return o if isinstance(o, str) else ''.join(o)

def prose(s):
    "Pictures and notebooks are named from nbs/ in the notebook, from the root in README.md."
    return re.sub(r'(\]\(|(?:src|href)=["\'])(?:\./)?(images/|[\w/-]+\.ipynb)', r'\1nbs/\2', s)

def output(o):
    "Markdown as it is, other text indented; a picture has no text worth showing."
    data = o.get('data', {})
    if 'text/markdown' in data: return prose(text(data['text/markdown'])).strip()
    if any(k.startswith('image/') for k in data): return ''
    s = re.sub(r'\x1b\[[\d;]*m', '', text(o.get('text', data.get('text/plain', '')))).strip('\n')
    return indent(s, '    ', lambda line: line.strip())

def page_link(path):
    "A link to a page by the name of its module in its package."
    name = '/'.join([*path.relative_to(root/'nbs').parts[1:-1], path.stem.split('_', 1)[1].replace('_', ' ')])
    return f'[{name}]({path.relative_to(root/"nbs").as_posix()})'

def pages():
    "A row for each package: the pages of its modules, in their order."
    rows = []
    for name in packages:
        found = sorted((root/'nbs'/name).rglob('*.ipynb'), key=lambda o: (len(o.parts), o))
        rows.append(f'| `{name}` | {packages[name]} | {", ".join(map(page_link, found))} |')
    return '\n'.join(['| package | holds | pages |', '|---|---|---|', *rows])

def expand(src):
    "`src` with the table of packages where it asks for one."
    return src.replace('{{pages}}', pages()) if '{{pages}}' in src else src

def has(src, flag): return re.search(rf'^\s*#\s*\|\s*{flag}\s*$', src, re.M)

def blocks(cell):
    "What `cell` gives to the page, block by block; of a cell with `#| echo: false` what it has shown alone."
    src = text(cell['source'])
    if cell['cell_type'] == 'markdown': return [prose(expand(src)).strip()]
    if cell['cell_type'] != 'code' or has(src, 'hide'): return []
    code = '' if has(src, 'echo: false') else directive.sub('', src).strip()
    return [f'```python\n{code}\n```' if code else ''] + [output(o) for o in cell['outputs']]

def readme():
    cells = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    return '\n\n'.join([first] + [b for c in cells for b in blocks(c) if b]) + '\n'

if __name__ == '__main__':
    try: new = readme()
    except (OSError, ValueError) as e: sys.exit(f'nbs/index.ipynb cannot be read: {e}')
    path = root/'README.md'
    if '--check' not in sys.argv[1:]: path.write_text(new, encoding='utf-8', newline='\n')
    elif not path.exists() or path.read_bytes() != new.encode():
        sys.exit('README.md is not what nbs/index.ipynb makes: run `make notebooks`')
