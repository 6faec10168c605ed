"The main job on the demo catalog, trained for real: scores against floors, the saved file in a fresh process, every promise of a run."
import json, re, signal, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from PIL import Image

from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import SPLITS, read_table
from catalog_tagger.testing.demo import demo_folders, demo_styles
from catalog_tagger.catalog.readers.styles import LABEL_COLUMNS
from catalog_tagger.catalog.images import OPENING_VERSION
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.train.backbones import arch_prep
from catalog_tagger.train.learner import catalog_learner
from catalog_tagger.serve.tagger import Tagger
from catalog_tagger.runs.evaluate import evaluate_run
from catalog_tagger.apps.cli import main
from catalog_tagger.runs.folder import Run, load_tagger
from catalog_tagger.runs.score import score_pictures
from catalog_tagger.runs.train import build_learner, fit_learner, train_run
from catalog_tagger.catalog.prepare import prepare_catalog

columns = (*LABEL_COLUMNS, 'baseColour')

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    return demo_styles(tmp_path_factory.mktemp('a shop')/'catalog', n=400, faults=('empty', 'truncated', 'html', 'rgba'))

@pytest.fixture(scope='module')
def run(shop, tmp_path_factory):
    "Folder of a run with its account and metrics."
    out, told = tmp_path_factory.mktemp('run')/'a run', []
    cfg = RunConfig(str(shop), str(out), label_columns=columns, size=80, freeze_epochs=3, epochs=6)
    return out, train_run(cfg, told.append), '\n'.join(map(str, told))

def scores(metrics, name): return metrics['test'][name]

def test_beats_the_floors(run):
    _, metrics, _ = run
    for name, margin in [('recall@3', .25), ('dominant_recall', .25), ('f1_micro', .2), ('mAP', .3), ('accuracy/masterCategory', .2),
                         ('accuracy/articleType', .4), ('accuracy/baseColour', .2)]:
        o = scores(metrics, name)
        assert o['score'] > max(o['nothing'], o['commonest']) + margin, (name, o)
    assert scores(metrics, 'exact_match')['score'] < 1, 'the demo catalog is too easy to tell a good model from a better one'

def test_an_untrained_net_fails(run, shop):
    _, metrics, _ = run
    cfg = RunConfig(str(shop), 'unused', label_columns=columns, size=80, weights='none')
    ready = prepare_catalog(cfg); df, space = ready.catalog.df, ready.space
    table, _ = score_pictures(Tagger.from_learner(build_learner(cfg, df, space)), df[df['split'] == 'test'].reset_index(drop=True))
    assert table.score['accuracy/articleType'] < .3 < scores(metrics, 'accuracy/articleType')['score'] - .2
    assert table.score['recall@3'] < scores(metrics, 'recall@3')['score'] - .3

def test_rejected_are_told(run):
    out, _, told = run
    rejected = pd.read_csv(out/'rejected.csv')
    for reason in ('empty file', 'truncated', 'not an image'): assert rejected['reason'].str.contains(reason).sum() == 1 and reason in told
    assert not (set(rejected['image']) & set(read_table(out/'split.csv')['image']))

def test_every_label_stands_in_every_fold(run):
    out, _, _ = run
    df, space = read_table(out/'split.csv'), LabelSpace.load(out/'labels.json')
    for fold in SPLITS: assert {l for o in df['labels'][df['split'] == fold] for l in o} == set(space.vocab)
    assert df.groupby('digest')['split'].nunique().max() == 1
    share = df['split'].value_counts(normalize=True)
    assert abs(share['train'] - .6) < .04 and abs(share['valid'] - .2) < .03
    dropped = [o for o in space.provenance.values() if o['label'] is None]
    assert dropped and all(o['rule'].startswith('dropped: ') for o in dropped)
    train = df['labels'][df['split'] == 'train']
    assert space.counts.tolist() == [sum(l in o for o in train) for l in space.vocab]

def test_nesting_is_found(run):
    space = LabelSpace.load(run[0]/'labels.json')
    assert space.lineage('Tshirts') == ['Apparel', 'Topwear', 'Tshirts']
    assert {'subCategory=Watches', 'articleType=Watches'} <= set(space.vocab)
    assert not any(c in space.parents for c in space.exclusive['baseColour'])

