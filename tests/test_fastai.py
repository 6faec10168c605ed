"fastai's surface, row by row: what is the same, what has another name and why, what is refused and with which sentence."
import inspect, pickle, warnings
from dataclasses import replace

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from fastai.callback.all import *
from fastai.vision.all import *

from catalog_tagger.core.files import CatalogError
from catalog_tagger.serve.tagger import save_bundle
from catalog_tagger.testing.tiny import tiny_body, tiny_catalog
from catalog_tagger.train.backbones import arch_prep
from catalog_tagger.train.data import catalog_block, catalog_dls
from catalog_tagger.train.fastai_metrics import RecallAtK
from catalog_tagger.train.learner import catalog_learner

for o in [o for o in globals() if o.startswith('test')]: del globals()[o]     # fastai's own, which are no tests of ours

ARCH, PREP = 'mobilenetv3_small_050', arch_prep('mobilenetv3_small_050', 32)

@pytest.fixture(scope='module')
def shop(tmp_path_factory): return tiny_catalog(tmp_path_factory.mktemp('shop')/'shop', 36)

def tiny_learner(shop, path, **kwargs):
    "Of a body that trains in no time."
    set_seed(1)
    return catalog_learner(catalog_dls(*shop, PREP, bs=12), tiny_body(), weights=None, head='linear', path=path, **kwargs)

@pytest.fixture
def learn(shop, tmp_path):
    return tiny_learner(shop, tmp_path)

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

def quiet(learn, f):
    with learn.no_bar(), learn.no_logging(): return f()

# Methods of a Learner: the same as ever

def same_weights(learn, path):
    learn.fit(1); learn.save('w'); before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.fit(1); learn.load('w')
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())

def preds_of(learn):
    preds, targs, dec, losses = learn.get_preds(with_decoded=True, with_loss=True)
    n = len(learn.dls.valid_ds)
    assert preds.shape == targs.shape == dec.shape == (n, len(learn.dls.vocab)) and losses.shape[0] == n and (dec == (preds > .5)).all()

def predicted(learn):
    "By path, bytes, picture, array and row."
    row = learn.dls.valid_ds.items.iloc[0]; path = Path(row['image'])
    want = learn.predict(path)[2]
    for o in (str(path), path.read_bytes(), PILImage.create(path), np.asarray(PILImage.create(path)), row):
        torch.testing.assert_close(learn.predict(o)[2], want, rtol=0, atol=1e-5)

def exported(learn):
    learn.export('e.pkl'); again = load_learner(learn.path/'e.pkl'); path = learn.dls.valid_ds.items.iloc[0]['image']
    torch.testing.assert_close(again.predict(path)[2], learn.predict(path)[2])

METHODS = {
    'fit': lambda o: o.fit(1, 1e-3), 'fit_one_cycle': lambda o: o.fit_one_cycle(2, 1e-3),
    'fit_flat_cos': lambda o: o.fit_flat_cos(1, 1e-3), 'fit_sgdr': lambda o: o.fit_sgdr(1, 1, 1e-3),
    'fine_tune': lambda o: o.fine_tune(1, 1e-3), 'slices of rates': lambda o: o.fit_one_cycle(1, slice(1e-5, 1e-3)),
    'lr_find': lambda o: o.lr_find(num_it=20),
    'validate': lambda o: o.validate(), 'get_preds': preds_of, 'predict': predicted, 'tta': lambda o: o.tta(n=2),
    'show_results': lambda o: o.show_results(max_n=2), 'show_batch': lambda o: o.dls.show_batch(max_n=2),
    'summary': lambda o: o.summary(), 'freeze': lambda o: (o.freeze(), o.fit(1), o.unfreeze(), o.freeze_to(-1)),
    'save and load': lambda o: same_weights(o, o.path), 'export': exported,
    'to_fp32': lambda o: o.to_fp32(), 'to_channelslast': lambda o: o.to_channelslast().fit(1),
    'create_opt': lambda o: o.create_opt(),
    'plot_loss': lambda o: (o.fit(1), o.recorder.plot_loss()), 'plot_sched': lambda o: (o.fit_one_cycle(1), o.recorder.plot_sched()),
    'loss_not_reduced': lambda o: o.loss_not_reduced().__enter__(), 'fit with start_epoch': lambda o: o.fit_one_cycle(2, start_epoch=1),
    'fit with wd and cbs': lambda o: o.fit(1, wd=.1, cbs=TerminateOnNaNCallback()), 'pickle': lambda o: pickle.loads(pickle.dumps(o)),
    'Interpretation': lambda o: Interpretation.from_learner(o).plot_top_losses(2), 'show_training_loop': lambda o: o.show_training_loop()}

