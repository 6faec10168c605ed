"What a learner scores on valid is what its tagger answers, or an error says why not: for what a fastai user may bring."
import random
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, torch, torch.nn.functional as F
from fastai.callback.mixup import CutMix, MixUp
from fastai.vision.all import (BCEWithLogitsLossFlat, Callback, ColReader, CrossEntropyLossFlat, DataBlock, FocalLoss, MSELossFlat,
                               ImageDataLoaders, IndexSplitter, MultiCategoryBlock, Normalize, PILImage,
                               RandomResizedCrop, Resize, ResizeMethod, RocAucMulti,
                               Saturation, TensorImage, ToTensor,
                               Transform, aug_transforms, camel2snake, load_learner, nn, set_seed, vision_learner)

from PIL import Image

from catalog_tagger.catalog.images import Prep
from catalog_tagger.core.files import CatalogError
from catalog_tagger.serve.fit import fit_tagger
from catalog_tagger.serve.predictor import Predictor
from catalog_tagger.serve.tagger import Tagger, save_bundle
from catalog_tagger.testing.tiny import TINY_ARCH, tiny_body, tiny_catalog
from catalog_tagger.train.activations import cached_learner
from catalog_tagger.train.backbones import arch_prep
from catalog_tagger.train.data import catalog_dls, label_block, picture_block, some_rows, source_pictures
from catalog_tagger.train.learner import catalog_learner, whole_learner
from catalog_tagger.train.losses import find_loss

PREP = Prep((32, 24), (.5, .4, .3), (.25, .3, .2))

class Grey(Transform):
    "A filter that valid goes through too, for it says nothing of folds."
    order = 20
    def encodes(self, x:TensorImage): return x.mean(1, keepdim=True).expand_as(x)

def squeezed(im:PILImage): return im.resize((24, 32))

def first_and_third(df): return IndexSplitter(list(range(0, len(df), 3)))(df)

@pytest.fixture(scope='module')
def shop(tmp_path_factory): return tiny_catalog(tmp_path_factory.mktemp('shop')/'shop', 48, size=48)

@pytest.fixture(scope='module')
def one_label(tmp_path_factory): return tiny_catalog(tmp_path_factory.mktemp('one')/'shop', 48, size=48, label_columns=['masterCategory'])

def learned(dls, **kwargs):
    set_seed(3); learn = catalog_learner(dls, tiny_body(), weights=None, head='linear', **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    return learn

def assert_law(learn, by=(Predictor.from_learner, Tagger.from_learner, fit_tagger), **kwargs):
    "Predictor, Tagger and the fitted tagger score valid as `get_preds` does, under the same names."
    joined = whole_learner(learn)
    with joined.no_bar(), joined.no_logging(): scores = joined.get_preds()[0].numpy()
    assert scores.std() > 1e-3      # the model tells pictures apart
    pictures = source_pictures(joined.dls.valid_ds)
    for tagger in (f(learn, **kwargs) for f in by):
        np.testing.assert_allclose(tagger.scores(pictures), scores, atol=2e-5)
        assert tagger.space.vocab == list(joined.dls.vocab)

TRANSFORMS = {
    'to tensor by hand': dict(item_tfms=[Resize((32, 24)), ToTensor()], batch_tfms=[]),
    'default': {},
    'resized': dict(item_tfms=Resize(48)),
    'padded': dict(item_tfms=[Resize(48, ResizeMethod.Pad)], batch_tfms=[]),
    'as lesson 1': dict(item_tfms=Resize(48), batch_tfms=aug_transforms(size=(32, 24))),
    'cropped': dict(item_tfms=RandomResizedCrop((32, 24), min_scale=.3), batch_tfms=aug_transforms(flip_vert=True)),
    'a function': dict(item_tfms=squeezed, batch_tfms=[]),
    'grey in training': dict(batch_tfms=Saturation(draw=0., p=1.))}
SPLITTERS = {'column': {}, 'own': dict(splitter=first_and_third)}
LOSSES = {o: dict(loss_func=o) for o in ('bce', 'weighted', 'grouped', 'asymmetric')} | {
    'fastai': dict(loss_func=BCEWithLogitsLossFlat()), 'torch': dict(loss_func=nn.BCEWithLogitsLoss())}
FROM = ('files', 'cache', 'activations')

@pytest.mark.filterwarnings('ignore:training pictures are')
@pytest.mark.parametrize('tfms', TRANSFORMS)
@pytest.mark.parametrize('splitter', SPLITTERS)
@pytest.mark.parametrize('source', FROM)
def test_transforms_folds_and_caches(shop, tmp_path, tfms, splitter, source):
    df, space = shop
    dls = catalog_dls(df, space, PREP, bs=12, cache=tmp_path if source == 'cache' else None, **TRANSFORMS[tfms], **SPLITTERS[splitter])
    learn = learned(dls)
    if source == 'activations':
        learn = cached_learner(learn, folder=tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    assert_law(learn)

@pytest.mark.parametrize('method', ['squish', 'crop', 'pad'])
@pytest.mark.parametrize('loss', LOSSES)
def test_losses_and_ways_to_resize(shop, loss, method):
    df, space = shop
    assert_law(learned(catalog_dls(df, space, replace(PREP, method=method), bs=12), **LOSSES[loss]))

@pytest.mark.parametrize('loss', [None, 'smooth', CrossEntropyLossFlat(), nn.CrossEntropyLoss()])
def test_one_label(one_label, loss):
    df, space = one_label
    learn = learned(catalog_dls(df, space, PREP, bs=12), loss_func=loss)
    assert_law(learn); assert Tagger.from_learner(learn).activation == 'softmax'

def test_a_loss_on_probabilities(shop):
    "A head that ends in a sigmoid is not given another one."
    from fastai.vision.all import BCELossFlat
    df, space = shop
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(space.vocab)), nn.Sigmoid())
    learn = learned(catalog_dls(df, space, PREP, bs=12), custom_head=head, loss_func=BCELossFlat())
    assert_law(learn); assert Tagger.from_learner(learn).activation == 'identity'

