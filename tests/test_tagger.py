"The bundle there and back: the same answers as the learner's, without fastai, in torch and in ONNX."
import hashlib, json, subprocess, sys
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from torch import nn

from catalog_tagger.serve.outside import fit_outside
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import write_table
from catalog_tagger.catalog.images import MAX_PIXELS, OPENING_VERSION, Prep
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.train.backbones import arch_prep, find_arch
from catalog_tagger.train.heads import build_model
from catalog_tagger.serve.predictor import Predictor
from catalog_tagger.serve.onnx import export_onnx, quantise_onnx, tag_rows
from catalog_tagger.serve.tagger import BUNDLE_FILES, BundleError, Tagger, _parse_manifest, save_bundle
from catalog_tagger.testing.tiny import tiny_catalog

ARCH, LABELS = 'mobilenetv3_small_050', ['Apparel', 'Shoes', 'Red', 'Blue', 'new', 'a|b\nc']
SPACE = LabelSpace(LABELS, {'master': ['Apparel', 'Shoes'], 'colour': ['Red', 'Blue']}, {},
                   {o: dict(label=o, count=i, rule='kept') for i, o in enumerate(LABELS)})
FACTS = dict(catalog='shop', epochs=3)
METRICS = {'recall@3': dict(score=.5, low=.4, high=.6, nothing=0., commonest=.3),
           'mAP': dict(score=.25, low=None, high=None, nothing=.1, commonest=.1)}

def linear(n, n_out=6):
    return [dict(layer='AdaptiveAvgPool2d'), dict(layer='Flatten'), dict(layer='Linear', in_features=n, out_features=n_out, bias=True)]
def make_tagger(space=SPACE, size=32, **kwargs):
    torch.manual_seed(0)
    return Tagger(build_model(find_arch(ARCH), linear(288, len(space.vocab)))[0], space, Prep((size, size), (.5,)*3, (.25,)*3), arch=ARCH,
                  **kwargs)
def save(tagger, folder, **kwargs): return save_bundle(tagger, folder, **dict(facts=FACTS, metrics=METRICS) | kwargs)
def noise(n, size=32): return list(np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8))

def anything(arch, model, size): return Tagger(model, SPACE, arch_prep(arch, size), arch=arch)

@pytest.mark.parametrize('arch, size, head', [('resnet18', 32, 'fastai'), ('resnet18', 32, 'stacked'), ('mobilenet_v2', 32, 'fastai'),
    ('mobilenet_v2', 32, 'stacked'), ('efficientnet_lite0', 32, 'fastai'),
    ('efficientnet_lite0', 32, 'linear'), (ARCH, 32, 'fastai'), ('inception_v3', 75, 'fastai'), ('inception_v3', 75, 'linear'),
    ('vit_tiny_patch16_224', 224, 'fastai'), ('swin_tiny_patch4_window7_224', 224, 'linear')])
def test_same_logits_for_each_backbone_and_head(arch, size, head, tmp_path):
    from catalog_tagger.train.learner import catalog_model
    torch.manual_seed(0)
    model = catalog_model(find_arch(arch), 6, head=head, dropout=.2)
    if size < 100:
        with torch.no_grad(): model.train()(torch.randn(4, 3, size, size))   # so that the statistics are not those of the start
    model.eval(); x = torch.randn(2, 3, size, size)
    loaded = Tagger.load(save(anything(arch, model, size), tmp_path/'b'))
    with torch.no_grad(): torch.testing.assert_close(loaded.model(x), model(x), atol=1e-5, rtol=0)
    assert loaded.prep == arch_prep(arch, size) and loaded.arch == arch
    assert all(k.startswith(('body.', 'head.')) for k in names_in(tmp_path/'b')) and not any('Aux' in k for k in names_in(tmp_path/'b'))

def names_in(folder):
    from safetensors import safe_open
    with safe_open(folder/'model.safetensors', 'pt') as f: return list(f.keys())

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A learner that has learned a little, its bundle, its graph, and pictures."
    from fastai.vision.all import set_seed
    from catalog_tagger.train.data import catalog_dls
    from catalog_tagger.train.learner import catalog_learner
    tmp = tmp_path_factory.mktemp('trained')
    df, space = tiny_catalog(tmp/'shop', 70)
    set_seed(0)
    learn = catalog_learner(catalog_dls(df, space, arch_prep(ARCH, 48), bs=16), ARCH, weights=None)
    learn.fit(2, 1e-3)
    save(learn, tmp/'bundle')
    return learn, tmp, df['image'].tolist()

