"""Tagging many: the rows are those of `predict`, a killed run goes on, memory stays flat, and a cluster gives the same file.

Run as a script, `test_batch.py kills FOLDER` or `test_batch.py memory FOLDER`, it tags in children of its own, which
are killed where `KILLS` says or measured."""
import json, os, signal, subprocess, sys, threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from processes import in_child
from PIL import Image
from scipy.special import logit
from torch import nn

from catalog_tagger.catalog import picture_files
from catalog_tagger.catalog.picture_files import find_pictures
from catalog_tagger.core import jobs
from catalog_tagger.serve import many
from catalog_tagger.serve.many import ANSWER_COLUMNS, tag_many, tag_many_ray
from catalog_tagger.core.files import CatalogError, atomic_path, read_json, write_json
from catalog_tagger.core.process import rng
from catalog_tagger.core.table import read_table, write_table
from catalog_tagger.catalog.images import Prep
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.serve.answers import as_matrix, decode
from catalog_tagger.serve.decide import fit_decision
from catalog_tagger.serve.outside import fit_outside
from catalog_tagger.serve.predictor import Predictor
from catalog_tagger.serve.review import review_queue
from catalog_tagger.serve.tagger import Tagger
from catalog_tagger.testing.tiny import tiny_space, tiny_tagger

KILLS = {  # name: where each process but the last dies
    'unbroken': (),
    'opening': ('open 30',),
    'in the model': ('predict 6',),
    'the very first': ('move 1',),
    'writing a part': ('half 3',),
    'before a part is moved': ('move 4',),
    'after a part is moved': ('moved 4',),
    'again and again': ('open 3', 'predict 4', 'half 2', 'moved 2', 'move 3', 'predict 3', 'join 1'),
    'joining': ('join 1',),
    'before the record of the rows is moved': ('move 10',),
    'before the file is moved': ('move 11',),
    'after the file is moved': ('moved 11',),
    'removing the parts': ('remove 1',),
}
HOW = dict(k=2, bs=4, chunk=8)

class Colours(nn.Module):
    "Red and blue as the picture has them, and a sale where it is dark."
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.zeros(1))
    def forward(self, x): return torch.stack([x[:, 0].mean((1, 2)), x[:, 2].mean((1, 2)), -x.mean((1, 2, 3))], 1)

SPACE = LabelSpace(vocab=['Red', 'Blue', 'sale'], exclusive={'colour': ['Red', 'Blue']}, parents={}, provenance={})

def make_predictor(): return Predictor(Colours(), SPACE, Prep((8, 8), (.5,)*3, (.25,)*3))

def make_shop(folder, n=60):
    "`n` pictures of random colours, of which four cannot be used."
    folder.mkdir(parents=True)
    for i, c in enumerate(rng(0, 'batch').integers(256, size=(n, 3))):
        Image.new('RGB', (6 + i % 5, 9), tuple(map(int, c))).save(folder/f'{i:03}.png')
    (folder/'001.png').write_bytes(b''); (folder/'017.png').write_text('<html>')
    (folder/'040.png').write_bytes((folder/'041.png').read_bytes()[:50])
    (folder/'059.png').unlink(); os.mkfifo(folder/'059.png')
    return folder

# ---- the script ----

WRITING = threading.RLock()   # held while a part is logged and written: a thread that runs ahead must not die between the two

def die():
    with WRITING: os.kill(os.getpid(), signal.SIGKILL)

def counting(f, n, before=None, after=None):
    "`f`, with `before` in its `n`-th call's place or `after` behind it."
    count, lock = [0], threading.Lock()
    def run(*args, **kw):
        with lock: count[0] += 1; now = count[0] == n
        if now and before: before(*args, **kw)
        res = f(*args, **kw)
        if now and after: after()
        return res
    return run

