"Build the documentation site into _docs/: a page for each notebook, with the signature and parameters of exported names, then mkdocs."
import ast, base64, copy, io, json, logging, os, re, shutil, sys, tempfile, tokenize
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from readme import directive, expand, packages, text

root = Path(__file__).resolve().parents[1]
nbs = root/'nbs'
parts = {o: o.capitalize() for o in packages}
named = (ast.FunctionDef, ast.ClassDef)

def has(cell, word): return re.search(rf'^\s*#\s*\|\s*{word}\b', text(cell['source']), re.M)
def code(cell): return directive.sub('', text(cell['source'])).strip()
def is_public(name): return not name.split('.')[-1].startswith('_')
def fence(s, lang=''): return f'````{lang}\n{s}\n````'

# -- what a cell exports

def full_name(o):
    "Of a patched method the name with its class."
    patched = any('patch' in ast.unparse(d) for d in o.decorator_list)
    return f'{ast.unparse(o.args.args[0].annotation)}.{o.name}' if patched else o.name

def exported(cell):
    "Public functions and classes of a cell by their name."
    if cell['cell_type'] != 'code' or not has(cell, 'export'): return {}
    return {full_name(o): o for o in ast.parse(code(cell)).body if isinstance(o, named) and is_public(full_name(o))}

def remarks(src):
    "Line → the comment at its end."
    tokens = tokenize.generate_tokens(io.StringIO(src).readline)
    return {o.start[0]: o.string.lstrip('# ') for o in tokens if o.type == tokenize.COMMENT}

def unparse(o): return ast.unparse(o) if o is not None else ''
def annotation(o): return unparse(o).strip("'")

def arguments(f):
    "Parameters of a function with their defaults, in order."
    a, first = f.args, f.args.posonlyargs + f.args.args
    return [*zip(first, [None]*(len(first) - len(a.defaults)) + a.defaults), (a.vararg, None), *zip(a.kwonlyargs, a.kw_defaults),
            (a.kwarg, None)]

def parameters(f, said):
    "Name, type, default and meaning of each parameter, and of what comes back."
    rows, last = [], {}
    end = f.returns.end_lineno if f.returns else 0
    for o, default in arguments(f):
        if o is None or o.arg in ('self', 'cls'): continue
        stars = '*'*(o is f.args.vararg) + '**'*(o is f.args.kwarg)
        last[(default or o).end_lineno] = len(rows)
        rows.append([stars + o.arg, annotation(o.annotation), unparse(default), ''])
    for line, i in last.items():
        if line != end: rows[i][-1] = said.get(line, '')
    if f.returns: rows.append(['returns', annotation(f.returns), '', said.get(end, '') if f.body[0].lineno > end else ''])
    return rows

def fields(c, said):
    "The same of the fields of a dataclass, or of what makes an object of a class."
    res = [[o.target.id, annotation(o.annotation), unparse(o.value), said.get(o.end_lineno, '')]
           for o in c.body if isinstance(o, ast.AnnAssign) and is_public(o.target.id)]
    make = next((o for o in c.body if isinstance(o, ast.FunctionDef) and o.name == '__init__'), None)
    return res or (parameters(make, said) if make else [])

def signature(name, o):
    "A call of a function as one writes it, without types; of a property its name."
    if re.search(r'\bproperty|as_prop=True', ' '.join(map(ast.unparse, o.decorator_list))): return name
    f = copy.deepcopy(o)
    for a, _ in arguments(f):
        if a: a.annotation = None
    if f.args.args and f.args.args[0].arg in ('self', 'cls'): f.args.args.pop(0)
    args = [p.strip() for p in re.split(r',\s(?![^(\[{]*[)\]}])', ast.unparse(f.args))] if ast.unparse(f.args) else []
    line = f'{name}({", ".join(args)})'
    return line if len(line) <= 100 else f'{name}(\n    ' + ',\n    '.join(args) + ')'

# -- pages