@pytest.mark.parametrize('name', METHODS)
def test_methods(learn, name): quiet(learn, lambda: METHODS[name](learn))

CALLBACKS = dict(
    SaveModel=lambda: SaveModelCallback('recall@3', comp=np.greater), EarlyStopping=lambda: EarlyStoppingCallback(patience=1),
    ReduceLROnPlateau=lambda: ReduceLROnPlateau(patience=1), MixUp=MixUp, CutMix=CutMix,
    GradientAccumulation=lambda: GradientAccumulation(24),
    GradientClip=lambda: GradientClip(.1), CSVLogger=CSVLogger, ActivationStats=lambda: ActivationStats(with_hist=True), BnFreeze=BnFreeze,
    TerminateOnNaN=TerminateOnNaNCallback, ShowGraph=ShowGraphCallback, CollectData=CollectDataCallback,
    ParamScheduler=lambda: ParamScheduler({'lr': SchedCos(1e-3, 1e-5)}), FetchPreds=FetchPredsCallback,
    ShortEpoch=lambda: ShortEpochCallback(.5))

@pytest.mark.parametrize('name', CALLBACKS)
def test_callbacks(learn, name):
    "Each callback of fastai trains an epoch or two; the history has a row for each."
    with learn.no_logging() if name != 'ShowGraph' else learn.added_cbs([]): learn.fit(2, 1e-3, cbs=CALLBACKS[name]())
    assert 1 <= len(learn.history.rows) <= 2

def test_half_precision_is_told_on_a_cpu(learn):
    from catalog_tagger.train.activations import check_precision
    with pytest.raises(CatalogError, match='half precision is refused on a CPU'): check_precision(learn.to_fp16())

@pytest.mark.skipif(not torch.cuda.is_available(), reason='half precision trains on a GPU')
def test_half_precision_on_a_gpu(learn):
    "The tagger, which answers in float32, agrees with what half precision scored to its three digits."
    from catalog_tagger.serve.predictor import Predictor
    half = learn.to_fp16(); quiet(half, lambda: half.fit(1, 1e-3)); scores = quiet(half, half.get_preds)[0].numpy()
    pictures = half.dls.valid_ds.items['image'].tolist()
    np.testing.assert_allclose(Predictor.from_learner(half).scores(pictures), scores, atol=5e-3)

# What is given in the wrong form

def dls_of(shop, **kwargs): return catalog_dls(*shop, PREP, bs=12, **kwargs)

WRONG = {
    'loss class': (lambda o: catalog_learner(dls_of(o), ARCH, weights=None, loss_func=nn.BCEWithLogitsLoss),
                   r'loss_func=BCEWithLogitsLoss is a class; pass an instance, BCEWithLogitsLoss\('),
    'head class': (lambda o: catalog_learner(dls_of(o), ARCH, weights=None, custom_head=nn.Flatten), 'custom_head=Flatten is a class'),
    'body class': (lambda o: catalog_learner(dls_of(o), nn.Flatten, weights=None), 'arch=Flatten is a class'),
    'metric class': (lambda o: catalog_learner(dls_of(o), ARCH, weights=None, metrics=F1ScoreMulti),
                     r'metrics=F1ScoreMulti is not a metric; pass F1ScoreMulti\('),
    'accuracy': (lambda o: catalog_learner(dls_of(o), ARCH, weights=None, metrics=accuracy), 'accuracy is for pictures with one label'),
    'F1Score': (lambda o: catalog_learner(dls_of(o), ARCH, weights=None, metrics=F1Score()), 'f1_score is for pictures with one label'),
    'cache=True': (lambda o: dls_of(o, cache=True), 'cache=True, expected a folder, such as cache_folder'),
    'text for item_tfms': (lambda o: dls_of(o, item_tfms='flip'), "item_tfms='flip' is not a transform or a function"),
    'number for size': (lambda o: replace(PREP, size=32), 'size=32, expected .height, width.'),
    'list for space': (lambda o: catalog_learner(dls_of(o), ARCH, weights=None, space=['a']), 'space is a list, expected a LabelSpace'),
    'loaders of torch': (lambda o: catalog_learner(torch.utils.data.DataLoader([1]), ARCH), 'DataLoader contains no DataLoader of fastai'),
    'size for prep': (lambda o: catalog_dls(*o, 224), r'prep=224, expected a Prep, such as arch_prep\(arch, 224\)'),
    'name for get_x': (lambda o: dls_of(o, get_x='image'), r"get_x='image' is not a function of a row; use ColReader\('image'\)"),
    'name for get_y': (lambda o: dls_of(o, get_y='labels'), r"get_y='labels' is not a function of a row; use ColReader\('labels'\)")}

