"""Run what a change since main touches: its pages, then the tests that import a changed module, the nearest first. After 90 seconds no
page or test is started; those left out are listed."""
import os, re, signal, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from check import counts, files, imported, notebooks, root

longest = 90                            # Seconds after which nothing is started
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
    "Module or test → how many names it takes from each module, and from `changed` files besides modules and pages if it names them."
    known = {f'{o}/{f}': p for o in ('catalog_tagger', 'tests') for f,p in files(root/o, '*.py').items()}
    others = {o for o in changed if o not in known and not o.endswith('.ipynb')}
    def uses(path):
        text = path.read_text(encoding='utf-8')
        names = {*imported(path), *re.findall(r'catalog_tagger(?:\.\w+)+', text)}   # python -m catalog_tagger.apps.cli
        return Counter([f for o in names if (f := file_of(o, known))] + [o for o in others if Path(o).name in text])
    return {f: uses(p) for f,p in known.items()}

def distances(graph, changed):
    "File → imports between it and the nearest of `changed`, for those that reach one."
    res, steps = dict.fromkeys(changed, 0), 0
    while new := [f for f,used in graph.items() if f not in res and used.keys() & res.keys()]:
        steps += 1
        res.update(dict.fromkeys(new, steps))
    return res

def nearest(graph, changed):
    "Tests that reach one of `changed`, the nearest first, of equals the one that takes most names from them, then least from others."
    steps = distances(graph, changed)
    tests = [o for o in steps if o in graph and o.startswith('tests/test_')]
    return sorted(tests, key=lambda o: (steps[o], -sum(graph[o][c] for c in changed), len(graph[o]), o))

# -- a run

def pytest_runtest_setup(item):
    "Before each test (this file is a pytest plugin): skip the test if time is up, and interrupt it when time is up."
    import pytest
    def end(*args): pytest.skip('out of time')
    signal.signal(signal.SIGALRM, end)
    left = float(os.environ['FAST_UNTIL']) - time.time()
    if left <= 0: end()
    signal.setitimer(signal.ITIMER_REAL, left)

def pytest_runtest_teardown(item): signal.setitimer(signal.ITIMER_REAL, 0)

def pytest_report_teststatus(report):
    "No letter for each test that was left out."
    if report.skipped and 'out of time' in str(report.longrepr): return 'left out', '', ''

def run_tests(tests, xml):
    "Run test files in their order; returns the exit code of pytest, and for each file how many tests there was no time for."
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(root/'scripts'), os.environ.get('PYTHONPATH', '')]))
    args = '-q -rf --disable-warnings -n2 --maxschedchunk=2 -p fast --junitxml'.split()
    rc = subprocess.run([sys.executable, '-m', 'pytest', *tests, *args, xml], cwd=root, env=env).returncode
    late = [o for o in ET.parse(xml).iter('testcase') if any('out of time' in s.get('message', '') for s in o)]
    return rc, Counter(o.get('classname').split('.')[1] for o in late)

def main():
    changed, start = changed_files(), time.time()
    os.environ['FAST_UNTIL'] = str(start + longest)
    graph = import_graph(changed)
    pages = sorted(o for o in changed if o.startswith('nbs/') and o.endswith('.ipynb') and (root/o).exists())
    tests, rc, late = nearest(graph, changed), 0, {}
    print(f'{len(changed)} changed files', f'pages: {", ".join(pages) or "none"}',
          f'tests, the nearest first: {", ".join(Path(o).stem for o in tests) or "none"}', sep='\n', flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        while pages and time.time() < start + longest:
            notebooks(Path(tmp), pages[:2])
            del pages[:2]
        if tests: rc, late = run_tests(tests, Path(tmp, 'pytest.xml'))
    alone = [o for o in sorted(changed) if not o.endswith('.ipynb') and not nearest(graph, {o})]
    if left := pages + [f'{n} of {o}' for o,n in late.items()]: print('not run, out of time:', ', '.join(left))
    if alone: print('no test imports or names:', ', '.join(alone))
    print(f'{time.time() - start:.0f} s. All checks: make test')
    sys.exit(bool(rc or counts['failed']))

if __name__ == '__main__': main()
