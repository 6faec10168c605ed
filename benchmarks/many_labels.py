"""What labels cost: training with 5,000 free tags, beside the same pictures with a tenth of them.

    python benchmarks/many_labels.py [--labels N] [--pictures N] [--report]

Tiny pictures of one colour have twelve tags each; frequent tags are more frequent, as in shops. Each side is one command in a process
of its own, with one frozen epoch, and all that follows: thresholds, calibration, scores of three folds with baselines, the saved run.
Printed are seconds of the processor, the memory at the peak, and their ratios; time that grows with the number of labels gives a ratio
of less than ten, one that grows with its square of a hundred. `--report` also writes the report, and prints its seconds and bytes."""
import argparse, os, subprocess, sys, tempfile
from pathlib import Path

import numpy as np, pandas as pd
from PIL import Image

def make_shop(root:Path, labels:int, pictures:int)->Path:
    gen = np.random.default_rng(0); share = 1/np.arange(1, labels + 1)**.5; share /= share.sum()
    (root/'images').mkdir(parents=True)
    for i, o in enumerate(gen.integers(0, 256, (pictures, 3)).tolist()):
        Image.new('RGB', (32, 32), tuple(o)).save(root/'images'/f'{i}.png')
    tags = [';'.join(f'tag {j}' for j in gen.choice(labels, 12, replace=False, p=share)) for _ in range(pictures)]
    pd.DataFrame(dict(image=[f'{i}.png' for i in range(pictures)], tags=tags)).to_csv(root/'shop.csv', index=False)
    return root

def call(*args)->tuple[float, float]:
    "Seconds of the processor and gigabytes at the peak of a call of the command."
    r = subprocess.Popen([sys.executable, '-W', 'ignore', '-m', 'catalog_tagger.apps.cli', *map(str, args)], stdout=subprocess.DEVNULL,
                         env=os.environ | dict(OMP_NUM_THREADS='1'))
    _, status, usage = os.wait4(r.pid, 0)
    if status: sys.exit(f'{args[0]} ended with {os.waitstatus_to_exitcode(status)}')
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss/1e6

def main(labels:int, pictures:int, report:bool)->None:
    with tempfile.TemporaryDirectory() as d:
        d, found = Path(d), []
        for n in (labels, labels//10):
            shop = make_shop(d/f'shop{n}', n, pictures)
            found.append(call('train', shop, '--out', d/f'run{n}', '--size', 32, '--bs', 64, '--freeze-epochs', 1, '--epochs', 0))
            print(f'train   {n:>6,} labels, {pictures:,} pictures: {found[-1][0]:6.1f} s of CPU, {found[-1][1]:.2f} GB')
        (a, m), (b, k) = found
        print(f'ratio for ten times the labels: {a/b:.1f} of time, {m/k:.1f} of memory')
        if report:
            t, m = call('report', d/f'run{labels}', '--out', d/'report.html')
            print(f'report  {labels:>6,} labels: {t:6.1f} s of CPU, {m:.2f} GB, {(d/"report.html").stat().st_size/1e6:.1f} MB')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--labels', type=int, default=5000)
    p.add_argument('--pictures', type=int, default=3000)
    p.add_argument('--report', action='store_true')
    main(**vars(p.parse_args()))
