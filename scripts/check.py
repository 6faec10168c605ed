"Run every check of the repository, or those named: lines, imports, clean, export, readme, notebooks, pytest. Ends in `N passed, M failed`."
import ast, json, os, re, shutil, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ET
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from notebook import Shell, in_tests, largest, read_nb, root, stale

written = ('all.py', '*.css', '*.js', 'catalog/profiles/*.json')   # What no notebook exports
packages = ('core', 'catalog', 'train', 'serve', 'search', 'runs', 'report', 'apps')   # In the order of their imports
longest = 140                                  # Characters of a line of code
longest_run = 10                               # Seconds of the processor that a page takes whose outputs are compared
no_text = {'image/png', 'image/jpeg'}          # Outputs in which a path would be chance
late_export = re.compile(r'^(?!\s*#\s*\|)[^\S\n]*\S(?:.*\n)+?#\s*\|\s*export', re.M)    # There nbdev overlooks it
counts = Counter(passed=0, failed=0)

def tell(ok, name, why=''):
    "Count one check and print its line; further lines of `why` are indented."
    counts['passed' if ok else 'failed'] += 1
    print('ok    ' if ok else 'FAILED', f'{name} {why}'.strip().replace('\n', '\n       '), flush=True)

def tail(s, n=60): return '\n'.join(s.strip().splitlines()[-n:])

def run(*args, cwd=root, **env):
    "Run this Python with `args`; returns its exit code and all that it printed."
    env = {k:v for k,v in os.environ.items() if k != 'IN_TEST'} | env   # with IN_TEST set nbdev_export does nothing
    r = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env=env, text=True, errors='replace',
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return r.returncode, r.stdout

def files(folder, pat='*'):
    "Files of `folder` by relative path, without caches."
    paths = {p.relative_to(folder): p for p in sorted(Path(folder).rglob(pat)) if p.is_file()}
    return {str(k): p for k,p in paths.items() if not {'__pycache__', '.ipynb_checkpoints'} & set(k.parts)}

def by_hand(f): return any(fnmatch(f, o) for o in written)

def nb_files():
    res = files(root/'nbs', '*.ipynb')
    if not res: raise RuntimeError('no notebook stands in nbs/')
    return res

