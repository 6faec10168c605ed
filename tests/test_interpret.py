"Interpretation: confusion against plain loops, losses by hand, layers and heat maps of every kind of net."
import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from sklearn.metrics import log_loss
from torch import nn

from catalog_tagger.core.files import CatalogError
from catalog_tagger.catalog.images import Prep
from catalog_tagger.report.interpret import *
from catalog_tagger.report.interpret import _most_confused
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.core.metrics import group_accuracy
from catalog_tagger.train.backbones import arch_prep, create_net, cut_body, find_arch
from catalog_tagger.train.heads import build_model
from catalog_tagger.serve.answers import as_matrix, decode
from catalog_tagger.serve.predictor import Predictor

KINDS, COLOURS, FREE = ['Tshirts', 'Jeans', 'Heels', 'Flats'], ['red', 'blue'], ['new', 'soft', 'sale']
SPACE = LabelSpace([*KINDS, *COLOURS, *FREE], {'kind': KINDS, 'colour': COLOURS}, {}, {})
TAGS = LabelSpace(FREE, {}, {}, {})
ONE = LabelSpace(KINDS, {'kind': KINDS}, {}, {})

def catalog(n=300, seed=0, bare=.1):
    "A table in which some pictures have no colour, and scores that are often wrong."
    r = np.random.default_rng(seed); rows = []
    for i in range(n):
        colour = [COLOURS[r.integers(2)]] if r.random() > bare else []
        rows.append([KINDS[r.integers(4)], *colour, *[t for t in FREE if r.random() < .3]])
    df = pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(n)], labels=rows))
    return df, np.clip(SPACE.one_hot(rows)*.45 + r.random((n, 9))*.55, 0, 1)

@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close('all')

# ---- confusion

@pytest.mark.parametrize('group', ['kind', 'colour'])
@pytest.mark.parametrize('seed', range(3))
def test_confusion_of_a_group_against_a_plain_loop(group, seed):
    df, scores = catalog(seed=seed); names = SPACE.exclusive[group]; want = pd.DataFrame(0, names, names)
    for labels, s in zip(df['labels'], scores):
        true = [l for l in labels if l in names]
        if true: want.loc[true[0], max(names, key=lambda l: s[SPACE.vocab.index(l)])] += 1
    got = group_confusion(df, scores, SPACE, group)
    assert got.equals(want) and got.values.sum() == sum(any(l in names for l in o) for o in df['labels'])
    assert np.isclose(np.diag(got).sum()/got.values.sum(), group_accuracy(scores, SPACE.one_hot(df['labels']), SPACE.group_columns[group]))
    for normalise, divisor in dict(true=want.sum(axis=1).to_numpy()[:, None], pred=want.sum(axis=0).to_numpy(),
                                   all=want.values.sum()).items():
        assert np.allclose(group_confusion(df, scores, SPACE, group, normalise=normalise), want/divisor)

def test_what_was_left_open_is_no_answer():
    df, scores = catalog(); pred = as_matrix(decode(scores, SPACE, k=None), SPACE)
    assert 'unsure' not in group_confusion(df, pred, SPACE, 'kind')
    pred[:, :4][:25] = 0
    got = group_confusion(df, pred, SPACE, 'kind')
    assert got['unsure'].sum() == 25 and got.values.sum() == 300 and 'unsure' not in confused_pairs(df, pred, SPACE)['predicted'].tolist()
    assert 'unsure' in [o.get_text() for o in confusion_plot(df, pred, SPACE, 'kind').axes[0].get_xticklabels()]

def test_two_by_two_of_each_label_against_a_plain_loop():
    df, scores = catalog(); pred = (scores > .5).astype(int); got = label_confusion(df, pred, SPACE)
    for j, l in enumerate(SPACE.vocab):
        group = next((o for o in SPACE.exclusive.values() if l in o), None); cells = dict(right=0, missed=0, wrong=0, neither=0)
        for labels, p in zip(df['labels'], pred[:, j]):
            if group and not set(group) & set(labels): continue    # nothing is known of this picture's colour
            cells[('right' if l in labels else 'wrong') if p else ('missed' if l in labels else 'neither')] += 1
        assert got.loc[l].to_dict() == cells

