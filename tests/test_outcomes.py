"Between two commands: nothing finished is redone, nothing edited is lost, and the exit code says what happened."
import csv, json, logging, os, shutil, subprocess, sys
from pathlib import Path

import pandas as pd, pytest

from catalog_tagger.apps.cli import COMMANDS, main, make_parser
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.outcomes import EXIT_CODES, WRITTEN, check_replace, record_written
from catalog_tagger.core.process import LOG, ProgressLines
from catalog_tagger.core.sealed import SUMS, seal
from catalog_tagger.serve.answer_rows import ANSWER_COLUMNS, answer_record, read_edits, write_answer_record
from catalog_tagger.testing.demo import demo_styles

README = Path(__file__).resolve().parents[1]/'README.md'
FAST = '--size 32 --bs 16 --freeze-epochs 1 --epochs 0'.split()

def run(*argv): return main([*map(str, argv), '--quiet'])

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A catalog, a run on it, its tags with a review queue, and another catalog."
    p = tmp_path_factory.mktemp('my shop')
    demo_styles(p/'catalog', n=80); demo_styles(p/'other', n=70, seed=7)
    assert run('train', p/'catalog', '--out', p/'run', *FAST) == 0
    assert run('tag', p/'run', p/'catalog'/'images', '--k', 2, '--out', p/'tags.csv', '--review', p/'queue.csv') == 0
    return p

@pytest.fixture
def copy(place, tmp_path):
    "A copy of the tags, their record and the queue, to change them."
    for o in ('tags.csv', 'tags.csv.rows', 'queue.csv', WRITTEN): shutil.copy(place/o, tmp_path/o)
    return tmp_path

# ---- exit codes

def test_readme_and_help_have_the_table_of_exit_codes():
    rows = [f'| {k} | {o} |' for k, o in EXIT_CODES.items()]
    assert '\n'.join(rows) in README.read_text(encoding='utf-8')
    assert ''.join(f'  {k:<5}{o}\n' for k, o in EXIT_CODES.items()).rstrip() in make_parser().format_help()

def test_every_command_can_be_quiet_and_each_that_writes_can_replace():
    for o in COMMANDS:
        options = {a.dest for a in make_parser()._subparsers._group_actions[0].choices[o.__name__]._actions}
        assert 'quiet' in options and ('out' not in options or 'replace' in options or o.__name__ == 'demo'), o.__name__

def test_an_empty_inbox_is_nothing_to_do(place, tmp_path, capsys):
    (tmp_path/'inbox').mkdir()
    assert run('tag', place/'run', tmp_path/'inbox', '--out', tmp_path/'t.csv') == 5
    assert 'no picture in' in capsys.readouterr().err and not (tmp_path/'t.csv').exists()
    (tmp_path/'inbox'/'notes.txt').write_text('no picture')
    assert run('tag', place/'run', tmp_path/'inbox', '--out', tmp_path/'t.csv') == 2

# ---- what is finished

def test_a_finished_run_is_left_alone(place, capsys):
    before = (place/'run'/'learner.pkl').stat().st_mtime_ns
    for more in ([], ['--resume']): assert run('train', place/'catalog', '--out', place/'run', *FAST, *more) == 5
    assert 'is finished, with the same settings and the same catalog; nothing to resume: --replace' in capsys.readouterr().out
    assert (place/'run'/'learner.pkl').stat().st_mtime_ns == before

def test_a_finished_run_of_another_catalog_is_kept(place, tmp_path, capsys):
    shutil.copytree(place/'run', tmp_path/'run'); metrics = (tmp_path/'run'/'metrics.json').read_text()
    for more in ([], ['--resume'], ['--lr', '0.001']): assert run('train', place/'other', '--out', tmp_path/'run', *FAST, *more) == 2
    assert 'is a finished run, and not this one' in (err := capsys.readouterr().err) and '--replace' in err
    assert (tmp_path/'run'/'metrics.json').read_text() == metrics
    assert run('train', place/'other', '--out', tmp_path/'run', *FAST, '--replace') == 0
    assert json.loads((tmp_path/'run'/'config.json').read_text())['source'] == str((place/'other').resolve())

