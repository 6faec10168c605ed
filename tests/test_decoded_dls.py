"With a cache, fastai gets the same validation batches and labels as without, and the model that comes out needs no cache."
import shutil

import numpy as np, pytest, torch
from fastai.learner import Learner, load_learner
from fastai.torch_core import set_seed
from fastai.vision.all import RandomResizedCrop, Resize, TfmdDL, nn, random
from PIL import Image

from catalog_tagger.train import data
from catalog_tagger.train.data import PictureCacheDL, catalog_dls
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.catalog.images import METHODS, Prep, fit_image
from catalog_tagger.testing.tiny import labelled

def prep(method='squish'): return Prep((48, 32), (.5, .4, .3), (.2, .25, .3), method)

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    "The demo catalog; some of its pictures large JPEGs, and so drafted."
    root = demo_styles(tmp_path_factory.mktemp('shop')/'shop', n=60)
    for o in sorted((root/'images').iterdir())[::3]: Image.open(o).convert('RGB').resize((601, 799), Image.Resampling.BICUBIC).save(o)
    return root

@pytest.fixture(scope='module')
def many(shop): return labelled(shop)

@pytest.fixture(scope='module')
def one(shop): return labelled(shop, label_columns=['masterCategory'])

@pytest.fixture(scope='module')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')

def same(a, b):
    "Do two loaders give the same batches, bit for bit, of the same types?"
    a, b = list(a), list(b)
    assert len(a) == len(b) > 0
    for o, p in zip(a, b):
        assert [type(t) for t in o] == [type(t) for t in p] and all(t.dtype == u.dtype and torch.equal(t, u) for t, u in zip(o, p))

@pytest.mark.parametrize('labels', ['many', 'one'])
@pytest.mark.parametrize('method', METHODS)
def test_validation_is_the_same(labels, method, request, cache):
    df, space = request.getfixturevalue(labels)
    plain, fast = catalog_dls(df, space, prep(method), bs=8), catalog_dls(df, space, prep(method), bs=8, cache=cache)
    same(fast.valid, plain.valid)
    valid = df[df['split'] == 'valid']['image'].tolist()
    assert torch.equal(fast.valid.one_batch()[0][3], plain.test_dl(valid).one_batch()[0][3])
    assert np.allclose(fast.valid.one_batch()[0][3].numpy(), prep(method)(valid[3]), atol=1e-5)

@pytest.mark.parametrize('labels', ['many', 'one'])
def test_training_labels_belong_to_their_pictures(labels, request, cache):
    df, space = request.getfixturevalue(labels)
    plain, fast = catalog_dls(df, space, prep(), bs=8), catalog_dls(df, space, prep(), bs=8, min_scale=.5, cache=cache)
    assert isinstance(fast.train, PictureCacheDL) and fast.vocab == plain.vocab and len(fast.train) == len(plain.train)
    ids = list(range(len(fast.train_ds)))
    _, y = fast.train.do_batch(ids)
    assert torch.equal(y, torch.stack([plain.train_ds[i][1] for i in ids]))
    fast.train.crop = None
    x, _ = fast.train.do_batch(ids)
    pictures = np.stack([np.asarray(fit_image(plain.train_ds[i][0], (68, 46))) for i in ids])
    assert np.array_equal(x.permute(0, 2, 3, 1).numpy(), pictures)

def test_the_smallest_crop_has_its_pixels(many, tmp_path):
    for min_scale, size in ((1., (48, 32)), (.5, (68, 46)), (.25, (96, 64)), (.05, (96, 64))):
        dls = catalog_dls(*many, prep(), bs=8, min_scale=min_scale, cache=tmp_path)
        assert dls.train.pictures.shape[1:3] == size and dls.one_batch()[0].shape == (8, 3, 48, 32)

def test_the_same_seed_gives_the_same_batches(many, cache):
    def batches(seed):
        set_seed(seed, reproducible=True)
        return list(catalog_dls(*many, prep(), bs=8, cache=cache).train)
    same(batches(1), batches(1))
    assert not torch.equal(batches(1)[0][0], batches(2)[0][0])

