"""What learning without labels is worth: SimCLR on the pictures of train, then a linear probe and fine-tuning with few labels and with all.

    python benchmarks/contrastive.py [DATA] [--out FOLDER] [--arch NAME] [--size PX] [--epochs N] [--from-imagenet N] [--seeds N]

Four bodies of one architecture: untrained, SimCLR from there, ImageNet, SimCLR from there. Pretraining sees the
pictures of train and no label. The probe is `linear_probe` with the best `C` of four on valid; fine-tuning is
`fit_learner` with the defaults of a run but the size, the epochs, and a body that learns as fast as its head where it
does not come from ImageNet. Scores are those of test, mean over random choices of the labelled pictures. Pictures are
those of DATA/fashion-product-images (DATA is the argument or CATALOG_TAGGER_DATA), of the demo catalog without. Bodies
and features lie in FOLDER and are taken from there the next time."""
import argparse, os, tempfile, warnings
from pathlib import Path
from time import perf_counter, process_time

import numpy as np, pandas as pd
from fastai.vision.all import set_seed

from catalog_tagger.core.config import RunConfig
from catalog_tagger.search.contrastive import *
from catalog_tagger.core.process import reuse_memory
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.core.metrics import group_accuracy, recall_at_k
from catalog_tagger.train.backbones import BUNDLED, arch_prep
from catalog_tagger.serve.predictor import Predictor
from catalog_tagger.runs.train import build_learner, fit_learner
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.serve.tagger import Tagger

EPOCHS = {.01: 20, .1: 12, 1.: 3}   # Of fine-tuning, by the share of the labels: fewer pictures, more epochs

def pretrain(df:pd.DataFrame, args, weights:str, epochs:int)->Path:
    "The file of a body that learned from the pictures of train, starting from `weights`."
    path = Path(args.out)/f'{args.arch}-{args.size}-{weights}-{epochs}.safetensors'
    if path.exists(): return path
    train, valid = (df['image'][df['split'] == o].tolist() for o in ('train', 'valid'))
    reuse_memory(); set_seed(42, reproducible=True); start, cpu = perf_counter(), process_time()
    learn = contrastive_learner(contrastive_dls(train, valid, arch_prep(args.arch, args.size)), args.arch, weights=weights)
    learn.fit_one_cycle(epochs, 2e-3 if weights == 'none' else slice(2e-4, 2e-3))
    print(learn.history.table().iloc[::-max(1, epochs//5)][::-1].round(3).to_string(index=False))
    print(f'SimCLR, {args.arch} from {weights}: {epochs} epochs of {len(train):,} pictures in {perf_counter() - start:.0f} s, '
          f'processors busy for {process_time() - cpu:.0f} s', flush=True)
    return save_body(learn, path)

def config(args, weights:str, **kwargs)->RunConfig:
    return RunConfig('', args.out, arch=args.arch, weights=weights, size=args.size, tta=1, **kwargs)

def features(ready, args, name:str, weights:str)->np.ndarray:
    "Pooled features of every picture, in the order of the table."
    path = Path(args.out)/f'{args.arch}-{args.size}-{name}.npy'
    if not path.exists():
        np.save(path,
                Tagger.from_learner(
                    build_learner(config(args, weights), ready.catalog.df, ready.space)).features(ready.catalog.df['image']))
    return np.load(path)

def scored(scores:np.ndarray, targs:np.ndarray, space)->tuple[float, float]:
    "Accuracy of the finest group, and recall@3."
    return group_accuracy(scores, targs, [space.vocab.index(l) for l in list(space.exclusive.values())[-1]]), recall_at_k(scores, targs, 3)

def probe(ready, feats:np.ndarray, share:float, seed:int)->tuple[float, float]:
    df, space = ready.catalog.df, ready.space
    kept = df['image'].isin(few_labels(df, space, share, seed=seed)[0]['image'])
    y, train, valid, test = space.one_hot(df['labels']), kept & (df['split'] == 'train'), df['split'] == 'valid', df['split'] == 'test'
    tried = [linear_probe(feats[train], y[train], feats[valid | test], C=C) for C in (.001, .01, .1, 1.)]
    in_valid = valid[valid | test].to_numpy()
    best = max(tried, key=lambda o: recall_at_k(o[in_valid], y[valid], 3))
    return scored(best[~in_valid], y[test], space)

def fine_tune(ready, args, weights:str, share:float, seed:int, lr_mult:float)->tuple[float, float]:
    df, space = few_labels(ready.catalog.df, ready.space, share, seed=seed)
    # nothing is chosen on valid here, so most of it need not be looked at
    test, some = df[df['split'] == 'test'], df[df['split'] == 'valid'].index[64:]
    cfg = config(args, weights, epochs=EPOCHS[share], seed=seed, lr_mult=lr_mult)
    learn = build_learner(cfg, df.drop(index=some).reset_index(drop=True), space); fit_learner(learn, cfg)
    return scored(Predictor.from_learner(learn).scores(test['image']), space.one_hot(test['labels']), space)

def report(name:str, how:str, score, seeds:int)->None:
    "A line for each share of the labels: `score(share, seed)`, mean and standard deviation over `seeds` where the share leaves a choice."
    for share in EPOCHS:
        got = [score(share, o) for o in range(1 if share == 1 else seeds)]
        print(f'{name:<24}{how:<12}{share:>6.0%}'
              + ''.join(f'{m:>12.3f}' + (f' ±{s:.3f}' if len(got) > 1 else ' '*7) for m, s in zip(np.mean(got, 0), np.std(got, 0))),
              flush=True)

def main(args, ready)->None:
    bodies = {'untrained': 'none', 'SimCLR': pretrain(ready.catalog.df, args, 'none', args.epochs)}
    if args.arch == BUNDLED:
        bodies |= {'ImageNet': 'bundled', 'ImageNet, SimCLR': pretrain(ready.catalog.df, args, 'bundled', args.from_imagenet)}
    print(f'{"body":<24}{"":<12}{"labels":>6}{"accuracy":>19}{"recall@3":>19}')
    for name, weights in bodies.items():
        feats = features(ready, args, name, str(weights))
        report(name, 'probe', lambda share, seed: probe(ready, feats, share, seed), args.seeds)
    for name, weights in bodies.items():
        lr_mult = 8. if 'ImageNet' in name else 1.
        report(name, 'fine-tuned', lambda share, seed: fine_tune(ready, args, str(weights), share, seed, lr_mult), args.seeds)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', default=os.environ.get('CATALOG_TAGGER_DATA'), help='folder of the data sets')
    p.add_argument('--out', help='folder of bodies and features; one that goes away when not given')
    p.add_argument('--arch', default=BUNDLED, help='backbone')
    p.add_argument('--size', type=int, default=64, help='side of the input, px')
    p.add_argument('--epochs', type=int, default=20, help='of SimCLR from scratch')
    p.add_argument('--from-imagenet', type=int, default=8, help='epochs of SimCLR from ImageNet weights')
    p.add_argument('--seeds', type=int, default=3, help='random choices of the labelled pictures')
    args = p.parse_args()
    warnings.filterwarnings('ignore')
    with tempfile.TemporaryDirectory() as d:
        args.out = args.out or d; Path(args.out).mkdir(parents=True, exist_ok=True)
        root = Path(args.data)/'fashion-product-images' if args.data else demo_styles(Path(d)/'shop', n=600)
        ready = prepare_catalog(RunConfig(str(root), d))
        print(f'{(ready.catalog.df["split"] == "train").sum():,} train pictures, {"real" if args.data else "demo"}, {args.size} px, '
              f'{args.arch}', flush=True)
        main(args, ready)
