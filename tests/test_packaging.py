"What is installed is what stands here: the metadata, the wheel, the version, and imports that stay light."
import ast, re, shutil, subprocess, sys
from collections import Counter
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest
import catalog_tagger
from catalog_tagger.core.extras import OPTIONAL
from catalog_tagger.core.render import COLOURS

root = Path(__file__).resolve().parents[1]
lib = root/'catalog_tagger'
developers, testers = {'nbdev', 'execnb', 'ghapi'}, {'pytest', 'pytest-xdist', 'hypothesis', 'nbclient', 'playwright'}

@pytest.fixture(scope='module')
def settings():
    cfg = ConfigParser(); cfg.read(root/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built without a network from a copy, so that nothing is left in the repository and nothing old goes in."
    src, out = tmp_path_factory.mktemp('src')/'repo', tmp_path_factory.mktemp('wheel')
    shutil.copytree(root, src, ignore=shutil.ignore_patterns('.*', '*.egg-info', 'build', 'dist', '__pycache__', 'demo_run'))
    cmd = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', out, src]
    r = subprocess.run(cmd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert r.returncode == 0, r.stdout
    with ZipFile(next(out.glob('*.whl'))) as z: yield z

@pytest.fixture(scope='module')
def metadata(wheel):
    return message_from_bytes(wheel.read(next(o for o in wheel.namelist() if o.endswith('.dist-info/METADATA'))))

def names(requirements): return {re.match(r'[\w-]+', o)[0].lower() for o in requirements}

def test_requirements(metadata, settings):
    reqs = metadata.get_all('Requires-Dist')
    always = [o for o in reqs if 'extra ==' not in o]
    assert names(always) == names(settings['requirements'].split()) and not names(always) & (developers | testers)
    extras = {k.removesuffix('_requirements'): names(v.split()) for k, v in settings.items() if k.endswith('_requirements')}
    assert {k: names(o for o in reqs if re.search(f'extra == .{k}.', o)) for k in metadata.get_all('Provides-Extra')} == extras
    assert developers <= extras['dev'] and testers <= extras['test'] and not extras['dev'] & extras['test']

def test_developers_alone_have_caps(settings):
    "What a user or a test environment installs may be the newest release; what the tests need of the extras is in theirs."
    lists = {k: v.split() for k, v in settings.items() if k == 'requirements' or k.endswith('_requirements')}
    assert {k for k, v in lists.items() if any(re.search('[<~!]|==', o) for o in v)} == {'dev_requirements'}
    optional = {o for extra in ('app', 'cleanlab', 'faiss', 'fetch', 'interpret', 'metric', 'onnx') for o in lists[f'{extra}_requirements']}
    assert optional <= {*lists['test_requirements']}

def test_wheel_holds_the_library_alone(wheel):
    held = {o for o in wheel.namelist() if '.dist-info/' not in o}
    assert {o for o in held if o.endswith('.py')} == {p.relative_to(root).as_posix() for p in lib.rglob('*.py')}
    others = {p.relative_to(root).as_posix() for o in ('*.css', '*.js', '*.json') for p in lib.rglob(o)}
    assert {o for o in held if not o.endswith('.py')} == others
    assert {'catalog_tagger/apps/web.css', 'catalog_tagger/apps/web.js', 'catalog_tagger/report/report.css',
            'catalog_tagger/report/report.js'} <= held
    assert {o.split('/')[0] for o in held} == {'catalog_tagger'}

def test_wheel_holds_the_licence(wheel):
    held, = [o for o in wheel.namelist() if o.endswith('/LICENSE')]
    assert wheel.read(held) == (root/'LICENSE').read_bytes()

def test_version(metadata, settings):
    assert catalog_tagger.__version__ == settings['version'] == metadata['Version']

def fresh(code):
    "What `code` prints in a process that has imported nothing."
    r = subprocess.run([sys.executable, '-c', code], cwd=root, text=True, capture_output=True)
    assert r.returncode == 0, r.stderr
    return r.stdout.split()

def modules(*folders):
    return ['.'.join(p.relative_to(root).with_suffix('').parts) for o in folders for p in sorted((lib/o).rglob('[!_]*.py'))]

def importing(names): return f'import sys\nfrom importlib import import_module\nfor o in {names}: import_module(o)\n'

def test_serving_imports_no_fastai():
    "All that opens pictures, answers and searches, but for `serve.fit`, which needs a learner."
    serving = [o for o in modules('core', 'catalog', 'serve') if not o.endswith('.fit')]
    serving += [f'catalog_tagger.{o}'
                for o in ('search.vectors', 'search.exact', 'search.faiss', 'search.embed', 'search.index', 'runs.folder')]
    loaded = fresh(importing(serving) + 'print(*sys.modules)')
    assert 'catalog_tagger.serve.tagger' in loaded and [o for o in loaded if o.split('.')[0] == 'fastai'] == []

def test_the_files_and_the_config_import_the_standard_library_alone():
    loaded = fresh(importing(['catalog_tagger.core.files', 'catalog_tagger.core.config']) + 'print(*sys.modules)')
    assert {'torch', 'numpy', 'pandas', 'PIL', 'fastcore'} & {o.split('.')[0] for o in loaded} == set()

def test_every_module_can_be_imported(): fresh(importing(modules('')))

def test_every_optional_package_has_its_extra(settings):
    "What a message says to install does bring the package."
    for package, extra in OPTIONAL.values():
        if extra is None: continue
        brought = names(settings[f'{extra}_requirements'].split())
        assert any(package.lower() in o for o in brought), f'{package} is not in the extra {extra}'

def test_a_colour_with_a_meaning_stands_once():
    "Page, report and heat maps take the colours of right, wrong and hot from one place."
    held = {p.name: p.read_text(encoding='utf-8').lower() for o in ('*.py', '*.css', '*.js') for p in lib.rglob(o)}
    for colour in {c for o in COLOURS.values() for c in o}:
        assert [name for name, text in held.items() if colour in text] == ['render.py']
    assert all('var(--wrong)' in held[o] for o in ('web.css', 'report.css'))

def private_names(path):
    "Functions, classes and constants of the module at `path` that no other shall use; methods, which `patch` adds, aside."
    for o in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(o, ast.Assign): found = [t.id for t in o.targets if isinstance(t, ast.Name)]
        elif isinstance(o, (ast.FunctionDef, ast.ClassDef)): found = [o.name] if 'patch' not in map(ast.unparse, o.decorator_list) else []
        else: found = []
        yield from (o for o in found if o.startswith('_') and not o.startswith('__'))

def test_a_private_name_stands_in_one_module():
    "Whoever looks for a helper finds one."
    where = Counter(name for p in lib.rglob('[!_]*.py') for name in private_names(p))
    assert len(where) > 100 and [o for o, n in where.items() if n > 1] == []