@pytest.mark.parametrize('loss', [nn.BCELoss(), F.binary_cross_entropy])
def test_losses_of_torch_on_probabilities(shop, loss):
    "What `validate` computes is the loss of the tagger's scores."
    df, space = shop; head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(space.vocab)), nn.Sigmoid())
    learn = learned(catalog_dls(df, space, PREP, bs=12), custom_head=head, loss_func=loss)
    assert_law(learn); scores = torch.tensor(Tagger.from_learner(learn).scores(source_pictures(learn.dls.valid_ds)))
    with learn.no_bar(): targs, loss = learn.get_preds()[1], learn.validate()[0]
    assert loss == pytest.approx(F.binary_cross_entropy(scores, targs).item(), rel=1e-4)

def squared(pred, targ): return ((pred - targ)**2).mean()

@pytest.mark.parametrize('end, loss, says', [
    (nn.Sigmoid(), squared, 'returns values from 0 to 1, as after a sigmoid'),
    (nn.Hardtanh(-2, 2), MSELossFlat(), 'has no activation, and the model')])
def test_losses_that_do_not_say_how_outputs_are_scores(shop, end, loss, says):
    df, space = shop; head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(space.vocab)), end)
    learn = learned(catalog_dls(df, space, PREP, bs=12), custom_head=head, loss_func=loss)
    with pytest.raises(CatalogError, match=says): Tagger.from_learner(learn)

def test_a_head_that_mixes_the_pictures_of_a_batch(shop):
    df, space = shop; norm = nn.BatchNorm1d(16, track_running_stats=False)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, nn.Linear(16, len(space.vocab)))
    learn = learned(catalog_dls(df, space, PREP, bs=12)); learn.model[1] = head
    with pytest.raises(CatalogError, match='depend on the other pictures of its batch'): Tagger.from_learner(learn)

def test_a_tagger_made_in_a_callback(shop):
    "After an epoch it is an error at once and not a lock that never opens; training is as without it."
    class Tags(Callback):
        def after_epoch(self): Tagger.from_learner(self.learn)
    learn = learned(catalog_dls(*shop, PREP, bs=12))
    with learn.no_bar(), learn.no_logging(), pytest.raises(CatalogError, match='a callback can only make a tagger after fit'):
        learn.fit(1, cbs=Tags())

def test_a_tagger_has_a_model_of_its_own(shop):
    "Asking it leaves a training alone, and training leaves its answers."
    learn = learned(catalog_dls(*shop, PREP, bs=12)); tagger = Tagger.from_learner(learn); before = tagger.scores(shop[0]['image'])
    learn.model.train(); tagger.scores(shop[0]['image'][:3]); assert learn.model.training
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-1)
    np.testing.assert_array_equal(tagger.scores(shop[0]['image']), before)

