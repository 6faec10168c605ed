"Bad tables get a reason, odd ones are read right: a fault ends as a rejected row, as one error before training, or as the tags it meant."
import json

import pytest

from catalog_tagger.core.files import CatalogError, read_json
from catalog_tagger.core.table import rejected_table
from catalog_tagger.catalog.read import read_catalog

BOM = '\ufeff'
good = 'a.jpg,red;big\n'                       # A row that must survive its neighbours
garments = 'ImageId,EncodedPixels,Height,Width,ClassId,AttributesIds\n'
names = dict(categories=[dict(id=6, name='pants', supercategory='lowerbody')],
             attributes=[dict(id=36, name='jeans', supercategory='nickname')])

def tags(rows, head='image,tags\n'): return {'tags.csv': head + rows}
def posts(rows): return {'posts.json': rows if isinstance(rows, str) else json.dumps(rows)}
def post(tags, image='a.jpg', **kw): return dict(image=image, tags=tags, **kw)
def imat(rows, described=names, head=garments): return {'train.csv': head + rows, 'label_descriptions.json': json.dumps(described)}
def dress(**kw):
    return {
        'feidegger.json': json.dumps([dict(url='http://x/a.jpg', descriptions=['Ein Kleid'], split=0),
                                      dict(url='http://x/b.jpg', descriptions=['Rock'], split=1) | kw])}

# Files → what they mean, picture by picture
read_right = {
    'delimiter inside quotes': (tags('a.jpg,"""red;big"";blue"\nb.jpg,red;big'), [['red;big', 'blue'], ['red', 'big']]),
    'BOM':                     (tags(good, BOM + 'image,tags\n'), [['red', 'big']]),
    'BOM, semicolons, CRLF':   (tags('a.jpg;"red,big"\r\n', BOM + 'image;tags\r\n'), [['red', 'big']]),
    'empty tags among others': (tags('a.jpg, red;;  ;big;red'), [['red', 'big']]),
    'case twins':              (tags('a.jpg,red;Red'), [['red', 'Red']]),
    'Unicode twins':           (tags('a.jpg,cafe\u0301;café'), [['café']]),
    'duplicate ids':           (tags('a.jpg,red;big\nb.jpg,red\na.jpg,new;big'), [['red', 'big', 'new'], ['red']]),
    'one id, two spellings':   (tags('12,red\n12.jpg,big', 'id,tags\n'), [['red', 'big']]),
    'blank lines':             (tags('\n' + good + '\n\n'), [['red', 'big']]),
    'JSON list in the cell':   (tags('a.jpg,"[""red"", ""big""]"'), [['red', 'big']]),
    'Python list in the cell': (tags('''a.jpg,"['red', 'big']"'''), [['red', 'big']]),
    'numbers as tags':         (posts([post([1, 'red', None])]), [['1', 'red']]),
    'one number for tags':     (posts([post(7)]), [['7']]),
    'numbers as written':      (posts('[{"image": "a.jpg", "tags": [1E5, 1.0, 900719925474099301, true]}]'), [['1E5', '1.0',
                                                                                                               '900719925474099301',
                                                                                                               'true']]),
    'a list of pictures':      (posts([post(['x'], ['a.jpg', 'b.jpg'])]), [['x'], ['x']]),
    'pictures in one cell':    (tags('a.jpg; b.jpg,red'), [['red'], ['red']]),
    'Python tuple':            (tags('''a.jpg,"('red', 'big')"'''), [['red', 'big']]),
    'entities':                (tags('a.jpg,Shirts &amp; Tops;big'), [['Shirts & Tops', 'big']]),
    'invisible':               (tags('a.jpg,dress\u200b;\ufeffbig'), [['dress', 'big']]),
    'words for nothing':       (tags('a.jpg,red;NA;None'), [['red']]),
    'JSON lines':              ({'posts.jsonl': '\ufeff{"image": "a.jpg", "tags": ["x"]}\n{"image": "b.jpg", "tags": "y;z"}\n'}, [['x'],
                                                                                                                                  ['y',
                                                                                                                                   'z']]),
    'line break in quotes':    (tags('a.jpg,red,"two\nlines"\n', 'image,tags,text\n'), [['red']]),
    'sep= of Excel':           (tags('a.jpg;red,big\n', 'sep=;\nimage;tags\n'), [['red', 'big']]),
    'bars':                    (tags('a.jpg|red,big\n', 'image|tags\n'), [['red', 'big']]),
    'header with spaces':      (tags('a.jpg,red\n', ' Image Name , Tags \n'), [['red']]),
    'index column':            (tags('0,a.jpg,red\n1,b.jpg,big\n', ',image,tags\n'), [['red'], ['big']]),
    'rows of commas':          (tags('a.jpg,red\n,\n,\n'), [['red']]),
    'attributes by suffix':    (imat('x,1 1,2,2,6_36,'), [['pants', 'lowerbody', 'jeans', 'nickname']]),
    'no mask':                 (imat('x,,2,2,6,'), [['pants', 'lowerbody']]),
    'first post untagged':     (posts([dict(image='b.jpg'), post('red;big')]), [['red', 'big']]),
}

