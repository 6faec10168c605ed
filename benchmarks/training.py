"""How long training takes, beside fastai as its documentation shows it.

    python benchmarks/training.py [DATA] [--size PX] [--epochs N] [--unfrozen N] [--target R]

Both sides train EfficientNet-Lite0 from the same weights on the same pictures and folds, in one process, one after the
other; seconds are those of training with its validation, on our side with the building of every cache, which starts
empty. Pictures are those of DATA/fashion-product-images (DATA is the argument or CATALOG_TAGGER_DATA), of the demo
catalog without. Stock is `ImageDataLoaders.from_df(item_tfms=Resize, batch_tfms=aug_transforms())`, `vision_learner`
and `fine_tune`, all else at its defaults, at the rate that `lr_find` suggests. A run's memory is told by
`benchmarks/pictures.py --memory N`."""
import argparse, os, sys, tempfile, warnings
from pathlib import Path
from time import perf_counter

import pandas as pd
from fastai.callback.schedule import *
from fastai.vision.all import ImageDataLoaders, Learner, Normalize, Resize, aug_transforms, noop, set_seed, vision_learner
from fastai.callback.progress import ProgressCallback

from catalog_tagger.core.config import RunConfig
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.train.learner import History
from catalog_tagger.train.fastai_metrics import RecallAtK
from catalog_tagger.train.backbones import BUNDLED, find_arch
from catalog_tagger.train.weights import bundled_weights
from catalog_tagger.runs.train import build_learner, fit_learner
from catalog_tagger.catalog.prepare import prepare_catalog

def stock(ready, size:int)->Learner:
    "A learner as fastai's documentation builds it, with our weights in its body."
    a, df = find_arch(BUNDLED), ready.catalog.df[ready.catalog.df['split'] != 'test']
    flat = df.assign(tags=df['labels'].map('|'.join), is_valid=df['split'] == 'valid')
    set_seed(42, reproducible=True)
    dls = ImageDataLoaders.from_df(flat, path='/', fn_col='image', label_col='tags', label_delim='|', valid_col='is_valid',
                                   item_tfms=Resize(size),
                                   batch_tfms=[*aug_transforms(), Normalize.from_stats(a.mean, a.std)])
    learn = vision_learner(dls, a.net, pretrained=False, normalize=False, metrics=RecallAtK(3), cbs=History())
    weights, body = bundled_weights(), learn.model[0].model
    body.load_state_dict({k: weights[k] for k in body.state_dict()})
    learn.freeze(); learn.remove_cb(ProgressCallback); learn.logger = noop
    return learn

class Stamped(list):
    "Rows that know when they came."
    def append(self, o):
        super().append(o | dict(at=perf_counter()))
        print(f'  {o["stage"]} {o["epoch"]}: {o["seconds"]:.1f} s, recall@3 {o["recall@3"]:.4f}', file=sys.stderr, flush=True)

def rows_of(build, fit)->pd.DataFrame:
    "The history of `fit(build())`; `at` is in seconds from the start."
    start = perf_counter(); learn = build(); learn.history.rows = Stamped()
    fit(learn)
    return learn.history.table().assign(at=lambda o: o['at'] - start)

def stock_rows(ready, args)->pd.DataFrame:
    "`fine_tune` at the rate that `lr_find` suggests, which is not counted."
    with tempfile.TemporaryDirectory() as d:
        learn = stock(ready, args.size); learn.path = Path(d)
        lr = learn.lr_find(show_plot=False).valley
    print(f'stock: rate {lr:.2g}', flush=True)
    return rows_of(lambda: stock(ready, args.size), lambda o: o.fine_tune(args.unfrozen, lr, freeze_epochs=args.epochs))

def our_rows(ready, cache:str, out:str, **kwargs)->pd.DataFrame:
    "A run with an empty cache."
    os.environ['CATALOG_TAGGER_CACHE'] = cache
    cfg = RunConfig('', out, **kwargs)
    return rows_of(lambda: build_learner(cfg, ready.catalog.df, ready.space), lambda o: fit_learner(o, cfg))

def line(what:str, stock:float, ours:float, more:str='')->None:
    print(f'{what:<52}{more:>2}{stock:>8.1f}{ours:>10.1f}{more:>3}{stock/ours:>6.1f} x', flush=True)

def reached(rows:pd.DataFrame, target:float)->tuple[float, str]:
    "Seconds to the first epoch with `target`; all there were and '>' if none has it."
    at = rows.loc[rows['recall@3'] >= target, 'at'].min()
    return (rows['at'].iloc[-1], '>') if pd.isna(at) else (at, '')

def compare(ready, args)->None:
    with tempfile.TemporaryDirectory() as d:
        print('ours', file=sys.stderr)
        head = our_rows(ready, f'{d}/a', f'{d}/ra', size=args.size, freeze_epochs=args.epochs, epochs=0)
        whole = our_rows(ready, f'{d}/b', f'{d}/rb', size=args.size, epochs=args.unfrozen)
        epoch = our_rows(ready, f'{d}/b', f'{d}/rc', size=args.size, bs=64, freeze_epochs=0, epochs=2)
        theirs = stock_rows(ready, args)
    frozen, same = theirs['at'].iloc[args.epochs - 1], theirs[theirs['stage'] == 'unfrozen']
    print(f'{"seconds":<52}{"stock":>10}{"ours":>10}{"ratio":>11}')
    line(f'frozen stage of {args.epochs} epochs', frozen, head['at'].iloc[-1])
    for r in (args.target, theirs['recall@3'].max()):
        stock, more = reached(theirs, r)
        line(f'to recall@3 {r:.3f} of valid', stock, reached(whole, r)[0], more)
    line('an unfrozen epoch, 64 pictures a batch', same['seconds'].median(), epoch['seconds'].iloc[-1])
    print(f'recall@3 of valid after the frozen stage: stock {theirs["recall@3"].iloc[args.epochs - 1]:.4f}, '
          f'ours {head["recall@3"].iloc[-1]:.4f}')
    print(f'recall@3 of valid at the end: stock {theirs["recall@3"].iloc[-1]:.4f} after {theirs["at"].iloc[-1]:.0f} s, '
          f'ours {whole["recall@3"].iloc[-1]:.4f} after {whole["at"].iloc[-1]:.0f} s')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', default=os.environ.get('CATALOG_TAGGER_DATA'), help='folder of the data sets')
    p.add_argument('--size', type=int, default=128, help='side of the input, px')
    p.add_argument('--epochs', type=int, default=10, help='frozen epochs')
    p.add_argument('--unfrozen', type=int, default=10, help='unfrozen epochs')
    p.add_argument('--target', type=float, default=.9, help='recall@3 of valid that both shall reach')
    args = p.parse_args()
    warnings.filterwarnings('ignore')
    with tempfile.TemporaryDirectory() as d:
        root = Path(args.data)/'fashion-product-images' if args.data else demo_styles(Path(d)/'shop', n=600)
        ready = prepare_catalog(RunConfig(str(root), d))
        print(f'{(ready.catalog.df["split"] == "train").sum():,} train and {(ready.catalog.df["split"] == "valid").sum():,} valid '
              f'pictures, {"real" if args.data else "demo"}, {args.size} px, {len(ready.space.vocab)} labels', flush=True)
        compare(ready, args)
