"Exports of shops and labelling tools are recognised and read with no option, and small differences do not matter."
import csv, io, json, random
from datetime import datetime

import pandas as pd, pytest
from PIL import Image

from catalog_tagger.catalog.prepare import read_audited
from catalog_tagger.catalog.read import find_layout, read_catalog
from catalog_tagger.catalog.readers.base import all_layouts
from catalog_tagger.catalog.readers.profiles import load_profiles
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError

CLOTHES = 'Apparel & Accessories > Clothing > Shirts & Tops'
EXPORTS = {   # name: profile, table, its text, file of each picture → its tags
    'shopify': ('shopify', 'products_export.csv',
                f'''Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Option1 Name,Option1 Value,\
Variant SKU,Image Src,Image Position,Color (product.metafields.shopify.color-pattern)
red-tee,Red Tee,"<p>A soft <b>tee</b></p>",Acme,{CLOTHES},T-Shirt,"summer, cotton",Size,S,RT-S,images/red-tee-1.jpg,1,red
red-tee,,,,,,,,M,RT-M,images/red-tee-2.jpg,2,
red-tee,,,,,,,,L,RT-L,,,
mug,Mug,A mug,Acme,Home & Garden > Kitchen,Mug,gift,Title,Default Title,MUG,images/mug.jpg,1,white
''', {'images/red-tee-1.jpg': (tee := {'Type=T-Shirt', 'Color (product.metafields.shopify.color-pattern)=red', 'summer', 'cotton',
                                       'Product Category 1=Apparel & Accessories', 'Product Category 2=Clothing',
                                       'Product Category 3=Shirts & Tops'}), 'images/red-tee-2.jpg': tee,
      'images/mug.jpg': {'Type=Mug', 'Color (product.metafields.shopify.color-pattern)=white', 'Product Category 1=Home & Garden',
                         'Product Category 2=Kitchen', 'gift'}}),
    'shopify, new header': ('shopify', 'products.csv', f'''Title,URL handle,Description,Vendor,Product category,Type,Tags,Status,SKU,\
Option1 name,Option1 value,Product image URL,Image position
Red Tee,red-tee,<p>x</p>,Acme,{CLOTHES},T-Shirt,"summer, cotton",active,RT-S,Size,S,images/red-tee-1.jpg,1
,red-tee,,,,,,,RT-M,,M,images/red-tee-2.jpg,2
''', {f'images/red-tee-{i}.jpg': {'Type=T-Shirt', 'summer', 'cotton', 'Product category 1=Apparel & Accessories',
                                  'Product category 2=Clothing', 'Product category 3=Shirts & Tops'} for i in (1, 2)}),
    'woocommerce': ('woocommerce', 'wc-product-export.csv', '''ID,Type,SKU,Name,Short description,Description,Categories,Tags,Images,\
Parent,Attribute 1 name,Attribute 1 value(s)
44,variable,TEE,V-Neck,short,long,"Clothing > Tshirts, Sale","summer, cotton","images/tee-1.jpg, images/tee-2.jpg",,Color,"Blue, Green"
45,simple,HOOD,Hoodie,,,Clothing > Hoodies,,images/hood.jpg,,Color,Grey
46,variation,TEE-BLUE,V-Neck - Blue,,,,,images/tee-blue.jpg,id:44,Color,Blue
47,variation,TEE-G,V-Neck - Green,,,,,,TEE,Color,Green
''', {'images/tee-1.jpg': (tee := {'Clothing', 'Tshirts', 'Sale', 'summer', 'cotton', 'Blue', 'Green'}), 'images/tee-2.jpg': tee,
      'images/tee-blue.jpg': tee - {'Green'}, 'images/hood.jpg': {'Clothing', 'Hoodies', 'Grey'}}),
    'google': ('google-merchant', 'feed.tsv',
               f'''id\ttitle\tdescription\timage_link\tadditional_image_link\tgoogle_product_category\tcolor\t\
item_group_id
1\tTee\tx\ttee.jpg\ttee2.jpg,tee3.jpg\t{CLOTHES}\tRed\tG1
2\tTee\tx\tb.jpg\t\t{CLOTHES}\tBlue\tG1
''', {o: {'google_product_category 1=Apparel & Accessories', 'google_product_category 2=Clothing',
          'google_product_category 3=Shirts & Tops', 'color=Blue' if o == 'b.jpg' else 'color=Red'}
      for o in ('tee.jpg', 'tee2.jpg', 'tee3.jpg', 'b.jpg')}),
    'magento': ('magento', 'catalog_product.csv',
                '''sku,attribute_set_code,product_type,categories,name,description,base_image,small_image,\
additional_images,additional_attributes
MB01,Bag,simple,"Shop/Gear,Shop/Gear/Bags",Duffle,long,/m/b/mb01.jpg,/m/b/mb01.jpg,"/m/b/mb01.jpg,/m/b/mb02.jpg",\
"activity=Gym|Hiking,color=Blue"
MB02,Bag,simple,Shop/Gear,Tote,long,/m/b/mb03.jpg,,,"color=Red, dark"
''', {'m/b/mb01.jpg': (bag := {'Shop', 'Gear', 'Bags', 'Gym', 'Hiking', 'color=Blue'}), 'm/b/mb02.jpg': bag,
      'm/b/mb03.jpg': {'Shop', 'Gear', 'color=Red, dark'}}),
    'akeneo': ('akeneo', 'products.csv', '''sku;categories;enabled;family;parent;color;name-en_US;picture
17;tees,summer;1;clothing;;red;Tee;files/17/picture/17.jpg
''', {'files/17/picture/17.jpg': {'family=clothing', 'color=red', 'tees', 'summer'}}),
    'hugging face': ('hugging-face', 'metadata.csv', 'file_name,text,label\na/1.png,A dress,dress\na/2.png,A hat,hat\n',
                     {'a/1.png': {'label=dress'}, 'a/2.png': {'label=hat'}}),
    'roboflow': ('roboflow', '_classes.csv', 'filename, dress, hat\na_jpg.rf.12.jpg, 1, 0\nb_jpg.rf.1.jpg, 1, 1\n',
                 {'a_jpg.rf.12.jpg': {'dress'}, 'b_jpg.rf.1.jpg': {'dress', 'hat'}}),
    'celeba': ('celeba', 'list_attr_celeba.csv', 'image_id,Bald,Male\n1.jpg,-1,1\n2.jpg,1,-1\n', {'1.jpg': {'Male'}, '2.jpg': {'Bald'}}),
    'open images': ('open-images', 'labels.csv', 'ImageID,Source,LabelName,Confidence\n0a,v,/m/01,1\n0a,v,/m/02,0\n0b,v,/m/02,1\n',
                    {'0a.jpg': {'/m/01'}, '0b.jpg': {'/m/02'}}),
    'h&m': ('hm', 'articles.csv', '''article_id,product_code,prod_name,product_type_name,product_group_name,colour_group_name,detail_desc
108775015,0108775,Strap top,Vest top,Upper body,Black,Jersey top
''', {'images/010/0108775015.jpg': {'product_type_name=Vest top', 'product_group_name=Upper body', 'colour_group_name=Black'}}),
    'long form': ('long-form', 'attributes.csv', '''sku,attribute,value
A1,image,images/a.jpg
A1,name,Tee
A1,color,red
A1,material,cotton
A1,material,wool
B1,image,images/b.jpg
B1,color,blue
''', {'images/a.jpg': {'color=red', 'cotton', 'wool'}, 'images/b.jpg': {'color=blue'}})}

