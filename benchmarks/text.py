"""How fast texts become tags, beside what study 3 does.

    python benchmarks/text.py [DATA] [--titles N | --show N]

Titles are those of DATA/fashion-product-images/styles.csv (DATA is the argument or CATALOG_TAGGER_DATA), of the demo
catalog without. One process, one run: both sides get the same words, found before the clocks start, and keep the 10
best of each item. With --titles N the whole way from text to tags is timed on N titles instead, each made of the halves
of two. With --show N titles of the fold that was not learned from stand beside their tags and columns, and how many
that name their articleType get it as a tag."""
import argparse, os
from pathlib import Path
from time import perf_counter

import numpy as np, pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from catalog_tagger.core.process import rng
from catalog_tagger.testing.demo import demo_products
from catalog_tagger.catalog.steps import lemmatise, normalise
from catalog_tagger.catalog.text import find_words, fit_idf, fit_text_tags, top_words

K = 10

def read_products(data:str|None)->tuple[pd.DataFrame, str]:
    "Products with their titles, and where they come from."
    if not data: return demo_products(4000), 'demo titles'
    return pd.read_csv(Path(data)/'fashion-product-images'/'styles.csv', dtype=str, keep_default_na=False), 'real titles'

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

def keys(text:str)->set[str]:
    "Lemmas of the words of `text`, without hyphens; a plural that the dictionary lacks (tshirts) loses its s."
    return {lemmatise(o.replace('-', '')).removesuffix('s') for o in normalise(text, seps='_/').split()}

def name_their_type(df:pd.DataFrame)->pd.DataFrame:
    "The products whose title names their articleType, with whether their tags do."
    want = df['articleType'].map(keys)
    there = pd.Series([w <= keys(t) for w, t in zip(want, df['productDisplayName'])], df.index)
    got = [w <= keys(' '.join(t)) for w, t in zip(want, df['tags'])]
    return df.assign(got=got)[there]

def tag_titles(df:pd.DataFrame)->pd.DataFrame:
    "The 40 % of products that nothing was learned from, with the tags of their titles."
    rest = rng(42, 'titles').random(len(df)) < .4
    fitted = fit_text_tags(df['productDisplayName'][~rest])
    return df[rest].assign(tags=fitted.apply(df['productDisplayName'][rest]))

def show(df:pd.DataFrame, n:int)->None:
    df = tag_titles(df); named = name_their_type(df)
    print(f'{len(df):,} titles that nothing was learned from; {len(named):,} name their articleType, '
          f'{named["got"].mean():.1%} of these get it as a tag')
    for o in df.sample(n, random_state=0).itertuples():
        print(f'| {o.productDisplayName} | {", ".join(o.tags)} | {o.articleType} | {o.baseColour} |')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', default=os.environ.get('CATALOG_TAGGER_DATA'), help='folder of the data sets')
    p.add_argument('--titles', type=int, metavar='N', help='time the whole way on N titles')
    p.add_argument('--show', type=int, metavar='N', help='show N titles with their tags')
    args = p.parse_args()
    products, source = read_products(args.data)
    titles = products['productDisplayName'].tolist()
    print(f'{len(titles):,} {source}')
    if args.show: show(products, args.show)
    elif args.titles: whole_way(titles, args.titles)
    else: compare(titles)
