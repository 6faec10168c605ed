"The command as a person calls it: a fresh process each time."
import json, os, shutil, subprocess, sys

import pandas as pd, pytest

from catalog_tagger.serve.modes import MODES
from catalog_tagger.testing.demo import demo_styles

def call(*argv, cwd=None):
    return subprocess.run([sys.executable, '-m', 'catalog_tagger.apps.cli', *map(str, argv)], cwd=cwd, text=True, capture_output=True)

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a space in its name, holding a catalog and a run on it."
    p = tmp_path_factory.mktemp('my shop')
    demo_styles(p/'catalog', n=90, faults=('empty',))
    r = call('train', 'catalog', '--out', 'run', '--size', 48, '--freeze-epochs', 2, '--epochs', 0, '--label-columns', 'articleType',
             'baseColour', '--where', 'year > 0', '--quiet', cwd=p)
    assert r.returncode == 0, r.stderr
    (p/'pickled').mkdir(); shutil.copy(p/'run'/'learner.pkl', p/'pickled')
    return p, r

def test_train_tells_and_keeps(place):
    p, r = place
    assert 'empty file' in r.stdout and 'accuracy/baseColour' in r.stdout and r.stderr == ''
    assert {'learner.pkl', 'labels.json', 'metrics.json', 'history.csv', 'config.json',
            'split.csv'} <= {o.name for o in (p/'run').iterdir()}

def test_tag(place):
    p, _ = place
    r = call('tag', 'run', 'catalog/images', '--k', 1, '--out', 'tags.csv', '--review', 'queue.csv', cwd=p)
    assert r.returncode == 0 and 'empty file' in r.stdout
    tags = pd.read_csv(p/'tags.csv')
    good = tags[tags['reason'].isna()]
    assert list(tags) == ['image', 'rank', 'tag', 'score', 'reason', 'model'] and len(tags) == 91 and len(good) == 90
    assert good['score'].between(0, 1).all()
    assert set(pd.read_csv(p/'queue.csv')) == {'image', 'worth', 'outside', 'ask', 'score', 'instead', 'tags'}

def test_evaluate(place):
    p, _ = place
    r = call('evaluate', 'run', 'catalog', '--out', 'scores.json', cwd=p)
    assert r.returncode == 0 and 'left out' in r.stdout
    assert json.loads((p/'scores.json').read_text())['scores']['recall@3']['score'] > 0

def test_export_and_issues(place):
    pytest.importorskip('onnxruntime', reason='needs onnxruntime: pip install "catalog_tagger[onnx]"')
    old, _ = place; p = old.rename(old.with_name('moved shop'))
    try:
        r = call('export', 'run', '--out', 'onnx/t.onnx', '--int8', '--source', 'catalog', cwd=p)
        assert r.returncode == 0 and 'of those of torch' in r.stdout, r.stderr
        assert {o.name for o in (p/'onnx').iterdir()} == {'t.onnx', 't.json', 'selected_tags.csv', 't.int8.onnx', '.written',
                                                        't.text.json', 't.text.safetensors'}
        assert len(pd.read_csv(p/'onnx'/'selected_tags.csv')) == len(json.loads((p/'run'/'labels.json').read_text())['vocab'])
        r = call('issues', 'run', '--out', 'issues.csv', '--grid', 'issues.png', '--whole', '--source', 'catalog', cwd=p)
        assert r.returncode == 0 and list(pd.read_csv(p/'issues.csv')) == ['image', 'kind', 'tag', 'instead', 'score', 'labels'], r.stderr
        r = call('issues', 'run', '--out', 'issues.csv', cwd=p)
        assert r.returncode == 2 and 'give the folder where its catalog is now' in r.stderr
    finally: p.rename(old)

def test_help_lists_every_mode():
    text = ' '.join(call('tag', '--help').stdout.split())
    assert all(m in text and o.text in text for m, o in MODES.items())

def test_help_is_quick_and_teaches():
    code = ('import sys; from catalog_tagger.apps.cli import make_parser; h = make_parser().format_help()\n'
            'assert "torch" not in sys.modules and "fastai" not in sys.modules; print(h)')
    r = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert r.returncode == 0 and 'catalog_tagger train shop --out run' in r.stdout
    for sub in ('demo', 'train', 'evaluate', 'tag', 'issues', 'export', 'embed', 'index', 'similar'):
        assert call(sub, '--help').returncode == 0

@pytest.mark.parametrize('argv',
                         [['--help'], ['train', '--help'], ['train', 'shop', '--out', 'run', '--schedule', 'zz'],
                          ['tag', 'run', 'shop', '--out', 'tags.txt']])
def test_help_and_typing_errors_import_nothing_heavy(argv):
    code = ('import sys, contextlib\nfrom catalog_tagger.apps.cli import main\n'
            'with contextlib.suppress(SystemExit): main(sys.argv[1:])\nprint(*sys.modules)')
    r = subprocess.run([sys.executable, '-c', code, *argv], text=True, capture_output=True)
    imported = {o.split('.')[0] for o in r.stdout.splitlines()[-1].split()}
    assert r.returncode == 0 and 'catalog_tagger' in imported
    assert not imported & {'numpy', 'pandas', 'torch', 'fastai', 'timm', 'sklearn', 'scipy', 'PIL', 'matplotlib'}

