"The demo shop as the exports of real systems: recognised, read, trained and tagged with no option."
import json, os, re, shutil, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd, pytest
from PIL import Image

from catalog_tagger.apps.cli import main
from catalog_tagger.catalog.descriptions import clean_text
from catalog_tagger.catalog.fetch import read_addresses
from catalog_tagger.catalog.prepare import prepare_catalog, read_audited
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.catalog.readers.sidecars import read_sidecars
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.testing.demo import shop_pictures, shop_products
from catalog_tagger.testing.exports import EXPORTS, demo_export

N = 12

def levels(name, path): return {f'{name} {i}={o}' for i, o in enumerate(path, 1)}

def with_type(p): return {f'type={p["type"]}', *p['tags']}

COLOR = 'Color (product.metafields.shopify.color-pattern)'
LABELS = {   # kind → the tags of a product
    'shopify': lambda p: {f'Type={p["type"]}', f'{COLOR}={p["colour"]}', *p['tags'], *levels('Product Category', p['path'])},
    'shopify, new header': lambda p: {f'Type={p["type"]}', f'{COLOR}={p["colour"]}', *p['tags'], *levels('Product category', p['path'])},
    'woocommerce': lambda p: {*p['path'], *p['tags'], f'Color={p["colour"]}'},
    'google': lambda p: {f'color={p["colour"]}', f'pattern={p["tags"][0]}', *levels('google_product_category', p['path'])},
    'akeneo': lambda p: {f'family={p["type"]}', f'color={p["colour"]}', *p['path'][1:]},
    'magento': lambda p: {'Default Category', *p['path'], f'color={p["colour"]}', 'Gym', 'Hiking'},
    'hugging face': lambda p: {f'label={p["type"]}'}, 'roboflow': lambda p: {p['type']},
    'label studio': with_type, 'label studio, min': with_type, 'label studio, csv': with_type,
    'coco': lambda p: {p['type'], *p['tags']}, 'open images': lambda p: {p['type'], p['colour']},
    'celeba': lambda p: {p['colour'].replace(' ', '_')}, 'deepfashion': lambda p: {p['type'], p['colour']},
    'sidecars': lambda p: {p['type'], *p['tags']},
    'h&m': lambda p: {f'product_type_name={p["type"]}', f'product_group_name={p["path"][1]}', f'colour_group_name={p["colour"]}'},
    'amazon': lambda p: {f'product_type={p["type"]}', f'color={p["colour"]}'},
    'long form': lambda p: {f'type={p["type"]}', f'color={p["colour"]}', *p['tags']}}
LABELS |= {'google, xml': LABELS['google'], 'coco, folds': LABELS['coco'], 'coco, roboflow': LABELS['coco']}
TEXTS = {'google', 'google, xml', 'shopify', 'shopify, new header', 'woocommerce', 'akeneo', 'magento', 'amazon', 'h&m'}
FOLD_OF = dict(train2017='train', val2017='valid', test2017='test')   # folder → fold, of COCO
PRODUCTS = TEXTS | {'long form'}    # have products; in the folders of folds they are split already
FOLDS = {'hugging face', 'roboflow', 'coco, folds', 'coco, roboflow'}

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Folder of an export, written once."
    root, done = tmp_path_factory.mktemp('exports'), {}
    def make(kind):
        if kind not in done: done[kind] = demo_export(root/re.sub(r'\W+', '-', kind), kind, N)
        return done[kind]
    return make

def product_files(kind, root):
    "File → its product."
    return {root/f: p for i, p in enumerate(shop_products(N)) for o in p['pictures'] for f in EXPORTS[kind].place(i, p, o)}

@pytest.mark.parametrize('kind', EXPORTS)
def test_labels_products_folds_and_texts_come_out(kind, folder):
    root = folder(kind); catalog = read_audited(RunConfig(str(root), '')); files = product_files(kind, root)
    assert catalog.layout == EXPORTS[kind].layout and catalog.rejected.empty
    df = catalog.df.assign(demo=[files[Path(o)] for o in catalog.df['image']])
    assert set(map(Path, df['image'])) == set(files)
    for o, tags in zip(df['demo'], df['tags']): assert set(tags) == LABELS[kind](o)
    if kind in PRODUCTS: assert df['product'].str.lower().map(lambda o: o.lstrip('p0')).tolist() == [o['sku'][1:] for o in df['demo']]
    if kind in TEXTS:
        for o, text in zip(df['demo'], df['text']):
            assert o['title'] in text and clean_text(o['text']).splitlines()[0] in clean_text(text)
    assert ('split' in df) == (kind in FOLDS)
    if kind in FOLDS: assert df['split'].tolist() == [FOLD_OF.get(f := Path(o).parent.name, f) for o in df['image']]
    if 'roboflow' in kind: assert df.groupby('product').size().eq(2).all()

