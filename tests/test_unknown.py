"Present, absent and unknown: what nobody said is in no score, from the reader to the report."
import json

import numpy as np, pandas as pd, pytest, torch
from PIL import Image

from catalog_tagger.apps.cli import main
from catalog_tagger.catalog.labels import count_unscored, known_cells, mark_unknown
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.report.interpret import label_confusion, loss_cells, wrong_pictures
from catalog_tagger.report.label_issues import label_issues
from catalog_tagger.runs.evaluate import evaluate_run
from catalog_tagger.runs.folder import Run
from catalog_tagger.serve.answers import as_matrix
from catalog_tagger.serve.calibrate import fit_calibration
from catalog_tagger.serve.decide import decide, fit_decision
from catalog_tagger.serve.products import product_truth
from catalog_tagger.train.fastai_metrics import RecallAtK

TAGS = ('red', 'wool', 'long', 'striped')

def draw(path, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (24, 24), ((i*37) % 256, (i*91) % 256, (i*53) % 256)).save(path)

def flags(root, n=80, seed=0):
    "An attribute list in the form of DeepFashion: 1, -1, and 0 for unknown; returns its values."
    values = np.random.default_rng(seed).choice([1, -1, 0], (n, len(TAGS)), p=[.4, .4, .2])
    values[:, 0] = np.where(np.arange(n) % 2, 1, -1)
    for i in range(n): draw(root/'images'/f'{i}.jpg', i)
    pd.DataFrame(values, columns=TAGS).assign(image_name=[f'{i}.jpg' for i in range(n)]).to_csv(root/'list_attr.csv', index=False)
    return values

# ---- What readers keep

def test_a_value_for_unknown_is_kept_and_not_absent(tmp_path):
    values = flags(tmp_path); df = read_catalog(tmp_path).df
    for i, o in enumerate(df['row']):
        assert df['tags'][i] == [t for t, v in zip(TAGS, values[o]) if v == 1]
        assert df['unknown'][i] == [t for t, v in zip(TAGS, values[o]) if v == 0]
    assert 'absent' not in df

def test_open_lists_keep_what_is_absent(tmp_path):
    values = flags(tmp_path); catalog = read_catalog(tmp_path, unlisted='unknown'); df = catalog.df
    assert df['absent'].tolist() == [[t for t, v in zip(TAGS, values[o]) if v == -1] for o in df['row']] and 'unknown' not in df
    n = (values == -1).sum()
    assert any(f'{n} tags are known to be absent, such as ' in o for o in catalog.notes)

def open_images(root, rows):
    pd.DataFrame(rows, columns=['ImageID', 'LabelName', 'Confidence']).to_csv(root/'labels.csv', index=False)
    for o in {r[0] for r in rows}: draw(root/f'{o}.jpg', ord(o))

def test_open_images_says_what_is_absent_and_two_answers_that_differ_say_nothing(tmp_path):
    open_images(tmp_path, [('a', 'Dog', 1), ('a', 'Cat', 0), ('b', 'Cat', 1), ('b', 'Hat', 1), ('b', 'Dog', 0), ('b', 'Dog', 1)])
    df = read_catalog(tmp_path).df.set_index('row')
    assert sorted(zip(df['tags'].map(tuple), df['absent'].map(tuple))) == [(('Cat', 'Hat'), ()), (('Dog',), ('Cat',))]

def test_a_tie_of_annotators_on_a_free_tag_is_unknown(tmp_path):
    def task(i, *votes):
        return dict(id=i, data=dict(image=f'{i}.jpg'), annotations=[dict(was_cancelled=False, result=[
            dict(from_name='style', type='choices', value=dict(choices=list(v)))]) for v in votes])
    (tmp_path/'p.json').write_text(json.dumps([task(0, ['red', 'wool'], ['red']), task(1, ['wool', 'long'], ['wool', 'long'])]))
    for i in range(2): draw(tmp_path/f'{i}.jpg', i)
    catalog = read_catalog(tmp_path)
    assert catalog.df['tags'].tolist() == [['red'], ['wool', 'long']] and catalog.df['unknown'].tolist() == [['wool'], []]
    assert '1 answers are unknown, because annotators are divided, such as wool for style' in catalog.notes

