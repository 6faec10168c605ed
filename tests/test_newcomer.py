"What the command says to someone who uses it for the first time, on files that are nearly right."
import json, re, shutil
from dataclasses import fields

import pandas as pd, pytest

from catalog_tagger.apps.cli import COMMANDS, as_flags, main
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.runs.tag import tag_run
from catalog_tagger.serve.coverage import coverage_curve, least_pictures
from catalog_tagger.testing.demo import demo_folders, demo_shop, demo_tags
from catalog_tagger.testing.tiny import tiny_scores, tiny_space

SMALL = ['--size', '32', '--freeze-epochs', '1', '--epochs', '0']

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a shop and a run on it."
    p = tmp_path_factory.mktemp('place'); demo_shop(p/'shop', n=40, size=32)
    assert main(['train', str(p/'shop'), '--out', str(p/'run'), '--label-columns', 'type', 'colour', *SMALL]) == 0
    return p

@pytest.fixture(scope='module')
def tags(tmp_path_factory):
    "The folder of a catalog, and its table with the columns `file`, `type` and `colour` instead of `id`."
    root = demo_tags(tmp_path_factory.mktemp('tags')/'shop', n=60, size=32); df = pd.read_csv(root/'tags.csv', dtype=str)
    parts = df['tags'].str.split(';')
    return root, df.assign(file=df['id'] + '.jpg', type=parts.str[0], colour=parts.str[1]).drop(columns='id')