def test_other_settings_replace_a_run_of_this_catalog(place, tmp_path, capsys):
    shutil.copytree(place/'run', tmp_path/'run')
    assert run('train', place/'catalog', '--out', tmp_path/'run', *FAST, '--lr', '0.001') == 0
    assert f'the finished run in {tmp_path/"run"} is replaced: lr=0.001 was' in capsys.readouterr().out.replace('--lr ', 'lr=')
    (tmp_path/'run'/'labels.json').write_text((tmp_path/'run'/'labels.json').read_text() + ' ')
    assert run('train', place/'catalog', '--out', tmp_path/'run', *FAST) == 2
    assert 'labels.json was changed since a call of catalog_tagger finished it' in capsys.readouterr().err

def test_a_finished_tag_opens_no_picture(place, copy, monkeypatch, capsys):
    monkeypatch.setattr('catalog_tagger.catalog.picture_files.open_picture', lambda *o: pytest.fail('a picture was opened'))
    how = 'tag', place/'run', place/'catalog'/'images', '--k', 2, '--out', copy/'tags.csv', '--review', copy/'queue.csv'
    before = {o.name: o.read_bytes() for o in copy.iterdir()}
    assert run(*how) == 5 and {o.name: o.read_bytes() for o in copy.iterdir()} == before
    assert 'was finished before' in (out := capsys.readouterr().out) and '80 pictures tagged' in out

# ---- what a person has changed

def test_an_edited_table_is_replaced_only_on_request(place, copy, capsys):
    how = 'tag', place/'run', place/'catalog'/'images', '--k', 2, '--out', copy/'tags.csv', '--review', copy/'queue.csv'
    before = (copy/'tags.csv').read_bytes()
    (copy/'tags.csv').write_bytes(before.replace(b'Topwear', b'Shirt'))
    assert run(*how) == 2 and 'tags.csv was changed since a call of catalog_tagger finished it' in capsys.readouterr().err
    assert run(*how, '--replace') == 0 and (copy/'tags.csv').read_bytes() == before
    (copy/'queue.csv').write_text('done by Ann\n' + (copy/'queue.csv').read_text())
    assert run(*how[:4], 1, *how[5:]) == 2          # another job would write both

@pytest.mark.parametrize('argv, name, change', [
    (['report', 'run', '--out', 'r.html'], 'r.html', '<p>mine</p>'), (['profile', 'catalog/styles.csv', '--out', 'p.json'], 'p.json', '{}'),
    (['evaluate', 'run', 'catalog', '--out', 's.json'], 's.json', '{}'), (['check', 'catalog', '--out', 'c'], 'c/labels.csv', 'mine\n')],
    ids=lambda o: o[0] if isinstance(o, list) else '')
def test_every_command_that_writes_asks_first(place, tmp_path, monkeypatch, capsys, argv, name, change):
    monkeypatch.chdir(tmp_path)
    for o in ('run', 'catalog'): os.symlink(place/o, o)
    assert run(*argv) == 0 and run(*argv) == 0      # as it was written: replaced
    Path(name).write_text(change)
    assert run(*argv) == 2 and f'{Path(name).name} was changed since' in capsys.readouterr().err and Path(name).read_text() == change
    assert run(*argv, '--replace') == 0 and Path(name).read_text() != change

def test_a_file_of_someone_else_is_not_replaced(place, tmp_path, capsys):
    (tmp_path/'thesis.html').write_text('mine')
    assert run('report', place/'run', '--out', tmp_path/'thesis.html') == 2 and (tmp_path/'thesis.html').read_text() == 'mine'
    assert 'there is no record that a call of catalog_tagger finished it' in capsys.readouterr().err

