"""How long a large CSV takes to be checked, beside pandas reading the same file as text.

    python benchmarks/reading.py [--rows N] [--pictures N]

A drawn table with a row for each tag that somebody gave to a picture. `catalog_facts` reads the table and opens, splits and labels
the pictures, as `catalog_tagger check` does. The other side is `pandas.read_csv(dtype=str)`, with which a user would start. One
process, each once; memory is the most that the process has held."""
import argparse, resource, tempfile
from pathlib import Path
from time import perf_counter

import pandas as pd
from PIL import Image

from catalog_tagger.apps.check import catalog_facts
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.process import rng

def draw(folder:Path, rows:int, pictures:int)->Path:
    "A catalog: `pictures` pictures, and a table with `rows` rows."
    gen = rng(0, 'reading'); (folder/'images').mkdir()
    for i, o in enumerate(gen.integers(0, 256, (pictures, 16, 16, 3), 'uint8')): Image.fromarray(o).save(folder/'images'/f'{i}.png')
    tag = gen.zipf(1.5, rows) % 500
    cells = dict(image=[f'{i % pictures}.png' for i in range(rows)], tag=[f'tag {o}' for o in tag],
                 by=[f'user {i % 97}' for i in range(rows)], day=[f'2020-{1 + i % 12:02d}-{1 + i % 28:02d}' for i in range(rows)],
                 note=[f'seen {i}' for i in range(rows)])
    pd.DataFrame(cells).to_csv(folder/'tags.csv', index=False)
    return folder

def seconds(f)->float:
    t = perf_counter(); f()
    return perf_counter() - t

def main(rows:int, pictures:int)->None:
    with tempfile.TemporaryDirectory() as d:
        root = draw(Path(d), rows, pictures)
        alone = seconds(lambda: pd.read_csv(root/'tags.csv', dtype=str, keep_default_na=False))
        ours = seconds(lambda: catalog_facts(RunConfig(str(root), '')))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6
        size = (root/'tags.csv').stat().st_size/1e6
    print(f'{rows:,} rows for {pictures:,} pictures, {size:.0f} MB\n  pandas.read_csv {alone:6.2f} s\n  check           {ours:6.2f} s, '
          f'most memory {most:.2f} GB\n  ratio {ours/alone:.1f}')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', type=int, default=1_000_000)
    p.add_argument('--pictures', type=int, default=1000)
    main(**vars(p.parse_args()))
