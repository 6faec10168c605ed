"""What deciding does on real scores: thresholds, calibration, consistent answers, coverage, pictures from outside.

    python benchmarks/decide.py SCORES.npz LABELS.json [--halves]
    python benchmarks/decide.py RUN DATA [--outside FOLDER] [--halves] [--plots FOLDER]

SCORES.npz holds valid_scores, valid_targs, test_scores, test_targs and, for the last table, valid_features,
test_features and outside_features; LABELS.json is the `labels.json` of the run. RUN is the folder of a run and DATA its
catalog; its bundle is loaded. Everything is fitted on valid and told of test; `--halves` looks at valid alone, fitted
on one half and told of the other, as one does while still choosing. Intervals hold 95 %, by drawing the pictures again."""
import argparse
from pathlib import Path

import numpy as np, pandas as pd

from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.process import rng
from catalog_tagger.serve.calibrate import calibration_error, reliability_table, share_bounds
from catalog_tagger.serve.coverage import coverage_curve, inconsistent_share, publish_limit, published
from catalog_tagger.serve.decide import decide, fit_decision
from catalog_tagger.serve.outside import fit_outside
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.serve.modes import MODES
from catalog_tagger.core.metrics import bootstrap_interval, f1
from catalog_tagger.serve.answers import as_matrix, decode

def from_file(scores:str, labels:str)->tuple[dict, object]: return dict(np.load(scores)), LabelSpace.load(labels)

def from_run(run:str, data:str, outside:str|None)->tuple[dict, object]:
    "Scores and features of the folds of a run."
    from catalog_tagger.catalog.readers.base import SUFFIXES
    from catalog_tagger.runs.folder import Run
    run = Run.open(run, data); tagger, res = run.tagger(), {}
    for fold in ('valid', 'test'):
        rows = run.pictures(fold); scores, features = tagger.scores_and_features(rows['image'])
        res |= {f'{fold}_scores': scores, f'{fold}_targs': tagger.space.one_hot(rows['labels']), f'{fold}_features': features}
    if outside:
        res['outside_features'] = tagger.features([str(o) for o in sorted(Path(outside).rglob('*')) if o.suffix.lower() in SUFFIXES])
    return res, tagger.space

def in_halves(d:dict)->dict:
    "The valid fold alone: one half to fit, the other to be told of."
    first = rng(42, 'halves').permutation(len(d['valid_scores']))%2 == 0
    what = ('scores', 'targs') + (('features',) if 'valid_features' in d else ())
    return d | {f'valid_{o}': d[f'valid_{o}'][first] for o in what} | {f'test_{o}': d[f'valid_{o}'][~first] for o in what}

def with_interval(func, n:int, times:int=200)->str:
    "`func` of all `n` pictures, with its bootstrap interval, less what drawing with repeats adds to it on the mean."
    draw, whole = rng(42, 'benchmark'), func(np.arange(n)); drawn = np.array([func(draw.integers(n, size=n)) for _ in range(times)])
    low, high = np.percentile(drawn, [2.5, 97.5]) + whole - drawn.mean()
    return f'{whole:.3f} ({max(low, 0):.3f} to {high:.3f})'

def f1_table(d, space, decision)->pd.DataFrame:
    "F1 of what is said: tag by tag at .5 and at fitted thresholds, decoded, and of always the most frequent."
    raw, t = d['test_scores'], d['test_targs']; p = decision.calibration.apply(raw, space)
    share = d['valid_targs'].mean(0); common = np.zeros(len(share))
    tops = [max(cols, key=lambda i: share[i]) for cols in space.group_columns.values()] or [int(share.argmax())]
    common[tops] = 1
    said = {'the most frequent labels': np.tile(common, (len(t), 1)), 'tag by tag at 0.5': raw >= .5} | {
        f'tag by tag, {m}': p >= np.array(decision.thresholds[m]) for m in MODES if MODES[m].k is None}
    said |= {'decoded at 0.5, uncalibrated': as_matrix(decode(raw, space, k=None, min_score=.5), space)} | {
        f'decided, {m}': as_matrix(decide(raw, space, decision, m), space) for m in ('balanced', 'high_precision')}
    rows = {k: {'F1 micro': with_interval(lambda i: f1(o[i], t[i]), len(t)),
                'F1 macro': with_interval(lambda i: f1(o[i], t[i], 'macro'), len(t)),
                'precision': f'{(o*t).sum()/max(o.sum(), 1):.3f}', 'recall': f'{(o*t).sum()/t.sum():.3f}',
                'contradict themselves': f'{inconsistent_share(o, space, unsure="high_precision" in k and "decided" in k):.3f}'}
            for k, o in said.items()}
    return pd.DataFrame(rows).T

def error_table(d, space, decision)->pd.DataFrame:
    "Expected calibration error before and after."
    t, n = d['test_targs'], len(d['test_targs'])
    return pd.DataFrame(
        {name: {k: with_interval(lambda i: calibration_error(s[i], t[i], space)[k], n, 50) for k in ('micro', 'classwise', 'answers')}
         for name, s in dict(before=d['test_scores'], after=decision.calibration.apply(d['test_scores'], space)).items()})

def coverage_table(d, space, decision)->pd.DataFrame:
    "What could be published at the promised precision, and how right it was."
    p, q = (decision.calibration.apply(d[f'{o}_scores'], space) for o in ('valid', 'test'))
    rows, at = {}, dict(min_score=decision.thresholds['balanced'])
    for of in (None, *space.exclusive):
        curve = coverage_curve(p, d['valid_targs'], space, of=of, precision=decision.promise['precision'], **at)
        right, n, share = published(q, d['test_targs'], space, publish_limit(curve), of=of, **at)
        low, high = share_bounds(right, n, .975)
        rows[of or 'whole pictures'] = {'published': f'{share:.3f}', 'pictures': n,
                                        'precision': f'{right/n:.3f} ({low:.3f} to {high:.3f})' if n else '–',
                                        'all published': f'{np.divide(*published(q, d["test_targs"], space, 0., of=of, **at)[:2]):.3f}'}
    return pd.DataFrame(rows).T

