"Titles beside pictures from the command line: tagging from what is there, scoring, and faults of labels."
import json, os, shutil
from collections import Counter
from dataclasses import replace

import numpy as np, pandas as pd, pytest

from catalog_tagger.apps.cli import main
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.table import read_table, write_table
from catalog_tagger.report.label_issues import run_issues
from catalog_tagger.runs.evaluate import evaluate_run
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.tag import find_rows, tag_run
from catalog_tagger.serve.many import tag_many, tag_many_ray
from catalog_tagger.serve.review import review_queue
from catalog_tagger.serve.texts import text_signals
from catalog_tagger.testing.demo import demo_shop
from catalog_tagger.train.text_model import TextModel

SMALL = ['--size', '32', '--bs', '16', '--freeze-epochs', '1', '--epochs', '0']

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a shop, whose products have titles, and a run on it."
    p = tmp_path_factory.mktemp('place'); demo_shop(p/'shop', n=60, size=32)
    assert main(['train', str(p/'shop'), '--out', str(p/'run'), '--label-columns', 'type', 'colour', *SMALL]) == 0
    return p

@pytest.fixture(scope='module')
def tagger(place): return Run.open(place/'run').tagger()

@pytest.fixture(scope='module')
def rows(place):
    "The pictures of the shop with their titles; every second row has none."
    df = pd.read_csv(place/'shop'/'products.csv', dtype=str)
    text = df['title'].where(df.index % 2 == 0, '')
    return pd.DataFrame(dict(image=[str(place/'shop'/'images'/o) for o in df['image']], text=text, product=df['sku']))

def new_shop(root, change=lambda df: df):
    "New products without labels, their table changed."
    demo_shop(root, n=8, size=32, seed=5); df = pd.read_csv(root/'products.csv', dtype=str, keep_default_na=False)
    df = change(df[['sku', 'image', 'title']]); df.to_csv(root/'products.csv', index=False)
    return df

def answers(path, by='image'):
    "Row → its tags with scores, of a table of tags."
    df = read_table(path); df = df[df['tag'] != '']
    return {k: list(zip(o['tag'], o['score'].astype(float))) for k, o in df.groupby(by, sort=False)}

def close(got, want):
    assert [t for t, _ in got] == [t for t, _ in want]
    np.testing.assert_allclose([s for _, s in got], [s for _, s in want], atol=1e-4)

def says(capsys, *argv):
    "Exit code, and what is printed, on one line."
    capsys.readouterr(); code = main([*map(str, argv), '--quiet']); o = capsys.readouterr()
    return code, o.out + o.err

def from_text(tagger, texts, scores=None):
    "The scores of texts, or of pictures with texts."
    t = tagger.texts; joined = t.alone if scores is None else t.both
    return joined.join.apply(scores, text_signals(t.model, list(texts), tagger.space), tagger.space)

def by_hand(tagger, scores, texts):
    "The answers of rows with a picture and a text, from the parts of the tagger."
    return replace(tagger, texts=None, decision=tagger.texts.both.decision).answers(from_text(tagger, texts, scores))

# -- a table with texts

def test_a_row_without_text_is_answered_as_without_texts(tagger, rows, tmp_path):
    for name, t in (('texts', tagger), ('plain', replace(tagger, texts=None))):
        tag_many(t, rows, tmp_path/f'{name}.csv', k=None, bs=8, review=tmp_path/f'{name}.queue.csv')
    ours, plain = (read_table(tmp_path/f'{o}.csv').drop(columns='model').values.tolist() for o in ('texts', 'plain'))
    bare = set(rows['image'][rows['text'] == ''])
    assert [o for o in ours if o[0] in bare] == [o for o in plain if o[0] in bare] and ours != plain
    ours, plain = (read_table(tmp_path/f'{o}.queue.csv') for o in ('texts', 'plain'))
    pd.testing.assert_frame_equal(*(o[o['image'].isin(bare)].sort_values('image', ignore_index=True) for o in (ours, plain)))