SEEN = """
import sys
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.core.config import RunConfig
for o in sys.argv[1:]:
    c, space, audit, recipe, _ = prepare_catalog(RunConfig(o, 'run'))
    print([c.df.to_dict('list'), c.parents, c.notes, space.to_dict(), recipe])
"""

def test_the_order_of_sets_is_nowhere_seen(tmp_path):
    "Two processes, whose hashes of texts differ, prepare the same."
    roots = [str(demo_export(tmp_path/re.sub(r'\W+', '-', o), o, 60)) for o in ('shopify', 'woocommerce', 'magento', 'coco', 'long form')]
    def seen(seed):
        return subprocess.run([sys.executable, '-c', SEEN, *roots], env=os.environ | dict(PYTHONHASHSEED=seed), text=True, check=True,
                              stdout=subprocess.PIPE).stdout
    first = seen('1')
    assert len(first.splitlines()) == len(roots) and seen('2') == first

CHANGES = {'a mark of UTF-8': lambda t: '\ufeff' + t, 'line ends of Windows': lambda t: t.replace('\n', '\r\n')}

@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('kind', EXPORTS)
def test_marks_and_line_ends_do_not_matter(kind, change, folder, tmp_path):
    root = Path(shutil.copytree(folder(kind), tmp_path/'shop')); before = read_catalog(folder(kind))
    for f in root.rglob('*'):
        if f.is_file() and f.suffix != '.jpg': f.write_bytes(CHANGES[change](f.read_bytes().decode()).encode())
    after = read_catalog(root)
    assert after.df['tags'].tolist() == before.df['tags'].tolist() and after.layout == before.layout and after.rejected.empty

@pytest.mark.parametrize('suffix', ['.jsonl', '.parquet'])
def test_the_metadata_of_hugging_face_in_other_formats(suffix, folder, tmp_path):
    root = Path(shutil.copytree(folder('hugging face'), tmp_path/'shop'))
    for f in sorted(root.rglob('metadata.csv')):
        df = pd.read_csv(f, dtype=str); f.unlink()
        if suffix == '.parquet': pytest.importorskip('pyarrow'); df.to_parquet(f.with_suffix(suffix))
        else: df.to_json(f.with_suffix(suffix), orient='records', lines=True)
    assert read_catalog(root).df['tags'].tolist() == read_catalog(folder('hugging face')).df['tags'].tolist()

def test_metadata_above_the_folders_of_folds(folder, tmp_path):
    "Hugging Face also takes one table above the folders."
    root = Path(shutil.copytree(folder('hugging face'), tmp_path/'shop'))
    tables = [(f, pd.read_csv(f, dtype=str)) for f in sorted(root.rglob('metadata.csv'))]
    one = pd.concat([df.assign(file_name=f'{f.parent.name}/' + df['file_name']) for f, df in tables])
    for f, _ in tables: f.unlink()
    one.to_csv(root/'metadata.csv', index=False)
    assert sorted(read_catalog(root).df['tags'].map(str)) == sorted(read_catalog(folder('hugging face')).df['tags'].map(str))

VOTES = [('a', 'Tee', ['red', 'wool']), ('a', 'Tee', ['red']),
         ('a', 'Hat', ['blue', 'red']), ('b', 'Hat', ['blue']), ('b', 'Mug', ['blue'])]

@pytest.mark.parametrize('form', ['json', 'min.json', 'csv'])
def test_the_majority_of_annotators_counts_and_a_tie_is_empty(form, tmp_path):
    for i, o in enumerate('ab'): draw(tmp_path/f'{o}.jpg', i)
    rows = [dict(image=f'{o}.jpg', id=ord(o), type=kind, style=dict(choices=style), annotator=k, annotation_id=k)
            for k, (o, kind, style) in enumerate(VOTES)]
    def chosen(o, *names): return [dict(from_name=k, type='choices', value=o[k] if k == 'style' else dict(choices=[o[k]])) for k in names]
    tasks = [dict(id=ord(o), data=dict(image=f'{o}.jpg'), annotations=[
        dict(was_cancelled=False, result=chosen(r, 'type', 'style')) for r in rows if r['id'] == ord(o)]) for o in 'ab']
    if form == 'csv': pd.DataFrame(rows).assign(style=[json.dumps(o['style']) for o in rows]).to_csv(tmp_path/'p.csv', index=False)
    else: (tmp_path/f'p.{form}').write_text(json.dumps(tasks if form == 'json' else rows))
    catalog = read_catalog(tmp_path)
    assert [set(o) for o in catalog.df['tags']] == [{'type=Tee', 'style=red'}, {'style=blue'}] and catalog.rejected.empty