def copy(tmp):
    "A copy of what nbdev reads and writes, to try its commands on."
    (tmp/'nbs').mkdir()
    for f,p in nb_files().items():
        (tmp/'nbs'/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(p, tmp/'nbs'/f)
    shutil.copytree(root/'catalog_tagger', tmp/'catalog_tagger', ignore=shutil.ignore_patterns('.ipynb_checkpoints', '__pycache__'))
    for o in ('settings.ini', 'setup.py'): shutil.copy2(root/o, tmp/o)
    return tmp

def compare(new, old, name, pat='*'):
    "What differs between two folders, one line a file; `old` is the repository's."
    a, b = files(new, pat), files(old, pat)
    for f in sorted(a.keys() | b.keys()):
        if f not in b: yield f'{name}/{f} is missing'
        elif f not in a: yield f'{name}/{f} comes from no notebook'
        elif a[f].read_bytes() != b[f].read_bytes(): yield f'{name}/{f} differs'

def strings(o):
    "Every text in an output."
    if isinstance(o, str): yield o
    elif isinstance(o, list): yield from (s for x in o for s in strings(x))
    elif isinstance(o, dict): yield from (s for k,x in o.items() if k not in no_text for s in strings(x))

def machine_paths():
    "Finds a path that only this machine has."
    paths = {str(o) for o in (root, Path.home(), Path(tempfile.gettempdir()), '/tmp') if len(Path(o).parts) > 1}
    return re.compile(r'(?<![\w.])(?:' + '|'.join(map(re.escape, sorted(paths, key=len, reverse=True))) + r')(?![\w.-])')

def cell_faults(nb, path_re):
    "Ids that are missing, malformed or double, directives that nbdev overlooks, and outputs that hold a path of this machine."
    seen = set()
    for i,c in enumerate(nb['cells']):
        id = c.get('id')
        if not re.fullmatch('[0-9a-f]{8}', str(id)): yield f'cell {i}: its id is {id!r}, not 8 hex digits'
        elif id in seen: yield f'cell {i}: the id {id} stands twice'
        seen.add(id)
        if c['cell_type'] == 'code' and late_export.search(''.join(c['source'])):
            yield f'cell {id}: #| export stands below code or a comment'
        m = next((m for s in strings(c.get('outputs', [])) if (m := path_re.search(s))), None)
        if m: yield f'cell {id}: its output holds {m[0]}'

def code_of(cell):
    "The code of a cell: all of it, or in prose what stands between fences."
    text = ''.join(cell['source'])
    return text if cell['cell_type'] == 'code' else '\n'.join(re.findall(r'^```.*?^```', text, re.M | re.S))

def code_files():
    "Code by the place that a fault names: cells of notebooks, and files that are written by hand."
    for f,p in nb_files().items():
        for c in json.loads(p.read_text(encoding='utf-8'))['cells']: yield f'nbs/{f} {c.get("id")}', code_of(c)
    for o in ('tests', 'benchmarks', 'scripts'):
        yield from ((f'{o}/{f}', p.read_text(encoding='utf-8')) for f,p in files(root/o, '*.py').items())
    for f,p in files(root/'catalog_tagger').items():
        if by_hand(f): yield f'catalog_tagger/{f}', p.read_text(encoding='utf-8')

def lines(tmp):
    faults = [f'{place}: {o[:60]} … has {len(o)} characters' for place,text in code_files() for o in text.splitlines() if len(o) > longest]
    tell(not faults, 'lines', '\n'.join(faults))

def imported(path):
    "What the module at `path` imports, by its full name, at its top or in a function."
    here = path.relative_to(root).parts[:-1]
    for o in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(o, ast.Import): yield from (a.name for a in o.names)
        if isinstance(o, ast.ImportFrom):
            parts = [*here[:len(here) + 1 - o.level], o.module] if o.level else [o.module]
            yield from ('.'.join(filter(None, [*parts, a.name])) for a in o.names)

def imports(tmp):
    "A package imports only those to its left; `testing` may import all of them, and only `apps` imports it."
    faults = []
    for f,p in files(root/'catalog_tagger', '*.py').items():
        package = f.split('/')[0]
        if package not in packages: continue
        left = {*packages[:packages.index(package) + 1], *(['testing'] if package == 'apps' else [])}
        faults += [f'catalog_tagger/{f} imports {o}' for o in imported(p) if o.startswith('catalog_tagger.')
                   and o.split('.')[1] not in left]
    tell(not faults, 'imports', '\n'.join(faults))

def clean(tmp):
    faults, path_re = [], machine_paths()
    for f,p in nb_files().items():
        try: faults += [f'nbs/{f} {o}' for o in cell_faults(json.loads(p.read_text(encoding='utf-8')), path_re)]
        except (ValueError, KeyError) as e: faults.append(f'nbs/{f} is no notebook: {e!r}')
        if (n := p.stat().st_size) > largest: faults.append(f'nbs/{f} has {n:,} bytes, more than {largest:,}: draw less')
    rc, out = run('-c', 'from nbdev.clean import nbdev_clean; nbdev_clean()', cwd=copy(tmp))
    if rc: faults.append(tail(out))
    faults += [f'{o} from what nbdev_clean writes' for o in compare(tmp/'nbs', root/'nbs', 'nbs', '*.ipynb')]
    tell(not faults, 'clean', '\n'.join(faults))

def export(tmp):
    lib = copy(tmp)/'catalog_tagger'
    for f,p in files(lib).items():
        if not by_hand(f): p.unlink()
    rc, out = run('-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=tmp)
    faults = ([tail(out)] if rc else []) + list(compare(lib, root/'catalog_tagger', 'catalog_tagger'))
    tell(not faults, 'export', '\n'.join(faults))

def readme(tmp):
    rc, out = run('scripts/readme.py', '--check')
    tell(not rc, 'readme', tail(out))

def timed(fn, **kwargs):
    """nbdev's `test_nb`, writing down which notebook ran, whether it passed, how long it took and which cells did not say what is stored:
    None of a page that takes long, for much is trained there, and of a tutorial, which stores its full run."""
    import nbdev.test
    nbdev.test.CaptureShell, start = Shell, time.process_time()
    ok, secs = nbdev.test.test_nb(fn, **kwargs)
    compared = ok and time.process_time() - start < longest_run and fn.parent.name != 'tutorials'
    differs = [*stale(read_nb(fn), Shell.nb)] if compared else None
    with open(os.environ['CHECK_LOG'], 'a', encoding='utf-8') as f: f.write(json.dumps([str(fn), ok, secs, differs]) + '\n')
    return ok, secs

def nbdev_test(paths):
    "nbdev's own command with `timed` in its workers: it tells neither times when one fails nor what it left out."
    import nbdev.test as t
    parallel, t.nbglob = t.parallel, lambda *args, **kwargs: list(map(Path, paths))
    t.parallel = lambda f, *args, **kwargs: parallel(timed, *args, **kwargs)
    t.nbdev_test(n_workers=2)

def notebooks(tmp, pages=None):
    "Run all pages, or those named by their path in the repository."
    found, log = {f: p for f,p in nb_files().items() if not pages or f'nbs/{f}' in pages}, tmp/'log'
    log.write_text('')
    rc, out = run('-c', 'import sys; sys.path.insert(0, "scripts"); import check; check.nbdev_test(sys.argv[1:])', *found.values(),
                  CHECK_LOG=str(log), **in_tests)
    done = {fn: res for fn,*res in map(json.loads, log.read_text(encoding='utf-8').splitlines())}
    res = {f: done.get(str(p), (False, 0, None)) for f,p in found.items()}
    for f,(ok,secs,differs) in res.items():
        why = [f'{secs:.1f} s' if secs else 'was left out, or its process died']
        if ok and differs is None: why[0] += ', outputs not compared'
        if differs: why.append(f'its outputs are not current: make notebook NB={f[:-6]}')
        tell(ok and secs and not differs, f'nbs/{f}', '\n'.join(why + [f'{id}: {old} → {new}' for id,old,new in differs or []]))
    if rc and all(ok for ok,*_ in res.values()): tell(False, 'nbdev_test', f'ends with code {rc}')
    if rc: print(tail(out, 100), flush=True)

def pytest(tmp):
    xml = tmp/'pytest.xml'
    rc, out = run('-m', 'pytest', 'tests', '-q', '-rfEs', '-n', '2', '--dist', 'loadfile', f'--junitxml={xml}', OMP_NUM_THREADS='1')
    cases = list(ET.parse(xml).iter('testcase')) if xml.exists() else []
    if not cases: return tell(False, 'pytest', 'found no test\n' + tail(out))
    kinds = Counter(next((o.tag for o in c if o.tag in ('failure', 'error', 'skipped')), 'passed') for c in cases)
    bad = kinds['failure'] + kinds['error']
    counts.update(passed=kinds['passed'], failed=bad or int(rc != 0), skipped=kinds['skipped'])
    print('FAILED' if bad or rc else 'ok    ', 'pytest', tail(out, 100 if rc else 1 + kinds['skipped']), flush=True)

checks = dict(lines=lines, imports=imports, clean=clean, export=export, readme=readme, notebooks=notebooks, pytest=pytest)

def main():
    names = sys.argv[1:] or list(checks)
    if wrong := [o for o in names if o not in checks]: sys.exit(f'no check is called {wrong[0]}; there are: {", ".join(checks)}')
    for name in names:
        start = time.time()
        with tempfile.TemporaryDirectory() as tmp:
            try: checks[name](Path(tmp).resolve())
            except Exception as e: tell(False, name, f'{type(e).__name__}: {e}')
        print(f'       {name}: {time.time() - start:.0f} s', flush=True)
    skipped = f', {counts["skipped"]} skipped' if counts['skipped'] else ''
    print(f'{counts["passed"]} passed, {counts["failed"]} failed{skipped}')
    sys.exit(counts['failed'] > 0)

if __name__ == '__main__': main()
