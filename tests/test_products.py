"Products with several pictures: combined scores against plain loops, the bundle, a small training, tagging, evaluation and search."
import json, shutil
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image
from fastcore.xml import Div, to_xml
from scipy.special import expit, logit

from catalog_tagger.apps.cli import main
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.metrics import bootstrap_interval
from catalog_tagger.core.sealed import seal
from catalog_tagger.report.report import _product_scores
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.index import index_catalog
from catalog_tagger.runs.train import train_run
from catalog_tagger.search.index import SimilarIndex
from catalog_tagger.serve.decide import decide
from catalog_tagger.serve.fit import _valid_products
from catalog_tagger.serve.products import (
    COMBINE, ProductRule, combine_scores, fit_products, nearest_pictures, product_half, product_names, product_truth, rule_losses)
from catalog_tagger.serve.tagger import _ANY_FILES, BundleError, Tagger, save_bundle
from catalog_tagger.testing.demo import demo_shop
from catalog_tagger.testing.tiny import tiny_scores, tiny_space, tiny_tagger

SAMPLE = Path(__file__).parent/'samples'/'v1'/'run'

def drawn(n=300, seed=0):
    "Scores and labels of the pictures of `n` products in a mixed order, and the product of each."
    r = np.random.default_rng(seed); p, targs = tiny_scores(n, seed); at = r.permutation(np.repeat(np.arange(n), r.integers(1, 5, n)))
    noisy = expit(logit(p.clip(1e-6, 1 - 1e-6))[at] + 2*r.normal(size=(len(at), p.shape[1])))
    return noisy, targs[at], [f'P{o}' for o in at]

# -- scores

PLAIN = dict(mean=lambda own: expit(np.mean([logit(o) for o in own], axis=0)), max=lambda own: np.max(own, axis=0),
             first=lambda own: own[0])

@pytest.mark.parametrize('rule', COMBINE)
def test_scores_are_those_of_plain_loops(rule):
    scores, _, product = drawn(40)
    names, got = combine_scores(scores, product, rule)
    assert names == list(dict.fromkeys(product))
    for name, row in zip(names, got):
        own = [s for s, o in zip(scores, product) if o == name]
        np.testing.assert_allclose(row, PLAIN[rule](own), atol=1e-6)   # scores are clipped at 1e-9

def test_a_certain_score_stays_finite():
    assert np.isfinite(combine_scores(np.array([[1., 0.], [0., 0.]]), ['A', 'A'])[1]).all()

def test_pictures_without_a_product_are_products_of_their_own():
    df = pd.DataFrame({'image': ['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg'], 'product': ['', 'P', None, 'P']})
    assert product_names(df) == ['a.jpg', 'P', 'c.jpg', 'P']

def test_the_truth_is_the_union_and_the_first_label_of_a_group():
    space, r = tiny_space(), np.random.default_rng(1)
    targs, product = r.integers(0, 2, (60, 10)), r.integers(0, 20, 60).tolist()
    for cols in space.group_columns.values():    # a picture has at most one label of a group
        for o in targs: one = r.choice([*cols, -1]); o[cols] = 0; o[one if one >= 0 else []] = 1
    truth, clash = product_truth(targs, product, space); disagree = set()
    for name, got in zip(dict.fromkeys(product), truth):
        own = [o for o, p in zip(targs, product) if p == name]; want = np.max(own, axis=0)
        for cols in space.group_columns.values():
            if want[cols].sum() > 1: disagree.add(name); want[cols] = next(o[cols] for o in own if o[cols].any())
        assert got.tolist() == want.tolist()
    assert clash == len(disagree) > 0

def test_the_nearest_picture_of_each_product():
    distance, product = np.random.default_rng(0).random(50), np.random.default_rng(1).integers(0, 9, 50).tolist()
    want = [min((i for i, p in enumerate(product) if p == name), key=distance.__getitem__) for name in dict.fromkeys(product)]
    assert nearest_pictures(distance, product).tolist() == want

# -- the rule and its decision