class Site:
    "Which page each notebook becomes, and where each exported name stands."
    def __init__(self, paths):
        self.cells = {p.relative_to(nbs).as_posix(): json.loads(p.read_text(encoding='utf-8'))['cells'] for p in paths}
        self.names = {n: f for f, cells in self.cells.items() for c in cells for n in exported(c)}

    def link(self, md, page, but=()):
        "`md` with links to notebooks as links to their pages, and exported names linked; fences, headings and links stay."
        def place(m):
            f = self.names.get(m[1])
            return f'[{m[0]}]({os.path.relpath(f, Path(page).parent)[:-6]}.md#{m[1]})' if f and m[1] not in but else m[0]
        bits = re.split(r'(```.*?```|^#.*?$|!?\[[^\]]*\]\([^)]*\))', md, flags=re.S | re.M)
        return ''.join(re.sub(r'(\.ipynb)(?=[)#])', '.md', o) if i % 2 else re.sub(r'`([\w.]+)(?:\(\))?`', place, o)
                       for i, o in enumerate(bits))

    def table(self, rows, page, name):
        "Parameters as a table."
        known = {o[0].strip('*') for o in rows} | {name}
        cells = [[f'`{o}`' if o and o != 'returns' else o for o in r[:3]] + [self.link(r[3], page, known).replace('|', r'\|')]
                 for r in rows]
        used = [i for i in range(4) if any(r[i] for r in rows)]   # no empty columns
        head = [('parameter', 'type', 'default', 'meaning')[i] for i in used]
        return '\n'.join('| ' + ' | '.join(r) + ' |' for r in [head, ['---']*len(head), *([r[i] for i in used] for r in cells)])

    def entry(self, name, o, src, page, level):
        "Heading, signature, docstring and parameters of one exported name."
        said, is_class = remarks(src), isinstance(o, ast.ClassDef)
        rows = fields(o, said) if is_class else parameters(o, said)
        shown = f'class {name}({", ".join(map(unparse, o.bases))})'.replace('()', '') if is_class else signature(name, o)
        doc = ast.get_docstring(o) or ''
        methods = [m for m in o.body if isinstance(m, ast.FunctionDef) and is_public(m.name) and ast.get_docstring(m)] if is_class else []
        told = '\n'.join(f'- `{signature(m.name, m)}`: {ast.get_docstring(m)}' for m in methods)
        return [f'{"#"*level} {name} {{ #{name} }}', fence(shown, 'python'), self.link(doc, page, {name} | {r[0] for r in rows}),
                self.table(rows, page, name) if rows else '', told]

    def exports(self, cell, page, level):
        "What a reader needs of an exported cell, and the code itself folded."
        src = code(cell); tree = ast.parse(src).body
        if all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in tree): return
        for name, o in exported(cell).items(): yield from self.entry(name, o, src, page, level)
        inner = [o.name for o in tree if isinstance(o, named) and not is_public(full_name(o))]
        title = 'Source' + (f': {", ".join(inner)}' if inner and not exported(cell) else '')
        yield f'??? quote "{title}"\n\n' + re.sub(r'^(?=.)', '    ', fence(src, 'python'), flags=re.M)

    def page(self, f, out):
        "The Markdown of notebook `f`; its figures go to `out`."
        level = 2
        for c in self.cells[f]:
            src = text(c['source'])
            if c['cell_type'] == 'markdown':
                src = expand(src)
                level = max([level] + [2]) if not (h := re.findall(r'^(#+) ', src, re.M)) else len(h[-1])
                yield self.link(src.strip(), f)
            elif c['cell_type'] != 'code' or has(c, 'hide') or has(c, 'default_exp'): continue
            elif has(c, 'echo: false'): yield from outputs(c, f, out)
            elif has(c, 'export'): yield from self.exports(c, f, min(max(level + 1, 3), 4))
            else:
                yield fence(code(c), 'python')
                yield from outputs(c, f, out)

def outputs(cell, f, out):
    "What a cell has shown: figures as files, tables as they are, all else as text."
    for i, o in enumerate(cell['outputs']):
        data = o.get('data', {})
        if kind := next((k for k in data if k.startswith('image/')), None):
            figure = out/'figures'/f'{f[:-6].replace("/", "_")}_{cell["id"]}_{i}.{kind[6:]}'
            figure.parent.mkdir(exist_ok=True); figure.write_bytes(base64.b64decode(text(data[kind])))
            link = os.path.relpath(figure, (out/f).parent)
            yield f'<div class="output" markdown>![What the code above shows]({link}){{ loading=lazy }}</div>'
        elif 'text/html' in data:
            html = re.sub(r'<style.*?</style>|^\s*\n| border="1"', '', text(data['text/html']), flags=re.S | re.M)
            yield f'<div class="output">\n{html.strip()}\n</div>'
        elif 'text/markdown' in data: yield text(data['text/markdown']).strip()
        elif s := re.sub(r'\x1b\[[\d;]*m', '', text(o.get('text', data.get('text/plain', '')))).strip('\n'):
            yield f'<div class="output" markdown>\n\n{fence(s, "text")}\n\n</div>'

# -- the site

def title(cells): return re.match(r'# (.+)', text(cells[0 if cells[0]['cell_type'] == 'markdown' else 1]['source']))[1]

def navigation(site):
    "The index, the tutorials, the pages beside the index, then the pages of each package, in the order of their imports."
    beside = {'Names': 'api', 'Results': 'results', 'Glossary': 'glossary', 'Architecture': 'architecture'}
    nav = {'Start': 'index.md', 'Tutorials': [], **{k: f'{o}.md' for k, o in beside.items()}, **{o: [] for o in parts.values()},
           'Project': [{'Changes': 'CHANGELOG.md'}, {'Contributing': 'CONTRIBUTING.md'}]}
    for f in sorted(site.cells, key=lambda o: (Path(o).stem != 'own_catalog', o)):
        if Path(f).stem in ('index', *beside.values()): continue
        nav[parts.get(Path(f).parts[0], 'Tutorials')].append({title(site.cells[f]): f'{f[:-6]}.md'})
    return [{k: v} for k, v in nav.items() if v]

def make(out, to):
    "Write the pages of every notebook into `out`, and the site into `to`."
    site = Site(sorted(nbs.rglob('[!.]*.ipynb')))
    for f in site.cells:
        path = (out/f).with_suffix('.md'); path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n\n'.join(b for b in site.page(f, out) if b) + '\n', encoding='utf-8')
    shutil.copytree(nbs/'images', out/'images')
    for o in (root/'CHANGELOG.md', root/'CONTRIBUTING.md', root/'scripts'/'site.css'): shutil.copy2(o, out)
    build(load_config(str(root/'scripts'/'mkdocs.yml'), docs_dir=str(out), site_dir=str(to), nav=navigation(site)))

if __name__ == '__main__':
    to = Path(sys.argv[1] if len(sys.argv) > 1 else root/'_docs').resolve()
    logging.basicConfig(format='%(message)s', level=logging.WARNING)
    with tempfile.TemporaryDirectory() as tmp:
        try: make(Path(tmp), to)
        except Abort as e: sys.exit(f'the site was not built: {e}')
    print(f'{to.name}/index.html is built; its search needs a server: .venv/bin/python -m http.server -d {to.name}')