def half_part(parts, n, files):
    with atomic_path(jobs.part_path(parts, n, '.csv')) as p: p.write_bytes(files['.csv'][:len(files['.csv'])//2]); die()

def half_join(files, path, per, model): path.write_bytes(files[0].read_bytes()); die()

def half_removed(parts): next(parts.glob('*.csv')).unlink(); die()

def dying(*args, **kw): die()

def kill_at(moment):
    what, n = moment.split(); n = int(n)
    if what == 'open': picture_files.open_picture = counting(picture_files.open_picture, n, dying)
    if what == 'predict': Predictor.predict = counting(Predictor.predict, n, dying)
    if what == 'half': jobs.write_part = counting(jobs.write_part, n, half_part)
    if what == 'move': os.replace = counting(os.replace, n, dying)
    if what == 'moved': os.replace = counting(os.replace, n, after=die)
    if what == 'join': many._join_csv = half_join
    if what == 'remove': jobs.remove_parts = half_removed

def tag_logged(folder, name, moment):
    "Tag the shop, with a line in a log for each part whose pictures are tagged."
    def logged(parts, n, files):
        with WRITING:
            with open(folder/f'{name}.log', 'a') as f: f.write(f'{n}\n')
            write(parts, n, files)
    if moment: kill_at(moment)
    write, jobs.write_part = jobs.write_part, logged
    tag_many(make_predictor(), folder/'shop', folder/f'{name}.csv', **HOW)

def run_kills(folder):
    make_shop(folder/'shop')
    ends = {name: [in_child(tag_logged, folder, name, o)[0] for o in (*moments, None)] for name, moments in KILLS.items()}
    (folder/'ends.json').write_text(json.dumps(ends))

class Constant(Tagger):
    "Answers at once, so that what is measured is the way there; every picture is for a person."
    def predict(self, items, **options): return self.answers(items)
    def answers(self, scores, **options): return [[('Red', .5), ('sale', .25)]]*len(scores)
    def scores_and_features(self, items, bs): return np.tile([.5, .2, .25], (len(items), 1)), np.ones((len(items), 1))

def make_constant():
    few = np.tile([.5, .2, .25], (20, 1))
    return Constant(Colours(), SPACE, Prep((8, 8), (.5,)*3, (.25,)*3),
                    decision=fit_decision(few, np.array([[1, 0, 0], [0, 1, 1]]*10), SPACE))

def run_memory(folder, few=2000, many=20000):
    Image.new('RGB', (8, 8), 'red').save(folder/'one.png')
    peaks = []
    for n in (few, many):
        shop = folder/f'{n} pictures'; shop.mkdir()
        for i in range(n): os.link(folder/'one.png', shop/f'{i:07}.png')
        peaks.append(in_child(partial(tag_many, review=folder/f'{n}.queue.csv'), make_constant(), shop, folder/f'{n}.csv'))
    (folder/'peaks.json').write_text(json.dumps(peaks))

def call_script(*argv):
    r = subprocess.run([sys.executable, __file__, *map(str, argv)], env=os.environ | dict(OMP_NUM_THREADS='1'), text=True,
                       capture_output=True)
    assert r.returncode == 0, r.stderr

# ---- rows ----

@pytest.fixture(scope='module')
def shop(tmp_path_factory): return make_shop(tmp_path_factory.mktemp('batch')/'shop')

@pytest.fixture
def predictor(): return make_predictor()

def usable(shop): return [str(o) for o in sorted(shop.iterdir()) if o.name not in ('001.png', '017.png', '040.png', '059.png')]

@pytest.mark.parametrize('how', [dict(bs=1, chunk=1), dict(bs=7, chunk=10), dict(bs=64, chunk=1000, workers=4)], ids=str)
@pytest.mark.parametrize('ask', [dict(), dict(k=1), dict(k=None, min_score=.6)], ids=str)
def test_rows_are_those_of_predict(shop, predictor, tmp_path, how, ask):
    n, rejected = tag_many(predictor, shop, tmp_path/'t.csv', **how, **ask)
    df = pd.read_csv(tmp_path/'t.csv'); good = df[df['reason'].isna()]
    want = predictor.predict(usable(shop), **ask)
    assert list(df) == ANSWER_COLUMNS and n == len(want) == good['image'].nunique()
    assert good[['image', 'rank', 'tag']].values.tolist() == [[im, i, t] for im, o in zip(usable(shop), want)
                                                              for i, (t, _) in enumerate(o, 1)]
    assert np.allclose(good['score'], [s for o in want for _, s in o], atol=1e-5)

def test_bad_pictures_are_rows_in_their_place(shop, predictor, tmp_path):
    _, rejected = tag_many(predictor, shop, tmp_path/'t.csv', **HOW)
    df = pd.read_csv(tmp_path/'t.csv')
    assert df['image'].drop_duplicates().tolist() == sorted(str(o) for o in shop.iterdir())
    bad = df[df['reason'].notna()]
    assert bad[['rank', 'tag', 'score']].isna().all(axis=None) and bad['reason'].tolist() == rejected['reason'].tolist()
    assert rejected['row'].tolist() == [1, 17, 40, 59]
    assert [o.split(':')[0] for o in rejected['reason']] == ['empty file', 'not an image', 'damaged or truncated',
                                                             'not a file but a folder, a pipe or a device']

def test_missing_pictures_are_rows_and_missing_folders_an_error(shop, predictor, tmp_path):
    n, rejected = tag_many(predictor, [shop/'000.png', shop/'gone.jpg'], tmp_path/'t.csv')
    assert n == 1 and rejected['reason'].tolist() == ['missing: no such file']
    with pytest.raises(CatalogError, match='gone does not exist'): tag_many(predictor, [shop/'gone'], tmp_path/'u.csv')
    assert tag_many(predictor, pd.DataFrame({'image': [str(shop/'gone.jpg')]}), tmp_path/'v.csv')[0] == 0

def test_a_picture_without_an_answer_has_a_row(shop, tmp_path):
    free = LabelSpace(vocab=['a', 'b', 'c'], exclusive={}, parents={}, provenance={})
    predictor = make_predictor(); predictor.space = free
    n, rejected = tag_many(predictor, shop, tmp_path/'t.csv', min_score=1.)
    df = pd.read_csv(tmp_path/'t.csv')
    assert (n, len(rejected), len(df)) == (56, 4, 60) and df['tag'].isna().all() and df['reason'].notna().sum() == 4

def test_every_picture_is_opened_once(shop, predictor, tmp_path, monkeypatch):
    opened, open_one = [], picture_files.open_picture
    monkeypatch.setattr(picture_files, 'open_picture', lambda prep, image, why: opened.append(image) or open_one(prep, image, why))
    tag_many(predictor, [shop, shop/'003.png', str(shop)], tmp_path/'t.csv', **HOW)
    assert sorted(opened) == sorted(str(o) for o in shop.iterdir())

def test_names_that_csv_must_quote(predictor, tmp_path):
    odd = tmp_path/'odd'; odd.mkdir()
    for name in ('a,b.png', 'a"b.png', 'a\nb.png', 'größe 红.png', ' a.png', 'NA.png', "=cmd.png"):
        Image.new('RGB', (4, 4), 'red').save(odd/name)
    tag_many(predictor, odd, tmp_path/'t.csv', k=1)
    assert pd.read_csv(tmp_path/'t.csv')['image'].tolist() == list(find_pictures(odd))
    (odd/os.fsdecode(b'\xff.png')).write_bytes(b'')
    assert 'not a usable path' in tag_many(predictor, odd, tmp_path/'t.csv')[1]['reason'].iloc[0]
    assert tag_many(predictor, pd.DataFrame({'image': [os.fsdecode(b'\xff.png'), None, 7]}),
                    tmp_path/'t.csv')[1]['reason'].tolist() == ['missing: no such file']*3

def test_the_rows_of_a_part_are_read_back(tmp_path):
    rows = [('a,"b".jpg', 1, 'NA', .1 + .2, None), ('new\nline.jpg', None, None, None, 'empty file')]
    (tmp_path/'part.csv').write_bytes(many._pack_rows([[rows]])[many._TAGS])
    back = many._read_part_rows(tmp_path/'part.csv')
    assert back['image'].tolist() == [o[0] for o in rows] and (back['tag'][0], back['score'][0]) == ('NA', .1 + .2)

def test_csv_and_parquet_alike(shop, predictor, tmp_path):
    pytest.importorskip('pyarrow', reason='Parquet needs pyarrow')
    for f in ('t.csv', 't.parquet'): tag_many(predictor, shop, tmp_path/f, **HOW)
    a, b = pd.read_csv(tmp_path/'t.csv'), pd.read_parquet(tmp_path/'t.parquet')
    assert list(b) == ANSWER_COLUMNS and str(b['score'].dtype) == 'float64'
    for c in ANSWER_COLUMNS: assert [None if pd.isna(o) else o for o in a[c]] == [None if pd.isna(o) else o for o in b[c]], c
    tag_many(predictor, shop, tmp_path/'t.parquet', **HOW)    # its own file from another time is replaced

def test_parquet_without_pyarrow(shop, predictor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(CatalogError, match='pip install pyarrow, or give a name that ends in .csv'):
        tag_many(predictor, shop, tmp_path/'t.parquet')

@pytest.mark.parametrize('name, content, says', [
    ('t.csv', 'id,price\n1,2\n', 'not a table of tags'), ('t.csv', '\0\xff junk', 'not a table of tags'),
    ('t.parquet', 'junk', 'not a table of tags'),
    ('t.txt', None, 'expected a file that ends in .csv or .parquet'), ('', None, 'expected a file that ends'),
    ('t.csv.parts/mine.txt', 'thesis', 'catalog_tagger did not write them')])
def test_what_is_something_else_is_left_alone(shop, predictor, tmp_path, name, content, says):
    if name.endswith('parquet'): pytest.importorskip('pyarrow', reason='Parquet needs pyarrow')
    f = tmp_path/name
    if content: f.parent.mkdir(exist_ok=True); f.write_text(content)
    out = f.parent.with_suffix('') if '/' in name else f if name else ''
    with pytest.raises(CatalogError, match=says): tag_many(predictor, shop, out)
    if content: assert f.read_text() == content and len(os.listdir(tmp_path)) == 1

def test_empty_sources(predictor, tmp_path):
    (tmp_path/'void').mkdir()
    for o in (tmp_path/'void', [], pd.DataFrame({'image': []})):
        with pytest.raises(CatalogError, match='no picture in'): tag_many(predictor, o, tmp_path/'t.csv')
    with pytest.raises(CatalogError, match="no column 'image'"): tag_many(predictor, pd.DataFrame({'file': ['a']}), tmp_path/'t.csv')
    assert os.listdir(tmp_path) == ['void']

@pytest.mark.parametrize('how, says',
                         [(dict(k=0), 'k=0, expected 1'), (dict(min_score=float('nan')), 'min_score=nan, expected 0 to 1'),
                          (dict(bs=0), 'bs=0, expected 1'), (dict(chunk=2.5), 'chunk=2.5, expected 1')], ids=str)
def test_wrong_options_are_told_first(shop, predictor, tmp_path, how, says):
    with pytest.raises(CatalogError, match=says): tag_many(predictor, shop, tmp_path/'t.csv', **how)
    assert os.listdir(tmp_path) == []

def test_the_model_of_the_caller_is_left_as_it_is(shop, tmp_path):
    t = tiny_tagger(tiny_space()); t.model.train(); before = {k: (v.clone(), v.stride()) for k, v in t.model.state_dict().items()}
    tag_many(t, shop, tmp_path/'t.csv', **HOW)
    assert all(o.training for o in t.model.modules()) and any(isinstance(o, nn.BatchNorm2d) for o in t.model.modules())
    assert all(v.equal(before[k][0]) and v.stride() == before[k][1] for k, v in t.model.state_dict().items())

# ---- the review queue ----

@pytest.fixture(scope='module')
def reviewer(shop):
    "A tagger by whose decision about half of the shop can be published, and some of it lies outside."
    t, images = tiny_tagger(tiny_space()), usable(shop); last = t.model[1][-1]
    # it has learned nothing: so its scores differ, too
    with torch.no_grad(): last.weight *= 300; last.bias -= torch.from_numpy(logit(t.scores(images)).mean(0))
    scores, features = t.scores_and_features(images)
    targs = as_matrix(decode(scores, t.space, k=None, min_score=.5), t.space); wrong = rng(0, 'wrong').random(len(targs)) < .2
    targs[wrong] = np.roll(targs, 1, 0)[wrong]
    decision = fit_decision(scores, targs, t.space, outside=fit_outside(features[:40], features, share=.1))
    weakest = np.sort(review_queue(pd.DataFrame({'image': images}), scores, t.space, replace(decision, publish={}))['score'])[14:42]
    at = np.diff(weakest).argmax()     # no score is near the limit
    return replace(t, decision=replace(decision, publish={'': float(weakest[at:at + 2].mean())}))

def test_the_queue_comes_out_of_the_same_pass(shop, reviewer, tmp_path, monkeypatch):
    from catalog_tagger.runs.evaluate import review_pictures
    tag_many(reviewer, shop, tmp_path/'alone.csv', **HOW); want = review_pictures(reviewer.for_serving(), shop, bs=HOW['bs'])
    opened, open_one = [], picture_files.open_picture
    monkeypatch.setattr(picture_files, 'open_picture', lambda prep, image, why: opened.append(image) or open_one(prep, image, why))
    tag_many(reviewer, shop, tmp_path/'t.csv', review=tmp_path/'q.csv', **HOW)
    assert sorted(opened) == sorted(str(o) for o in shop.iterdir())
    assert (tmp_path/'t.csv').read_bytes() == (tmp_path/'alone.csv').read_bytes()
    write_table(tmp_path/'want.csv', want)
    assert (tmp_path/'q.csv').read_text() == (tmp_path/'want.csv').read_text() and 10 < len(want) < 50
    assert 0 < want['outside'].sum() < len(want)

def test_the_queue_is_that_of_all_scores_at_once(shop, reviewer, tmp_path):
    "As it was made before: every picture audited, all scores in memory, norms not folded."
    from catalog_tagger.catalog.images import audit_images
    df, _ = audit_images(pd.DataFrame({'image': [o for o, why in find_pictures(shop).items() if not why]}))
    scores, features = reviewer.scores_and_features(df['image'])
    want = review_queue(df, scores, reviewer.space, reviewer.decision, features=features).set_index('image')
    tag_many(reviewer, shop, tmp_path/'t.csv', review=tmp_path/'q.csv', **HOW)
    got = read_table(tmp_path/'q.csv').set_index('image')
    assert list(got) == list(want) and set(got.index) == set(want.index)
    got = got.loc[want.index]
    assert got['tags'].tolist() == want['tags'].tolist() and got['outside'].tolist() == want['outside'].astype(str).tolist()
    for c in ('worth', 'score'): assert np.allclose(got[c].astype(float), want[c], atol=1e-3)

def test_a_run_that_was_stopped_while_it_joined_has_its_queue(shop, reviewer, tmp_path, monkeypatch):
    for name in ('t', 'whole'):
        if name == 't':
            with monkeypatch.context() as m:
                m.setattr(many, '_join_queue', lambda *a: 1/0)
                with pytest.raises(ZeroDivisionError): tag_many(reviewer, shop, tmp_path/'t.csv', review=tmp_path/'t.queue.csv', **HOW)
            with pytest.raises(CatalogError, match='review was True, is False'): tag_many(reviewer, shop, tmp_path/'t.csv', **HOW)
        tag_many(reviewer, shop, tmp_path/f'{name}.csv', review=tmp_path/f'{name}.queue.csv', **HOW)
    for o in ('csv', 'queue.csv'): assert (tmp_path/f't.{o}').read_bytes() == (tmp_path/f'whole.{o}').read_bytes()

@pytest.mark.parametrize('review, says',
                         [('t.csv', 'out and review are both'), ('q.txt', "review .*q.txt': expected a file that ends in .csv"),
                          ('prices.csv', 'exists and is not a review queue')])
def test_a_queue_that_cannot_be_written_is_an_error_first(shop, reviewer, tmp_path, review, says):
    (tmp_path/'prices.csv').write_text('id,price\n1,2\n')
    with pytest.raises(CatalogError, match=says): tag_many(reviewer, shop, tmp_path/'t.csv', review=tmp_path/review, **HOW)
    with pytest.raises(CatalogError, match='no thresholds for a review'):
        tag_many(replace(reviewer, decision=None), shop, tmp_path/'t.csv', review=tmp_path/'q.csv')
    assert sorted(os.listdir(tmp_path)) == ['prices.csv'] and (tmp_path/'prices.csv').read_text() == 'id,price\n1,2\n'

# ---- going on ----

@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    d = tmp_path_factory.mktemp('kills'); call_script('kills', d)
    return d

@pytest.mark.parametrize('name', [o for o in KILLS if KILLS[o]])
def test_a_killed_run_ends_as_an_unbroken_one(killed, name):
    assert json.loads((killed/'ends.json').read_text())[name] == [signal.SIGKILL]*len(KILLS[name]) + [0]
    assert (killed/f'{name}.csv').read_bytes() == (killed/'unbroken.csv').read_bytes()
    made = (killed/f'{name}.log').read_text().split()
    # parts that were tagged and were no longer, or not yet, on disk
    lost = sum(o.startswith(('half', 'remove')) or o in ('move 3', 'move 4') for o in KILLS[name])
    assert set(made) == set(map(str, range(8))) and len(made) == 8 + lost
    assert not (killed/f'{name}.csv.parts').exists()

def test_the_unbroken_one_is_whole(killed):
    assert pd.read_csv(killed/'unbroken.csv')['image'].nunique() == 60

class Stops(Predictor):
    calls = 0
    def predict(self, *args, **kw):
        Stops.calls += 1
        if Stops.calls == 6: raise MemoryError
        return super().predict(*args, **kw)

@pytest.fixture
def stopped(tmp_path):
    "A shop and the parts of a run that was stopped in it."
    shop = make_shop(tmp_path/'shop'); p = make_predictor()
    stops = Stops(p.model, p.space, p.prep); Stops.calls = 0
    with pytest.raises(MemoryError): tag_many(stops, shop, tmp_path/'t.csv', workers=1, **HOW)
    assert len(list((tmp_path/'t.csv.parts').glob('*.csv'))) == 2 and not (tmp_path/'t.csv').exists()
    return shop, tmp_path/'t.csv', p

def altered(shop, p, what):
    "Arguments of a run that differs in `what` from the one that was stopped."
    how = dict(HOW)
    if what == 'a new picture': Image.new('RGB', (4, 4)).save(shop/'new.png')
    if what == 'one less': (shop/'050.png').unlink()
    if what == 'another content': Image.new('RGB', (4, 4)).save(shop/'002.png')
    if what == 'another model': p.model.w.data += 1
    if what == 'another size': p.prep = Prep((16, 16), (.5,)*3, (.25,)*3)
    if what == 'other labels':
        p.space = LabelSpace(vocab=['Red', 'Green', 'sale'], exclusive={'colour': ['Red', 'Green']}, parents={}, provenance={})
    if what == 'more tags': how['k'] = 3
    if what == 'other parts': how['chunk'] = 16
    return how

STARTS_OVER = {'a new picture': 'pictures was 60, is 61; source has changed', 'one less': 'pictures was 60, is 59',
               'another content': 'source has changed', 'another model': 'model has changed',
               'another size': 'model has changed', 'other labels': 'model has changed'}
REFUSED = {'more tags': 'k was 2, is 3', 'other parts': 'chunk was 8, is 16'}

@pytest.mark.parametrize('what', STARTS_OVER)
def test_parts_that_nothing_can_use_are_removed_and_told(stopped, what):
    shop, out, p = stopped
    how = altered(shop, p, what)
    with pytest.warns(UserWarning, match=f'starts over: {STARTS_OVER[what]}'): n, rejected = tag_many(p, shop, out, **how)
    assert n + len(rejected) == len(list(shop.iterdir())) and not Path(f'{out}.parts').exists()
    tag_many(p, shop, out.with_name('fresh.csv'), **how)
    assert out.read_bytes() == out.with_name('fresh.csv').read_bytes()

@pytest.mark.parametrize('what', REFUSED)
def test_parts_with_other_options_are_kept(stopped, what):
    shop, out, p = stopped
    how = altered(shop, p, what)
    with pytest.raises(CatalogError, match=REFUSED[what]): tag_many(p, shop, out, **how)
    assert not out.exists() and len(list(Path(f'{out}.parts').glob('*.csv'))) == 2
    n, rejected = tag_many(p, shop, out, resume=False, **how)
    assert n + len(rejected) == len(list(shop.iterdir())) and not Path(f'{out}.parts').exists()

def test_parts_of_another_version_are_not_resumed(stopped):
    shop, out, p = stopped; f = out.with_name('t.csv.parts')/'manifest.json'
    write_json(f, {k: o for k, o in read_json(f).items() if k != 'version'})
    with pytest.warns(UserWarning, match='starts over: version was None, is 2'): tag_many(p, shop, out, **HOW)

def test_a_broken_model_is_told_and_mended(shop, predictor, tmp_path):
    predictor.model.register_buffer('nan', torch.tensor(float('nan'))); forward = predictor.model.forward
    predictor.model.forward = lambda x: forward(x) + predictor.model.nan
    with pytest.raises(CatalogError, match='not finite; the model is damaged'): tag_many(predictor, shop, tmp_path/'t.csv')
    predictor.model.nan.zero_()
    assert tag_many(predictor, shop, tmp_path/'t.csv')[0] == 56

# ---- memory ----

def test_memory_stays_flat(tmp_path):
    call_script('memory', tmp_path)
    (end, few), (end2, many) = json.loads((tmp_path/'peaks.json').read_text())
    assert (end, end2) == (0, 0)
    assert (many - few)/18_000 < 50e6/90_000, f'{(many - few)/1e6:.1f} MB more for 18,000 pictures'
    assert sum(1 for _ in open(tmp_path/'20000.csv')) == 40_001 and sum(1 for _ in open(tmp_path/'20000.queue.csv')) == 20_001

# ---- a cluster ----

@pytest.fixture(scope='module')
def ray(tmp_path_factory):
    "A cluster of two processors on this machine."
    ray = pytest.importorskip('ray', reason='needs Ray: pip install "catalog_tagger[ray]"')
    pytest.importorskip('pyarrow', reason='Ray Data needs pyarrow')
    os.environ |= dict(RAY_USAGE_STATS_ENABLED='0', RAY_DATA_DISABLE_PROGRESS_BARS='1', RAY_DEDUP_LOGS='1')
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False, logging_level='ERROR',
             address='local')
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])    # the workers do not know this file
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()