def test_every_epoch_has_every_picture_once_and_other_crops(many, cache):
    dls = catalog_dls(*many, prep(), bs=8, cache=cache, batch_tfms=[])
    assert sorted(dls.train.get_idxs()) == list(range(len(dls.train_ds)))
    assert not torch.equal(dls.train.do_batch([0])[0], dls.train.do_batch([0])[0])

def test_own_item_tfms_take_the_pictures_as_they_are(many, cache):
    dls = catalog_dls(*many, prep(), bs=8, item_tfms=[Resize((48, 32), split_idx=0)], batch_tfms=[], cache=cache)
    assert type(dls.train) is TfmdDL and isinstance(dls.valid, PictureCacheDL)
    assert max(dls.train_ds[i][0].size for i in range(len(dls.train_ds))) == (601, 799), 'no draft before a transform of somebody else'

def test_new_keeps_the_cache_and_other_data_goes_to_files(many, cache):
    df, space = many
    plain, fast = catalog_dls(df, space, prep(), bs=8), catalog_dls(df, space, prep(), bs=8, cache=cache)
    again = fast.train.new(shuffle=False, drop_last=False, bs=5)
    assert isinstance(again, PictureCacheDL) and again.pictures is fast.train.pictures and len(list(again)) == -(-len(fast.train_ds)//5)
    test = df[df['split'] == 'test']
    same(fast.test_dl(test, with_labels=True), plain.test_dl(test, with_labels=True))
    assert type(fast.test_dl(test)) is TfmdDL
    with fast.valid_ds.set_split_idx(0): assert fast.valid.one_batch()[0].shape == (8, 3, 48, 32)

def test_worker_processes(many, cache):
    plain, fast = catalog_dls(*many, prep(), bs=8), catalog_dls(*many, prep(), bs=8, num_workers=2, cache=cache)
    same(fast.valid, plain.valid)
    assert len(list(fast.train)) == len(fast.train)

def small_net(n): return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n))

@pytest.mark.filterwarnings('ignore:load_learner')
def test_a_model_trained_from_the_cache_predicts_without_it(many, tmp_path):
    df, space = many
    dls = catalog_dls(df, space, prep(), bs=8, cache=tmp_path/'cache')
    learn = Learner(dls, small_net(len(space.vocab)), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-2)
        want, targs = learn.get_preds()
        assert learn.tta(n=1)[0].shape == want.shape
        learn.show_results(max_n=2)
    valid = df[df['split'] == 'valid']
    assert np.array_equal(targs, space.one_hot(valid['labels']))
    learn.export('learner.pkl')
    assert (tmp_path/'learner.pkl').stat().st_size < 300_000 and str(tmp_path/'cache').encode() not in (tmp_path/'learner.pkl').read_bytes()
    shutil.rmtree(tmp_path/'cache')
    loaded = load_learner(tmp_path/'learner.pkl')
    with loaded.no_bar(): got = loaded.get_preds(dl=loaded.dls.test_dl(valid['image'].tolist()))[0]
    assert torch.allclose(got, want, atol=1e-6)
    with loaded.no_bar(): assert torch.allclose(loaded.predict(valid['image'].iloc[0])[2], want[0], atol=1e-6)

def test_a_crop_is_what_pillow_makes_of_it():
    x = np.random.default_rng(0).integers(256, size=(8, 17, 12, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    crop = RandomResizedCrop((48, 32), min_scale=.5)
    random.seed(0); got = data.random_crops(torch.from_numpy(x).permute(0, 3, 1, 2), crop)
    random.seed(0); want = np.stack([np.asarray(crop(data.CatalogImage(Image.fromarray(o)), split_idx=0)) for o in x])
    assert np.abs(got.permute(0, 2, 3, 1).numpy().astype(int) - want).max() <= 1
