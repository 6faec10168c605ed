"Plots: to be read on white and on black, at 10 inches with 141 labels, and nothing left behind."
import random
from collections import namedtuple
from functools import lru_cache
from itertools import combinations

import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from catalog_tagger.core.files import CatalogError
from catalog_tagger.report.data_plots import *
from catalog_tagger.report.interpret import *
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.report.plots import *
from catalog_tagger.report.plots import _caption, _neighbour_caption, _thin_out

r = np.random.default_rng(0)
WORDS = ['Loungewear and Nightwear', 'Perfume and Body Mist', 'masterCategory=Accessories', 'Tshirts', 'subCategory=Flip Flops']
NAMES = [f'{WORDS[i % 5]} {i}' for i in range(141)]
SPACE = LabelSpace(NAMES, {'type': NAMES}, {}, {t: dict(label=t, count=500 - 3*i, rule='kept') for i, t in enumerate(NAMES)})
IMAGES = [np.full((80, 60, 3), i*2 % 255, np.uint8) for i in range(423)]
KIND = np.arange(423) % 141
DF = pd.DataFrame(dict(image=IMAGES, tags=[[NAMES[i]] for i in KIND], labels=[[NAMES[i]] for i in KIND], width=r.integers(50, 500, 423),
                       height=r.integers(50, 500, 423)))
SCORES = np.clip(np.eye(141)[KIND]*.5 + r.random((423, 141))*.6, 0, 1)
ANSWERS = [[(NAMES[i], .912), (NAMES[(i + 7) % 141], .31)] for i in KIND]
PAIRS = [[NAMES[i], NAMES[j]] for i, j in r.integers(0, 141, (500, 2)) if i != j]
HISTORY = pd.DataFrame(dict(stage=['frozen']*3 + ['unfrozen']*4, epoch=range(1, 8), pictures=[2697*i for i in range(1, 8)],
                            train_loss=1/np.arange(1, 8), valid_loss=1/np.arange(1, 8) + .1, recall=np.arange(7)/7))
RELIABLE = pd.DataFrame(dict(score=[.1, .5, .9], right=[.2, .5, .8], low=[.1, .4, .7], high=[.3, .6, .9]))
COVER = pd.DataFrame(dict(share=[.2, .6, 1.], n=[20, 60, 100], precision=[1, .97, .9], low=[.9, .95, .85], holds=[False, True, False]))

PLOTS = dict(
    captioned_grid=lambda: captioned_grid(IMAGES[:12], [f'{NAMES[i]}\n{NAMES[i + 1]}' for i in range(12)]),
    picture_grid=lambda: picture_grid(IMAGES[:12], ANSWERS[:12], [[NAMES[i], NAMES[i + 2]] for i in range(12)]),
    neighbour_sheet=lambda: neighbour_sheet(IMAGES[:3], [IMAGES[:6]]*3, [[.9, .8, .7, .6, .5, .4]]*3, PAIRS[:3], [PAIRS[:6]]*3),
    embedding_map=lambda: embedding_map(r.random((423, 2)), IMAGES, [NAMES[i] for i in KIND]),
    bar_columns=lambda: bar_columns(pd.DataFrame(dict(found=500 - np.arange(141), missed=7), index=NAMES), 'title', xlabel='pictures'),
    matrix_plot=lambda: matrix_plot(pd.DataFrame(r.random((45, 45)), NAMES[:45], NAMES[:45]), 'share', rows='true', columns='said',
                                    title='title'),
    small_matrix=lambda: matrix_plot(pd.DataFrame(r.random((7, 7)), NAMES[:7], NAMES[:7]), 'share', rows='true', columns='said'),
    history_plot=lambda: history_plot(HISTORY), history_over_pictures=lambda: history_plot(HISTORY, over='pictures'),
    rate_plot=lambda: rate_plot(pd.DataFrame(dict(lr=[1e-4, 1e-3, 1e-2], loss=[.7, .5, .9])), 1e-3),
    reliability_plot=lambda: reliability_plot(RELIABLE, RELIABLE), coverage_plot=lambda: coverage_plot(COVER),
    label_bars=lambda: label_bars(SPACE.provenance, dict(zip(NAMES, range(141, 0, -1)))),
    label_count_plot=lambda: label_count_plot(DF),
    cooccurrence_plot=lambda: cooccurrence_plot(cooccurrence(PAIRS)),
    size_plot=lambda: size_plot(DF), labelled_plot=lambda: labelled_plot(DF[:300], DF[300:]),
    confusion_plot=lambda: confusion_plot(DF, SCORES, SPACE, 'type'),
    confused_grid=lambda: confused_grid(confused_pairs(DF, SCORES, SPACE)),
    label_confusion_plot=lambda: label_confusion_plot(label_confusion(DF, SCORES > .55, SPACE)),
    loss_grid=lambda: loss_grid(top_losses(DF, SCORES, SPACE)),
    error_plot=lambda: error_plot(KIND % 7 == 0, pd.DataFrame(dict(brightness=r.random(423), labels=KIND % 3))),
    share_bars=lambda: share_bars(IMAGES[0], SCORES[0], SPACE, truth=[NAMES[0]]))