def shop(tags, to, text=None, name='table.csv'):
    "The pictures of `tags` beside a table."
    (to/'images').mkdir(parents=True)
    for o in (tags[0]/'images').iterdir(): shutil.copy(o, to/'images')
    if text is not None: (to/name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return to

def says(capsys, *argv):
    "Exit code, and what is printed, on one line."
    capsys.readouterr(); code = main([*map(str, argv)]); o = capsys.readouterr()
    return code, o.out + o.err

# -- tables that cannot be used

def new_table(place, to, change, **kw):
    "A shop of new products, its table changed."
    root = demo_shop(to, n=8, size=32, seed=5); f = root/'products.csv'
    change(pd.read_csv(f, dtype=str)).to_csv(f, index=False, **kw)
    return root

def test_a_table_that_tag_cannot_read_is_an_error(place, tmp_path, capsys):
    root = new_table(place, tmp_path/'a', lambda df: df.assign(title=df['title'] + ' Größe'), encoding='cp1252')
    command = ['tag', place/'run', root, '--out', tmp_path/'t.csv', '--per', 'product', '--product', 'sku']
    code, said = says(capsys, *command)
    assert code == 2 and '--encoding cp1252' in said and not (tmp_path/'t.csv').exists()
    assert says(capsys, *command, '--encoding', 'cp1252')[0] == 0
    assert pd.read_csv(tmp_path/'t.csv')['product'].nunique() == 8

def test_a_column_of_pictures_with_another_name_is_an_error(place, tmp_path, capsys):
    root = new_table(place, tmp_path/'a', lambda df: df.rename(columns=dict(image='Bild')))
    command = ['tag', place/'run', root, '--out', tmp_path/'t.csv', '--per', 'product']
    code, said = says(capsys, *command)
    assert code == 2 and "give it as --image-column 'Bild'" in said
    assert says(capsys, *command, '--image-column', 'Bild')[0] == 0 and pd.read_csv(tmp_path/'t.csv')['product'].nunique() == 8
    code, said = says(capsys, 'index', 'efficientnet_lite0', root, '--out', tmp_path/'i')
    assert code == 2 and "give it as --image-column 'Bild'" in said

@pytest.mark.parametrize('argv, said', [
    (['--product', 'sku'], '--product sku is for the table of --per product'),
    (['--encoding', 'cp1252'], '--encoding cp1252 is for a table, and none is read'),
    (['--image-column', 'image'], '--image-column image is for a table, and none is read'),
    (['--per', 'product', '--product', 'sku'], '--product sku is for a table, and none is read')])
def test_an_option_of_tag_without_effect_is_an_error(place, tmp_path, capsys, argv, said):
    code, text = says(capsys, 'tag', place/'run', place/'shop'/'images', '--out', tmp_path/'t.csv', *argv)
    assert code == 2 and said in text and not (tmp_path/'t.csv').exists()

def test_other_options_without_effect(place, tmp_path, capsys):
    assert '--source is for --int8' in says(capsys, 'export', place/'run', '--out', tmp_path/'m.onnx', '--source', place/'shop')[1]
    folds = demo_folders(tmp_path/'folds', n=60, size=16)
    code, said = says(capsys, 'check', folds, '--test-fraction', '.3')
    assert code == 2 and '--test-fraction 0.3 has no effect, because the source has the fold valid; leave it out' in said
    code, said = says(capsys, 'check', place/'shop', '--label-columns', 'type', '--tags-column', 'none', '--delim', ';')
    assert code == 2 and "--delim ';' is for a column of free tags" in said
    code, said = says(capsys, 'check', place/'shop', '--split-by', 'type', '--test-values', 'Tshirts', '--test-fraction', '.3')
    assert code == 2 and '--split-by type selects test' in said

# -- resuming what has finished

@pytest.mark.parametrize('source, more, said', [
    ('shop', [], 'is finished, with the same settings and the same catalog; nothing to resume'),
    ('shop', ['--num-workers', '0'], 'nothing to resume'),
    ('shop', ['--seed', '7'], '--seed 7 was 42; without --resume it is replaced'),
    ('shop', ['--tta', '1'], '--tta 1 was 2'),
    ('copy', [], '--source '), ('changed', [], 'their folds or their labels have changed')])
def test_a_finished_run_is_not_trained_again(place, capsys, source, more, said):
    before = {o.name: o.stat().st_mtime_ns for o in (place/'run').iterdir() if o.suffix != '.png'}
    if source == 'copy' and not (place/'copy').exists(): shutil.copytree(place/'shop', place/'copy')
    table = place/'shop'/'products.csv'; old = table.read_text()
    if source == 'changed': table.write_text(old.replace(',Tshirts,', ',Shirts,', 1))
    try:
        code, text = says(capsys, 'train', place/('copy' if source == 'copy' else 'shop'), '--out', place/'run',
                          '--label-columns', 'type', 'colour', *SMALL, '--resume', *more)
    finally: table.write_text(old)
    assert said in ' '.join(text.split()) and code == (5 if 'nothing to resume' in said else 2) and 'epochs of' not in text
    assert {o.name: o.stat().st_mtime_ns for o in (place/'run').iterdir() if o.suffix != '.png'} == before

# -- what is missing is named

@pytest.mark.parametrize('argv, said', [
    (['--label-columns', 'type', 'colour'], "none of the usual names: give it as --image-column 'Bild'"),
    (['--label-columns', 'typ', 'colour'], "no column 'typ', did you mean 'type'? (given as --label-columns)"),
    (['--label-columns', 'type', '--image-column', 'bidl'], "no column 'bidl', did you mean 'Bild'? (given as --image-column)"),
    (['--tags-column', 'colours', '--image-column', 'Bild'], "no column 'colours', did you mean 'colour'? (given as --tags-column)"),
    (['--image-column', 'Bild'], 'which of its columns are labels is not known')])
def test_what_is_missing_is_named(tags, tmp_path, capsys, argv, said):
    root = shop(tags, tmp_path/'s', tags[1].rename(columns=dict(file='Bild')).drop(columns='tags').to_csv(index=False))
    code, text = says(capsys, 'check', root, *argv)
    assert code == 2 and said in text and text.count('\n') == 1
    assert says(capsys, 'check', root, '--label-columns', 'type', '--image-column', 'Bild')[0] == 0

def test_notes_on_pictures_and_columns_that_are_not_used(tags, tmp_path, capsys):
    df = tags[1][:50].assign(back='9999.jpg', price=[str(i) for i in range(50)])
    root = shop(tags, tmp_path/'s', df.to_csv(index=False)); shutil.copy(root/'images'/'1001.jpg', root/'images'/'9999.jpg')
    _, text = says(capsys, 'check', root, '--json'); notes = json.loads(text)['notes']
    names = sorted({o.name for o in (root/'images').iterdir()} - set(df['file']))
    assert f'{len(names)} pictures in the folder of the table have no row in it and are not used, such as images/{names[0]}' in notes
    assert any(o.startswith('further columns of pictures are not used: back, such as 9999.jpg') for o in notes)
    assert f'columns that may hold labels and are not used: type ({df.type.nunique()} labels), colour ({df.colour.nunique()} labels); ' \
           'to use them: --label-columns type colour' in notes
    _, text = says(capsys, 'check', root, '--json', '--label-columns', 'type', '--where', "colour != ''")
    assert not [o for o in json.loads(text)['notes'] if 'may hold labels' in o or 'have no row' in o]

# -- files that are no CSV, or nearly one

def test_a_text_file_with_columns_is_a_table(tags, tmp_path):
    df = tags[1].assign(tags=tags[1]['tags'].str.replace(';', '|'))
    for sep in '\t;':
        root = shop(tags, tmp_path/f's{ord(sep)}', df.to_csv(index=False, sep=sep), 'list.txt')
        assert read_catalog(root).layout == 'tags' and len(read_catalog(root).df) == 60
    (root/'list.txt').write_text('Pictures of our shop.\nTaken in 2020, by us.\n')     # no table
    assert read_catalog(root).layout == 'folders'

@pytest.mark.parametrize('name', ['table.ods', 'table.xls'])
def test_a_spreadsheet_is_never_passed_over(tags, tmp_path, name):
    root = shop(tags, tmp_path/'s', b'PK', name)
    with pytest.raises(CatalogError, match=f'{name} cannot be read: save it as a CSV in UTF-8.*layout=folders'): read_catalog(root)
    assert read_catalog(root, 'folders').layout == 'folders'

def broken(tags, kind):
    lines = tags[1].to_csv(index=False).splitlines(); objects = [json.dumps(o) for o in tags[1].to_dict('records')]
    if kind == 'title': return '\n'.join(['My shop,,,', '', *lines])
    if kind == 'title;': return '\n'.join(['My shop', *tags[1].assign(tags='x').to_csv(index=False, sep=';').splitlines()])
    if kind == 'quote': return '\n'.join([*lines[:10], '"' + lines[10], *lines[11:]])
    return '\n'.join([*objects[:20], objects[20][:-1], *objects[21:]])

@pytest.mark.parametrize('kind, name, said', [
    ('title', 'table.csv', "its first line, 'My shop', is no header: line 3 looks like one; remove the lines above it"),
    ('title;', 'table.csv', "its first line, 'My shop', is no header: line 2 looks like one; remove the lines above it"),
    ('quote', 'table.csv', 'a quote is opened in the row of line 11 and not closed'),
    ('json', 'table.jsonl', 'table.jsonl is not readable JSON: line 21, column ')])
def test_a_broken_table_names_the_line(tags, tmp_path, capsys, kind, name, said):
    code, text = says(capsys, 'check', shop(tags, tmp_path/'s', broken(tags, kind), name))
    assert code == 2 and said in text and text.count('\n') == 1

def test_pictures_alone_say_what_is_needed(tags, tmp_path, capsys):
    root = shop(tags, tmp_path/'s')
    code, text = says(capsys, 'check', root/'images')
    assert code == 2 and 'a table beside them that names the pictures' in text and 'or a folder for each class' in text
    check, train = says(capsys, 'check', root), says(capsys, 'train', root, '--out', tmp_path/'r')
    assert check[0] == train[0] == 2 and check[1].splitlines()[-1] == train[1].splitlines()[-1]
    assert "'images' is the only label: there is nothing to learn" in check[1]

def test_another_folder_is_called_by_what_it_holds(place, tmp_path, capsys):
    code, text = says(capsys, 'index', 'efficientnet_lite0', place/'shop', '--out', place/'run')
    assert code == 2 and 'run is the folder of a run, and something else would be written; give another folder with --out' in text
    (tmp_path/'t.csv').mkdir()
    code, text = says(capsys, 'tag', place/'run', place/'shop', '--out', tmp_path/'t.csv')
    assert code == 2 and 't.csv\' is a folder; give a file, such as' in text

# -- evaluating, counting, stopping

def test_evaluate_counts_the_reasons(place, tmp_path, capsys):
    shutil.copytree(place/'shop', tmp_path/'other'); f = tmp_path/'other'/'products.csv'
    pd.read_csv(f, dtype=str).assign(type='Lamp', colour='Oak', tags='').to_csv(f, index=False)
    for o in (tmp_path/'other'/'images').iterdir(): o.write_bytes(o.read_bytes() + b'\0')     # other files than those of train
    n = len(pd.read_csv(f)); code, text = says(capsys, 'evaluate', place/'run', tmp_path/'other')
    assert code == 2 and f'{n} rejected ({n} x no label left; such as ' in text and 'no label left of type=Lamp, colour=Oak' in text
    table = pd.read_csv(place/'shop'/'products.csv', dtype=str).assign(title='Größe').rename(columns=dict(image='Bild'))
    table.to_csv(f, index=False, encoding='cp1252'); command = ['evaluate', place/'run', tmp_path/'other']
    assert '--encoding cp1252' in says(capsys, *command)[1]
    assert says(capsys, *command, '--encoding', 'cp1252', '--image-column', 'Bild')[0] == 0
    table.drop(columns='type').to_csv(f, index=False)
    assert f'cannot be read with the settings of {place/"run"}' in says(capsys, 'evaluate', place/'run', tmp_path/'other')[1]

def test_products_count_pictures_and_joined_rows_are_not_rejected_too(tags, tmp_path):
    df = tags[1]; two = [f'{a};{b}' for a, b in zip(df['file'][:30], df['file'][30:])]
    root = shop(tags, tmp_path/'s', df[:30].assign(file=two, sku=[f'S{i}' for i in range(30)]).to_csv(index=False))
    assert 'product: column sku, 30 products with 2 to 2 pictures' in read_catalog(root).notes
    again = pd.concat([df, df[:2], df[2:3].assign(type='Lamp')])      # two rows again, and one that contradicts
    (root/'table.csv').write_text(again.to_csv(index=False)); catalog = read_catalog(root, label_columns=['type'], tags_column='none')
    assert len(catalog.df) == 59 and len(catalog.rejected) == 4      # the two repeats, and both rows of the contradiction
    assert not [o for o in catalog.notes if 'are joined' in o]

def test_a_level_counts_the_folders_with_pictures(tmp_path):
    for o in ('A/red/1.jpg', 'A/blue/2.jpg', 'B/red/3.jpg', 'C/green/notes.txt'):
        (tmp_path/'s'/o).parent.mkdir(parents=True, exist_ok=True); (tmp_path/'s'/o).write_bytes(b'x')
    assert '2 levels of folders: level1 (2 labels), level2 (2 labels)' in read_catalog(tmp_path/'s').notes

def test_an_interrupted_tag_says_what_is_kept(place, tmp_path, monkeypatch):
    from catalog_tagger.serve import many
    calls, real = [], many.open_pictures
    def stop(*args):
        calls.append(1)
        if len(calls) > 2: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(many, 'open_pictures', stop); out = tmp_path/'t.csv'
    said = r'stopped; .*t.csv is not written, and 16 of \d+ results are kept in .*t.csv.parts: the same command goes on'
    with pytest.raises(KeyboardInterrupt, match=said):
        tag_run(place/'run', place/'shop'/'images', out, bs=8, chunk=8, workers=1, say=lambda o: None)
    monkeypatch.setattr(many, 'open_pictures', real); told = []
    tag_run(place/'run', place/'shop'/'images', out, bs=8, chunk=8, workers=1, say=told.append)
    assert out.exists() and len(pd.read_csv(out)['image'].unique()) == len(list((place/'shop'/'images').iterdir()))

def test_no_line_of_the_command_is_python(place, tmp_path, capsys):
    (tmp_path/'labels').mkdir(); names = {f.name for f in fields(RunConfig)} | {'resume', 'trust', 'per', 'review'}
    python = re.compile(rf'(?<![\w.$`/\'-])({"|".join(names)})=')
    free = demo_tags(tmp_path/'tags', n=60, size=32)
    for argv in (['train', free, '--out', tmp_path/'r', *SMALL], ['check', free], ['check', place/'shop', '--product', 'none'],
                 ['tag', tmp_path/'r', place/'shop', '--per', 'product', '--out', tmp_path/'t.csv', '--review', tmp_path/'q.csv'],
                 ['evaluate', tmp_path/'r', free], ['index', tmp_path/'r', free, '--out', tmp_path/'i']):
        code, text = says(capsys, *argv)
        assert code == 0 and not python.findall(text), (argv, python.findall(text), text)
    assert as_flags('continue with resume=True') == 'continue with --resume'
    assert as_flags("'size=m' 26.4") == "'size=m' 26.4"    # a label is no option

def test_the_review_says_why_each_picture_is_in_it(place, tmp_path, capsys):
    code, text = says(capsys, 'tag', place/'run', place/'shop'/'images', '--out', tmp_path/'t.csv', '--review', tmp_path/'q.csv')
    assert code == 0 and '0 can be published without review' in text and 'nothing can be promised for whole pictures' in text
    assert f'{least_pictures()} or more pictures of valid' in text and least_pictures() == 117
    assert says(capsys, 'report', place/'run', '--out', tmp_path/'r.html')[0] == 0
    html = (tmp_path/'r.html').read_text(); assert 'nothing can be promised for whole pictures' in html and 'valid has 20.' in html
    for n in (116, 117):      # right answers only
        targs = (tiny_scores(n)[0] > .5).astype(int)
        curve = coverage_curve(targs*.98 + .01, targs, tiny_space())
        assert curve['holds'].any() == (curve['n'].max() >= 117)