@pytest.mark.parametrize('option, value',
                         [('schedule', 'zz'), ('opt', 'lion'), ('loss', 'nll'), ('head', 'deep'), ('method', 'stretch'), ('mix', 'blend'),
                          ('monitor', 'val_loss'), ('words', 'fr'), ('garments', 'all')])
def test_a_wrong_choice_is_refused_at_once(option, value, capsys):
    "Before the catalog is looked for: there is none."
    from catalog_tagger.apps.cli import main
    assert main(['train', 'no catalog', '--out', 'r', f'--{option}', value]) == 2
    assert f"--{option.replace('_', '-')} '{value}', expected " in capsys.readouterr().err

def test_a_preset_and_what_wins_over_it(capsys):
    from catalog_tagger.apps.cli import _config, main, make_parser
    from catalog_tagger.core.config import PRESETS
    line = 'train shop --out r --preset study5 --min-scale 0.7 --label-columns articleType baseColour --size 96'
    args = vars(make_parser().parse_args(line.split())); args.pop('func')
    cfg = _config(args.pop('source'), args.pop('out'), args)
    assert (cfg.label_columns, cfg.size) == (('articleType', 'baseColour'), 96)
    assert cfg.max_rotate == PRESETS['study5']['max_rotate'] and cfg.min_scale == .7 and cfg.flip == .5
    assert main(['train', 'shop', '--out', 'r', '--preset', 'study6']) == 2
    assert "preset 'study6' is unknown; choose one of study5" in capsys.readouterr().err

