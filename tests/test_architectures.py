"Every architecture through training, freezing, export and serving; the guards before training."
import pickle

import pytest, torch
from fastai.vision.all import BCELossFlat, CrossEntropyLossFlat, Resize, TensorImage, Transform, create_head, load_learner, set_seed
from torch import nn
from torch.nn import functional as F

from catalog_tagger.core.files import CatalogError
from catalog_tagger.train.data import catalog_dls
from catalog_tagger.train.checks import check_learner
from catalog_tagger.train.learner import FrozenStats, catalog_learner, count_parameters, training_summary
from catalog_tagger.train.losses import AuxLoss
from catalog_tagger.train.backbones import BUNDLED, arch_prep, create_net, find_arch
from catalog_tagger.train.weights import bundled_weights
from catalog_tagger.serve.predictor import Predictor
from catalog_tagger.testing.tiny import tiny_catalog

ARCHS = [  # name, size in px, head and dropout
    ('efficientnet_lite0', 32, {}), ('resnet18', 32, dict(head='stacked')), ('resnet50', 32, {}),
    ('resnext50_32x4d', 32, dict(head='linear', dropout=.2)),
    ('mobilenet_v2', 32, {}), ('mobilenet_v2', 32, dict(head='stacked')), ('inception_v3', 75, {}),
    ('inception_v3', 75, dict(head='linear', dropout=.5)), ('mobilenetv3_small_050', 32, dict(head='linear'))]

@pytest.fixture(scope='module')
def catalog(tmp_path_factory):
    return tiny_catalog(tmp_path_factory.mktemp('shop'), 40, label_columns=['masterCategory', 'baseColour'])

def make_dls(catalog, arch=BUNDLED, size=32, bs=8, **kwargs):
    set_seed(0)
    return catalog_dls(*catalog, arch_prep(arch, size), bs=bs, **kwargs)

def make_learner(catalog, arch=BUNDLED, size=32, **kwargs):
    dls = make_dls(catalog, arch, size)
    set_seed(0)
    return catalog_learner(dls, arch, **kwargs)

def state_of(m): return {k: v.clone() for k, v in m.state_dict().items()}
def same(a, b): return [torch.equal(a[k], b[k]) for k in a]

@pytest.fixture(scope='module', params=ARCHS, ids=lambda o: '-'.join(map(str, [o[0], *o[2].values()])))
def trained(request, catalog, tmp_path_factory):
    "A learner from a file of weights: its body as it came, after a frozen epoch, and after an unfrozen one."
    arch, size, kwargs = request.param
    if arch == BUNDLED: weights = 'bundled'
    else:
        set_seed(1); weights = tmp_path_factory.mktemp('weights')/'w.pth'
        torch.save(create_net(find_arch(arch)).state_dict(), weights)
    learn = make_learner(catalog, arch, size, weights=weights, **kwargs)
    bodies, heads = [state_of(learn.model[0])], [state_of(learn.model[1])]
    learn.fit(1, 1e-3); bodies.append(state_of(learn.model[0])); heads.append(state_of(learn.model[1]))
    learn.unfreeze(); learn.fit(1, 1e-4); bodies.append(state_of(learn.model[0]))
    return learn, bodies, heads

def test_the_weights_of_the_file_are_in_the_body(trained):
    learn, bodies, _ = trained
    if learn.facts.arch == BUNDLED: want = bundled_weights()
    else: set_seed(1); want = create_net(find_arch(learn.facts.arch)).state_dict()
    def marks(state): return {(v.shape, float(v.min()), float(v.max())) for v in state.values() if v.is_floating_point()}
    assert marks(bodies[0]) <= marks(want)

def test_frozen_stays_frozen_bit_for_bit_and_the_head_learns(trained):
    _, bodies, heads = trained
    assert all(same(bodies[0], bodies[1]))
    assert not any(same(*[{k: v for k, v in o.items() if k.endswith(('.weight', '.bias')) and v.ndim > 1} for o in heads]))

def test_unfrozen_learns_and_keeps_its_statistics(trained):
    learn, bodies, _ = trained
    names = [k for k, v in bodies[0].items() if v.ndim == 4]
    # timm's MobileNetV3 has a layer above the features
    used = [k for k in names if not (learn.facts.arch.startswith('mobilenetv3') and 'conv_head' in k)]
    assert not any(torch.equal(bodies[1][k], bodies[2][k]) for k in used)
    assert all(torch.equal(bodies[0][k], bodies[2][k]) for k in bodies[0] if 'running' in k)
    assert [o['stage'] for o in learn.history.rows] == ['frozen', 'unfrozen']

