"""Answers per product beside answers per picture, and the score that a split would show that tears products.

    python benchmarks/products.py [--products N] [--size PX] [--epochs N]
    CATALOG_TAGGER_DATA=DATA python benchmarks/products.py --real [--size PX] [--epochs N]

The first draws a shop, `demo_shop`, whose products have one to four pictures, every second one a close-up. The second takes
DATA/fashion-product-images with `productDisplayName` as product: 357 names hold 859 pictures, every other picture is a product of its
own. Products are kept in one fold; the rule is chosen on one half of the valid products, the decision for products is fitted on the
other. All intervals are of 1,000 samples of products drawn with replacement; the difference is that of a product minus the mean of its
own pictures. "several" are the test products with several pictures. The last column is another run on the same pictures with
`product='none'`: pictures of a product are then in train and in test."""
import argparse, os, tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from catalog_tagger.core.config import RunConfig
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.score import score_products
from catalog_tagger.runs.train import train_run
from catalog_tagger.testing.demo import demo_shop

def shown(o:dict, sign:str='')->str:
    "A score with its interval."
    return f'{o["score"]:{sign}.3f}' + ('' if o['low'] is None else f' ({o["low"]:{sign}.3f} to {o["high"]:{sign}.3f})')

def rows(title:str, p:dict, torn:dict, names:list[str])->None:
    print(f'\n{title}: {p["products"]} products with {p["pictures"]} pictures')
    print(f'  {"":<26}{"per product":<26}{"per picture":<26}{"difference":<28}torn')
    for m in names:
        other, difference = shown(torn[m]) if torn else '', shown(p['difference'][m], '+') if m in p['difference'] else ''
        print(f'  {m:<26}{shown(p["product"][m]):<26}{shown(p["picture"][m]):<26}{difference:<28}{other}')

def compare(cfg:RunConfig, d:Path)->None:
    t = perf_counter(); m = train_run(replace(cfg, out=str(d/'run')), say=lambda o: None)
    torn = train_run(replace(cfg, out=str(d/'torn'), product='none'), say=lambda o: None)
    run = Run.open(d/'run'); df, p = run.pictures('test'), m['products']
    several = df['product'].duplicated(keep=False) & (df['product'] != '')
    names = [*p['difference'], 'f1_micro', 'f1_macro']
    print(f'{sum(m["pictures"].values()):,} pictures, {cfg.arch} at {cfg.size} px; two runs in {perf_counter() - t:.0f} s')
    print(f'rule {p["rule"]}, cross-entropy on half of valid: {", ".join(f"{k} {v:.4f}" for k, v in p["losses"].items())}')
    kept = p['promise']
    published = f'{kept["published"]} of {p["products"]} test products, {kept["right"]} right' if kept else 'nothing is promised'
    print(f'published without review: {published}')
    rows('test', p, torn['test'], names)
    rows('test, several', score_products(run.tagger(), df[several].reset_index(drop=True)), {}, names)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--real', action='store_true'); parser.add_argument('--products', type=int, default=600)
    parser.add_argument('--size', type=int, default=64); parser.add_argument('--epochs', type=int, default=4)
    args = parser.parse_args(); d = Path(tempfile.mkdtemp())
    how = dict(size=args.size, epochs=args.epochs, freeze_epochs=10)
    real = Path(os.environ.get('CATALOG_TAGGER_DATA', ''))/'fashion-product-images'
    if args.real: cfg = RunConfig(str(real), '', product='productDisplayName', **how)
    else: cfg = RunConfig(str(demo_shop(d/'shop', n=args.products)), '', label_columns=('type', 'colour'), **how)
    compare(cfg, d)

if __name__ == '__main__': main()
