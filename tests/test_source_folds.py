"Folds that come with the source: every label of train is kept, and nothing is fitted or scored where a fold lacks it."
import json, shutil, warnings

import numpy as np, pandas as pd, pytest
from PIL import Image

from catalog_tagger.apps.check import catalog_facts, report_facts
from catalog_tagger.catalog.labels import apply_labels, fit_labels, missing_labels, report_missing
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.catalog.recipe import fit_recipe
from catalog_tagger.catalog.split import join_units, report_torn, split_audit, split_catalog, split_summary
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.metrics import f1, label_table, mean_average_precision
from catalog_tagger.report.report import write_report
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.train import train_run
from catalog_tagger.serve.calibrate import fit_calibration
from catalog_tagger.serve.decide import decide, fit_decision
from catalog_tagger.serve.modes import MODES
from catalog_tagger.serve.thresholds import fit_thresholds
from catalog_tagger.testing.tiny import overconfident, tiny_scores, tiny_space

def table(**folds):
    "A picture for each tag named in each fold."
    rows = [(t, f) for f, tags in folds.items() for t in tags.split()]
    return pd.DataFrame({'image': [f'{i}.jpg' for i in range(len(rows))], 'tags': [[t] for t, _ in rows], 'split': [f for _, f in rows]})

# Labels

@pytest.mark.parametrize('folds, given, made', [
    (dict(train='a a b c', valid='a b', test='a c'), 'a b c', 'a'),
    (dict(train='a', valid='b', test='c'), 'a', None),
    (dict(train='a b', valid='a', test='a b'), 'a b', 'a'),
    (dict(train='a b', valid='z', test='a b z'), 'a b', None),      # what train lacks is never a label
    (dict(train='a b', test='a'), 'a b', 'a')])                     # as in cross-validation
def test_which_labels_are_kept(folds, given, made):
    df = table(**folds)
    assert fit_labels(df, source_folds=True).vocab == given.split()
    if made: assert fit_labels(df).vocab == made.split()
    else:
        with pytest.raises(CatalogError, match='in every fold'): fit_labels(df)

def test_a_recipe_keeps_them_too():
    df = table(train='Shoes shoes Hat', valid='shoes', test='shoes')
    space = fit_labels(df, recipe=fit_recipe(df, [dict(step='normalise')]), source_folds=True)
    assert space.vocab == ['shoes', 'hat'] and space.counts.tolist() == [2, 1]

def test_min_count_still_holds():
    df = table(train='a a b', valid='a', test='a')
    assert fit_labels(df, min_count=2, source_folds=True).vocab == ['a']
    with pytest.raises(CatalogError, match='none of 2 tags is in train with min_count=3'): fit_labels(df, min_count=3, source_folds=True)

def test_missing_labels_are_reported_in_one_sentence_each():
    df = table(train='a a a b b c', valid='a', test='a b')
    space = fit_labels(df, source_folds=True)
    missing = missing_labels(apply_labels(df, space)[0], space)
    assert missing == dict(valid=['b', 'c'], test=['c'])
    assert report_missing(missing) == ['2 labels are not in valid, such as b: they take the common threshold and calibration',
                                       '1 label is not in test, c: it gets no score']
    assert report_missing(dict(valid=[], test=[])) == report_missing({}) == []

@pytest.mark.parametrize('seed', range(8))
def test_train_keeps_what_no_other_unit_has(seed):
    "A source with train and one other fold: valid is split off train, and a tag of a single unit stays where it can be learned."
    df = table(train='a '*20 + 'b '*12 + 'x y z', val='a b', ).replace('val', 'valid')
    df.loc[df['tags'].map(lambda o: o == ['x']), 'tags'] = pd.Series([['x', 'a']], df.index[df['tags'].map(lambda o: o == ['x'])])
    res, _ = split_catalog(df, seed=seed)
    assert set(res['split'][df['split'] == 'valid']) == {'test'}
    assert set(fit_labels(res, source_folds=True).vocab) == set('abxyz')
    assert .15 < (res['split'] == 'valid').sum()/(df['split'] == 'train').sum() < .35