def test_an_attribute_list_has_unknown_values(folder):
    catalog = read_catalog(folder('deepfashion'))
    assert any(re.match(r'\d+ values are unknown, such as \w+ of row \d+: they are in no score', o) for o in catalog.notes)
    names = {o for p in shop_products(N) for o in (p['type'], p['colour']) if o[0] == 'B'}
    for tags, unknown in zip(catalog.df['tags'], catalog.df['unknown']): assert set(unknown) == names - set(tags)

@pytest.mark.parametrize('change, says', [
    (lambda t: t.replace('attribute_labels', 'attributes'), 'expected'), (lambda t: '7' + t, 'its first says')])
def test_an_attribute_list_with_another_header_is_told(change, says, folder, tmp_path):
    root = Path(shutil.copytree(folder('deepfashion'), tmp_path/'shop')); f = root/'list_attr_img.txt'; f.write_text(change(f.read_text()))
    with pytest.raises(CatalogError, match=says): read_catalog(f, 'celeba')
    with pytest.raises(CatalogError): read_catalog(root)

def test_the_column_of_texts_is_an_option(folder):
    root = folder('shopify')
    assert set(read_catalog(root, text_column='Vendor').df['text']) == {'Demo'}
    assert 'text' not in read_catalog(root, text_column='none').df
    with pytest.raises(CatalogError, match="no column 'Vendr', did you mean 'Vendor'"): read_catalog(root, text_column='Vendr')

# ---- Pictures beside which files have tags

def xmp(subjects, paths=()):
    def bag(name, o): return f'<{name}><rdf:Bag>{"".join(f"<rdf:li>{v}</rdf:li>" for v in o)}</rdf:Bag></{name}>'
    return (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
            f'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:lr="http://ns.adobe.com/lightroom/1.0/">{bag("dc:subject", subjects)}'
            f'{bag("lr:hierarchicalSubject", paths)}</rdf:Description></rdf:RDF></x:xmpmeta>').encode()

def draw(path, i=0, **kw): path.parent.mkdir(parents=True, exist_ok=True); Image.new('RGB', (24, 24), (i*40, 90, 160)).save(path, **kw)

@pytest.mark.parametrize('suffix', ['.jpg', '.webp', '.tif'])
def test_keywords_inside_of_pictures(suffix, tmp_path):
    for i, o in enumerate(('a', 'b')): draw(tmp_path/f'{o}{suffix}', i, xmp=xmp(['red', o], [f'Clothing|Tops|{o}'])) if suffix != '.tif' \
        else draw(tmp_path/f'{o}{suffix}', i, tiffinfo={700: xmp(['red', o], [f'Clothing|Tops|{o}'])})
    catalog = read_catalog(tmp_path)
    assert catalog.layout == 'sidecars' and catalog.df['tags'].tolist() == [['red', o, 'Clothing', 'Tops'] for o in 'ab']
    assert catalog.parents == {'Tops': 'Clothing', 'a': 'Tops', 'b': 'Tops'}

def test_folders_with_sidecars_are_no_classes(tmp_path):
    for i, o in enumerate(('10_dress/a', '10_dress/b', '5_hat/c')):
        draw(tmp_path/f'{o}.png', i); (tmp_path/f'{o}.txt').write_text(f'{o[-1]}, cotton')
    draw(tmp_path/'5_hat'/'d.png', 5)
    catalog = read_catalog(tmp_path)
    assert catalog.layout == 'sidecars' and catalog.df['tags'].tolist() == [[o, 'cotton'] for o in 'abc']
    assert catalog.rejected['reason'].tolist() == ['no tags'] and catalog.df['folder'].tolist() == ['10_dress']*2 + ['5_hat']
    assert 'tags: 3 of 4 pictures have a file .txt beside them' in catalog.notes

