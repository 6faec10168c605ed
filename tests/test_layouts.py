"Every layout that the demo catalog writes goes from its files to labels in three folds; a new one is a file."
import sys
from pkgutil import iter_modules

import pandas as pd, pytest

from catalog_tagger.catalog.readers.profiles import load_profiles
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import SPLITS
from catalog_tagger.testing import demo
from catalog_tagger.testing.demo import demo_feidegger, demo_folders, demo_imaterialist, demo_onehot, demo_posts, demo_styles, demo_tags
from catalog_tagger.apps.check import catalog_facts
from catalog_tagger.apps.cli import _layouts, make_parser
from catalog_tagger.catalog import readers
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.catalog.read import find_layout, read_catalog
from catalog_tagger.catalog.masks import rle_share
from catalog_tagger.catalog.readers.base import LAYOUTS, all_layouts
from catalog_tagger.catalog.readers.imaterialist import read_garments

writers = dict(styles=demo_styles, folders=demo_folders, onehot=demo_onehot, tags=demo_tags, imaterialist=demo_imaterialist,
               feidegger=demo_feidegger)

@pytest.mark.parametrize('layout', writers)
def test_from_files_to_labels(layout, tmp_path):
    cfg = RunConfig(str(writers[layout](tmp_path/'c', n=80)), str(tmp_path/'r'), words='de' if layout == 'feidegger' else None)
    catalog, space = prepare_catalog(cfg)[:2]
    df, rejected = catalog.df, catalog.rejected
    assert len(df) + len(rejected) == 80 and len(df) > 70
    have = {fold: {l for o in df['labels'][df['split'] == fold] for l in o} for fold in SPLITS}
    assert have['train'] == set(space.vocab) >= have['valid'] | have['test']
    if layout not in ('folders', 'feidegger'): assert have['valid'] == have['test'] == have['train']    # those have folds of their own
    facts = catalog_facts(cfg)
    assert facts['layout'] == layout and facts['split']['duplicates_across'] == 0
    assert bool(space.exclusive) == (layout in ('styles', 'folders')) and bool(space.parents) == (layout in ('styles', 'imaterialist'))

def test_untagged_posts_are_kept_apart(tmp_path):
    catalog = prepare_catalog(RunConfig(str(demo_posts(tmp_path/'c', n=90)), str(tmp_path/'r'))).catalog
    df, rejected = catalog.df, catalog.rejected
    assert (rejected['reason'] == 'no tags').sum() == 30 and df['labels'].map(len).min() > 0

def test_descriptions_alone_ask_for_their_language(tmp_path):
    with pytest.raises(CatalogError, match='--words de'):
        prepare_catalog(RunConfig(str(demo_feidegger(tmp_path/'c', n=30)), str(tmp_path/'r')))

def test_masks_are_those_of_the_drawn_products(tmp_path):
    root = demo_imaterialist(tmp_path/'c', n=5, size=64)
    garments = read_garments(root, read_catalog(root).df['ImageId'])
    drawn = [demo._photo(42, i, 64)[1] for j in range(5) for i in demo._outfit(42, j)]
    shares = [rle_share(*o)*o[2]/64 for o in garments[['rle', 'height', 'width']].values]
    assert shares == pytest.approx([o.mean() for o in drawn])

PAGE = '''
from pathlib import Path
import pandas as pd
from catalog_tagger.catalog.readers.base import LAYOUTS, Layout, add_reasons, finish_reading, locate_pictures

def read_lines(path, sep=' ', *, where=None, min_count=1):
    "A line for each picture: its name and one tag."
    rows = [o.split(sep) for o in (Path(path)/'pictures.tsv').read_text().splitlines()[1:]]
    df = pd.DataFrame({'name': [o[0] for o in rows], 'tags': [o[1:] for o in rows], 'row': range(len(rows)), 'why': None})
    return finish_reading(locate_pictures(Path(path), df, df['name']), 'lines', path, min_count, parents={'Tshirts': 'Topwear'})

LAYOUTS['lines'] = Layout('pictures.tsv with a line for each picture', read_lines, file='pictures.tsv', options=dict(delim='sep'))
'''