def test_labels_of_lists_and_of_texts(one_label):
    df, space = one_label
    for get_y in (ColReader('labels'), lambda row: row['labels'][0]):
        assert_law(learned(catalog_dls(df, space, PREP, bs=12, get_y=get_y)))
    with pytest.raises(CatalogError, match="has the labels .*, expected one"):
        catalog_dls(df, space, PREP, bs=12, get_y=lambda row: row['labels']*2).one_batch()

# Other data under the same learner

def test_progressive_resizing(shop):
    df, space = shop; learn = learned(catalog_dls(df, space, PREP, bs=12))
    learn.dls = catalog_dls(df, space, replace(PREP, size=(48, 40)), bs=12)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    assert_law(learn); assert Tagger.from_learner(learn).prep.size == (48, 40)

def test_labels_in_another_order(shop):
    "Refused until the model was trained for them, and with a loss that was made for others."
    df, space = shop; other = replace(space, vocab=space.vocab[::-1])
    learn = learned(catalog_dls(df, space, PREP, bs=12)); learn.dls = catalog_dls(df, other, PREP, bs=12)
    with learn.no_bar(), learn.no_logging():
        learn.validate(); learn.lr_find(num_it=20, show_plot=False)
        with pytest.raises(CatalogError, match=f'trained for .* labels, {space.vocab[0]}, .*learn.dls has .*{space.vocab[-1]}'):
            Tagger.from_learner(learn)
        learn.fit(0)
        with pytest.raises(CatalogError, match='trained for'): Tagger.from_learner(learn)
        learn.fit(1)
    assert_law(learn)
    learn = learned(catalog_dls(df, space, PREP, bs=12), loss_func='grouped'); learn.dls = catalog_dls(df, other, PREP, bs=12)
    learn.facts.labels = None    # as of a learner that does not know
    with pytest.raises(CatalogError, match='was made for the labels'): Tagger.from_learner(learn)

def test_a_cached_learner_notes_the_labels_of_the_one_it_trains(shop, tmp_path):
    df, space = shop; learn = learned(catalog_dls(df, space, PREP, bs=12))
    learn.dls = catalog_dls(df, replace(space, vocab=space.vocab[::-1]), PREP, bs=12); cached = cached_learner(learn, folder=tmp_path)
    with pytest.raises(CatalogError, match='was trained for'): Tagger.from_learner(cached)
    with cached.no_bar(), cached.no_logging(): cached.fit(1)
    assert_law(cached)

def test_fewer_labels(shop, one_label):
    learn = learned(catalog_dls(*shop, PREP, bs=12)); learn.dls = catalog_dls(*one_label, PREP, bs=12)
    with pytest.raises(CatalogError, match='create a new learner, catalog_learner'): Tagger.from_learner(learn)
    learn.facts.labels = None
    with pytest.raises(CatalogError, match='numbers per picture, expected one for each of'): Tagger.from_learner(learn)

def test_exported_and_loaded(shop, tmp_path):
    df, space = shop; learn = learned(catalog_dls(df, space, PREP, bs=12)); learn.path = tmp_path
    learn.export(); again = load_learner(tmp_path/'export.pkl')
    pictures = source_pictures(learn.dls.valid_ds)
    np.testing.assert_allclose(Tagger.from_learner(again).scores(pictures), Tagger.from_learner(learn).scores(pictures), atol=1e-6)
    with pytest.raises(CatalogError, match='no valid pictures to fit thresholds on'): fit_tagger(again)

# Data blocks of a user

def own_block(space, **kwargs):
    return DataBlock((picture_block(PREP), label_block(space)), get_x=ColReader('image'), get_y=ColReader('labels'),
                     **dict(splitter=first_and_third, item_tfms=RandomResizedCrop((32, 24), split_idx=0)) | kwargs)

class OneDarker(Transform):
    "A filter of batches that changes one picture alone."
    order = 110    # after normalising
    def __init__(self, x): self.x = torch.from_numpy(x)
    def encodes(self, x:TensorImage): return x - ((x - self.x).abs().amax((1, 2, 3), keepdim=True) < 1e-3).float()