def test_the_rule_and_the_promise_see_different_products():
    scores, targs, product = drawn(); space, names = tiny_space(), list(dict.fromkeys(product))
    half = product_half(len(names)); first, other = ({o for o, h in zip(names, half) if h == side} for side in (True, False))
    fitted = fit_products(scores, targs, product, space)
    assert not first & other and len(first) == len(names)//2 and fitted.products == len(other)
    def spoil(whose):    # other labels for these products
        own = np.array([o in whose for o in product]); return np.where(own[:, None], np.roll(targs, 7, axis=0), targs)
    # labels of the other half do not change the choice, those of the first half nothing but the choice
    assert fit_products(scores, spoil(other), product, space).losses == fitted.losses == rule_losses(scores, targs, product, space, half)
    spoilt = fit_products(scores, spoil(first), product, space)
    assert spoilt.losses != fitted.losses and (spoilt.rule != fitted.rule or spoilt.decision == fitted.decision)
    assert (product_half(50) == product_half(50)).all() and (product_half(50) != product_half(50, seed=1)).any()

def test_the_first_picture_is_chosen_if_the_others_are_noise():
    scores, targs, product = drawn(); r = np.random.default_rng(2)
    later = pd.Series(product).duplicated().to_numpy()
    assert fit_products(np.where(later[:, None], r.random(scores.shape), scores), targs, product, tiny_space()).rule == 'first'

def test_products_need_two():
    with pytest.raises(CatalogError, match='valid has 1 products'): fit_products(*(o[:3] for o in drawn()[:2]), ['A']*3, tiny_space())

# -- intervals

def test_intervals_draw_whole_products():
    r = np.random.default_rng(0); of = np.repeat(np.arange(60), r.integers(1, 5, 60)); x = r.random(len(of)) + of % 3
    x[::7] = np.nan
    draw, means = np.random.default_rng(9), []
    for _ in range(4000):
        picked = np.concatenate([x[of == o] for o in draw.integers(60, size=60)]); means.append(np.nanmean(picked))
    np.testing.assert_allclose(bootstrap_interval(x, of=of), np.percentile(means, [2.5, 97.5]), atol=.03)
    alone = np.ptp(bootstrap_interval(x)); assert np.ptp(bootstrap_interval(x, of=of)) > 1.2*alone    # pictures of a product are alike
    assert np.isnan(bootstrap_interval([np.nan]*3, of=[0, 1, 1])).all()

# -- the bundle

@pytest.fixture
def shop_tagger():
    tagger, (scores, targs, product) = tiny_tagger(tiny_space()), drawn(60)
    return replace(tagger, products=fit_products(scores, targs, product, tagger.space))

def test_a_bundle_keeps_the_rule(shop_tagger, tmp_path):
    again = Tagger.load(save_bundle(shop_tagger, tmp_path/'b'))
    assert again.products == shop_tagger.products and ProductRule.load(tmp_path/'b'/'products.json') == again.products
    assert 'products: ' in repr(again)
    save_bundle(replace(shop_tagger, products=None), tmp_path/'b')     # nothing of the last bundle stays
    assert Tagger.load(tmp_path/'b').products is None and not (tmp_path/'b'/'products.json').exists()

def test_an_older_bundle_has_no_rule_and_says_so():
    tagger = Tagger.load(SAMPLE/'tagger'); pictures = sorted((SAMPLE.parent/'pictures').iterdir())[:3]
    assert tagger.products is None
    with pytest.warns(UserWarning, match='nothing is promised for products'): got = tagger.predict_products(pictures, ['A', 'B', 'A'])
    scores = tagger.scores(pictures)
    want = decide(np.stack([PLAIN['mean'](scores[[0, 2]].astype(float)), scores[1].astype(float)]), tagger.space, tagger.decision)
    assert list(got) == ['A', 'B']
    for a, b in zip(got.values(), want): assert a == [(t, pytest.approx(s, abs=1e-6)) for t, s in b]

@pytest.mark.parametrize('change, said', [
    (lambda d: d | dict(rule='median'), 'median'), (lambda d: d | dict(more=1), 'is not known'),
    (lambda d: {k: v for k, v in d.items() if k != 'decision'}, 'decision'),
    (lambda d: d | dict(decision=d['decision'] | dict(support=[1, 2])), 'expected 10')])
def test_a_changed_rule_is_refused(shop_tagger, tmp_path, change, said):
    bundle = save_bundle(shop_tagger, tmp_path/'b'); file = bundle/'products.json'
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(BundleError, match='products.json does not match SHA256SUMS'): Tagger.load(bundle)
    seal(bundle, _ANY_FILES)
    with pytest.raises(BundleError, match=said): Tagger.load(bundle)

