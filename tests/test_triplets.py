"Metric learning against plain loops, on odd batches, and through a learner."
import math, pickle, subprocess, sys
from collections import Counter

import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.vision.all import DataLoader, DataLoaders, Learner, ProgressCallback, load_learner, noop, set_seed
from torch import nn

from catalog_tagger.train.activations import cached_learner
from catalog_tagger.core.files import CatalogError
from catalog_tagger.train.data import catalog_dls
from catalog_tagger.search.embed import Embedder, embed_catalog
from catalog_tagger.train.backbones import arch_prep
from catalog_tagger.search.retrieval import retrieval_scores
from catalog_tagger.serve.tagger import Tagger
from catalog_tagger.search.triplets import *
from catalog_tagger.testing.tiny import tiny_catalog, tiny_learner

pml = pytest.importorskip('pytorch_metric_learning')
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.reducers import MeanReducer, SumReducer

SEEDS = [0, 1, 2]

def batch(seed:int, n:int=12, labels:int=9, d:int=5):
    "Embeddings and labels; the last picture has none, the one before shares its only label with nobody."
    g = torch.Generator().manual_seed(seed)
    emb, targs = torch.randn(n, d, generator=g), (torch.rand(n, labels, generator=g) < .45).float()
    targs[:, -1] = 0; targs[-2:] = 0; targs[-2, -1] = 1
    return emb, targs

def sets(targs): return [set(torch.nonzero(o)[:, 0].tolist()) for o in targs]

def jaccard_by_hand(targs): return [[len(a & b)/max(len(a | b), 1) for b in sets(targs)] for a in sets(targs)]

def rule_by_hand(targs, more_than=3):
    "Study 2's rule, step by step; None is neither."
    y, needed, rows = sets(targs), Counter(), []
    for i, anchor in enumerate(y):
        shared = [len(anchor & o) if j != i else 0 for j, o in enumerate(y)]
        least = more_than + 1
        while least and not any(o >= least for o in shared): least -= 1   # relaxed by one label
        needed[least] += 1
        rows.append([1. if least and o >= least else 0. if o == 0 else None for o in shared])
    return rows, needed

def as_grades(rows): return torch.tensor([[math.nan if o is None else o for o in row] for row in rows])

GRADES = dict(jaccard=(jaccard, jaccard_by_hand), rule=(SharedRule(), lambda t: rule_by_hand(t)[0]),
              rule_of_2=(SharedRule(1), lambda t: rule_by_hand(t, 1)[0]))
DISTANCES = dict(euclidean=lambda a, b: math.dist(F.normalize(a, dim=0), F.normalize(b, dim=0)), plain=lambda a, b: math.dist(a, b),
                 cosine=lambda a, b: -F.cosine_similarity(a, b, dim=0).item())
THEIRS = dict(euclidean=None, plain=LpDistance(normalize_embeddings=False), cosine=CosineSimilarity())

def triplets_by_hand(d, g, how:str, margin:float):
    "All triplets, or for each anchor and positive the one that `how` names."
    n, res = range(len(d)), []
    for a in n:
        for p in n:
            if a == p or not g[a][p]: continue
            fit = [o for o in n if o not in (a, p) and g[a][o] is not None and g[a][p] > g[a][o]]
            loss = {o: d[a][p] - d[a][o] + margin*(g[a][p] - g[a][o]) for o in fit}
            if how == 'semihard': fit = [o for o in fit if d[a][o] > d[a][p] and loss[o] > 0]
            if how != 'all': fit = [max(fit, key=loss.get)] if fit else []
            res += [(a, p, o) for o in fit]
    return res

@pytest.mark.parametrize('seed', SEEDS)
def test_overlap(seed):
    _, targs = batch(seed)
    y = sets(targs)
    assert overlap(targs).tolist() == [[len(a & b) for b in y] for a in y]
    np.testing.assert_allclose(jaccard(targs), jaccard_by_hand(targs), rtol=1e-6)
    assert torch.equal(overlap(targs.byte().numpy()), overlap(targs))
    classes = torch.tensor([3, 1, 3, 0]); assert torch.equal(overlap(classes), (classes[:, None] == classes).float())