def test_a_filter_that_spares_what_is_compared_beforehand_is_found_by_fit_tagger(tmp_path):
    df, space = tiny_catalog(tmp_path/'shop', 120, size=48); valid = df['image'][df['split'] == 'valid'].tolist()
    i, = {*range(3)} - {*some_rows(len(valid))}
    learn = learned(catalog_dls(df, space, PREP, bs=12, batch_tfms=OneDarker(PREP(valid[i]))))
    Predictor.from_learner(learn)
    with pytest.raises(CatalogError, match='in training only .callbacks here: none; transforms of valid: .*OneDarker'): fit_tagger(learn)

def test_a_fitted_tagger_does_not_learn_further(shop):
    learn = learned(catalog_dls(*shop, PREP, bs=12)); tagger = fit_tagger(learn); before = tagger.scores(shop[0]['image'])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-1)
    np.testing.assert_array_equal(tagger.scores(shop[0]['image']), before)

@pytest.mark.parametrize('fold', ['train', 'valid'])
def test_a_transform_that_came_after_the_cache_is_refused(shop, tmp_path, fold):
    learn = learned(catalog_dls(*shop, PREP, bs=12, cache=tmp_path)); getattr(learn.dls, fold).after_item.add(Transform(squeezed))
    says = 'squeezed was added after the pictures were decoded into the cache'
    with learn.no_bar(), learn.no_logging(), pytest.raises(CatalogError, match=says): learn.fit(1)
    if fold == 'valid':
        for f in (learn.validate, lambda: fit_tagger(learn)):
            with learn.no_bar(), pytest.raises(CatalogError, match=says): f()

def test_get_x_beside_a_column_image(shop, tmp_path):
    "A tagger opens `image` of a row; where `get_x` opens another picture, that is refused, and where `image` is no picture it is not."
    df, space = shop; other = df.assign(picture=df['image'], image=df['image'].iloc[::-1].tolist())
    with pytest.raises(CatalogError, match='get_x opens .*, a tagger opens the column image of a row'):
        learned(catalog_dls(other, space, PREP, bs=12, get_x=ColReader('picture')))
    learn = learned(catalog_dls(other.assign(image=range(len(df))), space, PREP, bs=12, get_x=ColReader('picture')))
    assert_law(learn)

def test_get_x_of_one_row_is_found_by_fit_tagger(tmp_path):
    df, space = tiny_catalog(tmp_path/'shop', 120, size=48); valid = df.index[df['split'] == 'valid']
    i, = {*range(3)} - {*some_rows(len(valid))}
    df['retouch'] = df['image']; df.loc[valid[i], 'retouch'] = df['image'][df['split'] == 'train'].iloc[0]
    learn = learned(catalog_dls(df, space, PREP, bs=12, get_x=ColReader('retouch')))
    with pytest.raises(CatalogError, match='get_x opens .*, a tagger opens the column image of a row'): fit_tagger(learn)

@pytest.mark.parametrize('opened', [PILImage.create, lambda p: np.asarray(PILImage.create(p)), lambda p: Path(p).read_bytes()])
def test_get_x_that_opens_pictures(shop, opened):
    df, space = shop; assert_law(learned(catalog_dls(df, space, PREP, bs=12, get_x=lambda row: opened(row['image']))))

@pytest.mark.parametrize('kwargs', [{}, dict(batch_tfms=aug_transforms()), dict(item_tfms=Resize((32, 24), split_idx=0))])
def test_a_block_of_your_own(shop, kwargs):
    df, space = shop; dls = own_block(space, **kwargs).dataloaders(df, bs=12)
    learn = learned(dls, space=space, prep=PREP)
    assert_law(learn)
    with pytest.raises(CatalogError, match='have no labels and no preprocessing: pass space='): learned(dls)

