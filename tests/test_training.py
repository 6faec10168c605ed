"What a training run can be given beside its learner, each promise against a plain loop."
import json, pickle, random
from copy import deepcopy
from itertools import chain

import numpy as np, pytest, torch
from fastai.vision.all import (BCEWithLogitsLossFlat, Callback, CancelFitException, CrossEntropyLossFlat, DataLoader, DataLoaders, Learner,
                               ProgressCallback, SaveModelCallback,
                               load_learner, noop, params, set_seed)
from safetensors.torch import load, save
from torch import nn

from catalog_tagger.core.files import CatalogError
from catalog_tagger.train.data import catalog_dls
from catalog_tagger.catalog.images import open_image
from catalog_tagger.train.learner import catalog_learner
from catalog_tagger.core.metrics import recall_at_k
from catalog_tagger.train.fastai_metrics import RecallAtK
from catalog_tagger.train.backbones import arch_prep
from catalog_tagger.serve.tagger import Tagger
from catalog_tagger.train.schedule import EMA, balance_sampling, find_mix, fit_schedule, rarity_weights, suggest_rate
from catalog_tagger.testing.tiny import tiny_catalog, tiny_learner

def tiny(tmp_path, single=False, **kwargs):
    "A body with BatchNorm and a head, quiet, on 64 + 32 rows."
    set_seed(1); y = torch.randn(96, 7)[:, :5].argmax(1) if single else None    # as `tiny_learner` draws its rows
    return tiny_learner(y, seed=1, loss_func=CrossEntropyLossFlat() if single else None, path=tmp_path, train_bn=False, **kwargs)