def test_no_label_is_squeezed_into_a_corner():
    "fastai's confusion matrix of several labels counts class numbers 0 and 1 alone; here every label has its pictures."
    df, scores = catalog(bare=0); got = label_confusion(df, scores > .5, SPACE)
    assert (got.sum(axis=1) == 300).all() and (got['right'] + got['missed']).tolist() == SPACE.one_hot(df['labels']).sum(0).tolist()
    assert (got['right'] > 0).all()

def test_a_single_free_tag_has_its_own_two_by_two():
    space = LabelSpace(['new'], {}, {}, {}); df = pd.DataFrame(dict(image=['a', 'b', 'c', 'd'], labels=[['new'], ['new'], [], []]))
    assert label_confusion(df, np.array([[1], [0], [0], [1]]), space).loc['new'].tolist() == [1, 1, 1, 1]

def test_predicted_instead_of_by_hand():
    df = pd.DataFrame(dict(image=list('abcd'), labels=[['new'], ['new', 'soft'], ['new'], ['sale']]))
    # a: soft for new; b: soft right, sale for new; c: both for new; d: right
    pred = np.array([[0, 1, 0], [0, 1, 1], [0, 1, 1], [0, 0, 1]])
    got = instead_table(df, pred, TAGS)
    assert got.values.tolist() == [['', 'new', 'soft', 2, 2/3, ['a', 'c']], ['', 'new', 'sale', 2, 2/3, ['b', 'c']]]

def test_labels_of_different_groups_never_stand_for_each_other():
    df, scores = catalog(); got = instead_table(df, scores > .5, SPACE, k=None)
    group = {l: g for g, o in SPACE.exclusive.items() for l in o}
    assert len(got) and all(group.get(a, '') == group.get(b, '') == g for g, a, b in zip(got['group'], got['true'], got['predicted']))
    for row in got.itertuples():
        a, b = SPACE.vocab.index(row.true), SPACE.vocab.index(row.predicted); known = set(SPACE.exclusive.get(row.group, ()))
        want = [im for im, o, s in zip(df['image'], df['labels'], scores) if row.true in o and s[a] <= .5 and row.predicted not in o
                and s[b] > .5 and (not known or known & set(o))]
        assert row.images == want and row.n == len(want)

def test_the_most_confused_labels_keep_their_order():
    assert _most_confused(pd.DataFrame([[5, 0, 0], [0, 0, 2], [1, 0, 9]]), 2) == [1, 2]

def test_most_confused_pairs_are_counted_and_their_surest_picture_comes_first():
    df, scores = catalog(); got = confused_pairs(df, scores, SPACE, k=None)
    assert got['n'].is_monotonic_decreasing and confused_pairs(df, scores, SPACE, k=2).equals(got[:2])
    for row in got.itertuples():
        assert row.n == len(row.images) == group_confusion(df, scores, SPACE, row.group).loc[row.true, row.predicted]
        said = [scores[int(o.removesuffix('.jpg')), SPACE.vocab.index(row.predicted)] for o in row.images]
        assert said == sorted(said, reverse=True) and np.isclose(row.share, row.n/sum(row.true in o for o in df['labels']))
    perfect = SPACE.one_hot(df['labels']).astype(float)
    assert len(confused_pairs(df, perfect, SPACE)) == 0 and len(instead_table(df, perfect, SPACE)) == 0
    assert not wrong_pictures(df, perfect, SPACE).any()

@pytest.mark.parametrize('call, says', [
    (lambda df, s: group_confusion(df, s, SPACE, 'gender'), "'gender' is not an exclusive group; there are kind, colour"),
    (lambda df, s: group_confusion(df, s, SPACE, 'kind', normalise='row'), "normalise='row', expected true, pred, all or None"),
    (lambda df, s: group_confusion(df, s - 9, SPACE, 'kind'), 'pass probabilities, not logits'),
    (lambda df, s: group_confusion(df, s*np.nan, SPACE, 'kind'), 'must be from 0 to 1'),
    (lambda df, s: group_confusion(df.assign(labels=[[]]*300), s, SPACE, 'kind'), 'no picture has a label of kind'),
    (lambda df, s: label_confusion(df, s[:9], SPACE), r'pred of shape \(9, 9\), expected \(300, 9\)'),
    (lambda df, s: top_losses(df, s, SPACE, label='green'), "'green' is not a label"),
    (lambda df, s: share_bars('x', s[0][:3], SPACE), 'the scores of one picture'),
    (lambda df, s: confused_grid(confused_pairs(df, SPACE.one_hot(df['labels']), SPACE)), 'no picture to show')])
