"Retrieval scores against plain loops and scikit-learn; the index against exact search."
import numpy as np, pandas as pd, pytest
from sklearn.metrics import ndcg_score

from catalog_tagger.core import CatalogError
from catalog_tagger.similar import query_scores, rarity, retrieval_scores


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
    got = query_scores(v, Y, range(25), range(10, 60), relevant=kind if typed else None, group=group, weights=weights if weighted else None, k=k, block=7)
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
    draws = [query_scores(unit(r.normal(size=(60, 50))), Y, range(12), relevant=kind, group=group, k=k) for _ in range(400)]
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
    (dict(vectors=np.ones((60, 5))), 'length'), (dict(vectors=np.full((60, 5), np.nan)), 'length'), (dict(vectors=np.ones(5)), 'expected \\(pictures'),
    (dict(Y=np.ones((3, 2))), 'Y has shape'), (dict(queries=[60]), 'queries holds'), (dict(answers=[]), 'answers names no row'), (dict(queries=[True]), 'mask of shape'),
    (dict(relevant=[1]), 'relevant has 1'), (dict(group=[1]), 'group has 1'), (dict(k=0), 'k is 0'), (dict(weights=[1, 2]), 'weights has shape')])
def test_what_cannot_be_scored_is_told(shop, kw, says):
    v, Y, *_ = shop
    with pytest.raises(CatalogError, match=says): retrieval_scores(**dict(vectors=v, Y=Y) | kw)
