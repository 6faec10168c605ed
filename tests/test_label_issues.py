"Label issues: planted faults among made-up features, by hand, and what a user can get wrong."
import numpy as np, pandas as pd, pytest

pytest.importorskip('cleanlab', reason='needs the extra catalog_tagger[cleanlab]')

from sklearn.linear_model import LogisticRegression

from catalog_tagger.core.files import CatalogError
from catalog_tagger.report.label_issues import issue_grid, label_issues, out_of_fold_scores
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.catalog.split import cross_folds

kinds = ['Tshirts', 'Jeans', 'Heels', 'Flats']
space = LabelSpace(['Apparel', 'Footwear', *kinds, 'red', 'new'], {'master': ['Apparel', 'Footwear'], 'type': kinds},
                   {k: 'Apparel' if i < 2 else 'Footwear' for i, k in enumerate(kinds)}, {})

def made_up(n=500, seed=0):
    "A catalog, its truth and features that tell it with some noise."
    r = np.random.default_rng(seed); kind = r.integers(4, size=n); free = r.random((n, 2)) < [.3, .15]
    truth = np.c_[kind < 2, kind >= 2, np.eye(4)[kind], free].astype(int)
    features = truth @ r.normal(size=(8, 30)) + .4*r.normal(size=(n, 30))
    return pd.DataFrame({'image': [f'{i}.jpg' for i in range(n)]}), truth, features

def labelled(df, targs): return df.assign(labels=[[space.vocab[j] for j in np.flatnonzero(o)] for o in targs])

def with_faults(truth, share=.05, seed=1):
    "5 % of the types exchanged, of the free tags taken away, and as many put where they do not belong."
    r = np.random.default_rng(seed); bad = truth.copy()
    for i in np.flatnonzero(r.random(len(truth)) < share):
        old = bad[i, 2:6].argmax(); bad[i, 2:6] = 0; bad[i, 2 + (old + r.integers(1, 4))%4] = 1
    for j in (6, 7):
        pos, neg = np.flatnonzero(truth[:, j]), np.flatnonzero(truth[:, j] == 0); gone = pos[r.random(len(pos)) < share]
        bad[gone, j] = 0; bad[r.choice(neg, len(gone), replace=False), j] = 1
    return bad

@pytest.mark.parametrize('seed', range(3))
def test_planted_faults_are_found_eight_times_better_than_by_chance(seed):
    df, truth, features = made_up(seed=seed); bad = with_faults(truth, seed=seed + 50); df = labelled(df, bad)
    folds = cross_folds(df.assign(tags=df['labels']))['fold']
    issues = label_issues(df, out_of_fold_scores(features, bad, space, folds), space)
    at = {l: j for j, l in enumerate(space.vocab)}; faulty = bad != truth
    sure = issues[issues['kind'] != 'doubtful']; types = sure[sure['tag'].isin(kinds)]; free = sure[sure['tag'].isin(['red', 'new'])]
    for rows, cols in ((types, slice(2, 6)), (free, slice(6, 8))):
        hits = [faulty[int(o.image[:-4]), at[o.tag]] for o in rows.itertuples()]
        n = faulty[:, cols].any(1).sum() if cols.start == 2 else faulty[:, cols].sum(); cells = len(df) if cols.start == 2 else 2*len(df)
        assert np.mean(hits) > 8*n/cells and sum(hits) > .5*n
    for o in types.itertuples(): assert o.instead in kinds and o.instead != o.tag and o.tag in o.labels
    assert {k for k in free['kind']} == {'wrong', 'missing'}
    for o in free.itertuples(): assert (o.tag in o.labels) == (o.kind == 'wrong') and o.instead == ''

def test_kinds_and_scores_by_hand():
    df, truth, _ = made_up(60); scores = .02 + .96*truth; bad = truth.copy()
    bad[0, 2:6] = np.roll(bad[0, 2:6], 1)                       # another type
    i, = np.flatnonzero(truth[1:, 6])[:1] + 1; bad[i, 6] = 0    # forgotten
    j, = np.flatnonzero(truth[1:, 7] == 0)[:1] + 1; bad[j, 7] = 1   # does not belong there
    issues = label_issues(labelled(df, bad), scores, space)
    got = {(o.image, o.kind, o.tag): o for o in issues.itertuples()}
    wrong = space.vocab[2 + bad[0, 2:6].argmax()]; right = space.vocab[2 + truth[0, 2:6].argmax()]
    assert set(got) == {('0.jpg', 'wrong', wrong), (f'{i}.jpg', 'missing', 'red'), (f'{j}.jpg', 'wrong', 'new')}
    assert got['0.jpg', 'wrong', wrong].instead == right
    assert got['0.jpg', 'wrong', wrong].score == pytest.approx(.02/(.98 + 3*.02), abs=1e-6)
    assert got[f'{i}.jpg', 'missing', 'red'].score == pytest.approx(.02)
    assert len(label_issues(labelled(df, truth), scores, space)) == 0
    assert len(label_issues(labelled(df, bad), scores, space, k=1)) == 1

def test_surest_faults_come_first_and_doubts_last():
    df, truth, features = made_up(200); bad = with_faults(truth, .1); df = labelled(df, bad)
    issues = label_issues(df, out_of_fold_scores(features, bad, space, np.arange(200)%4), space)
    doubt = issues['kind'] == 'doubtful'
    assert doubt.is_monotonic_increasing and doubt.any()
    for part in (issues[~doubt], issues[doubt]): assert part['score'].is_monotonic_increasing

def test_unlabelled_groups_and_absent_labels_are_left_alone():
    df, truth, features = made_up(200); holes = truth.copy(); holes[:50, 2:6] = 0; keep = holes[:, 5] == 0   # no Flats at all
    df, holes = labelled(df, holes)[keep].reset_index(drop=True), holes[keep]
    scores = out_of_fold_scores(features[keep], holes, space, np.arange(len(df))%3)
    assert (scores[:, 5] == 0).all()
    issues = label_issues(df, scores, space)
    assert not issues[issues['image'].isin(df['image'][~holes[:, 2:6].any(1)])]['tag'].isin(kinds).any()

def test_a_picture_never_judges_itself():
    "Noise as features, random labels: scores from outside know nothing, scores from inside know all."
    r = np.random.default_rng(0); x = r.normal(size=(120, 100)); t = np.zeros((120, 8), int); t[:, 6] = r.random(120) < .5
    t[:, 0] = t[:, 2] = 1
    outside = out_of_fold_scores(x, t, space, np.arange(120)%5, C=10.)
    assert ((outside[:, 6] > .5) == t[:, 6]).mean() < .65
    assert (LogisticRegression(C=10).fit(x, t[:, 6]).predict(x) == t[:, 6]).mean() > .95

def test_what_a_user_can_get_wrong(monkeypatch):
    df, truth, features = made_up(40); df = labelled(df, truth)
    for call in (lambda: out_of_fold_scores(features, truth, space, [0]*40),
                 lambda: out_of_fold_scores(features[1:], truth, space, range(40)),
                 lambda: label_issues(df, truth*2., space), lambda: label_issues(df, truth[:, 1:]*.5, space),
                 lambda: label_issues(df, truth*np.nan, space),
                 lambda: label_issues(df.drop(columns='labels'), truth*.5, space),
                 lambda: issue_grid(label_issues(df, .1 + .8*truth, space))):
        with pytest.raises(CatalogError): call()
    monkeypatch.setitem(__import__('sys').modules, 'cleanlab.filter', None)
    with pytest.raises(CatalogError, match='pip install'): label_issues(df, .1 + .8*truth, space)
