"""How fast the nearest of all pictures are found, beside what a study did, and how many are found of a million.

    python benchmarks/similar.py [DATA] [--vectors FILE.npy] [--turns N]
    python benchmarks/similar.py --million [--n N] [--plot FILE.png]

The first takes the vectors of DATA/fashion-product-images (DATA is the argument or CATALOG_TAGGER_DATA;
EfficientNet-Lite0 as it comes, 128 px; or those of FILE.npy) and looks for the 10 nearest of each among all. The study
kept a dict from name to vector and called scikit-learn's `cosine_similarity` for every pair in a loop: that is run for
some pictures against all, and scaled to all pictures, for every pair costs the same. Beside it
`SimilarIndex.neighbours` with each structure, best time of the turns, and its recall.

The second draws 1,000,000 vectors of 256 numbers in 2,000 clusters, each a cloud of 32 directions with noise in all
others, and queries from the same clusters that are not among them; builds an index with `float16` vectors, and prints
recall@10 against an exact search and queries a second (batches of 1,024) for each effort, the memory that the process
held at most, and whether the index answers the same when it was saved and loaded. Needs `pip install
"catalog_tagger[faiss]"`."""
import argparse, os, tempfile, warnings
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter

import numpy as np

from catalog_tagger.search.exact import exact_neighbours
from catalog_tagger.search.faiss import KINDS
from catalog_tagger.search.index import SimilarIndex

def seconds(run)->float:
    t = perf_counter(); run()
    return perf_counter() - t

# ---- all pairs of a catalog ----

def real_vectors(data:str)->np.ndarray:
    from catalog_tagger.search.embed import embed_catalog, make_embedder
    from catalog_tagger.catalog.images import audit_images
    from catalog_tagger.catalog.read import read_catalog
    with tempfile.TemporaryDirectory() as d:
        df, _ = audit_images(read_catalog(Path(data)/'fashion-product-images').df)
        return np.array(embed_catalog(make_embedder('efficientnet_lite0'), df, Path(d)/'e').vectors)

def study_loop(vectors:dict[str, np.ndarray], names:list[str], k:int=10)->dict[str, list[str]]:
    "The `k` nearest of each of `names`, as the study found them."
    from sklearn.metrics.pairwise import cosine_similarity
    res = {}
    for name in names:
        scores = {other: cosine_similarity(vectors[name].reshape(1, -1), v.reshape(1, -1))[0][0]
                  for other, v in vectors.items() if other != name}
        res[name] = sorted(scores, key=scores.get, reverse=True)[:k]
    return res