def test_faults_of_the_caller_are_told(call, says):
    with pytest.raises(CatalogError, match=says): call(*catalog())

def test_a_table_with_rows_dropped_is_counted_from_its_first():
    df, s = catalog(); rest = df[5:]
    pd.testing.assert_frame_equal(label_confusion(rest, s[5:], SPACE), label_confusion(rest.reset_index(drop=True), s[5:], SPACE))

# ---- losses and errors

def test_losses_are_those_of_scikit_learn():
    df, scores = catalog(bare=0); cells, targs = loss_cells(df, scores, SPACE), SPACE.one_hot(df['labels'])
    for i in range(9): assert np.isclose(cells[:, i].mean(), log_loss(targs[:, i], scores[:, i]))
    single = df.assign(labels=df['labels'].map(lambda o: o[:1])); p = scores[:, :4]/scores[:, :4].sum(1, keepdims=True)
    assert np.isclose(loss_cells(single, p, ONE).sum(1).mean(), log_loss(ONE.one_hot(single['labels']), p))
    assert np.isclose(top_losses(single, p, ONE)['loss'][0], -np.log((p*ONE.one_hot(single['labels'])).sum(1).min()))

def test_what_is_not_known_costs_nothing():
    df, scores = catalog(bare=.5); cells = loss_cells(df, scores, SPACE); bare = [not set(COLOURS) & set(o) for o in df['labels']]
    assert np.isnan(cells[bare][:, 4:6]).all() and np.isfinite(np.delete(cells, [4, 5], 1)).all()
    worst = top_losses(df, scores, SPACE, k=None)
    assert len(worst) == 300 and worst['loss'].is_monotonic_decreasing and np.isclose(worst['loss'][0], np.nanmean(cells, 1).max())
    assert len(top_losses(df, scores, SPACE, label='red', k=None)) == 300 - sum(bare)
    assert np.isfinite(loss_cells(df, np.ones((300, 9)), SPACE)[:, 6:]).all()

def test_errors_over_a_value_against_a_plain_loop():
    r = np.random.default_rng(4); values = r.random(103); wrong = r.random(103) < values
    got = error_table(wrong, values, bins=4)
    assert got['n'].sum() == 103 and got['wrong'].sum() == wrong.sum() and len(got) == 4 and got['n'].max() - got['n'].min() <= 1
    for o in got.itertuples():
        inside = (values >= o.least) & (values <= o.most)
        assert inside.sum() == o.n and wrong[inside].sum() == o.wrong and o.low <= o.share <= o.high
        assert np.isclose(values[inside].mean(), o.value)
    assert got['share'].iloc[0] < got['share'].iloc[-1] and len(error_table(wrong, np.ones(103))) == 1

def test_facts_of_a_picture():
    df = pd.DataFrame(dict(image=[np.full((40, 90, 3), 255, np.uint8), np.zeros((300, 300, 3), np.uint8)], labels=[['a'], ['a', 'b']]))
    got = picture_facts(df)
    assert got.values.tolist() == [[60., 2.25, 1., 1], [300., 1., 0., 2]]

def test_a_picture_with_nothing_known_of_a_group_is_not_wrong_there():
    df = pd.DataFrame(dict(image=['a'], labels=[['Jeans']])); pred = SPACE.one_hot([['Jeans', 'red']])
    assert not wrong_pictures(df, pred, SPACE).any() and wrong_pictures(df, SPACE.one_hot([['Heels', 'red']]), SPACE).all()