@pytest.mark.parametrize('more_than', [0, 1, 3, 7])
@pytest.mark.parametrize('seed', SEEDS)
def test_rule(seed, more_than):
    _, targs = batch(seed, n=20)
    rule = SharedRule(more_than); grades, needed = rule_by_hand(targs, more_than)
    got = rule(targs).fill_diagonal_(0)
    torch.testing.assert_close(got, as_grades(grades).fill_diagonal_(0), equal_nan=True)
    assert dict(rule.needed) == dict(needed)
    rule(targs); assert rule.needed[0] == 2*needed[0]

@pytest.mark.parametrize('kind', GRADES)
@pytest.mark.parametrize('space', DISTANCES)
@pytest.mark.parametrize('seed', SEEDS)
class TestTriplets:
    margin = .3
    def both(self, seed, kind, space, how):
        emb, targs = batch(seed); grades, by_hand = GRADES[kind]
        d, g = [[DISTANCES[space](a, b) for b in emb] for a in emb], by_hand(targs)
        return emb, targs, grades, d, g, triplets_by_hand(d, g, how, self.margin)

    @pytest.mark.parametrize('how', ['all', 'hard', 'semihard'])
    def test_loops(self, seed, kind, space, how):
        emb, targs, grades, d, g, want = self.both(seed, kind, space, how)
        loss = TripletLoss(self.margin, grades=grades, how=how, distance=THEIRS[space])
        got = mine_triplets(torch.tensor(d), as_grades(g), how, self.margin)
        assert want and sorted(zip(*map(torch.Tensor.tolist, got))) == sorted(want)
        terms = [max(0, d[a][p] - d[a][n] + self.margin*(g[a][p] - g[a][n])) for a, p, n in want]
        wrong = [o for o in terms if o > 0]
        assert loss(emb, targs).item() == pytest.approx(sum(wrong)/len(wrong), rel=1e-4)
        for reducer, value in ((MeanReducer(), np.mean(terms)), (SumReducer(), sum(terms))):
            assert TripletLoss(self.margin, grades=grades, how=how, distance=THEIRS[space],
                               reducer=reducer)(emb, targs).item() == pytest.approx(value, rel=1e-4)

    def test_random(self, seed, kind, space):
        _, _, _, d, g, every = self.both(seed, kind, space, 'all')
        drawn = [list(zip(*map(torch.Tensor.tolist, mine_triplets(torch.tensor(d), as_grades(g), 'random', self.margin))))
                 for _ in range(3)]
        for o in drawn:
            assert set(o) <= set(every)
            assert Counter((a, p) for a, p, _ in o) == Counter({(a, p): 1 for a, p, _ in every})   # one for each pair
        assert len(set(map(tuple, drawn))) > 1

    def test_accuracy(self, seed, kind, space):
        emb, targs, grades, d, g, every = self.both(seed, kind, space, 'all')
        for margin in (0., .3):
            want = np.mean([d[a][p] + margin < d[a][n] for a, p, n in every])
            assert triplet_accuracy(emb, targs, margin, grades=grades, distance=THEIRS[space]) == pytest.approx(want, abs=1e-6)

def test_wrong_mining():
    with pytest.raises(CatalogError, match="'hardest' is unknown, expected one of all, hard, semihard, random"):
        TripletLoss(how='hardest')(*batch(0))

def shares_by_hand(targs):
    y = sets(targs); count = Counter(l for o in y for l in o)
    return [[sum(1/(count[l] - 1) for l in a & b) if i != j else 0 for j, b in enumerate(y)] for i, a in enumerate(y)]

@pytest.mark.parametrize('temperature', [.05, .2, 1.])
@pytest.mark.parametrize('weights,by_hand', [(label_shares, shares_by_hand), (jaccard, jaccard_by_hand)])
@pytest.mark.parametrize('seed', SEEDS)
def test_contrast_loops(seed, weights, by_hand, temperature):
    emb, targs = batch(seed); w, n, terms = by_hand(targs), range(len(emb)), []
    s = [[F.cosine_similarity(a, b, dim=0).item()/temperature for b in emb] for a in emb]
    for i in n:
        others = [j for j in n if j != i]
        norm, total = math.log(sum(math.exp(s[i][j]) for j in others)), sum(w[i][j] for j in others)
        if total: terms.append(sum(w[i][j]*(norm - s[i][j]) for j in others)/total)
    assert len(terms) == len(emb) - 2      # the last two have nobody
    assert MultiLabelSupCon(temperature, weights=weights)(emb, targs).item() == pytest.approx(np.mean(terms), rel=1e-4)

