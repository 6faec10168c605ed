"The comparison of runs: each figure of a row against the files that a run left, and the interval against a plain loop."
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np, pandas as pd, pytest

import catalog_tagger.runs.compare as room
from catalog_tagger.core.render import markdown_table
from catalog_tagger.runs.compare import compare, compare_runs, run_grid, run_row, write_comparison
from catalog_tagger.core.config import RunConfig
from catalog_tagger.runs.folder import Run
from catalog_tagger.core.files import CatalogError, write_json
from catalog_tagger.core.process import rng
from catalog_tagger.core.table import write_table
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.core.metrics import (METRICS, Metric, add_intervals, bootstrap_interval, exact_match, find_metric,
                                         answer_accuracy, picture_scores, recall_at_k, score_table)
from catalog_tagger.report.plots import history_plot, rate_plot

def score(x, low, high): return dict(score=x, low=low, high=high, nothing=0., commonest=.4)

def leave_run(cfg, valid=.8, train=.9, stages=('frozen', 'unfrozen'), single=False, n_labels=3, seconds=12.5, floor=.4,
              training='frozen, then unfrozen, with augmentation; 9 of 9 parameters learn'):
    "A folder as a run leaves it, as far as the comparison reads it."
    out = Path(cfg.out); out.mkdir(parents=True, exist_ok=True)
    vocab = [f'l{i}' for i in range(n_labels)]
    LabelSpace(vocab, {'kind': vocab} if single else {}, {}, {}).save(out/'labels.json')
    name = 'accuracy/kind' if single else 'recall@3'
    metrics = {fold: {name: score(x, x - .1, x + .1) | dict(commonest=floor)}
               for fold, x in [('train', train), ('valid', valid), ('test', .1)]}
    write_json(out/'metrics.json', metrics | dict(pictures=dict(train=60, valid=20, test=20), seconds=seconds, training=training))
    write_json(out/'config.json', asdict(cfg) | dict(source=str(Path(cfg.source).resolve()), out=str(out.resolve())))
    write_table(out/'history.csv', pd.DataFrame(dict(stage=stages, epoch=range(1, len(stages) + 1))))
    return out

@pytest.fixture
def cfg(tmp_path): return RunConfig(str(tmp_path/'shop'), str(tmp_path/'runs'))

# ---- the rows

def test_a_row_says_what_the_run_left(cfg):
    out = leave_run(replace(cfg, arch='resnet18', weights='none'), stages=['unfrozen']*3,
                    training='from scratch, without augmentation; 9 of 9 parameters learn')
    assert run_row(Run.open(out)) == dict(model='resnet18', training='from scratch', train_pictures=60, valid_pictures=20, n_labels=3,
                                labels=('l0', 'l1', 'l2'), metric='recall@3', train=.9, valid=.8, low=.8 - .1, high=.8 + .1, baseline=.4,
                                unscored=None, epochs=3, seconds=12.5)

def test_one_label_is_compared_by_accuracy(cfg):
    assert run_row(Run.open(leave_run(cfg, single=True)))['metric'] == 'accuracy/kind'

def test_the_baseline_is_first_once_for_each_task(cfg):
    runs = [leave_run(replace(cfg, out=f'{cfg.out}/{i}', seed=i), valid=v, n_labels=n, floor=f)
            for i, v, n, f in [(0, .8, 3, .4), (1, .7, 3, .4), (2, .6, 5, .2)]]
    df = compare_runs(runs, say=lambda o: None)
    assert df['model'].str.startswith('baseline').tolist() == [True, True, False, False, False]
    assert df['valid'].tolist() == [.4, .2, .8, .7, .6] and df['n_labels'].tolist() == [3, 5, 3, 3, 5]
    assert df['settings'][2:].tolist() == ['seed=0', 'seed=1', 'seed=2'] and df['train'][:2].isna().all()

# ---- what is trained

@pytest.fixture
def trained(monkeypatch):
    "`train_run` that leaves a folder at once and notes its configs; resnet18 fails."
    seen = []
    def train_run(cfg, say, replace):
        seen.append(cfg)
        if cfg.arch == 'resnet18': raise CatalogError('no weights of resnet18')
        leave_run(cfg)
    monkeypatch.setattr(room, 'train_run', train_run)
    return seen

def test_only_what_is_missing_is_trained(cfg, trained):
    grid = run_grid(cfg, epochs=[1, 2])
    compare_runs(grid[:1], print); compare_runs(grid, print)
    assert trained == grid
    compare_runs([replace(grid[0], lr=1.)], print)   # another config in the same folder
    assert len(trained) == 3
    (Path(grid[1].out)/'metrics.json').unlink()      # killed before its end
    compare_runs(grid[1:], print)
    assert len(trained) == 4

