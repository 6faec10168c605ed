"What splits and duplicates promise, against plain loops on random tables."
import json
from pathlib import Path

import numpy as np, pandas as pd, pytest
from iterstrat.ml_stratifiers import IterativeStratification
from PIL import Image

from catalog_tagger.catalog import split
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.process import rng
from catalog_tagger.catalog.images import audit_images
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.catalog.split import (cross_folds, join_units, near_duplicates, report_shares, split_audit, split_by, split_catalog,
                                          split_summary)
from catalog_tagger.core.config import RunConfig

def catalog(seed, n=150):
    "Products of one to three pictures, some pictures twice, a dozen tags from common to rare, rows of several years."
    gen, p = rng(seed, 'catalog'), .6/np.arange(1, 13)**1.4
    product = np.repeat(np.arange(n), gen.integers(1, 4, n))
    tags = [[f't{j:02}' for j in np.flatnonzero(gen.random(12) < p)] for _ in range(n)]
    pixels = gen.integers(8*n, size=len(product)).astype(str)
    return pd.DataFrame({'image': [f'{i}.jpg' for i in range(len(product))], 'tags': [tags[o] for o in product], 'pixels': pixels,
                         'unit': [f'p{o}' if gen.random() < .9 else '' for o in product], 'year': gen.integers(2010, 2018, len(product))})

def sets(keys):
    "The rows of each key."
    res = {}
    for i, o in enumerate(keys): res.setdefault(o, set()).add(i)
    return {frozenset(o) for o in res.values()}

def joined(links):
    "The rows of each connected part, by joining until nothing changes."
    parts = [set(o) for o in links]
    while any(a is not b and a & b for a in parts for b in parts):
        a, b = next((a, b) for a in parts for b in parts if a is not b and a & b)
        a |= b; parts = [o for o in parts if o is not b]
    return {frozenset(o) for o in parts}

def missing(df, column, n):
    "`(tag, fold)` of each tag of at least `n` groups that a fold lacks."
    folds = set(df[column])
    for tag in {t for ts in df['tags'] for t in ts}:
        rows = df[[tag in o for o in df['tags']]]
        if rows['unit'].nunique() >= n: yield from ((tag, f) for f in folds - set(rows[column]))

# Duplicates

@pytest.mark.parametrize('seed', range(6))
def test_groups_are_what_any_column_joins(seed):
    df = catalog(seed, 25).assign(pixels=lambda o: o['pixels'].str[:1])
    df.loc[::7, 'image'] = 'same.jpg'
    links = [{i} for i in range(len(df))] + [o for c in ('image', 'pixels') for o in sets(df[c])]
    links += [o for o in sets(df['unit']) if df['unit'][min(o)] != '']
    assert sets(join_units(df)['unit']) == joined(links)
    assert list(join_units(df)) == list(df)

def test_nothing_to_group():
    df = catalog(0, 10)[['image']]
    assert join_units(df)['unit'].nunique() == len(df)
    assert sets(join_units(df, near_duplicates(df, .1, embs=np.eye(len(df))))['unit']) == sets(df['image'])

@pytest.mark.parametrize('distance', [0, 2, 4, 7])
def test_near_pairs_by_hash(distance, monkeypatch):
    gen = rng(distance, 'bits')
    bits = (gen.random((8, 64)) < .5)[gen.integers(8, size=90)] ^ (gen.random((90, 64)) < .04)
    monkeypatch.setattr(split, 'hash_images', lambda df: bits[df.index])
    df = pd.DataFrame({'image': [f'{i}' for i in range(90)]})
    want = {(f'{i}', f'{j}'): d for j in range(90) for i in range(j) if (d := (bits[i] != bits[j]).sum()) <= distance}
    pairs = near_duplicates(df, distance)
    assert dict(zip(zip(pairs['image_a'], pairs['image_b']), pairs['distance'])) == want
    assert pairs['distance'].is_monotonic_increasing