def test_rows_of_a_picture_are_joined_in_all_lists(tmp_path):
    pd.DataFrame(dict(image_name=['0.jpg', '0.jpg', '1.jpg'], red=[1, 0, 1], wool=[-1, 0, 1])).to_csv(tmp_path/'list_attr.csv', index=False)
    for i in range(2): draw(tmp_path/f'{i}.jpg', i)
    df = read_catalog(tmp_path).df
    assert df['tags'].tolist() == [['red'], ['red', 'wool']] and df['unknown'].map(set).tolist() == [{'red', 'wool'}, set()]

def test_columns_named_as_ours_are_the_shops(tmp_path):
    pd.DataFrame(dict(image=['0.jpg', '1.jpg'], tags=['red', 'wool'], absent='x', unknown='y')).to_csv(tmp_path/'t.csv', index=False)
    for i in range(2): draw(tmp_path/f'{i}.jpg', i)
    df = read_catalog(tmp_path).df
    assert not {'absent', 'unknown'} & set(df) and df['source.unknown'].tolist() == ['y', 'y']

# ---- Nothing is measured where nobody knows

def posts(root, n=60):
    df = pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(n)], tags=[('red', 'red;wool')[i % 2] for i in range(n)]))
    df.to_csv(root/'t.csv', index=False)
    for i in range(n): draw(root/f'{i}.jpg', i)

def test_open_lists_without_any_absence_are_refused_in_one_line(tmp_path, capsys):
    posts(tmp_path)
    assert main(['check', str(tmp_path), '--unlisted', 'unknown']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'no picture of valid is known to lack a free tag' in err and '--unlisted' in err
    assert main(['check', str(tmp_path)]) == 0

def test_an_option_without_effect_is_refused(tmp_path):
    for k in 'ab': draw(tmp_path/k/'0.jpg', ord(k))
    with pytest.raises(CatalogError, match='unlisted'): prepare_catalog(RunConfig(str(tmp_path), 'run', unlisted='unknown'))

# ---- A run

@pytest.fixture(scope='module')
def place(tmp_path_factory): return tmp_path_factory.mktemp('unknown')

@pytest.fixture(scope='module')
def values(place): return flags(place/'shop')

@pytest.fixture(scope='module')
def run(place, values):
    assert main(['train', str(place/'shop'), '--out', str(place/'run'), '--size', '32', '--bs', '16', '--freeze-epochs', '2',
                 '--epochs', '0', '--tta', '1']) == 0
    return Run.open(place/'run')

def truth_of(run, values, fold):
    "The values of the list, by the labels of the run, as 1, 0 and nan."
    df = run.pictures(fold); at = [TAGS.index(o) for o in run.labels.vocab]
    picture = [int(o.rpartition('/')[2].partition('.')[0]) for o in df['image']]
    return df, np.select(
        [values[picture][:, at] == 1, values[picture][:, at] == -1], [1., 0.], np.nan)

def test_a_run_scores_what_is_known(run, values):
    df, truth = truth_of(run, values, 'test'); tagger = run.tagger(); known = ~np.isnan(truth)
    assert known.any() and not known.all()
    assert np.array_equal(mark_unknown(run.labels.one_hot(df['labels']), df, run.labels), truth, equal_nan=True)
    answers = as_matrix(decide(tagger.scores(df['image']), run.labels, tagger.decision), run.labels)
    y = np.nan_to_num(truth)
    assert run.metrics['test']['exact_match']['score'] == pytest.approx(((answers == y) | ~known).all(1).mean())
    assert run.metrics['test']['f1_micro']['score'] == pytest.approx(2*(answers*y).sum()/((answers*known).sum() + y.sum()))
    assert run.metrics['unscored']['test'] == {'free tags': int((~known).sum())}

def test_a_decision_does_not_see_unknown_cells(run, values):
    "It is fitted as if they were another number, and as the run's own decision was."
    df, truth = truth_of(run, values, 'valid'); tagger, space = run.tagger(), run.labels; scores = tagger.scores(df['image'])
    decision = fit_decision(scores, truth, space)
    for m, o in decision.thresholds.items(): assert np.allclose(o, tagger.decision.thresholds[m], atol=1e-4)
    assert decision.support == np.nansum(truth, 0).astype(int).tolist()
    other = np.where(np.isnan(truth), .5, scores)
    assert np.allclose(fit_calibration(other, truth, space).slope, decision.calibration.slope, atol=1e-3)
    assert not np.allclose(fit_calibration(scores, np.nan_to_num(truth), space).shift, decision.calibration.shift, atol=1e-3)

def test_the_recorder_scores_what_is_known(run, values):
    learn = run.learner(trust=True); df, truth = truth_of(run, values, 'valid'); known = ~np.isnan(truth); y = np.nan_to_num(truth)
    assert 'recall@3' in run.history
    class Rows: items = df
    class Loader: dataset, shuffle = Rows, False
    logits = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)); metric = RecallAtK(1); metric.reset()
    for i in range(0, len(y), 8):
        learn.dl, learn.pred, learn.yb = Loader, logits[i:i + 8], (torch.tensor(y[i:i + 8]),); learn.dls.space = run.labels
        metric.accumulate(learn)
    first = np.where(known, logits.numpy(), -np.inf).argmax(1); some = y.any(1)
    assert metric.value == pytest.approx(y[np.arange(len(y)), first][some].mean(), abs=1e-6)