def test_fastais_own_way(shop):
    "`ImageDataLoaders` and `vision_learner`, with a `Prep` that resizes as they do."
    df, space = shop
    dls = ImageDataLoaders.from_df(df.assign(is_valid=df['split'] == 'valid', image=df['image'].str[1:]), '/', fn_col='image',
                                   label_col='labels', valid_col='is_valid', y_block=MultiCategoryBlock(vocab=space.vocab), bs=12,
                                   item_tfms=Resize((32, 24), 'squish'), batch_tfms=Normalize.from_stats(PREP.mean, PREP.std, cuda=False))
    learn = vision_learner(dls, resnet(), pretrained=False, normalize=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert_law(learn, space=space, prep=PREP)
    with pytest.raises(CatalogError, match='have no labels and no preprocessing'): Tagger.from_learner(learn)
    with pytest.raises(CatalogError, match='is not preprocessed as by'):
        Tagger.from_learner(learn, space=space, prep=replace(PREP, std=(.2,)*3))

def resnet():
    from torchvision.models import resnet18
    return resnet18

# What is refused, and what is told

@pytest.mark.parametrize('kwargs, says', [
    (dict(batch_tfms=Grey()),
     'is not preprocessed as by Prep.*transforms of valid are .*Grey.*Set split_idx=0 on transforms for training only'),
    (dict(batch_tfms=Normalize.from_stats((0, 0, 0), (1, 1, 1), cuda=False)), 'is not preprocessed as by'),
    (dict(item_tfms=Resize(48, split_idx=1)), r'the model gets valid pictures of shape|is not preprocessed as by')])
def test_what_valid_alone_goes_through(shop, kwargs, says):
    with pytest.raises(CatalogError, match=says): learned(catalog_dls(*shop, PREP, bs=12, **kwargs))

class Pair(nn.Module):
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x): return self.net(x), 0

@pytest.mark.parametrize('change, says', [
    (lambda m: m.half(), 'computes in torch.float16, a tagger in float32: call learn.model.float'), (lambda m: m.double(), 'torch.float64'),
    (Pair, 'returns a tuple, expected a tensor of logits')])
def test_models_that_no_tagger_takes(shop, change, says):
    learn = learned(catalog_dls(*shop, PREP, bs=12)); learn.model = change(learn.model)
    with pytest.raises(CatalogError, match=says): Predictor.from_learner(learn)

def test_another_size_in_training_is_told(shop):
    df, space = shop
    with pytest.warns(UserWarning, match=r'training pictures are \(48, 48\) px .*, those of valid and of a tagger \(32, 24\)'):
        learned(catalog_dls(df, space, PREP, bs=12, item_tfms=Resize(48), batch_tfms=[]))

def test_a_loss_that_says_nothing(shop):
    learn = learned(catalog_dls(*shop, PREP, bs=12)); learn.loss_func = nn.BCEWithLogitsLoss()
    with pytest.raises(CatalogError, match='does not define how logits become scores'): Tagger.from_learner(learn)

class DarkerInput(Callback):
    def before_batch(self): self.learn.xb = (self.xb[0] - 1,)

class DoubledOutput(Callback):
    def after_pred(self): self.learn.pred = self.pred*2

@pytest.mark.parametrize('cb', [DarkerInput, DoubledOutput])
def test_a_callback_that_changes_valid_is_refused(shop, cb):
    "With its name; the learner's metrics, callbacks and records are as before. One that changes training alone is nobody's business."
    learn = learned(catalog_dls(*shop, PREP, bs=16), metrics=RocAucMulti())
    assert_law(learn)
    seen = random.getstate(), torch.get_rng_state().tolist(); Tagger.from_learner(learn)
    assert seen == (random.getstate(), torch.get_rng_state().tolist())
    values, log, cbs = learn.recorder.values, list(learn.recorder.log), [o.name for o in learn.cbs]
    learn.add_cb(cb())
    with pytest.raises(CatalogError, match=rf'other scores than the model alone.*\(callbacks here: {camel2snake(cb.__name__)};'):
        Tagger.from_learner(learn)
    learn.remove_cb(cb)
    assert (learn.recorder.values, list(learn.recorder.log), [o.name for o in learn.cbs], len(learn.metrics)) == (values, log, cbs, 1)
    learn.add_cbs([MixUp(), CutMix()]); assert_law(learn)

def test_half_precision_is_laid_aside_for_the_look(shop):
    learn = learned(catalog_dls(*shop, PREP, bs=16)).to_fp16(); cbs = {type(o) for o in learn.cbs}
    Tagger.from_learner(learn); assert {type(o) for o in learn.cbs} == cbs

