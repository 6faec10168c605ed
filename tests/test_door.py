"Exports are read as they are: cells are text, columns mean what the user says, folders have any depth, nothing is left out in silence."
import json, os, unicodedata

import pandas as pd, pytest
from PIL import Image

from catalog_tagger.apps.cli import as_flags, main
from catalog_tagger.catalog import recipe
from catalog_tagger.catalog.labels import fit_labels
from catalog_tagger.catalog.prepare import prepare_catalog, read_audited, recipe_steps
from catalog_tagger.catalog.read import find_layout, read_catalog
from catalog_tagger.catalog.recipe import fit_recipe
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import source_view

# ---- Cells are text

def one_column(root, cells, **options):
    "The labels of a column with these cells, and what the reader noted."
    df = pd.DataFrame({'id': [f'{i}.jpg' for i in range(len(cells))], 'x': cells})
    df.to_csv(root/'products.csv', index=False)
    catalog = read_catalog(root, label_columns=['x'], tags_column='none', **options)
    labels = dict.fromkeys(df['id'], '') | {im.rpartition('/')[2]: o[0].removeprefix('x=') for im, o in zip(catalog.df['image'],
                                                                                                            catalog.df['tags'])}
    return list(labels.values()), catalog.notes

AS_THEY_ARE = ['000', '007', '36', '36.0', '9.90', '1,299.00', '1E5', '1e3', 'TRUE', 'false', 'Inf', '-0', '+1', '0x1F',
               '900719925474099301', '2011-05-31',
               '31/12/2016', 'SS9', '10½', '2²', '①', '㎏', 'Nike™', 'tops/tees', 'a-b', 'a_b', 'A/B', '#1', 'C#', '=1+1', '@cmd', '[x]',
               '{y}', '(z)',
               "o'neill", 'say "hi"', 'a;b', 'a,b', 'a|b', '-', '–', 'none', 'nil', 'undefined', '👩‍🎤', 'می‌خواهم', 'İpek', 'ß', 'x=y',
               'x=', '\\n']

@pytest.mark.parametrize('cell', AS_THEY_ARE)
def test_a_label_is_the_text_of_its_cell(cell, tmp_path):
    labels, notes = one_column(tmp_path, [cell, 'other', ''])
    assert labels == [cell, 'other', ''] and not any('cells of x' in o for o in notes)

@pytest.mark.parametrize('cell, label, rule', [
    ('Shirts &amp; Tops', 'Shirts & Tops', 'HTML entities decoded'), ('Caf&eacute;', 'Café', 'HTML entities decoded'),
    ('G&uuml;rtel', 'Gürtel', 'HTML entities decoded'), ('a&#39;b', "a'b", 'HTML entities decoded'),
    ('dress\u200b', 'dress', 'invisible characters dropped'), ('\ufeffdress', 'dress', 'invisible characters dropped'),
    ('sum\u00admer', 'summer', 'invisible characters dropped'), ('\u202eabc\u202c', 'abc', 'invisible characters dropped'),
    ('dress\u200d', 'dress', 'invisible characters dropped'),
    *((o, '', 'words for an empty cell') for o in ('NA', 'N/A', 'n/a', 'NaN', 'nan', 'None', 'null', 'NULL', '<NA>', '#N/A'))])
def test_a_rule_is_named_counted_and_can_be_switched_off(cell, label, rule, tmp_path):
    labels, notes = one_column(tmp_path, [cell, 'other', cell])
    assert labels == [label, 'other', label]
    assert [o for o in notes if o.startswith(f'{rule} in 2 cells of x, such as ')]
    assert one_column(tmp_path, [cell, 'other'], clean='none', empty='none')[0] == [cell, 'other']

def test_other_words_for_an_empty_cell(tmp_path):
    assert one_column(tmp_path, ['-', 'tbd', 'NA', 'x'], empty=['-', 'tbd'])[0] == ['', '', 'NA', 'x']