LOSSES = dict(graded=TripletLoss, hard=lambda: TripletLoss(how='hard'), rule=lambda: TripletLoss(.5, grades=SharedRule()),
              all=lambda: TripletLoss(how='all'), contrast=MultiLabelSupCon, contrast_jaccard=lambda: MultiLabelSupCon(weights=jaccard))

@pytest.mark.parametrize('name', LOSSES)
class TestLosses:
    @pytest.mark.parametrize('targs', [torch.zeros(5, 4), torch.eye(5), torch.ones(1, 4)],
                             ids=['no labels', 'nothing shared', 'one picture'])
    def test_empty_batch(self, name, targs):
        x = torch.randn(len(targs), 3, requires_grad=True)
        loss = LOSSES[name]()(x, targs); loss.backward()
        assert loss.item() == 0 and x.grad.shape == x.shape and (x.grad == 0).all()

    def test_all_the_same(self, name):
        "Everybody is everybody's positive: no triplet; contrast has its least for equal embeddings."
        x = torch.randn(6, 3, requires_grad=True)
        loss = LOSSES[name]()(x, torch.ones(6, 4)); loss.backward()
        assert x.grad.isfinite().all() and (loss.item() == 0 or name.startswith('contrast'))

    @pytest.mark.parametrize('seed', SEEDS)
    def test_gradient(self, name, seed):
        emb, targs = batch(seed); emb = emb.double().requires_grad_()
        assert torch.autograd.gradcheck(LOSSES[name](), (emb, targs), atol=1e-4)
        LOSSES[name]()(emb, targs).backward(); assert emb.grad.isfinite().all() and emb.grad.abs().sum() > 0

    def test_same_point(self, name):
        "Collapsed embeddings give numbers, not nan."
        x = torch.ones(6, 3, requires_grad=True); _, targs = batch(0, n=6)
        LOSSES[name]()(x, targs).backward(); assert x.grad.isfinite().all()

    def test_order(self, name):
        emb, targs = batch(1); order = torch.randperm(len(emb), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(LOSSES[name]()(emb[order], targs[order][:, torch.randperm(targs.shape[1])]), LOSSES[name]()(emb, targs))

    def test_learns(self, name):
        "Descent on free embeddings brings together what the loss calls alike."
        set_seed(0); loss = LOSSES[name](); kinds, colours = torch.arange(24) % 4, torch.arange(24)//4 % 3
        targs = torch.cat([F.one_hot(kinds), F.one_hot(kinds//2), F.one_hot(colours)], 1).float()
        x = nn.Parameter(torch.randn(24, 8)); opt = torch.optim.Adam([x], lr=.05)
        def right(): return triplet_accuracy(x, targs, grades=getattr(loss, 'grades', jaccard))
        before = right()
        for _ in range(60): opt.zero_grad(); loss(x, targs).backward(); opt.step()
        assert right() > max(.85, before + .2) and embedding_health(x)['rank'] > 2

    def test_pickles(self, name):
        emb, targs = batch(0); loss = LOSSES[name]()
        torch.testing.assert_close(pickle.loads(pickle.dumps(loss))(emb, targs), loss(emb, targs))

def test_classes_are_one_label_each():
    emb, _ = batch(0); classes = torch.arange(12) % 4
    for make in LOSSES.values(): torch.testing.assert_close(make()(emb, classes), make()(emb, F.one_hot(classes)))

@pytest.mark.parametrize('seed', SEEDS)
def test_health(seed):
    x = np.random.default_rng(seed).normal(size=(30, 6))*[3, 2, 1, 1, .1, 0]
    e = x/np.linalg.norm(x, axis=1, keepdims=True); s = np.linalg.svd(e, compute_uv=False); p = s[s > 1e-9]/s.sum()
    got = embedding_health(x)
    assert got['similarity'] == pytest.approx(np.mean([e[i] @ e[j] for i in range(30) for j in range(30) if i != j]), abs=1e-5)
    assert got['rank'] == pytest.approx(np.exp(-(p*np.log(p)).sum()), rel=1e-4)
    assert embedding_health(7*x) == pytest.approx(got, rel=1e-4)
    with pytest.raises(CatalogError, match='of 1 pictures cannot be compared'): embedding_health(x[:1])
    with pytest.raises(CatalogError, match='contain NaN or infinity'): embedding_health(np.full((3, 6), np.inf))

def toy(loss, cbs):
    pairs = torch.randint(2, (96, 5), generator=torch.Generator().manual_seed(42)).float()
    return tiny_learner(pairs, n_out=4, loss_func=loss, cbs=cbs)

def test_guard_looks_at_whole_valid():
    guard = CollapseGuard(); learn = toy(TripletLoss(), guard); learn.fit(2, 1e-2)
    assert len(guard.rows) == 2 and guard.rows[-1] == pytest.approx(embedding_health(learn.get_preds()[0]), rel=1e-4)
    learn.validate(); learn.get_preds(); assert len(guard.rows) == 2
    learn.fit(1, 1e-2); assert len(guard.rows) == 3

@pytest.mark.parametrize('limits', [dict(max_similarity=-1.), dict(min_rank=5.)])
def test_guard_stops(limits):
    guard = CollapseGuard(**limits); learn = toy(TripletLoss(), guard)
    learn.fit(2, 1e-2)
    with pytest.raises(CollapsedError, match='^embeddings collapsed in epoch 3: two pictures have a mean cosine of') as e:
        learn.fit(5, 1e-2)
    assert len(guard.rows) == 2 + 3 and isinstance(e.value, CatalogError)
    with pytest.warns(UserWarning, match='embeddings collapsed in epoch 2'):
        toy(TripletLoss(), CollapseGuard(stop=False, patience=2, **limits)).fit(2, 1e-2)

@pytest.mark.parametrize('n,m,bs', [(40, 4, 8), (41, 4, 8), (10, 3, 4), (7, 7, 7), (9, 1, 3)])
def test_sampling_is_an_epoch(n, m, bs):
    targs = torch.randint(2, (n, 6), generator=torch.Generator().manual_seed(0))
    def loader(seed): set_seed(seed); return overlap_sampling(DataLoader(list(zip(range(n), targs)), bs=bs, shuffle=True), targs, m=m)
    def order(dl): return torch.cat([x for x, _ in dl]).tolist()
    a, b = loader(1), loader(1)
    first = order(a)
    assert sorted(first) == list(range(n)) and first == order(b) and first != order(a) != order(loader(2))

def test_companions_share_most():
    targs = np.repeat(np.eye(10), 4, 0); set_seed(0)
    dl = overlap_sampling(DataLoader(list(range(40)), bs=4, shuffle=True), targs)
    for _ in range(3): assert all(len({int(o)//4 for o in x}) == 1 for x in dl)
    near = overlap_sampling(DataLoader(list(range(40)), bs=4, shuffle=True), targs, pool=1)   # looks no farther than the next picture
    assert any(len({int(o)//4 for o in x}) > 1 for x in near)

def test_sampling_faults():
    dl = DataLoader(list(range(10)), bs=4)
    with pytest.raises(CatalogError, match='9 targets for 10 training pictures'): overlap_sampling(dl, np.eye(9))
    for m in (0, 11):
        with pytest.raises(CatalogError, match=f'm={m}, expected 1 to 10'): overlap_sampling(dl, np.eye(10), m=m)

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    columns = ['masterCategory', 'subCategory', 'articleType', 'gender', 'baseColour']
    return tiny_catalog(tmp_path_factory.mktemp('triplets')/'shop', 72, label_columns=columns)

ARCH = 'mobilenetv3_small_050'
def learner(shop, loss=None, **kwargs):
    df, space = shop; set_seed(42)
    dls = catalog_dls(df, space, arch_prep(ARCH, 32), bs=12)
    return embedding_learner(dls, loss or TripletLoss(), arch=ARCH, weights=None, dim=8, **kwargs)

@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('projection', ['linear', 'fastai'])
def test_learner(shop, name, projection):
    learn = learner(shop, LOSSES[name](), projection=projection, dropout=.1); learn.fit(1, 1e-3)
    emb, targs = learn.get_preds()
    assert emb.shape == ((shop[0]['split'] == 'valid').sum(), 8) and emb.isfinite().all()
    assert [type(o) for o in learn._grab_cbs(CollapseGuard)] == [CollapseGuard]
    assert hasattr(learn.dls.train, 'similar')
    assert torch.equal(torch.as_tensor(learn.dls.train.similar[0]), torch.stack([y for _, y in learn.dls.train_ds]).float())

def test_learner_from_a_run(shop, tmp_path):
    "No weights are fetched: the body is that of the run; frozen, its every number stays."
    df, space = shop; first = learner(shop); first.fit(1, 1e-3)
    start = Tagger(first.model, space, first.dls.prep, arch=ARCH)
    learn = embedding_learner(catalog_dls(df, space, first.dls.prep, bs=12), MultiLabelSupCon(), start=start, dim=8, m=1)
    assert not hasattr(learn.dls.train, 'similar') and learn.opt.frozen_idx == 1
    head = cached_learner(learn, cbs=CollapseGuard(), folder=tmp_path); overlap_sampling(head.dls.train, head.dls.train_ds.targs, m=2)
    head.fit(1, 1e-3); learn.fit(1, 1e-3)
    for k, v in first.model[0].state_dict().items(): assert torch.equal(learn.model[0].state_dict()[k], v), k
    with pytest.raises(CatalogError, match='build the data with start.prep'):
        embedding_learner(catalog_dls(df, space, arch_prep(ARCH, 48)), TripletLoss(), start=start)

def test_same_seed_same_embeddings(shop):
    def trained():
        learn = learner(shop); set_seed(1, reproducible=True); learn.fit(1, 1e-3)
        return Embedder(learn.model, learn.dls.prep, learn.facts.arch)(shop[0]['image'][:4])
    np.testing.assert_array_equal(trained(), trained())

def test_export(shop, tmp_path):
    learn = learner(shop); learn.path = tmp_path; learn.export('learner.pkl')
    again = load_learner(tmp_path/'learner.pkl'); image = shop[0]['image'][0]
    torch.testing.assert_close(again.predict(image)[2], learn.predict(image)[2])

@pytest.mark.parametrize('projection', ['linear', 'fastai'])
def test_embedder(shop, tmp_path, projection):
    "What was learned is a model that can be told, sealed and loaded without fastai."
    learn = learner(shop, projection=projection); images = shop[0]['image'][:5].tolist()
    embedder = Embedder(learn.model, learn.dls.prep, learn.facts.arch); e = embed_catalog(embedder, images, tmp_path/'e')
    with torch.no_grad(): want = learn.model.eval()(torch.from_numpy(np.stack([learn.dls.prep(o) for o in images]))).numpy()
    np.testing.assert_allclose(np.linalg.norm(want, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(e.vectors, want, atol=1e-5)
    code = (f'import sys; from catalog_tagger.search.embed import load_embeddings; e = load_embeddings({str(tmp_path/"e")!r}); '
            f'assert abs(e.embedder({images!r}) - e.vectors).max() < 1e-4 and "fastai" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True)

def test_ndcg_is_of_the_whole_fold(shop):
    learn = learner(shop); loss, *scores = learn.validate(); emb, targs = learn.get_preds()
    assert [m.name for m in learn.metrics] == ['triplet_accuracy', 'nDCG@10']
    assert scores[1] == pytest.approx(retrieval_scores(emb.numpy(), targs.numpy()).loc['nDCG@10', 'score'], abs=1e-6)

def test_without_the_extra():
    "The page imports without pytorch-metric-learning, contrast works, and the triplet loss says what to install."
    code = '''import sys; sys.modules['pytorch_metric_learning'] = None
import torch
from catalog_tagger.search.triplets import *
print(MultiLabelSupCon()(torch.randn(4, 3), torch.tensor([0, 0, 1, 1])).isfinite().item())
try: TripletLoss()
except ValueError as e: print(e)'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.stdout.splitlines() == ['True',
                                       'metric learning needs pytorch-metric-learning: pip install "catalog_tagger[metric]"'], out.stderr