def test_near_pairs_by_embedding():
    gen = rng(0, 'embs')
    embs = gen.normal(size=(6, 5))[gen.integers(6, size=60)] + gen.normal(size=(60, 5))*.05
    df = pd.DataFrame({'image': [f'{i}' for i in range(60)], 'pixels': [f'{i//2}' for i in range(60)]})
    unit = embs/np.linalg.norm(embs, axis=1, keepdims=True)
    want = {(f'{i}', f'{j}') for j in range(0, 60, 2) for i in range(0, j, 2) if 1 - unit[i] @ unit[j] <= .01}
    pairs = near_duplicates(df, .01, embs=embs)
    assert want and set(zip(pairs['image_a'], pairs['image_b'])) == want

@pytest.mark.parametrize('seed', range(6))
def test_near_pairs_never_chain(seed):
    xy = rng(seed, 'stars').normal(size=(80, 3))
    df = pd.DataFrame({'image': [f'{i}' for i in range(80)]})
    pairs = near_duplicates(df, .05, embs=xy)
    near = {frozenset(o) for o in zip(pairs['image_a'], pairs['image_b'])}
    groups = sets(join_units(df, pairs)['unit'])
    for rows in groups: assert any(all(i == j or {f'{i}', f'{j}'} in near for j in rows) for i in rows), 'one of them is near all others'
    alone = {f'{i}' for o in groups if len(o) == 1 for i in o}
    assert not any(o <= alone for o in near) and max(map(len, groups)) > 2

def test_saved_anew_is_the_same_picture(tmp_path):
    im = Image.fromarray(rng(0, 'picture').integers(255, size=(40, 30, 3), dtype=np.uint8))
    exif = Image.Exif(); exif[0x0112] = 6
    im.save(tmp_path/'a.png'); im.save(tmp_path/'b.bmp'); im.save(tmp_path/'c.png', compress_level=0)
    im.save(tmp_path/'d.webp', lossless=True, exif=b'')
    im.transpose(Image.Transpose.ROTATE_90).save(tmp_path/'e.png', exif=exif)
    Image.frombytes('RGB', (40, 30), im.tobytes()).save(tmp_path/'f.png')     # the same bytes in another shape are another picture
    df, _ = audit_images(pd.DataFrame({'image': sorted(str(o) for o in tmp_path.iterdir())}))
    assert df['digest'].nunique() == 6
    assert sets(join_units(df)['unit']) == {frozenset(range(5)), frozenset({5})}

# Folds

@pytest.mark.parametrize('n', [2, 3, 5, 10])
@pytest.mark.parametrize('seed', range(4))
def test_cross_folds(seed, n):
    df = join_units(catalog(seed))
    res = cross_folds(df, n, seed=seed)
    assert set(res['fold']) == set(range(n)) and res.drop(columns='fold').equals(df)
    assert all(len(set(res['fold'][list(o)])) == 1 for c in ('unit', 'pixels') for o in sets(res[c]))
    assert list(missing(res, 'fold', n)) == []
    pictures = res['fold'].value_counts()
    assert pictures.max() - pictures.min() <= df['unit'].value_counts().max()
    assert cross_folds(df, n, seed=seed).equals(res) and not cross_folds(df, n, seed=seed + 1).equals(res)

STORED = json.loads((Path(__file__).parent/'samples'/'folds.json').read_text())   # made when units were counted, not pictures

@pytest.mark.parametrize('seed', range(4))
def test_folds_of_single_pictures_stay_as_they_were(seed):
    gen, p = rng(seed, 'folds'), .7/np.arange(1, 31)
    df = pd.DataFrame({'image': [f'{i}.jpg' for i in range(400)],
                       'tags': [[f't{j}' for j in np.flatnonzero(gen.random(30) < p)] for _ in range(400)]})
    assert ''.join(o[1] for o in split_catalog(df, seed=seed)[0]['split']) == STORED[f'split{seed}']
    assert ''.join(map(str, cross_folds(df, 5, seed=seed)['fold'])) == STORED[f'cross{seed}']