def test_captions_are_descriptions(tmp_path):
    for i, o in enumerate('ab'):
        draw(tmp_path/f'{o}.jpg', i); (tmp_path/f'{o}.txt').write_text(f'A long red dress with a pattern of little flowers, called {o}')
        (tmp_path/f'{o}.caption').write_text('red,dress')
    df = read_sidecars(tmp_path).df
    assert df['tags'].tolist() == [['red', 'dress']]*2 and df['text'][1].endswith('called b')

def test_entities_in_xmp_are_not_expanded(tmp_path):
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + xmp(['&b;'])
    draw(tmp_path/'a.jpg'); (tmp_path/'a.xmp').write_bytes(bomb); draw(tmp_path/'b.jpg', 1); (tmp_path/'b.xmp').write_bytes(xmp(['hat']))
    catalog = read_sidecars(tmp_path)
    assert catalog.df['tags'].tolist() == [['hat']] and 'its XMP is not valid: undefined entity' in catalog.rejected['reason'][0]

def test_a_bomb_in_a_feed_is_told(tmp_path):
    names = [f'e{i}' for i in range(12)]
    entities = '<!ENTITY e0 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa">' + ''.join(
        f'<!ENTITY {b} "{f"&{a};"*10}">' for a, b in zip(names, names[1:]))
    (tmp_path/'feed.xml').write_text(f'<!DOCTYPE rss [{entities}]><rss><item><id>&e11;</id></item></rss>')
    with pytest.raises(CatalogError, match='cannot be read as XML'): read_catalog(tmp_path/'feed.xml', 'google-merchant')

# ---- Fetching

FETCHED = {'shopify': ('Image Src',), 'shopify, new header': ('Product image URL',), 'woocommerce': ('Images',),
           'google': ('image_link', 'additional_image_link'), 'google, xml': ('image_link', 'additional_image_link'), 'hugging face': None,
           'long form': ('value',), 'magento': ('base_image', 'small_image', 'additional_images'), 'label studio, min': ('image',),
           'label studio, csv': ('image',), 'akeneo': ('picture_1', 'picture_2', 'picture_3', 'picture_4')}

@pytest.mark.parametrize('kind', [k for k, o in FETCHED.items() if o])
def test_the_columns_of_pictures_of_a_profile_are_fetched(kind, tmp_path):
    root = demo_export(tmp_path/'shop', kind, N, address='https://shop.example/media')
    assert read_addresses(root).columns == FETCHED[kind]
    named = {o for *_, parts in read_addresses(root).parts() for o in parts}
    assert named == {f'https://shop.example/media/{o}' for p in shop_products(N) for o in p['pictures']}

def test_addresses_inside_of_objects_are_told(tmp_path):
    root = demo_export(tmp_path/'shop', 'label studio', 3, address='https://shop.example/media')
    with pytest.raises(CatalogError, match='is Label Studio JSON, whose addresses are inside of objects: export it as CSV'):
        read_addresses(root)

# ---- The whole way

class Shop(BaseHTTPRequestHandler):
    "A server of the pictures of the demo shop."
    pictures = {}
    def log_message(self, *_): pass
    def do_GET(self):
        data = self.pictures.get(self.path.rpartition('/')[2])
        self.send_response(200 if data else 404); self.send_header('Content-Length', str(len(data or b''))); self.end_headers()
        self.wfile.write(data or b'')

@pytest.fixture(scope='module')
def server():
    Shop.pictures = shop_pictures(40, size=32)
    web = ThreadingHTTPServer(('127.0.0.1', 0), Shop); Thread(target=web.serve_forever, daemon=True).start()
    yield f'127.0.0.1:{web.server_port}'
    web.shutdown(); web.server_close()

def call(*args): assert main([str(o) for o in args]) == 0, args

SMALL = 15     # products, of which three have a label of each form

@pytest.mark.parametrize('kind', EXPORTS)
def test_an_export_is_fetched_checked_trained_tagged_and_indexed(kind, server, tmp_path, capsys):
    far = kind in FETCHED and kind not in FOLDS
    shop = demo_export(tmp_path/'export', kind, SMALL, address=f'http://{server}/media' if far else None)
    if far:
        assert main(['check', str(shop)]) == 2
        assert 'catalog_tagger fetch' in capsys.readouterr().err
        call('fetch', shop, '--out', tmp_path/'shop', '--allow-host', server); shop = tmp_path/'shop'
    call('check', shop)
    assert f'layout {EXPORTS[kind].layout}: ' in capsys.readouterr().out
    call('train', shop, '--out', tmp_path/'run', '--size', 32, '--bs', 16, '--freeze-epochs', 1, '--epochs', 0, '--tta', 1)
    call('tag', tmp_path/'run', next(shop.rglob('*.jpg')), '--out', tmp_path/'tags.csv', '--k', 3)
    labels = set().union(*(LABELS[kind](p) for p in shop_products(SMALL)))
    tags = pd.read_csv(tmp_path/'tags.csv')['tag'].dropna()
    assert len(tags) and {f'{o}' for o in tags} <= labels | {o.partition('=')[2] for o in labels}
    call('index', tmp_path/'run', shop, '--out', tmp_path/'index')