def copied(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    return tiny_catalog(tmp_path_factory.mktemp('shop')/'catalog', 90)

def learner(shop, path, **kwargs):
    df, space = shop
    set_seed(42, reproducible=True)
    return catalog_learner(catalog_dls(df, space, arch_prep('efficientnet_lite0', 32), bs=16), path=path, **kwargs)

# ---- the rate

@pytest.mark.parametrize('frozen', [True, False])
def test_the_search_for_a_rate_leaves_no_trace(shop, tmp_path, frozen):
    learn = learner(shop, tmp_path)
    learn.fit(1, 1e-3)
    if not frozen: learn.unfreeze()
    def state():
        return (copied(learn), deepcopy(learn.opt.state_dict()), learn.dls.train.rng.getstate(), random.getstate(),
                np.random.get_state()[1].copy(), torch.get_rng_state(), learn.model_dir, len(learn.history.rows))
    before = state()
    rate, curve = suggest_rate(learn, num_it=20)
    after = state()
    assert same(before[0], after[0]) and before[2:4] == after[2:4] and (before[4] == after[4]).all()
    assert torch.equal(before[5], after[5]) and before[6:] == after[6:]
    for a, b in zip(before[1]['state'], after[1]['state']):
        assert a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
    assert learn.opt.frozen_idx == (1 if frozen else 0)
    assert list(tmp_path.iterdir()) == [] and 1e-7 < rate < 10 and (np.diff(curve['lr']) > 0).all()

# ---- the schedule

def test_two_calls_are_fine_tune(shop, tmp_path):
    a = learner(shop, tmp_path)
    a.fine_tune(1, 4e-3, freeze_epochs=1, lr_mult=16)
    b = learner(shop, tmp_path)
    b.freeze(); fit_schedule(b, 1, 4e-3, lr_mult=16); b.unfreeze(); fit_schedule(b, 1, 2e-3, lr_mult=16)
    assert same(copied(a), copied(b))

def test_flat_stays_level_and_falls(tmp_path):
    learn = tiny(tmp_path)
    fit_schedule(learn, 4, 8e-3, 'flat', lr_mult=8)
    lrs = np.array(learn.recorder.lrs)
    assert np.allclose(lrs[:13], 8e-3) and (np.diff(lrs[12:]) < 0).all() and lrs[-1] < 2e-3
    assert np.isclose(learn.opt.hypers[0]['lr']*8, learn.opt.hypers[1]['lr'])

def test_an_error_in_a_fit_leaves_the_loss_function(tmp_path):
    class Stop(Callback):
        order = 100
        def after_pred(self): raise KeyboardInterrupt
    learn = tiny(tmp_path, single=True); loss = learn.loss_func
    with pytest.raises(KeyboardInterrupt): fit_schedule(learn, 1, 1e-2, cbs=[find_mix('mixup'), Stop()])
    assert learn.loss_func is loss

# ---- mixed pictures

@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
@pytest.mark.parametrize('columns', [None, ['masterCategory']])
def test_mixed_pictures_on_a_catalog(tmp_path, name, columns):
    shop = tiny_catalog(tmp_path/'shop', 60, **({} if columns is None else dict(label_columns=columns)))
    space = shop[1]; assert space.is_single == (columns is not None)
    learn = learner(shop, tmp_path, metrics=[RecallAtK(1)])
    loss = learn.loss_func
    fit_schedule(learn, 1, 1e-2, cbs=find_mix(name))
    assert learn.loss_func is loss
    told = learn.recorder.values[-1][1:]
    learn.remove_cbs([o for o in learn.cbs if type(o).__name__ in ('MixUp', 'CutMix')])
    assert np.allclose(told, learn.validate(), atol=1e-6)   # valid was not mixed
    scores, targs = learn.get_preds()
    targs = np.eye(len(space.vocab))[np.asarray(targs)] if space.is_single else targs
    assert np.isclose(told[1], recall_at_k(scores, targs, 1))
    learn.export(tmp_path/'learner.pkl')
    assert load_learner(tmp_path/'learner.pkl').loss_func.__class__ is loss.__class__

def test_cutmix_pastes_as_much_as_it_says(tmp_path):
    "The share of other pixels is the share of the other target."
    x, y = torch.arange(8.)[:, None, None, None].expand(8, 3, 16, 16).contiguous(), torch.eye(8)
    seen = {}
    class See(Callback):
        order, run_valid = 100, False
        def after_pred(self): seen.update(x=self.xb[0].clone(), y=self.yb[0].clone(), y1=self.cut_mix.yb1[0])
    ds = list(zip(x, y))
    learn = Learner(DataLoaders(DataLoader(ds, bs=8), DataLoader(ds, bs=8)), nn.Sequential(nn.Flatten(), nn.Linear(768, 8)),
                    loss_func=BCEWithLogitsLossFlat(), cbs=[find_mix('cutmix'), See()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    for i, (a, b, other) in enumerate(zip(seen['x'], seen['y'], seen['y1'])):
        share = (a[0] == i).float().mean()
        by_hand = share*y[i] + (1 - share)*other
        assert torch.allclose(b, by_hand, atol=1e-5)

# ---- balanced sampling

def test_weights_against_a_plain_loop():
    r = np.random.default_rng(0)
    share = 1/np.arange(1, 13)
    labels = [[f'l{j}' for j in r.choice(12, r.integers(1, 5), replace=False, p=share/share.sum())] for _ in range(200)]
    count = {}
    for o in labels:
        for l in o: count[l] = count.get(l, 0) + 1
    for how in ('rarest', 'mean'):
        plain = []
        for o in labels:
            inverse = [1/count[l] for l in o]
            plain.append(max(inverse) if how == 'rarest' else sum(inverse)/len(inverse))
        plain = [min(5., w/min(plain)) for w in plain]
        assert np.allclose(rarity_weights(labels, how=how, cap=5.), plain)
    assert (rarity_weights([['a'], ['a', 'b']], cap=1) == 1).all()

@pytest.mark.parametrize('workers', [0, 2])
def test_draws_follow_the_weights(workers):
    set_seed(3)
    dl = balance_sampling(DataLoader(list(range(40)), bs=8, shuffle=True, drop_last=True, num_workers=workers), [1]*30 + [4]*10)
    n = 3 if workers else 300
    seen = [o for _ in range(n) for o in torch.cat(list(dl)).tolist()]
    assert len(seen) == 40*n and set(seen) <= set(range(40))
    if not workers: assert abs(np.mean([o >= 30 for o in seen]) - 40/70) < .02

def test_same_seed_same_draws_and_each_epoch_another():
    def drawn():
        set_seed(5)
        dl = balance_sampling(DataLoader(list(range(50)), bs=10, shuffle=True), np.linspace(1, 3, 50))
        return [torch.cat(list(dl)).tolist() for _ in range(2)]
    a, b = drawn(), drawn()
    assert a == b and a[0] != a[1]

def test_a_balanced_learner_answers_each_picture_once_and_exports(shop, tmp_path):
    learn = learner(shop, tmp_path)
    train = learn.dls.train_ds.items['labels'].tolist()
    balance_sampling(learn.dls.train, rarity_weights(train))
    learn.fit(1, 1e-3)
    scores, targs = learn.get_preds(ds_idx=0)
    assert np.array_equal(targs.numpy(), shop[1].one_hot(train))
    learn.export(tmp_path/'learner.pkl')
    assert not hasattr(load_learner(tmp_path/'learner.pkl').dls.train, 'weights')

def test_rare_labels_come_more_often(shop):
    df, space = shop
    dls = catalog_dls(df, space, arch_prep('efficientnet_lite0', 32), bs=16)
    labels = dls.train_ds.items['labels'].tolist()
    plain = {l: sum(l in o for o in labels) for l in space.vocab}
    balance_sampling(dls.train, rarity_weights(labels))
    seen = list(chain.from_iterable(labels[i] for _ in range(50) for i in (dls.train.randomize(), dls.train.get_idxs())[1]))
    rarest, commonest = min(space.exclusive['articleType'], key=plain.get), max(space.exclusive['articleType'], key=plain.get)
    assert seen.count(rarest)/50 > 1.3*plain[rarest] and seen.count(commonest)/50 < plain[commonest]

# ---- averaged weights

class Loop(Callback):
    "EMA as a plain loop over all weights and statistics."
    def __init__(self, decay): self.decay, self.t = decay, 0
    def before_train(self):
        if self.t == 0: self.by_hand = {k: v.clone() for k, v in self.model.state_dict().items()}
    def after_step(self):
        self.t += 1; d = min(self.decay, (1 + self.t)/(10 + self.t))
        self.by_hand = {k: d*self.by_hand[k] + (1 - d)*v if v.is_floating_point() else v.clone()
                        for k, v in self.model.state_dict().items()}

@pytest.mark.parametrize('decay', [0., .3, .99])
def test_the_average_is_that_of_a_plain_loop(tmp_path, decay):
    learn, loop, ema = tiny(tmp_path), Loop(decay), EMA(decay)
    fit_schedule(learn, 3, 2e-2, cbs=[ema, loop])
    got = copied(learn)
    assert loop.t == 12 and all(torch.allclose(got[k].double(), v.double(), atol=1e-6) for k, v in loop.by_hand.items())
    assert got['0.1.num_batches_tracked'] == 12 and ema.avg == {}

def test_statistics_that_are_kept_stay_kept(shop, tmp_path):
    learn = learner(shop, tmp_path); learn.unfreeze()
    mean = learn.model.state_dict()['0.model.bn1.running_mean'].clone()
    fit_schedule(learn, 1, 1e-3, cbs=EMA(.5))
    assert torch.allclose(learn.model.state_dict()['0.model.bn1.running_mean'], mean)

def test_nothing_is_averaged_while_only_the_head_learns(tmp_path):
    a, b = tiny(tmp_path), tiny(tmp_path)
    for o in (a, b): o.freeze()
    fit_schedule(a, 2, 1e-2, cbs=EMA(.9)); fit_schedule(b, 2, 1e-2)
    assert same(copied(a), copied(b))

def test_validation_sees_the_average_and_training_does_not(tmp_path):
    a, b = tiny(tmp_path), tiny(tmp_path)
    a.fit(3, 1e-2, cbs=EMA(.9)); b.fit(3, 1e-2)
    assert [o[0] for o in a.recorder.values] == [o[0] for o in b.recorder.values]   # train loss
    assert all(x[1] != y[1] for x, y in zip(a.recorder.values, b.recorder.values))  # valid loss
    told = a.recorder.values[-1][1]
    assert abs(a.validate()[0] - told) < 1e-6 and abs(a.validate()[0] - told) < 1e-6

def test_lr_find_and_predictions_leave_the_average_alone(tmp_path):
    ema = EMA(.9); learn = tiny(tmp_path, cbs=ema)
    before = copied(learn)
    suggest_rate(learn, num_it=10); learn.get_preds(); learn.validate()
    assert same(before, copied(learn)) and ema.steps == 0 and ema.avg == {}

def test_an_early_stop_keeps_the_average(tmp_path):
    class Stop(Callback):
        order = 90
        def after_epoch(self):
            if self.epoch == 1: raise CancelFitException
    a, loop = tiny(tmp_path), Loop(.9)
    a.fit(5, 1e-2, cbs=[EMA(.9), loop, Stop()])
    assert loop.t == 8 and all(torch.allclose(v.double(), copied(a)[k].double(), atol=1e-6) for k, v in loop.by_hand.items())

def test_the_best_epoch_is_kept_averaged(tmp_path):
    learn = tiny(tmp_path)
    learn.fit(3, 1e-1, cbs=[EMA(.9), SaveModelCallback()])
    best = min(o[1] for o in learn.recorder.values)
    assert abs(learn.validate()[0] - best) < 1e-6

@pytest.mark.parametrize('after', [0, 1, 2])
def test_a_resumed_average_is_that_of_a_whole_run(tmp_path, after):
    "What a checkpoint needs: tensors through safetensors, the rest through JSON."
    class Keep(Callback):
        order = 95
        def after_epoch(self):
            if self.epoch == after:
                state = self.ema.state()
                tensors = save({k: v for k, v in state.items() if torch.is_tensor(v)})
                numbers = json.dumps({k: v for k, v in state.items() if not torch.is_tensor(v)})
                self.kept = tensors, numbers, deepcopy((self.model.state_dict(), self.opt.state_dict(), self.dls.train.rng.getstate()))
    keep, whole = Keep(), tiny(tmp_path)
    whole.fit(4, 1e-2, cbs=[EMA(.8), keep])
    resumed, ema = tiny(tmp_path), EMA(.8)
    tensors, numbers, (model, opt, order) = keep.kept
    resumed.model.load_state_dict(model); resumed.opt.load_state_dict(opt); resumed.dls.train.rng.setstate(order)
    resumed.add_cb(ema); ema.set_state(load(tensors) | json.loads(numbers))
    resumed.fit(3 - after, 1e-2)
    assert same(copied(resumed), copied(whole)) and ema.avg == {}

def test_an_averaged_learner_exports_one_set_of_weights(tmp_path):
    ema = EMA(.9); learn = tiny(tmp_path, cbs=ema)
    learn.fit(1, 1e-2)
    assert ema.state() == dict(steps=0)
    pickle.dumps(ema.state())

# ---- test-time views

def test_two_views_are_the_mean_of_picture_and_mirror(shop, tmp_path):
    learn = learner(shop, tmp_path); learn.facts.tta = 2
    predictor, items = Tagger.from_learner(learn), shop[0]['image'][:6].tolist()
    plain = Tagger.from_learner(learner(shop, tmp_path))
    plain.model = predictor.model
    mirrored = [open_image(o).transpose(0) for o in items]
    assert (predictor.tta, plain.tta) == (2, 1)
    assert np.allclose(predictor.scores(items), (plain.scores(items) + plain.scores(mirrored))/2, atol=1e-4)
    predictor.tta = 4
    assert np.isfinite(predictor.scores(items)).all() and predictor.scores(items, bs=2).shape == (6, len(shop[1].vocab))

def test_labels_and_prep_are_those_of_the_data(shop, tmp_path):
    "Other data in the same learner, as in progressive resizing: its tagger goes by them."
    learn = learner(shop, tmp_path); df, space = shop
    learn.dls = catalog_dls(df, space, arch_prep(learn.facts.arch, 48), bs=8)
    tagger = Tagger.from_learner(learn)
    assert tagger.prep.size == (48, 48) and tagger.arch == learn.facts.arch and tagger.decision is None
    valid = df['image'][df['split'] == 'valid'].tolist()
    assert np.allclose(tagger.scores(valid), learn.get_preds()[0], atol=1e-5)

def test_the_wrong_name_is_told():
    for call, says in [(lambda: find_mix('blend'), 'expected mixup or cutmix'), (lambda: EMA(-1), 'decay=-1'),
                       (lambda: rarity_weights([[]]), 'picture 0 has no label'),
                       (lambda: balance_sampling(DataLoader([1, 2], bs=1), [1]), '1 weights for 2')]:
        with pytest.raises(CatalogError, match=says): call()
