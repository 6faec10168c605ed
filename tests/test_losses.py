"Losses against plain loops over all cells, and through a fastai Learner to serving and back from a file."
import math, pickle

import numpy as np, pytest, torch
from fastai.callback.mixup import MixUp
from fastai.learner import load_learner

from catalog_tagger.core.files import CatalogError
from catalog_tagger.train.data import catalog_dls
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.catalog.labels import LabelSpace, apply_labels, fit_labels, known_cells
from catalog_tagger.train.learner import catalog_learner
from catalog_tagger.train.losses import (Asymmetric, BCE, CrossEntropy, Focal, Grouped, LOSSES, MOST_WEIGHT, OPTIMISERS,
                                         find_loss, find_optimiser, pos_weights, to_scores)
from catalog_tagger.core.metrics import only_known, recall_at_k
from catalog_tagger.train.fastai_metrics import RecallAtK
from catalog_tagger.train.backbones import arch_prep
from catalog_tagger.serve.predictor import Predictor
from catalog_tagger.catalog.split import split_catalog

counts = dict(a=40, x=3, b=30, y=1, free=25, z=90, odd=10)
space = LabelSpace(list(counts), {'letters': ['b', 'a'], 'last': ['x', 'y', 'z']}, {},
                   {l: dict(label=l, count=n, rule='kept') for l, n in counts.items()})
single = LabelSpace(['a', 'b', 'c'], {'kind': ['a', 'b', 'c']}, {},
                    {l: dict(label=l, count=n, rule='kept') for l, n in zip('abc', (60, 30, 10))})
N = 100
MANY = [o for o in LOSSES if o != 'cross_entropy']

def batch(seed, n=6, scale=3.):
    "Logits and targets in which each group has one label or, now and then, none."
    g = torch.Generator().manual_seed(seed)
    t = (torch.rand(n, 7, generator=g) < .4).float()
    for o in space.group_columns.values():
        t[:, o] = 0
        for i, c in enumerate(torch.randint(-1, len(o), (n,), generator=g).tolist()): t[i, o] = torch.eye(len(o) + 1)[c, :-1]
    return scale*torch.randn(n, 7, generator=g), t

def p(z): return 1/(1 + math.exp(-z))
def binary(yes, no, z, y): return -y*yes*math.log(p(z)) - (1 - y)*no*math.log(1 - p(z))

def cell_focal(z, y): return -.25*(1 - p(z))**2*math.log(p(z)) if y else -.75*p(z)**2*math.log(1 - p(z))
def cell_asymmetric(z, y):
    q = max(p(z) - .05, 0)
    return -math.log(p(z)) if y else -q**4*math.log(1 - q)

def over_cells(cell):
    def loop(xs, ts): return np.mean([cell(z, y, c) for row, targs in zip(xs, ts) for c, (z, y) in enumerate(zip(row, targs))])
    return loop

def grouped_loop(xs, ts):
    answers = []
    for row, targs in zip(xs, ts):
        for group in space.exclusive.values():
            cols = [space.vocab.index(l) for l in group]; true = [c for c in cols if targs[c]]
            answers.append(math.log(sum(math.exp(row[c]) for c in cols)) - row[true[0]] if true else 0.)
        answers += [binary(1, 1, row[space.vocab.index(l)], targs[space.vocab.index(l)]) for l in ('free', 'odd')]
    return np.mean(answers)

LOOPS = dict(bce=over_cells(lambda z, y, c: binary(1, 1, z, y)), smooth=over_cells(lambda z, y, c: binary(1, 1, z, .95 if y else .05)),
             weighted=over_cells(lambda z, y, c: binary(min(20, max(1/20, (N - [*counts.values()][c])/[*counts.values()][c])), 1, z, y)),
             focal=over_cells(lambda z, y, c: cell_focal(z, y)), asymmetric=over_cells(lambda z, y, c: cell_asymmetric(z, y)),
             grouped=grouped_loop)