# ---- Exports that lack something, and unknown tables

def csv_change(root, change):
    "Change the rows of the only table of a folder; `change` gets and returns a table of texts."
    f, = (o for o in root.iterdir() if o.suffix in ('.csv', '.tsv'))
    sep = '\t' if f.suffix == '.tsv' else ';' if 'sku;' in f.read_text() else ','
    change(pd.read_csv(f, sep=sep, dtype=str, keep_default_na=False)).to_csv(f, sep=sep, index=False)

@pytest.mark.parametrize('kind, says', [
    ('shopify', 'is like Shopify products CSV, but has no column image src or product image url'),
    ('shopify, new header', 'is like Shopify products CSV, but has no column image src or product image url'),
    ('magento', 'is like Magento products CSV, but has no column base_image'),
    ('h&m', 'is like H&M articles.csv, but has no column article_id'),
    ('akeneo', 'is Akeneo products CSV or XLSX, but has no column of pictures: looked for picture'), ('google', 'has no known layout'),
    ('woocommerce', 'is like WooCommerce products CSV, but has no column images: export it with this column, or draft a profile')])
def test_an_export_without_pictures_is_told_in_a_sentence(kind, says, folder, tmp_path):
    root = Path(shutil.copytree(folder(kind), tmp_path/'shop'))
    for o in range(5): draw(root/'classes'/'a'/f'{o}.jpg', o)     # these are no classes
    shutil.rmtree(root/'images', ignore_errors=True)
    pictures = re.compile('image|picture|article_id', re.I)
    csv_change(root, lambda df: df[[o for o in df if not pictures.search(o)]])
    with pytest.raises(CatalogError, match=says): read_audited(RunConfig(str(root), ''))

UNKNOWN = pd.DataFrame([{
    'Artikelnummer': f'A{i}', 'Foto': f'{i}.jpg', 'Farbe': ['rot', 'blau'][i % 2], 'Kategorie': f'Mode > {["Hemd", "Hose"][i % 2]}',
    'Beschreibung': f'Ein Stück aus der neuen Kollektion, Nummer {i}', 'Preis': f'{i},90', 'Größe [cm]|Norm': ['S', 'M'][i % 2]}
    for i in range(24)])

def test_a_draft_reads_an_unknown_table(tmp_path, capsys):
    shop = tmp_path/'shop'; shop.mkdir(); UNKNOWN.to_csv(shop/'artikel.csv', index=False, sep=';')
    for i in range(24): draw(shop/'images'/f'{i}.jpg', i)
    call('profile', shop, '--out', tmp_path/'mine.json')
    out = re.sub(' +', ' ', capsys.readouterr().out)
    for o in ('Foto image', 'Farbe labels', 'Kategorie paths', 'Beschreibung describe', 'Preis only numbers'): assert o in out
    catalog = read_catalog(shop, tmp_path/'mine.json')
    assert set(catalog.df['tags'][0]) == {'Farbe=rot', 'Kategorie 1=Mode', 'Kategorie 2=Hemd', 'Größe [cm]|Norm=S'}
    assert catalog.df['text'][3].startswith('Ein Stück') and catalog.rejected.empty
    call('check', shop, '--profile', tmp_path/'mine.json')
    call('train', shop, '--profile', tmp_path/'mine.json', '--out', tmp_path/'run', '--size', 32, '--bs', 8,
         '--freeze-epochs', 1, '--epochs', 0)
    call('index', tmp_path/'run', shop, '--out', tmp_path/'index')

def test_a_profile_names_the_columns_to_fetch(server, tmp_path):
    shop = tmp_path/'shop'; shop.mkdir(); names = [p['pictures'][0] for p in shop_products(24)]
    UNKNOWN.assign(Foto=[f'http://{server}/{o}' for o in names]).to_csv(shop/'artikel.csv', index=False, sep=';')
    call('profile', shop, '--out', tmp_path/'mine.json')
    call('fetch', shop, '--profile', tmp_path/'mine.json', '--allow-host', server, '--out', tmp_path/'near')
    assert len(read_catalog(tmp_path/'near', tmp_path/'mine.json').df) == 24

