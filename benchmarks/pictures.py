"""How fast pictures come to a model, from files and from the cache of decoded pictures.

    python benchmarks/pictures.py [DATA] [--n N] [--size PX]
    python benchmarks/pictures.py --memory N [--size PX]

Pictures are those of DATA/fashion-product-images (DATA is the argument or CATALOG_TAGGER_DATA), of the demo catalog
without. No model runs: what is timed is data alone. One process, one thread (building the cache takes all), no worker
processes; best of 3 turns; every ratio is between two figures of one run. With --memory N an epoch over N pictures of
random bytes is read instead, and the largest private memory told."""
import argparse, os, tempfile
from io import BytesIO
from pathlib import Path
from time import perf_counter

import numpy as np, pandas as pd, torch
from fastai.vision.all import ImageDataLoaders, RandomResizedCrop
from PIL import Image

from catalog_tagger.core.process import rng
from catalog_tagger.train.data import PictureCacheDL, catalog_dls, train_tfms
from catalog_tagger.catalog.picture_cache import cache_pictures
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.catalog.images import Prep, audit_images, fit_image, open_image
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.catalog.labels import apply_labels, fit_labels
from catalog_tagger.catalog.split import split_catalog

def catalog(data:str|None, n:int, tmp:Path)->tuple[pd.DataFrame, object, str]:
    "At most `n` pictures, labelled and split, their label space, and where they come from."
    root = Path(data)/'fashion-product-images' if data else demo_styles(tmp/'shop', n=n)
    df, _ = audit_images(read_catalog(root).df.head(n))
    df, _ = split_catalog(df)
    space = fit_labels(df)
    return apply_labels(df, space)[0], space, 'real pictures' if data else 'demo pictures'

def timed(f, *args, turns:int=3)->float:
    "Seconds of the fastest of `turns` calls."
    res = []
    for _ in range(turns): t = perf_counter(); f(*args); res.append(perf_counter() - t)
    return min(res)

def table(title:str, seconds:dict[str, float], n:int)->None:
    print(f'\n{title}')
    first = next(iter(seconds.values()))
    for name, s in seconds.items(): print(f'  {name:<46}{n/s:>9,.0f} pictures/s{first/s:>8.1f} x')

def reading(images:list[str], prep:Prep, tmp:Path)->None:
    built = timed(lambda: cache_pictures(images, prep, folder=tmp/'cache'), turns=1)
    pictures = cache_pictures(images, prep, folder=tmp/'cache')
    order = rng(42, 'order').permutation(len(images))
    table(f'Opening and resizing {len(images):,} pictures to {prep.size}', {
        'from files (Prep.picture)': timed(lambda: [np.asarray(prep.picture(o)) for o in images]),
        'building the cache, all threads': built,
        'from the cache, in batches of 64, any order': timed(lambda: [pictures[order[i:i+64]] for i in range(0, len(order), 64)])},
          len(images))

def epochs(df:pd.DataFrame, space, prep:Prep, tmp:Path)->None:
    flat = df[df['split'] != 'test'].assign(tags=lambda o: o['labels'].map('|'.join), is_valid=lambda o: o['split'] == 'valid')
    for title, tfms in (('crop alone', list), ('crop, flip, rotation, lighting', lambda: train_tfms(max_rotate=10, max_lighting=.2))):
        crop = RandomResizedCrop(prep.size, min_scale=.5)
        stock = ImageDataLoaders.from_df(flat, path='/', fn_col='image', label_col='tags', label_delim='|', valid_col='is_valid',
                                         item_tfms=crop,
                                         batch_tfms=tfms(), num_workers=0)
        plain, fast = (catalog_dls(df, space, prep, bs=64, min_scale=.5, batch_tfms=tfms(), cache=o) for o in (None, tmp/'cache'))
        table(f'An epoch of training pictures, {title}', {name: timed(lambda: [None for _ in o.train]) for name, o in
              (('fastai ImageDataLoaders', stock), ('catalog_dls', plain), ('catalog_dls, cached', fast))}, len(plain.train)*plain.train.bs)
    table('An epoch of validation pictures', {name: timed(lambda: [None for _ in o.valid]) for name, o in
          (('fastai ImageDataLoaders', stock), ('catalog_dls', plain), ('catalog_dls, cached', fast))}, len(plain.valid_ds))
    layouts(fast.train)