@pytest.mark.parametrize('name', MANY)
@pytest.mark.parametrize('seed', range(4))
class TestManyLabels:
    def test_loop(self, name, seed):
        x, t = batch(seed)
        assert find_loss(name, space, N)(x, t).item() == pytest.approx(LOOPS[name](x.tolist(), t.tolist()), rel=2e-5)

    def test_mean(self, name, seed):
        "A batch twice over, in any order, is the same; two halves of a batch have its mean; the mean is that of the cells."
        loss, (x, t) = find_loss(name, space, N), batch(seed)
        whole = loss(x, t); order = torch.randperm(len(x))
        torch.testing.assert_close(loss(torch.cat([x, x]), torch.cat([t, t])), whole)
        torch.testing.assert_close(loss(x[order], t[order]), whole)
        torch.testing.assert_close((loss(x[:3], t[:3]) + loss(x[3:], t[3:]))/2, whole)
        loss.reduction = 'none'
        assert len(loss(x, t)) == len(x)
        torch.testing.assert_close(loss(x, t).mean(), whole)

    def test_gradient(self, name, seed):
        "It points the right way, and is finite however sure and wrong the logits are."
        loss, (x, t) = find_loss(name, space, N), batch(seed)
        for z in (x, 100*x.sign(), 100*(2*t - 1), -100*(2*t - 1), 1000*x.sign(), torch.zeros_like(x)):
            z = z.clone().requires_grad_(); value = loss(z, t); value.backward()
            assert value.isfinite() and z.grad.isfinite().all()
        assert loss(100*(2*t - 1), t) < loss(-100*(2*t - 1), t)

    def test_learns(self, name, seed):
        "Descent on free logits finds the truth."
        loss, (x, t) = find_loss(name, space, N), batch(seed, n=3)
        for o in space.group_columns.values(): t[t[:, o].sum(1) == 0, o[0]] = 1
        z = torch.nn.Parameter(x); opt = find_optimiser('adam')([z], lr=.3)
        for _ in range(80): loss(z, t).backward(); opt.step(); opt.zero_grad()
        assert torch.equal(loss.decodes(loss.activation(z.detach())), t.bool())

    def test_order_of_labels(self, name, seed):
        "Labels in another order give the same loss and the same scores."
        x, t = batch(seed); order = torch.randperm(7, generator=torch.Generator().manual_seed(seed)).tolist()
        other = LabelSpace([space.vocab[i] for i in order], space.exclusive, {}, space.provenance)
        a, b = find_loss(name, space, N), find_loss(name, other, N)
        torch.testing.assert_close(a(x, t), b(x[:, order], t[:, order]))
        torch.testing.assert_close(a.activation(x)[:, order], b.activation(x[:, order]))

@pytest.mark.parametrize('smooth', [0., .1])
def test_cross_entropy_loop(smooth):
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2, 1, 1, 0])
    truth = [[(1 - smooth)*(c == i) + smooth/3 for c in range(3)] for i in y.tolist()]
    logs = [[z - math.log(sum(map(math.exp, row))) for z in row] for row in x.tolist()]
    by_hand = -np.mean([sum(q*l for q, l in zip(*o)) for o in zip(truth, logs)])
    assert CrossEntropy(smooth)(x, y).item() == pytest.approx(by_hand, rel=1e-5)
    z = (100*torch.tensor([[-1., 1., 1.]]*5)).requires_grad_(); CrossEntropy(smooth)(z, y).backward()
    assert z.grad.isfinite().all()

@pytest.mark.parametrize('pos,neg,clip', [(0, 0, .3), (1, 2, .2), (.5, .5, .05), (2, 1, 0)])
def test_asymmetric_settings(pos, neg, clip):
    def cell(z, y, c):
        q = max(p(z) - clip, 0)
        return -(1 - p(z))**pos*math.log(p(z)) if y else -q**neg*math.log(1 - q)
    x, t = batch(5); loss = Asymmetric(pos, neg, clip)
    assert loss(x, t).item() == pytest.approx(over_cells(cell)(x.tolist(), t.tolist()), rel=2e-5)
    z = (1000*x.sign()).requires_grad_(); loss(z, t).backward()
    assert z.grad.isfinite().all()