def test_exported_and_loaded_it_answers_the_same(trained, catalog, tmp_path):
    learn, _, _ = trained; images = catalog[0]['image'][:4].tolist()
    learn.export(tmp_path/'learner.pkl'); again = load_learner(tmp_path/'learner.pkl')
    scores = Predictor.from_learner(learn).scores(images)
    torch.testing.assert_close(torch.tensor(Predictor.from_learner(again).scores(images)), torch.tensor(scores), atol=1e-5, rtol=0)
    torch.testing.assert_close(learn.get_preds(dl=learn.dls.test_dl(images))[0], torch.tensor(scores), atol=1e-5, rtol=0)
    assert again.facts.arch == learn.facts.arch and training_summary(again) == training_summary(learn)

def test_body_and_head_stand_where_others_look(trained):
    learn, _, _ = trained
    assert len(learn.model) == 2 and next(learn.model[0].parameters()).is_contiguous(memory_format=torch.channels_last)
    n, learning = count_parameters(learn)
    assert n == learning and training_summary(learn).startswith('frozen, then unfrozen, with augmentation')

# Inception

def test_inceptions_loss_is_main_plus_aux_in_training_and_main_in_validation(catalog):
    learn = make_learner(catalog, 'inception_v3', 75, weights=None, head='linear')
    x, y = learn.dls.train.one_batch(); bce = learn.loss_func.loss_func
    main, aux = learn.model.train()(x)
    torch.testing.assert_close(learn.loss_func((main, aux), y), bce(main, y) + .4*bce(aux, y))
    main = learn.model.eval()(x)
    assert isinstance(main, torch.Tensor) and learn.loss_func(main, y) == bce(main, y)
    (main + 0).sum().backward(); assert all(p.grad is None for p in learn.model[1].aux.parameters())

def test_both_of_inceptions_heads_have_our_labels(catalog):
    head = make_learner(catalog, 'inception_v3', 75, weights=None).model[1]
    assert head.main[-1].out_features == head.aux.fc.out_features == len(catalog[1].vocab)

def test_aux_loss_is_the_loss_it_wraps():
    loss = pickle.loads(pickle.dumps(AuxLoss(CrossEntropyLossFlat(), .5)))
    out, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(loss.activation(out), out.softmax(1)) and torch.equal(loss.decodes(out), out.argmax(1)) and loss.y_int
    loss.reduction = 'none'
    assert loss((out, out), y).shape == (4,)
    torch.testing.assert_close(loss((out, out), y), 1.5*F.cross_entropy(out, y, reduction='none'))

def test_losses_of_single_pictures_and_lr_find_work_with_two_outputs(catalog, tmp_path):
    learn = make_learner(catalog, 'inception_v3', 75, weights=None, head='linear')
    scores, targs, losses = learn.get_preds(with_loss=True)
    torch.testing.assert_close(losses, F.binary_cross_entropy(scores, targs, reduction='none').mean(1), atol=1e-4, rtol=1e-4)
    learn.model_dir = tmp_path; learn.lr_find(show_plot=False, num_it=6)

# Heads and weights

def test_a_head_of_ones_own_is_left_as_it_is(catalog):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, len(catalog[1].vocab))); before = state_of(head)
    learn = make_learner(catalog, head=head)
    assert learn.model[1] is head and all(same(before, head.state_dict()))

def test_the_stacked_head_keeps_the_classifier_that_came(catalog):
    learn = make_learner(catalog, head='stacked', weights='bundled')
    own = learn.model[1][-3]; want = bundled_weights()
    assert torch.equal(own.weight, want['classifier.weight']) and learn.model[1][-1].in_features == 1000

def test_named_heads_start_at_the_shares_of_the_labels(catalog):
    for head in ('fastai', 'linear', 'stacked'):
        learn = make_learner(catalog, head=head)
        torch.testing.assert_close(learn.model[1][-1].bias.sigmoid().detach(), torch.tensor(catalog[1].counts/learn.dls.train.n).float(),
                                   atol=1e-5, rtol=0)

def test_from_scratch_nothing_is_frozen_and_statistics_move(catalog):
    for weights in (None, 'none'):
        learn = make_learner(catalog, weights=weights); before = state_of(learn.model[0])
        learn.fit(1, 1e-3)
        assert count_parameters(learn)[0] == count_parameters(learn)[1]
        assert not torch.equal(before['model.bn1.running_mean'], learn.model[0].model.bn1.running_mean)
        assert training_summary(learn).startswith('from scratch, with augmentation')

