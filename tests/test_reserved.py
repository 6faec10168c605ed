"A column of the source whose name the library uses itself is a column like any other, until it is asked for."
import numpy as np, pandas as pd, pytest

from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import RESERVED, source_view
from catalog_tagger.apps.check import catalog_facts
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.catalog.split import split_by
from catalog_tagger.search.index import SimilarIndex
from catalog_tagger.testing.demo import demo_onehot, demo_styles, demo_tags

TABLES = dict(styles=(demo_styles, 'styles.csv'), tags=(demo_tags, 'tags.csv'), onehot=(demo_onehot, 'tags.csv'))
KEPT = ('labels', 'row', 'why', 'score', 'product', 'unit', 'width', 'height', 'digest', 'pixels', 'fold', 'spelt', 'split', 'group')

@pytest.fixture(scope='module')
def shops(tmp_path_factory):
    "Layout → its demo catalog, as it was written."
    return {name: draw(tmp_path_factory.mktemp('shops')/name, n=60, size=16) for name, (draw, _) in TABLES.items()}

@pytest.fixture
def with_column(shops):
    "A function that writes a column into the table of a layout and gives the catalog's folder; what it wrote is taken back."
    before = {f: f.read_bytes() for f in (shops[o]/TABLES[o][1] for o in TABLES)}
    def write(layout, **columns):
        f = shops[layout]/TABLES[layout][1]
        pd.read_csv(f, dtype=str, keep_default_na=False).assign(**columns).to_csv(f, index=False)
        return shops[layout]
    yield write
    for f, data in before.items(): f.write_bytes(data)

def cells(n): return [['stone', 'straw', ''][i % 3] for i in range(n)]

def prepared(root, **kw): return prepare_catalog(RunConfig(str(root), 'run', **kw))

@pytest.mark.parametrize('name', KEPT)
@pytest.mark.parametrize('layout', TABLES)
def test_another_column_changes_nothing(layout, name, shops, with_column):
    plain = prepared(shops[layout])
    ready = prepared(with_column(layout, **{name: cells(60)}), layout=layout)   # a one-hot table with `labels` may be one of tags too
    for c in ('image', 'row', 'tags', 'labels', 'split', 'unit', 'width', 'digest'):
        assert ready.catalog.df[c].tolist() == plain.catalog.df[c].tolist(), c
    assert ready.space == plain.space and len(ready.catalog.rejected) == len(plain.catalog.rejected)
    assert source_view(ready.catalog.df)[name].tolist() == cells(60)
    assert any(f'source.{name}' in o for o in ready.catalog.notes) == (name in RESERVED) and not any('source.' in o
                                                                                                     for o in plain.catalog.notes)

@pytest.mark.parametrize('name', ['labels', 'group', 'row', 'why', 'score', 'split', 'tags', 'text', 'image'])
def test_a_condition_means_the_source(name, with_column):
    root = with_column('styles', **{name: cells(60)})
    df = read_catalog(root, where=f"{name} == 'straw'").df
    assert df['row'].tolist() == list(range(1, 60, 3))
    assert source_view(df)[name].tolist() == ['straw']*20

@pytest.mark.parametrize('name', ['labels', 'group', 'row', 'why', 'score', 'split', 'tags', 'text', 'image', 'width'])
def test_a_label_column_of_that_name(name, with_column):
    ready = prepared(with_column('styles', **{name: ['stone', 'straw', 'steel']*20}), label_columns=(name,))
    assert ready.space.exclusive == {name: ['stone', 'straw', 'steel']} or set(ready.space.exclusive[name]) == {'stone', 'straw', 'steel'}
    assert set(ready.space.vocab) == {'stone', 'straw', 'steel'}
    assert set(ready.catalog.df['split']) == {'train', 'valid', 'test'} and ready.catalog.df['unit'].nunique() > 3

def test_a_free_tag_meets_no_column_of_ours(tmp_path, with_column):
    "`row=3` is what somebody wrote, and not the row."
    ready = prepared(with_column('tags', tags=['row=3;split=hair', 'why=not', 'row=3;why=not', 'split=hair']*15))
    assert ready.space.exclusive == {} and set(ready.space.vocab) == {'row=3', 'split=hair', 'why=not'}

@pytest.mark.parametrize('layout', TABLES)
def test_folds_and_products_are_taken_and_noted(layout, with_column):
    root = with_column(layout, split=['Training', 'train', 'val', 'test']*15, sku=[f'p{i//4}' for i in range(60)])
    catalog = read_catalog(root)
    assert catalog.df['split'].tolist() == ['train', 'train', 'valid', 'test']*15 and catalog.df['product'].nunique() == 15
    assert {'folds are taken from the column split', 'product: column sku, 15 products with 4 to 4 pictures'} <= set(catalog.notes)
    plain = read_catalog(root, product='none', split_column='none').df
    assert not {'split', 'product'} & set(plain) and source_view(plain)['split'].tolist()[:3] == ['Training', 'train', 'val']
    assert catalog_facts(RunConfig(str(with_column(layout, split=['train', 'val', 'test']*20)), 'run'))['notes']

def test_one_word_too_many_among_the_folds(with_column):
    with pytest.raises(CatalogError, match="split 'unlabeled' is unknown; expected one of train"):
        read_catalog(with_column('tags', split=['train', 'test', 'unlabeled']*20))

def test_splitting_by_the_sources_group(with_column):
    "What `join_units` makes of it is something else."
    df = prepared(with_column('styles', group=[f'p{i//4:02}' for i in range(60)]), split_by='group', test_values=('p03', 'p07')).catalog.df
    assert set(source_view(df).loc[df['split'] == 'test', 'group']) == {'p03', 'p07'}
    res, _ = split_by(df.drop(columns=['split', 'labels']), 'row', test_from=40)      # where the source has none it is the library's
    assert res.loc[res['split'] == 'test', 'row'].min() <= 40

def test_tags_in_a_column_called_labels(shops, with_column):
    plain = read_catalog(shops['tags']).df['tags'].tolist()
    root = with_column('tags')
    f = root/'tags.csv'; f.write_text(f.read_text().replace('tags', 'labels', 1))
    assert read_catalog(root).df['tags'].tolist() == plain
    assert prepared(root).space.vocab

def test_answers_beside_a_score_of_the_shop(with_column):
    df = read_catalog(with_column('styles', score=[str(i % 5) for i in range(60)])).df
    index = SimilarIndex.build(np.eye(60, dtype=np.float32), df)
    found = index.search(df['image'][0], k=5, where='score == 3')
    assert set(found['source.score']) == {'3'} and found['score'].between(-1, 1).all()
    named = SimilarIndex.build(np.eye(60, dtype=np.float32), source_view(df).assign(image=df['image']))
    answers = named.search(df['image'][0], k=5)
    assert answers['source.score'].tolist() == answers['image'].map(dict(zip(df['image'], df['source.score']))).tolist()

def test_a_name_that_looks_set_aside(with_column):
    df = read_catalog(with_column('tags', score=cells(60), **{'source.score': ['x']*60})).df
    assert source_view(df)['score'].tolist() == cells(60) and source_view(df)['source.score'].tolist() == ['x']*60

def test_every_reserved_name_at_once(with_column):
    "As if a table of the library's own were a source."
    names = [o for o in RESERVED if o not in ('image', 'tags', 'split')]
    catalog = prepared(with_column('tags', **{o: cells(60) for o in names})).catalog
    view = source_view(catalog.df)
    for o in names: assert o == 'text' or view[o].tolist() == cells(60), o