@pytest.mark.parametrize('cell, label', [('cafe\u0301', 'café'), (' dress ', 'dress'), ('dress\u00a0', 'dress'), ('\tdress', 'dress')])
def test_only_the_composed_form_and_outer_space_are_ours(cell, label, tmp_path):
    assert one_column(tmp_path, [cell, 'other'])[0] == [label, 'other']

# ---- Spellings

def labels_of(counts, column='', steps=()):
    "Raw spelling → its label, for spellings that occur in so many train pictures each."
    head = f'{column}=' if column else ''
    tags = [[head + t] for t, n in counts.items() for _ in range(n)]
    df = pd.concat([pd.DataFrame({'image': 'x', 'tags': tags, 'split': o}) for o in ('train', 'valid', 'test')], ignore_index=True)
    groups = [column] if column else []
    given = recipe_steps(RunConfig('shop', 'run'), groups) + list(steps)
    space = fit_labels(df, recipe=fit_recipe(df, given, groups=groups), groups=groups)
    return {t: next(iter(space.encode([head + t])), None) for t in counts}, space

@pytest.mark.parametrize('column', ['', 'type'])
@pytest.mark.parametrize('counts, want', [
    (['T-Shirt', 't-shirt', 'T-SHIRT'], 'T-Shirt'), (['Dress', 'dress'], 'Dress'), (['tote bag', 'Tote  Bag', 'TOTE\u00a0BAG'], 'tote bag'),
    (['café', 'CAFÉ'], 'café'), (['İpek', 'i̇pek'], 'İpek'), (['ΣΑΣ', 'σας'], 'ΣΑΣ')])
def test_spellings_are_joined_and_the_most_frequent_is_shown(counts, want, column):
    found, _ = labels_of({t: len(counts) + 4 - i for i, t in enumerate(counts)}, column)
    assert found == dict.fromkeys(counts, want)

APART = [('10½', '101⁄2'), ('2²', '22'), ('Nike™', 'Niketm'), ('tops/tees', 'tops tees'), ('a-b', 'a b'), ('a_b', 'a-b'), ('Maße', 'Masse'),
         ('shorts', 'short'), ('glasses', 'glass'), ('tights', 'tight'), ('İpek', 'ipek'), ('㎏', 'kg'), ('①', '1'), ('C#', 'C')]

@pytest.mark.parametrize('a, b', APART)
def test_other_labels_stay_apart(a, b):
    found, _ = labels_of({a: 5, b: 5})
    assert found == {a: a, b: b}

def test_a_later_spelling_finds_its_label():
    _, space = labels_of({'T-Shirt': 5, 'tote bag': 5})
    assert space.encode(['t-SHIRT', 'Tote   Bag', 't shirt']) == ['T-Shirt', 'tote bag']

def test_a_tie_of_spellings_is_decided_the_same_way_each_time():
    assert labels_of({'b': 3, 'B': 3})[0] == labels_of({'B': 3, 'b': 3})[0]

@pytest.mark.parametrize('steps, counts, want', [
    ([dict(step='normalise')], {'T-Shirt': 5}, {'T-Shirt': 't shirt'}),
    ([dict(step='alias', to={'Top': ['TEES']})], {'Tees': 5, 'Top': 5}, {'Tees': 'Top', 'Top': 'Top'}),
    ([dict(step='exclude', tags=['SALE'])], {'Sale': 5, 'Top': 5}, {'Sale': None, 'Top': 'Top'}),
    ([dict(step='group', to={'wear': ['tees', 'tops']})], {'Tees': 5, 'Tops': 5}, {'Tees': 'wear', 'Tops': 'wear'})])
def test_a_recipe_comes_after_the_join_and_names_tags_in_any_case(steps, counts, want):
    assert labels_of(counts, '', steps)[0] == want
    assert labels_of(counts, 'type', [o | dict(columns=['type']) for o in steps])[0] == want

def test_a_step_that_meets_nothing_says_so():
    df = pd.DataFrame({'image': 'x', 'tags': [['type=Dress']]*6, 'split': ['train', 'valid', 'test']*2})
    fitted = fit_recipe(df, [*recipe_steps(RunConfig('shop', 'run'), ['type']), dict(step='exclude', tags=['sale'])], groups=['type'])
    assert fitted.unmet == ["step exclude of the recipe: 'sale' is in no train picture"]
    with pytest.raises(CatalogError, match="columns has 'kind', which is not a label column of the catalog: type"):
        fit_recipe(df, [dict(step='exclude', tags=['sale'], columns=['kind'])], groups=['type'])

