"Retrieval scores against plain loops and scikit-learn; the index against exact search."
import subprocess, sys

import numpy as np, pandas as pd, pytest
from sklearn.metrics import ndcg_score

from catalog_tagger.core.files import CatalogError
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.search.faiss import _factory_string, KINDS, start_settings
from catalog_tagger.search.index import SimilarIndex
from catalog_tagger.search.retrieval import query_scores, rarity, retrieval_scores

try: import faiss
except ImportError: faiss = None


def unit(x): return x/np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope='module')
def shop():
    "Sixty products: vectors, labels, a type that some do not have, groups of one to three."
    r = np.random.default_rng(0)
    Y = r.random((60, 7)) < .3
    v = unit(Y @ r.normal(size=(7, 5)) + .5*r.normal(size=(60, 5)))
    kind = r.integers(5, size=60).astype(object)
    kind[::9] = None
    return v, Y, kind, r.integers(35, size=60)


def by_loops(v, Y, queries, answers, kind, group, weights, k):
    "The four scores of each query, as a textbook would write them."
    rows = []
    for q in queries:
        candidates = [a for a in answers if a != q and group[a] != group[q]]
        ranked = sorted(candidates, key=lambda a: -float(v[q] @ v[a]))
        if kind is None: hit = {a: bool((Y[a] & Y[q]).any()) for a in candidates}
        else: hit = {a: kind[q] is not None and kind[a] == kind[q] for a in candidates}
        gain = {a: float((weights*(Y[a] & Y[q])).sum()) for a in candidates}
        n_relevant, most = sum(hit.values()), min(k, sum(hit.values()))
        dcg = lambda order: sum(gain[a]/np.log2(i + 2) for i, a in enumerate(order[:k]))
        ideal, ap, found = dcg(sorted(candidates, key=lambda a: -gain[a])), 0, 0
        for i, a in enumerate(ranked[:k], 1):
            if hit[a]: found += 1; ap += found/i
        rows.append((found/k, found/most, ap/most) if n_relevant else (np.nan,)*3)
        rows[-1] += (dcg(ranked)/ideal if ideal else np.nan,)
    return np.array(rows)


@pytest.mark.parametrize('k', [1, 3, 10, 70])
@pytest.mark.parametrize('typed, weighted', [(True, False), (False, True)])
def test_scores_are_those_of_plain_loops(shop, k, typed, weighted):
    v, Y, kind, group = shop
    weights = rarity(Y) if weighted else np.ones(7)
    got = query_scores(v, Y, range(25), range(10, 60), relevant=kind if typed else None, unit=group, weights=weights if weighted else None,
                       k=k, block=7)
    want = by_loops(v, Y, range(25), range(10, 60), kind if typed else None, group, weights, k)
    assert got['score'].columns.tolist() == [f'precision@{k}', f'recall@{k}', f'mAP@{k}', f'nDCG@{k}']
    np.testing.assert_allclose(got['score'].to_numpy(), want, atol=1e-5)
    assert np.isnan(want).any() == got['score'].isna().any().any()
    np.testing.assert_allclose(got['random'].isna(), got['score'].isna())


def test_ndcg_is_scikit_learns(shop):
    v, Y, _, _ = shop
    got = query_scores(v, Y, range(20), range(20, 60), k=5)['score']['nDCG@5']
    for q, o in got.items():
        gains = (Y[20:] & Y[q]).sum(1)
        if gains.any(): assert o == pytest.approx(ndcg_score([gains], [v[20:] @ v[q]], k=5, ignore_ties=True), abs=1e-5)
        else: assert np.isnan(o)


@pytest.mark.parametrize('k', [3, 80])
def test_the_floor_is_the_mean_over_random_orders(shop, k):
    _, Y, kind, group = shop
    r = np.random.default_rng(1)
    draws = [query_scores(unit(r.normal(size=(60, 50))), Y, range(12), relevant=kind, unit=group, k=k) for _ in range(400)]
    floor, mean = draws[0]['random'], sum(o['score'] for o in draws)/len(draws)
    np.testing.assert_allclose(mean.mean(), floor.mean(), atol=.01)
    np.testing.assert_allclose(mean, floor, atol=.12)