# where names are packed closely
ONE_ROW = ('label_bars', 'bar_columns', 'label_confusion_plot', 'matrix_plot', 'small_matrix', 'cooccurrence_plot', 'confusion_plot',
           'share_bars')

@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close('all')

Written = namedtuple('Written', 'text box color size in_cell')

@lru_cache(maxsize=None)
def drawn(name, style='default'):
    "What is written in a plot, after a drawing: the texts, the box and the ground of the figure."
    with plt.style.context(style): fig = PLOTS[name]()
    fig.canvas.draw()
    in_cells = {o for ax in fig.axes if ax.images for o in ax.texts}
    texts = [o for o in fig.findobj(Text) if o.get_visible() and o.get_text().strip() and shown(o, fig)]
    return [Written(o.get_text(), o.get_window_extent(), o.get_color(), o.get_fontsize(), o in in_cells)
            for o in texts], fig.bbox, fig.get_facecolor()

def shown(o, fig):
    "Ticks outside the axis and texts of axes that are switched off are there but not drawn."
    for ax in fig.axes:
        for axis, low_high in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for t in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if o in (t.label1, t.label2): return ax.axison and low_high[0] <= t.get_loc() <= low_high[1] and axis.get_visible()
            if o in (axis.label, axis.offsetText): return ax.axison
    return True

def luminance(c):
    c = np.array(to_rgb(c)); c = np.where(c <= .03928, c/12.92, ((c + .055)/1.055)**2.4)
    return c @ [.2126, .7152, .0722]

def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + .05)/(low + .05)

@pytest.mark.parametrize('name', PLOTS)
@pytest.mark.parametrize('style, ground', [('default', 'white'), ('dark_background', 'black')])
def test_letters_are_read_on_white_and_on_black(name, style, ground):
    written, _, face = drawn(name, style)
    assert face[3] == 0    # the page's ground shines through
    for o in written: assert o.in_cell or contrast(o.color, ground) >= 4.5, (o.text, o.color)

def test_numbers_in_cells_are_read_on_their_colour():
    table = pd.DataFrame(np.linspace(0, 1, 49).reshape(7, 7), NAMES[:7], NAMES[:7])
    ax = matrix_plot(table, 'share').axes[0]; im = ax.images[0]
    assert len(ax.texts) == 48
    for o in ax.texts:
        j, i = map(int, o.get_position())
        assert contrast(o.get_color(), im.cmap(im.norm(table.iloc[i, j]))[:3]) >= 4.5, o.get_text()

@pytest.mark.parametrize('name', PLOTS)
def test_texts_do_not_overlap_and_stand_inside_ten_inches(name):
    written, page, _ = drawn(name)
    assert page.width <= 1051    # at 100 dots an inch
    for t, b, *_ in written: assert b.x0 >= -2 and b.y0 >= -2 and b.x1 <= page.x1 + 2 and b.y1 <= page.y1 + 2, t
    low, high = (np.array([getattr(o.box, c) for o in written]) for c in ('min', 'max'))
    common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)    # pixels that each two have in common, across and up
    over = [(written[i].text, written[j].text) for i, j in np.argwhere((common > 1).all(2)) if i < j]
    assert not over

@pytest.mark.parametrize('name', ONE_ROW)
def test_letters_are_large_enough(name):
    assert min(o.size for o in drawn(name)[0]) >= 6

@pytest.mark.parametrize('name', ('label_bars', 'bar_columns', 'label_confusion_plot'))
def test_all_141_labels_are_named(name):
    written = ' '.join(o.text.rstrip('…') for o in drawn(name)[0])
    assert all(o[:20] in written for o in NAMES)