@pytest.mark.parametrize('name', WRONG)
def test_given_in_the_wrong_form(shop, name):
    f, says = WRONG[name]
    with pytest.raises(CatalogError, match=says): f(shop)

ASKED = {
    'k': (lambda t, p: t.predict(p, k=2.5), 'k=2.5, expected 1 or more, a whole number'),
    'k of classes': (lambda t, p: t.predict_classes(p, 'masterCategory', k=0), 'k=0, expected 1 or more'),
    'bs': (lambda t, p: t.predict(p, bs=0), 'bs=0, expected 1 or more'),
    'min_score': (lambda t, p: t.predict(p, min_score=.3), 'min_score=0.3 is for a tagger without thresholds; .*mode=.balanced. or'),
    'metrics': (lambda t, p: save_bundle(t, 'unmade', metrics={'recall@3': .9}), "metrics.'recall@3'. is 0.9, expected a dict such as"),
    'facts': (lambda t, p: save_bundle(t, 'unmade', facts={'at': Path('a')}), 'metrics must be plain JSON: Object of type PosixPath')}

@pytest.fixture(scope='module')
def tagger(shop, tmp_path_factory):
    from catalog_tagger.serve.fit import fit_tagger
    learn = catalog_learner(dls_of(shop), ARCH, weights=None)
    return quiet(learn, lambda: fit_tagger(learn))

@pytest.mark.parametrize('name', ASKED)
def test_asked_in_the_wrong_form(shop, tagger, name):
    f, says = ASKED[name]
    with pytest.raises(CatalogError, match=says): f(tagger, shop[0]['image'][0])

def test_classes_have_the_scores_of_predict(shop, tagger):
    p = shop[0]['image'][0]; tags = dict(tagger.predict({'image': p}))
    for g in shop[1].exclusive: assert all(tags.get(l, s) == s for l, s in tagger.predict_classes(p, g, k=9))
    assert tagger.calibrated(tagger.scores([p])).max() != tagger.scores([p]).max()

# The history

def test_the_history_has_a_row_for_each_epoch_that_trained(learn):
    quiet(learn, lambda: (learn.summary(), learn.fit_one_cycle(3, 1e-3, start_epoch=1),
                          learn.lr_find(num_it=20, show_plot=False), learn.validate()))
    table = learn.history.table()
    assert len(table) == 2 and table['valid_loss'].notna().all() and table.dtypes['train_loss'] == float

def test_two_metrics_of_one_name_are_two_columns(shop, tmp_path):
    learn = tiny_learner(shop, tmp_path, metrics=[RecallAtK(3), RecallAtK(3), accuracy_multi])
    quiet(learn, lambda: learn.fit(1)); table = learn.history.table()
    assert {'recall@3', 'recall@3_2', 'accuracy_multi'} <= {*table} and table['recall@3'].equals(table['recall@3_2'])

def test_the_best_epoch_is_chosen_among_those_that_trained(learn):
    from catalog_tagger.train.checkpoint import KeepBest
    best = KeepBest('recall@3'); quiet(learn, lambda: learn.fit_one_cycle(3, 1e-3, start_epoch=1, cbs=best))
    assert best.best_epoch in (1, 2)

# Metrics

@pytest.mark.parametrize('metric', [accuracy_multi, F1ScoreMulti(), RocAucMulti(), HammingLossMulti()])
def test_metrics_that_take_a_sigmoid(shop, tmp_path, metric):
    "They score what a model answers under `bce`, and are refused under `grouped`, when they are given and when they are set."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); learn = tiny_learner(shop, tmp_path, metrics=metric)
        try: quiet(learn, learn.validate)
        except ValueError as e: assert 'class' in str(e)   # ROC of a label that valid lacks
    with pytest.raises(CatalogError, match="applies a sigmoid to the logits, but the loss uses 'grouped'"):
        tiny_learner(shop, tmp_path, loss_func='grouped', metrics=metric)
    learn = tiny_learner(shop, tmp_path, loss_func='grouped'); learn.metrics = metric
    with pytest.raises(CatalogError, match='applies a sigmoid'): quiet(learn, lambda: learn.fit(1))