@pytest.fixture(scope='module')
def graph(trained):
    pytest.importorskip('onnxruntime', reason='needs onnxruntime: pip install "catalog_tagger[onnx]"')
    export_onnx(Tagger.load(trained[1]/'bundle'), path := trained[1]/'onnx'/'tagger.onnx')
    return path

def test_learner_predictor_tagger_and_graph_answer_alike(trained, graph, ort):
    learn, tmp, images = trained
    tagger = Tagger.load(tmp/'bundle'); session = ort.InferenceSession(graph)
    x = np.stack([tagger.prep(o) for o in images])
    want = learn.get_preds(dl=learn.dls.test_dl(images))[0].numpy()
    answers = {'predictor': Predictor.from_learner(learn).scores(images), 'tagger by 64': tagger.scores(images),
               'tagger by 1': tagger.scores(images, bs=1),
               'graph by 64': np.concatenate([session.run(None, {'picture': x[i:i+64]})[0] for i in range(0, len(x), 64)]),
               'graph by 1': np.concatenate([session.run(None, {'picture': o[None]})[0] for o in x])}
    for who, o in answers.items(): np.testing.assert_allclose(o, want, atol=1e-4, rtol=0, err_msg=who)
    tags = lambda answers: [[t for t, _ in o] for o in answers]
    assert tags(tagger.predict(images, k=4)) == tags(tagger.predict(images, k=4, bs=7)) and len(tagger.predict(images[0])) == 3

def test_serving_needs_no_fastai(trained):
    "In a process of its own, in which fastai cannot be imported; timm comes with the model."
    _, tmp, images = trained
    code = f'''import sys
sys.modules['fastai'] = None
from catalog_tagger.serve.tagger import Tagger
early = [o for o in ('timm', 'torchvision', 'sklearn', 'matplotlib', 'onnx') if o in sys.modules]
assert not early, early
tags = Tagger.load({str(tmp/'bundle')!r}).predict({images[0]!r}, k=2)
late = [o for o in sys.modules if o.startswith('fastai.') or o in ('sklearn', 'matplotlib', 'catalog_tagger.train.learner')]
assert len(tags) == 2 and not late, late'''
    r = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, cwd=Path(__file__).resolve().parents[1])
    assert r.returncode == 0, r.stderr