def test_a_cluster_gives_the_same_file(ray, shop, predictor, tmp_path):
    local = tag_many(predictor, shop, tmp_path/'local.csv', **HOW)
    there = tag_many_ray(make_predictor, shop, tmp_path/'ray.csv', actors=2, **HOW)
    assert (tmp_path/'ray.csv').read_bytes() == (tmp_path/'local.csv').read_bytes()
    assert there[0] == local[0] == 56 and there[1].equals(local[1])

def test_a_cluster_gives_the_same_queue(ray, shop, reviewer, tmp_path):
    tag_many(reviewer, shop, tmp_path/'local.csv', review=tmp_path/'local.queue.csv', **HOW)
    tag_many_ray(lambda: reviewer, shop, tmp_path/'ray.csv', review=tmp_path/'ray.queue.csv', actors=1, **HOW)
    ours, theirs = [read_table(tmp_path/f'{o}.queue.csv').set_index('image').sort_index() for o in ('local', 'ray')]
    assert ours['tags'].tolist() == theirs['tags'].tolist()
    assert len(pd.read_csv(tmp_path/'ray.csv')) == len(pd.read_csv(tmp_path/'local.csv'))
    for c in ('worth', 'score'): assert np.allclose(ours[c].astype(float), theirs[c].astype(float), atol=1e-3)

