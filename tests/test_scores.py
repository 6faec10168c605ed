"Scores where a truth is missing: against plain loops and scikit-learn, and in train, evaluate, report and compare."
import csv, json, re, shutil
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_score

from catalog_tagger.apps.cli import main
from catalog_tagger.catalog.labels import (LabelSpace, apply_labels, fit_labels, known_cells, nearest_label, report_unknown,
                                           unknown_tags)
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.metrics import (add_intervals, bootstrap_interval, group_accuracy, label_table, only_known, picture_scores,
                                         score_table)
from catalog_tagger.report.interpret import label_confusion, wrong_pictures
from catalog_tagger.report.label_issues import label_issues
from catalog_tagger.report.report import compare_page, run_page
from catalog_tagger.runs.compare import compare_runs, write_comparison
from catalog_tagger.runs.evaluate import evaluate_run
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.score import score_pictures, score_products
from catalog_tagger.runs.train import report_scores, train_run
from catalog_tagger.serve.answers import as_matrix, decode
from catalog_tagger.serve.decide import decide
from catalog_tagger.testing.tiny import tiny_tagger
from catalog_tagger.train.fastai_metrics import RecallAtK

# -- the rule, in plain loops

def average_precision(pairs):
    "Of `(score, is it true?)`: the mean over the true ones of the share of true ones at or above their score."
    hits = [s for s, t in pairs if t]
    return np.mean([sum(t for o, t in pairs if o >= s)/sum(o >= s for o, _ in pairs) for s in hits])

def f1_of(right, said, true): return 2*right/(said + true) if said + true else 0.

def plain_scores(scores, pred, targs, known, counts, groups, parents, k):
    "Every score by the rule: of each picture only the labels with a truth are there, and a picture without any is not."
    pictures = [[j for j in range(targs.shape[1]) if known[i, j]] for i in range(len(targs))]
    rows = [(i, there, [j for j in there if targs[i, j]], [j for j in there if pred[i, j]]) for i, there in enumerate(pictures) if there]
    ranking = {i: sorted((j for j in there if scores[i, j] > -np.inf), key=lambda j: (-scores[i, j], j)) for i, there, *_ in rows}
    res, hits = {}, {i: len(set(ranking[i][:k]) & set(true)) for i, _, true, _ in rows}
    res[f'recall@{k}'] = np.mean([hits[i]/min(k, len(true)) for i, _, true, _ in rows if true])
    res[f'precision@{k}'] = np.mean([hits[i]/k for i, *_ in rows])
    def above(j): return {parents[j]} | above(parents[j]) if j in parents else set()
    def dominant(i, true):
        finest = sorted(set(true) - {o for j in true for o in above(j)}, key=lambda j: (-counts[j], j))[:2]
        places, answered = set(), set()
        for j in ranking[i]:
            if j not in answered: places = places - above(j) | {j}
            if len(places) > k: break
            answered |= {j} | above(j)
        return len(answered & set(finest))/len(finest)
    res['dominant_recall'] = np.mean([dominant(i, true) for i, _, true, _ in rows if true])
    each = {j: [(j in said and j in true, j in said, j in true) for _, there, true, said in rows if j in there]
            for j in range(targs.shape[1])}
    res['f1_micro'] = f1_of(*np.sum([o for rows in each.values() for o in rows], axis=0))
    sums = {j: np.sum(o, axis=0) for j, o in each.items() if any(t for *_, t in o)}
    res['f1_macro'] = np.mean([f1_of(*o) for o in sums.values()])
    res['f1_samples'] = np.mean([f1_of(len(set(said) & set(true)), len(said), len(true)) for _, _, true, said in rows])
    big = np.nan_to_num(scores)
    res['mAP'] = np.mean([average_precision([(big[i, j], j in true) for i, there, true, _ in rows if j in there]) for j in sums])
    res['exact_match'] = np.mean([true == said for _, _, true, said in rows])
    for g, cols in groups.items():
        right = []
        for _, _, true, said in rows:
            if not set(cols) & set(true): continue
            right.append(set(said) & set(cols) == set(true) & set(cols))
        res[f'accuracy/{g}'] = np.mean(right) if right else np.nan
    return res

