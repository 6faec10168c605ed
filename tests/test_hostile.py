"What an adversary found, each kind by one of its cases: cost, text, names that meet ours, settings of FAISS."
import json, subprocess, sys
from dataclasses import replace

import numpy as np, pandas as pd, pytest, torch
from forging import measured, no_hang

from catalog_tagger.apps.cli import main
from catalog_tagger.core.config import MAX_INPUT
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.sealed import seal
from catalog_tagger.core.table import rejected_table
from catalog_tagger.catalog.images import Prep
from catalog_tagger.catalog.labels import MOST_LABELS, LabelSpace
from catalog_tagger.catalog.picture_files import find_pictures
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.catalog.steps import check_steps
from catalog_tagger.search.index import INDEX_FILES, SimilarIndex
from catalog_tagger.search.vectors import EmbeddingsError
from catalog_tagger.serve.answers import decode
from catalog_tagger.serve.decide import fit_decision
from catalog_tagger.serve.tagger import BUNDLE_FILES, BundleError, Tagger, save_bundle
from catalog_tagger.train.backbones import find_arch
from catalog_tagger.train.heads import build_model

ARCH, MB = 'test_efficientnet', 1 << 20     # timm's smallest
HEAD = [dict(layer='AdaptiveAvgPool2d'), dict(layer='Flatten'), dict(layer='Linear', in_features=256, out_features=3, bias=True)]

def small_tagger(size=32):
    torch.manual_seed(0); space, r = LabelSpace(['Red', 'Blue', 'new'], dict(colour=['Red', 'Blue']), {}, {}), np.random.default_rng(0)
    scores, targs = r.random((60, 3)), np.eye(3, dtype=int)[r.integers(0, 3, 60)]
    return Tagger(build_model(find_arch(ARCH), HEAD)[0], space, Prep((size, size), (.5,)*3, (.25,)*3), 'sigmoid', arch=ARCH,
                  decision=fit_decision(scores, targs, space))

@pytest.fixture
def bundle(tmp_path): return save_bundle(small_tagger(), tmp_path/'bundle')

def forge(d, change):
    "Change the manifest of the bundle `d` and seal it again."
    m = json.loads((d/'tagger.json').read_text()); change(m)
    (d/'tagger.json').write_text(json.dumps(m)); seal(d, BUNDLE_FILES)

def set_in(*keys):
    *path, last, value = keys
    def change(m):
        for k in path: m = m[k]
        m[last] = value
    return change

# Cost

CHEAP = {
    'a large input':       (set_in('prep', 'size', [4096, 4096]), 
                            '4096x4096 pixels, a batch of 32 takes 6.4 GB; the limit is 1,440,000 pixels'),
    'a group twice':       (set_in('decision', 'calibration', 'shares', ['colour', 'colour']), 'shares names a group twice'),
    '300,000 labels':      (set_in('space', 'vocab', [str(i) for i in range(300_000)]), 'the limit is 100,000'),
    'a recipe of groups':  (set_in('space', 'recipe', {'': [dict(step='group', to={str(i): [] for i in range(1_000_000)})]}),
                            'the limit is 2,000,000'),
    'a recipe of steps':   (set_in('space', 'recipe', {'': [dict(step='normalise')]*20_000}), '20,000 steps, the limit is 1000'),
    'facts of lists':      (set_in('facts', dict(a=[[]]*1_500_000)), 'tagger.json has 3,'),
    'facts within facts':  (set_in('facts', dict(a=json.loads('['*40 + ']'*40))), 'more than 32 levels')}

@pytest.mark.parametrize('name', CHEAP)
def test_a_small_file_costs_little(name, bundle):
    change, says = CHEAP[name]; forge(bundle, change); n = (bundle/'tagger.json').stat().st_size
    with no_hang(60), measured() as cost, pytest.raises(BundleError, match=says): Tagger.load(bundle)
    assert cost.peak < 40*MB + 30*n and cost.calls < 500_000