def test_a_text_is_joined_or_answers_alone(tagger, rows, tmp_path):
    df = rows[rows['text'] != ''].head(9).reset_index(drop=True); df.loc[6:, 'image'] = ['', None, str(tmp_path/'gone.jpg')]
    n, rejected = tag_many(tagger, df, tmp_path/'t.csv', k=None, bs=4)
    got = answers(tmp_path/'t.csv'); scores = tagger.scores(df['image'][:6].tolist())
    for o, want in zip(df['image'][:6], by_hand(tagger, scores, df['text'][:6])): close(got[o], want)
    alone = replace(tagger, texts=None, decision=tagger.texts.alone.decision).answers(from_text(tagger, df['text'][6:]))
    for o, want in zip(['row 6', 'row 7', df['image'][8]], alone): close(got[o], want)
    assert n == 9 and rejected['image'].tolist() == [df['image'][8]] and 'missing' in rejected['reason'][0]

def test_a_row_with_nothing_to_answer_from_says_why(tagger, rows, tmp_path):
    df = pd.DataFrame(dict(image=[rows['image'][0], '', '', str(tmp_path/'gone.jpg')], text=['', '', '§', '§']))
    n, rejected = tag_many(tagger, df, tmp_path/'t.csv')
    assert n == 1 and rejected['reason'].tolist() == ['the row has no picture', 'the row has no picture, and no word of its text is known',
                                                      'missing: no such file, and no word of its text is known']

def test_the_first_text_of_a_picture_is_used_and_told(tagger, rows, tmp_path):
    twice = pd.concat([rows[:4], rows[:4].assign(text='Blue Jeans')], ignore_index=True)
    with pytest.warns(UserWarning, match='2 pictures or rows are named again with another text, such as .*: the first text is used'):
        tag_many(tagger, twice, tmp_path/'a.csv')
    first = rows[:4].assign(text=rows['text'][:4].replace('', 'Blue Jeans')); tag_many(tagger, first, tmp_path/'b.csv')
    assert (tmp_path/'a.csv').read_bytes() == (tmp_path/'b.csv').read_bytes()

def test_each_text_is_read_once(tagger, rows, tmp_path, monkeypatch):
    read, plain = Counter(), TextModel.plain
    monkeypatch.setattr(TextModel, 'plain', lambda self, text: read.update([text]) or plain(self, text))
    df = rows.assign(text=[f'{o} {i}' for i, o in enumerate(rows['text'])])
    tag_many(tagger, df, tmp_path/'t.csv', review=tmp_path/'q.csv', bs=8)
    assert set(df['text']) <= set(read) and set(read.values()) == {1}

def test_the_queue_of_each_side_is_of_its_decision(tagger, rows, tmp_path):
    df = rows.copy(); df.loc[df.index[::4], 'image'] = ''
    tag_many(tagger, df, tmp_path/'t.csv', review=tmp_path/'q.csv', bs=16)
    queue = read_table(tmp_path/'q.csv').set_index('image')
    for side in ('text', 'both', 'picture'):
        own = df[dict(text=df['image'] == '', both=(df['image'] != '') & (df['text'] != ''), picture=df['text'] == '')[side]]
        names = [o or f'row {i}' for i, o in own['image'].items()]
        scores, features = tagger.scores_and_features(own['image'].tolist()) if side != 'text' else (None, None)
        if side == 'text': scores = from_text(tagger, own['text'])
        if side == 'both': scores = from_text(tagger, own['text'], scores)
        want = review_queue(pd.DataFrame(dict(image=names)), scores, tagger.space, tagger.for_side(side).decision, features=features)
        got = queue[queue.index.isin(names)]
        assert set(got.index) == set(want['image']) and len(own)
        want = want.set_index('image').loc[got.index]
        np.testing.assert_allclose(got['worth'].astype(float), want['worth'], atol=1e-2)
        assert got['tags'].tolist() == want['tags'].tolist()
        if side == 'text': assert (got['outside'] == 'False').all()

