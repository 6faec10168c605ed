"""How fast many pictures get their tags, beside the bare model and what a fastai user would run.

    python benchmarks/tagging.py [DATA] [--pictures N] [--turns N] [--threads N]

Pictures are those of DATA/fashion-product-images (DATA is the argument or CATALOG_TAGGER_DATA, 60×80 px, brought to
128), drawn products without. EfficientNet-Lite0 with its pretrained weights and the labels of the catalog; what it has
learned does not matter to the time. One process, the ways take turns, the shortest time of each counts: the model alone
on batches that are ready in memory, channels last, in inference mode; `tag_many` from paths to a CSV file;
`learn.get_preds` on the same paths; a loop of `learn.predict` (on an eighth of them). The first three take batches of
the same size."""
import argparse, os, tempfile, warnings
from copy import deepcopy
from pathlib import Path
from time import perf_counter

import numpy as np, torch

from catalog_tagger.all import *
from catalog_tagger.serve.many import tag_many

def read_products(data:str|None, folder:Path, n:int)->tuple[Path, str]:
    "Folder of a catalog, and what its pictures are."
    if data: return Path(data)/'fashion-product-images', 'real pictures of 60×80 px'
    return demo_styles(folder/'shop', n=n), 'drawn pictures'

def make_learner(source:Path, out:Path)->tuple:
    "A learner of the catalog before it has learned anything, and the usable pictures."
    cfg = RunConfig(str(source), str(out), tta=1, cache=False)    # one view, as get_preds and predict take
    ready = prepare_catalog(cfg)
    return build_learner(cfg, ready.catalog.df, ready.space), ready.catalog.df['image'].tolist()

def make_ways(learn, images:list[str], bs:int, out:Path)->dict:
    "Name → (what to run, how many pictures it handles)."
    predictor = Predictor.from_learner(learn)
    net = deepcopy(learn.model).eval().to(memory_format=torch.channels_last)    # the learner keeps its own as fastai made it
    batches = [as_input([predictor.prep.picture(o) for o in images[i:i+bs]], predictor.prep) for i in range(0, len(images), bs)]
    @torch.inference_mode()
    def bare():
        net.eval()
        for x in batches: net(x)
    def ours(): tag_many(predictor, images, out/'tags.csv', bs=bs, resume=False)
    def get_preds():
        with learn.no_bar(): learn.get_preds(dl=learn.dls.test_dl(images, bs=bs, num_workers=0))
    few = images[:max(1, len(images)//8)]
    def loop():
        with learn.no_bar():
            for o in few: learn.predict(o)
    return {'the model alone': (bare, len(images)), 'tag_many': (ours, len(images)), 'learn.get_preds': (get_preds, len(images)),
            'learn.predict in a loop': (loop, len(few))}

def seconds(run)->float:
    t = perf_counter(); run()
    return perf_counter() - t

def main(data:str|None, n:int, turns:int, bs:int)->None:
    with tempfile.TemporaryDirectory() as d:
        source, what = read_products(data, Path(d), n)
        learn, images = make_learner(source, Path(d)/'run')
        images = images[:n]
        ways = make_ways(learn, images, bs, Path(d))
        for run, _ in ways.values(): run()
        times = np.array([[seconds(run)/k for run, k in ways.values()] for _ in range(turns)])
    best = times.min(0)
    print(f'{len(images):,} {what}, {len(learn.dls.space.vocab)} labels, batches of {bs}, {torch.get_num_threads()} threads, '
          f'best of {turns} turns:')
    for name, t in zip(ways, best): print(f'  {name:<24}{1e3*t:8.2f} ms a picture {1/t:8.1f} pictures/s')
    ratios = times/times[:, [1]]
    print('tag_many against each, best time against best time (and the middle of the ratios of each turn):')
    for i, name in enumerate(ways):
        if i != 1: print(f'  {name:<24}{best[i]/best[1]:8.2f} × ({np.median(ratios[:, i]):.2f})')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', default=os.environ.get('CATALOG_TAGGER_DATA'), help='folder of the data sets')
    p.add_argument('--pictures', type=int, default=4096, metavar='N', help='pictures to tag (4096)')
    p.add_argument('--turns', type=int, default=5, metavar='N', help='turns that each way takes (5)')
    p.add_argument('--bs', type=int, default=32, metavar='N', help='pictures that go through the model together (32)')
    p.add_argument('--threads', type=int, metavar='N', help='threads of torch')
    args = p.parse_args()
    warnings.filterwarnings('ignore')
    if args.threads: torch.set_num_threads(args.threads)
    main(args.data, args.pictures, args.turns, args.bs)