def test_shares_of_one_picture():
    s = np.array([.1, .6, .2, .1, .9, .1, 0, 0, 0]); im = np.zeros((9, 9, 3), np.uint8)
    ax = share_bars(im, s, SPACE, group='kind', truth=['Heels']).axes[1]
    assert [o.get_text() for o in ax.get_yticklabels()] == ['Jeans', '✓ Heels', 'Tshirts', 'Flats']
    assert [o.get_width() for o in ax.patches] == [.6, .2, .1, .1]
    assert [o.get_text() for o in share_bars(im, s, SPACE, k=1).axes[1].get_yticklabels()] == ['red']

# ---- inside the net

NETS = {'efficientnet_lite0': (64, 'blocks.2', (40, 8, 8), 'conv_stem'), 'resnet18': (64, 'layer2.0.conv1', (128, 8, 8), 'conv1'),
        'mobilenet_v2': (64, 'features.3', (24, 16, 16), 'features.0.0'),
        'inception_v3': (139, 'Mixed_5b', (256, 15, 15), 'Conv2d_1a_3x3.conv'), 'convnext_atto': (64, 'stages.1', (80, 8, 8), 'stem.0'),
        'vit_tiny_patch16_224': (224, 'blocks.3', (192, 14, 14), 'patch_embed.proj'),
        'swin_tiny_patch4_window7_224': (224, 'layers.1', (192, 28, 28), 'patch_embed.proj')}
PICTURES = [np.random.default_rng(i).integers(0, 255, (50, 40, 3), np.uint8) for i in range(3)]
nets = {}

@pytest.fixture(params=NETS)
def net(request):
    "Each architecture once, untrained, with three labels."
    name = request.param
    if name not in nets:
        a, size = find_arch(name), NETS[name][0]; torch.manual_seed(0)
        with torch.no_grad(): out = cut_body(a, create_net(a)).eval()(torch.zeros(1, 3, size, size))
        pool = [dict(layer='AdaptiveAvgPool2d'), dict(layer='Flatten')] if out.ndim == 4 else []
        model, _ = build_model(a, [*pool, dict(layer='Linear', in_features=out.shape[1], out_features=3, bias=True)])
        nets[name] = Predictor(model.eval(), TAGS, arch_prep(name, size))
    return name, nets[name]

def test_layers_have_the_names_of_their_library(net):
    name, p = net; layers = named_layers(p.model); a = find_arch(name)
    theirs = dict(create_net(a).named_modules())
    assert set(layers) <= set(theirs) and NETS[name][1] in layers
    assert all(type(layers[k]) is type(theirs[k]) for k in layers if not k.startswith(('head', 'classifier')) and k != 'fc')
    with pytest.raises(CatalogError, match='is unknown; did you mean'): find_layer(p.model, NETS[name][1] + 'x')

def test_activations_are_what_the_layer_gave(net):
    name, p = net; _, layer, shape, _ = NETS[name]; seen = []; x = torch.from_numpy(p.prep(PICTURES[0]))[None]
    with torch.no_grad():
        hook = find_layer(p.model, layer).register_forward_hook(lambda m, i, o: seen.append(o[0].clone())); logits = p.model(x)
        hook.remove()
    want = seen[0][1:].T.reshape(shape) if seen[0].ndim == 2 else seen[0].permute(2, 0, 1) if name.startswith('swin') else seen[0]
    got = activations(p, PICTURES[0], layer)
    assert got.shape == shape and np.allclose(got, want, atol=1e-4)
    with torch.no_grad(): assert torch.allclose(p.model(x), logits, atol=1e-5)    # looking changed nothing

def test_the_first_filters_are_those_that_see_the_picture(net):
    name, p = net; w = find_layer(p.model, NETS[name][3]).weight
    assert torch.equal(first_filters(p.model), w) and w.shape[1] == 3
    assert len([o for o in filter_plot(p.model, n=5).axes if o.images]) == 5

def test_activations_are_drawn(net):
    name, p = net
    fig = activation_plot(p, PICTURES[0], NETS[name][1], n=3)
    assert [bool(o.images) for o in fig.axes] == [True]*4 + [False]*4 and fig.axes[0].get_title(loc='left') == NETS[name][1]