# Files → rejected rows and their reasons
rejected_rows = {
    'NaN tags':            (tags(good + 'b.jpg,nan'), {1: 'no tags'}),
    'NaN in JSON':         (posts('[{"image": "a.jpg", "tags": NaN}, {"image": "b.jpg", "tags": ["x"]}]'), {0: 'no tags'}),
    'empty tags':          (tags(good + 'b.jpg,'), {1: 'no tags'}),
    'only delimiters':     (tags(good + 'b.jpg, ; ;'), {1: 'no tags'}),
    'too short':           (tags(good + 'b.jpg'), {1: '1 cells under 2 columns'}),
    'too long':            (tags(good + 'b.jpg,red,big'), {1: '3 cells under 2 columns; a cell that contains commas must be quoted'}),
    'half a list':         (tags(good + '''b.jpg,"['red'"'''), {1: 'looks like a list'}),
    'list without commas': (tags(good + '''b.jpg,"['red' 'big']"'''), {1: 'looks like a list'}),
    'code in the cell':    (tags(good + '''b.jpg,"[__import__('os').system('false')]"'''), {1: 'looks like a list'}),
    'object in the cell':  (tags(good + '''b.jpg,"{""red"": 1}"'''), {1: 'looks like a list'}),
    'deep list':           (tags(good + 'b.jpg,' + '['*50_000), {1: 'looks like a list'}),
    'nested tags':         (posts([post(['x']), post({'red': 1}, 'b.jpg')]), {1: 'neither text nor a list'}),
    'no picture named':    (tags(good + ',red'), {1: 'has no picture'}),
    'picture is an object': (posts([post(['x']), post(['x'], {'path': 'b.jpg'})]), {1: 'has no picture'}),
    'dots':                (tags(good + '../b.jpg,red'), {1: 'leads outside'}),
    'absolute':            (tags(good + '/etc/hostname.jpg,red'), {1: 'leads outside'}),
    'NUL in a path':       (posts([post(['x']), post(['x'], 'b\0.jpg')]), {1: 'not a usable path'}),
    'one-hot 2':           (tags('a,1\nb,2', 'image,tag_red\n'), {1: "tag_red is '2', expected 0 or 1"}),
    'one-hot empty':       (tags('a,1\nb,', 'image,tag_red\n'), {1: "tag_red is '', expected 0 or 1"}),
    'one-hot all 0':       (tags('a,1\nb,0', 'image,tag_red\n'), {1: 'no tags'}),
    'RLE odd length':      (imat('x,1 1,2,2,6,\ny,1 1 3,2,2,6,'), {1: 'odd number of values'}),
    'RLE beyond':          (imat('x,1 1,2,2,6,\ny,4 2,2,2,6,'), {1: 'beyond the picture of 2x2'}),
    'RLE of words':        (imat('x,1 1,2,2,6,\ny,one two,2,2,6,'), {1: 'is not a number'}),
    'RLE of huge numbers': (imat('x,1 1,2,2,6,\ny,1 ' + '9'*5000 + ',2,2,6,'), {1: 'is not a number'}),
    'no height':           (imat('x,1 1,2,2,6,\ny,1 1,,2,6,'), {1: 'is not a number'}),
    'unknown ClassId':     (imat('x,1 1,2,2,6,\ny,1 1,2,2,46,'), {1: "categories has no id '46'"}),
    'unknown attribute':   (imat('x,1 1,2,2,6,\ny,1 1,2,2,6,5'), {1: "attributes has no id '5'"}),
    'attributes unquoted': (imat('x,1 1,2,2,6,\ny,1 1,2,2,6,36,36'), {1: 'AttributesIds must be quoted'}),
    'one bad garment':     (imat('x,1 1,2,2,6,\ny,1 1,2,2,6,\ny,1,2,2,6,'), {1: 'another row of this picture', 2: 'odd number'}),
    'ImageId with dots':   (imat('x,1 1,2,2,6,\n../../y,1 1,2,2,6,'), {1: 'leads outside'}),
    'split 10':            (dress(split=10), {1: 'split must be 0 to 9'}),
    'text, not texts':     (dress(descriptions='Rock'), {1: 'descriptions must be a list'}),
    'number, not texts':   (dress(descriptions=7), {1: "descriptions must be a list of texts, not '7'"}),
    'lists in a list':     (dress(descriptions=[['Rock']]), {1: "descriptions must be a list of texts, not of ['Rock']"}),
    'NaN description':     (dress(descriptions=[None]), {1: 'the description is empty'}),
    'no descriptions':     (dress(descriptions=[]), {1: 'the description is empty'}),
    'empty markup':        (dress(descriptions=['<p>&nbsp;</p>', ' ']), {1: 'the description is empty'}),
    'no address':          (dress(url=None), {1: 'has no picture'}),
    'same address':        (dress(url='http://y/a.jpg'), {1: 'the same picture as an earlier row'}),
    'styles without id':   ({'styles.csv': 'id,masterCategory,subCategory,articleType\n1,A,B,C\n,A,B,C'}, {1: 'has no picture'}),
}