def test_a_killed_actor_loses_no_row(ray, shop, predictor, tmp_path):
    flag = tmp_path/'died'
    def load():
        class Dies(Predictor):
            def predict(self, items, **options):
                if any(o.getpixel((0, 0)) == marked for o in items) and not flag.exists():
                    flag.touch(); os.kill(os.getpid(), signal.SIGKILL)
                return super().predict(items, **options)
        p = make_predictor()
        return Dies(p.model, p.space, p.prep)
    marked = predictor.prep.picture(shop/'033.png').getpixel((0, 0))
    tag_many(predictor, shop, tmp_path/'local.csv', **HOW)
    tag_many_ray(load, shop, tmp_path/'ray.csv', actors=2, **HOW)
    assert flag.exists() and (tmp_path/'ray.csv').read_bytes() == (tmp_path/'local.csv').read_bytes()

def test_a_cluster_goes_on_where_one_machine_stopped(ray, stopped):
    shop, out, p = stopped
    tag_many(p, shop, out.with_name('local.csv'), **HOW)
    tag_many_ray(make_predictor, shop, out, actors=1, **HOW)
    assert out.read_bytes() == out.with_name('local.csv').read_bytes()

def test_without_ray_it_says_so(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(CatalogError, match=r'needs Ray: pip install "catalog_tagger\[ray\]"'):
        tag_many_ray(make_predictor, shop, tmp_path/'t.csv')

# ---- several cards ----

DISTRIBUTED = '''
import sys
from fastai.distributed import *
from catalog_tagger.all import *
cfg = RunConfig(sys.argv[1], sys.argv[2], size=48, bs=16)
ready = rank0_first(prepare_catalog, cfg)
learn = build_learner(cfg, ready.catalog.df, ready.space)
with learn.distrib_ctx(): learn.fine_tune(1, 4e-3)
if not rank_distrib(): learn.export(Path(sys.argv[2])/'learner.pkl')
'''

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU: distributed training of fastai is CUDA only')
def test_training_on_several_cards(tmp_path):
    pytest.importorskip('accelerate', reason='needs accelerate: pip install accelerate')
    from catalog_tagger.testing.demo import demo_styles
    demo_styles(tmp_path/'shop', n=120); (tmp_path/'run').mkdir(); (tmp_path/'train.py').write_text(DISTRIBUTED)
    n = torch.cuda.device_count()
    r = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', *(['--multi_gpu'] if n > 1 else []), '--num_processes', str(n),
                        tmp_path/'train.py', tmp_path/'shop', tmp_path/'run'],
                       text=True, capture_output=True)
    assert r.returncode == 0, r.stderr
    assert (tmp_path/'run'/'learner.pkl').stat().st_size > 0

if __name__ == '__main__': {'kills': run_kills, 'memory': run_memory}[sys.argv[1]](Path(sys.argv[2]))
