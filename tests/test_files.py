"Files that belong together: whatever stops a save, and wherever, a reader finds the old ones or the new ones and never a mix."
import os, signal, subprocess, sys
from pathlib import Path

import pytest
from catalog_tagger.core.files import CatalogError, atomic_files, atomic_path, output_folder, finish_save, is_leftover, sweep, write_json
from catalog_tagger.core.sealed import SUMS, read_sealed, seal

OLD = {'a.json': 'old', 'b.json': 'old', 'c.json': 'old', 'extra.csv': 'old'}
NEW = {'a.json': 'new', 'b.json': 'new', 'c.json': 'new'}
STEPS = len(NEW) + 1    # Renames of one save: the folder, then each file

def held(folder): return {o.name: o.read_text() for o in folder.iterdir() if not is_leftover(o.name)}

@pytest.fixture
def folder(tmp_path):
    for k, v in OLD.items(): (tmp_path/k).write_text(v)
    return tmp_path

def save(folder, files=NEW):
    with atomic_files(folder, OLD) as d:
        for k, v in files.items(): (d/k).write_text(v)

def test_a_whole_save(folder):
    save(folder)
    assert held(folder) == NEW and len(list(folder.iterdir())) == len(NEW)

@pytest.mark.parametrize('n', range(1, STEPS + 1))
def test_an_error_of_the_disk(folder, monkeypatch, n):
    calls, replace = [], os.replace
    def fails(*args):
        calls.append(args)
        if len(calls) == n: raise OSError(5, 'Input/output error')
        replace(*args)
    monkeypatch.setattr(os, 'replace', fails)
    with pytest.raises((OSError, CatalogError), match='Input/output error'): save(folder)
    finish_save(folder)
    assert held(folder) == (OLD if n == 1 else NEW)

KILLED = '''
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_files import save
from pathlib import Path
n, late, calls, replace = int(sys.argv[3]), int(sys.argv[4]), [], os.replace
def killed(*args):
    calls.append(args)
    if len(calls) == n and not late: os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)
    if len(calls) == n: os.kill(os.getpid(), signal.SIGKILL)
os.replace = killed
save(Path(sys.argv[2]))
'''
def killed_save(folder, n, late):
    r = subprocess.run([sys.executable, '-c', KILLED, Path(__file__).parent, folder, str(n), str(int(late))], capture_output=True,
                       text=True)
    assert r.returncode == -signal.SIGKILL, r.stderr

@pytest.mark.parametrize('n, late', [(n, late) for n in range(1, STEPS + 1) for late in (False, True)])
def test_a_kill_at_each_rename(folder, n, late):
    killed_save(folder, n, late)
    want = OLD if (n, late) == (1, False) else NEW
    finish_save(folder)
    assert held(folder) == want and not list(folder.glob('.*.ready'))
    save(folder, OLD)
    assert held(folder) == OLD      # what is left does not hinder the next one

@pytest.mark.parametrize('n', range(1, STEPS + 1))
def test_the_next_save_after_a_kill(folder, n):
    killed_save(folder, n, late=True)
    save(folder, {'a.json': 'newest', 'extra.csv': 'newest'})
    finish_save(folder)
    assert held(folder) == {'a.json': 'newest', 'extra.csv': 'newest'}

def test_a_kill_before_the_folder_had_any_file(tmp_path):
    killed_save(tmp_path/'run', 2, late=True)
    assert output_folder(tmp_path/'run', 'c.json') == tmp_path/'run' and held(tmp_path/'run') == NEW

def test_a_process_id_that_repeats(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'getpid', lambda: 1)
    (tmp_path/'.1.tmp').mkdir(); (tmp_path/'.a.json.1.tmp').mkdir()
    save(tmp_path); write_json(tmp_path/'a.json', 1)
    assert held(tmp_path) == NEW | {'a.json': '1\n'}

def test_what_a_leftover_is_called(tmp_path):
    with atomic_path(tmp_path/'a.json') as p, atomic_files(tmp_path) as d:
        assert is_leftover(p.name) and is_leftover(d.name); p.touch()
    assert all(map(is_leftover, ['.123.tmp', '.a.csv.123.tmp', '.0f3a.tmp', '.decoded-9x8.npy.0f3a.tmp']))
    assert not any(map(is_leftover, ['.tmp', 'a.123.tmp', '.a.csv.tmp', '.bashrc', '.123', '123.tmp', '.xyz.tmp', '.0f3a.ready']))