def products(sizes, seed=0, tags=12):
    "Products of `sizes` pictures with a few of `tags`, each picture its own."
    gen, p = rng(seed, 'products'), .6/np.arange(1, tags + 1)
    of = np.repeat(np.arange(len(sizes)), sizes)
    return pd.DataFrame({'image': [f'{i}.jpg' for i in range(len(of))], 'unit': [f'p{o}' for o in of],
                         'tags': [[f't{j}' for j in np.flatnonzero(gen.random(tags) < p)] for _ in of]})

def best_deviation(sizes):
    "The smallest possible largest deviation from 60, 20, 20 %, in points, over all ways to deal out units of `sizes`."
    total, reached = sum(sizes), {(0, 0)}
    for s in sizes: reached = {o for a, b in reached for o in ((a, b), (a + s, b), (a, b + s))}
    return min(max(abs(a - .2*total), abs(b - .2*total), abs(a + b - .4*total)) for a, b in reached)/total*100

def deviation(folds, shares):
    have = pd.Series(folds).value_counts(normalize=True)
    return max(abs(have.get(f, 0) - s) for f, s in shares.items())*100

@pytest.mark.parametrize('seed', range(8))
def test_shares_are_of_pictures(seed):
    "Of few products as near as any way to deal them out, but for a point; of many exactly, or nearly."
    gen = rng(seed, 'sizes'); few = seed < 4
    sizes = gen.integers(1, 30 if few else 201, 10 if few else 10*seed).tolist()
    df = products(sizes, seed, tags=3 if few else 12); res, audit = split_catalog(df, seed=seed)
    assert deviation(res['split'], dict(train=.6, valid=.2, test=.2)) <= (best_deviation(sizes) + 1 if few else .3)
    assert res.groupby('unit')['split'].nunique().max() == 1 and list(missing(res, 'split', 3)) == []
    if not few: assert deviation(cross_folds(df, 4, seed=seed)['fold'], dict.fromkeys(range(4), .25)) <= .3

@pytest.mark.parametrize('seed', range(4))
def test_eleven_products_fill_three_folds(seed):
    sizes = [30, 14, 10, 8, 6, 6, 6, 5, 5, 5, 5]     # 30 + 14 + 10 + 6, 8 + 6 + 6, 5 + 5 + 5 + 5
    df = products(sizes).assign(tags=[[('red', 'blue', 'green')[i % 3]] for i in range(100)])
    assert deviation(split_catalog(df, seed=seed)[0]['split'], dict(train=.6, valid=.2, test=.2)) <= 1.0001     # 60, 21, 19

def test_what_units_cost_is_told():
    df = split_catalog(products([200] + [1]*100).assign(product=lambda o: o['unit']))[0]
    assert report_shares(df) == [
        'train, valid, test have 66.7, 16.7, 16.7 % of the pictures, 60, 20, 20 % were asked for: a unit stays in one fold, '
        "and a tag of 3 units or more is in each; the largest unit, product 'p0', has 200 of 300 pictures"]
    assert report_shares(df, (2/3, 1/6, 1/6)) == [] and report_shares(split_catalog(products([1]*100))[0]) == []
    assert 'that of 0.jpg, has 200 of 300' in report_shares(df.drop(columns='product'))[0]

@pytest.mark.parametrize('seed', range(4))
def test_split_keeps_duplicates_on_one_side(seed):
    df = join_units(catalog(seed))
    for res, audit in [split_catalog(df, seed=seed), split_by(df, 'year', test_from=2017), split_by(df, 'year', test=[2011], valid='2013')]:
        assert all(len(set(res['split'][list(o)])) == 1 for c in ('unit', 'pixels') for o in sets(res[c]))
        summary = split_summary(res, audit)
        assert (summary['units_across'], summary['duplicates_across']) == (0, 0)
    assert list(missing(split_catalog(df, seed=seed)[0], 'split', 3)) == []