# -- a run

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "The folder of a small shop and a run on it, of a few pictures a product."
    root = tmp_path_factory.mktemp('products'); demo_shop(root/'shop', n=60, size=32)
    lines = []
    cfg = RunConfig(str(root/'shop'), str(root/'run'), label_columns=('type', 'colour'), size=32, bs=16, freeze_epochs=2, epochs=0, tta=1)
    train_run(cfg, say=lines.append)
    return root, lines

def test_a_run_scores_products_beside_pictures(run):
    root, lines = run; saved = Run.open(root/'run'); p, df = saved.metrics['products'], saved.split
    test = df[df['split'] == 'test']
    n = test['product'].value_counts()
    assert (p['products'], p['pictures'], p['several']) == (len(n), len(test), (n > 1).sum())
    assert df.groupby('product')['split'].nunique().eq(1).all()
    assert p['fitted'] == int((~product_half(df[df['split'] == 'valid']['product'].nunique())).sum())
    for m, o in p['picture'].items(): assert o['score'] == saved.metrics['test'][m]['score']
    for o in p['difference'].values(): assert o['low'] <= o['score'] <= o['high']
    assert sum('per product' in o for o in lines) == 1
    tagger = saved.tagger()
    assert tagger.products.rule == p['rule'] and tagger.products.losses == p['losses'] and 'products' in tagger.facts

def test_product_scores_are_those_of_predict_products(run):
    saved = Run.open(run[0]/'run'); tagger, df = saved.tagger(), saved.pictures('test').drop(columns='text')
    answers = tagger.predict_products(df); labels = df.groupby('product')['labels'].agg(lambda o: {t for own in o for t in own})
    right = pd.Series({o: {t for t, _ in a} == labels[o] for o, a in answers.items()}, dtype=float)
    each = pd.Series([{t for t, _ in a} == set(o) for a, o in zip(tagger.predict(df), df['labels'])], dtype=float)
    p = {o: saved.metrics['products'][o]['exact_match']['score'] for o in ('product', 'picture', 'difference')}
    gain = [right[o] - each[df['product'] == o].mean() for o in answers]
    assert p == {k: pytest.approx(v) for k, v in dict(product=right.mean(), picture=each.mean(), difference=np.mean(gain)).items()}

def test_the_report_has_a_section(run):
    page = to_xml(Div(*_product_scores(Run.open(run[0]/'run'))))
    assert 'per product (95 %)' in page and 'cross-entropy' in page

def test_without_products_nothing_is_said():
    older = Run.open(SAMPLE)
    assert 'products' not in older.metrics and _product_scores(older) == []
    assert _valid_products(pd.DataFrame({'image': ['a', 'b'], 'product': ['P', '']})) is None
    assert _valid_products(pd.DataFrame({'image': ['a', 'b'], 'product': ['P', 'P']})) is None     # no other half to choose a rule on
    assert _valid_products(pd.DataFrame({'image': list('abc'), 'product': ['P', 'P', 'Q']})) == ['P', 'P', 'Q']

def test_a_damaged_part_of_metrics_is_refused(run, tmp_path):
    shutil.copytree(run[0]/'run', tmp_path/'run'); file = tmp_path/'run'/'metrics.json'; d = json.loads(file.read_text())
    file.write_text(json.dumps(d | dict(products=d['products'] | dict(products=-1))))
    with pytest.raises(CatalogError, match='products.products'): Run.open(tmp_path/'run').metrics

# -- tagging

def tag(run, source, out, *more):
    "From pictures alone; tests/test_texts_tag.py has products with texts."
    return main(['tag', str(run[0]/'run'), str(source), '--out', str(out), '--per', 'product', '--no-text', *map(str, more)])

def new_shop(root):
    "New products without labels, of which one has a broken picture, and one no other."
    shop = demo_shop(root, n=8, size=32, seed=5); df = pd.read_csv(shop/'products.csv', dtype=str)
    n = df['sku'].value_counts(); whole, part = n.index[n == 1][0], n.index[n > 1][0]
    bad = df['image'][df['sku'] == whole].iloc[0], df['image'][df['sku'] == part].iloc[-1]
    for o in bad: (shop/'images'/o).write_bytes(b'no picture')
    df[['sku', 'image', 'title']].to_csv(shop/'products.csv', index=False)
    return shop, df, whole, part

