"Learning without labels: the loss against plain loops, views that belong together, a body used elsewhere, and its scores."
import math, sys, warnings

import numpy as np, pandas as pd, pytest, torch
from fastai.vision.all import Tensor, TensorImage, set_seed
from PIL import Image
from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression

from catalog_tagger.core.config import RunConfig
from catalog_tagger.search.contrastive import *
from catalog_tagger.search.triplets import effective_rank
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import check_table
from catalog_tagger.train.data import catalog_dls
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.catalog.images import Prep
from catalog_tagger.train.learner import catalog_learner
from catalog_tagger.train.backbones import arch_prep, create_net, find_arch
from catalog_tagger.train.weights import bundled_weights, read_weights
from catalog_tagger.runs.train import build_learner
from catalog_tagger.catalog.prepare import prepare_catalog

SMALL = 'mobilenetv3_small_050'

def by_loops(z, n, t):
    "Eq. 1 of SimCLR, written out: view `i` and view `i + n` are of one picture."
    def sim(a, b): return (a @ b)/(a.norm()*b.norm())
    total = 0.
    for i in range(2*n):
        twin = (i + n) % (2*n)
        others = sum(torch.exp(sim(z[i], z[k])/t) for k in range(2*n) if k != i)
        total = total - torch.log(torch.exp(sim(z[i], z[twin])/t)/others)
    return total/(2*n)

def embeddings(n, d, seed=0): return torch.randn(2*n, d, generator=torch.Generator().manual_seed(seed), requires_grad=True)

@pytest.mark.parametrize('n,d,t', [(2, 3, .5), (5, 8, .2), (7, 2, 1.), (4, 1, .5), (16, 32, .07)])
def test_the_loss_is_the_sum_over_all_views(n, d, t):
    z, of = embeddings(n, d), torch.arange(n).repeat(2)
    ours, loops, theirs = nt_xent(t)(z, of), by_loops(z, n, t), SelfSupervisedLoss(NTXentLoss(temperature=t))(z[:n], z[n:])
    torch.testing.assert_close(ours, loops, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    (g,), (want,) = (torch.autograd.grad(o, z, retain_graph=True) for o in (ours, loops))
    torch.testing.assert_close(g, want, rtol=1e-3, atol=1e-5)

def test_the_loss_knows_neither_length_nor_order():
    z, of, loss = embeddings(6, 4).detach(), torch.arange(6).repeat(2), nt_xent()
    mixed = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(3*z, of), loss(z, of))
    torch.testing.assert_close(loss(z[mixed], of[mixed]), loss(z, of))
    torch.testing.assert_close(loss(torch.cat([z[6:], z[:6]]), of), loss(z, of))

def test_a_solved_batch_counts_like_any_other():
    "The mean is over all views, and not over those whose loss is above zero."
    z = torch.tensor([[1., 0], [-1, 0], [1, 0], [-1, 0.]])
    assert nt_xent(.01)(z, torch.arange(2).repeat(2)) < 1e-6
    half = torch.tensor([[1., 0], [-1, 0], [1, 0], [-1, 1e-3]])
    torch.testing.assert_close(nt_xent(.05)(half, torch.arange(2).repeat(2)), by_loops(half, 2, .05), rtol=1e-3, atol=1e-6)

def test_one_picture_has_no_strangers_and_no_loss():
    z = embeddings(1, 4)
    loss = nt_xent()(z, torch.arange(1).repeat(2)); loss.backward()
    assert loss == 0 and not z.grad.any()

def test_a_collapsed_net_is_at_the_logarithm_of_chance():
    torch.testing.assert_close(nt_xent()(torch.ones(64, 8), torch.arange(32).repeat(2)), torch.tensor(math.log(63)))

def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pytorch_metric_learning', None)
    with pytest.raises(CatalogError, match=r'pip install "catalog_tagger\[metric\]"'): nt_xent()

