"""How fast scores become consistent answers, beside a plain loop over the labels of each picture.

    python benchmarks/decoding.py [--pictures N] [--labels N] [--chain N] [--turns N]

Two label spaces: a shop, with four levels of groups, each label below one of the level above, and as many free tags as labels of
the finest level; and a chain in which each label is the parent of the next, as a forged bundle may have. `decode` gives the answers
of random scores. The other side is what one writes first: for each picture and label, walk to the root, and keep the label of the
finest group with the best mean log score, with its ancestors. It is timed on a few pictures, and its time is multiplied."""
import argparse
from time import perf_counter

import numpy as np

from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.serve.answers import decode

def shop(n:int)->LabelSpace:
    "A space of `n` labels: levels of 1, 4, 15 and 40 of a hundred of them, and 40 of a hundred free tags."
    sizes = [max(1, n*o//100) for o in (1, 4, 15, 40)]; gen, levels = np.random.default_rng(0), []
    for i, k in enumerate(sizes): levels.append([f'level {i} {j}' for j in range(k)])
    parents = {l: above[gen.integers(len(above))] for above, below in zip(levels, levels[1:]) for l in below}
    free = [f'tag {i}' for i in range(n - sum(sizes))]
    return LabelSpace(sum(levels, []) + free, {f'level {i}': o for i, o in enumerate(levels)}, parents, {})

def chain(n:int)->LabelSpace:
    vocab = [f'label {i}' for i in range(n)]
    return LabelSpace(vocab, {'finest': vocab[-1:]}, dict(zip(vocab[1:], vocab)), {})

def plain_loop(scores, space:LabelSpace)->list[list[str]]:
    finest, at, res = list(space.exclusive.values())[-1], {l: i for i, l in enumerate(space.vocab)}, []
    for row in scores:
        path = {}
        for l in space.vocab:
            up, o = [], l
            while o is not None: up.append(row[at[o]]); o = space.parents.get(o)
            path[l] = np.log(up).mean()
        best, answer = max(finest, key=path.get), []
        while best is not None: answer.append(best); best = space.parents.get(best)
        res.append(answer[::-1])
    return res

def main(pictures:int, labels:int, chain_:int, turns:int)->None:
    for name, space in (('shop', shop(labels)), ('chain', chain(chain_))):
        scores, few = np.random.default_rng(1).random((pictures, len(space.vocab))), 3 if name == 'shop' else 1
        ours, plain = [], []
        for _ in range(turns):
            t = perf_counter(); answers = decode(scores, space, k=None, min_score=.99); ours.append(perf_counter() - t)
            t = perf_counter(); loop = plain_loop(scores[:few], space); plain.append((perf_counter() - t)*pictures/few)
        assert all(set(o) <= {t for t, _ in a} for o, a in zip(loop, answers))
        print(f'{name:<6} {len(space.vocab):>6,} labels, {pictures:,} pictures, best of {turns} turns: decode {min(ours):6.2f} s, '
              f'plain loop {min(plain):8.1f} s, ratio {min(plain)/min(ours):,.0f}')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--pictures', type=int, default=1000)
    p.add_argument('--labels', type=int, default=5000)
    p.add_argument('--chain', type=int, default=3000, dest='chain_')
    p.add_argument('--turns', type=int, default=3)
    main(**vars(p.parse_args()))