def test_valid_is_not_emptied_for_them():
    df = pd.DataFrame({'image': [f'{i}' for i in range(60)], 'tags': [[f'own {i}', 'all'] for i in range(60)],
                       'split': ['train']*40 + ['test']*20})
    assert (split_catalog(df)[0]['split'] == 'valid').sum() == 10

# Torn units

def torn(**folds):
    "The sentence on a table whose pictures have these units in each fold."
    rows = [(u, f) for f, units in folds.items() for u in units.split()]
    df = pd.DataFrame({'image': [f'shop/{u}{i}.jpg' for i, (u, _) in enumerate(rows)], 'product': [u for u, _ in rows],
                       'tags': [['a']]*len(rows),
                       'split': [f for _, f in rows]})
    df = join_units(df)
    return report_torn(split_summary(df, split_audit(df)))

def test_torn_units_are_counted_with_an_example():
    assert torn(train='a b', valid='c', test='d') == []
    assert torn(train='a b a', valid='c', test='d a') == [
        '1 unit is in more than one fold, such as shop/a0.jpg in train and shop/a5.jpg in test: scores will be too high']
    two = torn(train='a b', valid='a', test='b')[0]
    assert two.startswith('2 units are in more than one fold, such as shop/a0.jpg in train and shop/a2.jpg in valid')

def test_a_picture_in_two_folds():
    df = join_units(pd.DataFrame({'image': ['x.jpg', 'y.jpg', 'x.jpg'], 'tags': [['a']]*3, 'split': ['train', 'valid', 'test']}))
    assert report_torn(split_summary(df, split_audit(df))) == [
        '1 unit is in more than one fold, such as x.jpg in train and x.jpg in test: scores will be too high']
    with pytest.warns(UserWarning, match='in the split of the source 1 unit is in more than one fold, such as x.jpg'): split_catalog(df)

def test_folds_that_we_make_tear_nothing():
    df = join_units(pd.DataFrame({'image': [f'{i}.jpg' for i in range(30)], 'tags': [['a']]*30, 'product': [f'{i//3}' for i in range(30)]}))
    res, audit = split_catalog(df)
    assert report_torn(split_summary(res, audit)) == []

# What is fitted on valid

@pytest.fixture(scope='module')
def lacking():
    "Scores and truth of a valid fold without Sandals, Heels and sale, labels number 7, 5 and 9."
    p, targs = tiny_scores(); rows = ~targs[:, [5, 7, 9]].any(1)
    return tiny_space(), overconfident(p)[rows], targs[rows]

@pytest.mark.parametrize('prior', [0, 10])
def test_a_label_without_examples_takes_the_common_threshold(lacking, prior):
    space, p, targs = lacking
    res, common = fit_thresholds(p, targs, space, prior=prior), fit_thresholds(p, targs, space, prior=1e15)
    assert np.isfinite(res.drop(columns='label').to_numpy(float)).all()
    for i in (5, 7, 9):
        assert res['support'][i] == 0
        for mode in MODES: assert res[mode][i] == pytest.approx(common[mode][0], abs=1e-6), (mode, i)

def test_and_the_common_calibration(lacking):
    space, p, targs = lacking
    cal = fit_calibration(p, targs, space)
    common = fit_calibration(p, targs, space, prior=1e9)
    for i in (5, 7, 9):
        assert cal.slope[i] == pytest.approx(common.slope[0], abs=1e-3) and cal.shift[i] == pytest.approx(common.shift[0], abs=1e-3)
    assert np.std([cal.shift[i] for i in (0, 2, 8)]) > .01     # the others have their own

def test_a_group_that_valid_lacks_has_no_promise():
    space, p, targs = tiny_space(), *tiny_scores()
    targs = targs.copy(); targs[:, 2:8] = 0
    decision = fit_decision(overconfident(p), targs, space)
    assert 'articleType' not in decision.publish and decision.limits['high_precision']['articleType'] == 1
    assert np.isfinite([*decision.calibration.slope, *decision.calibration.shift, *decision.thresholds['balanced']]).all()
    assert all(len(decide(p, space, decision, m)) == len(p) for m in decision.modes)

