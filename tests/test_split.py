"What splits and duplicates promise, against plain loops on random tables."
import json

import numpy as np, pandas as pd, pytest
from iterstrat.ml_stratifiers import IterativeStratification
from PIL import Image

from catalog_tagger.catalog import split
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.process import rng
from catalog_tagger.catalog.images import audit_images
from catalog_tagger.catalog.split import cross_folds, join_units, near_duplicates, split_audit, split_by, split_catalog, split_summary

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