def test_a_failed_run_is_a_row(cfg, trained):
    df = compare(cfg, ['resnet18', 'efficientnet_lite0'], say=lambda o: None)
    assert df['model'].tolist() == ['baseline: most frequent labels', 'resnet18', 'efficientnet_lite0']
    assert df['failed'][1] == 'no weights of resnet18' and pd.isna(df['failed'][2])
    assert 'resnet18 failed: no weights of resnet18' in (Path(cfg.out)/'comparison.md').read_text()
    with pytest.raises(CatalogError, match='every run failed; the first, resnet18: no weights'):
        compare(replace(cfg, out=cfg.out + '2'), ['resnet18'], say=lambda o: None)

@pytest.mark.parametrize('error', [KeyboardInterrupt, ZeroDivisionError])
def test_what_is_no_fault_of_the_input_is_not_hidden(cfg, monkeypatch, error):
    def train_run(cfg, say, replace): raise error
    monkeypatch.setattr(room, 'train_run', train_run)
    with pytest.raises(error): compare_runs([cfg], print)

def test_names_of_folders(cfg):
    grid = run_grid(cfg, arch=['hf_hub:timm/a b'], recipe=['../x.json', None])
    assert [Path(o.out).parent for o in grid] == [Path(cfg.out)]*2
    assert [Path(o.out).name for o in grid] == ['hf_hub_timm_a_b-recipe=.._x.json', 'hf_hub_timm_a_b-recipe=None']
    for wrong, says in [(dict(out=['x']), 'out cannot be varied'), (dict(sice=[1]), 'sice cannot be varied'),
                        (dict(bs=[1]), 'bs=1, expected 2 or more'), (dict(recipe=['a b', 'a_b']), 'two runs would be saved in')]:
        with pytest.raises(CatalogError, match=says): run_grid(cfg, **wrong)

def test_for_real(tmp_path):
    shop = demo_styles(tmp_path/'shop', n=80)
    cfg = RunConfig(str(shop), str(tmp_path/'runs'), size=32, bs=16, freeze_epochs=1, epochs=1)
    df = compare(cfg, ['efficientnet_lite0', 'resnet_18'], ['mobilenetv3_small_050'], say=lambda o: None)
    assert df['training'][[1, 3]].tolist() == ['frozen, then unfrozen', 'from scratch'] and 'did you mean' in df['failed'][2]
    assert df['epochs'].dropna().tolist() == [2, 1] and df['train_pictures'].dropna().nunique() == 1
    history = pd.read_csv(tmp_path/'runs'/'efficientnet_lite0'/'history.csv')
    assert len(history_plot(history).axes) == 2
    before = (tmp_path/'runs'/'efficientnet_lite0'/'metrics.json').stat().st_mtime_ns
    again = compare(cfg, ['efficientnet_lite0'], say=lambda o: None)
    assert again['valid'].tolist() == df['valid'].tolist()[:2]
    assert (tmp_path/'runs'/'efficientnet_lite0'/'metrics.json').stat().st_mtime_ns == before

# ---- as files

def test_the_table_comes_back_from_csv(cfg, tmp_path):
    df = compare_runs([leave_run(cfg)], print)
    md = write_comparison(df, tmp_path/'a'/'comparison')
    back = pd.read_csv(tmp_path/'a'/'comparison.csv')
    assert back['valid'].tolist() == df['valid'].tolist() and back['epochs'][1] == 2 and list(back) == list(df)
    assert (tmp_path/'a'/'comparison.md').read_text() == md and 'settings' not in md.splitlines()[0]
    assert (md.splitlines()[3] == '| efficientnet_lite0 | frozen, then unfrozen | 60 / 20 | 3 | recall@3 | 0.900 | 0.800 (0.700–0.900) | '
                                  '2 | 12 |')

def test_a_cell_cannot_break_the_table():
    assert markdown_table(pd.DataFrame({'a|b': ['x\ny']})).splitlines() == [r'| a\|b |', '| --- |', '| x y |']

# ---- the interval

def test_interval_against_a_plain_loop():
    x = rng(1, 'x').random(37)
    draw, means = rng(7, 'bootstrap'), []
    for _ in range(200):
        total = 0.
        for i in draw.integers(37, size=37): total += x[i]
        means.append(total/37)
    means.sort()
    low, high = bootstrap_interval(x, n=200, seed=7)
    assert np.allclose([low, high], [np.percentile(means, 2.5), np.percentile(means, 97.5)]) and low < x.mean() < high
    assert bootstrap_interval(x, n=200, seed=7) == (low, high) != bootstrap_interval(x, n=200, seed=8)
    assert np.isnan(bootstrap_interval([np.nan, np.nan])).all() and np.isnan(bootstrap_interval([])).all()

def test_interval_holds_the_truth_as_often_as_it_says():
    r = rng(2, 'cover')
    held = [low <= .7 <= high for low, high in (bootstrap_interval(r.random(200) < .7, n=200, seed=i) for i in range(200))]
    assert .88 < np.mean(held) <= 1

