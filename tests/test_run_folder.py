"A run's folder opened by `Run`: read when asked for, checked by name; its model from the bundle, from `learner.pkl`, and in plain fastai."
import pickle, shutil, subprocess, sys, types

import numpy as np, pandas as pd, pytest, torch

from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import SPLITS
from catalog_tagger.runs.folder import Run, load_tagger
from catalog_tagger.serve.tagger import Tagger
from catalog_tagger.testing.tiny import tiny_run

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a space and a bracket in its name, holding a catalog and a run on it."
    p = tmp_path_factory.mktemp('my <shop>')
    tiny_run(p, n=60, size=32, lr_find=True)
    return p

@pytest.fixture
def run(place, tmp_path): return Run.open(shutil.copytree(place/'run', tmp_path/'run'))

# ---- the files

def test_what_a_run_has_is_read_once(place):
    run = Run.open(place/'run')
    assert run.labels.vocab == run.tagger().space.vocab and run.metrics['pictures'] == run.split['split'].value_counts().to_dict()
    assert run.history['stage'].tolist() == ['frozen', 'unfrozen'] and run.history['valid_loss'].dtype == float
    assert list(run.lr_find) == ['lr', 'loss']
    assert run.audit['pictures'].sum() > 0 and len(run.rejected) == 2 and run.words is None
    for o in ('config', 'labels', 'metrics', 'history', 'lr_find', 'split', 'audit', 'rejected'):
        assert getattr(run, o) is getattr(run, o), o

def test_a_file_that_is_gone_is_missed_when_it_is_needed(run):
    for o in ('audit.csv', 'history.csv', 'labels.json', 'metrics.json'): (run.folder/o).unlink()
    assert run.tagger().predict(run.pictures('test')['image'].tolist()) and 'unfinished' in repr(run)
    for o, file in dict(audit='audit.csv', history='history.csv', labels='labels.json', metrics='metrics.json').items():
        with pytest.raises(CatalogError, match=f'{file} does not exist'): getattr(run, o)

@pytest.mark.parametrize('file, text',
                         [('config.json', '{'), ('config.json', '[]'), ('labels.json', '{"vocab": 1}'), ('metrics.json', '[1]'),
                          ('metrics.json', '{"test": {}}'), ('history.csv', 'epoch\n1\n'),
                          ('history.csv', 'stage,epoch\nfrozen,one\n'), ('lr_find.csv', 'lr,loss\n1,many\n'),
                          ('split.csv', 'image,split\na.jpg,train\n'), ('split.csv', 'image,digest,split,labels\n'),
                          ('split.csv', ''), ('audit.csv', 'tag,note,pictures\na,b,c\n'), ('rejected.csv', 'image\na.jpg\n'),
                          ('words.json', '{}')])
def test_a_damaged_file_is_named(run, file, text):
    (run.folder/file).write_text(text)
    with pytest.raises(CatalogError) as e: getattr(Run.open(run.folder), file.split('.')[0])
    assert str(run.folder/file) in str(e.value) and '\n' not in str(e.value)

def test_it_is_shown_in_a_few_lines(place):
    run = Run.open(place/'run'); lines = repr(run).splitlines()
    assert 5 <= len(lines) <= 15 and lines[0] == 'run: run, efficientnet_lite0 at 32 px' and str(place) not in repr(run)
    assert f'{run.metrics["pictures"]["train"]} train' in repr(run) and 'recall@3 0.' in repr(run)
    assert run._repr_html_().count('<tr>') == len(lines) and '<shop>' not in Run(place/'run', 'a <shop>')._repr_html_()

def test_what_is_no_run_is_refused(place):
    for o in (place, place/'shop', place/'nowhere', place/'run'/'tagger'):
        with pytest.raises(CatalogError, match='is not the folder of a run'): Run.open(o)

# ---- its pictures

def test_pictures_of_a_fold_and_of_a_catalog_that_moved(place, tmp_path):
    run = Run.open(place/'run'); df = run.pictures()
    for o in SPLITS: assert run.pictures(o)['image'].tolist() == df['image'][df['split'] == o].tolist()
    moved = Run.open(place/'run', shutil.copytree(place/'shop', tmp_path/'moved'))
    assert moved.pictures('test')['image'].str.startswith(str(tmp_path)).all()
    with pytest.raises(CatalogError, match="fold='tset', expected one of train, valid, test"): run.pictures('tset')
    with pytest.raises(CatalogError, match='give the folder where its catalog is now'): Run.open(place/'run', tmp_path).pictures('test')

def test_a_picture_outside_of_the_catalog_is_not_opened(run):
    df = run.split.assign(image='../../etc/passwd')
    run.__dict__['split'] = df
    with pytest.raises(CatalogError, match='leads outside'): run.pictures()

# ---- its model

def test_a_tagger_is_what_one_gets(run):
    with_bundle = run.tagger(); images = run.pictures('test')['image'].tolist()
    shutil.rmtree(run.folder/'tagger')
    with pytest.raises(CatalogError, match='pass trust=True if'): run.tagger()
    pickled, learned = run.tagger(trust=True), Tagger.from_learner(run.learner(trust=True))
    assert {type(o) for o in (with_bundle, pickled, learned)} == {Tagger} and with_bundle.decision is not None
    assert pickled.decision is learned.decision is None
    assert (pickled.arch, pickled.tta, pickled.prep) == (with_bundle.arch, with_bundle.tta, with_bundle.prep)
    np.testing.assert_allclose(pickled.scores(images), with_bundle.scores(images), atol=1e-5)
    assert len(pickled.predict(images[0])) == 3