def exact_table(d, space, decision)->pd.DataFrame:
    "Exact match over all groups: the best of each group by itself, against consistent decoding."
    t = d['test_targs'].astype(bool); cols = [i for o in space.group_columns.values() for i in o]
    alone = np.zeros_like(t)
    for o in space.group_columns.values(): alone[np.arange(len(t)), np.array(o)[d['test_scores'][:, o].argmax(1)]] = True
    said = {'best of each group alone': alone, 'decoded': as_matrix(decode(d['test_scores'], space, k=None), space).astype(bool),
            'calibrated and decoded': as_matrix(decide(d['test_scores'], space, decision), space).astype(bool)}
    right = {k: (o == t)[:, cols].all(1).astype(float) for k, o in said.items()}
    rows = {k: {'exact match': f'{o.mean():.3f}',
                'against the first': '{:+.3f} ({:+.3f} to {:+.3f})'.format(
                    (o - right['best of each group alone']).mean(), *bootstrap_interval(o - right['best of each group alone'])),
                'contradict themselves': f'{inconsistent_share(said[k], space):.3f}'} for k, o in right.items()}
    return pd.DataFrame(rows).T

def outside_table(d)->pd.DataFrame:
    "How many pictures of the catalog and of another are called outside; directions from one half of valid, the limit from the other."
    x = d['valid_features']; first = np.arange(len(x))%2 == 0; rows = {}
    for share in (.02, .05):
        out = fit_outside(d.get('train_features', x[first]), x[~first], share=share)
        rows[f'limit at {share:.0%} of valid'] = {o: f'{(out.distance(d[f"{o}_features"]) > out.limit).mean():.3f}'
                                                  for o in ('test', 'outside')}
    return pd.DataFrame(rows).T

def promise_table(d, space, times:int=20)->pd.DataFrame:
    "All pictures dealt anew into two halves: promised on one, counted on the other."
    s, t = (np.concatenate([d[f'valid_{o}'], d[f'test_{o}']]) for o in ('scores', 'targs')); rows = []
    for seed in range(times):
        first = rng(seed, 'promise').permutation(len(s))%2 == 0; decision = fit_decision(s[first], t[first], space)
        for of in (None, *space.exclusive):
            right, n, share = published(decision.calibration.apply(s[~first], space), t[~first], space, decision.publish.get(of or ''),
                                        of=of, min_score=decision.thresholds['balanced'])
            rows.append((of or 'whole pictures', share, right/n if n else np.nan, share_bounds(right, n)[1] < .95 if n else False))
    df = pd.DataFrame(rows, columns=['of', 'published', 'precision', 'surely below'])
    return df.groupby('of', sort=False).agg(published=('published', 'mean'), precision=('precision', 'mean'), lowest=('precision', 'min'),
                                            promised=('precision', 'count'), below=('precision', lambda o: int((o < .95).sum())),
                                            surely_below=('surely below', 'sum')).round(3)

def draw(d, space, decision, folder:Path)->None:
    "What scores are worth on test before and after calibration, and what valid lets be published."
    from catalog_tagger.report.plots import coverage_plot, reliability_plot, save_figure
    folder.mkdir(parents=True, exist_ok=True)
    before, after = (reliability_table(o, d['test_targs'], space)
                     for o in (d['test_scores'], decision.calibration.apply(d['test_scores'], space)))
    save_figure(reliability_plot(before, after), folder/'reliability.png')
    curve = coverage_curve(decision.calibration.apply(d['valid_scores'], space), d['valid_targs'], space,
                           precision=decision.promise['precision'], min_score=decision.thresholds['balanced'])
    save_figure(coverage_plot(curve, decision.promise['precision']), folder/'coverage.png')

def main(a)->None:
    d, space = from_run(a.scores, a.labels, a.outside) if Path(a.scores).is_dir() else from_file(a.scores, a.labels)
    if a.halves: d = in_halves(d)
    decision = fit_decision(d['valid_scores'], d['valid_targs'], space)
    tables = {'F1, and answers that contradict themselves': f1_table(d, space, decision),
              'Expected calibration error': error_table(d, space, decision), 'Exact match over all groups': exact_table(d, space, decision),
              'Publishable at a promised precision of 95 %': coverage_table(d, space, decision),
              f'The promise over {a.splits} splits of all pictures': promise_table(d, space, a.splits)}
    if 'outside_features' in d: tables['Called outside'] = outside_table(d)
    print(f'{len(d["valid_scores"])} pictures to fit on, {len(d["test_scores"])} told of, {len(space.vocab)} labels')
    for name, table in tables.items(): print(f'\n{name}\n{table.to_string()}')
    if a.plots: draw(d, space, decision, Path(a.plots))

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('scores', metavar='SCORES.npz|RUN'); p.add_argument('labels', metavar='LABELS.json|DATA')
    p.add_argument('--outside', metavar='FOLDER', help='with a run: pictures that belong to no label')
    p.add_argument('--plots', metavar='FOLDER', help='leave reliability.png and coverage.png there')
    p.add_argument('--halves', action='store_true', help='look at valid alone')
    p.add_argument('--splits', type=int, default=20, metavar='N', help='how often the pictures are dealt anew (20)')
    try: main(p.parse_args())
    except CatalogError as e: p.exit(2, f'{e}\n')
