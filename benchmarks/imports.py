"""How long serving takes to import, against fastai: each in a process of its own, by turns.

    python benchmarks/imports.py [--turns N]
"""
import argparse, subprocess, sys
from statistics import median
from time import perf_counter

WHAT = {'tagger': 'from catalog_tagger.serve.tagger import Tagger',
        'tagger and timm': 'from catalog_tagger.serve.tagger import Tagger; import catalog_tagger.train.backbones',
        'fastai': 'from fastai.vision.all import *'}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--turns', type=int, default=7)
    seconds = {k: [] for k in WHAT}
    for _ in range(p.parse_args().turns):
        for k, code in WHAT.items():
            t = perf_counter(); subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
            seconds[k].append(perf_counter() - t)
    for k, o in seconds.items():
        print(f'{k:<16} {median(o):6.2f} s   {median(a/b for a, b in zip(o, seconds["fastai"])):.0%} of fastai, median of {len(o)} turns')

if __name__ == '__main__': main()