def export(root, name, change=lambda text: text):
    "Write an export and its pictures; the tags that are expected of each picture."
    profile, table, text, tags = EXPORTS[name]
    (root/table).write_bytes(change(text).encode())
    for i, o in enumerate(tags):
        (root/o).parent.mkdir(parents=True, exist_ok=True); Image.new('RGB', (24, 24), (i*40, 90, 160)).save(root/o)
    return tags

def read(source):
    "File of each picture → its tags."
    df, root = read_catalog(source).df, source if source.is_dir() else source.parent
    return {o.removeprefix(f'{root.resolve()}/'): set(t) for o, t in zip(df['image'], df['tags'])}

@pytest.mark.parametrize('name', EXPORTS)
def test_an_export_is_read_with_no_option(name, tmp_path):
    tags = export(tmp_path, name)
    assert find_layout(tmp_path) == EXPORTS[name][0] and read(tmp_path) == tags
    catalog = read_audited(RunConfig(str(tmp_path), ''))
    assert len(catalog.df) == len(tags) and catalog.rejected.empty and EXPORTS[name][1] in catalog.notes[0]
    assert read(tmp_path/EXPORTS[name][1]) == tags      # the file instead of its folder

def rows(text):
    delim = '\t' if '\t' in text.split('\n')[0] else ';' if ';' in text.split('\n')[0] else ','
    return list(csv.reader(io.StringIO(text), delimiter=delim)), delim

