"Search from outside: one rule for every verb, counts and thresholds that are checked, cut lists that say so, askers that are recognised."
import itertools, json, os, shutil, tracemalloc
from functools import cache
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from catalog_tagger.apps import cli
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.core.config import PAIRS
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import json_rows, read_table, write_table
from catalog_tagger.runs.index import index_catalog, read_products
from catalog_tagger.search.exact import exact_neighbours
from catalog_tagger.search.faiss import KINDS
from catalog_tagger.search.index import SimilarIndex
from catalog_tagger.search.retrieval import query_scores

RUN = Path(__file__).parent/'samples'/'v1'/'run'     # a small net, which was trained on masterCategory and articleType
try: import faiss
except ImportError: faiss = None
KINDS_HERE = [pytest.param(o, marks=() if o == 'exact' else pytest.mark.skipif(faiss is None, reason='needs faiss-cpu')) for o in KINDS]

TINY = dict(size=32, weights='none')     # settings of a net that is small and not trained
CELLS = dict(ean=[f'00123456789{i:02}' for i in range(24)], code=['1E5', '1e5', 'TRUE', 'false', 'NA', 'nan', 'None', '007']*3,
             since=['2016-05-31', '31/12/2016', '', '2016', '1.0', '-0', '+5', ' x ']*3, year=[str(2000 + i) for i in range(24)])

def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype='u1')
    Image.fromarray(noise).resize((48, 48)).save(path)