def all_pairs(v:np.ndarray, turns:int, asked:int)->None:
    names = [f'{i}' for i in range(len(v))]; by_name = dict(zip(names, v)); some = names[::len(v)//asked][:asked]
    t, found = perf_counter(), study_loop(by_name, some)
    loop = (perf_counter() - t)/len(some)*len(v)
    print(f'{len(v):,} vectors of {v.shape[1]} numbers, the 10 nearest of each; best of {turns} turns:')
    print(f'  {"dict loop of the study":<24}{loop:10.1f} s   measured on {len(some)} pictures against all, scaled to all')
    for kind in KINDS:
        built = seconds(lambda: SimilarIndex.build(v, names, kind=kind)); index = SimilarIndex.build(v, names, kind=kind)
        best = min(seconds(lambda: index.neighbours(k=10)) for _ in range(turns))
        at = index.neighbours([int(o) for o in some], k=10)[1]
        same = np.mean([len(set(found[o]) & {names[i] for i in row})/10 for o, row in zip(some, at)])
        print(f'  {kind:<24}{best:10.3f} s   {loop/best:9,.0f} × faster; {100*same:.1f} % of the answers of the loop; '
              f'recall {index.recall:.3f}; built in {built:.2f} s')

# ---- a million ----

def draw(n:int, seed:int, d:int=256, clusters:int=2000, block:int=20_000)->np.ndarray:
    "`n` vectors of length 1 as float16; the clusters are the same for every seed."
    world, r = np.random.default_rng(0), np.random.default_rng(seed)
    centres, axes = world.normal(size=(clusters, d)).astype(np.float32), world.normal(size=(32, d)).astype(np.float32)/np.float32(32**.5)
    out = np.empty((n, d), np.float16)
    for i in range(0, n, block):
        m = min(block, n - i)
        x = centres[r.integers(clusters, size=m)] + .5*(
            r.standard_normal((m, 32), np.float32) @ axes) + .3*r.standard_normal((m, d), np.float32)
        out[i:i+m] = x/np.linalg.norm(x, axis=1, keepdims=True)
    return out

def peak()->float: return getrusage(RUSAGE_SELF).ru_maxrss/1024**2

def million(n:int, target:float, plot:str|None)->None:
    vectors, queries = draw(n, 1), draw(4096, 2).astype(np.float32)
    print(f'{n:,} x {vectors.shape[1]} vectors as float16, {vectors.nbytes/1024**3:.2f} GiB; {len(queries):,} queries')
    t = perf_counter(); index = SimilarIndex.build(vectors, [f'{i}' for i in range(n)], target=target, kind='ivf_sq8')
    print(f'built in {perf_counter() - t:.0f} s: {index}')
    few = queries[:1000]
    t = perf_counter(); least = exact_neighbours(vectors, few, 10)[0][:, -1:]
    print(f'exact search by numpy: {len(few)/(perf_counter() - t):.0f} queries/s\n\n  effort  recall@10  queries/s')
    chosen, curve = index.settings['effort'], []
    for effort in (2**i for i in range(8)):
        index.settings['effort'] = effort
        took = seconds(lambda: index.nearest(queries, 10)); recall = (index.nearest(few, 10)[0] >= least - 1e-5).mean()
        curve.append((recall, len(queries)/took))
        print(f'{effort:8}{recall:11.4f}{len(queries)/took:11,.0f}{"   chosen when it was built" if effort == chosen else ""}', flush=True)
    index.settings['effort'] = chosen; before = index.nearest(queries, 10)
    print(f'\nmost memory held: {peak():.2f} GiB')
    with tempfile.TemporaryDirectory() as d:
        index.save(Path(d)/'i'); del index, vectors
        t = perf_counter(); again = SimilarIndex.load(Path(d)/'i')
        same = all(np.array_equal(a, b) for a, b in zip(before, again.nearest(queries, 10)))
    print(f'saved and loaded in {perf_counter() - t:.0f} s: {"the same answers" if same else "OTHER ANSWERS"}; most memory held: '
          f'{peak():.2f} GiB')
    if plot: draw_curve(curve, n, plot)

def draw_curve(curve:list[tuple[float, float]], n:int, path:str)->None:
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(6, 4), layout='constrained')
    ax.plot(*zip(*curve), marker='o'); ax.axvline(.95, ls=':', c='grey'); ax.axhline(1000, ls=':', c='grey')
    ax.set(xlabel='recall@10', ylabel='queries/s', yscale='log', title=f'{n:,} clustered vectors of 256 numbers')
    fig.savefig(path)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', default=os.environ.get('CATALOG_TAGGER_DATA'), help='folder of the data sets')
    p.add_argument('--vectors', help='vectors of length 1 instead, .npy')
    p.add_argument('--turns', type=int, default=3, help='turns that each way takes (3)')
    p.add_argument('--asked', type=int, default=10, help='pictures that the loop is run for (10)')
    p.add_argument('--million', action='store_true', help='draw a million and search among them')
    p.add_argument('--n', type=int, default=1_000_000, help='vectors to draw (1,000,000)')
    p.add_argument('--recall', type=float, default=.95, help='recall that the index is built for (0.95)')
    p.add_argument('--plot', help='PNG file for the curve')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    if a.million: million(a.n, a.recall, a.plot)
    elif a.vectors or a.data: all_pairs(np.load(a.vectors, allow_pickle=False) if a.vectors else real_vectors(a.data), a.turns, a.asked)
    else: p.error('give DATA, --vectors or --million')