def test_a_changed_text_is_not_a_finished_job(tagger, rows, tmp_path, monkeypatch):
    out = tmp_path/'t.csv'; tag_many(tagger, rows, out, bs=8); before, time = out.read_bytes(), os.stat(out).st_mtime_ns
    tag_many(tagger, rows, out, bs=8); assert os.stat(out).st_mtime_ns == time
    changed = rows.assign(text=rows['text'].where(rows.index > 0, 'Purple Sandals')); tag_many(tagger, changed, out, bs=8)
    assert out.read_bytes() != before
    calls = []
    def stop(self, *args): calls.append(1); return margins(self, *args) if len(calls) < 3 else (_ for _ in ()).throw(MemoryError())
    margins = TextModel.plain_margins; how = dict(bs=8, chunk=8, workers=1)
    with monkeypatch.context() as m, pytest.raises(MemoryError):
        m.setattr(TextModel, 'plain_margins', stop); tag_many(tagger, rows, tmp_path/'u.csv', **how)
    assert len(list((tmp_path/'u.csv.parts').glob('*.csv'))) > 0
    with pytest.warns(UserWarning, match='starts over: source has changed'): tag_many(tagger, changed, tmp_path/'u.csv', **how)
    tag_many(tagger, changed, tmp_path/'v.csv', **how)
    assert (tmp_path/'u.csv').read_bytes() == (tmp_path/'v.csv').read_bytes()

def test_an_interrupted_job_is_resumed_with_its_texts(tagger, rows, tmp_path, monkeypatch):
    calls, margins, how = [], TextModel.plain_margins, dict(bs=8, chunk=8, workers=1)
    def stop(self, *args): calls.append(1); return margins(self, *args) if len(calls) < 4 else (_ for _ in ()).throw(MemoryError())
    with monkeypatch.context() as m, pytest.raises(MemoryError):
        m.setattr(TextModel, 'plain_margins', stop); tag_many(tagger, rows, tmp_path/'t.csv', **how)
    tag_many(tagger, rows, tmp_path/'t.csv', **how); tag_many(tagger, rows, tmp_path/'u.csv', **how)
    assert (tmp_path/'t.csv').read_bytes() == (tmp_path/'u.csv').read_bytes()

# -- products

def test_products_are_joined_with_their_first_text(tagger, rows, tmp_path):
    df = rows.copy(); lone = df['product'].map(df['product'].value_counts()) == 1
    lost = df['product'][lone & (df['text'] != '')].iloc[0]; df.loc[df['product'] == lost, 'image'] = str(tmp_path/'gone.jpg')
    n, rejected = tag_many(tagger, df, tmp_path/'t.csv', k=None, per='product', review=tmp_path/'q.csv')
    got, usable = answers(tmp_path/'t.csv', 'product'), df[df['product'] != lost]
    want = tagger.predict_products(usable['image'].tolist(), usable['product'].tolist(), usable['text'].tolist())
    assert list(want) == [o for o in got if o != lost] and n == df['product'].nunique()
    for name, o in want.items(): close(got[name], o)
    text = df['text'][df['product'] == lost].tolist()
    close(got[lost], tagger.predict(texts=text)[0]); assert rejected['reason'].tolist() == [f'{tmp_path/"gone.jpg"}: missing: no such file']

def test_a_product_without_pictures_is_answered_per_product(place, tmp_path, capsys):
    df = new_shop(tmp_path/'new'); n = df['sku'].nunique()
    how = ['--per', 'product', '--text-only', '--out', tmp_path/'t.csv']
    code, said = says(capsys, 'tag', place/'run', tmp_path/'new'/'products.csv', *how)
    assert code == 0 and f'{n} products tagged' in said and 'pictures are not opened' in said
    assert set(answers(tmp_path/'t.csv', 'product')) == set(df['sku'])