def write_shop(root, name='products.csv', **columns):
    "24 pictures of 12 products; two columns hold Red, and the last picture is a copy of the first one of another product."
    for i in range(24): draw(root/'images'/f'{i}.png', i)
    shutil.copy(root/'images'/'0.png', root/'images'/'23.png')
    df = pd.DataFrame({'image': [f'{i}.png' for i in range(24)], 'sku': [f'P{i//2}' for i in range(24)], **CELLS,
                       'type': [('Shirt', 'Shoe', 'Bag')[i//2 % 3] for i in range(24)],
                       'colour': [('Red', 'Blue')[i//2 % 2] for i in range(24)],
                       'trim': [('Gold', 'Red', 'Blue')[i//6 % 3] for i in range(24)], **columns})
    df.to_csv(root/name, index=False)
    return df

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp('search')
    return root/'shop', write_shop(root/'shop')

@pytest.fixture(scope='module')
def index(shop):
    root, _ = shop
    index_catalog('test_efficientnet', root, root.parent/'index', label_columns=('type', 'colour', 'trim'), say=lambda o: None, **TINY)
    return SimilarIndex.load(root.parent/'index')

@pytest.fixture(scope='module')
def folder(index, shop): return str(shop[0].parent/'index')

PARSER = cache(cli.make_parser)

@pytest.fixture
def run(capsys, monkeypatch):
    "Call the command, whose parser is made once: exit code, and what it printed."
    monkeypatch.setattr(cli, 'make_parser', PARSER)
    def call(*argv):
        code = cli.main(list(map(str, argv))); out, err = capsys.readouterr()
        return code, out + err
    return call

def unit(x): return x/np.linalg.norm(x, axis=1, keepdims=True)

@pytest.fixture(scope='module')
def cloud():
    "Vectors with an item of every cosine, a table with units of two, and pairs of copies."
    r = np.random.default_rng(3); v = unit(np.repeat(r.normal(size=(30, 8)), 10, 0) + .4*r.normal(size=(300, 8))).astype('f4')
    v[[7, 11]] = v[3]
    return v, pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(300)], unit=np.arange(300)//2, year=2000 + np.arange(300) % 20,
                                labels=[[f'l{i//50}', 'odd' if i % 2 else 'even'] for i in range(300)]))

# ---- where

VERBS = {'by picture': lambda root: [root/'images'/'0.png'], 'by id': lambda root: ['P3'], 'by tags': lambda root: ['--tags', 'type=Shirt'],
         'by both': lambda root: ['P3', '--tags', 'Shirt'], 'duplicates': lambda root: ['--duplicates', '-1']}

@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_heeds_where(folder, shop, run, tmp_path, verb):
    root, df = shop; argv = ['similar', folder, *VERBS[verb](root)]; year = df.set_index('image')['year'].astype(int)
    code, _ = run(*argv, '--where', 'year < 2009', '--out', tmp_path/'a.csv'); got = pd.read_csv(tmp_path/'a.csv')
    named = [o for c in ('image', 'other') if c in got for o in got[c].map(os.path.basename)]
    assert code == 0 and named and (year[named] < 2009).all()
    for nonsense in ('nonsense (((', "price == '1'", '5'):
        code, said = run(*argv, '--where', nonsense)
        assert code == 2 and '--where' in said and said.count('\n') == 1
    code, said = run(*argv, '--where', 'year > 3000')
    assert code == 0 and "fulfils --where 'year > 3000'" in said and said.splitlines()[-1].startswith('no picture ')

@pytest.mark.parametrize('kind', KINDS_HERE)
def test_pairs_are_those_of_a_loop(cloud, kind):
    v, table = cloud; index, s = SimilarIndex.build(v, table, kind=kind), v.astype(float) @ v.T.astype(float)
    chosen = [i for i in range(300) if table['year'][i] > 2008]
    want = {(f'{i}.jpg', f'{j}.jpg'): s[i, j] for i, j in itertools.combinations(chosen, 2) if s[i, j] >= .9}
    got = index.duplicates(.9, where='year > 2008')
    assert len(want) > 10 and dict(zip(zip(got['image'], got['other']), got['score'])) == pytest.approx(want, abs=1e-5)
    assert got['score'].is_monotonic_decreasing and got.attrs['notes'] == []
    few = index.duplicates(.9, k=3, where='year > 2008')
    assert few.values.tolist() == got[:3].values.tolist()
    assert few.attrs['notes'] == [f'3 of {len(want)} pairs shown; for all: k={len(want)}']

@pytest.mark.parametrize('kind', KINDS_HERE)
def test_copies_have_a_cosine_of_one(cloud, kind):
    v, table = cloud
    for dtype in ('f4', 'f2'):
        got = SimilarIndex.build(v.astype(dtype), table, kind=kind).duplicates(1, where='year > 0')
        assert {*zip(got['image'], got['other'])} == {('3.jpg', '7.jpg'), ('3.jpg', '11.jpg'), ('7.jpg', '11.jpg')}
    assert len(SimilarIndex.build(v, table, kind=kind).duplicates(1)) == 3

@pytest.mark.skipif(faiss is None, reason='needs faiss-cpu')
def test_what_faiss_may_miss_is_said(cloud):
    v, table = cloud; same = np.concatenate([np.repeat(v[:1], 100, 0), v[:200]])
    index = SimilarIndex.build(same, [str(i) for i in range(300)], kind='flat')
    assert '101 pictures with more than 64 close ones' in index.duplicates(.9999).attrs['notes'][0]
    assert len(index.duplicates(.9999, where="image != 'none'")) >= 101*100//2

def test_too_many_pairs_are_an_error(cloud, monkeypatch):
    monkeypatch.setattr('catalog_tagger.search.index.MOST_PAIRS', 1000)
    index = SimilarIndex.build(*cloud)
    with pytest.raises(CatalogError, match='more than 1,000 pairs are that similar; give a higher cosine'): index.duplicates(-1)
    assert len(index.duplicates(-1, where='image in ["1.jpg", "2.jpg", "3.jpg"]')) == 3

# ---- options together

SAMPLES = dict(picture=['P3'], k=['--k', '2'], where=['--where', 'year < 2012'], tags=['--tags', 'Shirt'],
               duplicates=['--duplicates', '-1'], per=['--per', 'product'], out=['--out', 'o.json'])
REFUSED = {frozenset(o): says for *o, says in (('picture', 'duplicates', 'a picture cannot'), ('tags', 'duplicates', '--tags cannot'),
                                              ('per', 'duplicates', '--per product cannot'))}
FOLLOWED = dict(k=lambda df: len(df) == 2, where=lambda df: (df['year'].astype(int) < 2012).all() if 'year' in df else len(df) == 12*11//2,
                tags=lambda df: df['labels'].map(lambda o: 'type=Shirt' in o).all(), per=lambda df: df['product'].is_unique,
                picture=lambda df: 'P3' not in set(df['product']), duplicates=lambda df: list(df) == ['image', 'other', 'score'])

@pytest.mark.parametrize('pair', [*itertools.combinations(SAMPLES, 2)], ids=' '.join)
def test_two_options_of_similar_are_heeded_or_refused(folder, run, tmp_path, monkeypatch, pair):
    monkeypatch.chdir(tmp_path)
    asks = () if {'picture', 'tags', 'duplicates'} & {*pair} else ('picture',)
    given = [*asks, *pair, *(() if 'out' in pair else ('out',))]
    code, said = run('similar', folder, *(o for k in given for o in SAMPLES[k]))
    if says := REFUSED.get(frozenset(pair)):
        alone = 'give a picture, --text, --tags or several of them, or --duplicates alone'
        assert code == 2 and says in said and alone in said and not os.listdir()
    else:
        df = pd.DataFrame(json.loads(Path('o.json').read_text()))
        assert code == 0 and len(df) and all(FOLLOWED[k](df) for k in given if k != 'out'), said

BUILD = dict(run=None, layer=['--layer', 'concat'], size=['--size', '48'], weights=['--weights', 'none'], dims=['--dims', '4'],
             whiten=['--whiten'], dtype=['--dtype', 'float16'], kind=['--kind', 'flat'], recall=['--recall', '.9'],
             where=['--where', 'year < 2012'], label_columns=['--label-columns', 'colour'], product=['--product', 'none'],
             resume=['--no-resume'])
def columns_of(index): return {l.partition('=')[0] for o in index.table['labels'] for l in o}
BUILT = dict(layer=lambda i: i.vectors.shape[1] in (512, 4, 24, 12), dims=lambda i: i.vectors.shape[1] == 4,
             whiten=lambda i: i.vectors.shape[1] in (4, 24, 12), dtype=lambda i: i.vectors.dtype == np.float16,
             kind=lambda i: i.kind == 'flat', size=lambda i: i.embedder.prep.size == (48, 48), where=lambda i: len(i) == 12,
             product=lambda i: 'product' not in i.table, label_columns=lambda i: columns_of(i) == {'colour'},
             recall=lambda i: i.recall >= .9)

@pytest.mark.skipif(faiss is None, reason='needs faiss-cpu')
@pytest.mark.parametrize('pair', [*itertools.combinations(BUILD, 2)], ids=' '.join)
def test_two_options_of_index_are_heeded_or_refused(shop, run, tmp_path, pair):
    model = RUN if 'run' in pair else 'test_efficientnet'
    small = [] if 'run' in pair else [x for k in TINY if k not in pair for x in (f'--{k}', str(TINY[k]))]
    code, said = run('index', model, shop[0], '--out', tmp_path/'i', *small, *(o for k in pair if k != 'run' for o in BUILD[k]))
    if 'run' in pair and {'size', 'weights'} & {*pair}:
        assert code == 2 and f'--{pair[1]} {BUILD[pair[1]][1]} is for a backbone' in said
    elif 'run' in pair: assert code == 0, said
    else:
        assert code == 0, said
        assert all(BUILT.get(k, lambda i: True)(SimilarIndex.load(tmp_path/'i')) for k in pair)

@pytest.mark.parametrize('argv, says', [
    (['embed', RUN, '{}/images', '--size', '64'], '--size 64 is for a backbone; a trained model has its own size, 32 px'),
    (['embed', RUN, '{}/images', '--weights', 'none'], '--weights none is for a backbone'),
    (['embed', 'efficientnet_lite0', '{}/images', '--layer', 'hidden'], "--layer 'hidden' needs a tagger"),
    (['index', 'efficientnet_lite0', '{}/images', '--label-columns', 'colour'], '--label-columns is for a catalog'),
    (['index', 'efficientnet_lite0', '{}/images', '--product', 'sku'], '--product is for a catalog'),
    (['index', 'efficientnet_lite0', '{}', '--label-columns', 'color'],
     "no column 'color', did you mean 'colour'? (given as --label-columns)"),
    (['index', 'efficientnet_lite0', '{}', '--label-columns', 'colour', '--image-column', 'file'], "no column 'file'"),
    (['index', 'efficientnet_lite0', '{}', '--layout', 'annoy'], "layout 'annoy' is unknown; choose one of"),
    (['index', 'efficientnet_lite0', '{}', '--recall', 'nan'], '--recall nan, expected 0.01 to 1')])
def test_options_that_cannot_be_heeded_are_named(shop, run, tmp_path, argv, says):
    code, said = run(*(str(o).format(shop[0]) for o in argv), '--out', tmp_path/'o')
    assert code == 2 and says in said, said

# ---- counts and thresholds

SPACE = LabelSpace([f'l{j}' for j in range(6)] + ['odd', 'even'], {}, {}, {})
COUNTS = dict(search=lambda i, k: i.search('0.jpg', k=k), find=lambda i, k: i.find(['odd'], k=k), pairs=lambda i, k: i.duplicates(.9, k=k),
              neighbours=lambda i, k: i.neighbours([0], k=k), nearest=lambda i, k: i.nearest(i.vectors[:2], k=k),
              measure=lambda i, k: i.measure(k=k), votes=lambda i, k: i.neighbour_scores(i.vectors[:2], SPACE, k),
              build=lambda i, k: SimilarIndex.build(i.vectors, i.table, kind=i.kind, k=k),
              exact=lambda i, k: exact_neighbours(i.vectors, i.vectors[:2], k),
              scores=lambda i, k: query_scores(i.vectors, i.vectors > 0, range(3), k=k))

@pytest.mark.parametrize('call', COUNTS)
@pytest.mark.parametrize('kind', KINDS_HERE)
def test_a_count_is_checked_and_capped(cloud, kind, call):
    index = SimilarIndex.build(*cloud, kind=kind)
    for k in (0, -1, 1.5, True, '3', float('nan')):
        with pytest.raises(CatalogError, match='k=.*, expected 1 or more'): COUNTS[call](index, k)
    COUNTS[call](index, np.int64(3))
    tracemalloc.start(); COUNTS[call](index, 2_000_000_000); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert peak < 200e6

def test_scores_at_a_huge_k_are_those_at_all(cloud):
    v, _ = cloud
    a, b = (query_scores(v, v > .3, range(20), k=k).droplevel(1, axis=1).set_axis(range(8), axis=1) for k in (299, 10**9))
    np.testing.assert_allclose(a.drop(columns=[0, 4]), b.drop(columns=[0, 4]))      # all but precision, of which the rest are misses

@pytest.mark.parametrize('threshold', [1.01, -1.5, float('nan'), float('inf'), True, '.9', None])
def test_a_threshold_is_a_cosine(cloud, folder, run, threshold):
    with pytest.raises(CatalogError, match='threshold=.*, expected a cosine of -1 to 1'): SimilarIndex.build(*cloud).duplicates(threshold)
    if isinstance(threshold, float):
        code, said = run('similar', folder, '--duplicates', threshold)
        assert code == 2 and f'--duplicates {threshold:g}, expected a cosine of -1 to 1' in said

def test_cut_lists_say_so(folder, index, run, tmp_path):
    n = len(index)*(len(index) - 1)//2
    code, said = run('similar', folder, '--duplicates', '-1')
    assert (code, len(said.splitlines())) == (0, PAIRS + 2)
    assert said.endswith(f'20 of {n} pairs shown; --k {n} or --out pairs.csv for all\n')
    code, said = run('similar', folder, '--duplicates', '-1', '--k', '5'); assert said.endswith(f'5 of {n} pairs shown; for all: --k {n}\n')
    code, said = run('similar', folder, '--duplicates', '-1', '--out', tmp_path/'all.csv')
    assert (code, said, len(read_table(tmp_path/'all.csv'))) == (0, '', n)
    code, said = run('similar', folder, 'P1', '--k', '2000000000')
    assert '--k 2000000000 is capped at 22, the number of other pictures\n' in said
    code, said = run('similar', folder, 'P1', '--k', '99', '--per', 'product', '--where', 'year < 2012')
    assert "--k 99 is capped at 5, the number of other products that fulfil --where 'year < 2012'\n" in said
    assert run('similar', folder, 'P1', '--k', '4')[1].count('\n') == 5

# ---- who asks

@pytest.fixture(scope='module')
def moved(index, shop, tmp_path_factory):
    root = tmp_path_factory.mktemp('moved'); shutil.copytree(shop[0], root/'elsewhere')
    return root/'elsewhere'

ASKERS = dict(absolute=lambda root, other: str(root/'images'/'4.png'), path=lambda root, other: root/'images'/'4.png',
              dotted=lambda root, other: './images/./4.png', up=lambda root, other: 'images/../images/4.png',
              name=lambda root, other: '4.png', stem=lambda root, other: '4', end=lambda root, other: 'images/4.png',
              moved=lambda root, other: other/'images'/'4.png', data=lambda root, other: (other/'images'/'4.png').read_bytes())

@pytest.mark.parametrize('asker', ASKERS)
@pytest.mark.parametrize('here', ['shop', 'elsewhere'])
def test_a_picture_is_recognised_by_any_name(index, shop, moved, tmp_path, monkeypatch, asker, here):
    want = index.search(index.table['image'][4], k=50)
    assert {'P2'}.isdisjoint(want['product']) and len(want) == 22
    if here == 'elsewhere' and asker in ('dotted', 'up'): pytest.skip('a path from another folder')
    monkeypatch.chdir(shop[0] if here == 'shop' else tmp_path)
    pd.testing.assert_frame_equal(index.search(ASKERS[asker](shop[0], moved), k=50), want)

def test_links_are_followed_and_case_is_the_disks(index, shop, tmp_path):
    want = index.search(index.table['image'][4], k=50); real = shop[0]/'images'/'4.png'
    (tmp_path/'link.png').symlink_to(real); (tmp_path/'folder').symlink_to(shop[0])
    for o in (tmp_path/'link.png', tmp_path/'folder'/'images'/'4.png'): pd.testing.assert_frame_equal(index.search(o, k=50), want)
    upper = real.with_name('4.PNG')
    if not upper.exists():      # a disk that tells case apart
        with pytest.raises(CatalogError, match='is neither an id of this index'): index.search(upper)
    bare = SimilarIndex(index.vectors, index.table.drop(columns='digest'), index.embedder)     # without digests by name alone
    for o in (real, tmp_path/'link.png', tmp_path/'folder'/'images'/'4.png'): pd.testing.assert_frame_equal(bare.search(o, k=50), want)
    links = bare.table['image'].where(bare.table.index != 4, str(tmp_path/'folder'/'images'/'4.png'))
    linked = SimilarIndex(index.vectors, bare.table.assign(image=links), index.embedder)
    assert linked.search(real, k=50)['image'].tolist() == want['image'].tolist()

def test_another_case_of_a_name_is_another_file_only_where_the_disk_says_so(index, shop, monkeypatch):
    bare = SimilarIndex(index.vectors, index.table.drop(columns='digest'), index.embedder); real = str(shop[0]/'images'/'4.png')
    upper = real.upper().replace(str(shop[0]).upper(), str(shop[0]))
    exists, same = os.path.exists, os.path.samefile
    monkeypatch.setattr(os.path, 'exists', lambda o: exists(real if str(o) == upper else o))
    monkeypatch.setattr(os.path, 'samefile', lambda a, b: same(*(real if str(o) == upper else o for o in (a, b))))
    assert bare.search(upper, k=50)['image'].tolist() == index.search(real, k=50)['image'].tolist()

def test_products_and_copies_never_answer_themselves(index, shop):
    assert 'P3' not in set(index.search('P3', k=50)['product'])
    got = index.search(shop[0]/'images'/'0.png', k=50)     # 23 is a copy of 0, so their products are one unit
    assert {'P0', 'P11'}.isdisjoint(got['product']) and len(got) == 20
    table = index.table.drop(columns='unit')
    assert 'P2' not in set(SimilarIndex(index.vectors, table).search(table['image'][4], k=50)['product'])

def test_a_file_that_has_changed_is_embedded_anew(index, tmp_path):
    root = tmp_path/'shop'; write_shop(root); file = root/'images'/'4.png'
    images = [str(root/'images'/Path(o).name) for o in index.table['image']]
    own = SimilarIndex(index.vectors, index.table.assign(image=images), index.embedder)
    draw(file, 99); got = own.search(file, k=50)
    assert got.attrs['notes'][0] == f'{file} has changed since it was indexed, so it is embedded anew' and 'P2' not in set(got['product'])
    v, at = own.embedder([file])[0], pd.Index(own.table['image'])
    np.testing.assert_allclose(got['score'], own.vectors[at.get_indexer(got['image'])] @ v, atol=1e-5)
    shutil.copy(root/'images'/'9.png', file)      # now it is another picture of the index
    assert own.search(file, k=50)['image'].tolist() == own.search(root/'images'/'9.png', k=50)['image'].tolist()

@pytest.mark.parametrize('name', ['', ' ', 'gone', '\0', 'x'*5000, 'P', 'images', '.'])
def test_a_name_that_is_none_is_an_error(index, shop, monkeypatch, name):
    monkeypatch.chdir(shop[0])
    with pytest.raises(CatalogError): index.search(name)

# ---- columns

@pytest.mark.parametrize('write', ['csv', 'json'])
def test_cells_come_back_as_they_went_in(shop, tmp_path, run, write):
    df = shop[1]; root = shutil.copytree(shop[0]/'images', tmp_path/'shop'/'images').parent
    if write == 'csv': df.to_csv(root/'products.csv', index=False)
    else: (root/'products.json').write_text(json.dumps(df.to_dict('records')))
    made = index_catalog('test_efficientnet', root, tmp_path/'i', label_columns=('colour',), say=lambda o: None, **TINY)
    for index in (made, SimilarIndex.load(tmp_path/'i')):
        got = index.search('P1', k=50); want = df.set_index('image').loc[got['image'].map(os.path.basename)]
        write_table(tmp_path/'o.csv', got); (tmp_path/'o.json').write_text(json.dumps(json_rows(got)))
        for back in (got, read_table(tmp_path/'o.csv'), pd.DataFrame(json.loads((tmp_path/'o.json').read_text()))):
            for c in CELLS: assert back[c].tolist() == want[c].tolist(), c
        assert list(got)[:2] == ['image', 'score']
    for o in ('o.csv', 'o.json'): assert run('similar', tmp_path/'i', 'P1', '--k', '50', '--out', tmp_path/o, '--replace')[0] == 0
    written = pd.DataFrame(json.loads((tmp_path/'o.json').read_text()))
    assert read_table(tmp_path/'o.csv')['ean'].tolist() == written['ean'].tolist() == want['ean'].tolist()
    assert len(made.search('P1', where="ean == '0012345678904'")) == 1
    assert made.search('P1', where="since == ''", k=50)['since'].tolist() == ['']*2

def test_whole_numbers_beside_missing_ones_stay_whole(cloud, tmp_path):
    v, table = cloud
    table = table.assign(price=pd.array([None, *range(1, 300)], 'Int64'), text=['', None, 'nan']*100, ratio=np.arange(300)/2)
    SimilarIndex.build(v, table).save(tmp_path/'i'); back = SimilarIndex.load(tmp_path/'i')
    write_table(tmp_path/'o.csv', back.table); cells = read_table(tmp_path/'o.csv')
    assert cells['price'].tolist() == ['', *map(str, range(1, 300))] and cells['ratio'][3] == '1.5' and back.table['text'][2] == 'nan'
    assert len(back.search('0.jpg', k=300, where='price > 290')) == 9
    with pytest.raises(CatalogError, match="column 'since' is not .*Timestamp.*only text, numbers, booleans and lists of text are saved"):
        SimilarIndex.build(v, table.assign(since=pd.Timestamp('2016-05-31'))).save(tmp_path/'j')

# ---- tags

def test_a_plain_label_is_found_where_one_column_has_it(index, folder, run):
    shirts = index.find(['type=Shirt'], k=50)
    plain = index.find(['Shirt'], k=50)
    pd.testing.assert_frame_equal(plain, shirts); assert plain.attrs['notes'][0] == "the tag 'Shirt' is 'type=Shirt'"
    assert index.find(['Shirt', 'Gold'], k=50)['image'].tolist() == index.find(['type=Shirt', 'trim=Gold'], k=50)['image'].tolist()
    near = "did you mean 'type=Shirt'?"
    for tag, says in (('Red', "the tag 'Red' is in several columns: give 'colour=Red' or 'trim=Red'"), ('xyzzy', "has the tag 'xyzzy'\n"),
                      ('shrit', near), ('SHIRT', near), ('type=Shirts', near)):
        code, said = run('similar', folder, '--tags', tag)
        assert code == 2 and says in said, said
    for tags in ('Shirt', [], ()):
        with pytest.raises(CatalogError, match='expected a list of one or more tags'): index.find(tags)

def test_tags_of_a_trained_index_are_found_by_the_name_of_their_column(cloud):
    v, _ = cloud; index = SimilarIndex.build(v[:2], pd.DataFrame({'image': ['a', 'b'], 'labels': [['Shirt', 'a=b'], ['Shoe']]}))
    assert index.find(['a=b'])['image'].tolist() == index.find(['b'])['image'].tolist() == ['a']
    with pytest.raises(CatalogError, match="no picture has the tag 'type=Shirt'; did you mean 'Shirt'"): index.find(['type=Shirt'])

# ---- other columns than those of the run

def notes_of(model, source, out, **kw):
    lines = []; index = index_catalog(model, source, out, say=lines.append, **kw)
    return index, lines

def test_a_run_is_used_on_a_catalog_with_other_columns(tmp_path, shop):
    df = shop[1]; root = shutil.copytree(shop[0]/'images', tmp_path/'shop'/'images').parent
    df[['image', 'sku', 'year']].assign(articleType=df['type']).to_csv(root/'products.csv', index=False)
    index, lines = notes_of(RUN, root, tmp_path/'i')
    said = 'has no column masterCategory: only articleType is used; name others with label_columns='
    assert len(index) == 24 and said in '\n'.join(lines)
    df[['image', 'sku', 'year']].to_csv(root/'products.csv', index=False)
    index, lines = notes_of(RUN, root, tmp_path/'i')
    assert len(index) == 24 and not any(index.table['labels'])
    said = '\n'.join(lines)
    assert 'has no column masterCategory, articleType: read without it' in said and '24 of 24 pictures have no label' in said

def test_settings_of_a_run_that_a_catalog_cannot_follow_are_named(tmp_path, shop):
    from catalog_tagger.core.config import RunConfig
    cfg = RunConfig('old', 'run', product='handle', image_column='file', split_column='fold', tags_column='words', garments='both')
    catalog = read_products(shop[0], cfg, label_columns=('colour',)); notes = '\n'.join(catalog.notes)
    for column, option in (('handle', 'product'), ('file', 'image_column'), ('fold', 'split_column'), ('words', 'tags_column')):
        assert f'has no column {column}: read without it; name others with {option}=' in notes
    assert 'has the layout tags: garments=both' in notes
    assert catalog.df['product'].nunique() == 12      # sku is found instead
    for o in ('product', 'image_column', 'tags_column', 'split_column'):
        with pytest.raises(CatalogError, match=f"no column 'gone'.*given as {o}="):
            read_products(shop[0], cfg, **{'label_columns': ('colour',), o: 'gone'})

@pytest.mark.parametrize('drop', [('subCategory',), ('masterCategory', 'subCategory'), ('masterCategory', 'subCategory', 'articleType')])
def test_a_styles_table_that_lacks_columns(tmp_path, shop, drop):
    root = shutil.copytree(shop[0]/'images', tmp_path/'shop'/'images').parent; df = shop[1]
    styles = pd.DataFrame(dict(id=range(24), masterCategory='All', subCategory=df['colour'], articleType=df['type']))
    styles.drop(columns=list(drop)).to_csv(root/'styles.csv', index=False)
    index, lines = notes_of('test_efficientnet', root, tmp_path/'i', **TINY)
    assert len(index) == 24 and any(f'has no column {", ".join(drop)}: ' in o and 'name others with label_columns=' in o for o in lines)
    assert columns_of(index) == {'masterCategory', 'subCategory', 'articleType'} - {*drop}

# ---- nothing found

def test_nothing_found_is_a_sentence(folder, index, run, shop, tmp_path):
    whole, left = index.search('P1'), 'pictures that could be one are the query itself, of its product, or copies of it'
    empty = {'no picture fulfils --where': ['P1', '--where', 'year > 3000'],
             "no picture has all of 'type=Shirt', 'type=Bag'\n": ['--tags', 'Shirt', 'Bag'],
             "no picture has all of 'type=Shirt' and fulfils --where 'year == 2002'\n": ['--tags', 'type=Shirt', '--where', 'year == 2002'],
             f'no answer: all 2 {left}\n': ['P3', '--where', "sku == 'P3'"],
             'no pair is at least 1 similar; the most similar pair has 0.': ['--duplicates', '1', '--where', 'year < 2006'],
             "only one picture fulfils --where 'year == 2002'\n": ['--duplicates', '.5', '--where', 'year == 2002']}
    for says, argv in empty.items():
        code, said = run('similar', folder, *argv)
        assert code == 0 and says in said and 'Empty' not in said and '[]' not in said, said
        out = tmp_path/'none.csv'; code, said = run('similar', folder, *argv, '--out', out)
        assert code == 0 and says in said and len(read_table(out)) == 0
        assert list(read_table(out)) == (['image', 'other', 'score'] if '--duplicates' in argv else list(whole))
    assert list(index.search('P1', where='year > 3000')) == list(whole)
    s = index.vectors.astype(float) @ index.vectors.T.astype(float); best = np.sort(s[:6, :6][np.triu_indices(6, 1)])[-1]
    said = run('similar', folder, '--duplicates', '1', '--where', 'year < 2006')[1]
    assert best - .001 <= float(said.split()[-1]) <= best
    alone = SimilarIndex.build(index.vectors[:1], ['a'])
    assert alone.duplicates().attrs['notes'] == ['the index has only one picture']
    assert alone.search('a').attrs['notes'] == [f'no answer: all 1 {left}']

def test_the_web_page_says_the_same(index, shop):
    pytest.importorskip('fasthtml', reason='needs python-fasthtml'); from starlette.testclient import TestClient
    from catalog_tagger.apps.web import make_app
    from catalog_tagger.serve.tagger import Tagger
    def post(index, data):
        web = TestClient(make_app(Tagger.load(RUN/'tagger'), index=index), base_url='http://localhost')
        return web.post('/similar', content=data, headers={'content-type': 'application/octet-stream'}).text
    html = post(index, (shop[0]/'images'/'4.png').read_bytes())
    assert html.count('<li>') == 10 and not any(f'<strong>{o}</strong>' in html for o in (4, 5)) and '<p' not in html
    few = SimilarIndex(index.vectors[4:7], index.table[4:7].reset_index(drop=True), index.embedder)
    html = post(few, (shop[0]/'images'/'4.png').read_bytes()); assert html.count('<li>') == 1 and 'k=10 is capped at 1' in html
    alone = SimilarIndex(index.vectors[4:6], index.table[4:6].reset_index(drop=True), index.embedder)
    html = post(alone, (shop[0]/'images'/'4.png').read_bytes()); assert html.count('<li>') == 0 and 'no answer: all 2 pictures' in html