def table(rows, delim, end='\n'):
    f = io.StringIO(); csv.writer(f, delimiter=delim, lineterminator=end).writerows(rows)
    return f.getvalue()

def shuffled(text):
    r, delim = rows(text); order = list(range(len(r[0]))); random.Random(1).shuffle(order)
    return table([[row[i] for i in order] for row in r], delim)

def with_column(text):
    r, delim = rows(text)
    return table([[*o, 'Cost per item' if not i else '9.90'] for i, o in enumerate(r)], delim)

CHANGES = {'a mark of UTF-8': lambda t: '\ufeff' + t, 'line ends of Windows': lambda t: table(*rows(t), '\r\n'),
           'capitals in the header': lambda t: t.split('\n', 1)[0].upper() + '\n' + t.split('\n', 1)[1],
           'small letters in the header': lambda t: t.split('\n', 1)[0].lower() + '\n' + t.split('\n', 1)[1],
           'columns in another order': shuffled, 'a further column': with_column, 'an empty line at the end': lambda t: t + '\n'}
FLAGS = ('roboflow', 'celeba')   # a column is a tag

@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('name', EXPORTS)
def test_small_differences_do_not_matter(name, change, tmp_path):
    tags = export(tmp_path, name, CHANGES[change])
    if change == 'a further column' and name in FLAGS:
        assert read_catalog(tmp_path).rejected['reason'].str.contains('Cost per item').all(); return
    assert find_layout(tmp_path) == EXPORTS[name][0]
    plain = lambda d: {o: {t.lower() for t in ts} for o, ts in d.items()}
    assert plain(read(tmp_path)) == plain(tags)

@pytest.mark.parametrize('name', ['shopify', 'woocommerce', 'google', 'magento'])
def test_the_pictures_of_a_product_are_kept_together(name, tmp_path):
    export(tmp_path, name); df = read_catalog(tmp_path).df
    assert df['product'].nunique() == {'google': 1}.get(name, 2) < len(df)
    assert read_catalog(tmp_path, product='none').df.get('product') is None

def test_tables_in_folders_of_folds_are_one_catalog(tmp_path):
    for fold in ('train', 'valid', 'test'): (tmp_path/fold).mkdir(); export(tmp_path/fold, 'roboflow')
    df = read_catalog(tmp_path).df
    assert find_layout(tmp_path) == 'roboflow' and df['split'].value_counts().to_dict() == {'train': 2, 'valid': 2, 'test': 2}

def test_options_come_before_the_profile(tmp_path):
    export(tmp_path, 'shopify')
    catalog = read_catalog(tmp_path, label_columns=['Vendor'], tags_column='none', product='none')
    assert catalog.groups == ('Vendor',) and {t for o in catalog.df['tags'] for t in o} == {'Vendor=Acme'}
    assert 'product' not in catalog.df

def test_a_value_that_is_neither_present_nor_absent_is_told(tmp_path):
    export(tmp_path, 'celeba', lambda t: t.replace('1.jpg,-1,1', '1.jpg,-1,maybe'))
    rejected = read_catalog(tmp_path).rejected
    assert rejected['reason'].tolist() == ["Male is 'maybe', expected one of 1, -1, 0"]

