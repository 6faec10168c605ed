"Make README.md from nbs/index.ipynb: its prose, its code, and its outputs as far as they are text."
import json, re, sys
from pathlib import Path
from textwrap import indent

root = Path(__file__).resolve().parents[1]
first = '<!-- made from nbs/index.ipynb by scripts/readme.py: edit there -->'
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

def blocks(cell):
    "What `cell` gives to the page, block by block."
    src = text(cell['source'])
    if cell['cell_type'] == 'markdown': return [prose(src).strip()]
    if cell['cell_type'] != 'code' or re.search(r'^\s*#\s*\|\s*hide\s*$', src, re.M): return []
    code = directive.sub('', src).strip()
    return [f'```python\n{code}\n```' if code else ''] + [output(o) for o in cell['outputs']]

def readme():
    cells = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    return '\n\n'.join([first] + [b for c in cells for b in blocks(c) if b]) + '\n'

if __name__ == '__main__':
    try: new = readme()
    except (OSError, ValueError) as e: sys.exit(f'nbs/index.ipynb cannot be read: {e}')
    path = root/'README.md'
    if '--check' not in sys.argv[1:]: path.write_text(new, encoding='utf-8', newline='\n')
    elif not path.exists() or path.read_bytes() != new.encode(): sys.exit('README.md is not what nbs/index.ipynb makes: run `make notebooks`')