GROUPS, PARENTS = dict(kind=[0, 1], type=[2, 3, 4], colour=[5, 6, 7]), {2: 0, 3: 1, 4: 1}
SPACE = LabelSpace(list('abcdefghij'), {g: ['abcdefghij'[j] for j in o] for g, o in GROUPS.items()},
                   {'abcdefghij'[c]: 'abcdefghij'[p] for c, p in PARENTS.items()}, {})

def draw_truths(r, n, hole):
    "True labels: one or none of each group, and free tags; the last picture has one of each group."
    targs = np.zeros((n, 10), int)
    for cols in GROUPS.values():
        for i in range(n):
            if i == n - 1 or r.random() >= hole: targs[i, r.choice(cols)] = 1
    targs[:, 8:] = r.random((n, 2)) < .3
    return targs

def draw(seed, n, hole):
    "Scores, answers and truths."
    r = np.random.default_rng(seed); targs = draw_truths(r, n, hole)
    scores = np.round(r.random(targs.shape)*.6 + .4*targs*(r.random(targs.shape) < .8), 1)    # rounded: with ties
    scores[r.random(targs.shape) < .05] = -np.inf
    return scores, (r.random(targs.shape) < .2).astype(int) | targs & (r.random(targs.shape) < .7), targs

@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 25), hole=st.sampled_from([0., .2, .6, .95]), k=st.integers(1, 5),
       cells=st.booleans())
def test_each_score_is_that_of_a_plain_loop(seed, n, hole, k, cells):
    scores, pred, targs = draw(seed, n, hole); counts = np.random.default_rng(seed + 1).integers(1, 99, 10)
    known = known_cells(targs, SPACE)
    if cells: known = known & (np.random.default_rng(seed).random((n, 1)) < .8); known[-1] = True   # pictures without any truth
    facts = dict(counts=counts, groups=GROUPS, parents=PARENTS, k=k)
    table = score_table(scores, targs, pred=pred, known=known, **facts)
    floor = np.tile(counts.astype(float), (n, 1))
    common = np.zeros_like(targs)
    for cols in GROUPS.values(): common[:, max(cols, key=lambda j: (counts[j], -j))] = 1
    sides = dict(score=(scores, pred), nothing=(np.full(scores.shape, -np.inf), pred*0), commonest=(floor, common))
    for column, (s, p) in sides.items():
        want = plain_scores(s, p, targs, known, **facts)
        assert list(want) == table.index.tolist()
        np.testing.assert_allclose(table[column], list(want.values()), atol=1e-12, err_msg=column)

    each = picture_scores(scores, targs, pred, known=known, **facts)
    assert len(each) == n and each[~known.any(1)].isna().all(axis=None)
    np.testing.assert_allclose(each.mean(), table['score'][each.columns], atol=1e-12)
    with_ends = add_intervals(table, each)
    assert with_ends.loc['exact_match', ['low', 'high']].tolist() == list(bootstrap_interval(each['exact_match']))

    labels = label_table(scores, pred, targs, SPACE.vocab, known=known).set_index('label')
    for j, l in enumerate(SPACE.vocab):
        there = [i for i in range(n) if known[i, j]]; true = [i for i in there if targs[i, j]]; said = [i for i in there if pred[i, j]]
        right = len(set(true) & set(said)); assert labels['support'][l] == len(true)
        if true: np.testing.assert_allclose([labels['recall'][l], labels['f1'][l]], [right/len(true), f1_of(right, len(said), len(true))])
        if true and said: np.testing.assert_allclose(labels['precision'][l], right/len(said))
    np.testing.assert_allclose(labels['f1'].mean(), table['score']['f1_macro'], atol=1e-12)