@pytest.mark.parametrize('text, says', [
    ('{}', 'text'), ('[]', 'not a valid Profile'), ('{"text": "x", "columns": ["a"], "image": [], "labels": ["b"]}', 'image'),
    ('{"text": "x", "columns": ["a"], "image": ["a"], "lables": ["b"]}', 'lables'),
    ('{"text": "x", "columns": "a", "image": ["a"]}', 'columns'),
    ('{"text": "x", "columns": ["nope"], "image": ["a"]}', 'looked for'), ('no json', 'json')])
def test_a_wrong_profile_is_one_line(text, says, tmp_path, capsys):
    shop = tmp_path/'shop'; shop.mkdir(); UNKNOWN.to_csv(shop/'artikel.csv', index=False); (tmp_path/'mine.json').write_text(text)
    assert main(['check', str(shop), '--profile', str(tmp_path/'mine.json')]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and says in err, err

def test_an_escaped_comma_is_part_of_a_category(tmp_path):
    "WooCommerce writes it so; one path a product keeps its levels exclusive."
    rows = ['ID,Type,SKU,Name,Categories,Images', *(f'{i},simple,S{i},A bag,"Accessories\\, Bags > {"Totes" if i % 2 else "Belts"}",{i}.jpg'
                                                     for i in range(8))]
    (tmp_path/'wc.csv').write_text('\n'.join(rows)); (tmp_path/'images').mkdir()
    for i in range(8): Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path/'images'/f'{i}.jpg')
    catalog = read_catalog(tmp_path)
    assert catalog.df['tags'][1] == ['Categories 1=Accessories, Bags', 'Categories 2=Totes']
    assert not [o for o in catalog.notes if 'several paths' in o]

def test_pictures_that_are_read_are_not_told_as_unused(tmp_path):
    for kind in ('woocommerce', 'google', 'shopify'):
        notes = read_catalog(demo_export(tmp_path/kind, kind, n=6)).notes
        assert not [o for o in notes if 'further columns of pictures' in o], kind

@pytest.mark.parametrize('kind', ['shopify', 'woocommerce'])
def test_words_replace_the_labels_of_an_export_and_their_parents(tmp_path, kind):
    ready = prepare_catalog(RunConfig(str(demo_export(tmp_path/kind, kind, n=60)), 'run', words='en'))
    assert ready.space.vocab and not ready.space.exclusive and not ready.space.parents

def test_a_misspelt_column_of_a_profile_is_told(tmp_path):
    profile = dict(text='mine', columns=['image'], image=['image'], labels=['knd'], tags=['tags'])
    (tmp_path/'mine.json').write_text(json.dumps(profile)); shop = tmp_path/'shop'; (shop/'images').mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(shop/'images'/'a.jpg'); (shop/'t.csv').write_text('image,kind,tags\na.jpg,hat,red\n')
    notes = read_catalog(shop, tmp_path/'mine.json').notes
    assert "columns that the profile names and the table lacks: knd, did you mean 'kind'?" in notes

# ---- What a newcomer's files have

def shown(root, *names):
    for i, o in enumerate(names): draw(root/o, i)
    return root

def captions(root, n=24, encoding='utf-8', beside=True):
    "Pictures with a sentence each: in a text beside them, or in a table of pictures and texts alone."
    texts = {f'{i}': f'A {("red", "blue")[i % 2]} {("dress", "hat")[i//2 % 2]} for été' for i in range(n)}
    shown(root, *(f'{o}.jpg' for o in texts))
    if not beside: pd.DataFrame(dict(image=[f'{o}.jpg' for o in texts], caption=texts.values())).to_csv(root/'texts.csv', index=False)
    else:
        for o, text in texts.items(): (root/f'{o}.txt').write_text(text, encoding=encoding)
    return root

@pytest.mark.parametrize('beside', [True, False])
def test_words_are_made_of_captions_alone(beside, tmp_path, capsys):
    shop = captions(tmp_path/'shop', beside=beside)
    assert main(['check', str(shop)]) == 2 and '--words en' in capsys.readouterr().err
    ready = prepare_catalog(RunConfig(str(shop), 'run', words='en'))
    assert {'red', 'blue', 'dress', 'hat'} <= set(ready.space.vocab) and len(ready.catalog.df) == 24
    assert not [o for o in ready.catalog.notes if 'no label' in o]
    call('train', shop, '--words', 'en', '--out', tmp_path/'run', '--size', 32, '--bs', 8, '--freeze-epochs', 1, '--epochs', 0, '--tta', 1)
    call('index', tmp_path/'run', shop, '--out', tmp_path/'index')