@pytest.mark.parametrize('t', [0, -1, float('nan')])
def test_a_temperature_is_above_zero(t):
    with pytest.raises(CatalogError, match=f'temperature={t}'): nt_xent(t)

@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    "Pictures of one colour each, the red of each its number times 10."
    root = tmp_path_factory.mktemp('plain'); paths = [root/f'{i}.png' for i in range(20)]
    for i, o in enumerate(paths): Image.new('RGB', (40, 50), (10*i, 100, 255 - 10*i)).save(o)
    return paths

PREP = Prep((24, 16), (.5,)*3, (.25,)*3)

def test_both_crops_are_of_one_picture_and_each_comes_once(plain):
    dls = contrastive_dls(plain[:18], plain[18:], PREP, bs=4)
    epochs = []
    for _ in range(3):
        seen = []
        for x, other in dls.train:
            assert x.shape == other.shape == (4, 3, 24, 16) and x.dtype == torch.uint8
            assert torch.equal(x[:, 0, 0, 0], other[:, 0, 0, 0])
            seen += (x[:, 0, 0, 0]//10).tolist()
        assert len(set(seen)) == len(seen) == 16      # what does not fill a batch waits for another epoch
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [o.item()//10 for x, _ in dls.valid for o in x[:, 0, 0, 0]] == [18, 19]

def test_the_crops_differ(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(tmp_path/'noise.png')
    x, other = contrastive_dls([tmp_path/'noise.png']*4, [tmp_path/'noise.png'], PREP, bs=4).one_batch()
    assert not torch.equal(x, other) and not torch.equal(x[0], x[1])

def test_a_batch_is_no_larger_than_train(plain):
    dls = contrastive_dls(plain[:3], plain[3:], PREP)
    assert len(dls.train) == 1 and len(dls.one_batch()[0]) == 3

@pytest.mark.parametrize('train,valid,bs,told', [(1, 2, 8, '1 training pictures'), (3, 0, 8, '0 for validation'),
                                                     (3, 2, 1, 'batches of 1')])
def test_too_few_pictures_are_told(plain, train, valid, bs, told):
    with pytest.raises(CatalogError, match=told): contrastive_dls(plain[:train], plain[:valid], PREP, bs=bs)

def test_a_picture_that_cannot_be_opened_is_named(plain, tmp_path):
    (tmp_path/'bad.jpg').write_text('<html>')
    with pytest.raises(CatalogError, match='bad.jpg: not an image'): contrastive_dls([*plain, tmp_path/'bad.jpg'], plain, PREP)

def learner(plain, arch=SMALL, prep=None, **kwargs):
    set_seed(42, reproducible=True)
    return contrastive_learner(contrastive_dls(plain[:16], plain[16:], prep or arch_prep(arch, 32), bs=8), arch,
                               **dict(weights=None) | kwargs)

def test_the_model_is_shown_the_views_and_asked_for_twins(plain):
    learn = learner(plain, tfms=[])
    seen = []
    learn.model.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    learn.validate()
    x, = seen
    a = find_arch(SMALL)
    red = torch.tensor([160, 170, 180, 190]).div(255).sub(a.mean[0]).div(a.std[0]).repeat(2)     # resized and cropped, as drawn
    assert x.shape == (8, 3, 32, 32) and type(x) is Tensor
    torch.testing.assert_close(x[:, 0].mean((1, 2)), red, rtol=0, atol=1e-5)
    assert torch.equal(learn.yb[0], torch.tensor([0, 1, 2, 3]*2))

def test_pictures_are_normalised_for_the_backbone_whatever_the_loader_says(plain):
    learn = learner(plain, prep=arch_prep('efficientnet_lite0', 32))
    assert (learn.sim_clr.prep.mean, learn.sim_clr.prep.std) == (find_arch(SMALL).mean, find_arch(SMALL).std)

def test_the_views_are_drawn_one_by_one(plain):
    view = SimCLR(PREP).view
    x = TensorImage(torch.full((32, 3, 16, 16), 128, dtype=torch.uint8))
    set_seed(0); first, second = view(x.clone()), view(x.clone())
    assert not torch.equal(first, second) and first[:, 0, 8, 8].unique().numel() > 10

def test_all_of_it_learns_from_the_given_weights(plain):
    learn = learner(plain, 'efficientnet_lite0', weights='bundled')
    body, start = learn.model[0].model.state_dict(), bundled_weights()
    assert all(torch.equal(v, start[k]) for k, v in body.items())
    learn.fit_one_cycle(1, 1e-3)
    moved = [k for k, v in body.items() if not torch.equal(v, start[k])]
    assert len(moved) == len(body)
    row, = learn.history.rows
    assert row['stage'] == 'unfrozen' and {'twin_accuracy', 'embedding_std', 'effective_rank'} < set(row)

def test_the_same_seed_gives_the_same_body(plain):
    def state():
        learn = learner(plain); learn.fit_one_cycle(1, 1e-3)
        return learn.model.state_dict()
    one, two = state(), state()
    assert all(torch.equal(v, two[k]) for k, v in one.items())

def test_looking_for_a_rate_leaves_no_history(plain, tmp_path):
    learn = learner(plain, path=tmp_path)
    assert 0 < learn.lr_find(show_plot=False, num_it=5).valley < 10
    assert learn.history.rows == []

def test_a_net_of_two_outputs_is_refused(plain):
    with pytest.raises(CatalogError, match='inception_v3 has two outputs'):
        learner(plain, 'inception_v3', prep=arch_prep('inception_v3', 75))

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp('shop')
    return prepare_catalog(RunConfig(str(demo_styles(root/'shop', n=120)), str(root/'run')))

@pytest.mark.parametrize('arch', [SMALL, 'efficientnet_lite0', 'resnet18', 'mobilenet_v2', 'resnext50_32x4d'])
def test_the_body_goes_on_elsewhere(plain, shop, tmp_path, arch):
    learn = learner(plain, arch); learn.fit(1, 1e-3)
    path = save_body(learn, tmp_path/'new'/'body.safetensors')
    own = create_net(find_arch(arch)).state_dict()
    with safe_open(path, 'pt') as f: assert set(f.keys()) <= set(own) and f.metadata() == {'arch': arch}
    assert [o.name for o in path.parent.iterdir()] == ['body.safetensors']
    again = catalog_learner(catalog_dls(shop.catalog.df, shop.space, arch_prep(arch, 32), bs=8), arch, weights=path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(): torch.testing.assert_close(again.model[0].eval()(x), learn.model[0].eval()(x))

def test_a_run_takes_the_body(plain, shop, tmp_path):
    path = save_body(learner(plain), tmp_path/'body.safetensors')
    learn = build_learner(RunConfig('', str(tmp_path), arch=SMALL, weights=str(path), size=32), shop.catalog.df, shop.space)
    state = read_weights(find_arch(SMALL), path)
    assert learn.facts.pretrained and all(torch.equal(v, state[k]) for k, v in learn.model[0].model.state_dict().items())

def test_a_trained_tagger_gives_its_body_too(shop, tmp_path):
    learn = catalog_learner(catalog_dls(shop.catalog.df, shop.space, arch_prep(SMALL, 32), bs=8), SMALL, weights=None)
    state = read_weights(find_arch(SMALL), save_body(learn, tmp_path/'body.safetensors'))
    assert all(torch.equal(v, state[k]) for k, v in learn.model[0].model.state_dict().items())

def test_a_body_is_never_half_written(plain, tmp_path, monkeypatch):
    path = save_body(learner(plain), tmp_path/'body.safetensors'); before = path.read_bytes()
    def broken(tensors, p, metadata): p.write_bytes(b'half'); raise OSError('the disk is full')
    monkeypatch.setattr('catalog_tagger.search.contrastive.save_file', broken)
    with pytest.raises(OSError): save_body(learner(plain), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1

def test_collapse_is_seen():
    g = torch.Generator().manual_seed(0)
    spread, line = torch.randn(512, 8, generator=g), torch.randn(512, 1, generator=g)*torch.ones(8)
    point = torch.ones(512, 8)
    assert embedding_std(spread) > .95 > .01 > embedding_std(point)
    assert effective_rank(spread) > 7.5 and effective_rank(line) < 1.01 and effective_rank(point) < 1.01
    torch.testing.assert_close(effective_rank(torch.eye(8)), torch.tensor(8.))
    assert effective_rank(1000*spread) == pytest.approx(effective_rank(spread).item(), rel=1e-4)

def test_twins_are_counted_once_each():
    of = torch.arange(3).repeat(2)
    # the third picture's second view lies by the first
    z = torch.tensor([[1., 0, 0], [0, 1, 0], [0, 0, 1], [1, .1, 0], [0, 1, .1], [1, 0, .05]])
    nearest = [5, 4, 4, 0, 1, 0]
    assert twin_accuracy(z, of).item() == pytest.approx(np.mean([of[i] == of[j] for i, j in enumerate(nearest)]))

def test_few_labels_are_a_part_of_more(shop):
    df, train = shop.catalog.df, set(shop.catalog.df.loc[shop.catalog.df['split'] == 'train', 'image'])
    before = df.copy()
    kept = [set(few_labels(df, shop.space, o, seed=3)[0].query('split == "train"')['image']) for o in (.001, .1, .5, 1)]
    assert [len(o) for o in kept] == [2, round(.1*len(train)), round(.5*len(train)), len(train)]
    assert kept[0] < kept[1] < kept[2] < kept[3] == train
    assert few_labels(df, shop.space, .5, seed=4)[0]['image'].tolist() != few_labels(df, shop.space, .5, seed=3)[0]['image'].tolist()
    pd.testing.assert_frame_equal(df, before)

def test_few_labels_leave_the_other_folds_and_count_anew(shop):
    few, space = few_labels(shop.catalog.df, shop.space, .2)
    check_table(few, 'labels', 'split')
    for o in ('valid', 'test'):
        assert few.loc[few['split'] == o, 'image'].tolist() == shop.catalog.df.loc[shop.catalog.df['split'] == o, 'image'].tolist()
    assert space.vocab == shop.space.vocab and space.exclusive == shop.space.exclusive
    assert np.array_equal(space.counts, space.one_hot(few.loc[few['split'] == 'train', 'labels']).sum(0))
    learn = catalog_learner(catalog_dls(few, space, arch_prep(SMALL, 32), bs=8), SMALL, weights=None)
    share = space.counts/(few['split'] == 'train').sum()
    np.testing.assert_allclose(learn.model[1][-1].bias.sigmoid().detach(), share.clip(.5/learn.dls.train.n, 1 - .5/learn.dls.train.n),
                               atol=1e-5)

@pytest.mark.parametrize('share', [0, -.1, 1.01, float('nan')])
def test_a_share_is_a_share(shop, share):
    with pytest.raises(CatalogError, match=f'share={share}'): few_labels(shop.catalog.df, shop.space, share)

def test_the_probe_is_a_logistic_regression_for_each_label():
    r = np.random.default_rng(0)
    x, new = r.normal(5, 3, (60, 4)), r.normal(5, 3, (9, 4))
    y = np.stack([x[:, 0] > 5, x[:, 1] + x[:, 2] > 10, np.zeros(60), np.ones(60)], 1).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        scores = linear_probe(x, y, new, C=.5)
    mean, std = x.mean(0), x.std(0)
    for i in (0, 1):
        want = LogisticRegression(C=.5, max_iter=300).fit((x - mean)/std, y[:, i]).predict_proba((new - mean)/std)[:, 1]
        np.testing.assert_allclose(scores[:, i], want, atol=1e-6)
    assert (scores[:, 2] == 0).all() and (scores[:, 3] == 1).all()
