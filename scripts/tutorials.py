"Run the tutorials, or those named, at full size and store their outputs, made small; on real data where CATALOG_TAGGER_DATA is."
import sys
from pathlib import Path

from notebook import find, nbs, store

if __name__ == '__main__':
    pages = sys.argv[1:] or sorted(o.stem for o in (nbs/'tutorials').glob('*.ipynb'))
    for path in [find(str(Path('tutorials', o))) for o in pages]: store(path, full=True)