def test_records_of_folders(tmp_path):
    d = tmp_path/'run'; d.mkdir(); (d/'a.json').write_text('{}'); record_written([d]); check_replace([d])
    (d/'mine.txt').write_text('a note'); (d/WRITTEN).write_text((d/WRITTEN).read_text() + 'half a li'); check_replace([d])
    (d/'a.json').write_text('{"a": 1}')
    with pytest.raises(CatalogError, match='a.json was changed'): check_replace([d])
    (tmp_path/'run.parts').mkdir(); check_replace([d])      # of an interrupted job, which was checked when it began
    box = tmp_path/'box'; box.mkdir(); (box/'x.json').write_text('{}'); seal(box, {'x.json': 9, SUMS: 99})
    record_written([box]); check_replace([box]); assert {o.name for o in box.iterdir()} == {'x.json', SUMS}
    (box/'x.json').write_text('[]')
    with pytest.raises(CatalogError, match='x.json was changed'): check_replace([box])

# ---- rows

ROWS = [['a.jpg', '1', 'Shirt', '0.5', '', 'm'], ['a.jpg', '2', 'Blue; "dark"', '0.25', '', 'm'], ['b.jpg', '1', 'Shoe', '1e-06', '', 'm'],
        ['c.jpg', '', '', '', 'empty file', 'm'], ['d.jpg', '1', 'Bag', '1.0', '', 'm']]

def saved(path, rows, **how):
    with open(path, 'w', newline='', encoding=how.pop('encoding', 'utf-8')) as f: csv.writer(f, **how).writerows([ANSWER_COLUMNS, *rows])

def decimal(rows, form): return [[form(float(o)) if i == 3 and o else o for i, o in enumerate(r)] for r in rows]

@pytest.fixture
def tags(tmp_path):
    saved(tmp_path/'tags.csv', ROWS); write_answer_record(answer_record(tmp_path/'tags.csv'), tmp_path/'tags.csv', 'tags.csv', {}, ROWS)
    return tmp_path/'tags.csv'

SAVED = {'Excel, German': dict(rows=decimal(ROWS[::-1], lambda o: f'{o:.7f}'.replace('.', ',')), delimiter=';', encoding='utf-8-sig'),
         'LibreOffice, all quoted': dict(rows=decimal(ROWS, '{:.2e}'.format), quoting=csv.QUOTE_ALL),
         'Excel, Unicode text': dict(rows=sorted(ROWS, key=lambda o: o[2]), delimiter='\t', encoding='utf-16')}

@pytest.mark.parametrize('how', SAVED.values(), ids=SAVED)
def test_saving_is_no_edit(tags, how):
    saved(tags, **how)
    assert read_edits(tags).rows.empty and read_edits(tags).gone == 0

def test_edits_are_found_in_any_form(tags):
    rows = [['a.jpg', '1', 'Blouse', '0.5', '', 'm'], ROWS[1], ['b.jpg', '1', 'Shoe', '1e-06', 'looked at', 'm'], ROWS[4],
            ['d.jpg', '2', 'Red', '', '', '']]
    saved(tags, rows[::-1], delimiter=';', encoding='utf-8-sig')
    edits = read_edits(tags)
    assert edits.gone == 1      # c.jpg
    assert edits.rows[['image', 'tag', 'written']].values.tolist() == [
        ['d.jpg', 'Red', False], ['d.jpg', 'Bag', True], ['a.jpg', 'Blue; "dark"', True], ['a.jpg', 'Blouse', False]]
    saved(tags, [o for o in ROWS if o[2] != 'Shirt'])
    assert read_edits(tags).rows['tag'].tolist() == ['Blue; "dark"']      # a row of a.jpg is gone

def test_every_row_names_the_model(place):
    models = set(pd.read_csv(place/'tags.csv')['model'])
    facts = json.loads((place/'tags.csv.rows').read_text().splitlines()[1])
    assert models == {facts['model']} and len(facts['model']) == 12
    assert read_edits(place/'tags.csv').rows.empty

DIGEST = '''
import sys
from catalog_tagger.runs.folder import load_tagger
from catalog_tagger.core.jobs import part_facts
print(part_facts(load_tagger(sys.argv[1]), {}, {})['model'])
'''