def test_heat_maps_of_several_tags_and_pictures(net):
    pytest.importorskip('captum', reason='needs the extra catalog_tagger[interpret]')
    name, p = net; before = {k: v.clone() for k, v in p.model.state_dict().items()}
    got = heat_maps(p, PICTURES, ['new', 'sale'], bs=4)
    assert [list(o) for o in got] == [['new', 'sale']]*3
    for o in got:
        for h in o.values(): assert h.shape == p.prep.size and h.min() >= 0 and h.max() <= 1 and np.isfinite(h).all()
    assert any(h.max() == 1 and h.std() > .01 for o in got for h in o.values())    # they show something
    alone = heat_maps(p, PICTURES[1:2], ['sale'])[0]['sale']
    assert np.allclose(got[1]['sale'], alone, atol=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in p.model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in p.model.modules()) and all(v.grad is None for v in p.model.parameters())

# ---- heat maps

class Halves(nn.Module):
    "The first label is what is bright on the left, the second what is bright on the right; nothing else counts."
    def __init__(self): super().__init__(); self.conv = nn.Conv2d(3, 2, 1, bias=False); self.conv.weight.data[:] = 1/3
    def forward(self, x): x = self.conv(x); half = x.shape[-1]//2; return torch.cat([x[:, :1, :, :half], x[:, 1:, :, half:]], 1)

@pytest.fixture
def halves():
    pytest.importorskip('captum', reason='needs the extra catalog_tagger[interpret]')
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False)); head[2].weight.data[:] = torch.eye(2)
    space = LabelSpace(['left', 'right'], {}, {}, {})
    return Predictor(nn.Sequential(nn.Sequential(Halves()), head), space, Prep((16, 16), (0., 0., 0.), (1., 1., 1.)))

def spot(x):
    im = np.zeros((16, 16, 3), np.uint8); im[4:8, x:x + 4] = 255
    return im

def test_the_heat_is_where_the_tag_is(halves):
    layer = next(k for k in named_layers(halves.model) if k.endswith('conv'))
    found = heat_maps(halves, [spot(2), spot(10)], ['left', 'right'], layer=layer)
    for heat, x, tag in ((found[0]['left'], 2, 'left'), (found[1]['right'], 10, 'right')):
        row, col = np.unravel_index(heat.argmax(), heat.shape)
        assert 4 <= row < 8 and x <= col < x + 4 and heat[12:].max() == 0

def test_each_picture_may_have_tags_of_its_own(halves):
    found = heat_maps(halves, [spot(2), spot(10), spot(2)], [['left', 'right'], [], ['right']])
    assert [list(o) for o in found] == [['left', 'right'], [], ['right']]
    fig = heat_grid(halves, [spot(2), spot(10), spot(2)], [['left', 'right'], [], ['right']])
    assert [bool(o.images) for o in fig.axes] == [True]*3 + [True, False, False] + [True, True, False]
    with pytest.raises(CatalogError, match="'up' is not a label"): heat_maps(halves, [spot(2)], [['up']])
    with pytest.raises(CatalogError, match='1 lists of tags for 2 pictures'): heat_maps(halves, [spot(2)]*2, [['left']])

def test_looking_leaves_a_learners_gradients_alone(halves):
    halves.model.train(); w = halves.model[1][2].weight; w.grad = torch.ones_like(w)
    heat_maps(halves, [spot(2)], ['left'])
    assert torch.equal(w.grad, torch.ones_like(w)) and w.requires_grad

def test_a_layer_without_maps_is_told(halves):
    class Flat(nn.Module):
        def forward(self, x): return x.mean((2, 3))
    p = Predictor(nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 1), Flat()), nn.Linear(2, 2)), halves.space, halves.prep)
    with pytest.raises(CatalogError, match='has shape .1, 2., which is not a map'): activations(p, spot(2), list(named_layers(p.model))[1])

def test_heat_maps_without_captum_say_what_to_install(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'captum.attr', None)
    with pytest.raises(CatalogError, match=r'pip install "catalog_tagger\[interpret\]"'): heat_maps(None, [], [])