@pytest.mark.parametrize('form, lemma, merged', [('shorts', 'short', False), ('glasses', 'glass', False), ('tights', 'tight', False),
                                                 ('dresses', 'dress', True), ('skirts', 'skirt', True)])
def test_a_doubtful_lemma_is_shown_and_not_made_without_wordnet(form, lemma, merged, monkeypatch):
    monkeypatch.setattr(recipe, 'load_wordnet', lambda: None)
    df = pd.DataFrame({'image': 'x', 'tags': [[form, 'a'], [lemma, 'b']]*6, 'split': 'train'})
    res = fit_recipe(df, [dict(step='lemmatise')])
    assert (res.provenance[form]['label'] == lemma) == merged and res.suspicious()['tag'].tolist() == ([] if merged else [form])

# ---- One plain table of any name

def table(root, text, name='export.csv', **options):
    (root/name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_catalog(root/name, **options)

def test_labels_free_tags_text_products_and_folds_come_from_one_table(tmp_path):
    catalog = table(tmp_path,
                    'sku,file,type,tags,title,split\na,1,Shirt,"new; sale",One,train\na,2,Shirt,new,One,train\nb,3,Hat,,Two,test\n',
                    label_columns=['type'])
    assert catalog.df['tags'].tolist() == [['type=Shirt', 'new', 'sale'], ['type=Shirt', 'new'], ['type=Hat']]
    assert catalog.df[['product', 'text', 'split']].values.tolist() == [['a', 'One', 'train'], ['a', 'One', 'train'], ['b', 'Two', 'test']]
    assert catalog.groups == ('type',) and catalog.layout == 'tags'

def test_a_machine_tag_is_a_free_tag_although_a_column_has_its_name(tmp_path):
    catalog = table(tmp_path, 'image,tags,color\n1,color=red;color=blue,red\n2,color=red,blue\n')
    assert catalog.groups == () and catalog.df['tags'][0] == ['color=red', 'color=blue']
    df = pd.concat([catalog.df.assign(split=o) for o in ('train', 'valid', 'test')], ignore_index=True)
    assert fit_labels(df, groups=catalog.groups).exclusive == {}

@pytest.mark.parametrize('columns, cells, options, product', [
    ('sku', ['a', 'a', 'b'], {}, ['a', 'a', 'b']), ('product_id', ['1', '1', '2'], {}, ['1', '1', '2']), ('Product ID', ['1', '1', '2'],
                                                                                                          {}, ['1', '1', '2']),
    ('handle', ['x', '', 'x'], {}, ['x', '', 'x']), ('item_group_id', ['g', 'g', ' g '], {}, ['g']*3), ('parent_sku', ['p', 'p', ''], {},
                                                                                                        ['p', 'p', '']),
    ('group', ['a', 'a', 'b'], {}, None), ('group', ['a', 'a', 'b'], dict(product='group'), ['a', 'a', 'b']), ('sku', ['a', 'a', 'b'],
                                                                                                               dict(product='none'), None),
    ('model', ['m', 'm', 'n'], dict(product='model'), ['m', 'm', 'n']), ('unit', ['a', 'a', 'b'], {}, None)])
def test_products(columns, cells, options, product, tmp_path):
    pd.DataFrame({'image': ['1', '2', '3'], 'tags': 'x', columns: cells}).to_csv(tmp_path/'t.csv', index=False)
    catalog = read_catalog(tmp_path, **options)
    assert (catalog.df['product'].tolist() if 'product' in catalog.df else None) == product
    assert any(o.startswith('product: column ') for o in catalog.notes) == (product is not None)
    assert source_view(catalog.df)[columns].tolist() == cells

def test_the_pictures_of_a_row_are_a_product(tmp_path):
    text = 'image,tags\n1.jpg; 2.jpg,x\n3.jpg,y\n'
    assert table(tmp_path, text).df['product'].tolist() == ['row 0', 'row 0', 'row 1']
    assert 'product' not in table(tmp_path, text, product='none').df

def test_the_coarsest_column_names_the_product(tmp_path):
    catalog = table(tmp_path, 'image,tags,sku,item_group_id\n1,x,a1,a\n2,x,a2,a\n')
    assert catalog.df['product'].tolist() == ['a', 'a']

def test_a_column_of_categories_is_no_column_of_products(tmp_path):
    catalog = table(tmp_path, 'image,tags,parent\n' + ''.join(f'{i},x,{"Shoes" if i % 2 else "Hats"}\n' for i in range(40)))
    assert 'product' not in catalog.df and any("column parent is not used for products, because 'Hats' has 20 pictures" in o
                                               for o in catalog.notes)

@pytest.mark.parametrize('text, what', [
    ('image,tags,title\n1,x,Red shoe\n2,x,Red shoe\n3,x,Hat\n', "2 pictures share their text with others, such as 'Red shoe'"),
    ('image,tags\nshoe_1.jpg,x\nshoe_2.jpg,x\nhat.jpg,x\n', "2 pictures share their name with others, such as 'shoe'"),
    ('image,tags\nshoe (1).jpg,x\nshoe (2).jpg,x\nhat.jpg,x\n', "2 pictures share their name with others, such as 'shoe'")])
def test_what_repeats_over_pictures_is_told(text, what, tmp_path):
    assert any(what in o for o in table(tmp_path, text).notes)
    assert not any('share their' in o for o in table(tmp_path, text, product='none').notes)

@pytest.mark.parametrize('cells, options, split', [
    (['train', 'val', 'Test'], {}, ['train', 'valid', 'test']), (['train', 'val', 'Test'], dict(split_column='none'), None), (['A', 'B',
                                                                                                                               'A'], {},
                                                                                                                              None)])
def test_folds(cells, options, split, tmp_path):
    pd.DataFrame({'image': ['1', '2', '3'], 'tags': 'x', 'split': cells}).to_csv(tmp_path/'t.csv', index=False)
    catalog = read_catalog(tmp_path, **options)
    assert (catalog.df['split'].tolist() if 'split' in catalog.df else None) == split
    assert source_view(catalog.df)['split'].tolist() == cells

def test_folds_of_another_column(tmp_path):
    assert table(tmp_path, 'image,tags,part\n1,x,train\n2,x,dev\n', split_column='part').df['split'].tolist() == ['train', 'valid']

@pytest.mark.parametrize('text, options, reason', [
    ('image,tags,split\n1,x,train\n1,y,test\n2,x,train\n', {}, 'its rows are in two folds: train and test'),
    ('image,tags,split\n1,x,\n2,x,train\n', {}, 'no fold in the column split'),
    ('image,type\n1,Shirt\n1,Hat\n2,Hat\n', dict(label_columns=['type']), 'its rows have two labels of type: Shirt and Hat'),
    ('image,type\n2,Hat\n2,Hat\n', dict(label_columns=['type']), 'the same picture as an earlier row'),
    ('image,type\n1,\n2,Hat\n', dict(label_columns=['type']), 'no tags'),
    ('image,type\n1,Shirt,Blue\n2,Hat\n', dict(label_columns=['type']), '3 cells under 2 columns'),
    ('image,type,colour\n1,Shirt\n2,Hat,Red\n', dict(label_columns=['type']), '2 cells under 3 columns'),
    ('image,tags\nhttps://shop.example/1.jpg,x\n2,x\n', {}, 'an address, not a file'),
    ('image,tags\n,x\n2,x\n', {}, 'the row has no picture'), ('image,tags\n/etc/passwd,x\n2,x\n', {}, 'leads outside'),
    ('image,tags\n..\\..\\1.jpg,x\n2,x\n', {}, 'leads outside')])
def test_a_row_that_cannot_be_used_has_a_reason(text, options, reason, tmp_path):
    catalog = table(tmp_path, text, **options)
    assert len(catalog.df) == 1 and set(catalog.rejected['reason'].map(lambda o: reason in o)) == {True}

@pytest.mark.parametrize('text, options, error', [
    ('image,type\n1,x\n', dict(label_columns=['Type']), "no column 'Type', did you mean 'type'? (given as label_columns=)"),
    ('image,tags\n1,x\n', dict(product='sku'), "no column 'sku' (given as product=); its columns are: image, tags"),
    ('image,tags\n1,x\n', dict(split_column='part'), "no column 'part' (given as split_column=)"),
    ('image,tags\n1,x\n', dict(image_column='file'), "no column 'file' (given as image_column=)"),
    ('image,tags\n1,x\n', dict(tags_column='words'), "no column 'words' (given as tags_column=)"),
    ('image,tags,split\n1,x,train\n2,x,rest\n', {}, "split 'rest' is unknown"), ('image,tags\n1,x\n', dict(clean=['html']),
                                                                                 "clean='html', expected some of entities, invisible"),
    ('image,tags\n1,caf\xe9\n'.encode('cp1252'), {}, "with encoding=cp1252 it reads '1,café'"), ('image,tags\n1,x\n', dict(encoding='ms'),
                                                                                                 "encoding='ms' is unknown"),
    ('image;tags,price\n1;x,9\n', {}, "as many ',' as ';'"), ('image,tags\n1,"x\n', {}, 'unexpected end'), ('image,tags,tags\n1,x,y\n',
                                                                                                            {}, 'duplicate column')])
def test_an_error_names_option_columns_and_way_out(text, options, error, tmp_path):
    with pytest.raises(CatalogError) as e: table(tmp_path, text, **dict(layout='tags') | options)
    assert error in str(e.value) and '\n' not in str(e.value)

def test_cp1252_when_it_is_named(tmp_path):
    assert table(tmp_path, 'image,tags\n1,café\n'.encode('cp1252'), encoding='cp1252').df['tags'].tolist() == [['café']]

def test_titles_with_commas_and_shifted_rows_of_styles(tmp_path):
    head = 'id,gender,masterCategory,subCategory,articleType,productDisplayName\n'
    good = '1,Women,Apparel,Topwear,Shirts,Blue, Long Shirt\n2,Men,Apparel,Topwear,Shirts,Shirt\n'
    shifted = '4,Women, Girls,Apparel,Topwear,Shirts,Shirt\n5,Apparel,Topwear,Shirts,Shirt\n'
    (tmp_path/'styles.csv').write_text(head + good + '3,"Women, Girls",Apparel,Topwear,Shirts,Shirt\n' + shifted)
    catalog = read_catalog(tmp_path)
    assert catalog.df['id'].tolist() == ['1', '2', '3'] and catalog.df['text'][0] == 'Blue, Long Shirt'
    assert catalog.rejected['row'].tolist() == [3, 4] and any('1 rows have unquoted commas in the last column' in o for o in catalog.notes)

# ---- Pictures that a table names

@pytest.mark.parametrize('there, named, found', [
    ('images/7.jpg', '7', 'images/7.jpg'), ('images/7.png', '7', 'images/7.png'), ('images/7.JPG', '7', 'images/7.JPG'), ('images/7.jpg',
                                                                                                                          '7.jpg',
                                                                                                                          'images/7.jpg'),
    ('images/7.jpg', 'images/7.jpg', 'images/7.jpg'), ('images/7.jpg', './images/7.jpg', 'images/7.jpg'), ('images/7.jpg',
                                                                                                           r'images\7.jpg', 'images/7.jpg'),
    ('photos/7.jpg', '7.jpg', 'photos/7.jpg'), ('7.jpg', '7', '7.jpg'), ('images/a/7.jpg', 'images/a/7.jpg', 'images/a/7.jpg'),
                                                 ('images/7.jpg', ' 7 ', 'images/7.jpg')])
def test_a_picture_is_found(there, named, found, tmp_path):
    (tmp_path/there).parent.mkdir(parents=True, exist_ok=True); (tmp_path/there).touch()
    pd.DataFrame({'image': [named], 'tags': ['x']}).to_csv(tmp_path/'t.csv', index=False)
    assert read_catalog(tmp_path).df['image'].tolist() == [str(tmp_path.resolve()/found)]

def pictures(root, *names):
    for i, o in enumerate(names):
        (root/o).parent.mkdir(parents=True, exist_ok=True); Image.new('RGB', (8, 8), (i*7 % 256, i*31 % 256, i)).save(root/o)
    return root

@pytest.mark.parametrize('named', ['1001.0', "'1001", '="1001"', '1,001', '1001.JPG'])
def test_a_missing_picture_under_a_similar_name_is_named(named, tmp_path):
    pd.DataFrame({'image': [named], 'tags': ['x']}).to_csv(pictures(tmp_path, 'images/1001.jpg')/'t.csv', index=False)
    with pytest.raises(CatalogError, match='1 of 1 missing pictures are there under another name, such as .*: images/1001.jpg'):
        prepare_catalog(RunConfig(str(tmp_path), 'run'))

def test_rounded_ids_are_named(tmp_path):
    (pictures(tmp_path, 'images/1001.jpg')/'t.csv').write_text('id,tags\n1.00E+03,x\n')
    with pytest.raises(CatalogError, match="ids that a spreadsheet has rounded, such as '1.00E\\+03.jpg': export ids as text"):
        prepare_catalog(RunConfig(str(tmp_path), 'run'))

# ---- Class folders

@pytest.mark.parametrize('files, tags', [
    (['a/1.jpg', 'b/2.jpg'], [['category=a'], ['category=b']]), (['train/a/1.jpg', 'Val/a/2.jpg'], [['category=a']]*2),
    (['nan/1.jpg', 'None/2.jpg'], [['category=None'], ['category=nan']]), (['x=y/1.jpg', 'a, b/2.jpg'], [['category=a, b'],
                                                                                                         ['category=x=y']]),
    (['women/dress/1.jpg', 'men/shirt/2.jpg'], [['level1=men', 'level2=shirt'], ['level1=women', 'level2=dress']]),
    (['F/A/G/1.jpg', 'V/C/2.jpg'], [['level1=F', 'level2=A', 'level3=G'], ['level1=V', 'level2=C']]),
    (['a/1.jpg', 'a/deep/2.jpg', 'b/3.jpg'], [['level1=a'], ['level1=a', 'level2=deep'], ['level1=b']]),
    (['a/1.jpg', 'a/@eaDir/2.jpg', '__MACOSX/a/3.jpg', '.hidden/4.jpg', 'b/5.jpg'], [['category=a'], ['category=b']]),
    ([unicodedata.normalize('NFD', 'café') + '/1.jpg', 'tea/2.jpg'], [['category=café'], ['category=tea']]),
    (['dress /1.jpg', 'tea\u200b/2.jpg'], [['category=dress'], ['category=tea']])])
def test_folders_are_labels(files, tags, tmp_path):
    assert read_catalog(pictures(tmp_path, *files)).df['tags'].tolist() == tags

def test_levels_have_parents_and_a_shorter_path_ends(tmp_path):
    files = [f'{fold}/{kind}/{i}.jpg' for fold in ('train', 'val', 'test') for kind in ('Fruit/Apple/Gala', 'Fruit/Apple/Fuji',
                                                                                        'Vegetables/Carrots') for i in range(3)]
    ready = prepare_catalog(RunConfig(str(pictures(tmp_path, *files)), 'run'))
    assert ready.space.lineage('Gala') == ['Fruit', 'Apple', 'Gala'] and ready.space.lineage('Carrots') == ['Vegetables', 'Carrots']
    assert ready.space.ends == ['Carrots'] and list(ready.space.exclusive) == ['level1', 'level2', 'level3']

def test_equal_names_in_two_folders_are_one_label_and_told(tmp_path):
    catalog = read_catalog(pictures(tmp_path, 'shoes/red/1.jpg', 'shirts/red/2.jpg', 'shirts/blue/3.jpg'))
    assert catalog.parents == {'level2=blue': 'level1=shirts'} and any('red in shirts and shoes' in o for o in catalog.notes)

def test_twins_in_case_are_one_class_in_both_directions(tmp_path):
    for a, b in (('Dress', 'dress'), ('dress', 'DRESS')):
        root = tmp_path/a
        files = [f'{fold}/{c}/{i}.jpg' for fold, c, n in (('train', a, 6), ('train', 'tea', 6), ('valid', b, 3), ('valid', 'tea', 3))
                 for i in range(n)]
        assert set(prepare_catalog(RunConfig(str(pictures(root, *files)), 'run')).space.vocab) == {a, 'tea'}

def test_folders_without_pictures_and_tables_are_told(tmp_path):
    root = pictures(tmp_path, 'train/a/1.jpg', 'train/b/2.jpg', 'val/a/3.jpg')
    (root/'descriptions').mkdir(); (root/'descriptions'/'a.txt').write_text('x')
    (root/'classes.csv').write_text('Class,Price\na,1\n'); (root/'list.ods').write_bytes(b'PK')
    notes = read_catalog(root).notes
    assert 'folders without a picture are no classes: descriptions/' in notes
    assert 'not read: classes.csv, list.ods; to read a table, give it instead of its folder' in notes

@pytest.mark.parametrize('files, error', [
    (['train/a/1.jpg', 'other/b/2.jpg'], 'contains both train/ and other/'), (['a/1.heic', 'b/2.heic'],
                                                                              "2 files, most frequent reason: suffix '.heic'")])
def test_folders_that_are_not_understood(files, error, tmp_path):
    for o in files: (tmp_path/o).parent.mkdir(parents=True, exist_ok=True); (tmp_path/o).touch()
    with pytest.raises(CatalogError, match=error): read_catalog(tmp_path)

def test_names_that_are_no_text_have_a_reason(tmp_path):
    root = pictures(tmp_path, 'a/1.png', 'b/2.png')
    for o in (b'a/caf\xe9.png', b'caf\xe9/3.png'):
        path = os.path.join(os.fsencode(root), o); os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as f: f.write((root/'a/1.png').read_bytes())
    catalog = read_catalog(root)
    assert len(catalog.df) == 2 and catalog.rejected['reason'].tolist() == ['its name, or that of its folder, is not valid text']*2

def test_folds_that_are_classes(tmp_path):
    root = pictures(tmp_path, 'train/1.jpg', 'bus/2.jpg')
    assert read_catalog(root, split_column='none').df['tags'].tolist() == [['category=bus'], ['category=train']]

def test_copies_with_another_class_are_told(tmp_path):
    root = pictures(tmp_path, *(f'{c}/{i}.png' for c in 'ab' for i in range(6)))
    for i in range(2): (root/'b'/f'copy{i}.png').write_bytes((root/'a'/f'{i}.png').read_bytes())
    notes = prepare_catalog(RunConfig(str(root), 'run')).catalog.notes
    assert any(o.startswith('4 pictures are copies of pictures with another label, such as ') for o in notes)

# ---- A table beside pictures

@pytest.mark.parametrize('text, missing', [
    ('Image Name,Kind\na/1.jpg,Shirt\n', "in its column 'Image Name'"), ('photo,Kind\na/1.jpg,Shirt\n', "in its column 'photo'"),
    ('Kind,where\nShirt,a/1.jpg\n', "with image_column='where'"), ('[{"where": "a/1.jpg", "kind": "Shirt"}]', "with image_column='where'")])
def test_a_table_that_names_pictures_is_no_reason_to_take_folders_for_classes(text, missing, tmp_path):
    root = pictures(tmp_path, 'a/1.jpg', 'b/2.jpg')
    (root/('t.json' if text[0] == '[' else 't.csv')).write_text(text)
    with pytest.raises(CatalogError) as e: find_layout(root)
    assert missing in str(e.value) and 'label_columns=' in str(e.value) and 'layout=folders' in str(e.value)
    assert len(read_catalog(root, 'folders').df) == 2

def test_columns_that_are_named_help_to_detect_a_table(tmp_path):
    root = pictures(tmp_path, 'a/1.jpg', 'b/2.jpg'); (root/'t.csv').write_text('where,kind\na/1.jpg,Shirt\n')
    for source in (root, root/'t.csv'):
        assert read_catalog(source, image_column='where', label_columns=['kind']).df['tags'].tolist() == [['kind=Shirt']]
        assert read_catalog(source, image_column='where', tags_column='kind').df['tags'].tolist() == [['Shirt']]

# ---- The command

@pytest.mark.parametrize('message, said', [
    ('min_count=4 leaves none', '--min-count 4 leaves none'), ('give it as delim=; or', 'give it as --delim; or'), ('(given as product=)',
                                                                                                                    '(given as --product)'),
    ('split_by needs test_from or test_values', '--split-by needs --test-from or --test-values'), ("where='size=3' is wrong",
                                                                                                   "--where 'size=3' is wrong"),
    ("layout='coco'", "--layout 'coco'"), ("the column 'min_count' is not", "the column 'min_count' is not"), ('`$.label_columns` is 3',
                                                                                                               '`$.label_columns` is 3'),
    ("catalog's root: size=3, bs=0", "catalog's root: --size 3, --bs 0"), ('resume=False', '--no-resume'), ('trust=True (--trust)',
                                                                                                            '--trust (--trust)'),
                                           ('nothing here',
                                                                                                               'nothing here'),
                                           ('x_min_count=3', 'x_min_count=3')])
def test_an_error_of_the_command_names_its_flags(message, said): assert as_flags(message) == said

def test_check_tells_all_that_was_rejected_and_noted(tmp_path, capsys):
    root = pictures(tmp_path/'shop', *(f'images/{i}.png' for i in range(12)))
    rows = ''.join(f'{i},{"Shirt" if i % 2 else "Hat &amp; Cap"}\n' for i in range(12))
    (root/'t.csv').write_text('id,type\n' + rows + '99,Hat\n5,Hat &amp; Cap\n')
    assert main(['check', str(root), '--label-columns', 'type', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['rejected_rows'] == [dict(image=str((root/'images').resolve()/'5.png'), row=5,
                                           reason='its rows have two labels of type: Shirt and Hat & Cap'),
                                      dict(image=str((root/'images').resolve()/'5.png'), row=13,
                                           reason='its rows have two labels of type: Shirt and Hat & Cap'),
                                      dict(image=str((root/'images').resolve()/'99.jpg'), row=12, reason='missing: no such file')]
    assert any('HTML entities decoded in 7 cells of type' in o for o in facts['notes']) and set(facts['labels']) == {'Shirt', 'Hat & Cap'}
    assert main(['check', str(root)]) == 2 and '--label-columns or --tags-column' in capsys.readouterr().err

# ---- What is counted and what is asked for

def test_a_rejected_row_is_no_further_row(tmp_path):
    (tmp_path/'tags.csv').write_text('image,tags\na.jpg,red\na.jpg,blue\nb.jpg,\n,red\n')
    catalog = read_catalog(tmp_path)
    assert catalog.df['tags'].tolist() == [['red', 'blue']] and len(catalog.rejected) == 2
    assert '1 further rows of pictures are joined with their first row' in catalog.notes

def test_the_columns_of_the_fashion_products_can_be_named_for_another_table(tmp_path):
    "A table beside class folders: only the named columns say that it is the catalog."
    for o, colour in {'x/1.png': 'red', 'y/2.png': 'blue'}.items():
        (tmp_path/o).parent.mkdir(); Image.new('RGB', (20, 20), colour).save(tmp_path/o)
    (tmp_path/'shop.csv').write_text('image,masterCategory,subCategory,articleType\nx/1.png,Apparel,Topwear,Tshirts\n'
                                     'y/2.png,Apparel,Topwear,Shirts\n')
    columns = ('masterCategory', 'subCategory', 'articleType')
    catalog = read_audited(RunConfig(str(tmp_path), '', label_columns=columns))
    assert catalog.layout == 'tags' and catalog.groups == columns and len(catalog.df) == 2