def test_sweep_leaves_what_is_young_or_of_others(tmp_path):
    for o in ('.a.0f.tmp', '.a.12.tmp', '.b.12.tmp', '.thesis.tmp'): (tmp_path/o).touch()
    (tmp_path/'.12.tmp').mkdir(); os.utime(tmp_path/'.a.0f.tmp', (0, 0)); os.utime(tmp_path/'.thesis.tmp', (0, 0))
    sweep(tmp_path, 'a', hours=1); assert {o.name for o in tmp_path.iterdir()} == {'.a.12.tmp', '.b.12.tmp', '.12.tmp', '.thesis.tmp'}
    sweep(tmp_path); assert {o.name for o in tmp_path.iterdir()} == {'.thesis.tmp'}
    sweep(tmp_path/'nowhere')

def test_a_sealed_folder_is_read_whole_after_a_kill(tmp_path):
    names = {'a.json': 99, SUMS: 999}
    def sealed(d, text): (d/'a.json').write_text(text); seal(d, names)
    sealed(tmp_path, 'old'); (tmp_path/'.0f.ready').mkdir(); sealed(tmp_path/'.0f.ready', 'new')
    os.replace(tmp_path/'.0f.ready'/SUMS, tmp_path/SUMS)
    (tmp_path/'.a.json.0f.tmp').write_text('half')
    assert read_sealed(tmp_path, names, 'a test')['a.json'] == b'new'

def test_a_planted_save_reaches_nothing_outside(tmp_path):
    inside, outside = tmp_path/'folder', tmp_path/'outside'
    inside.mkdir(); outside.mkdir(); (outside/'secret').touch(); (inside/'.0f.ready').symlink_to(outside)
    finish_save(inside); assert (outside/'secret').exists()
    (inside/'.12.ready').mkdir(); (inside/'.12.ready'/'...gone').touch()
    with pytest.raises(CatalogError, match='cannot be finished'): finish_save(inside)
    assert inside.is_dir() and outside.is_dir()

def test_a_folder_that_cannot_be_repaired_says_so(folder):
    killed_save(folder, 2, late=False); (folder/'b.json').unlink(); (folder/'b.json').mkdir()
    with pytest.raises(CatalogError, match='was interrupted and cannot be finished.*make the folder writable'): finish_save(folder)

def test_a_run_and_its_bundle_are_found_after_a_kill(tmp_path):
    from catalog_tagger.runs.folder import is_run
    from catalog_tagger.serve.tagger import find_bundle
    for folder, name in ((tmp_path, 'config.json'), (tmp_path/'tagger', 'tagger.json')):
        (folder/'.0f.ready').mkdir(parents=True); (folder/'.0f.ready'/name).touch()
    assert is_run(tmp_path) and find_bundle(tmp_path) == tmp_path/'tagger'

def test_a_folder_is_replaced_or_removed_with_its_set(tmp_path):
    "As the bundle in a run: a kill at any moment leaves the old one, or the next reader finishes."
    def save(value, with_part=True):
        with atomic_files(tmp_path, ('part',)) as d:
            (d/'a.json').write_text(value)
            if with_part: (d/'part').mkdir(); (d/'part'/'b.json').write_text(value)
    save('1'); save('2'); assert (tmp_path/'part'/'b.json').read_text() == (tmp_path/'a.json').read_text() == '2'
    os.replace(tmp_path/'part', tmp_path/'.0f.ready'); (tmp_path/'part').mkdir(); (tmp_path/'.1f.tmp').mkdir()
    os.replace(tmp_path/'.0f.ready', tmp_path/'.1f.tmp'/'part'); os.replace(tmp_path/'.1f.tmp', tmp_path/'.1f.ready')
    (tmp_path/'part'/'old.json').touch(); finish_save(tmp_path)
    assert [o.name for o in (tmp_path/'part').iterdir()] == ['b.json']
    save('3', with_part=False); assert {o.name for o in tmp_path.iterdir()} == {'a.json'}