@pytest.mark.parametrize('metric', [partial(accuracy_multi, sigmoid=False), F1ScoreMulti(sigmoid=False)])
def test_metrics_that_take_logits_as_scores(shop, tmp_path, metric):
    with pytest.raises(CatalogError, match="takes the logits as scores, but the loss uses 'sigmoid'"):
        tiny_learner(shop, tmp_path, metrics=metric)

def test_a_grouped_loss_is_scored_as_it_answers(shop, tmp_path):
    from catalog_tagger.core.metrics import recall_at_k
    learn = tiny_learner(shop, tmp_path, loss_func='grouped', metrics=RecallAtK(3))
    quiet(learn, lambda: learn.fit(1, 1e-2))
    assert learn.recorder.values[-1][2] == pytest.approx(recall_at_k(*quiet(learn, learn.get_preds), k=3))

# A DataBlock

def test_block_parts(shop, tmp_path):
    df, space = shop
    for kwargs in (dict(item_tfms=Resize(32)), dict(item_tfms=[Resize(32)]), dict(batch_tfms=Flip()), dict(batch_tfms=aug_transforms()),
                   dict(splitter=RandomSplitter(.3, 1)), dict(get_x=lambda r: r['image'], get_y=lambda r: r['labels'])):
        block = catalog_block(space, PREP, **kwargs); dls = block.dataloaders(df, bs=8, path=tmp_path)
        assert (dls.space, dls.prep, dls.path) == (space, PREP, tmp_path) and dls.one_batch()[0].shape[0] == 8
        assert len(block.datasets(df).train) == len(dls.train_ds)

def test_summary_of_pictures_of_many_sizes(shop, tmp_path, capsys):
    df, space = shop; paths = []
    for i, o in enumerate(df['image']):
        paths.append(str(tmp_path/f'{i}.png')); PILImage.create(o).resize((40 + i, 60)).save(paths[-1])
    catalog_block(space, PREP).summary(df.assign(image=paths))
    assert 'not possible' not in capsys.readouterr().out

def test_loaders(learn, shop):
    df, space = shop; dls = learn.dls; test = df[df['split'] == 'test']
    assert list(dls.vocab) == space.vocab and dls.c == len(space.vocab)
    assert len(dls.test_dl(test, with_labels=True).one_batch()) == 2 and len(dls.test_dl(test['image'].tolist()).one_batch()) == 1
    assert dls.train.new(bs=3).one_batch()[0].shape[0] == 3
    assert len(repr(dls).splitlines()) <= 15 and 'train' in repr(dls)

def test_a_broken_picture_is_named(learn, tmp_path):
    (tmp_path/'broken.jpg').write_bytes(b'no picture')
    with pytest.raises(CatalogError, match=r'broken\.jpg: not an image'): learn.dls.test_dl([tmp_path/'broken.jpg']).one_batch()
    learn.dls.train_ds.items['image'] = str(tmp_path/'broken.jpg')
    with pytest.raises(CatalogError, match=r'broken\.jpg: not an image'): quiet(learn, lambda: learn.fit(1))

# Arguments of vision_learner

def head(n): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, n))

TAKEN = {   # Argument → value
    'arch': resnet18, 'pretrained': False, 'weights': None, 'loss_func': BCEWithLogitsLossFlat(), 'opt_func': SGD, 'lr': 1e-2,
    'splitter': lambda m: [params(m[0]), params(m[1])], 'cbs': TerminateOnNaNCallback(), 'metrics': accuracy_multi, 'path': 'here',
    'model_dir': 'kept', 'wd': .1, 'wd_bn_bias': True, 'train_bn': True, 'moms': (.9, .8, .9), 'custom_head': head}
REFUSED = {
    'normalize': 'Prep has mean and std', 'n_out': 'the label space defines', 'cut': 'pass a body as arch=', 'ps': 'use dropout=',
    'n_in': 'pictures have three channels',
    **{o: 'custom_head=create_head'
       for o in ('init', 'concat_pool', 'pool', 'lin_ftrs', 'first_bn', 'bn_final', 'lin_first', 'y_range')}}

def test_every_argument_of_vision_learner_is_in_the_table():
    names = set(inspect.signature(vision_learner).parameters) - {'dls', 'kwargs'}
    assert names == TAKEN.keys() | REFUSED.keys()