@pytest.mark.parametrize('kw',
                         [dict(test_from=2016), dict(test=[2016, 2017]), dict(test=2016, valid=2015),
                          dict(test=['2016'], valid=[2010, 2011])])
def test_split_by_takes_what_is_named_and_its_groups(kw):
    df = catalog(1)
    res, audit = split_by(df, 'year', **kw)
    named = [str(o) for o in np.atleast_1d(kw.get('test', [2016, 2017]))]
    def with_group(rows):
        groups = {df['unit'][i] for i in rows} - {''}
        return rows | {i for i in df.index if df['unit'][i] in groups}
    test = with_group({i for i, o in enumerate(df['year']) if str(o) in named})
    assert set(res.index[res['split'] == 'test']) == test
    if 'valid' in kw:
        valid = with_group({i for i, o in enumerate(df['year']) if o in np.atleast_1d(kw['valid'])}) - test
        assert set(res.index[res['split'] == 'valid']) == valid
    else: assert .15 < (res['split'] == 'valid').sum()/(res['split'] != 'test').sum() < .35
    assert split_audit(res)['train'].tolist() == audit['train'].tolist()

@pytest.mark.parametrize('years', [
    [2014., np.nan, 2015.], ['2014', '', '2015'], [2014, None, 2015], pd.to_datetime(['2014-01-01', None, '2015-01-01'])])
def test_a_row_without_the_column_stays_in_train(years):
    df = catalog(0, 60).iloc[:90].assign(year=list(years)*30, unit='')
    res, _ = split_by(df, 'year', test_from='2015') if isinstance(years, pd.DatetimeIndex) else split_by(df, 'year', test_from=2015)
    assert (res['split'] == 'test').tolist() == [False, False, True]*30

@pytest.mark.parametrize('seed', range(4))
def test_summary_and_audit_by_plain_loops(seed):
    df = catalog(seed)
    df = df.assign(split=rng(seed, 'folds').choice(['train', 'valid', 'test'], len(df), p=[.8, .15, .05]))
    audit = split_audit(df)
    summary = split_summary(df, audit)
    assert json.loads(json.dumps(summary)) == summary
    folds = {f: set(df.index[df['split'] == f]) for f in ('train', 'valid', 'test')}
    tags = {t: {i for i, o in enumerate(df['tags']) if t in o} for o in df['tags'] for t in o}
    assert summary['pictures'] == {f: len(o) for f, o in folds.items()}
    assert summary['tags_in_every_fold'] == sum(all(o & f for f in folds.values()) for o in tags.values())
    assert summary['tags_that_lack_one'] == len(tags) - summary['tags_in_every_fold']
    assert summary['duplicates_across'] == sum(len(set(df['split'][list(o)])) > 1 for o in sets(df['pixels'])) > 0
    assert summary['units_across'] == sum(len(set(df['split'][list(o)])) > 1 for o in sets(df['unit']) if df['unit'][min(o)])
    there = [o for o in tags.values() if all(o & f for f in folds.values())]
    worst = max(abs(len(o & f)/len(o) - len(f)/len(df)) for f in folds.values() for o in there)
    assert list(summary['worst'].values()) == [round(100*worst, 2)]

def test_errors_name_the_way_out():
    df = catalog(0, 30)
    with pytest.raises(CatalogError, match="no '1999'; its values are: 2010, 2011"): split_by(df, 'year', test=1999)
    with pytest.raises(CatalogError, match="no 'x'"): split_by(df, 'year', test=2010, valid='x')
    with pytest.raises(CatalogError, match='no train'): split_by(df, 'year', test_from=2000)
    with pytest.raises(CatalogError, match='expected at least 2'): cross_folds(df, 0)