def test_there_and_back(tmp_path):
    tagger = make_tagger(activation='grouped', tta=2)
    d = save(tagger, tmp_path/'b', arrays=dict(centres=np.arange(6.).reshape(2, 3)))
    state = torch.get_rng_state(); loaded = Tagger.load(str(d))
    assert torch.equal(torch.get_rng_state(), state)
    assert (loaded.space, loaded.prep, loaded.activation, loaded.tta, loaded.arch) == (SPACE, tagger.prep, 'grouped', 2, ARCH)
    assert (loaded.facts, loaded.metrics, loaded.decision, loaded.words) == (FACTS, METRICS, None, None)
    np.testing.assert_array_equal(loaded.arrays['centres'], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_allclose(loaded.scores(noise(3)), tagger.scores(noise(3)), atol=1e-5)
    again = save(loaded, tmp_path/'c', facts=loaded.facts, metrics=loaded.metrics, arrays=loaded.arrays)
    assert all((again/o).read_bytes() == (d/o).read_bytes() for o in BUNDLE_FILES)   # a tagger can be saved as it came

def test_what_a_killed_save_left_does_not_hinder(tmp_path):
    d = save(make_tagger(), tmp_path/'b'); (d/'.123.tmp').mkdir(); (d/'.123.tmp'/'tagger.json').touch()
    assert Tagger.load(d).arch == ARCH

def test_what_is_in_the_folder(tmp_path):
    d = save(make_tagger(), tmp_path/'b')
    assert {o.name for o in d.iterdir()} == set(BUNDLE_FILES)
    assert not any(o.read_bytes()[:2] in (b'\x80\x02', b'\x80\x04', b'PK') for o in d.iterdir())   # pickles and zips
    for line in (d/'SHA256SUMS').read_text().splitlines():
        digest, name = line.split('  ')
        assert hashlib.sha256((d/name).read_bytes()).hexdigest() == digest
    told = json.loads((d/'tagger.json').read_text())
    assert told['prep'] == dict(size=[32, 32], mean=[.5]*3, std=[.25]*3, method='squish', opening=OPENING_VERSION, max_pixels=MAX_PIXELS)
    assert str(tmp_path) not in (d/'tagger.json').read_text()

def test_the_card_says_scores_with_floors(tmp_path):
    card = (save(make_tagger(), tmp_path/'b')/'README.md').read_text()
    assert '| recall@3 | 0.500 | 0.400 | 0.600 | 0.000 | 0.300 |' in card and '| mAP | 0.250 | – | – | 0.100 | 0.100 |' in card
    assert '| colour | 2 | Red (2), Blue (3) |' in card and r'| free tags | 2 | new (4), a\|b c (5) |' in card and '| epochs | 3 |' in card

class Mine(nn.Module):
    def __init__(self): super().__init__(); self.last = nn.Linear(576, 6)
    def forward(self, x): return self.last(x.mean((2, 3)))

def test_what_cannot_be_saved_says_so_and_leaves_what_was_there(tmp_path):
    from catalog_tagger.train.learner import catalog_model
    d = save(make_tagger(), tmp_path/'b'); before = {o.name: o.read_bytes() for o in d.iterdir()}
    def refused(match, model, arch=ARCH, **kwargs):
        with pytest.raises(CatalogError, match=match): save(anything(arch, model, 32), d, **kwargs)
        assert {o.name: o.read_bytes() for o in d.iterdir()} == before
    body = lambda: build_model(find_arch(ARCH), linear(288))[0]
    refused('the head contains Mine', nn.Sequential(body()[0], Mine()))
    refused(r'the head contains Lambda|the head contains', nn.Sequential(body()[0], nn.Sequential(nn.Softmax(1))))
    refused('is not a resnet18 with its head', body(), 'resnet18')
    broken = body(); broken[1][2].bias.data[0] = torch.nan
    refused('head.2.bias contains NaN', broken)
    refused('expected 6 logits', build_model(find_arch(ARCH), linear(288, 5))[0])
    hooked = body(); hooked[1].register_forward_hook(lambda m, x, y: y + 1)
    refused('differ from those of the one in memory', hooked)
    with pytest.raises(ValueError): save(make_tagger(), d, metrics={'a': dict(score=float('nan'))})
    assert {o.name: o.read_bytes() for o in d.iterdir()} == before
    with pytest.raises(CatalogError, match='the backbone is unknown'): save(Tagger(body(), SPACE, arch_prep(ARCH, 32)), tmp_path/'c')

@pytest.mark.parametrize('data, says', [
    (b'{"format": 2}', 'the format of tagger.json is 2, this version of catalog_tagger reads 1'),
    (b'{"format": 1, "format": 1}', 'duplicate key')])
def test_a_manifest_that_is_not_of_this_format(data, says):
    with pytest.raises(CatalogError, match=says): _parse_manifest(data)

def test_words_come_back(tmp_path):
    words = dict(lang='de', engine='hanta', k=3, phrases=[], names=dict(noun={}, adj={}), idf={'kleid': 1.}, nouns=['kleid'], adjs=[])
    assert Tagger.load(save(make_tagger(), tmp_path/'b', words=words)).words.nouns == ['kleid']

def test_the_decision_comes_back_and_decides(tmp_path):
    decide = pytest.importorskip('catalog_tagger.serve.decide', reason='no decisions in this version')
    r = np.random.default_rng(0); group = r.integers(0, 2, (80, 2))
    targs = np.c_[group[:, :1], 1 - group[:, :1], group[:, 1:], 1 - group[:, 1:], r.integers(0, 2, (80, 2))]
    scores = np.clip(targs*.5 + .1 + r.random(targs.shape)*.3, 0, 1)
    features = r.normal(size=(80, 8))
    decision = decide.fit_decision(scores, targs, SPACE, outside=fit_outside(features[:40], features[40:]))
    tagger = Tagger.load(save(make_tagger(), tmp_path/'b', decision=decision))
    assert tagger.decision.to_dict() == decision.to_dict()
    np.testing.assert_allclose(tagger.decision.outside.distance(features), decision.outside.distance(features), rtol=1e-5)
    images = noise(4)
    for mode in ('balanced', 'high_precision', 'top_k'):
        assert tagger.predict(images, mode=mode) == decide.decide(tagger.scores(images), SPACE, decision, mode)
    assert tagger.predict(images[0]) == tagger.predict(images, mode='balanced')[0]
    rows, raw = tag_rows(tagger), np.repeat(np.linspace(0, 1, 500)[:, None], 6, 1)
    for i in (4, 5):   # a threshold of the table says before calibration what that of the decision says after it
        told = raw[:, i] >= rows['threshold'][i]; meant = decision.calibration.apply(raw, SPACE)[:, i] >= decision.thresholds['balanced'][i]
        assert (told != meant).sum() <= 1
    for wrong in ({}, {'calibration': 1}, decision.to_dict() | {'support': [1]}, decision.to_dict() | {'thresholds': '../..'}):
        with pytest.raises(BundleError): Tagger.load(save(make_tagger(), tmp_path/'c', decision=wrong))

# --- ONNX
@pytest.fixture
def ort():
    return pytest.importorskip('onnxruntime', reason='needs onnxruntime: pip install "catalog_tagger[onnx]"')

SINGLE = LabelSpace(['a', 'b', 'c'], {'class': ['a', 'b', 'c']}, {}, {o: dict(label=o, count=1, rule='kept') for o in 'abc'})

@pytest.mark.parametrize('space, kwargs', [(SPACE, dict(activation='grouped', tta=2)), (SINGLE, {})])
def test_a_graph_gives_the_taggers_scores(space, kwargs, tmp_path, ort):
    tagger = make_tagger(space, **kwargs)
    assert export_onnx(tagger, tmp_path/'o'/'t.onnx') < 1e-4
    assert {o.name for o in (tmp_path/'o').iterdir()} == {'t.onnx', 't.json', 'selected_tags.csv'}
    session, images = ort.InferenceSession(tmp_path/'o'/'t.onnx'), noise(5)
    rules = json.loads((tmp_path/'o'/'t.json').read_text())
    # by the rules alone
    h, w = rules['size']
    x = (np.stack(images).transpose(0, 3, 1, 2)/255 - np.array(rules['mean']).reshape(3, 1, 1))/np.array(rules['std']).reshape(3, 1, 1)
    for n in (1, 5):
        np.testing.assert_allclose(session.run([rules['output']], {rules['input']: x[:n].astype(np.float32)})[0], tagger.scores(images[:n]),
                                   atol=1e-4)
    meta = session.get_modelmeta().custom_metadata_map
    assert json.loads(meta['labels']) == space.vocab and json.loads(meta['catalog_tagger']) == rules

def test_the_table_of_tags(tmp_path):
    write_table(tmp_path/'selected_tags.csv', tag_rows(make_tagger()))
    df = pd.read_csv(tmp_path/'selected_tags.csv', keep_default_na=False)
    assert df.columns.tolist() == ['tag_id', 'name', 'group', 'count', 'threshold'] and df['name'].tolist() == LABELS
    assert df['group'].tolist() == ['master', 'master', 'colour', 'colour', '', '']
    assert df['threshold'].tolist() == ['', '', '', '', '0.5', '0.5'] and df['count'].tolist() == [0, 1, 2, 3, 4, 5]
    assert tag_rows(make_tagger(), min_score=.3)['threshold'].tolist()[-1] == .3

def test_without_onnx_the_way_to_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(CatalogError, match=r'ONNX needs onnxscript: pip install "catalog_tagger\[onnx\]"'):
        export_onnx(make_tagger(), tmp_path/'t.onnx')
    assert not list(tmp_path.iterdir())

def test_eight_bits_are_smaller_and_a_failure_leaves_what_was_there(trained, graph, ort):
    _, tmp, images = trained
    tagger, path = Tagger.load(tmp/'bundle'), graph
    small = quantise_onnx(tagger, path, images[:12])
    assert small == tmp/'onnx'/'tagger.int8.onnx' and small.stat().st_size < path.stat().st_size/2
    x = np.stack([tagger.prep(o) for o in images[:4]])
    scores = [ort.InferenceSession(o).run(None, {'picture': x})[0] for o in (path, small)]
    assert scores[1].shape == scores[0].shape and np.abs(scores[1] - scores[0]).mean() < .1
    before = small.read_bytes()
    with pytest.raises(CatalogError, match='missing'): quantise_onnx(tagger, path, ['nowhere.jpg'])
    assert small.read_bytes() == before
    assert {o.name for o in path.parent.iterdir()} == {'tagger.onnx', 'tagger.int8.onnx', 'tagger.json', 'selected_tags.csv'}

def test_serving_from_a_model_in_memory():
    "Its weights lie otherwise than those of a bundle, and its folded ones must work outside of the block that made them."
    t = make_tagger(); fast = t.for_serving()
    np.testing.assert_allclose(fast.scores(noise(2)), t.scores(noise(2)), atol=1e-4)
    for ours, alone in zip(fast.scores_and_features(noise(2)), (t.scores(noise(2)), t.features(noise(2)))):
        np.testing.assert_allclose(ours, alone, atol=1e-3)