def test_a_large_input_is_taken_if_asked_for(bundle):
    forge(bundle, set_in('prep', 'size', [1300, 1300]))
    with pytest.raises(BundleError, match='allow max_input=1690000'): Tagger.load(bundle)
    assert Tagger.load(bundle, max_input=1300**2).prep.size == (1300, 1300)
    assert save_bundle(small_tagger(1300), bundle.parent/'own').is_dir()     # whoever saves it has chosen its size
    assert MAX_INPUT == 1200**2

def test_the_command_says_how_to_allow_it(bundle, capsys):
    forge(bundle, set_in('prep', 'size', [4096, 4096]))
    assert main(['tag', str(bundle), str(bundle/'README.md'), '--out', str(bundle.parent/'tags.csv')]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and '--max-input 16777216' in err

def test_a_wide_table_costs_little(tmp_path):
    d = save_index(tmp_path); (d/'rejected.csv').write_text(','*1_000_000 + '\n'); seal(d, INDEX_FILES)
    with no_hang(60), measured() as cost, pytest.raises(EmbeddingsError, match='1,000,001 columns, the limit is 64'): SimilarIndex.load(d)
    assert cost.peak < 120*MB and cost.calls < 100_000

def chain(n, *groups):
    vocab = [f'l{i}' for i in range(n)]
    return LabelSpace(vocab, {g: [l] for g, l in zip(groups, reversed(vocab))}, dict(zip(vocab[1:], vocab)), {},
                      ends=[vocab[-1]] if groups else [])

@pytest.mark.parametrize('groups', [(), ('a',), ('a', 'b', 'c')], ids=str)
def test_a_chain_of_parents_is_decoded_in_linear_time(groups):
    def calls(n):
        space = chain(n, *groups); scores = np.full((4, n), .9)
        with no_hang(60), measured() as cost: answers = decode(scores, space, k=None)
        assert [t for t, _ in answers[0]] == space.vocab      # ancestors first
        return cost.calls
    assert calls(3000) < 8*calls(500)     # six times as many labels; it was more than two hundred times the work

def test_groups_of_a_chain_are_decoded_in_linear_time():
    def calls(n):
        space = chain(n, *map(str, range(n)))
        with no_hang(60), measured() as cost: decode(np.full((2, n), .9), space, k=None, limits={})
        return cost.calls
    assert calls(2000) < 6*calls(500)

def test_a_cycle_at_the_end_of_a_chain():
    n = 3000; vocab = [f'l{i}' for i in range(n)]; parents = dict(zip(vocab, vocab[1:])) | {vocab[-1]: vocab[-2]}
    with no_hang(30), pytest.raises(CatalogError, match='is its own ancestor'): LabelSpace(vocab, {}, parents, {})
    def calls(n):
        with no_hang(30), measured() as cost: check_steps([dict(step='group', to={f'g{i+1}': [f'g{i}'] for i in range(n)})])
        return cost.calls
    assert calls(100_000) < 15*calls(10_000)

def test_what_is_large_and_honest_is_read(tmp_path):
    n = 5000; vocab = [f'label {i}' for i in range(n)]
    space = LabelSpace(vocab, dict(a=vocab[:3000], b=vocab[3000:4000]), dict(zip(vocab[:3000], vocab[3000:4000]*3)),
                       {f'raw {i}': dict(label=vocab[i % n], count=3, rule='kept') for i in range(20_000)})
    space.save(tmp_path/'labels.json')
    with no_hang(60): assert LabelSpace.load(tmp_path/'labels.json') == space
    m = 40_000; v = np.zeros((m, 2), np.float32); v[:, 0] = 1
    table = pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(m)], labels=[['Red', 'Shoe']]*m, text=['half a line\x0b of text']*m))
    with no_hang(120): assert len(SimilarIndex.load(SimilarIndex.build(v, table).save(tmp_path/'index'))) == m
    assert MOST_LABELS >= 20*n