def test_a_large_catalog():
    gen, n, w = rng(0, 'large'), 44_000, 1/np.arange(1, 101)**1.2
    kind = gen.choice(100, size=n, p=w/w.sum())
    df = pd.DataFrame({'image': [f'{i}.jpg' for i in range(n)], 'tags': [[f'm{a % 4}', f's{a % 37}', f't{a}'] for a in kind],
                       'pixels': gen.integers(10*n, size=n).astype(str)})
    df = join_units(df)
    res, audit = split_catalog(df)
    cross_folds(df)
    assert len(audit) == 141
    assert split_summary(res, audit)['duplicates_across'] == 0

# Groups and rescues

def test_groups_and_tags_of_a_small_table():
    df = pd.DataFrame({'image': list('abcde'), 'unit': ['shirt', '', 'shirt', None, ''],
                       'tags': [['Shirt'], ['Shoe'], ['Shirt', 'Red'], ['Shoe', 'Red'], []]})
    assert split._unit_numbers(df).tolist() == [0, 1, 0, 2, 3]
    y, tags = split._unit_tags(df, 'tags', least=2)
    assert tags == ['Red', 'Shoe']    # Shirt occurs in only one group
    assert y[:, :-1].tolist() == [[True, False], [False, True], [True, True], [False, False]]

@pytest.mark.parametrize('y, folds, after', [   # the last column means "any picture"
    ([[1, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 1, 1]], [0, 0, 1, 0, 2], [2, 0, 1, 0, 2]),   # tag 0: train can spare group 0 or 1
    ([[1, 1], [1, 1], [1, 0], [0, 1], [0, 1]], [0, 0, 1, 2, 1], [2, 0, 1, 2, 1])])
def test_a_rescue_moves_a_group_that_its_fold_can_spare(y, folds, after):
    folds = np.array(folds)
    assert split._rescue(np.array(y, bool), folds, 3) == [(0, 0, 2)]
    assert folds.tolist() == after

def long_tail(pictures, tags, each):
    "Pictures with `each` different tags, of which a few are frequent and most are rare."
    gen, p = rng(0, 'long tail'), 1/np.arange(1, tags + 1)**.7
    return pd.DataFrame({'image': [f'{i}.png' for i in range(pictures)],
                         'tags': [[f'tag {j}' for j in gen.choice(tags, each, False, p/p.sum())] for _ in range(pictures)]})

@pytest.mark.parametrize('shares', [[.6, .2, .2], [.8, .2], [.2]*5, [1/3]*3])
@pytest.mark.parametrize('seed', range(5))
def test_stratification_makes_the_folds_of_the_package(seed, shares):
    y = rng(seed, 'y').random((200, 30)) < np.append(.5/np.arange(1, 30), 1)
    assert split._stratify(y, np.array(shares), rng(seed, 'split')).tolist() == \
        IterativeStratification(y, np.array(shares), rng(seed, 'split')).tolist()

@pytest.mark.parametrize('seed', range(5))
def test_rescues_open_no_gap(seed):
    y = rng(seed, 'y').random((60, 80)) < np.append(.5/np.arange(1, 80)**.7, 1)
    y = y[:, y.sum(0) >= 3]
    before = split._stratify(y, np.array([.6, .2, .2]), rng(seed, 'split'))
    after = before.copy()
    moves = split._rescue(y, after, 3)
    gaps = [{(f, t) for f in range(3) for t in range(y.shape[1]) if not y[o == f, t].any()} for o in (before, after)]
    assert moves and gaps[1] < gaps[0]
    for t, g, f in moves: assert y[g, t]; before[g] = f
    assert before.tolist() == after.tolist()

def test_thousands_of_tags_are_split_quietly_without_a_terminal(capfd):
    split_catalog(long_tail(1500, 5000, 30))    # how long it takes is in benchmarks/split.py
    assert capfd.readouterr() == ('', '')