def layouts(dl)->None:
    "Does it help a net to get its batches as channels_last?"
    import timm
    net = timm.create_model('tf_efficientnet_lite0').to(memory_format=torch.channels_last).eval()
    x = torch.as_tensor(dl.one_batch()[0]).as_subclass(torch.Tensor)
    ways = {'channels first': x.contiguous(), 'channels last': x.contiguous(memory_format=torch.channels_last)}
    came = 'last' if x.is_contiguous(memory_format=torch.channels_last) else 'first'
    with torch.inference_mode():
        table(f'EfficientNet-Lite0 on one batch of {len(x)} (batches come as channels {came})', {k: timed(net, o) for k, o in ways.items()},
              len(x))

def photo(w:int, h:int, gen:np.random.Generator)->bytes:
    "A JPEG with the spectrum of photos: amplitude falls with frequency."
    f = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]); f[0, 0] = 1
    x = np.stack([np.fft.irfft2((gen.normal(size=f.shape) + 1j*gen.normal(size=f.shape))/f, s=(h, w)) for _ in range(3)], -1)
    Image.fromarray((x/x.std()*50 + 128).clip(0, 255).astype(np.uint8)).save(b := BytesIO(), 'JPEG', quality=90)
    return b.getvalue()

def drafts(size:tuple[int, int])->None:
    for w, h in ((600, 800), (1201, 1601), (2400, 3200)):
        items = [photo(w, h, rng(i, 'photo')) for i in range(4)]
        def full(o): return np.asarray(fit_image(open_image(o), size), int)
        def draft(o): return np.asarray(fit_image(open_image(o, draft=size), size), int)
        off = [np.abs(full(o) - draft(o)) for o in items]
        table(f'JPEGs of {w}x{h} to {size}; a draft differs by {np.mean(off):.2f} of 255 on average, {np.max(off)} at most',
              {'decoded in full': timed(lambda: [full(o) for o in items]), 'drafted': timed(lambda: [draft(o) for o in items])}, len(items))

def private()->float:
    "MB that this process holds for itself; pages of a mapped file, which the system may take back at any time, are not among them."
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return sum(int(o.split()[1]) for o in lines if o.startswith(('Anonymous:', 'Swap:')))/1024

def memory(n:int, prep:Prep, tmp:Path)->None:
    df = read_catalog(demo_styles(tmp/'shop', n=60)).df
    df = split_catalog(df)[0]; space = fit_labels(df); df = apply_labels(df, space)[0]
    print(f'{private():,.0f} MB private after the imports')
    for k in (n//4, n):
        some = df.iloc[np.arange(k + 1) % len(df)].assign(split=['train']*k + ['valid']).reset_index(drop=True)
        dls = catalog_dls(some, space, prep, bs=64)
        side = tuple(round(o*2**.5) for o in prep.size); row = rng(0, 'bytes').integers(256, size=(1000, *side, 3), dtype=np.uint8)
        file = np.lib.format.open_memmap(tmp/f'{k}.npy', mode='w+', dtype=np.uint8, shape=(k, *side, 3))
        for i in range(0, k, 1000): file[i:i+1000] = row[:k-i]
        del file
        pictures = np.lib.format.open_memmap(tmp/f'{k}.npy', mode='r')
        targets = torch.from_numpy(space.one_hot(some['labels'][:k])).float()
        peak, t = 0, perf_counter()
        for _ in PictureCacheDL.over(dls.train, pictures, targets, RandomResizedCrop(prep.size, min_scale=.5)): peak = max(peak, private())
        print(f'{k:,} pictures of {side}, {pictures.nbytes/1e9:.1f} GB of file, read in {perf_counter() - t:.0f} s: '
              f'{peak:,.0f} MB private at most')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', default=os.environ.get('CATALOG_TAGGER_DATA'), help='folder of the data sets')
    p.add_argument('--n', type=int, default=2000, help='most pictures of the catalog')
    p.add_argument('--size', type=int, default=128, help='side of the input, px')
    p.add_argument('--memory', type=int, metavar='N', help='private memory of an epoch over N pictures')
    args = p.parse_args()
    torch.set_num_threads(1)
    prep = Prep((args.size, args.size), (.5, .5, .5), (.25, .25, .25))
    with tempfile.TemporaryDirectory() as d:
        tmp = Path(d)
        if args.memory: memory(args.memory, prep, tmp)
        else:
            df, space, source = catalog(args.data, args.n, tmp)
            print(f'{len(df):,} {source}')
            reading(df['image'].tolist(), prep, tmp); epochs(df, space, prep, tmp); drafts(prep.size)