# -- the command

def test_a_catalog_is_answered_from_what_is_there(place, tagger, tmp_path, capsys):
    def change(df):
        df.loc[0, 'title'] = df.loc[1, 'image'] = ''; return df[:-1]
    df = new_shop(tmp_path/'new', change); images = tmp_path/'new'/'images'; (images/df['image'][2]).write_bytes(b'no picture')
    (images/df['image'][3]).unlink()
    code, said = says(capsys, 'tag', place/'run', tmp_path/'new', '--out', tmp_path/'t.csv', '--review', tmp_path/'q.csv')
    n = len(df); got = answers(tmp_path/'t.csv')
    assert code == 0 and f"{n} rows, {n - 1} with a picture, {n - 1} with a text, {n - 2} with both; text: title, such as" in said
    assert '2 pictures of' in said and 'are not in products.csv and are answered from the picture alone' in said
    assert f'{n + 2} rows tagged' in said and '2 pictures could not be used' in said and len(got) == n + 2
    close(got[str(images/df['image'][0])], tagger.predict(images/df['image'][0]))
    close(got['row 1 of products.csv'], tagger.predict(texts=df['title'][1]))
    close(got[str(images/df['image'][2])], tagger.predict(texts=df['title'][2]))
    close(got[str(images/df['image'][4])], tagger.predict(images/df['image'][4], texts=df['title'][4]))
    assert says(capsys, 'tag', place/'run', tmp_path/'new', '--out', tmp_path/'t.csv', '--review', tmp_path/'q.csv')[0] == 5

def test_without_texts_a_folder_is_tagged_as_ever(place, tagger, tmp_path):
    new_shop(tmp_path/'new')
    for more in ([], ['--no-text']):
        source = tmp_path/'new'/'images' if not more else tmp_path/'new'
        assert main(['tag', str(place/'run'), str(source), '--out', str(tmp_path/f't{len(more)}.csv'), '--quiet', *more]) == 0
    tag_many(tagger, tmp_path/'new'/'images', tmp_path/'a.csv', k=None)
    tag_many(replace(tagger, texts=None), tmp_path/'new', tmp_path/'b.csv', k=None)
    assert (tmp_path/'t0.csv').read_bytes() == (tmp_path/'a.csv').read_bytes()
    assert (tmp_path/'t1.csv').read_bytes() == (tmp_path/'b.csv').read_bytes()

@pytest.mark.parametrize('columns, names', [(['sku', 'title'], 'product'), (['title'], 'number'), (['id', 'title'], 'column id')])
def test_a_table_without_pictures_is_answered_from_texts(place, tagger, tmp_path, capsys, columns, names):
    df = new_shop(tmp_path/'new', lambda df: df.drop_duplicates('sku').assign(id=range(100, 100 + df['sku'].nunique()))[columns])
    code, said = says(capsys, 'tag', place/'run', tmp_path/'new'/'products.csv', '--text-only', '--out', tmp_path/'t.csv')
    numbers = [f'row {i} of products.csv' for i in range(len(df))]
    want = df['sku'] if names == 'product' else df['id'].astype(str) if names == 'column id' else numbers
    got = answers(tmp_path/'t.csv')
    assert code == 0 and f'rows are named by their {names}' in said and list(got) == list(want)
    for name, text in zip(want, df['title']): close(got[name], tagger.predict(texts=text))