# Errors and notes with the settings that a user gave

def shop(root, draw, n=60, **columns):
    "tags.csv with the pictures that `draw` makes."
    (root/'images').mkdir(parents=True)
    for i in range(n): draw(i).save(root/'images'/f'{i}.png')
    pd.DataFrame({'image': [f'images/{i}.png' for i in range(n)], 'tags': [['red', 'blue', 'green'][i % 3] for i in range(n)], **columns}
                 ).to_csv(root/'tags.csv', index=False)
    return str(root)

def swatch(i): return Image.new('RGB', (32, 32), tuple(37*i*k % 256 for k in (1, 3, 7)))

def noise(i): return Image.fromarray(rng(i, 'noise').integers(255, size=(8, 8, 3), dtype=np.uint8)).resize((32, 32))

def bottle(i):
    im = Image.new('RGB', (32, 32), 'white'); im.paste(tuple(37*i*k % 200 for k in (1, 3, 7)), (10, 4, 22, 30))
    return im

def sizes_of(cfg):
    ready = prepare_catalog(cfg)
    return ready.catalog.df['split'].value_counts().to_dict(), ready.catalog.notes

def test_flat_pictures_are_near_copies_of_none(tmp_path):
    folds, notes = sizes_of(RunConfig(shop(tmp_path/'swatches', swatch), '', near=8))
    assert folds == dict(train=36, valid=12, test=12)
    assert any(o.startswith('60 pictures of one colour, or with too few shapes for a hash, such as ') for o in notes)
    folds, notes = sizes_of(RunConfig(shop(tmp_path/'half', lambda i: bottle(i) if i % 2 else noise(i)), '', near=4))
    assert folds == dict(train=36, valid=12, test=12) and not any('colour' in o for o in notes)

def test_copies_of_a_flat_picture_stay_together(tmp_path):
    ready = prepare_catalog(RunConfig(shop(tmp_path/'shop', lambda i: swatch(0) if i < 9 else noise(i)), '', near=4))
    assert ready.catalog.df.loc[:8, 'split'].nunique() == 1 == ready.catalog.df.loc[:8, 'unit'].nunique()

@pytest.mark.parametrize('draw, columns, settings, says', [
    (bottle, {}, dict(near=8), '1 unit cannot fill 3 folds; the largest unit, that of images/0.png, has 60 of 60 pictures; near=8 joins'),
    (noise, dict(sku=['a', 'b']*30), dict(product='sku'),
     "2 units cannot fill 3 folds; the largest unit, product 'a', has 30 of 60 pictures; .*product=none"),
    (lambda i: noise(0), {}, {}, '1 unit cannot fill 3 folds; .*copies of a picture are one unit: more pictures are needed'),
    (noise, dict(year=[2020]*59 + [2019]), dict(split_by='year', test_from='2020'), '1 unit cannot fill 2 folds; .*split_by=year leaves'),
    (noise, dict(split=['train'] + ['test']*59), {}, '1 unit cannot fill 2 folds; .*split_column=none splits anew')],
    ids=['near', 'product', 'copies', 'split_by', 'split'])
def test_too_few_units_name_the_setting_and_the_largest(draw, columns, settings, says, tmp_path):
    with pytest.raises(CatalogError, match=says): prepare_catalog(RunConfig(shop(tmp_path/'shop', draw, **columns), '', **settings))

def test_shares_that_products_do_not_allow_are_a_note(tmp_path):
    source = shop(tmp_path/'shop', noise, sku=['big']*45 + [f's{i}' for i in range(15)])
    folds, notes = sizes_of(RunConfig(source, '', product='sku'))
    assert folds['train'] == 45 and any("the largest unit, product 'big', has 45 of 60 pictures" in o for o in notes)
    assert not any('asked for' in o for o in sizes_of(RunConfig(source, '', product='none'))[1])