def test_the_digest_of_a_model_is_that_of_every_process(place):
    digests = {subprocess.run([sys.executable, '-c', DIGEST, place/'run'], env=os.environ | dict(PYTHONHASHSEED=seed), text=True,
                              capture_output=True, check=True).stdout.strip() for seed in ('1', '2')}
    facts = json.loads((place/'tags.csv.rows').read_text().splitlines()[1])
    assert {o[:12] for o in digests} == {facts['model']}

def test_the_order_of_arrays_and_sets_does_not_matter():
    from types import SimpleNamespace
    import torch
    from catalog_tagger.core.jobs import part_facts
    arrays = {'a': torch.ones(2), 'b': torch.zeros(3)}
    def digest(names, tags):
        model = SimpleNamespace(state_dict=lambda: {k: arrays[k] for k in names})
        return part_facts(SimpleNamespace(model=model, tags=tags, other=object()), {}, {})['model']
    assert digest('ab', {'x', 'y', 'z'}) == digest('ba', {'z', 'y', 'x'}) != digest('a', {'x', 'y', 'z'})

# ---- its own answers

@pytest.mark.parametrize('name', ['tags.csv', 'queue.csv'])
def test_a_catalog_does_not_learn_from_its_own_answers(place, tmp_path, capsys, name):
    shutil.copytree(place/'catalog'/'images', tmp_path/'images'); shutil.copy(place/name, tmp_path/'labels.csv')
    table, out = tmp_path/'labels.csv', tmp_path.parent/'out'
    for argv in (['train', table, '--out', out, *FAST], ['index', place/'run', table, '--out', out], ['evaluate', place/'run', table],
                 ['train', tmp_path, '--out', out, *FAST],
                 ['train', table, '--out', out, '--layout', 'tags', '--tags-column', 'tag', *FAST]):
        assert run(*argv) == 2
        err = capsys.readouterr().err
        assert 'a catalog never learns from its own answers' in err and err.count('\n') == 1, err

def test_answers_beside_a_catalog_are_passed_over(place, tmp_path):
    shutil.copytree(place/'catalog', tmp_path/'shop'); shutil.copy(place/'tags.csv', tmp_path/'shop'/'mine.csv')
    catalog = read_catalog(tmp_path/'shop')
    assert len(catalog.df) == 80 and any('not read: mine.csv' in o for o in catalog.notes)

# ---- progress

def test_lines_with_time_share_and_time_left(caplog):
    now = [0.]; caplog.set_level(logging.INFO, LOG.name)
    tell = ProgressLines('tag', 10, start=2, clock=lambda: now[0])
    for done in range(2, 11): tell(done); now[0] += 30
    assert caplog.messages == ['tag: 4 of 10 (40%) after 1:00, about 3:00 left', 'tag: 6 of 10 (60%) after 2:00, about 2:00 left',
                               'tag: 8 of 10 (80%) after 3:00, about 1:00 left', 'tag: 10 of 10 (100%) after 4:00, about 0:00 left']

def test_a_job_without_a_terminal_reports_on_standard_error(place, tmp_path, capsys, monkeypatch):
    "A clock that goes on by 40 seconds whenever it is read, and one line for each epoch."
    from itertools import count
    ticks = count(0, 40)
    monkeypatch.setattr(ProgressLines.__init__, '__kwdefaults__', ProgressLines.__init__.__kwdefaults__ | dict(clock=lambda: next(ticks)))
    argv = ['train', str(place/'catalog'), '--out', str(tmp_path/'r'), *'--size 32 --bs 16 --freeze-epochs 2 --epochs 1'.split()]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    for o in ('head: 1 of 2 (50%)', 'head: 2 of 2 (100%)', 'body: 1 of 1 (100%)'):
        assert f'epochs of the {o} after ' in err and f'epochs of the {o}' not in out
    assert main(['tag', str(tmp_path/'r'), str(place/'catalog'/'images'), '--out', str(tmp_path/'t.csv')]) == 0
    assert 'tag: ' in (err := capsys.readouterr().err) and ' left' in err

def test_quiet_is_quiet(place, tmp_path, capsys):
    assert run('tag', place/'run', place/'catalog'/'images', '--out', tmp_path/'t.csv') == 0
    assert capsys.readouterr().err == ''