# Text

BAD = {'half of a character': 'half \ud800', 'ANSI': 'Red\x1b[2J', 'C1': 'Red\x9b2J', 'bell': 'a\x07'}

@pytest.mark.parametrize('text', BAD.values(), ids=list(BAD))
def test_a_bundle_with_such_text_is_refused(text, bundle):
    forge(bundle, lambda m: m['space'].update(vocab=[text, 'Blue', 'new'], exclusive=dict(colour=[text, 'Blue'])))
    with pytest.raises(BundleError, match='half of a character') as e: Tagger.load(bundle)
    str(e.value).encode('utf-8')

def save_index(tmp_path, **columns):
    v = np.eye(4, dtype=np.float32); table = pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(4)], labels=[['Red']]*4) | columns)
    return SimilarIndex.build(v, table).save(tmp_path/'index')

def forge_index(d, name, change):
    o = json.loads((d/name).read_text()); o = change(o) or o
    (d/name).write_text(json.dumps(o)); seal(d, INDEX_FILES)

@pytest.mark.parametrize('text', BAD.values(), ids=list(BAD))
@pytest.mark.parametrize('place', ['id', 'label', 'column'])
def test_an_index_with_such_text_is_refused(place, text, tmp_path):
    d = save_index(tmp_path)
    if place == 'id': forge_index(d, 'ids.json', lambda o: [text, *o[1:]])
    elif place == 'label': forge_index(d, 'index.json', lambda o: o['columns'].update(labels=[[text]]*4))
    else: forge_index(d, 'index.json', lambda o: o['columns'].update({text: [1]*4}))
    with pytest.raises(EmbeddingsError) as e: SimilarIndex.load(d)
    str(e.value).encode('utf-8')

def test_no_such_name_is_put_in_an_index(tmp_path):
    for columns in (dict(image=['a\x1b[2J', 'b', 'c', 'd']), dict(labels=[['a\x1b']]*4), {'year\x07': [1]*4}):
        with pytest.raises(CatalogError, match='control character'): save_index(tmp_path, **columns)
    d = save_index(tmp_path, text=['cells of the shop \x92 stay'.replace('cells', '\x07cells')]*4)
    assert SimilarIndex.load(d).search('0.jpg', k=1)['text'][0].startswith('\x07')

def test_a_catalog_is_cleaned_and_says_so(tmp_path):
    (tmp_path/'t.csv').write_text('image,tags,sku,col\x1b[1mour\na.jpg,Red\x1b[2J;new,p\x07 1,x\n'
                                  'b.jpg,Blue\x9b,p2,y\nc\x07.jpg,Blue,p3,y\n')
    for o in ('a.jpg', 'b.jpg', 'c\x07.jpg'): (tmp_path/o).touch()
    c = read_catalog(tmp_path/'t.csv', product='sku')
    assert c.df['tags'].tolist() == [['Red', 'new'], ['Blue']] and c.df['product'].tolist() == ['p 1', 'p2'] and 'colour' in c.df
    assert 'rename the file' in c.rejected['reason'][0] and len(c.rejected) == 1
    said = '\n'.join(c.notes)
    assert "control characters dropped in 2 cells of tags, such as 'Red\\x1b[2J;new' → 'Red;new'" in said
    assert 'control characters dropped in 1 cells of product' in said and 'in 1 names of columns, such as colour' in said
    kept = read_catalog(tmp_path/'t.csv', product='sku', clean=('entities',))     # without the rule the rows are refused, not read
    assert kept.df.empty and 'control character' in kept.rejected['reason'][0]

def test_halves_of_characters_in_a_json_are_told(tmp_path):
    (tmp_path/'t.json').write_text('[{"image": "a.jpg", "tags": ["half \\ud83d", "new"], "title": "cut \\ud83d"}]')
    (tmp_path/'a.jpg').touch()
    c = read_catalog(tmp_path/'t.json')
    assert c.df['tags'].tolist() == [['half ?', 'new']] and any('halves of characters are replaced by ? in 2 texts' in o for o in c.notes)

