"""Run what a change since main touches: its pages, then the tests that import a changed module, the nearest first. After 90 seconds no
page and no test is begun; what is left out is told."""
import os, re, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from check import counts, files, imported, notebooks, root

longest = 90                            # Seconds after which nothing is begun
made = {'catalog_tagger/_modidx.py'}    # nbdev writes it for every page

# -- what is touched

def git(*args): return subprocess.run(['git', *args], cwd=root, text=True, capture_output=True).stdout.splitlines()

def changed_files():
    "Files that differ from main, committed or not."
    base = git('merge-base', 'HEAD', 'origin/main') or git('merge-base', 'HEAD', 'main') or ['HEAD']
    return {*git('diff', '--name-only', *base), *git('ls-files', '--others', '--exclude-standard')} - made

def file_of(name, known):
    "The file among `known` of a module, or of a name that is imported from it."
    paths = [f'{folder}{o.replace(".", "/")}.py' for o in (name, name.rpartition('.')[0]) for folder in ('', 'tests/')]
    return next((o for o in paths if o in known), None)

def import_graph(changed):
    "Module or test → the modules that it imports, and the `changed` files besides modules and pages that it names."
    known = {f'{o}/{f}': p for o in ('catalog_tagger', 'tests') for f,p in files(root/o, '*.py').items()}
    others = {o for o in changed if o not in known and not o.endswith('.ipynb')}
    def uses(path):
        text = path.read_text(encoding='utf-8')
        names = {*imported(path), *re.findall(r'catalog_tagger(?:\.\w+)+', text)}   # python -m catalog_tagger.apps.cli
        return {file_of(o, known) for o in names} - {None} | {o for o in others if Path(o).name in text}
    return {f: uses(p) for f,p in known.items()}

def distances(graph, changed):
    "File → imports between it and the nearest of `changed`, for those that reach one."
    res, steps = dict.fromkeys(changed, 0), 0
    while new := [f for f,used in graph.items() if f not in res and used & res.keys()]:
        steps += 1
        res.update(dict.fromkeys(new, steps))
    return res

def nearest(graph, changed):
    "Tests that reach one of `changed`, the nearest first, of equals the one that imports least."
    steps = distances(graph, changed)
    return sorted((o for o in steps if o in graph and o.startswith('tests/test_')), key=lambda o: (steps[o], len(graph[o]), o))

# -- a run

def pytest_runtest_setup(item):
    "Before each test, for this file is a plugin of its run."
    import pytest
    if time.time() > float(os.environ['FAST_UNTIL']): pytest.skip('time is over')

def run_tests(tests, xml):
    "Run test files in their order; returns the exit code of pytest, and for each file how many tests there was no time for."
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(root/'scripts'), os.environ.get('PYTHONPATH', '')]))
    rc = subprocess.run([sys.executable, '-m', 'pytest', *tests, '-q', '-rf', '-n2', '--dist=loadfile', '--no-loadscope-reorder', '-p', 'fast',
                         f'--junitxml={xml}'], cwd=root, env=env).returncode
    late = [o.get('classname').split('.')[1] for o in ET.parse(xml).iter('testcase') for s in o.iter('skipped') if 'time is over' in s.get('message')]
    return rc, Counter(late)

def main():
    changed, start = changed_files(), time.time()
    os.environ['FAST_UNTIL'] = str(start + longest)
    graph = import_graph(changed)
    pages = sorted(o for o in changed if o.startswith('nbs/') and o.endswith('.ipynb') and (root/o).exists())
    tests, rc, left = nearest(graph, changed), 0, []
    print(f'{len(changed)} changed files: {len(pages)} pages, and tests in {len(tests)} files import what is changed, the nearest first:',
          *pages, *tests, sep='\n    ', flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        while pages and time.time() < start + longest:
            notebooks(Path(tmp), pages[:2])
            del pages[:2]
        if tests: rc, late = run_tests(tests, Path(tmp, 'pytest.xml')); left = [f'{o}.py: {n} tests' for o,n in late.items()]
    alone = [o for o in sorted(changed) if not o.endswith('.ipynb') and not nearest(graph, {o})]
    if left := pages + left: print('Left out, for time was over:', *left, sep='\n    ')
    if alone: print('No test imports or names:', *alone, sep='\n    ')
    print(f'{time.time() - start:.0f} s. The whole: make test')
    sys.exit(bool(rc or counts['failed']))

if __name__ == '__main__': main()