@pytest.mark.parametrize('seed', range(5))
def test_without_holes_nothing_changes_and_scikit_learn_agrees(seed):
    scores, pred, targs = draw(seed, 40, 0.); scores = np.where(scores == -np.inf, 0., scores)
    known = known_cells(targs, SPACE); assert known.all()
    facts = dict(counts=targs.sum(0), groups=GROUPS, parents=PARENTS, k=3)
    a, b = (score_table(scores, targs, pred=pred, **facts, **o) for o in (dict(known=known), {}))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    a, b = (picture_scores(scores, targs, pred, **facts, **o) for o in (dict(known=known), {}))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    a, b = (label_table(scores, pred, targs, SPACE.vocab, **o) for o in (dict(known=known), {}))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    said = score_table(scores, targs, pred=pred, known=known, **facts)['score']
    for o in ('micro', 'macro', 'samples'): np.testing.assert_allclose(said[f'f1_{o}'], f1_score(targs, pred, average=o, zero_division=0))
    np.testing.assert_allclose(said['exact_match'], accuracy_score(targs, pred))
    np.testing.assert_allclose(said['mAP'], average_precision_score(targs, scores, average='macro'))
    for g, cols in GROUPS.items():
        np.testing.assert_allclose(said[f'accuracy/{g}'], accuracy_score(targs[:, cols], pred[:, cols]))
        np.testing.assert_allclose(group_accuracy(scores, targs, cols), accuracy_score(targs[:, cols].argmax(1), scores[:, cols].argmax(1)))

def test_a_score_by_hand():
    "Three pictures of a kind and a colour; nobody told the colour of the second, for which the model says blue."
    targs = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 1]]); pred = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]])
    space = LabelSpace(['top', 'shoe', 'red', 'blue'], dict(kind=['top', 'shoe'], colour=['red', 'blue']), {}, {})
    table = score_table(pred*1., targs, pred=pred, counts=[2, 1, 1, 1], groups=space.group_columns, known=known_cells(targs, space))
    assert table['score'][['exact_match', 'accuracy/kind', 'accuracy/colour']].tolist() == [2/3, 1., 1/2]
    assert table['score']['f1_micro'] == pytest.approx(2*4/(5 + 5)) and table['score']['f1_samples'] == pytest.approx((1 + 1 + .5)/3)
    assert label_table(pred*1., pred, targs, space.vocab, known=known_cells(targs, space))['f1'][3] == 0     # blue was missed once

def test_wrong_masks_are_named():
    x = np.ones((2, 3))
    with pytest.raises(CatalogError, match=r'known has shape \(3, 2\)'): only_known(x, x, x.T)
    with pytest.raises(CatalogError, match='no picture has a truth'): score_table(x, x, counts=[1]*3, known=x*0)
    with pytest.raises(CatalogError, match='known contains 2'): score_table(x, x, counts=[1]*3, known=x*2)

# -- what a truth is

def level(*names): return [f'level{i}={o}' for i, o in enumerate(names, 1)]

@pytest.fixture(scope='module')
def shelf():
    "Labels of folders of three levels, of which Carrots end at the second."
    paths = [level('Fruit', 'Apple', 'Gala'), level('Fruit', 'Apple', 'Fuji'), level('Vegetables', 'Carrots')]*3
    df = pd.DataFrame(dict(image='x.jpg', level1='', level2='', level3='', tags=paths, split=np.repeat(['train', 'valid', 'test'], 3)))
    return fit_labels(df, parents={'level3=Gala': 'level2=Apple', 'level3=Fuji': 'level2=Apple', 'level2=Apple': 'level1=Fruit',
                                   'level2=Carrots': 'level1=Vegetables'})

@pytest.mark.parametrize('tags,unknown', [
    (level('Fruit', 'Apple', 'Gala'), []), (level('Vegetables', 'Carrots'), []),                      # the end is the truth
    (level('Vegetables', 'Carrots', 'Nantaise'), ['level3']), (level('Fruit', 'Apple'), ['level3']),
    (level('Fruit', 'Kiwi'), ['level2', 'level3']), (level('Fruit', 'Kiwi', 'Hayward'), ['level2', 'level3']),
    (['level2=Carrots'], ['level1']), (['level3=Gala'], ['level1', 'level2'])])
def test_what_has_a_truth(shelf, tags, unknown):
    known = known_cells(shelf.one_hot([shelf.encode(tags)]), shelf, pd.DataFrame({'tags': [tags]}))[0]
    assert [g for g, cols in shelf.group_columns.items() if not known[cols].all()] == unknown
    assert all(known[cols].all() or not known[cols].any() for cols in shelf.group_columns.values())