def test_evaluate_and_the_pages_leave_unknown_cells_out(run, values, place, capsys):
    df, truth = truth_of(run, values, 'test'); known = ~np.isnan(truth)
    assert main(['evaluate', str(place/'run'), str(place/'shop')]) == 0
    n = int((values[:, [TAGS.index(o) for o in run.labels.vocab]] == 0).sum())
    out = capsys.readouterr(); assert 'free tags: of ' in out.out + out.err
    pred, p = np.ones(truth.shape), np.full(truth.shape, .9)
    table = label_confusion(df, pred, run.labels)
    assert table['wrong'].tolist() == ((truth == 0)).sum(0).tolist() and table.sum(1).tolist() == known.sum(0).tolist()
    assert wrong_pictures(df, pred, run.labels).tolist() == (truth == 0).any(1).tolist()
    assert np.array_equal(np.isnan(loss_cells(df, p, run.labels)), ~known)
    assert count_unscored(known_cells(run.labels.one_hot(df['labels']), run.labels, df), run.labels) == {'free tags': int((~known).sum())}

def test_an_unknown_tag_is_no_missing_label(run, values):
    pytest.importorskip('cleanlab')
    df, truth = truth_of(run, values, 'train'); space = run.labels
    issues = label_issues(df, np.where(np.nan_to_num(truth, nan=1) == 1, .95, .05), space)
    assert not len(issues[issues['kind'] == 'missing'])

def test_a_product_knows_what_one_of_its_pictures_tells(run):
    nan = np.nan; truth = np.array([[1, nan, nan, 0], [nan, 0, nan, 1.], [nan, nan, nan, nan]])
    space = run.labels
    got, clash = product_truth(truth[:, :len(space.vocab)], ['A', 'A', 'B'], space)
    assert np.array_equal(got, [[1, 0, nan, 1], [nan]*4], equal_nan=True) and clash == 0

def test_the_stored_split_keeps_the_lists(run):
    assert set(run.split['unknown'].explode().dropna()) <= set(TAGS) and run.split['unknown'].map(len).sum() > 0
