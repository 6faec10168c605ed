"""Words and pictures: the picture alone, the title alone and both, beside plain rivals on the same folds and labels.

    python benchmarks/texts.py RUN [--masked RUN]   # runs that were trained with texts, the second with --mask-labels
    python benchmarks/texts.py RUN --speed          # tag_many without and with titles, in turn
    python benchmarks/texts.py --large [--rows N]   # seconds and memory of fitting the text side to N titles and 141 labels

The first table is of valid, and what the default was chosen by; its scores are out of fold, neither the text model nor the join has seen
the row. "margins" leaves out which labels a text names, "averaged" is the mean of the two probabilities, "one head" a linear support
vector machine on the terms of the text beside the features of the picture. The second table is of test, each score with the interval of
1,000 samples. "rival" is scikit-learn alone, `TfidfVectorizer` and `LinearSVC` for each column, trained on train; it knows also the
values that are too rare to be labels here, and is scored on all rows with a value. For the others a row with such a value is left out of
the group, as in a report, and counted as wrong in "of all rows". A row is published if its answer can be promised at 0.95."""
import argparse, resource, tempfile
from pathlib import Path
from time import perf_counter

import numpy as np, pandas as pd
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union
from sklearn.svm import LinearSVC

from catalog_tagger.catalog.labels import LabelSpace, mark_unknown
from catalog_tagger.catalog.ngrams import ngrams
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.core.metrics import bootstrap_interval, picture_scores
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.score import kept_promise
from catalog_tagger.serve.answers import as_matrix
from catalog_tagger.serve.many import tag_many
from catalog_tagger.serve.texts import SIDES, fit_join, fit_text_side, text_signals
from catalog_tagger.train.text_model import fit_text_model

def best_right(scores, targs, space)->dict[str, np.ndarray]:
    "Group → is its best label right? Of the rows with a label."
    has = {g: np.nansum(targs[:, c], 1) == 1 for g, c in space.group_columns.items()}
    return {g: scores[has[g]][:, c].argmax(1) == targs[has[g]][:, c].argmax(1) for g, c in space.group_columns.items()}

def shown(right)->str:
    low, high = bootstrap_interval(pd.Series(np.asarray(right, float)))
    return f'{np.mean(right):.3f} ({low:.3f}–{high:.3f})'

def one_head(texts, features, targs, train, held)->np.ndarray:
    "Margins of the rows `held` by a model on terms and features that was fitted on the rows `train`."
    v = TfidfVectorizer(analyzer=ngrams, min_df=2, sublinear_tf=True).fit(texts[train])
    x = (features - features[train].mean(0))/features[train].std(0).clip(1e-6)/features.shape[1]**.5
    X, res = hstack([v.transform(texts), csr_matrix(x)]).tocsr(), np.full((held.sum(), targs.shape[1]), -1.)
    for j, t in enumerate(targs.T):
        use = train & ~np.isnan(t)
        if 0 < t[use].sum() < use.sum(): res[:, j] = LinearSVC(dual=True, random_state=0).fit(X[use], t[use] > 0).decision_function(X[held])
    return res

def on_valid(df, tagger, parts:int=3)->None:
    "The ways to join, on valid, out of fold."
    df = df[df['split'] != 'test'].reset_index(drop=True); space, valid = tagger.space, (df['split'] == 'valid').to_numpy()
    targs, (scores, features) = mark_unknown(space.one_hot(df['labels']), df, space), tagger.scores_and_features(df['image'])
    unit, texts = pd.factorize(df['unit'])[0], df['text'].to_numpy(object); fold = np.where(valid, unit % parts, -1)
    signals, head = np.zeros((3, *targs.shape)), np.zeros(targs.shape)
    for k in range(parts):
        own = fold == k; signals[:, own] = text_signals(fit_text_model(texts[~own], targs[~own]), texts[own], space)
        head[own] = one_head(texts, features, targs, ~own, own)
    def joined(scores, signals):
        res = np.zeros(targs.shape)
        for k in range(parts):
            (own, fit), some = (fold == k, valid & (fold != k)), lambda at: None if scores is None else scores[at]
            res[own] = fit_join(some(fit), signals[:, fit], targs[fit], space).apply(some(own), signals[:, own], space)
        return res
    margins = signals[0]; alone = joined(None, signals)
    ways = {'picture': scores, 'margins': margins, 'title': alone, 'averaged': scores + alone, 'one head': head,
            'both, margins': joined(scores, signals*[[[1]], [[0]], [[0]]]), 'both': joined(scores, signals)}
    print(f'valid, {valid.sum()} pictures, share of right best labels\n  {"":<14}' + ''.join(f'{g:<23}' for g in space.exclusive))
    for name, p in ways.items():
        print(f'  {name:<14}' + ''.join(f'{shown(o):<23}' for o in best_right(p[valid], targs[valid], space).values()), flush=True)

def rival(df, groups)->dict[str, np.ndarray]:
    "Column → which test rows scikit-learn alone gets right, of those with a value."
    train, test, res = df[df['split'] == 'train'], df[df['split'] == 'test'], {}
    v = make_union(TfidfVectorizer(analyzer='char_wb', ngram_range=(2, 5), min_df=2, sublinear_tf=True),
                   TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)).fit(train['text'])
    for g in groups:
        a, b = train[train[g] != ''], test[test[g] != '']
        res[g] = LinearSVC(random_state=0).fit(v.transform(a['text']), a[g]).predict(v.transform(b['text'])) == b[g].to_numpy()
    return res