def test_other_columns_of_texts_are_named(place, tagger, tmp_path, capsys):
    df = new_shop(tmp_path/'new', lambda df: df.rename(columns=dict(title='Name')).assign(maker='Tamarind'))
    command = ['tag', place/'run', tmp_path/'new', '--out', tmp_path/'t.csv']
    code, said = says(capsys, *command)
    assert code == 0 and 'none with a text; name its columns of texts with --text' in said
    code, said = says(capsys, *command, '--text', 'maker', 'Name')
    assert code == 0 and f"text: maker, Name, such as 'Tamarind\\n{df['Name'][0]}"[:40] in said
    image = tmp_path/'new'/'images'/df['image'][0]
    close(answers(tmp_path/'t.csv')[str(image)], tagger.predict(image, texts=f'Tamarind\n{df["Name"][0]}'))

def test_a_missing_column_of_the_run_is_told(place, tmp_path):
    new_shop(tmp_path/'new', lambda df: df.assign(text=df['title']).drop(columns='title')); told = []
    find_rows(tmp_path/'new', RunConfig('', ''), told.append, learned=['title'])
    assert any('text: text' in o and 'the table lacks title, from which the model has learned' in o for o in told)

@pytest.mark.parametrize('source, argv, said', [
    ('new', ['--text', 'titel'], "did you mean 'title'? (given as --text)"),
    ('new', ['--no-text', '--text-only'], '--text none and --text-only leave nothing to answer from'),
    ('new', ['--product', 'sku'], '--product sku is for the table of --per product'),
    ('new/images', ['--text', 'title'], '--text title is for a table, and none is read in'),
    ('new/images', ['--text-only'], 'has 0 tables; give the table with the texts'),
    ('new/images', ['--encoding', 'cp1252'], '--encoding cp1252 is for a table, and none is read in'),
    ('new/images', ['--no-text', '--encoding', 'cp1252'], '--encoding cp1252 is for the table of --per product'),
    ('empty.csv', [], 'has no rows')])
def test_errors_of_tagging_are_one_line(place, tmp_path, capsys, source, argv, said):
    new_shop(tmp_path/'new'); (tmp_path/'empty.csv').write_text('image,title\n')
    code, text = says(capsys, 'tag', place/'run', tmp_path/source, '--out', tmp_path/'t.csv', *argv)
    assert code == 2 and said in text and text.count('\n') == 1 and not (tmp_path/'t.csv').exists()

def test_a_run_without_texts_refuses_theirs(place, tmp_path, capsys):
    shutil.copytree(place/'run', tmp_path/'run')
    assert main(['train', str(place/'shop'), '--out', str(tmp_path/'plain'), '--label-columns', 'type', 'colour', *SMALL, '--no-text']) == 0
    assert Run.open(tmp_path/'plain').config.text == ('none',) and Run.open(tmp_path/'plain').tagger().texts is None
    assert 'text' not in Run.open(tmp_path/'plain').split
    for argv, what in ((['--text-only'], '--text-only'), (['--text', 'title'], '--text title')):
        code, text = says(capsys, 'tag', tmp_path/'plain', place/'shop', '--out', tmp_path/'t.csv', *argv)
        assert code == 2 and f'{what} is for a model that has learned from texts' in text
    code, text = says(capsys, 'tag', tmp_path/'plain', place/'shop'/'products.csv', '--out', tmp_path/'t.csv')
    assert code == 2 and 'none of 1 pictures could be used' in text

# -- a cluster

@pytest.fixture(scope='module')
def ray():
    ray = pytest.importorskip('ray', reason='needs Ray: pip install "catalog_tagger[ray]"')
    pytest.importorskip('pyarrow', reason='Ray Data needs pyarrow')
    os.environ |= dict(RAY_USAGE_STATS_ENABLED='0', RAY_DATA_DISABLE_PROGRESS_BARS='1', RAY_DEDUP_LOGS='1')
    ray.init(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False, logging_level='ERROR',
             address='local')
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()