@pytest.mark.parametrize('name', PLOTS)
def test_one_figure_and_no_setting_is_left(name):
    before = dict(plt.rcParams); fig = PLOTS[name]()
    assert plt.get_fignums() == [fig.number] and dict(plt.rcParams) == before

def test_a_saved_figure_is_closed(tmp_path):
    save_figure(PLOTS['share_bars'](), tmp_path/'a.png')
    assert plt.get_fignums() == [] and [o.name for o in tmp_path.iterdir()] == ['a.png']
    assert Image.open(tmp_path/'a.png').convert('RGBA').getpixel((1, 1))[3] == 0

# ---- what they say

def test_right_and_wrong_differ_by_a_sign():
    text = picture_grid(IMAGES[:1], [[('a', .9), ('b', .1)]], [['a', 'c']]).axes[0].get_title(loc='left')
    assert text.split('\n') == ['✓ a  0.90', '✗ b  0.10', '– c']

@pytest.mark.parametrize('line', ['articleType=Perfume and Body Mist', 'x'*90, 'a b', ' lead', 'one=two=three four'*4])
def test_a_broken_line_loses_no_letter(line):
    broken = captioned_grid(IMAGES[:1], [line], ncols=1, side=1.).axes[0].get_title(loc='left').split('\n')
    assert ''.join(broken).replace(' ', '') == line.replace(' ', '') and max(map(len, broken)) <= 16

def test_history_over_pictures_has_its_points_where_they_belong():
    a, b = history_plot(HISTORY).axes[0], history_plot(HISTORY, over='pictures').axes[0]
    assert a.lines[0].get_xydata()[:, 1].tolist() == b.lines[0].get_xydata()[:, 1].tolist() == HISTORY['train_loss'].tolist()
    assert a.lines[0].get_xdata().tolist() == HISTORY['epoch'].tolist() and b.lines[0].get_xdata().tolist() == HISTORY['pictures'].tolist()
    assert [o.get_xdata()[0] for o in (a.lines[2], b.lines[2])] == [3.5, 3.5*2697]
    assert history_plot(HISTORY[:1]).axes[0].get_xlim() == (.5, 1.5)

def test_cooccurrence_against_a_plain_loop():
    table = cooccurrence(PAIRS)
    for a, b in r.choice(table.index, (30, 2)): assert table.loc[a, b] == sum(a in o and b in o for o in PAIRS)
    assert np.diag(table).tolist() == sorted(np.diag(table), reverse=True)
    shown = cooccurrence_plot(table, n=9).axes[0].images[0].get_array()
    assert np.allclose(shown[0, 1], table.iloc[0, 1]/table.iloc[0, 0]) and np.isnan(np.ma.filled(shown, np.nan).diagonal()).all()
    assert cooccurrence([]).shape == (0, 0)

def test_unusual_sizes_are_outside_the_fences():
    side = np.r_[r.normal(100, 3, 200), 300, 20]
    df = pd.DataFrame(dict(image='x', width=np.r_[side, 66, 150], height=np.r_[side, 150, 66]))
    assert size_outliers(df).tolist()[-4:] == ['large', 'small', 'tall', 'wide'] and (size_outliers(df)[:200] == '').sum() > 190
    assert (size_outliers(df, reach=100)[:202] == '').all()

def test_pictures_without_a_size_or_a_label_are_told():
    with pytest.raises(CatalogError, match="no column 'width'"): size_plot(DF.drop(columns='width'))
    with pytest.raises(CatalogError, match='neither tags nor labels'): label_count_plot(DF[['image']])

def test_thumbnails_do_not_overlap_and_keep_their_shape():
    ax = embedding_map(r.random((300, 2)), IMAGES, most=50).axes[0]
    boxes = [o.get_extent() for o in ax.images]
    assert 10 < len(boxes) <= 50
    for a, b in combinations(boxes, 2): assert min(a[1], b[1]) <= max(a[0], b[0]) + 1e-9 or min(a[3], b[3]) <= max(a[2], b[2]) + 1e-9
    assert all(np.isclose((a[1] - a[0])/(a[3] - a[2]), 60/80) for a in boxes) and ax.get_aspect() == 1