def test_masks_and_numbers_name_the_same_rows(shop):
    v, Y, kind, _ = shop
    mask = np.arange(60) < 20
    a = retrieval_scores(v, Y, mask, ~mask, relevant=kind)
    pd.testing.assert_frame_equal(a, retrieval_scores(v, Y, range(20), range(20, 60), relevant=kind))
    pd.testing.assert_frame_equal(a, retrieval_scores(v.astype('f2'), Y, mask, ~mask, relevant=pd.Series(kind)), atol=.01)


@pytest.mark.parametrize('kw, says', [
    (dict(vectors=np.ones((60, 5))), 'length'), (dict(vectors=np.full((60, 5), np.nan)), 'length'),
    (dict(vectors=np.ones(5)), 'expected \\(pictures'),
    (dict(Y=np.ones((3, 2))), 'Y has shape'), (dict(queries=[60]), 'queries must be row numbers'), (dict(answers=[]), 'answers has no row'),
    (dict(queries=[True]), 'mask of shape'),
    (dict(relevant=[1]), 'relevant has 1'), (dict(unit=[1]), 'unit has 1'), (dict(k=0), 'k=0, expected 1'),
    (dict(weights=[1, 2]), 'weights has shape')])
def test_what_cannot_be_scored_is_told(shop, kw, says):
    v, Y, *_ = shop
    with pytest.raises(CatalogError, match=says): retrieval_scores(**dict(vectors=v, Y=Y) | kw)


# ---- the index ----

KINDS_HERE = [pytest.param(o, marks=() if o == 'exact' else pytest.mark.skipif(faiss is None, reason='needs faiss-cpu')) for o in KINDS]


@pytest.fixture(scope='module')
def cloud():
    "Clustered vectors in pairs of one group, with a table."
    r = np.random.default_rng(3)
    v = unit(np.repeat(r.normal(size=(40, 12)), 50, 0) + .4*r.normal(size=(2000, 12))).astype('f4')
    table = pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(2000)], unit=np.arange(2000)//2, year=2000 + np.arange(2000) % 20,
                              labels=[[f'l{i//50}', 'odd' if i % 2 else 'even'] for i in range(2000)]))
    return v, table


def brute(v, q, k, ok):
    "Rows of the `k` nearest of `q` among those that are `ok`, by a loop."
    return sorted((i for i in range(len(v)) if ok(i)), key=lambda i: -float(v[i] @ q))[:k]