def answer(tagger, df, texts, pictures=True)->None:
    "A line of scores of `df`, answered from what is there, and how the promise was kept."
    space, n = tagger.space, len(df); targs = mark_unknown(space.one_hot(df['labels']), df, space)
    scores = tagger.scores(df['image']) if pictures else np.zeros(targs.shape)
    p, side = tagger.with_texts(scores, texts, pictures); pred = as_matrix(tagger.side_answers(p, side), space) > 0
    has = {g: np.nansum(targs[:, c], 1) == 1 for g, c in space.group_columns.items()}
    right = {g: (pred & (targs == 1))[:, c].any(1) for g, c in space.group_columns.items()}
    whole, every, k = np.all([right[g] | ~has[g] for g in right], 0), np.all(list(has.values()), 0), len(has)
    recall = picture_scores(p, targs == 1, pred, counts=space.counts, groups=space.group_columns, parents=space.parent_columns, k=k,
                            known=~np.isnan(targs))[f'recall@{k}']
    print(''.join(f'{shown(right[g][has[g]]):<22}' for g in right) + 
          f'{shown(whole):<22}{shown(whole & every):<22}{shown(recall):<22}', end='')
    kept = [kept_promise(p[side == s], targs[side == s], space, tagger.for_side(s).decision) for s in SIDES if (side == s).any()]
    kept = [o for o in kept if o]
    n, good = (sum(o[k] for o in kept) for k in ('published', 'right'))
    print(f'{n} published, {good} right' if kept else 'nothing promised', flush=True)

def on_test(df, tagger, masked)->None:
    "The sides on test, beside the rival."
    test, groups = df[df['split'] == 'test'].reset_index(drop=True), [*tagger.space.exclusive]
    texts, none, k = test['text'].tolist(), ['']*len(test), len(groups)
    print(f'\ntest, {len(test)} pictures, share of right answers\n{"":<22}' + ''.join(f'{g:<22}' for g in groups) +
          f'{"all groups":<22}{"of all rows":<22}recall@{k:<15}published at 0.95')
    print(f'{"rival":<22}' + ''.join(f'{shown(o):<22}' for o in rival(df, groups).values()))
    half = [o if i % 2 else '' for i, o in enumerate(texts)]
    for name, *how in (('picture', none), ('title', texts, False), ('both', texts), ('both, half the titles', half)):
        print(f'{name:<22}', end=''); answer(tagger, test, *how)
    for name, *how in (('title, masked', texts, False), ('both, masked', texts)) if masked else ():
        print(f'{name:<22}', end=''); answer(masked, test, *how)

def large(n:int)->None:
    "Fit the text side to drawn titles: the words of a title are those of its labels, with others between."
    gen = np.random.default_rng(0); words = [''.join(gen.choice(list('abcdefghijklmnoprstuvwz'), gen.integers(3, 9))) for _ in range(8000)]
    labels = gen.zipf(1.3, (n, 3)) % 47 + np.array([0, 47, 94]); targs = np.zeros((n, 141)); np.put_along_axis(targs, labels, 1, 1)
    texts = [' '.join([*(words[o] for o in own), *(words[i % 8000] for i in gen.zipf(1.2, gen.integers(2, 7)))]) for own in labels.tolist()]
    rows = pd.DataFrame(dict(text=texts, split=np.where(np.arange(n) % 4, 'train', 'valid'), product=np.arange(n).astype(str)))
    vocab = [f'label {i}' for i in range(141)]; space = LabelSpace(vocab, {f'group {g}': vocab[47*g:47*g + 47] for g in range(3)}, {}, {})
    scores = gen.uniform(size=((rows['split'] == 'valid').sum(), 141)).clip(.01, .99)
    before, t = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, perf_counter()
    side = fit_text_side(rows.assign(unit=rows['product']), targs, scores, space)
    print(f'{n:,} titles, 141 labels, {len(side.model.vocab):,} n-grams: {perf_counter() - t:.1f} s, '
          f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.2f} GB at the peak, {before/1e6:.2f} of them before')

def speed(df, tagger, rounds:int=3)->None:
    "tag_many without and with titles, in turn."
    with tempfile.TemporaryDirectory() as d:
        took = {False: [], True: []}
        for i in range(2*rounds):
            rows, t = df if i % 2 else df.drop(columns='text'), perf_counter(); tag_many(tagger, rows, Path(d)/f'{i}.csv')
            took[bool(i % 2)].append(perf_counter() - t)
        a, b = (len(df)/np.median(took[o]) for o in (False, True))
        print(f'tag_many: {a:.0f} pictures/s without titles, {b:.0f} with them: {b/a:.3f}')

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', nargs='?'); parser.add_argument('--masked'); parser.add_argument('--test', action='store_true')
    parser.add_argument('--speed', action='store_true')
    parser.add_argument('--large', action='store_true'); parser.add_argument('--rows', type=int, default=40_000)
    args = parser.parse_args()
    if args.large: return large(args.rows)
    run = Run.open(args.run); df, tagger = prepare_catalog(run.config).catalog.df, run.tagger()
    if args.speed: return speed(df, tagger)
    print(f'{run.config.arch} at {run.config.size} px, texts {", ".join(tagger.texts.columns)}, {len(tagger.texts.model.vocab):,} n-grams, '
          f'{sum((Path(args.run)/"tagger"/o).stat().st_size for o in ("text.json", "text.safetensors"))/1e6:.1f} MB')
    if not args.test: on_valid(df, tagger)
    on_test(df, tagger, args.masked and Run.open(args.masked).tagger())

if __name__ == '__main__': main()