def test_training_summary(catalog):
    set_seed(1); learn = make_learner(catalog, 'resnet18', weights=None); learn.facts.pretrained = True
    assert training_summary(learn).startswith('fine-tune')
    learn.freeze_to(-2); assert training_summary(learn).startswith('partly unfrozen')
    n, learning = count_parameters(learn); assert 0 < learning < n
    learn.freeze(); learn.fit(1); assert training_summary(learn).startswith('feature extraction')
    learn.freeze_to(-2); learn.fit(1); learn.unfreeze(); learn.fit(1)
    assert training_summary(learn).startswith('frozen, then partly unfrozen, then unfrozen')
    plain = catalog_learner(make_dls(catalog, item_tfms=[Resize(32)], batch_tfms=[]))
    assert 'without augmentation' in training_summary(plain)

# Guards

def test_a_checked_learner_trains_to_the_same_bits_as_an_unchecked_one(catalog):
    res = []
    for check in (True, False):
        learn = make_learner(catalog); set_seed(3, reproducible=True)
        learn.fit(1, 1e-3)
        if check: check_learner(learn)
        learn.fine_tune(1, 1e-3)
        res.append((state_of(learn.model), learn.opt.state_dict(), learn.history.table().drop(columns='seconds')))
    assert all(same(res[0][0], res[1][0])) and res[0][2].equals(res[1][2])
    assert all(torch.equal(a[k], b[k]) for a, b in zip(res[0][1]['state'], res[1][1]['state']) for k in a if isinstance(a[k], torch.Tensor))

def test_a_check_that_fails_leaves_no_trace_either(catalog):
    learn = make_learner(catalog); learn.remove_cb(FrozenStats); learn.model.eval()
    before, rng = state_of(learn.model), learn.dls.train.rng.getstate()
    with pytest.raises(CatalogError, match='other features'): check_learner(learn)
    assert all(same(before, learn.model.state_dict())) and learn.dls.train.rng.getstate() == rng and not learn.model.training
    assert all(p.grad is None for p in learn.model.parameters())

@pytest.mark.parametrize('arch, size', [('resnet18', 32), ('mobilenet_v2', 32), ('inception_v3', 75), ('mobilenetv3_small_050', 32)])
def test_sound_learners_pass(catalog, arch, size):
    learn = make_learner(catalog, arch, size, weights=None)
    check_learner(learn); learn.freeze(); learn.add_cb(FrozenStats()); check_learner(learn)

def test_batchnorm_asked_to_train_and_a_trained_learner_pass(catalog):
    learn = make_learner(catalog, train_bn=True); check_learner(learn)
    learn.fine_tune(1, 1e-2); check_learner(learn)

def test_a_partly_frozen_body_is_looked_at_too(catalog):
    learn = make_learner(catalog, 'resnet18', weights=None, train_bn=False); learn.freeze_to(-2)
    with pytest.raises(CatalogError, match='other features'): check_learner(learn)

class Scale(Transform):
    "Colours times `by`, before they are normalised."
    order,split_idx = 11,0
    def __init__(self, by): self.by = by
    def encodes(self, x:TensorImage): return x*self.by

@pytest.mark.parametrize('by', [255, float('nan')])
def test_unscaled_pictures_are_told(catalog, by):
    with pytest.raises(CatalogError, match='normalised twice, or values from 0 to 255'):
        check_learner(catalog_learner(make_dls(catalog, batch_tfms=[Scale(by)])))

def test_a_softmax_before_cross_entropy_is_told_and_a_loss_on_probabilities_is_not(catalog, tmp_path):
    one = tiny_catalog(tmp_path/'shop', 40, label_columns=['masterCategory']); n = len(one[1].vocab)
    class Squash(nn.Module):
        def forward(self, x): return x.softmax(1)
    head = nn.Sequential(*create_head(1280, n), Squash())
    with pytest.raises(CatalogError, match='there is a sigmoid or softmax at the end'): check_learner(make_learner(one, custom_head=head))
    n = len(catalog[1].vocab)
    check_learner(make_learner(catalog, custom_head=nn.Sequential(*create_head(1280, n), nn.Sigmoid()), loss_func=BCELossFlat()))

@pytest.mark.parametrize('loss, why', [
    (lambda p, y: (p*0).sum(), 'is 0 before training'),
    (lambda p, y: (p*float('nan')).sum(), 'is nan before training'),
    (lambda p, y: p.detach().square().mean(), 'does not decrease on one batch'),
    (lambda p, y: (p - p).sum() + 3, 'does not decrease on one batch'),
])
def test_a_loss_that_teaches_nothing_is_told(catalog, loss, why):
    with pytest.raises(CatalogError, match=why): check_learner(make_learner(catalog, loss_func=loss))