def test_a_shorter_path_is_scored_as_the_answers_are(shelf):
    df = pd.DataFrame(dict(image=['a', 'b'], tags=[level('Vegetables', 'Carrots')]*2)); df, _ = apply_labels(df, shelf)
    pred = shelf.one_hot([['Vegetables', 'Carrots'], ['Vegetables', 'Carrots', 'Gala']])
    assert wrong_pictures(df, pred, shelf).tolist() == [False, True]
    table, _ = score_pictures(tiny_tagger(shelf), df, scores=pred*.98 + .01)
    assert table['score']['exact_match'] == 1.     # the answers end at Carrots, whatever the score of Gala

@pytest.mark.parametrize('seed', range(3))
def test_the_accuracy_of_a_level_is_that_of_the_answers(shelf, seed):
    "Levels are answered together, so the best label of a level by its own score may be another than the answer."
    r = np.random.default_rng(seed); paths = [shelf.lineage(l) for l in (*shelf.exclusive['level3'], *shelf.ends)]*20
    df = pd.DataFrame(dict(image=[str(i) for i in range(len(paths))], labels=paths))
    scores = np.clip(shelf.one_hot(paths)*.3 + r.random((len(paths), len(shelf.vocab)))*.6, .01, .99); tagger = tiny_tagger(shelf)
    table, _ = score_pictures(tagger, df, scores=scores)
    answers = [{t for t, _ in o} for o in decode(scores, shelf, k=None, min_score=.5)]; best = {}
    for g, labels in shelf.exclusive.items():
        right = [(a & set(labels)) == (set(o) & set(labels)) for a, o in zip(answers, paths) if set(o) & set(labels)]
        assert table['score'][f'accuracy/{g}'] == pytest.approx(np.mean(right))
        best[g] = group_accuracy(scores, shelf.one_hot(paths), shelf.group_columns[g])
    assert best != {g: table['score'][f'accuracy/{g}'] for g in best}
    assert table['score']['exact_match'] <= table['score']['accuracy/level1']

# -- catalogs

COLOURS = dict(Red=(200, 30, 30), Blue=(30, 60, 200), Green=(30, 150, 60), Black=(20, 20, 20))
KINDS = dict(Tshirts='Apparel', Belts='Accessories', Shoes='Footwear')