# Files → the one error
errors = {
    'wrong encoding':       (tags('a.jpg,caf\xe9'.encode('latin-1').decode('latin-1')), 'latin-1', "can't decode"),
    'NUL bytes':            (tags(good + 'b.jpg,red\0'), None, 'line 3 contains a NUL byte'),
    'empty file':           (tags('', ''), None, 'tags.csv has no rows'),
    'header only':          (tags(''), None, 'has no rows'),
    'header only, garments': (imat(''), None, 'has no rows'),
    'header only, styles':  ({'styles.csv': 'id,articleType\n'}, None, 'has no rows'),
    'wrong header':         (tags(good, 'picture,words\n'), None, 'Found tags.csv (picture, words)'),
    'column twice':         (tags('a,red,big\n', 'image,tags,tags\n'), None, 'duplicate column'),
    'open quote':           (tags('a.jpg,"red\nb.jpg,big\n'), None, 'unexpected end of data'),
    '10 MB cell':           (tags(good + 'b.jpg,' + 'x'*10_000_000), None, 'field larger than field limit'),
    '20 MB mask':           (imat('x,' + '1 1 '*5_000_000 + ',2,2,6,'), None, 'field larger than field limit'),
    'two delimiters':       (tags(good + 'b.jpg,"red,big"\n'), None, 'give it as delim='),
    'unknown split':        (tags('a.jpg,red,train\nb.jpg,red,holdout\n', 'image,tags,split\n'), None, "split 'holdout' is unknown"),
    'an object per table':  (posts({'data': [post(['x'])]}), None, 'must be a list of objects, one per picture, not one object with data'),
    'a map of pictures':    (posts({'a.jpg': ['x'], 'b.jpg': ['y']}), None, 'not one object with a.jpg, b.jpg'),
    'misplaced quote':      (tags('a.jpg,red\nb.jpg,"5 inch" heel\n'), None, "line 3: ',' expected after"),
    'nothing but tag_':     (tags('a,1\n', 'image,tag_\n'), None, 'needs columns tag_<tag>'),
    'no ClassId':           (imat('x,1 1,2,2\n', head='ImageId,EncodedPixels,Height,Width\n'), None, 'no known layout'),
    'descriptions a list':  (imat('x,1 1,2,2,6,', []), None, 'must contain the lists categories and attributes'),
    'descriptions half':    (imat('x,1 1,2,2,6,', dict(categories=[dict(id=1)], attributes=[])), None, 'must contain the lists'),
    'name twice':           (imat('x,1 1,2,2,6,', names | dict(attributes=names['categories'])), None, 'is empty or a duplicate'),
    'JSON of one object':   (posts({'image': 'a.jpg', 'tags': ['x']}), None, 'no known layout'),
    'JSON of numbers':      (posts([1, 2]), None, 'no known layout'),
    'JSON mixed':           (posts([post(['x']), 3]), None, 'must be a list of objects'),
    'JSON without end':     (posts('[{"image": "a.jpg"'), None, 'not readable JSON'),
    'JSON deep':            (posts('['*100_000), None, 'not readable JSON'),
    'two tables':           (tags(good) | posts([post(['x'])]), None, 'may be tags or tags'),
    'two kinds of columns': (tags('a,x,1\n', 'image,tags,tag_red\n'), None, 'may be onehot or tags'),
    'nothing at all':       ({}, None, 'Found nothing'),
}

