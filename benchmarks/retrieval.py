"""How good the neighbours are that each way of embedding gives, on the test fold of a run.

    python benchmarks/retrieval.py RUN [--keep FOLDER] [--more NAME=FILE.npy ...] [--columns COLUMN ...] [--k K] [--out FILE.csv]

The pictures are those of RUN's catalog in its three folds, as `prepare_catalog` gives them; each picture of test asks,
those of train and valid answer. nDCG counts in how many of COLUMN (five by default) query and answer agree, precision
and mAP an answer of the same article type. A query's own unit (its product, copies of it) is no answer; the split keeps units
whole, so none of it is among them anyway. Random order is the floor. EfficientNet-Lite0 with its pretrained weights at
RUN's size and RUN's tagger are embedded at several layers, each also with whitened principal components that were
fitted on the answers. Vectors of other methods come as `.npy`, a row for each row of `prepare_catalog`'s table; they
need not have length 1. With --keep the embeddings stay in FOLDER and are not made again."""
import argparse, tempfile, warnings
from pathlib import Path

import numpy as np, pandas as pd

from catalog_tagger.search.embed import Embedder, embed_catalog, fit_projection, load_embeddings, make_embedder, project
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.search.retrieval import query_scores, rarity
from catalog_tagger.core.metrics import bootstrap_interval
from catalog_tagger.serve.tagger import Tagger
from catalog_tagger.runs.folder import Run

def vectors_of(embedder:Embedder, df:pd.DataFrame, folder:Path)->np.ndarray:
    "The vectors of `df`, in its order."
    e = load_embeddings(folder) if (folder/'SHA256SUMS').exists() else embed_catalog(embedder, df, folder)
    if e.ids != df['image'].tolist(): raise SystemExit(f'{folder} holds the embeddings of other pictures: give another folder by --keep')
    return np.asarray(e.vectors, np.float32)

def unit(v:np.ndarray)->np.ndarray: return v/np.linalg.norm(v, axis=1, keepdims=True)

def ways(run:Path, df:pd.DataFrame, size, keep:Path, more:list[str], dims:int):
    "Name and vectors of each way."
    tagger, answers = Tagger.load(run/'tagger'), (df['split'] != 'test').to_numpy()
    made = [(f'pretrained {o}', lambda o=o: make_embedder('efficientnet_lite0', o, size=size))
            for o in ('avg', 'concat')] + [(f'tagger {o}', lambda o=o: make_embedder(tagger, o))
                                           for o in ('avg', 'concat', 'hidden', 'logits')]
    for name, make in made:
        v = vectors_of(make(), df, keep/name.replace(' ', '_'))
        yield name, v
        d = min(dims, v.shape[1])
        yield f'{name}, PCA {d} whitened', project(v, fit_projection(v[answers], d, whiten=True))
    scores = tagger.scores(df['image'])
    yield 'tagger scores', unit(scores)
    for o in more:
        name, path = o.split('=', 1)
        yield name, unit(np.load(path, allow_pickle=False).astype(np.float32))

def row_of(v:np.ndarray, Y:np.ndarray, df:pd.DataFrame, k:int)->tuple[dict, dict]:
    "The scores of one way and of random order, with the bootstrap interval of nDCG, and nDCG with the rarer values weighing more."
    test = (df['split'] == 'test').to_numpy(); kw = dict(queries=test, answers=~test, relevant=df['articleType'], unit=df['unit'], k=k)
    plain = query_scores(v, Y, **kw)
    rare = query_scores(v, Y, weights=rarity(Y[~test]), **kw)[[('score', f'nDCG@{k}'), ('random', f'nDCG@{k}')]].mean()
    low, high = bootstrap_interval(plain['score'][f'nDCG@{k}'])
    score, chance = (plain[o].mean().to_dict() | {'rare nDCG': rare[o].iloc[0]} for o in ('score', 'random'))
    return score | {'from': low, 'to': high}, chance

def main(run:Path, keep:Path, more:list[str], columns:list[str], k:int, dims:int, out:str|None)->None:
    cfg = Run.open(run).config; ready = prepare_catalog(cfg); df = ready.catalog.df
    Y = np.concatenate([pd.get_dummies(df[c]).to_numpy() for c in columns], 1)
    print(f'{len(df):,} pictures, {Y.shape[1]} values of {", ".join(columns)}; {(df["split"] == "test").sum()} of test ask, '
          'the others answer')
    rows = {'random order': None}
    for name, v in ways(run, df, cfg.size, keep, more, dims):
        rows[name], rows['random order'] = row_of(v, Y, df, k)
        print(f'{name}, {v.shape[1]} numbers: nDCG@{k} {rows[name][f"nDCG@{k}"]:.4f}', flush=True)
    table = pd.DataFrame(rows).T[[f'nDCG@{k}', 'from', 'to', f'precision@{k}', f'recall@{k}', f'mAP@{k}', 'rare nDCG']]
    print(); print(table.map(lambda o: '–' if pd.isna(o) else f'{o:.3f}').to_string())
    if out: table.to_csv(out)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run', type=Path, help='folder of a run with a bundle')
    p.add_argument('--keep', type=Path, help='folder in which the embeddings stay')
    p.add_argument('--more', nargs='+', default=[], metavar='NAME=FILE', help='vectors of other methods')
    p.add_argument('--columns', nargs='+', default=['gender', 'masterCategory', 'subCategory', 'articleType', 'baseColour'],
                   metavar='COLUMN', help='columns whose agreement is counted')
    p.add_argument('--k', type=int, default=10, help='answers of a query (10)')
    p.add_argument('--dims', type=int, default=256, help='principal components that are kept (256)')
    p.add_argument('--out', help='CSV file for the table')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    with tempfile.TemporaryDirectory() as d: main(a.run, a.keep or Path(d), a.more, a.columns, a.k, a.dims, a.out)