def test_profiles_are_layouts():
    assert set(load_profiles()) < set(all_layouts())

def test_a_profile_without_its_table_is_an_error(tmp_path):
    (tmp_path/'x.csv').write_text('a,b\n1,2\n')
    with pytest.raises(CatalogError, match='has no table of Shopify products CSV: looked for'): read_catalog(tmp_path, 'shopify')

# ---- Other formats

def label_studio(*annotations, image='/data/local-files/?d=images/a.jpg'):
    return dict(id=1, data=dict(image=image, title='A tee'), annotations=[
        dict(was_cancelled=c, result=[dict(from_name=k, type='choices', value=dict(choices=v)) for k, v in o.items()])
        for c, o in annotations])

OTHERS = {
    'coco': ('coco', 'annotations.json', dict(
        info={}, images=[dict(id=1, file_name='a.jpg', width=24, height=24), dict(id=2, file_name='b.jpg')],
        categories=[dict(id=7, name='dress'), dict(id=8, name='hat')],
        annotations=[dict(id=1, image_id=1, category_id=7), dict(id=2, image_id=1, category_id=8), dict(id=3, image_id=1, category_id=7),
                     dict(id=4, image_id=2, category_id=8)]), {'a.jpg': {'dress', 'hat'}, 'b.jpg': {'hat'}}),
    'label studio': ('label-studio', 'project-1.json', [
        label_studio((False, dict(type=['Tee'], style=['sport', 'blue'])), (False, dict(type=['Tee'])), (False, dict(type=['Hat'])),
                     (True, dict(type=['Mug']))),
        label_studio((False, dict(type=['Hat'])), (False, dict(type=['Mug'], style=['sport'])), image='images/b.jpg')],
        {'images/a.jpg': {'type=Tee', 'sport', 'blue'}, 'images/b.jpg': {'sport'}}),
    'label studio min': ('label-studio-min', 'min.json', [
        dict(image='a.jpg', id=1, choice='Tee', annotator=1, annotation_id=1, created_at='x', updated_at='y', lead_time=1.5),
        dict(image='b.jpg', id=2, choice=dict(choices=['Hat', 'Mug']), annotator=1, annotation_id=2)],
        {'a.jpg': {'Tee'}, 'b.jpg': {'Hat', 'Mug'}}),
    'abo': ('amazon-berkeley', 'listings_0.json', [
        dict(item_id='B01', main_image_id='71abc', other_image_id=['81x'], product_type=[dict(value='SHOES')], item_name=[
            dict(language_tag='de_DE', value='Schuh'), dict(language_tag='en_US', value='Shoe')],
            color=[dict(language_tag='en_US', value='Red', standardized_values=['red'])], item_weight=[dict(value=2)]),
        dict(item_id='B02', main_image_id='9z', product_type=[dict(value='HAT')], color=[dict(language_tag='de_DE', value='Blau')])],
        {'images/small/71/71abc.jpg': (shoe := {'product_type=SHOES', 'color=Red'}), 'images/small/81/81x.jpg': shoe,
         'images/9z.jpg': {'product_type=HAT', 'color=Blau'}})}
CLOTHES_XML = CLOTHES.replace('&', '&amp;').replace('>', '&gt;')
FEED = f'''<?xml version="1.0"?><rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title>
<item><g:id>1</g:id><g:title>Tee &amp; co</g:title><g:image_link>tee.jpg</g:image_link>
<g:additional_image_link>tee2.jpg</g:additional_image_link>
<g:additional_image_link>tee3.jpg</g:additional_image_link><g:google_product_category>{CLOTHES_XML}
</g:google_product_category><g:color>Red</g:color><g:item_group_id>G1</g:item_group_id></item>
<item><g:id>2</g:id><g:title>Tee</g:title><g:image_link>b.jpg</g:image_link><g:google_product_category>
{CLOTHES_XML}</g:google_product_category><g:color>Blue</g:color><g:item_group_id>G1</g:item_group_id></item>
</channel></rss>'''