def test_history_tells_both_stages(run):
    h = pd.read_csv(run[0]/'history.csv')
    assert h['stage'].tolist() == ['frozen']*3 + ['unfrozen']*6
    assert h['pictures'].is_monotonic_increasing and h['train_loss'].iloc[-1] < h['train_loss'].iloc[0]*.6

def test_fresh_process_gives_the_same_answers(run, tmp_path):
    "The saved file, a new process and nothing but the library."
    out, _, _ = run
    new = demo_styles(tmp_path/'new', n=20, seed=99, noise=0.)
    images = sorted(str(o) for o in (new/'images').iterdir())
    code = ('import sys, numpy as np; from catalog_tagger.runs.folder import load_tagger; '
            'np.save(sys.argv[1], load_tagger(sys.argv[2], trust=True).scores(sys.argv[3:]))')
    subprocess.run([sys.executable, '-c', code, str(tmp_path/'s.npy'), str(out), *images], check=True, cwd=tmp_path)
    predictor = load_tagger(out, trust=True)
    np.testing.assert_allclose(np.load(tmp_path/'s.npy'), predictor.scores(images), atol=1e-5)
    truth = pd.read_csv(new/'styles.csv', dtype=str).set_index('id')['articleType']
    answers = predictor.predict(images, k=4)
    hits = [any(t.split('=')[-1] == truth[Path(im).stem] for t, _ in o) for im, o in zip(images, answers)]
    assert np.mean(hits) > .5

def test_answers_make_sense(run):
    out, _, _ = run
    predictor = load_tagger(out, trust=True)
    df = read_table(out/'split.csv')
    images = [str(Path(RunConfig.load(out/'config.json').source)/o) for o in df['image'][:60]]
    for k in (1, 2, 4):
        for answer in predictor.predict(images, k=k):
            tags = [t for t, _ in answer]
            assert 0 < len(tags) <= k and len(set(tags)) == len(tags)
            for o in predictor.space.exclusive.values(): assert len(set(o) & set(tags)) <= 1
            for i, t in enumerate(tags): assert predictor.space.parents.get(t) in (None, *tags[:i])

def test_every_way_in_gives_the_same(run):
    out, _, _ = run
    predictor = load_tagger(out, trust=True)
    path = Path(RunConfig.load(out/'config.json').source)/read_table(out/'split.csv')['image'][0]
    im = Image.open(path)
    first, *others = [predictor.predict(o, k=4) for o in (path, str(path), path.read_bytes(), im, np.asarray(im.convert('RGB')))]
    assert all(o == first for o in others)
    for answer in predictor.predict([path, im], k=4):
        assert [t for t, _ in answer] == [t for t, _ in first]
        assert [s for _, s in answer] == pytest.approx([s for _, s in first], abs=1e-5)

def test_evaluating_on_its_own_catalog_scores_the_test_fold(run, shop):
    out, metrics, _ = run
    again = evaluate_run(out, shop, trust=True, say=lambda o: None)
    assert again['pictures'] == metrics['pictures']['test']
    assert again['left_out'] == metrics['pictures']['train'] + metrics['pictures']['valid']
    for m, o in metrics['test'].items(): assert again['scores'][m]['score'] == pytest.approx(o['score'], abs=1e-5)

def test_trained_pictures_are_known_by_content(run, shop, tmp_path):
    "A catalog that holds the same files under other ids gives nothing away."
    import shutil
    out, metrics, _ = run
    other = tmp_path/'other'; shutil.copytree(shop, other)
    df = pd.read_csv(other/'styles.csv', dtype=str)
    for o in (other/'images').iterdir(): o.rename(o.with_name(f'9{o.name}'))
    df.assign(id='9' + df['id']).to_csv(other/'styles.csv', index=False)
    assert evaluate_run(out, other, trust=True,
                        say=lambda o: None)['left_out'] == metrics['pictures']['train'] + metrics['pictures']['valid']

def test_a_failed_run_leaves_the_old_one(run, monkeypatch):
    out, _, _ = run
    def files(): return {str(o.relative_to(out)): o.read_bytes() for o in out.rglob('*') if o.is_file() and o.parent.name != 'unfinished'}
    before = files()
    def full(*args, **kwargs): raise OSError('No space left on device')
    monkeypatch.setattr('catalog_tagger.runs.folder.write_table', full)
    with pytest.raises(OSError): train_run(replace(RunConfig.load(out/'config.json'), size=32, freeze_epochs=1, epochs=0), lambda o: None)
    assert files() == before