def shop(root, n, first=1000, **change):
    "A catalog of `n` squares of a colour and width; `change` maps a column to a function of row number and value."
    rows, r = [], np.random.default_rng(first); (root/'images').mkdir(parents=True)
    for i in range(n):
        kind, colour = list(KINDS)[i % 3], list(COLOURS)[i//3 % 4]
        im = np.full((48, 48, 3), 245) + r.integers(-9, 9, (48, 48, 3)); im[8:40, 4:[44, 14, 26][i % 3]] = COLOURS[colour]
        Image.fromarray(im.astype(np.uint8)).save(root/'images'/f'{first + i}.png')
        row = dict(id=first + i, masterCategory=KINDS[kind], articleType=kind, baseColour=colour)
        rows.append(row | {c: f(i, row.get(c)) for c, f in change.items()})
    pd.DataFrame(rows).to_csv(root/'styles.csv', index=False, quoting=csv.QUOTE_ALL)
    return root

COLUMNS = ('masterCategory', 'articleType', 'baseColour')

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A run that was trained on a shop in which every colour of belts and every seventh article type is missing."
    root = tmp_path_factory.mktemp('scores')
    shop(root/'shop', 120, baseColour=lambda i, v: '' if i % 3 == 1 else v, articleType=lambda i, v: 'None' if i % 7 == 0 else v)
    lines = []
    cfg = RunConfig(str(root/'shop'), str(root/'run'), label_columns=COLUMNS, size=48, bs=16, freeze_epochs=3, epochs=0)
    train_run(cfg, say=lines.append); (root/'lines.txt').write_text('\n'.join(lines))
    return root

@pytest.fixture
def run(place): return Run.open(place/'run')

def judged(tagger, df):
    "Answers, truths and what is known, all from the tags of `df`."
    space = tagger.space; answers = as_matrix(decide(tagger.scores(df['image']), space, tagger.decision), space)
    truth = space.one_hot(df['labels']); known = np.ones_like(truth)
    for cols in space.group_columns.values(): known[:, cols] = truth[:, cols].any(1, keepdims=True)
    return answers, truth, known

def test_training_leaves_holes_out_and_names_them(place, run):
    test = run.pictures('test'); answers, truth, known = judged(run.tagger(), test)
    holes = {g: int((known[:, cols[0]] == 0).sum()) for g, cols in run.labels.group_columns.items()}
    assert run.metrics['unscored']['test'] == {g: n for g, n in holes.items() if n} and holes['baseColour'] > 0 < holes['articleType']
    got = run.metrics['test']
    assert got['exact_match']['score'] == pytest.approx((answers*known == truth).all(1).mean())
    assert got['f1_micro']['score'] == pytest.approx(2*(answers & truth).sum()/((answers & known).sum() + truth.sum()))
    said = (place/'lines.txt').read_text()
    assert f'baseColour: {holes["baseColour"]} of {len(test)} pictures of test have no truth and are not scored' in said

def test_the_recorder_scores_by_the_same_rule(run):
    learn, space = run.learner(trust=True), run.labels
    assert 'recall@3' in run.history
    metric, valid = RecallAtK(2), run.pictures('valid')
    targs = torch.tensor(space.one_hot(valid['labels'])); logits = torch.randn(targs.shape, generator=torch.Generator().manual_seed(0))
    metric.reset()
    for i in range(0, len(targs), 8):
        learn.pred, learn.yb = logits[i:i+8], (targs[i:i+8],); learn.dls.space = space; metric.accumulate(learn)
    scores = learn.loss_func.activation(logits).numpy(); known = known_cells(targs.numpy(), space)
    want = score_table(scores, targs.numpy(), counts=space.counts, k=2, known=known)['score']['recall@2']
    assert metric.value == pytest.approx(want, abs=1e-6)
    assert want != pytest.approx(score_table(scores, targs.numpy(), counts=space.counts, k=2)['score']['recall@2'])

def test_the_report_names_holes_and_the_ceiling(run):
    page = run_page(run); n, of = run.metrics['unscored']['test']['baseColour'], run.metrics['pictures']['test']
    assert f'baseColour: {n} of {of} pictures of test have no truth and are not scored.' in page
    labels = [len(set(o)) for o in run.pictures('test')['labels']]
    assert f'precision@3 is at most {np.mean([min(3, o)/3 for o in labels]):.3f} on test' in page
    assert '>?</span>' in page and '– missed, ? no truth.' in page

def test_a_run_of_an_earlier_version_says_how_it_was_scored(place, tmp_path):
    old = shutil.copytree(place/'run', tmp_path/'old'); metrics = json.loads((old/'metrics.json').read_text())
    n = metrics.pop('unscored')['test']['baseColour']; (old/'metrics.json').write_text(json.dumps(metrics))
    assert (f'baseColour: {n} of {metrics["pictures"]["test"]} pictures of test have no truth; this run was scored by an earlier version'
            in run_page(Run.open(old)))

def scored(place, other, **kwargs):
    lines = []; res = evaluate_run(place/'run', other, say=lines.append, **kwargs)
    return res, '\n'.join(lines)

def test_an_empty_column_is_named_and_left_out(place, tmp_path):
    res, said = scored(place, shop(tmp_path/'o', 36, 5000, baseColour=lambda i, v: ''))
    full, _ = scored(place, shop(tmp_path/'full', 36, 5000))
    assert 'baseColour: 36 of 36 pictures have no truth and are not scored' in said.split('recall@3')[0]
    assert res['unscored'] == dict(baseColour=36) and res['scores']['accuracy/baseColour']['score'] is None
    for o in ('accuracy/masterCategory', 'accuracy/articleType'): assert res['scores'][o] == full['scores'][o]
    assert full['unscored'] == {} and 'not scored' not in said.split('have no truth and are not scored')[1]
    assert [o['support'] for o in res['labels'] if o['label'] in COLOURS] == [0]*4

def test_a_group_that_misses_its_truth_has_no_part_in_any_score(place, tmp_path):
    some = shop(tmp_path/'o', 36, 5000, baseColour=lambda i, v: '' if i % 2 else v, articleType=lambda i, v: 'Kaftans' if i % 5 == 0 else v)
    res, _ = scored(place, some)
    tagger = Run.open(place/'run').tagger()
    df, _ = apply_labels(read_catalog(some, label_columns=COLUMNS).df, tagger.space); answers, truth, known = judged(tagger, df)
    s, k = tagger.scores(df['image']), known.astype(bool)
    ranks = [sorted(np.flatnonzero(k[i]), key=lambda j: (-s[i, j], j))[:3] for i in range(len(df))]
    want = {'exact_match': (answers*known == truth).all(1).mean(),
            'f1_micro': 2*(answers & truth).sum()/((answers & known).sum() + truth.sum()),
            'recall@3': np.mean([truth[i, o].sum()/min(3, truth[i].sum()) for i, o in enumerate(ranks)]),
            'precision@3': np.mean([truth[i, o].sum()/3 for i, o in enumerate(ranks)])}
    for name, o in want.items(): assert res['scores'][name]['score'] == pytest.approx(o), name
    assert res['unscored'] == dict(articleType=8, baseColour=18)

def test_unknown_labels_are_in_no_score_and_told(place, tmp_path):
    def respelt(i, v): return dict(Belts='Kaftans', Tshirts='t-shirts', Shoes=' SHOES')[v]
    res, said = scored(place, shop(tmp_path/'o', 36, 5000, articleType=respelt))
    assert ('2 labels are unknown to the run and not scored: articleType=Kaftans (12 pictures), '
            'articleType=t-shirts (12 pictures, did you mean Tshirts?)') in said
    assert 'articleType: 24 of 36 pictures have no truth and are not scored' in said
    assert res['unknown_labels'] == ['articleType=Kaftans', 'articleType=t-shirts']
    assert res['did_you_mean'] == {'articleType=t-shirts': 'Tshirts'} and res['unscored'] == dict(articleType=24)
    assert [o['support'] for o in res['labels'] if o['label'] == 'Shoes'] == [12]     # another case is the same label

def test_a_catalog_of_unknown_labels_alone_is_an_error_that_proposes(place, tmp_path):
    change = {c: (lambda i, v: f'{v[:2]}-{v[2:]}') for c in COLUMNS}
    with pytest.raises(CatalogError, match=r'nothing of .* is left to score.*Ap-parel \(12 pictures, did you mean Apparel\?\)'):
        scored(place, shop(tmp_path/'o', 36, 5000, **change))

def test_an_unknown_free_tag_changes_no_score():
    space = LabelSpace(['new', 'sale'], {}, {}, {o: dict(label=o, count=3, rule='kept') for o in ('new', 'sale')})
    df = pd.DataFrame(dict(image=list('abc'), tags=[['new'], ['sale', 'boho'], ['new', 'sale', 'boho']]))
    scores = np.array([[.9, .1], [.6, .8], [.9, .2]])
    one, two = (score_pictures(tiny_tagger(space), apply_labels(df.assign(tags=o), space)[0], scores=scores)[0]
                for o in (df['tags'], [[t for t in o if t != 'boho'] for o in df['tags']]))
    pd.testing.assert_frame_equal(one, two)
    assert report_unknown(unknown_tags(df, space)) == ['1 label is unknown to the run and not scored: boho (2 pictures)']

@pytest.mark.parametrize('tag,near', [('type=t-shirts', 'Tshirts'), ('type=T Shirt', 'Tshirts'), ('type=Tshrits', 'Tshirts'),
                                      ('type=casual_shoes', 'Casual Shoes'), ('type=Kaftans', None), ('colour=Tshirts', None),
                                      ('on sale!', 'on sale'), ('Tshirts', None), ('type=!', None)])
def test_similar_labels_are_of_the_same_group(tag, near):
    space = LabelSpace(['Tshirts', 'Casual Shoes', 'Red', 'on sale'], dict(type=['Tshirts', 'Casual Shoes'], colour=['Red']), {}, {})
    assert nearest_label(tag, space) == near

def test_products_are_scored_by_the_same_rule():
    space = LabelSpace(['top', 'shoe', 'red', 'blue'], dict(kind=['top', 'shoe'], colour=['red', 'blue']), {}, {})
    df = pd.DataFrame(dict(image=list('abcd'), product=['P', 'P', 'Q', 'Q'], labels=[['top', 'red'], ['top'], ['shoe'], ['shoe']]))
    scores = np.array([[.9, .1, .9, .1], [.9, .1, .2, .8], [.1, .9, .7, .3], [.2, .8, .6, .4]])
    res = score_products(tiny_tagger(space), df, scores=scores)
    assert res['picture']['exact_match']['score'] == 1. and res['product']['exact_match']['score'] == 1.
    assert res['product']['accuracy/colour']['score'] == 1.      # of P alone, by its first picture
    flipped = score_products(tiny_tagger(space), df, scores=scores[:, [0, 1, 3, 2]])     # red and blue change places
    assert flipped['picture']['exact_match']['score'] == 3/4 and flipped['product']['exact_match']['score'] == 1/2

def test_confusion_counts_leave_holes_out():
    space = LabelSpace(['red', 'blue', 'new'], dict(colour=['red', 'blue']), {}, {})
    df = pd.DataFrame(dict(image=list('ab'), labels=[['red'], ['new']])); pred = space.one_hot([['red'], ['blue', 'new']])
    assert label_confusion(df, pred, space).loc['blue'].tolist() == [0, 0, 0, 1]
    assert wrong_pictures(df, pred, space).tolist() == [False, False]

# -- columns that hold nothing

@pytest.mark.parametrize('command', ['check', 'train'])
@pytest.mark.parametrize('options,says', [
    (['--label-columns', 'void', 'articleType'],
     'the column void holds no label: all its cells are empty; to do without it, leave it out of --label-columns'),
    (['--label-columns', 'void'], 'the column void holds no label'),
    (['--label-columns', 'words', 'articleType'], "the column words holds no label: its words mean an empty cell, such as 'None'; to keep "
     'them as labels: --empty none'),
    (['--tags-column', 'void'], 'the column void holds no label: all its cells are empty; to do without it, leave it out of --tags-column'),
    (['--label-columns', 'late', 'articleType', '--where', 'id < 1012'], 'the column late holds no label: all its cells are empty'),
    (['--product', 'void'], 'all cells of the column void are empty')])
def test_a_column_that_was_asked_for_and_holds_nothing_is_an_error(command, options, says, tmp_path, capsys):
    root = shop(tmp_path/'shop', 24, void=lambda i, v: ' ', words=lambda i, v: ['None', 'NA', 'null'][i % 3],
                late=lambda i, v: 'x' if i > 12 else '')
    base = [] if '--label-columns' in options else ['--label-columns', 'articleType']
    assert main([command, str(root), *(['--out', str(tmp_path/'r')] if command == 'train' else []), *base, *options]) == 2
    assert says in capsys.readouterr().err

def test_words_for_empty_are_labels_on_request(tmp_path, capsys):
    root = shop(tmp_path/'shop', 36, words=lambda i, v: ['None', 'NA', 'null'][i % 3])
    assert main(['check', str(root), '--label-columns', 'words', '--empty', 'none']) == 0 and 'None 7' in capsys.readouterr().out

def test_a_default_column_that_is_empty_is_told_and_no_error(tmp_path, capsys):
    root = shop(tmp_path/'shop', 36, subCategory=lambda i, v: '')
    assert main(['check', str(root)]) == 0 and 'the column subCategory holds no label' in capsys.readouterr().out

def test_a_column_of_which_no_label_is_left_is_told(tmp_path, capsys):
    root = shop(tmp_path/'shop', 36, sku=lambda i, v: f'S{i}')
    assert main(['check', str(root), '--label-columns', 'sku', 'articleType', '--product', 'none']) == 0
    assert 'no label of the column sku is left: sku=S' in capsys.readouterr().out

# -- runs with other labels

@pytest.fixture(scope='module')
def two(place):
    "A second run on the same shop, of one column."
    cfg = replace(Run.open(place/'run').config, out=str(place/'one'), label_columns=('masterCategory',))
    train_run(cfg, say=lambda o: None)
    return [Run.open(place/'run'), Run.open(place/'one')]

def test_runs_with_other_labels_are_compared_on_what_they_share(two, tmp_path):
    page = compare_page(two); names = [len(o.labels.vocab) for o in two]
    assert f'These runs have different labels (run: {names[0]}, one: {names[1]})' in page
    assert 'Only accuracy/masterCategory is over the same labels' in page and re.search(r'precision@3: \d\.\d+ in run, 0\.333 in one', page)
    html = re.search('<table>.*?</table>', page[page.index('id="scores"'):], re.S)[0]
    rows = [[re.sub('<.*?>', '', o) for o in re.findall('<t[hd].*?</t[hd]>', row)] for row in re.findall('<tr>.*?</tr>', html)]
    table = pd.DataFrame(rows[1:], columns=rows[0]).set_index('score')
    assert (table['one: difference'] != '–').pipe(lambda o: o[o].index.tolist()) == ['accuracy/masterCategory']
    for k, r in zip(('run', 'one'), two):
        assert table[f'{k}: most frequent'].tolist() == [f'{r.metrics["valid"][o]["commonest"]:.3f}' for o in table.index]
    copy = shutil.copytree(two[0].folder, tmp_path/'copy')
    assert 'different labels' not in compare_page([two[0], Run.open(copy)])

def test_the_table_of_compare_has_a_baseline_for_each(two, tmp_path):
    df = compare_runs([o.folder for o in two], say=lambda o: None)
    assert df['model'].str.startswith('baseline').tolist() == [True, True, False, False]
    for i, r in enumerate(two): assert df['valid'][i] == pytest.approx(r.metrics['valid'][df['metric'][i]]['commonest'])
    assert df['settings'][:2].tolist() == df['settings'][2:].tolist()
    assert 'The runs have 2 baselines, because they have different labels or pictures' in write_comparison(df, tmp_path/'c')
    holes = two[0].metrics['unscored']['valid']
    assert f'baseColour: {holes["baseColour"]} of {two[0].metrics["pictures"]["valid"]} pictures of valid ' in df['unscored'][2]
    assert df['unscored'].isna().tolist() == [True, True, False, True] and df['unscored'][2] in (tmp_path/'c.md').read_text()
    alike = compare_runs([two[0].folder]*2, say=lambda o: None)
    assert len(alike) == 3 and 'baselines' not in write_comparison(alike, tmp_path/'d')

# -- label issues of little

LITTLE = LabelSpace(['a', 'b', 'c', 'only', 'x', 'y'], dict(abc=['a', 'b', 'c'], one=['only']), {}, {})

@pytest.mark.parametrize('labels,rows', [
    ([], 0), ([['a']], 1), ([['b']], 0), ([['a']]*2, 2), ([['b']]*2, 0), ([['only']]*3, 0), ([['x']]*2, 2), ([[]]*2, 0),
    ([['a'], ['b']], 1), ([['a', 'only', 'x'], ['b', 'y']], None)])
def test_issues_of_one_label_or_picture_are_a_table(labels, rows):
    scores = np.tile([.05, .9, .05, .9, .2, .1], (len(labels), 1))     # says b, in every picture
    found = label_issues(pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(len(labels))], labels=labels)), scores, LITTLE)
    assert found.columns.tolist() == ['image', 'kind', 'tag', 'instead', 'score', 'labels']
    assert rows is None or len(found) == rows
    assert set(found['kind']) <= {'wrong', 'missing', 'doubtful'}

# -- long labels

LONG = 'x'*200

def test_the_printed_table_keeps_its_numbers_in_sight():
    lines = []
    report_scores(pd.DataFrame(dict(score=[.5, .25]), ['recall@3', f'accuracy/{LONG}']), lines.append)
    *_, row = lines[0].splitlines()
    assert len(row) < 60 and row.startswith('accuracy/xxx') and row.endswith('0.250')

@pytest.mark.parametrize('width', [1000, 390])
def test_a_long_label_pushes_no_number_out_of_the_report(page, width, run, tmp_path, place):
    moved = shutil.copytree(place/'run', tmp_path/'run'); metrics = json.loads((moved/'metrics.json').read_text())
    for o in metrics['labels']: o['label'] = o['label'] + LONG
    (moved/'metrics.json').write_text(json.dumps(metrics)); file = tmp_path/'r.html'
    file.write_text(run_page(Run.open(moved)), encoding='utf-8')
    page.set_viewport_size(dict(width=width, height=700)); page.goto(file.as_uri())
    box = page.locator('section:has(#each-label) .wide')
    assert box.evaluate('o => o.querySelector("tbody td").getBoundingClientRect().right <= o.getBoundingClientRect().right')
    assert page.evaluate('document.documentElement.scrollWidth') == width