def test_words_without_texts_are_told(folder):
    with pytest.raises(CatalogError, match='words=en makes tags from texts, and no picture of .* has one'):
        prepare_catalog(RunConfig(str(folder('sidecars')), 'run', words='en'))

def test_sidecars_have_an_encoding(tmp_path, capsys):
    shop = captions(tmp_path/'shop', encoding='cp1252')
    assert main(['check', str(shop)]) == 2
    assert '.txt is no text in utf-8: save it in UTF-8, or give its encoding: with --encoding cp1252 it reads' in capsys.readouterr().err
    assert read_audited(RunConfig(str(shop), '', encoding='cp1252', words='en')).df['text'][0].endswith('été')

def test_an_option_of_several_layouts_names_those_that_are_no_exports(tmp_path, capsys):
    for i in range(4): draw(tmp_path/'ab'[i % 2]/f'{i}.jpg', i)
    assert main(['check', str(tmp_path), '--encoding', 'cp1252']) == 2
    assert f'--encoding is an option of the layouts onehot, sidecars, styles, tags, but {tmp_path} has' in capsys.readouterr().err

def test_a_caption_whose_picture_is_missing_is_told(tmp_path):
    shop = captions(tmp_path/'shop'); (shop/'3.jpg').unlink(); (shop/'7.jpg').unlink()
    note = '2 files have no picture of their name beside them, and are not used, such as 3.txt'
    assert note in read_audited(RunConfig(str(shop), '', words='en')).notes

def test_commas_beside_pictures_are_lists(folder):
    assert 'tags: column keywords, lists' in read_catalog(folder('sidecars')).notes

@pytest.mark.parametrize('title', [['Shop of Ann'], ['Shop of Ann', None, None]])
def test_a_title_above_the_header_of_a_sheet_is_told(title, tmp_path):
    openpyxl = pytest.importorskip('openpyxl'); book = openpyxl.Workbook()
    for o in (title, [], ['image', 'tags', 'net'], ['a.jpg', 'red', 1], ['b.jpg', 'blue', 2]): book.active.append(o)
    book.save(shown(tmp_path, 'a.jpg', 'b.jpg')/'shop.xlsx')
    with pytest.raises(CatalogError, match="first line, 'Shop of Ann', is no header: line 3 looks like one; remove the lines above it"):
        read_catalog(tmp_path/'shop.xlsx', 'tags')

def test_a_draft_finds_several_values_and_ids(tmp_path, capsys):
    shop = shown(tmp_path/'shop', *(f'{i}.jpg' for i in range(24)))
    pd.DataFrame([dict(Artikelnr=f'A-{i//2}', Bild=f'{i}.jpg', Merkmal=['new|eco', 'new', 'eco'][i % 3], Ort=['Oslo, dark', 'Rome'][i % 2])
                  for i in range(24)]).to_csv(shop/'shop.csv', index=False)
    call('profile', shop, '--out', tmp_path/'mine.json'); df = read_catalog(shop, tmp_path/'mine.json').df
    assert df['product'].tolist() == [f'A-{i//2}' for i in range(24)]
    assert df['tags'][:3].map(set).tolist() == [{'Ort=Oslo, dark', 'new', 'eco'}, {'Ort=Rome', 'new'}, {'Ort=Oslo, dark', 'eco'}]

def test_several_columns_of_free_tags_are_joined(tmp_path):
    (shown(tmp_path, 'a.jpg')/'t.csv').write_text('photo,one,two\na.jpg,red;big,new|eco\n')
    (tmp_path/'mine.json').write_text(json.dumps(dict(text='mine', columns=['photo'], image=['photo'], tags=['one', 'two'])))
    assert set(read_catalog(tmp_path/'t.csv', tmp_path/'mine.json').df['tags'][0]) == {'red', 'big', 'new', 'eco'}

FEED = """id,title,image_link,color,material,google_product_category
1,Tee,a.jpg,Red/Blue,Cotton,Apparel > Shirts
2,Tee,b.jpg,Red,Wool/Silk,212
3,Tee,c.jpg,Blue,Wool,Apparel
"""