def test_losses_meet():
    "At their neutral settings the others are BCE; one group without free tags is cross-entropy."
    x, t = batch(0)
    for loss in (BCE(pos_weight=torch.ones(7)), Asymmetric(0, 0, 0.), Focal(0, .5)):
        torch.testing.assert_close(loss(x, t)*(2 if isinstance(loss, Focal) else 1), BCE()(x, t))
    torch.testing.assert_close(Asymmetric(2, 2, 0.)(x, t), Focal(2, .5)(x, t)*2)
    y = torch.tensor([0, 2, 1])
    torch.testing.assert_close(Grouped(single)(x[:3, :3], torch.eye(3)[y]), CrossEntropy()(x[:3, :3], y))

def test_a_group_without_labels():
    "No picture has a label of any group: free tags alone count, the groups' logits do not move."
    x, t = batch(0); t[:, [0, 1, 2, 3, 5]] = 0
    x.requires_grad_(); Grouped(space)(x, t).backward()
    assert (x.grad[:, [0, 1, 2, 3, 5]] == 0).all() and (x.grad[:, [4, 6]] != 0).all()

def test_wrong_targets():
    x = torch.zeros(7, 7)
    for loss, t in [*((find_loss(o, space, N), torch.arange(7)) for o in MANY), (CrossEntropy(), torch.eye(7))]:
        with pytest.raises(CatalogError, match='targets have shape'): loss(x, t)

@pytest.mark.parametrize('kind,fits',
                         [(space, MANY), (single, ['cross_entropy', 'smooth']),
                          (LabelSpace(['a', 'b'], {}, {}, {}), [o for o in MANY if o != 'grouped'])])
def test_names(kind, fits):
    for name in LOSSES:
        if name in fits: assert pickle.loads(pickle.dumps(find_loss(name, kind, N))).activation_name in ('sigmoid', 'softmax', 'grouped')
        else:
            with pytest.raises(CatalogError, match=f'does not fit.*use one of.*{fits[-1]}'): find_loss(name, kind, N)
    for find, names in ((lambda: find_loss('nll', kind, N), LOSSES), (lambda: find_optimiser('lion'), OPTIMISERS)):
        with pytest.raises(CatalogError, match='is unknown, expected one of ' + ', '.join(names)): find()

def test_weights_are_capped():
    w = pos_weights(np.array([0, 1, 50, 100, 120]), 100)
    assert w.tolist() == pytest.approx([MOST_WEIGHT, MOST_WEIGHT, 1, 1/MOST_WEIGHT, 1/MOST_WEIGHT])

@pytest.mark.parametrize('name', ['bce', 'weighted', 'smooth', 'grouped'])
def test_start(name):
    "From the start no bias wants to move, whatever the shares."
    _, t = batch(3, n=400); share = t.mean(0)
    loss = find_loss(name,
                     LabelSpace(space.vocab, space.exclusive, {},
                                {l: dict(label=l, count=int(n), rule='kept') for l, n in zip(space.vocab, t.sum(0))}), 400)
    bias = loss.start(share).requires_grad_(); loss(bias.expand(400, 7), t).backward()
    torch.testing.assert_close(bias.grad, torch.zeros(7), atol=1e-6, rtol=0)

def test_to_scores_can_be_differentiated():
    x = torch.randn(3, 7, requires_grad=True, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda z: to_scores(z, space, 'grouped'), x)

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    "A labelled catalog with a free tag beside its groups, and pictures without a label of the first group."
    df = read_catalog(demo_styles(tmp_path_factory.mktemp('losses')/'shop', n=48)).df
    df['tags'] = [o[i % 4 == 0:] + ['new']*(i % 3 == 0) for i, o in enumerate(df['tags'])]
    df, _ = split_catalog(df)
    space = fit_labels(df); df, _ = apply_labels(df, space)
    return df, space