# Scores

def test_a_label_that_the_fold_lacks_has_no_score():
    scores, targs = np.array([[.9, .8, .1], [.2, .9, .7], [.6, .7, .2]]), np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    pred = (scores > .5).astype(int)
    tab = label_table(scores, pred, targs, ['a', 'b', 'c']).set_index('label')
    assert tab.loc['b', ['precision', 'recall', 'f1', 'average_precision']].isna().all()
    assert tab['note'].to_dict() == {'a': '', 'b': 'not in this fold: no score', 'c': ''}
    assert tab['f1'].mean() == f1(pred, targs, 'macro') == 1
    assert tab['average_precision'].mean() == mean_average_precision(scores, targs) == 1

# A run

COLOURS = dict(red=(200, 20, 30), green=(30, 180, 40), blue=(30, 40, 200), gold=(220, 190, 40))

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    "Folders of folds and of classes: valid lacks gold, test lacks blue."
    root = tmp_path_factory.mktemp('shop')/'shop'; gen = np.random.default_rng(0)
    for fold, names, n in (('train', 'red green blue gold', 16), ('valid', 'red green blue', 8), ('test', 'red green gold', 8)):
        for name in names.split():
            (root/fold/name).mkdir(parents=True)
            for i in range(n):
                x = np.clip(COLOURS[name] + gen.normal(0, 25, (24, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(x).save(root/fold/name/f'{i}.png')
    return root

def test_check_reports_them(shop):
    lines = []; cfg = RunConfig(str(shop), 'unused')
    facts = catalog_facts(cfg, prepare_catalog(cfg))
    report_facts(facts, lines.append)
    assert facts['missing_labels'] == dict(valid=['gold'], test=['blue']) and len(facts['labels']) == 4
    assert '  1 label is not in valid, gold: it takes the common threshold and calibration' in lines
    assert '  1 label is not in test, blue: it gets no score' in lines
    assert json.loads(json.dumps(facts)) == facts

def test_check_reports_torn_units(shop, tmp_path):
    root = tmp_path/'shop'; shutil.copytree(shop, root)
    shutil.copy(root/'train'/'red'/'3.png', root/'test'/'red'/'copy.png')
    lines = []; cfg = RunConfig(str(root), 'unused')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        facts = catalog_facts(cfg, prepare_catalog(cfg))
    report_facts(facts, lines.append)
    assert (facts['split']['units_across'], facts['split']['across_example']) == (1, 'red/copy.png in test and red/3.png in train')
    assert '  1 unit is in more than one fold, such as red/copy.png in test and red/3.png in train: scores will be too high' in lines

def test_trained_for_real(shop, tmp_path):
    lines = []
    metrics = train_run(RunConfig(str(shop), str(tmp_path/'run'), size=32, freeze_epochs=2, epochs=0), lines.append)
    assert '1 label is not in valid, gold: it takes the common threshold and calibration' in lines
    assert metrics['missing_labels'] == dict(valid=['gold'], test=['blue'])
    run = Run.open(tmp_path/'run'); tagger, space = run.tagger(), run.labels
    assert sorted(space.vocab) == sorted(COLOURS)
    decision, gold = tagger.decision, space.vocab.index('gold')
    assert decision.support[gold] == 0
    thresholds = np.array(list(decision.thresholds.values()))
    assert np.isfinite(thresholds).all() and np.isfinite(decision.calibration.slope + decision.calibration.shift).all()
    rows = {o['label']: o for o in metrics['labels']}
    assert rows['blue']['f1'] is None and rows['blue']['note'] == 'not in this fold: no score'
    assert rows['gold']['f1'] is not None and metrics['test']['f1_macro']['score'] == pytest.approx(
        np.mean([rows[o]['f1'] for o in ('red', 'green', 'gold')]))
    page = write_report([tmp_path/'run'], tmp_path/'report.html').read_text()
    assert '1 label is not in test, blue: it gets no score' in page and 'not in this fold: no score' in page