def test_several_colours_and_numbers_of_categories_of_google_are_told(tmp_path):
    (shown(tmp_path, *(f'{o}.jpg' for o in 'abc'))/'feed.csv').write_text(FEED); catalog = read_catalog(tmp_path)
    free = [{o for o in tags if '=' not in o} for tags in catalog.df['tags']]
    assert free == [{'Red', 'Blue', 'Cotton'}, {'Red', 'Wool', 'Silk'}, {'Blue', 'Wool'}]
    assert 'several values in one row, so free tags: color (Red, Blue), material (Wool, Silk)' in catalog.notes
    assert any(o.startswith('1 cells of google_product_category have a number instead of a path, such as 212') for o in catalog.notes)

def test_variations_of_woocommerce_without_their_product_are_told(tmp_path):
    rows = ['ID,Type,SKU,Name,Categories,Images,Parent,Attribute 1 name,Attribute 1 value(s)',
            '1,variable,TEE,Tee,Tops,a.jpg,,Color,"Red, Blue"', '2,variation,TEE-R,Tee,,b.jpg,id:1,Color,Red',
            '3,variation,X-R,X,,c.jpg,id:99,Color,Red', '4,variation,X-B,X,,d.jpg,id:99,Color,Blue']
    (shown(tmp_path, *(f'{o}.jpg' for o in 'abcd'))/'wc.csv').write_text('\n'.join(rows)); catalog = read_catalog(tmp_path)
    assert '2 rows name a parent that no row has, such as id:99: they lack its texts and labels' in catalog.notes
    assert 'several values in one row, so free tags: Color (Red, Blue)' in catalog.notes
    assert set(catalog.df['tags'][0]) == {'Categories=Tops', 'Red', 'Blue'} and catalog.df['product'].tolist()[2:] == ['id:99']*2

def test_the_picture_of_a_variant_counts_once(tmp_path):
    rows = ['Handle,Title,Type,Option1 Name,Option1 Value,Image Src,Variant Image',
            'tee,Tee,Top,Size,S,a.jpg,a.jpg', 'tee,,,,M,b.jpg,a.jpg', 'tee,,,,L,,b.jpg', 'mug,Mug,Mug,Size,S,c.jpg,']
    (shown(tmp_path, *(f'{o}.jpg' for o in 'abc'))/'p.csv').write_text('\n'.join(rows)); catalog = read_catalog(tmp_path)
    assert catalog.rejected.empty and [Path(o).name for o in catalog.df['image']] == ['a.jpg', 'b.jpg', 'c.jpg']
    assert '2 rows repeat a picture of their product and add nothing, such as a.jpg: it counts once' in catalog.notes

def test_a_long_form_with_further_columns_and_one_that_lacks_its_own(tmp_path):
    rows = ['sku,attribute,name,value', 'A,image,Picture,a.jpg', 'A,color,Colour,red', 'B,image,Picture,b.jpg', 'B,color,Colour,blue']
    (shown(tmp_path, 'a.jpg', 'b.jpg')/'t.csv').write_text('\n'.join(rows))
    assert read_catalog(tmp_path).df['tags'].tolist() == [['color=red'], ['color=blue']]
    mine = dict(text='mine', columns=['sku'], image=['image'], product=['sku'], long=['atribute', 'value'])
    (tmp_path/'mine.json').write_text(json.dumps(mine))
    with pytest.raises(CatalogError, match='no column atribute, which the profile names as long; its columns are: sku, attribute'):
        read_catalog(tmp_path/'t.csv', tmp_path/'mine.json')

def test_the_tables_of_the_folds_of_coco_may_be_beside_their_pictures(tmp_path):
    for fold in ('train', 'val'):
        d = dict(images=[dict(id=1, file_name=f'{fold}.jpg')], categories=[dict(id=7, name='hat')],
                 annotations=[dict(image_id=1, category_id=7)])
        (shown(tmp_path, f'images/{fold}.jpg')/f'{fold}.json').write_text(json.dumps(d))
    assert read_catalog(tmp_path).df[['split', 'tags']].values.tolist() == [['train', ['hat']], ['valid', ['hat']]]
    (tmp_path/'train.json').rename(tmp_path/'first.json')
    with pytest.raises(CatalogError, match='may be coco or coco'): read_catalog(tmp_path)

def test_texts_and_parents_are_told(folder, capsys):
    call('check', folder('shopify')); out = capsys.readouterr().out
    assert 'text: columns Title, Body (HTML)' in out and re.search('labels have a parent: .+ in .+', out)