@pytest.mark.parametrize('kind', KINDS_HERE)
def test_answers_are_those_of_a_loop(cloud, kind):
    v, table = cloud
    index = SimilarIndex.build(v, table, kind=kind, target=1.)
    assert index.recall > .98 and 0 <= index.recall <= 1
    for i in (0, 777, 1999):
        got = index.search(f'{i}.jpg', k=5)
        want = brute(v, v[i], 5, lambda j: j//2 != i//2)
        assert set(got['image']) == {f'{j}.jpg' for j in want}
        assert np.allclose(got['score'], sorted((v[j] @ v[i] for j in want), reverse=True), atol=1e-5)
        got = index.search(v[i], k=5, where='year >= 2010 and year != 2015')
        assert got['image'].tolist() == [f'{j}.jpg' for j in brute(v, v[i], 5, lambda j: j % 20 >= 10 and j % 20 != 15)]


@pytest.mark.parametrize('dtype', ['f4', 'f2'])
@pytest.mark.parametrize('kind', KINDS_HERE)
def test_saved_and_loaded_answers_the_same(cloud, tmp_path, kind, dtype):
    v, table = cloud
    index = SimilarIndex.build(v.astype(dtype), table, kind=kind); index.save(tmp_path/'i')
    again = SimilarIndex.load(tmp_path/'i')
    for a, b in zip(index.nearest(v, 7), again.nearest(v, 7)): np.testing.assert_array_equal(a, b)
    for a, b in zip(index.neighbours(k=3), again.neighbours(k=3)): np.testing.assert_array_equal(a, b)
    pd.testing.assert_frame_equal(index.table, again.table)
    assert (again.recall, again.settings, again.vectors.dtype) == (index.recall, index.settings, index.vectors.dtype)


def test_an_index_replaces_another_and_nothing_else(cloud, tmp_path):
    pytest.importorskip('faiss')
    v, table = cloud
    SimilarIndex.build(v, table, kind='ivf_sq8').save(tmp_path/'i')
    SimilarIndex.build(v[:9], table[:9]).save(tmp_path/'i')
    assert len(SimilarIndex.load(tmp_path/'i')) == 9 and not (tmp_path/'i'/'centroids.npy').exists()
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.txt').touch()
    with pytest.raises(CatalogError, match='did not write them'): SimilarIndex.build(v, table).save(tmp_path/'mine')


@pytest.mark.parametrize('kind', KINDS_HERE)
def test_add_and_remove(cloud, tmp_path, kind):
    v, table = cloud
    index = SimilarIndex.build(v[:1200], table[:1200], kind=kind, target=1.).add(v[1200:], table[1200:].reset_index(drop=True))
    gone = [f'{i}.jpg' for i in range(0, 2000, 3)]
    index.remove(gone)
    left = [i for i in range(2000) if i % 3]
    assert index.table['image'].tolist() == [f'{i}.jpg' for i in left]
    np.testing.assert_array_equal(index.vectors, v[left])
    _, at = index.nearest(v[left][:200], 1)
    assert (at[:, 0] == np.arange(200)).mean() > .98
    assert not set(index.search('1.jpg', k=50)['image']) & set(gone)
    index.remove(index.table['image'][300:]).save(tmp_path/'i')    # fewer than an IVF of the first 1,200 would have been made for
    np.testing.assert_array_equal(SimilarIndex.load(tmp_path/'i').nearest(v[:50], 3)[1], index.nearest(v[:50], 3)[1])


def test_product_codes_need_pictures(cloud):
    pytest.importorskip('faiss')
    v, table = cloud
    with pytest.raises(CatalogError, match='ivf_pq needs at least 256 vectors to train its codes, got 200'):
        SimilarIndex.build(v[:200], table[:200], kind='ivf_pq')
    with pytest.raises(CatalogError, match='ivf_pq needs at least 256 vectors'):
        SimilarIndex.build(v, table, kind='ivf_pq').remove(table['image'][:1900])


@pytest.mark.parametrize('kind', KINDS_HERE)
def test_more_answers_than_rows(cloud, kind):
    v, table = cloud
    index = SimilarIndex.build(v[:300], table[:300], kind=kind)
    score, at = index.nearest(v[:2], 400)
    assert at.shape == score.shape == (2, 300) and (score[:, :-1] >= score[:, 1:]).all()
    assert all(len(set(o)) == len(o) for o in (o[o >= 0] for o in at))
    assert len(index.search('0.jpg', k=400)) <= 298


def test_a_row_without_a_group_is_its_own(cloud):
    v, table = cloud
    t = table[:10].assign(unit=['a', 'a', None, None, 'b', 'b', None, 'c', 'c', 'c'])
    _, at = SimilarIndex.build(v[:10], t).neighbours(k=9)
    own = [{0, 1}, {0, 1}, {2}, {3}, {4, 5}, {4, 5}, {6}, {7, 8, 9}, {7, 8, 9}, {7, 8, 9}]
    for i, o in enumerate(at): assert set(o) - {-1} == set(range(10)) - own[i]


def test_find_and_neighbour_scores(cloud):
    v, table = cloud
    index = SimilarIndex.build(v, table)
    got = index.find(['l3', 'odd'], near='0.jpg', k=30)
    assert got['image'].tolist() == [f'{j}.jpg' for j in brute(v, v[0], 30, lambda j: j//50 == 3 and j % 2)]
    middle = v[150:200][1::2].mean(0)
    assert index.find(['l3', 'odd'], k=3)['image'].tolist() == [f'{j}.jpg' for j in brute(v, middle, 3, lambda j: j//50 == 3 and j % 2)]
    assert index.find(['l3', 'l4']).attrs['notes'] == ["no picture has all of 'l3', 'l4'"]
    with pytest.raises(CatalogError, match="'l33x'; did you mean 'l3"): index.find(['l33x'])
    space = LabelSpace([f'l{i}' for i in range(40)] + ['odd', 'even'], {}, {}, {})
    score, at = index.nearest(v[5:6], 6)
    want = sum(s*space.one_hot([table['labels'][a]])[0] for s, a in zip(score[0], at[0]))/score.sum()
    np.testing.assert_allclose(index.neighbour_scores(v[5:6], space, 6)[0], want, atol=1e-5)


def test_duplicates_are_all_close_pairs(cloud):
    v, table = cloud
    v = np.concatenate([v[:300], v[:20]])
    index = SimilarIndex.build(v, [str(i) for i in range(320)])
    s = v @ v.T; want = {(str(i), str(j)) for i in range(320) for j in range(i + 1, 320) if s[i, j] >= .97}
    got = index.duplicates(.97)
    assert {tuple(o) for o in got[['image', 'other']].values} == want and got['score'].is_monotonic_decreasing
    assert got['score'][:20].between(.9999, 1.0001).all()


@pytest.mark.parametrize('call, says', [
    (lambda i, v: i.search('gone.jpg'), 'is neither an id of this index nor a picture file'),
    (lambda i, v: i.search(v[0], k=0), 'k=0, expected 1'),
    (lambda i, v: i.search(v[0]*2), 'length 2, expected 1'),
    (lambda i, v: i.search(v[0, :3]/np.linalg.norm(v[0, :3])), 'expected \\(queries, 12\\)'),
    (lambda i, v: i.search('0.jpg', where="image.to_csv('x') == 1"), 'is not allowed'),
    (lambda i, v: i.neighbours([5000]), 'row numbers below 2000'), (lambda i, v: i.remove(i.table['image']), 'cannot remove all pictures'),
    (lambda i, v: i.add(v[:, :3]/np.linalg.norm(v[:, :3], axis=1, keepdims=True), [f'n{j}' for j in range(2000)]),
     '3 dimensions, expected 12'),
    (lambda i, v: i.add(v[:2], ['x', 'y']), "no column 'unit'")])
def test_a_wrong_question_is_told(cloud, call, says):
    v, table = cloud
    with pytest.raises(CatalogError, match=says): call(SimilarIndex.build(v, table), v)


@pytest.mark.parametrize('kw, says',
                         [(dict(kind='annoy'), 'expected one of exact'), (dict(target=0), 'above 0'),
                          (dict(table=['a']*2000), 'occurs twice'), (dict(table=['a']), 'not 2000 texts'),
                          (dict(table=pd.DataFrame({'file': ['a']})), "no column 'image'"),
                          (dict(vectors=np.ones((2000, 12))), 'length'), (dict(vectors=np.ones(12)), 'expected \\(pictures')])
def test_what_cannot_be_indexed_is_told(cloud, kw, says):
    v, table = cloud
    with pytest.raises(CatalogError, match=says): SimilarIndex.build(**dict(vectors=v, table=table) | kw)


def test_without_faiss_the_way_to_it_is_told(cloud, tmp_path, monkeypatch):
    v, table = cloud
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(CatalogError, match=r'ivf_sq8 needs FAISS: pip install "catalog_tagger\[faiss\]"'):
        SimilarIndex.build(v, table, kind='ivf_sq8')
    SimilarIndex.build(v, table).save(tmp_path/'i')
    assert len(SimilarIndex.load(tmp_path/'i').search('0.jpg')) == 10


def test_an_index_needs_no_torch(cloud, tmp_path):
    v, table = cloud
    SimilarIndex.build(v, table).save(tmp_path/'i')
    code = ('import sys; from catalog_tagger.search.index import SimilarIndex; '
            f'SimilarIndex.load({str(tmp_path/"i")!r}).search("0.jpg"); assert "torch" not in sys.modules')
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

def test_the_factory_string_of_a_million_vectors():
    assert _factory_string('ivf_sq8', start_settings('ivf_sq8', 1_000_000, 256)) == 'IVF4096,SQ8'