def test_products_of_a_table_without_labels_are_tagged(run, tmp_path, capsys):
    shop, df, lost, part = new_shop(tmp_path/'new')
    assert tag(run, shop, tmp_path/'t.csv', '--review', tmp_path/'q.csv') == 0
    out, table, queue = capsys.readouterr().out, pd.read_csv(tmp_path/'t.csv'), pd.read_csv(tmp_path/'q.csv')
    assert list(table)[:2] == ['product', 'rank'] and list(queue)[0] == 'product'
    assert table['product'].unique().tolist() == df['sku'].unique().tolist()    # each product, in order
    assert table['tag'][table['product'] == lost].isna().all() and table['tag'][table['product'] == part].notna().any()
    assert set(table['product'][table['reason'].notna()]) == {lost, part}
    assert 'product: column sku, 8 products' in out and '7 products tagged' in out and '2 pictures could not be used' in out
    assert set(queue['product']) <= set(df['sku']) and queue['product'].is_unique
    tagger, good = Run.open(run[0]/'run').tagger(), df[(df['sku'] == part)][:-1]
    want = tagger.predict_products([str(shop/'images'/o) for o in good['image']], good['sku'].tolist())[part]
    assert table['tag'][(table['product'] == part) & table['tag'].notna()].tolist() == [t for t, _ in want]

def test_the_same_products_as_subfolders(run, tmp_path, capsys):
    shop, df, _, _ = new_shop(tmp_path/'new')
    for o in df.itertuples(): (d := tmp_path/'folders'/o.sku).mkdir(parents=True, exist_ok=True); shutil.copy(shop/'images'/o.image, d)
    for source, out in ((shop, 'a.csv'), (tmp_path/'folders', 'b.csv')):
        assert tag(run, source, tmp_path/out) == 0
    a, b = (pd.read_csv(tmp_path/o).sort_values(['product', 'rank'], ignore_index=True) for o in ('a.csv', 'b.csv'))
    pd.testing.assert_frame_equal(a.drop(columns='reason'), b.drop(columns='reason'), atol=1e-5)
    assert 'a subfolder is a product' in capsys.readouterr().out

@pytest.mark.parametrize('options, said', [
    (['--engine', 'ray'], '--engine local'), (['--product', 'titel'], "did you mean 'title'"),
    (['--per', 'unit'], '--per unit, expected picture or product')])
def test_errors_of_tagging_products(run, tmp_path, capsys, options, said):
    shop, *_ = new_shop(tmp_path/'new')
    assert tag(run, shop, tmp_path/'t.csv', *options) == 2
    assert said in capsys.readouterr().err.replace("'local'", 'local').replace("'unit'", 'unit')

def test_a_column_of_products_is_named(run, tmp_path):
    shop, df, _, _ = new_shop(tmp_path/'new')
    assert tag(run, shop/'products.csv', tmp_path/'t.csv', '--product', 'title') == 0
    assert set(pd.read_csv(tmp_path/'t.csv')['product']) == set(df['title'])

# -- evaluation

def test_evaluation_gives_both_and_leaves_out_whole_products(run, tmp_path, capsys):
    root, _ = run
    assert main(['evaluate', str(root/'run'), str(root/'shop'), '--out', str(tmp_path/'e.json')]) == 0
    d, m = json.loads((tmp_path/'e.json').read_text()), Run.open(root/'run').metrics
    assert d['products']['product'].keys() == m['products']['product'].keys() and d['pictures'] == m['pictures']['test']
    for k, o in m['products']['product'].items(): assert d['products']['product'][k]['score'] == pytest.approx(o['score'], abs=1e-6)
    df = Run.open(root/'run').split; seen = df['product'][df['split'] == 'train'].value_counts().index[0]
    shutil.copytree(root/'shop', tmp_path/'shop'); own = df[df['product'] == seen]['image'].tolist()
    for o in own[1:]:    # other pictures of a product that was trained on
        Image.open(tmp_path/'shop'/o).rotate(3).save(tmp_path/'shop'/o)
    main(['evaluate', str(root/'run'), str(tmp_path/'shop'), '--out', str(tmp_path/'e.json')])
    assert len(own) > 1 and json.loads((tmp_path/'e.json').read_text())['left_out'] == d['left_out']

# -- search

