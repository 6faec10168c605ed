"""What metric learning does for finding similar products, beside a random order, the pretrained backbone and the features of a tagger.

    python benchmarks/metric_learning.py RUN DATA [--deeper N] [--at POINT] [--fold valid] [--out FOLDER] [--only WORD …]

RUN is the folder of a run on Fashion Product Images and DATA its catalog. Everything learns on train. Each picture of
the test fold asks for its ten nearest in train and valid (with `--fold valid`, as one does while still choosing: each
of valid, in train). nDCG@10 counts shared labels as gain, over the three nested columns and over five; precision@10 is
the share of answers with the same articleType. Each method learns a projection on pooled features of a body that stays
as it is, and those named in DEEPER go on for N epochs in which the body learns too from a split point on. Last, what
each method adds to the pretrained backbone, with a 95 % interval over the queries."""
import argparse, os, re, warnings
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np, pandas as pd, torch
from fastai.torch_core import set_seed
from torch import nn

from catalog_tagger.train.activations import cached_learner
from catalog_tagger.core.files import CatalogError, write_json
from catalog_tagger.core.process import progress, reuse_memory
from catalog_tagger.train.data import catalog_dls
from catalog_tagger.catalog.picture_cache import cache_folder, cache_pictures
from catalog_tagger.search.embed import Embedder
from catalog_tagger.catalog.labels import apply_labels, fit_labels
from catalog_tagger.core.metrics import bootstrap_interval
from catalog_tagger.train.backbones import create_net, cut_body, find_arch
from catalog_tagger.train.weights import read_weights
from catalog_tagger.runs.folder import Run
from catalog_tagger.search.retrieval import query_scores
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.train.schedule import fit_schedule
from catalog_tagger.search.triplets import (CollapseGuard, CollapsedError, MultiLabelSupCon, SharedRule, TripletLoss,
                                            embedding_health, embedding_learner, overlap_sampling)

COLUMNS = {3: ['masterCategory', 'subCategory', 'articleType'], 5: ['masterCategory', 'subCategory', 'articleType', 'gender', 'baseColour']}
METHODS = {   # Columns, loss, and the rate of the head; chosen on valid
    "study 2's rule":          (5, lambda: TripletLoss(grades=SharedRule()), 1e-3),
    'graded triplets':         (3, lambda: TripletLoss(.3), 1e-3),
    'graded triplets, five':   (5, lambda: TripletLoss(.3), 1e-3),
    'contrast':                (3, MultiLabelSupCon, 3e-3),
    'contrast, five':          (5, MultiLabelSupCon, 3e-3),
}
DEEPER = ('contrast, from the backbone', 'contrast, from the tagger')

def relabelled(df:pd.DataFrame, columns:list[str]):
    "`df` with labels from other columns, its folds as they are."
    tags = [[f'{c}={v}' for c, v in zip(columns, row) if isinstance(v, str)] for row in df[columns].values.tolist()]
    df = df.assign(tags=tags).drop(columns='labels'); space = fit_labels(df)
    return apply_labels(df, space)[0], space

def one_hot(df:pd.DataFrame, columns:list[str])->np.ndarray:
    return pd.concat([pd.get_dummies(df[c]) for c in columns], axis=1).to_numpy(np.float32)

def run_through(model:nn.Sequential, prep, pictures:np.ndarray, bs:int=32)->np.ndarray:
    "What `model` gives for all pictures."
    embedder = Embedder(model.to(memory_format=torch.channels_last), prep, '')
    return np.concatenate([embedder.embed_opened(list(pictures[i:i+bs])) for i in progress(range(0, len(pictures), bs), 'embed')])

def unit(x:np.ndarray)->np.ndarray: return x/np.linalg.norm(x, axis=1, keepdims=True)