def test_scores_of_pictures_against_a_plain_loop():
    r = rng(3, 'pictures')
    scores, targs = r.random((50, 9)), r.random((50, 9)) < .25
    scores[r.random((50, 9)) < .1] = -np.inf
    pred, groups = scores > .6, {'a': [0, 1, 2], 'b': [3, 4]}
    got = picture_scores(scores, targs, pred, k=2, groups=groups)
    for i in range(50):
        first = [j for j in sorted(range(9), key=lambda j: -scores[i, j])[:2] if scores[i, j] > -np.inf]
        n_true = targs[i].sum()
        assert np.isnan(got['recall@2'][i]) if n_true == 0 else np.isclose(
            got['recall@2'][i], sum(targs[i, j] for j in first)/min(2, n_true))
        assert got['exact_match'][i] == all(pred[i, j] == targs[i, j] for j in range(9))
        for g, cols in groups.items():
            hit = float(all(pred[i, j] == targs[i, j] for j in cols))
            assert np.isnan(got[f'accuracy/{g}'][i]) if not targs[i, cols].any() else got[f'accuracy/{g}'][i] == hit
    assert np.isclose(got['recall@2'].mean(), recall_at_k(scores, targs, 2))
    assert np.isclose(got['exact_match'].mean(), exact_match(pred, targs))
    assert np.isclose(got['accuracy/b'].mean(), answer_accuracy(pred, targs, [3, 4]))
    table = add_intervals(score_table(scores, targs, counts=targs.sum(0), groups=groups, k=2, pred=pred), got)
    assert table['low'].notna().tolist() == [m in got for m in table.index]
    assert list(table) == ['score', 'low', 'high', 'nothing', 'commonest']

def test_a_new_metric_is_one_entry(monkeypatch):
    "In the table of scores with its floors and interval, in the report, in the model card, and on its side of the plot."
    from fastcore.xml import to_xml
    from catalog_tagger.report.report import _score_definitions
    from catalog_tagger.serve.card import model_card
    def misses(scores, targs, k): return (~np.take_along_axis(targs, np.argsort(-scores, axis=1)[:, :k], 1)).mean(1)
    miss = Metric('wrong labels among the first k', lambda scores, targs, k: misses(scores, np.asarray(targs, bool), k).mean(),
                  options=['k'], pictures=misses, greater_is_better=False)
    r = rng(4, 'misses'); scores, targs = r.random((40, 6)), r.random((40, 6)) < .4
    before = score_table(scores, targs, counts=targs.sum(0), k=2)
    monkeypatch.setitem(METRICS, 'miss@k', miss)
    table = add_intervals(score_table(scores, targs, counts=targs.sum(0), k=2), picture_scores(scores, targs, scores > .5, k=2))
    pd.testing.assert_frame_equal(table[before.columns].drop('miss@2'), before)
    assert np.isclose(table['score']['miss@2'], 1 - before['score']['precision@2'])
    assert table['low']['miss@2'] < table['score']['miss@2'] < table['high']['miss@2']
    assert table['nothing'].notna()['miss@2'] and find_metric('miss@2') is miss
    assert 'wrong labels among the first k' in to_xml(_score_definitions(['miss@2', 'not_in_the_table']))
    facts = dict(arch='net', versions=dict(catalog_tagger='1'), facts={}, prep=dict(size=[8, 8]),
                 metrics=table.astype(object).to_dict('index'))
    assert 'wrong labels among the first k |' in model_card(facts, LabelSpace(list('abcdef'), {}, {}, {}))
    h = pd.DataFrame(dict(stage='frozen', epoch=[1, 2], pictures=[64, 128], train_loss=[.5, .4], valid_loss=[.6, .4], accuracy=[.1, .2],
                          mine=[1, 2], **{'miss@2': [.7, .6]}))
    falling, rising = ([o.get_label() for o in ax.get_lines() if o.get_marker() != 'None'] for ax in history_plot(h).axes[:2])
    assert (falling, rising) == (['train_loss', 'valid_loss', 'miss@2'], ['accuracy', 'mine'])

# ---- the plots

def test_the_course_of_a_run_is_drawn_as_it_was():
    h = pd.DataFrame(dict(stage=['frozen', 'frozen', 'unfrozen'], epoch=[1, 2, 3], pictures=[64, 128, 192], train_loss=[.5, .4, .3],
                          valid_loss=[.6, np.nan, .4], accuracy=[.1, .2, .3], seconds=[1., 1., 2.]))
    fig = history_plot(h)
    lines = {o.get_label(): o.get_xydata() for ax in fig.axes for o in ax.get_lines() if o.get_marker() != 'None'}
    assert set(lines) == {'train_loss', 'valid_loss', 'accuracy'} and lines['accuracy'].tolist() == [[1, .1], [2, .2], [3, .3]]
    fig.canvas.draw()
    top = next(o for o in fig.axes[0].child_axes)
    assert [o.get_text() for o in top.get_xticklabels()] == ['64', '128', '192'] and top.get_xlabel() == 'pictures processed'
    assert len(history_plot(h[['stage', 'epoch', 'pictures', 'train_loss', 'valid_loss', 'seconds']]).axes) == 1
    rate_plot(pd.DataFrame(dict(lr=[1e-3, 1e-2], loss=[.5, .6])), 1e-3).canvas.draw()   # a loss that only rises