@pytest.fixture(scope='module')
def indexed(run):
    "An index of the shop, of whose products a third has lost its labels."
    root, _ = run; shutil.copytree(root/'shop', root/'half'); file = root/'half'/'products.csv'
    df = pd.read_csv(file, dtype=str, keep_default_na=False); bare = df['sku'].isin(df['sku'].unique()[::3])
    df.loc[bare, ['type', 'colour', 'tags']] = ''; df.to_csv(file, index=False)
    lines = []
    index_catalog(root/'run', root/'half', root/'index', say=lines.append)
    return SimilarIndex.load(root/'index'), df.assign(bare=bare), root/'half'/'images', lines

def test_products_without_labels_are_in_the_index(indexed):
    index, df, _, lines = indexed; table = index.table
    assert len(index) == len(df) and [Path(o).name for o in table['image']] == df['image'].tolist() and len(index.rejected) == 0
    assert [not o for o in table['labels']] == df['bare'].tolist()
    assert any(f'{df["bare"].sum()} of {len(df)} pictures have no label' in o for o in lines)

@pytest.mark.parametrize('per', ['picture', 'product'])
def test_no_answer_is_of_the_asking_product(indexed, tmp_path, monkeypatch, per):
    index, df, images, _ = indexed
    sku = df['sku'].value_counts().index[0]; image = df['image'][df['sku'] == sku].iloc[0]
    monkeypatch.chdir(images); copy = shutil.copy(images/image, tmp_path/'other.jpg')
    asked = [str(images/image), images/image, image, f'../images/{image}', copy, Path(copy).read_bytes(), image.removesuffix('.jpg'), sku]
    found = [index.search(o, k=len(df), per=per) for o in asked]
    for o in found:
        assert sku not in set(o['product']) and o['score'].is_monotonic_decreasing
        assert len(o) == (df['sku'].nunique() - 1 if per == 'product' else (df['sku'] != sku).sum())
    for o in found[1:7]: assert o['image'].tolist() == found[0]['image'].tolist()     # one picture asks, whatever it is called
    if per == 'product': assert found[0]['product'].is_unique
    short = index.search(asked[0], k=4, per=per)
    assert short['image'].tolist() == found[0]['image'][:4].tolist()

def test_the_best_picture_answers_for_its_product(indexed):
    index = indexed[0]; every = index.search(index.vectors[3], k=len(index)); best = every.drop_duplicates('product')
    assert index.search(index.vectors[3], k=len(index), per='product')['image'].tolist() == best['image'].tolist()

def test_a_product_is_asked_by_all_its_pictures(indexed):
    index, df, *_ = indexed; sku = df['sku'].value_counts().index[0]; own = (index.table['product'] == sku).to_numpy()
    mean = index.vectors[own].mean(0); cosine = index.vectors @ (mean/np.linalg.norm(mean)); cosine[own] = -1
    assert index.search(sku, k=1)['image'][0] == index.table['image'][cosine.argmax()]

def test_a_name_of_several_products_is_refused(indexed):
    index = indexed[0]; v = index.vectors[:3]
    several = SimilarIndex.build(v, pd.DataFrame({'image': ['a/1.jpg', 'b/1.jpg', 'c/2.jpg'], 'id': ['7', '8', '8']}))
    for name in ('1', '8'):
        with pytest.raises(CatalogError, match=f"'{name}' names 2 pictures of several products: .*1.jpg"): several.search(name)
    assert several.search('7', k=1)['image'][0] != 'a/1.jpg'
    with pytest.raises(CatalogError, match='neither an id of this index nor a picture file'): several.search('9')

def test_similar_per_product_on_the_command_line(indexed, run, capsys, tmp_path):
    index, df, *_ = indexed; sku = df['sku'][0]
    assert main(['similar', str(run[0]/'index'), sku, '--k', '5', '--per', 'product', '--out', str(tmp_path/'s.csv')]) == 0
    got = pd.read_csv(tmp_path/'s.csv')
    assert len(got) == 5 and got['product'].is_unique and sku not in set(got['product']) and 'digest' not in got
    assert main(['similar', str(run[0]/'index'), sku, '--k', '2', '--per', 'product']) == 0
    assert got['product'][0] in capsys.readouterr().out

def test_an_index_by_a_backbone_needs_no_labels(tmp_path):
    shop, df, *_ = new_shop(tmp_path/'new')
    index = index_catalog('efficientnet_lite0', shop, tmp_path/'index', size=32, say=lambda o: None)
    assert len(index) == len(df) - 2 and len(index.rejected) == 2 and set(index.table['product']) < set(df['sku'])