def learner(shop, name, **kwargs):
    df, space = shop
    dls = catalog_dls(df, space, arch_prep('mobilenetv3_small_050', 32), bs=8)
    loss = find_loss(name, space, dls.train.n)
    return catalog_learner(dls, 'mobilenetv3_small_050', weights=None, loss_func=loss, metrics=RecallAtK(3),
                           **kwargs)

def test_grouped_round_trip(shop, tmp_path):
    df, space = shop
    y = torch.tensor(space.one_hot(df['labels'])); first, *_ = space.group_columns.values()
    assert (y[:, first].sum(1) == 0).any() and 'new' in space.vocab
    learn = learner(shop, 'grouped', opt_func='sgd'); learn.path = tmp_path
    learn.fit(1, 1e-2, cbs=MixUp())
    scores, targs = learn.get_preds()
    for o in space.group_columns.values(): torch.testing.assert_close(scores[:, o].sum(1), torch.ones(len(scores)))
    loss, recall = learn.validate()
    assert recall == pytest.approx(recall_at_k(*only_known(scores, targs, known_cells(targs, space)), 3))
    assert learn.get_preds(with_loss=True)[2].mean().item() == pytest.approx(loss, rel=1e-4)

    learn.export('learner.pkl'); again = load_learner(tmp_path/'learner.pkl')
    valid = df[df['split'] == 'valid'].reset_index(drop=True)
    for which in (learn, again):
        predictor = Predictor.from_learner(which)
        assert predictor.activation == 'grouped'
        np.testing.assert_allclose(predictor.scores(valid['image']), scores, atol=1e-4)
        named, decoded, probs = which.predict(valid['image'][0])
        torch.testing.assert_close(probs, scores[0], atol=1e-4, rtol=0)
        assert [sum(l in o for l in named) for o in space.exclusive.values()] == [1]*len(space.exclusive)

@pytest.mark.parametrize('name', ['weighted', 'asymmetric'])
def test_other_losses_train(shop, name):
    learn = learner(shop, name, opt_func='rmsprop'); learn.fit(1, 1e-3)
    assert Predictor.from_learner(learn).activation == 'sigmoid'

@pytest.mark.parametrize('name', ['cross_entropy', 'smooth'])
def test_one_label(shop, name):
    df, _ = shop
    one = df.assign(tags=[[o for o in t if o.startswith('articleType=')] for t in df['tags']]).drop(columns='labels')
    space = fit_labels(one); one, _ = apply_labels(one, space)
    learn = learner((one, space), name); learn.fit(1, 1e-3, cbs=MixUp())
    scores, targs, losses = learn.get_preds(with_loss=True)
    assert losses.mean().item() == pytest.approx(learn.validate()[0], rel=1e-4) and scores.sum(1).numpy() == pytest.approx(1)
    valid = one[one['split'] == 'valid'].reset_index(drop=True)
    np.testing.assert_allclose(Predictor.from_learner(learn).scores(valid['image']), scores, atol=1e-4)
    assert learn.predict(valid['image'][0])[0] == space.vocab[scores[0].argmax()]

def test_older_predictors(shop):
    "A learner whose loss names no activation, and a predictor from before there was one, are read as they were."
    df, space = shop
    dls = catalog_dls(df, space, arch_prep('mobilenetv3_small_050', 32), bs=8)
    learn = catalog_learner(dls, 'mobilenetv3_small_050', weights=None)
    predictor = Predictor.from_learner(learn); scores = predictor.scores(df['image'][:2])
    with torch.no_grad(): want = learn.model.eval()(torch.from_numpy(np.stack([dls.prep(o) for o in df['image'][:2]]))).sigmoid()
    np.testing.assert_allclose(scores, want, atol=1e-5)
    del predictor.__dict__['activation']
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(predictor)).scores(df['image'][:2]), scores)