class Bench:
    "The catalog, the pictures, and the scores of everything that was tried."
    def __init__(self, args):
        run = Run.open(args.run); cfg = replace(run.config, source=args.data)
        self.df, self.tagger, self.scores, self.args = prepare_catalog(cfg).catalog.df, run.tagger(), {}, args
        self.prep, self.pictures = self.tagger.prep, cache_pictures(self.df['image'], self.tagger.prep)
        a = find_arch(self.tagger.arch); bodies = dict(backbone=cut_body(a, create_net(a, read_weights(a))), tagger=self.tagger.model[0])
        self.pooled = {k: run_through(nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())), self.prep, self.pictures)
                       for k, body in bodies.items()}
        fold = self.df['split'].to_numpy()
        self.queries, self.answers = (fold == 'valid', fold == 'train') if args.fold == 'valid' else (fold == 'test', fold != 'test')
        self.labels = {n: one_hot(self.df, c) for n, c in COLUMNS.items()}

    def add(self, name:str, vectors:np.ndarray, seconds:float=None):
        "Score `vectors` as `name`, print the row, keep both."
        rows = {n: query_scores(vectors, y, self.queries, self.answers, relevant=self.df['articleType'], unit=self.df['unit'])
                for n, y in self.labels.items()}
        self.scores[name] = dict(ndcg=rows[3]['score']['nDCG@10'], five=rows[5]['score']['nDCG@10'],
                                 precision=rows[3]['score']['precision@10'])
        if not len(self.scores) - 1:
            line('random order',
                 *[o.mean() for o in (rows[3]['random']['nDCG@10'], rows[5]['random']['nDCG@10'], rows[3]['random']['precision@10'])])
        line(name, *[o.mean() for o in self.scores[name].values()], *embedding_health(vectors).values(), seconds)
        if self.args.out: np.save(Path(self.args.out)/f'{re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")}.npy', vectors)

    def learner(self, columns:int, loss, start:str):
        df, space = relabelled(self.df, COLUMNS[columns])
        set_seed(42, reproducible=True)
        dls = catalog_dls(df, space, self.prep, cache=cache_folder())
        return embedding_learner(dls, loss, arch=self.tagger.arch, start=self.tagger if start == 'tagger' else None)

    def train(self, method:str, start:str):
        "The head of `method`, and where it is among `DEEPER` the upper part of the body."
        columns, make, lr = METHODS[method]; name, loss = f'{method}, from the {start}', make(); learn = self.learner(columns, loss, start)
        head, seconds = fitted(learn, 'pool', 128, lambda o: o.fit_one_cycle(20, lr))
        with torch.inference_mode(): self.add(name, head.model.eval()(torch.from_numpy(self.pooled[start])).numpy(), seconds)
        if self.args.deeper and name in DEEPER:
            learn.unfreeze(); _, seconds = fitted(learn, self.args.at, 64, lambda o: fit_schedule(o, self.args.deeper, 1e-3, lr_mult=16))
            self.add(f'{name}, deeper', run_through(learn.model, self.prep, self.pictures), seconds)
        if isinstance(getattr(loss, 'grades', None), SharedRule): tell_needed(loss.grades.needed)

def fitted(learn, at:str, bs:int, fit)->tuple:
    "The part of `learn` above `at` after `fit`, and the seconds that took, activations computed before."
    upper = cached_learner(learn, at, bs=bs, cbs=CollapseGuard()); overlap_sampling(upper.dls.train, upper.dls.train_ds.targs)
    t = perf_counter(); fit(upper)
    return upper, perf_counter() - t

def line(name, *values):
    print(f'{name:<48}' + ''.join('        –' if o is None else f'{o:>9.3f}' if abs(o) < 1 else f'{o:>9.1f}'
                                  for o in (*values, *[None]*(6 - len(values)))), flush=True)

def tell_needed(needed):
    n = needed.total()
    print('    shared labels that anchors needed for a positive: '
          + ', '.join(f'{k}: {needed[k]/n:.2%}' for k in sorted(needed, reverse=True)), flush=True)

def gain(scores:dict[str, dict], name:str, what:str)->str:
    "What `name` adds to the backbone, by the same queries."
    d = (scores[name][what] - scores['pretrained backbone'][what]).dropna()
    return '{:+.3f} ({:+.3f} to {:+.3f})'.format(d.mean(), *bootstrap_interval(d.to_numpy()))

def main(args)->None:
    bench = Bench(args); n = bench.queries.sum(), bench.answers.sum()
    print(f'{n[0]:,} queries of {args.fold}, {n[1]:,} candidates, {torch.get_num_threads()} threads\n{"":<48}'
          + ''.join(f'{o:>9}' for o in ('nDCG', 'five', 'prec.', 'cosine', 'rank', 'seconds')))
    bench.add('pretrained backbone', unit(bench.pooled['backbone'])); bench.add('tagger', unit(bench.pooled['tagger']))
    for start in bench.pooled:
        for method in METHODS:
            if args.only and not any(o in f'{method}, from the {start}' for o in args.only): continue
            try: bench.train(method, start)
            except CollapsedError as e: print(f'{method}, from the {start}: {e}')
    print('\nbeside the pretrained backbone' + ' '*18 + ''.join(f'{o:<28}' for o in ('nDCG@10', 'nDCG@10, five columns', 'precision@10')))
    for name in bench.scores: print(f'{name:<48}' + ''.join(f'{gain(bench.scores, name, o):<28}' for o in ('ndcg', 'five', 'precision')))
    if args.out: write_json(Path(args.out)/'ids.json', [os.path.relpath(o, Path(args.data).resolve()) for o in bench.df['image']])

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run'); p.add_argument('data')
    p.add_argument('--deeper', type=int, default=8, metavar='N', help='epochs in which the body learns too (8)')
    p.add_argument('--at', default='blocks.5', metavar='POINT', help='split point from which it does (blocks.5)')
    p.add_argument('--fold', choices=('test', 'valid'), default='test', help='whose pictures ask (test)')
    p.add_argument('--out', metavar='FOLDER', help='where the vectors of all pictures go, one .npy a method, and ids.json')
    p.add_argument('--only', nargs='+', metavar='WORD', help='methods whose name holds one of these words')
    args = p.parse_args(); reuse_memory(); warnings.filterwarnings('ignore')
    if args.out: Path(args.out).mkdir(parents=True, exist_ok=True)
    try: main(args)
    except CatalogError as e: p.exit(2, f'{e}\n')