def test_same_seed_same_weights(tmp_path):
    cfg = RunConfig(str(demo_styles(tmp_path/'c', n=90)), str(tmp_path/'r'), size=32, bs=16, freeze_epochs=1, epochs=1)
    def weights(cfg):
        # writes no checkpoint
        ready = prepare_catalog(cfg); learn = build_learner(cfg, ready.catalog.df, ready.space); fit_learner(learn, cfg)
        return np.concatenate([o.detach().numpy().ravel() for o in learn.model.parameters()])
    first = weights(cfg)
    assert np.array_equal(first, weights(cfg)) and not np.array_equal(first, weights(replace(cfg, seed=1)))

def test_class_folders(tmp_path):
    "One label a picture: the source's train and validation become train, valid and test."
    folders = demo_folders(tmp_path/'c', n=240)
    metrics = train_run(RunConfig(str(folders), str(tmp_path/'r'), size=64, freeze_epochs=3, epochs=4), lambda o: None)
    df = read_table(tmp_path/'r'/'split.csv')
    assert df['image'].str.startswith('validation').equals(df['split'] == 'test')
    assert metrics['pictures']['valid'] > 0
    o = metrics['test']['accuracy/category']
    assert o['score'] > o['commonest'] + .3
    assert metrics['test']['exact_match'] == pytest.approx(o), 'with one group both ask the same, floors included'
    assert len(load_tagger(tmp_path/'r', trust=True).predict(str(folders/df['image'][0]), k=3)) == 1

def test_metrics_are_json(run):
    text = (run[0]/'metrics.json').read_text()
    assert 'NaN' not in text and json.loads(text)['pictures']['test'] > 0

KILLED = '''
import os, signal, sys
from catalog_tagger.apps.cli import main
replace = os.replace
def move(source, to):
    replace(source, to)
    if os.path.basename(to) == 'body.safetensors': os.kill(os.getpid(), signal.SIGKILL)
os.replace = move
sys.exit(main(sys.argv[1:]))
'''

def test_a_killed_command_goes_on(tmp_path):
    "SIGKILL once the body's first epoch is kept; with --resume the run ends as one that was not killed, and leaves nothing unfinished."
    shop = demo_styles(tmp_path/'c', n=90)
    train = ['train', str(shop), '--out', str(tmp_path/'killed'),
             *'--size 32 --bs 16 --freeze-epochs 1 --epochs 4 --monitor valid_loss'.split()]
    r = subprocess.run([sys.executable, '-c', KILLED, *train], text=True, capture_output=True)
    assert r.returncode == -signal.SIGKILL, r.stdout + r.stderr
    assert (tmp_path/'killed'/'unfinished'/'body.safetensors').exists() and not (tmp_path/'killed'/'learner.pkl').exists()
    r = subprocess.run([sys.executable, '-m', 'catalog_tagger.apps.cli', *train, '--resume'], text=True, capture_output=True)
    assert r.returncode == 0 and 'stage head was finished' in r.stdout and 'stage body is resumed after' in r.stdout, r.stdout + r.stderr
    whole = train_run(RunConfig(str(shop), str(tmp_path/'whole'), size=32, bs=16, freeze_epochs=1, epochs=4, monitor='valid_loss'),
                      lambda o: None)
    resumed = json.loads((tmp_path/'killed'/'metrics.json').read_text())
    assert resumed['test'] == json.loads((tmp_path/'whole'/'metrics.json').read_text())['test'] and whole['labels'] == resumed['labels']
    a, b = (dict(load_tagger(tmp_path/o, trust=True).model.state_dict()) for o in ('killed', 'whole'))
    assert all((a[k] == b[k]).all() for k in b) and not (tmp_path/'killed'/'unfinished').exists()