def pictures(root, tags):
    for i, o in enumerate(tags):
        (root/o).parent.mkdir(parents=True, exist_ok=True); Image.new('RGB', (24, 24), (i*40, 90, 160)).save(root/o)

@pytest.mark.parametrize('name', OTHERS)
def test_the_json_of_a_tool_is_read_with_no_option(name, tmp_path):
    profile, file, data, tags = OTHERS[name]; pictures(tmp_path, tags)
    (tmp_path/file).write_text(json.dumps(data))
    if name == 'abo':
        (tmp_path/'images/metadata').mkdir(parents=True)
        (tmp_path/'images/metadata/images.csv').write_text('image_id,height,width,path\n71abc,24,24,71/71abc.jpg\n81x,24,24,81/81x.jpg\n')
    assert find_layout(tmp_path) == profile and read(tmp_path) == tags

def test_lines_of_json_are_listings_too(tmp_path):
    _, _, data, tags = OTHERS['abo']; pictures(tmp_path, tags)
    (tmp_path/'listings_0.jsonl').write_text('\n'.join(map(json.dumps, data)))
    assert read_catalog(tmp_path).df['text'].tolist() == ['Shoe', 'Shoe', '']

def test_a_feed_in_xml_is_the_one_in_tsv(tmp_path):
    tags = export(tmp_path, 'google'); (tmp_path/'feed.tsv').unlink(); (tmp_path/'feed.xml').write_text(FEED)
    assert find_layout(tmp_path) == 'google-merchant' and read(tmp_path) == tags

@pytest.mark.parametrize('suffix', ['.xlsx', '.parquet'])
@pytest.mark.parametrize('name', ['google', 'akeneo', 'long form'])
def test_excel_and_parquet_are_read_as_csv(name, suffix, tmp_path):
    tags = export(tmp_path, name); file = tmp_path/EXPORTS[name][1]
    df = pd.read_csv(file, sep=rows(file.read_text())[1], dtype=str, keep_default_na=False); file.unlink()
    if suffix == '.xlsx': pytest.importorskip('openpyxl'); df.to_excel(file.with_suffix(suffix), index=False)
    else: pytest.importorskip('pyarrow'); df.to_parquet(file.with_suffix(suffix))
    assert read(tmp_path) == tags

def test_numbers_and_dates_of_excel_are_text(tmp_path):
    openpyxl = pytest.importorskip('openpyxl')
    book = openpyxl.Workbook(); sheet = book.active
    row = ['a.jpg', 'red;blue', 12345678905, datetime(2024, 5, 31), True, 9.5]
    for o in (['image', 'tags', 'ean', 'day', 'on', 'net'], row): sheet.append(o)
    book.create_sheet('prices').append(['net', 9.5]); book.save(tmp_path/'shop.xlsx'); pictures(tmp_path, ['a.jpg'])
    catalog = read_catalog(tmp_path); df = catalog.df
    assert 'only the first sheet is read, not prices' in catalog.notes
    assert df[['ean', 'day', 'on', 'net']].values.tolist() == [['12345678905', '2024-05-31', 'true', '9.5']]
    assert df['tags'][0] == ['red', 'blue']
    sheet['C1'] = 'tags'; book.save(tmp_path/'shop.xlsx')
    with pytest.raises(CatalogError, match="shop.xlsx: duplicate column 'tags'"): read_catalog(tmp_path)

@pytest.mark.parametrize('file, data, says', [
    ('shop.xlsx', b'no excel', 'cannot be read as an Excel file'), ('shop.parquet', b'no parquet', 'cannot be read as Parquet'),
    ('feed.xml', b'<rss><item>', 'cannot be read as XML'), ('feed.xml', b'<rss></rss>', 'has no rows')])
def test_a_damaged_table_is_told(file, data, says, tmp_path):
    pytest.importorskip('openpyxl'); (tmp_path/file).write_bytes(data)
    with pytest.raises(CatalogError, match=says): read_catalog(tmp_path/file, 'tags')