def test_a_cluster_reads_the_texts(ray, place, tagger, rows, tmp_path):
    bundle, df = str(place/'run'/'tagger'), rows.copy(); df.loc[0, 'image'] = ''; how = dict(bs=8, chunk=16)
    tag_many(tagger, df, tmp_path/'local.csv', review=tmp_path/'local.queue.csv', **how)
    tag_many_ray(bundle, df, tmp_path/'ray.csv', review=tmp_path/'ray.queue.csv', actors=1, **how)
    ours, theirs = answers(tmp_path/'local.csv'), answers(tmp_path/'ray.csv')
    assert list(ours) == list(theirs)
    for o in ours: close(theirs[o], ours[o])
    assert set(read_table(tmp_path/'ray.queue.csv')['image']) == set(read_table(tmp_path/'local.queue.csv')['image'])
    for more in ([], ['none']):
        tag_run(place/'run', place/'shop', tmp_path/f'{len(more)}.csv', engine='ray', text=more, actors=1, say=lambda o: None)
        tag_run(place/'run', place/'shop', tmp_path/f'local{len(more)}.csv', text=more, say=lambda o: None)
        ours, theirs = answers(tmp_path/f'local{len(more)}.csv'), answers(tmp_path/f'{len(more)}.csv')
        for o in ours: close(theirs[o], ours[o])

# -- scores and faults of labels

def test_evaluation_scores_the_three_sides(place, tmp_path, capsys):
    run, lines = Run.open(place/'run'), []
    res = evaluate_run(place/'run', place/'shop', say=lines.append)
    assert res['texts']['rows'] == run.metrics['texts']['rows'] and any('from the text (title)' in o for o in lines)
    for s in ('picture', 'text', 'both'):
        ours, theirs = ({m: o['score'] for m, o in d['sides'][s].items()} for d in (res['texts'], run.metrics['texts']))
        assert ours == pytest.approx(theirs, abs=1e-6)
    code, said = says(capsys, 'evaluate', place/'run', place/'shop', '--no-text', '--out', tmp_path/'e.json')
    d = json.loads((tmp_path/'e.json').read_text())
    assert code == 0 and 'from the text' not in said and 'texts' not in d
    assert {m: o['score'] for m, o in d['scores'].items()} == pytest.approx({m: o['score'] for m, o in res['scores'].items()}, abs=1e-6)

def test_texts_are_kept_with_the_split_and_older_runs_read(place, tmp_path):
    split, table = Run.open(place/'run').split, pd.read_csv(place/'shop'/'products.csv', dtype=str)
    assert dict(zip(split['image'].map(os.path.basename), split['text'])) == dict(zip(table['image'], table['title']))
    shutil.copytree(place/'run', tmp_path/'run')
    f = tmp_path/'run'/'split.csv'; pd.read_csv(f, dtype=str, keep_default_na=False).drop(columns='text').to_csv(f, index=False)
    older, blind = (run_issues(o, place/'shop') for o in (tmp_path/'run', place/'run'))
    assert 'text' not in Run.open(tmp_path/'run').split and len(older) and not older.equals(blind)

@pytest.mark.parametrize('whole', [False, True])
def test_a_title_shows_a_wrong_label(place, tmp_path, whole):
    pytest.importorskip('cleanlab')
    shutil.copytree(place/'run', tmp_path/'run'); f = tmp_path/'run'/'split.csv'; df = read_table(f)
    of = df['labels'].map(lambda o: next((t for t in ('Jeans', 'Tshirts', 'Watches') if t in o), None))
    other = dict(Jeans='Tshirts', Tshirts='Jeans', Watches='Tshirts')
    at = df.index[(df['split'] == 'test') & of.notna()][:3]; assert len(at) > 1
    for i in at: df.at[i, 'labels'] = [t if t != of[i] else other[of[i]] for t in df['labels'][i]]
    write_table(f, df); found = run_issues(tmp_path/'run', place/'shop', whole=whole).set_index('image')
    for i in at:
        own = found.loc[[str((place/'shop'/df['image'][i]).resolve())]]
        assert of[i] in own['instead'].tolist(), f'{df["text"][i]!r} is not reported'