def write(root, files, encoding=None):
    for name, o in files.items(): (root/name).write_bytes(o.encode(encoding or 'utf-8'))
    return root

@pytest.mark.parametrize('name', read_right)
def test_read_right(name, tmp_path):
    files, expected = read_right[name]
    df = read_catalog(write(tmp_path, files)).df
    assert df['tags'].tolist() == expected

@pytest.mark.parametrize('name', rejected_rows)
def test_rejected_with_row_and_reason(name, tmp_path):
    files, expected = rejected_rows[name]
    catalog = read_catalog(write(tmp_path, files))
    df, rejected = catalog.df, catalog.rejected
    assert rejected['row'].tolist() == list(expected) and list(rejected) == list(rejected_table())
    assert all(why in o for why, o in zip(expected.values(), rejected['reason'])), rejected['reason'].tolist()
    assert len(df) == 1, 'the good row stays'

@pytest.mark.parametrize('name', errors)
def test_one_error(name, tmp_path):
    files, encoding, why = errors[name]
    with pytest.raises(CatalogError) as e: read_catalog(write(tmp_path, files, encoding))
    assert why in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 1500

@pytest.mark.parametrize('id, file',
                         [('00012', '00012.jpg'), ('12.jpg', '12.jpg'), ('12.PNG', '12.PNG'), (' 12 ', '12.jpg'), ('1e5', '1e5.jpg')])
def test_ids_are_not_numbers(id, file, tmp_path):
    (tmp_path/'images').mkdir()
    df = read_catalog(write(tmp_path, tags(f'{id},red;big\n', 'id,tags\n'))).df
    assert df['image'][0] == str(tmp_path.resolve()/'images'/file)

@pytest.mark.parametrize('what', ['images', 'tags.csv'])
def test_links_out_of_the_root(what, tmp_path):
    root, out = tmp_path/'root', tmp_path/'out'
    for o in (root, out): o.mkdir()
    (out/'images').mkdir(); write(out, tags('1,red;big\n', 'id,tags\n'))
    write(root, tags('1,red;big\n', 'id,tags\n'))
    (root/'tags.csv').unlink() if what == 'tags.csv' else None
    (root/what).symlink_to(out/what)
    if what == 'images': assert 'leads outside' in read_catalog(root).rejected['reason'][0]
    else:
        with pytest.raises(CatalogError, match='no known layout'): read_catalog(root)
        with pytest.raises(CatalogError, match='leads outside'): read_catalog(root, 'tags', table='tags.csv')