def test_what_the_weights_do_not_depend_on_may_change_when_a_run_is_resumed(tmp_path, monkeypatch):
    "Stopped after training, before it is saved. Other settings are refused before the catalog is read."
    import catalog_tagger.runs.train as room
    cfg, lines = RunConfig(str(demo_styles(tmp_path/'c', n=90)), str(tmp_path/'r'), size=32, bs=16, freeze_epochs=1, epochs=1), []
    def stop(line):
        if line.startswith('training:'): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train_run(cfg, stop)
    with monkeypatch.context() as m:
        m.setattr(room, 'prepare_catalog', lambda cfg: pytest.fail('the catalog was read'))
        for changed, says in ((dict(size=48), 'size was 32 and is 48'), (dict(seed=1), 'seed was 42 and is 1'),
                              (dict(arch='resnet'), 'did you mean')):
            with pytest.raises(CatalogError, match=says): train_run(replace(cfg, **changed), lines.append, resume=True)
    with monkeypatch.context() as m:
        m.setattr(room, 'arch_prep', lambda *args: replace(arch_prep(*args), opening=1))
        with pytest.raises(CatalogError, match=f'opening was {OPENING_VERSION} and is 1'): train_run(cfg, lambda o: None, resume=True)
    metrics = train_run(replace(cfg, tta=1, keep_epochs=True, cache=False, num_workers=1), lines.append, resume=True)
    assert sum('was finished' in str(o) for o in lines) == 2 and metrics['test'] and RunConfig.load(tmp_path/'r'/'config.json').tta == 1

def test_divergence_ends_with_code_3(tmp_path, capsys, monkeypatch):
    "A net whose third batch comes out as nan: the command names its pictures and leaves no model."
    import catalog_tagger.runs.train as room
    from catalog_tagger.apps.cli import main
    shop, build, seen = demo_styles(tmp_path/'c', n=60), room.build_learner, []
    def broken(module, args, out):
        seen.append(module.training)
        return out*float('nan') if sum(seen) == 30 else out
    def build_broken(*args):
        learn = build(*args)
        monkeypatch.setattr('catalog_tagger.runs.train.check_learner', lambda o: learn.model[1].register_forward_hook(broken))
        return learn
    monkeypatch.setattr(room, 'build_learner', build_broken)
    code = main(['train', str(shop), '--out', str(tmp_path/'r'), '--size', '32', '--bs', '2', '--freeze-epochs', '0', '--epochs', '3',
                 '--quiet'])
    err = capsys.readouterr().err
    assert code == 3 and 'the loss is not finite in epoch 2' in err and err.count('.jpg') == 2 and err.count('\n') == 1
    assert not (tmp_path/'r'/'learner.pkl').exists()

def readme_steps()->list[str]:
    "The code of the README's part on notebooks, cell by cell."
    readme = (Path(__file__).resolve().parents[1]/'README.md').read_text(encoding='utf-8')
    return re.findall(r'```python\n(.*?)\n```', readme.split('## As a library, in a notebook')[1].split('\n## ')[0], re.S)

def test_the_steps_of_the_readme_give_the_weights_of_the_command(tmp_path):
    steps, settings = [], dict(size=32, bs=16, freeze_epochs=2, epochs=1)
    for o in readme_steps():
        if 'fit_tagger' in o: break
        o = o.replace('n=300', 'n=90').replace('{mkdtemp()}', str(tmp_path))
        short = ', '.join(f'{k}={v}' for k, v in settings.items())
        steps.append(re.sub(r'size=\d+, bs=\d+, freeze_epochs=\d+, epochs=\d+', short, o))
    assert 'fit_learner' in steps[-1] and 'size=32' in steps[0]
    names = {}; exec('\n'.join(steps), names)
    options = [o for k, v in settings.items() for o in (f'--{k.replace("_", "-")}', str(v))]
    assert main(['train', names['cfg'].source, '--out', str(tmp_path/'command'), *options]) == 0
    theirs = Run.open(tmp_path/'command').learner(trust=True).model.state_dict()
    ours = names['learn'].model.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[k], ours[k]) for k in ours)

@pytest.mark.parametrize('mix', ['mixup', 'cutmix'])
@pytest.mark.parametrize('how', [dict(), dict(views=2), dict(views=0), dict(unfreeze='blocks.5')], ids=lambda o: str(o) or 'default')
def test_mixed_pictures_in_every_stage(tmp_path, mix, how):
    "Also where a stage trains on stored features, of which nothing can be cut out."
    cfg = RunConfig(str(demo_styles(tmp_path/'shop', n=60)), str(tmp_path/'run'), size=32, bs=16, freeze_epochs=1, epochs=1, mix=mix, **how)
    ready = prepare_catalog(cfg); learn = build_learner(cfg, ready.catalog.df, ready.space)
    fit_learner(learn, cfg)
    assert all(torch.isfinite(o).all() for o in learn.model.parameters())