def test_a_file_whose_name_is_a_command_is_not_read(tmp_path):
    for o in ('a.jpg', 'b\x1b[2J.jpg'): (tmp_path/o).touch()
    assert list(find_pictures(tmp_path).values()) == [None, 'its name contains a control character: rename the file']

def test_the_command_escapes_what_it_prints(tmp_path, capsys):
    for o in ('Red\x1b[2J', 'Blue'): (tmp_path/'shop'/o).mkdir(parents=True)
    for argv in (['similar', str(tmp_path/'a\x1b[2J'), 'x'], ['check', str(tmp_path/'shop')], ['check', str(tmp_path/'gone\ud800')]):
        main(argv)
    out, err = capsys.readouterr()
    assert '\x1b' not in out + err and '\\u001b[2J' in err and (out + err).encode('utf-8')

# Names that meet ours

def test_columns_of_the_shop_that_are_called_like_ours(tmp_path):
    d = save_index(tmp_path); many = [['a', 'b']]*4
    forge_index(d, 'index.json', lambda o: o['columns'].update(score=['5']*4, group=many, rank=[1]*4, notes=['n']*4))
    index = SimilarIndex.load(d)
    for found in (index.search('0.jpg', k=2), index.search(np.eye(4)[0], k=2), index.find(['Red'], k=2),
                  index.search('0.jpg', k=2, per='product')):
        assert found['source.score'].tolist() == ['5']*2 and found['score'].between(-1, 1).all() and found['group'].tolist() == many[:2]
    again = SimilarIndex.load(index.save(tmp_path/'again'))
    assert list(again.table) == list(index.table) and len(again.duplicates(-1)) == 6

def test_both_names_of_a_score(tmp_path):
    index = SimilarIndex.load(save_index(tmp_path, **{'score': [1]*4, 'source.score': ['x']*4}))
    assert index.search('0.jpg', k=1)[['source.score', 'source.source.score']].values.tolist() == [['x', 1]]

@pytest.mark.parametrize('column', ['unit', 'product'])
def test_a_unit_is_one_value(column, tmp_path):
    d = save_index(tmp_path); forge_index(d, 'index.json', lambda o: o['columns'].update({column: [['a']]*4}))
    with pytest.raises(EmbeddingsError, match=f"{column} of row 0 is \\['a'\\], expected text"): SimilarIndex.load(d)

# FAISS

def test_faiss_is_not_asked_for_what_ends_the_process(tmp_path):
    pytest.importorskip('faiss', reason='the settings are those of FAISS')
    v = np.random.default_rng(0).normal(size=(50, 4)); v = (v/np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)
    d = SimilarIndex.build(v, [str(i) for i in range(50)], kind='hnsw').save(tmp_path/'index')
    forge_index(d, 'index.json', lambda o: o['settings'].update(m=1))
    code = f'from catalog_tagger.search.index import SimilarIndex\ntry: SimilarIndex.load({str(d)!r})\nexcept ValueError as e: print(e)'
    p = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert p.returncode == 0 and 'm is 1, expected 2 to 64' in p.stdout, p

def test_refining_many_queries_takes_little_memory():
    pytest.importorskip('faiss', reason='only its kinds refine')
    v = np.random.default_rng(0).normal(size=(2000, 64)); v = (v/np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)
    index = SimilarIndex.build(v, [str(i) for i in range(2000)], kind='ivf_sq8'); want = index.nearest(v, 3)[1][:, 0]
    index.settings['refine'] = 1024
    with measured() as cost: found = index.nearest(v, 3)[1][:, 0]
    assert (found == want).mean() > .95 and cost.peak < 900*MB     # 1,024 queries at once would take 1.6 GB for the last step alone