@pytest.mark.parametrize('name', TAKEN)
def test_taken_as_fastai_takes_it(shop, name):
    df, space = shop; value = head(len(space.vocab)) if name == 'custom_head' else TAKEN[name]
    args = {'arch': 'resnet18', 'pretrained': False} | {name: value}
    learn = catalog_learner(catalog_dls(df, space, arch_prep('resnet18', 32), bs=12), **args)
    assert learn.get_preds(dl=learn.dls.valid.new(bs=2))[0].shape[1] == len(space.vocab)
    if name in ('lr', 'wd', 'wd_bn_bias', 'train_bn', 'moms', 'opt_func', 'loss_func', 'model_dir'): assert getattr(learn, name) == value
    if name == 'custom_head': assert learn.model[1] is value
    if name == 'splitter': assert len(learn.opt.param_lists) == 2

@pytest.mark.parametrize('name', REFUSED)
def test_refused_with_what_to_do_instead(shop, name):
    with pytest.raises(CatalogError, match=f'catalog_learner has no argument {name}: .*{REFUSED[name]}'):
        catalog_learner(catalog_dls(*shop, PREP), ARCH, weights=None, **{name: 1})

def test_nothing_in_the_signature_is_refused():
    assert not inspect.signature(catalog_learner).parameters.keys() & REFUSED.keys()

@pytest.mark.parametrize('arch', ['resnet18', resnet18, create_body(resnet18(weights=None), cut=-2, pretrained=False)])
def test_architectures(shop, arch):
    df, space = shop
    learn = catalog_learner(catalog_dls(df, space, arch_prep('resnet18', 32), bs=12), arch, pretrained=False)
    assert learn.model[1][-1].out_features == len(space.vocab)
    assert learn.facts.arch == (None if isinstance(arch, nn.Module) else 'resnet18')

@pytest.mark.parametrize('what', ['state dict', 'learn.save', 'learn.save without opt', 'bundle'])
def test_weights_of_a_learner(shop, tmp_path, what):
    df, space = shop; dls = catalog_dls(df, space, PREP, bs=12)
    first = catalog_learner(dls, ARCH, weights=None, path=tmp_path); quiet(first, lambda: first.fit(1, 1e-2))
    if what == 'bundle': weights = save_bundle(first, tmp_path/'bundle')
    else: weights = first.model.state_dict() if what == 'state dict' else first.save('w', with_opt='without' not in what)
    second = catalog_learner(dls, ARCH, weights=weights)
    assert all(torch.equal(v, first.model[0].state_dict()[k]) for k, v in second.model[0].state_dict().items())
    assert second.facts.pretrained and second.opt.frozen_idx == 1

def test_epochs_are_printed_in_a_script(learn, capsys):
    learn.fit(1); assert 'valid_loss' in capsys.readouterr().out
    quiet(learn, lambda: learn.fit(1)); assert capsys.readouterr().out == ''

# On cached activations

def test_a_cached_learner(learn, tmp_path):
    "What needs no picture works; what does names the learner that has them. Its taggers are that learner's."
    from catalog_tagger.serve.tagger import Tagger
    from catalog_tagger.train.activations import cached_learner
    cached = cached_learner(learn, folder=tmp_path/'cache'); quiet(cached, lambda: cached.fit_one_cycle(1, 1e-2))
    torch.testing.assert_close(quiet(cached, cached.get_preds)[0], quiet(learn, learn.get_preds)[0], rtol=0, atol=2e-3)
    for f in (cached.tta, lambda: cached.predict('a.jpg'), cached.show_results, cached.export,
              lambda: Interpretation.from_learner(cached).plot_top_losses(2)):
        with pytest.raises(CatalogError, match='facts.joined'): quiet(cached, f)
    for a, b in zip(Tagger.from_learner(cached).model.parameters(), learn.model.parameters()): assert torch.equal(a, b) and a is not b

# What objects say of themselves

def test_objects_show_themselves_in_a_few_lines(learn, shop, tmp_path):
    from catalog_tagger.core.table import Catalog
    from catalog_tagger.serve.fit import fit_tagger
    from catalog_tagger.serve.predictor import Predictor
    df, space = shop; tagger = fit_tagger(learn)
    assert f'labels: {len(space.vocab)}: ' in repr(space) and 'balanced' in repr(tagger)
    assert f'{len(learn.dls.train_ds)} train' in repr(learn.dls)
    for o in (space, Predictor.from_learner(learn), tagger, tagger.decision, Catalog(df), learn.dls):
        assert 3 <= len(repr(o).splitlines()) <= 15 and len(repr(o)) < 2000
        assert o._repr_html_().startswith('<table><tr><th>') and '<script' not in o._repr_html_()
    hostile = replace(space, vocab=['<script>', *space.vocab[1:]], exclusive={}, parents={}, provenance={})
    assert '&lt;script&gt;' in hostile._repr_html_()
