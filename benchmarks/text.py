"""How fast texts become tags, beside what study 3 does.

    python benchmarks/text.py [DATA] [--titles N]

Titles are those of DATA/fashion-product-images/styles.csv (DATA is the argument or CATALOG_TAGGER_DATA), of the demo catalog without.
One process, one run: both sides get the same words, found before the clocks start, and keep the 10 best of each item.
With --titles N the whole way from text to tags is timed on N titles instead, each made of the halves of two.
"""
import argparse, os
from pathlib import Path
from time import perf_counter

import numpy as np, pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from catalog_tagger.core import rng
from catalog_tagger.demo import demo_products
from catalog_tagger.text import find_words, fit_idf, fit_text_tags, top_words

K = 10

def read_titles(data:str|None)->tuple[list[str], str]:
    "Product titles and where they come from."
    if not data: return demo_products(4000)['productDisplayName'].tolist(), 'demo titles'
    path = Path(data)/'fashion-product-images'/'styles.csv'
    return pd.read_csv(path, dtype=str, keep_default_na=False)['productDisplayName'].tolist(), 'real titles'

def recombined(titles:list[str], n:int)->list[str]:
    "`n` titles, each the first half of one and the second half of another."
    halves = [(o[:len(o)//2], o[len(o)//2:]) for o in map(str.split, titles)]
    pairs = rng(42, 'benchmark').integers(len(titles), size=(n, 2))
    return [' '.join(halves[a][0] + halves[b][1]) for a, b in pairs]

def ours(words:pd.DataFrame)->pd.DataFrame:
    "Fitted once over all items."
    return top_words(words, fit_idf(words, min_count=1), k=K)

def study(items:pd.Series)->list[list[str]]:
    "As the study does: a vectoriser fitted on every single item, its words sorted by score."
    res = []
    for o in items:
        v = TfidfVectorizer(analyzer=list)
        score = v.fit_transform([o]).toarray()[0]
        res.append(v.get_feature_names_out()[np.argsort(-score, kind='stable')[:K]].tolist())
    return res

def timed(f, *args):
    t = perf_counter(); res = f(*args)
    return perf_counter() - t, res

def compare(titles:list[str])->None:
    words = find_words(titles)
    items = words.groupby('item')['word'].agg(list)
    ours(words[:1000]); study(items[:20])
    times = np.array([[timed(ours, words)[0], timed(study, items)[0]] for _ in range(3)])
    a, b = times.min(0)
    print(f'TF-IDF alone, {len(items):,} items with {len(words):,} words, best {K} of each, best of 3 turns:')
    print(f'  a vectoriser for every item (study 3)  {b:8.3f} s')
    print(f'  fitted once (top_words)                {a:8.3f} s')
    print(f'  ratio                                  {b/a:8.1f}')

def whole_way(titles:list[str], n:int)->None:
    some = recombined(titles, n)
    fit, fitted = timed(fit_text_tags, some)
    apply, tags = timed(fitted.apply, some)
    print(f'{n:,} titles of {np.mean([len(o.split()) for o in some]):.1f} words, one process: '
          f'fit_text_tags {fit:.1f} s, apply {apply:.1f} s; {sum(map(len, tags))/n:.1f} tags a title')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', default=os.environ.get('CATALOG_TAGGER_DATA'), help='folder of the data sets')
    p.add_argument('--titles', type=int, metavar='N', help='time the whole way on N titles')
    args = p.parse_args()
    titles, source = read_titles(args.data)
    print(f'{len(titles):,} {source}')
    whole_way(titles, args.titles) if args.titles else compare(titles)