def test_a_learner_goes_on(run):
    learn = run.learner(trust=True)
    assert learn.facts.arch == run.config.arch and learn.facts.pretrained
    assert list(learn.facts.rate_curve) == ['lr', 'loss'] and len(learn.history.rows) == 2
    assert learn.dls.space == run.labels and learn.dls.prep.size == (32, 32)

def test_a_plain_fastai_user_is_served(place, tmp_path):
    "A process that knows fastai's names alone."
    images = Run.open(place/'run').pictures('test')['image'][:3].tolist()
    code = '''import sys, numpy as np
from fastai.vision.all import *
learn = load_learner(sys.argv[1]); images = sys.argv[3:]
first = Path(images[0])
opened = PILImage.create(first)
ways = [learn.predict(o)[2].numpy() for o in (first, str(first), opened, first.read_bytes(), np.asarray(opened))]
x, preds, _ = learn.get_preds(dl=learn.dls.test_dl(images), with_input=True)
tta, _ = learn.tta(dl=learn.dls.test_dl(images), n=1)
np.savez(sys.argv[2], ways=ways, x=x.numpy(), preds=preds.numpy(), tta=tta.numpy(), names=learn.predict(first)[0])'''
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code, str(place/'run'/'learner.pkl'), str(tmp_path/'a.npz'), *images], check=True,
                   cwd=tmp_path)
    got, tagger = np.load(tmp_path/'a.npz'), load_tagger(place/'run'); tagger.tta = 1
    want = tagger.scores(images)
    np.testing.assert_allclose(got['ways'], np.tile(want[0], (5, 1)), atol=1e-5)
    np.testing.assert_allclose(got['preds'], want, atol=1e-5)
    np.testing.assert_allclose(got['x'], np.stack([tagger.prep(o) for o in images]), atol=1e-5)
    assert got['tta'].shape == want.shape and got['names'].tolist() == [o for o, p in zip(tagger.space.vocab, want[0]) if p > .5]

# ---- a pickle of a version with other modules

@pytest.fixture
def old(tmp_path, monkeypatch):
    "Writes a `learner.pkl` that names catalog_tagger.data and, if loaded, leaves a mark."
    module = types.ModuleType('catalog_tagger.data')
    exec('class CatalogImage:\n    def __reduce__(self): return CatalogImage, ()', module.__dict__)
    module.CatalogImage.__module__ = module.__name__
    class Evil:
        def __reduce__(self): return open, (str(tmp_path/'mark'), 'w')
    def write(how):
        with monkeypatch.context() as m:
            m.setitem(sys.modules, module.__name__, module)
            (tmp_path/'old').mkdir(exist_ok=True); path = tmp_path/'old'/'learner.pkl'
            torch.save([module.CatalogImage(), Evil()],
                       path) if how == 'torch' else path.write_bytes(pickle.dumps([Evil(), module.CatalogImage()], how))
        return tmp_path/'old'
    return write

@pytest.mark.parametrize('how', ['torch', 0, 2, 4])
def test_an_old_pickle_ends_in_one_sentence_and_runs_nothing(old, how):
    folder = old(how)
    with pytest.raises(CatalogError) as e: load_tagger(folder, trust=True)
    told = str(e.value)
    assert 'it needs catalog_tagger.data' in told and str(folder/'tagger') in told and 'train again' in told and '\n' not in told
    assert not (folder.parent/'mark').exists()

def test_an_old_pickle_beside_its_bundle(run, old):
    shutil.copy(old('torch')/'learner.pkl', run.folder)
    assert run.tagger().arch == run.config.arch
    with pytest.raises(CatalogError, match='use the bundle .*tagger.* or train again'): run.learner(trust=True)

@pytest.mark.parametrize('argv',
                         [['tag', 'old', 'shop', '--out', 't.csv'], ['evaluate', 'run', 'shop'], ['export', 'old', '--out', 't.onnx'],
                          ['embed', 'old', 'shop', '--out', 'e']])
def test_the_command_tells_it_too(place, run, old, argv, capsys, monkeypatch):
    from catalog_tagger.apps.cli import main
    shutil.copy(old('torch')/'learner.pkl', run.folder); shutil.rmtree(run.folder/'tagger')
    here = run.folder.parent; monkeypatch.chdir(here); (here/'shop').symlink_to(place/'shop')
    assert main([*argv, '--trust']) == 2
    err = capsys.readouterr().err
    assert 'it needs catalog_tagger.data' in err and 'train again' in err and err.count('\n') == 1

@pytest.mark.parametrize('data', [b'', b'junk', b'PK\x03\x04', b'\x80\x04'])
def test_a_damaged_pickle_says_so(tmp_path, data):
    (tmp_path/'learner.pkl').write_bytes(data)
    with pytest.raises(CatalogError, match='learner.pkl cannot be loaded'): load_tagger(tmp_path, trust=True)