@pytest.mark.parametrize('argv, says', [
    (['tag', 'pickled', 'catalog', '--out', 't.csv'], '--trust'),
    (['tag', 'run', 'catalog', '--mode', 'bold', '--out', 't.csv'], "--mode 'bold', expected one of"),
    (['tag', 'pickled', 'catalog', '--trust', '--engine', 'ray', '--out', 't.csv'], 'needs a bundle'),
    (['tag', 'run', 'catalog', '--review', 'q.txt', '--out', 't.csv'], "--review 'q.txt': expected a file that ends in .csv"),
    (['tag', 'catalog', 'catalog', '--trust', '--out', 't.csv'], 'not the folder of a run'),
    (['tag', 'run', 'gone.jpg', '--trust', '--out', 't.csv'], 'gone.jpg'),
    (['tag', 'run', 'catalog', '--trust', '--k', '0', '--out', 't.csv'], '--k 0, expected 1 or more'),
    (['tag', 'run', 'catalog', '--trust', '--out', 'catalog/images'], "expected a file that ends in .csv"),
    (['tag', 'run', 'catalog', '--trust', '--out', 'run/learner.pkl'], "expected a file that ends in .csv"),
    (['tag', 'run', 'catalog', '--trust', '--out', ''], "expected a file that ends in .csv"),
    (['tag', 'run', 'catalog', '--trust', '--min-score', 'nan', '--out', 't.csv'], '--min-score nan, expected 0 to 1'),
    (['tag', 'run', 'catalog/styles.csv', '--no-text', '--trust', '--out', 't.csv'], 'none of 1 pictures could be used'),
    (['evaluate', 'run', 'catalog', '--out', 'run/learner.pkl'], "expected a file that ends in .json"),
    (['train', 'catalog', '--out', 'catalog/run'], 'is inside the catalog'),
    (['train', 'catalog', '--out', ''], 'out is empty'),
    (['train', 'catalog', '--out', 'r', '--where', "year.to_csv('stolen.csv') == 1"], 'is not allowed'),
    (['train', 'catalog', '--out', 'r', '--where', '1'], 'not true or false for each row'),
    (['train', 'catalog', '--out', 'r', '--weights', 'none', '--epochs', '0'], 'nothing would be trained'),
    (['train', 'gone', '--out', 'r'], 'gone is not a folder'),
    (['train', 'catalog'], 'required: --out'),
    (['train', 'catalog', '--out', 'r', '--layout', 'voc'], 'choose one of akeneo, amazon-berkeley'),
    (['train', 'catalog', '--out', 'r', '--label-columns', 'articletype'], "did you mean 'articleType'"),
    (['train', 'catalog', '--out', 'r', '--where', 'price < 5'], 'not a valid condition on the columns'),
    (['train', 'catalog', '--out', 'r', '--min-count', '10000'], '--min-count 10000 leaves none'),
    (['train', 'catalog', '--out', 'r', '--test-fraction', '0.9'], 'leave nothing to train on'),
    (['train', 'catalog', '--out', 'r', '--arch', 'resnet'], 'did you mean'),
    (['check', 'catalog', '--out', 'catalog/images'], 'is inside the catalog'),
    (['check', 'catalog', '--split-by', 'price', '--test-from', '5'], "price"),
    (['check', 'catalog', '--split-by', 'year', '--test-from', '3000'], "has no value from 3000"),
    (['check', 'catalog', '--split-by', 'year'], '--split-by needs --test-from'),
    (['check', 'catalog', '--garments', 'both'], '--garments is an option of the layout imaterialist'),
    (['train', 'catalog', '--out', '.'], 'contains files but no'),
    (['evaluate', 'run', 'gone', '--trust'], 'gone is not a folder'),
    (['demo', '--out', 'catalog/images'], 'contains files but no'),
    (['demo', '--pictures', '2', '--out', 'd'], 'expected at least 2 and 1'),
    (['embed', 'run', 'gone', '--out', 'e'], 'gone does not exist'),
    (['embed', 'run', 'catalog/images', '--layer', 'middle', '--out', 'e'], "--layer 'middle', expected one of avg, concat"),
    (['embed', 'run', 'catalog/images', '--dtype', 'int8', '--out', 'e'], "--dtype 'int8'"),
    (['embed', 'resnet', 'catalog/images', '--out', 'e'], 'did you mean'),
    (['embed', 'pickled', 'catalog/images', '--out', 'e'], '--trust'),
    (['index', 'run', 'catalog', '--out', 'catalog/i'], 'is inside the catalog'),
    (['index', 'run', 'catalog', '--kind', 'annoy', '--out', 'i'], "--kind 'annoy', expected one of exact"),
    (['index', 'run', 'catalog', '--where', 'price < 5', '--out', 'i'], 'not a valid condition on the columns'),
    (['similar', 'run', 'a.jpg'], 'cannot be loaded'),
    (['similar', 'gone', 'a.jpg'], 'it is not a folder'),
    (['similar', 'run'], 'give a picture, --text, --tags or several of them, or --duplicates alone'),
    (['similar', 'run', 'a.jpg', '--duplicates', '.9'], 'or --duplicates alone'),
    (['similar', 'run', 'a.jpg', '--out', 'a.txt'], 'expected a file that ends in .csv'),
])
def test_a_users_error_is_one_line(place, argv, says, capsys, monkeypatch):
    "In this process, for the time's sake; `test_one_error_from_outside` sees the whole way."
    from catalog_tagger.apps.cli import main
    p, _ = place
    monkeypatch.chdir(p)
    assert main([*argv, '--quiet']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and says in err, err

def test_a_file_whose_name_is_no_text(place, capsys, monkeypatch):
    from catalog_tagger.apps.cli import main
    p, _ = place
    monkeypatch.chdir(p)
    odd = os.fsdecode(b'\xff.jpg'); shutil.copy(next((p/'catalog'/'images').glob('*.jpg')), odd)
    assert main(['tag', 'run', odd, '--trust', '--out', 't.csv']) == 2
    assert 'is not a usable path' in capsys.readouterr().err

def test_check_tells_on_one_screen_and_leaves_plots(place, capsys, monkeypatch):
    from catalog_tagger.apps.cli import main
    p, _ = place
    monkeypatch.chdir(p)
    assert main(['check', 'catalog', '--out', 'checked', '--suggest', '--size', '32']) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) < 50 and 'empty file' in out and 'may belong together' in out and 'plots and tables: checked' in err
    assert {'facts.json', 'labels.png', 'labels.csv', 'pictures.png', 'near.csv'} <= {o.name for o in (p/'checked').iterdir()}
    assert main(['check', 'catalog', '--json', '--split-by', 'year', '--test-from', '2016']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['split']['pictures']['test'] > 0 and facts['suspicious'] == []

def test_index_and_similar(place, capsys, monkeypatch):
    from catalog_tagger.apps.cli import main
    p, _ = place
    monkeypatch.chdir(p)
    assert main(['index', 'run', 'catalog', '--out', 'my index', '--dims', '16', '--dtype', 'float16']) == 0
    assert '90 x 16 float16' in (out := capsys.readouterr().out) and 'empty file' in out
    one = str(next((p/'catalog'/'images').glob('1*.jpg')).resolve())
    assert main(['similar', 'my index', one, '--k', '5', '--where', 'year > 2011', '--out', 'like.csv']) == 0
    like = pd.read_csv(p/'like.csv')
    assert len(like) == 5 and (like['year'] > 2011).all() and one not in set(like['image']) and like['score'].is_monotonic_decreasing
    tag = json.loads(like['labels'][0])[-1]
    assert main(['similar', 'my index', one, '--tags', tag, '--k', '1', '--out', 'tagged.csv']) == 0
    assert tag in json.loads(pd.read_csv(p/'tagged.csv')['labels'][0])
    assert main(['similar', 'my index', '--duplicates', '0.9']) == 0
    assert main(['embed', 'run', 'catalog/images', '--layer', 'hidden', '--out', 'vectors']) == 0
    assert '90 vectors of 512 numbers' in capsys.readouterr().out
    assert main(['index', 'run', 'catalog', '--out', 'my index', '--where', "baseColour != 'Blue'"]) == 0    # an older index is replaced
    shutil.rmtree(p/'my index')

def test_one_error_from_outside(place):
    p, _ = place
    r = call('train', 'gone', '--out', 'r', cwd=p)
    assert (r.returncode, r.stderr) == (2, 'catalog_tagger: gone is not a folder\n')