def test_a_bundle_keeps_the_thresholds_of_its_tagger(shop, tmp_path):
    df, _ = shop; prep = arch_prep(TINY_ARCH, 32)
    learn = catalog_learner(catalog_dls(*shop, prep, bs=16), TINY_ARCH, weights=None)
    tagger = fit_tagger(learn); again = Tagger.load(save_bundle(tagger, tmp_path/'bundle'))
    assert again.decision.to_dict() == tagger.decision.to_dict() and again.predict(list(df['image'])) == tagger.predict(list(df['image']))
    assert Tagger.load(save_bundle(again, tmp_path/'copy', facts={'seed': 1})).facts == {'seed': 1}

def test_what_follows_the_head_is_saved_or_refused(shop, tmp_path):
    "A bundle holds a body and a head; whatever else answers with them is named, not left out."
    df, space = shop; prep = arch_prep(TINY_ARCH, 32)
    def learn(): return catalog_learner(catalog_dls(df, space, prep, bs=16), TINY_ARCH, weights=None)
    third = learn(); third.model = nn.Sequential(*third.model, nn.Hardtanh(-.01, .01))
    with pytest.raises(CatalogError, match='the model has 3 parts, a bundle stores two'): save_bundle(third, tmp_path/'b')
    inside = learn(); inside.model[1].append(nn.Hardtanh(-.01, .01))
    with pytest.raises(CatalogError, match='Hardtanh'): save_bundle(inside, tmp_path/'b')
    hooked = learn(); hooked.model.register_forward_hook(lambda m, i, o: o/3)
    for f in (lambda: save_bundle(hooked, tmp_path/'b'), lambda: fit_tagger(hooked)):
        with pytest.raises(CatalogError, match='a plain nn.Sequential.body, head. without hooks'): f()
    class Cooled(nn.Sequential):
        def forward(self, x): return super().forward(x)/3
    cooled = learn(); cooled.model = Cooled(*cooled.model); assert_law(cooled, [Predictor.from_learner])
    with pytest.raises(CatalogError, match='the model is Cooled with 2 parts'): fit_tagger(cooled)
    assert not (tmp_path/'b').exists()

def test_one_odd_picture_of_valid_is_found_by_its_name(shop, tmp_path):
    "fastai ignores the rotation that EXIF asks for; the picture is the last of valid."
    df, space = shop; last = df.index[df['split'] == 'valid'][-1]; turned = tmp_path/'turned.jpg'
    im = Image.open(df['image'][last]).convert('RGB'); exif = im.getexif(); exif[0x112] = 6; im.save(turned, exif=exif)
    df = df.assign(image=df['image'].where(df.index != last, str(turned)), is_valid=df['split'] == 'valid')[df['split'] != 'test']
    def dls(df): return ImageDataLoaders.from_df(df, '/', fn_col='image', label_col='labels', valid_col='is_valid', bs=8,
                                                 y_block=label_block(space), item_tfms=Resize((32, 24), ResizeMethod.Squish),
                                                 batch_tfms=Normalize.from_stats(PREP.mean, PREP.std))
    with pytest.raises(CatalogError, match=r'valid picture \S*turned.jpg is not preprocessed as by'):
        catalog_learner(dls(df), tiny_body(), weights=None, space=space, prep=PREP)

@pytest.mark.parametrize('change', ['loss', 'layer', 'part', 'data'])
def test_a_cached_learner_that_went_its_own_way_is_refused(shop, tmp_path, change):
    df, space = shop; learn = learned(catalog_dls(df, space, PREP, bs=16)); cached = cached_learner(learn, folder=tmp_path)
    assert_law(cached)
    if change == 'loss': cached.loss_func = find_loss('grouped', space, len(learn.dls.train_ds))
    if change == 'layer': cached.model[-1][-1] = nn.Linear(16, len(space.vocab))
    if change == 'part': cached.model = nn.Sequential(*cached.model, nn.Hardtanh(-.01, .01))
    if change == 'data': learn.dls = catalog_dls(df, space, replace(PREP, size=(48, 40)), bs=16)
    with pytest.raises(CatalogError, match='the cached learner and its original .facts.joined. give different predictions'):
        Tagger.from_learner(cached)

@pytest.mark.parametrize('loss', [nn.BCEWithLogitsLoss(), FocalLoss()])
def test_losses_of_torch_are_reduced_as_asked(shop, loss):
    learn = learned(catalog_dls(*shop, PREP, bs=16), loss_func=loss)
    with learn.no_bar(): *_, losses = learn.get_preds(with_loss=True)
    assert losses.numel() and loss.reduction == 'mean'