@pytest.fixture
def lines(tmp_path, monkeypatch):
    "A folder in a layout that one more file among the readers knows."
    (tmp_path/'pages').mkdir(); (tmp_path/'pages'/'lines.py').write_text(PAGE)
    monkeypatch.setattr(readers, '__path__', [*readers.__path__, str(tmp_path/'pages')])
    root = demo_styles(tmp_path/'c', n=40, size=16); df = pd.read_csv(root/'styles.csv')
    rows = [f'{o.id}/{["Tshirts", "Jeans"][i % 2]}' for i, o in enumerate(df.itertuples())]
    (root/'styles.csv').unlink(); (root/'pictures.tsv').write_text('\n'.join(['name/tag', *rows]))
    yield root
    LAYOUTS.pop('lines', None); sys.modules.pop(f'{readers.__name__}.lines', None)

def test_a_new_layout_is_one_file(lines):
    catalog = read_catalog(lines, sep='/')
    assert (catalog.layout, len(catalog.df), len(catalog.rejected), catalog.parents) == ('lines', 40, 0, {'Tshirts': 'Topwear'})
    facts = catalog_facts(RunConfig(str(lines), 'run', delim='/'))
    assert (facts['layout'], facts['labels'].keys()) == ('lines', {'Tshirts', 'Jeans'})
    with pytest.raises(CatalogError, match='garments= is an option of the layout imaterialist, but'):
        prepare_catalog(RunConfig(str(lines), 'run', garments='both'))
    with pytest.raises(CatalogError, match="'rows' is unknown; choose one of akeneo, .* label-studio-min, lines,"):
        read_catalog(lines, 'rows')
    with pytest.raises(CatalogError, match='labels is not an option of the layout lines; its options are sep, where, min_count'):
        read_catalog(lines, labels='both')

def test_a_layout_is_named_after_its_module_or_profile():
    "The command lists the layouts without importing them."
    assert make_parser().parse_args(['check', 'shop', '--layout', 'tags']).layout == 'tags'
    modules = {o.name for o in iter_modules(readers.__path__)} - {'base', 'profiles'}
    assert set(all_layouts()) == modules | set(load_profiles()) == set(_layouts())

def test_a_file_name_decides_alone(tmp_path):
    "A column `labels` beside `id` makes no table of tags of `styles.csv`; two tables are still a question."
    root = demo_styles(tmp_path/'c', n=30, size=16); df = pd.read_csv(root/'styles.csv').assign(labels='new')
    df.to_csv(root/'styles.csv', index=False)
    assert find_layout(root) == 'styles'
    df.to_csv(root/'tags.csv', index=False)
    with pytest.raises(CatalogError, match='may be styles or tags'): find_layout(root)

@pytest.mark.parametrize('rows', ['1,"red;big, tall"\n2,"new;old, dark"\n', '1,"red;big"\n2,"new,old"\n'])
def test_delimiters_in_a_tie_are_a_question(rows, tmp_path):
    (tmp_path/'tags.csv').write_text('id,tags\n' + rows)
    with pytest.raises(CatalogError, match='give it as delim='): read_catalog(tmp_path)
    assert read_catalog(tmp_path, delim=';').df['tags'][0][0] == 'red'

def test_a_header_with_two_delimiters_is_a_question(tmp_path):
    (tmp_path/'tags.csv').write_text('id;tags,price\n1;red,9\n')
    with pytest.raises(CatalogError, match="has as many ',' as ';'"): read_catalog(tmp_path, 'tags')
    (tmp_path/'tags.csv').write_text('id;tags;"price, net"\n1;red;9\n')
    assert read_catalog(tmp_path).df['tags'][0] == ['red']