def test_a_map_of_points_in_one_place_is_drawn():
    embedding_map(np.zeros((5, 2)), IMAGES, ['a']*5).canvas.draw()
    embedding_map(r.random((5, 2))).canvas.draw()

def test_directions_of_a_map():
    x = np.c_[np.linspace(1, 9, 50), np.ones(50), r.random(50)*1e-3]
    got = flat_map(x)[:, 0]
    assert (np.diff(got) > 0).all() or (np.diff(got) < 0).all()
    for wrong in (np.zeros(5), np.zeros((2, 4)), np.full((5, 3), np.nan)):
        with pytest.raises(CatalogError, match='at least 3 pictures'): flat_map(wrong)

def test_umap_where_it_is_missing(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'umap', None)
    with pytest.raises(CatalogError, match='pip install umap-learn'): flat_map(r.random((9, 3)), method='umap')

# ---- transforms

@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    from catalog_tagger.train.data import catalog_dls
    from catalog_tagger.catalog.images import Prep
    root = tmp_path_factory.mktemp('pictures'); rows = []
    for i in range(8):
        Image.fromarray(np.full((40, 30, 3), (250, 20*i, 5), np.uint8)).save(root/f'{i}.png')
        rows.append(dict(image=str(root/f'{i}.png'), labels=['ab'[i % 2]], split='train' if i < 6 else 'valid'))
    space = LabelSpace(['a', 'b'], {'kind': ['a', 'b']}, {}, {})
    make = lambda **kw: catalog_dls(pd.DataFrame(rows), space, Prep((32, 32), (.485, .456, .406), (.229, .224, .225)), bs=3, **kw)
    return dict(plain=make(batch_tfms=[]), cached=make(batch_tfms=[], cache=root/'cache'), usual=make())

@pytest.mark.parametrize('which', ['plain', 'cached'])
def test_a_transformed_picture_is_shown_denormalised(dls, which):
    got = transformed(dls[which], 4, 5)
    assert got.shape == (5, 32, 32, 3) and got.dtype == np.uint8 and abs(got.astype(int) - [250, 80, 5]).max() <= 1

def test_looking_at_transforms_changes_no_training(dls):
    import torch
    state, torch_state, own = random.getstate(), torch.get_rng_state(), dls['usual'].train.rng.getstate()
    fig = transform_grid(dls['usual'], 1, 5)
    assert len([o for o in fig.axes if o.images]) == 6 and fig.axes[0].get_title(loc='left') == 'original'
    assert random.getstate() == state and torch.equal(torch.get_rng_state(), torch_state) and dls['usual'].train.rng.getstate() == own
    assert (transformed(dls['usual'], 1) == transformed(dls['usual'], 1)).all()
    assert len(np.unique(transformed(dls['usual'], 1).reshape(11, -1), axis=0)) > 1
    with pytest.raises(CatalogError, match='expected a training picture from 0 to 5'): transformed(dls['usual'], 6)

@pytest.mark.parametrize('odd', [r'$\frac$', '$x_$', '<b>', '€ 5'])
def test_a_label_is_text_and_no_formula(odd):
    table = pd.DataFrame(r.random((2, 2)), [odd, 'b'], [odd, 'b'])
    for fig in (captioned_grid(IMAGES[:1], [odd]), matrix_plot(table, 'share', title=odd), bar_columns(table[['b']], odd)):
        fig.canvas.draw()
        assert any(odd in o.get_text() for o in fig.findobj(Text))
        plt.close(fig)

# ---- captions and places

@pytest.mark.parametrize('answer, truth, caption', [
    ([('Shoes', .9), ('Red', .4)], ['Shoes', 'Blue'], '✓ Shoes  0.90\n✗ Red  0.40\n– Blue'),
    ([('Shoes', .9)], None, 'Shoes  0.90'), (None, ['Shoes', 'Blue'], 'Shoes\nBlue')])
def test_the_caption_of_a_picture(answer, truth, caption): assert _caption(answer, truth) == caption

def test_the_caption_of_a_neighbour(): assert _neighbour_caption(.913, ['Shoes', 'Red'], ['Shoes', 'Blue']) == '0.91\n✓ Shoes\n✗ Red'

def test_pictures_of_a_map_do_not_overlap():
    assert _thin_out(np.array([[0, 0], [.04, 0], [.04, .06], [.2, 0]]), .05, 9) == [0, 2, 3]
