"""How fast a catalog is split, beside iterative stratification alone, which is what a user would run.

    python benchmarks/split.py [--pictures N] [--tags N] [--each N] [--turns N]

Drawn tags, a few of them frequent and most rare: tag number i has a weight of 1/i**.7, and each picture has --each different
ones. `split_catalog` stratifies, then moves pictures until every tag of three pictures is in every fold where it can, and counts
the result. The other side is `IterativeStratification` of the package iterative-stratification on the same tags. One
process, by turns, the shortest time of each counts."""
import argparse
from time import perf_counter

import numpy as np, pandas as pd
from iterstrat.ml_stratifiers import IterativeStratification

from catalog_tagger.catalog.split import SPLITS, _unit_tags, split_audit, split_catalog
from catalog_tagger.core.process import rng

FRACTIONS = (.6, .2, .2)

def draw(pictures:int, tags:int, each:int)->pd.DataFrame:
    gen, p = np.random.default_rng(0), 1/np.arange(1, tags + 1)**.7
    return pd.DataFrame({'image': [f'{i}.png' for i in range(pictures)],
                         'tags': [[f'tag {j}' for j in gen.choice(tags, each, False, p/p.sum())] for _ in range(pictures)]})

def alone(df:pd.DataFrame)->pd.DataFrame:
    folds = IterativeStratification(_unit_tags(df, 'tags', 1)[0] > 0, np.array(FRACTIONS), rng(42, 'split'))
    return df.assign(split=np.array(SPLITS)[folds])

def ours(df:pd.DataFrame)->pd.DataFrame: return split_catalog(df, fractions=FRACTIONS)[0]

def main(pictures:int, tags:int, each:int, turns:int)->None:
    df, ways = draw(pictures, tags, each), {'iterative stratification alone': alone, 'split_catalog': ours}
    times, found = {k: [] for k in ways}, {}
    for _ in range(turns):
        for k, f in ways.items():
            t = perf_counter(); found[k] = f(df); times[k].append(perf_counter() - t)
    print(f'{pictures:,} pictures with {each} of {tags:,} tags each, best of {turns} turns; deviation of tags in three pictures or more:')
    for k in ways:
        audit = split_audit(found[k]).query('units >= 3')
        print(f'  {k:<32} {min(times[k]):7.2f} s   mean {audit["worst"].mean():.1f} points, '
              f'{audit["note"].ne("").sum()} of {len(audit):,} tags lack a fold')
    a, b = (min(o) for o in times.values())
    print(f'  ratio {a/b:.2f}')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--pictures', type=int, default=1500)
    p.add_argument('--tags', type=int, default=5000)
    p.add_argument('--each', type=int, default=30)
    p.add_argument('--turns', type=int, default=3)
    main(**vars(p.parse_args()))
