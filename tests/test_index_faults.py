"Index folders that are damaged, forged or out to do harm: one `EmbeddingsError` each, and nothing is run, read outside or changed."
import json, os, re, shutil, struct
from io import BytesIO

import numpy as np, pandas as pd, pytest, torch
from folder_faults import as_params, check_canary, check_one_error, pipe, planted, spoilt_files, spoilt_sums
from safetensors.torch import load_file, save_file

from catalog_tagger.search.embed import Embedder, load_embeddings, write_embedder
from catalog_tagger.core.files import write_json
from catalog_tagger.core.table import rejected_table, write_table
from catalog_tagger.catalog.images import OPENING_VERSION, Prep
from catalog_tagger.train.backbones import find_arch
from catalog_tagger.train.heads import build_model
from catalog_tagger.core.sealed import seal
from catalog_tagger.search.vectors import EmbeddingsError
from catalog_tagger.search.index import INDEX_FILES, SimilarIndex
from catalog_tagger.search.text_mix import TextMix
from catalog_tagger.train.text_model import TextModel

faiss = pytest.importorskip('faiss', reason='the index under test has cells of FAISS')
ARCH, N, D = 'mobilenetv3_small_050', 120, 6
MIX = TextMix(TextModel(['w red', 'w shoe'], np.array([1, 2], 'f'), np.zeros((2, 0), 'f'), np.zeros(0, 'f')), .25, 8)
HEAD = [dict(layer='AdaptiveAvgPool2d'), dict(layer='Flatten'), dict(layer='Linear', in_features=288, out_features=D, bias=True),
        dict(layer='UnitLength')]
def sign(d): seal(d, INDEX_FILES)
SIGNED = [o for o in INDEX_FILES if o != 'SHA256SUMS']

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "An index with cells, a table, a model and texts."
    torch.manual_seed(0)
    v = np.random.default_rng(0).normal(size=(N, D)); v = (v/np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)
    table = pd.DataFrame(dict(image=[f'{i:03}.jpg' for i in range(N)], year=[2010 + i % 9 for i in range(N)],
                              colour=['Red', 'Blue', None]*(N//3), labels=[['Shoe', 'Red'], [], ['Bag']]*(N//3)))
    embedder = Embedder(build_model(find_arch(ARCH), HEAD)[0].eval(), Prep((32, 32), (.5,)*3, (.25,)*3), ARCH)
    v = MIX.mix(v, MIX.vectors(['red', 'shoe', None]*(N//3)))
    return SimilarIndex.build(v, table, kind='ivf_sq8', embedder=embedder, texts=MIX).save(tmp_path_factory.mktemp('whole')/'index')

# Mutations: name → what it does to a copy of the index. Those under `signed` get right sums afterwards.
plain, signed = {}, {}

plain |= spoilt_files(INDEX_FILES) | spoilt_sums('ids.json')
if hasattr(os, 'mkfifo'): plain['a pipe'] = pipe('ids.json')
plain |= {f'planted {o}': planted(o)
          for o in ('index.pkl', 'index.faiss', 'vectors.npz', 'model.pt', '.hidden.pkl', 'evil.py', '__init__.py', 'index.json.bak')}
signed |= {f'{o} is a signed pickle': planted(o) for o in SIGNED if o != 'rejected.csv'}
plain['vectors swapped'] = lambda d: np.save(d/'vectors.npy', np.load(d/'vectors.npy')[::-1].copy())
plain['a model without its sum'] = lambda d: (d/'SHA256SUMS').write_text(
    ''.join(o for o in (d/'SHA256SUMS').read_text().splitlines(True) if 'model' not in o))

def array(name, change):
    def do(d):
        a = change(np.load(d/name)); f = BytesIO()
        np.save(f, a, allow_pickle=True); (d/name).write_bytes(f.getvalue())
    return do
def poked(value):
    def change(a): a = a.copy(); a[-1, 2] = value; return a
    return change
ARRAYS = {'short': lambda a: a[:-1], 'long': lambda a: np.concatenate([a, a[:1]]), 'narrow': lambda a: a[:, :-1], 'flat': np.ravel,
          'cube': lambda a: a[None], 'empty': lambda a: a[:0], 'double': lambda a: a.astype('f8'), 'whole numbers': lambda a: a.astype(int),
          'big endian': lambda a: a.astype('>f4'), 'fortran': np.asfortranarray, 'complex': lambda a: a.astype('c8'),
          'objects': lambda a: a.astype(object), 'text': lambda a: a.astype(str), 'records': lambda a: a.view([('x', 'f4')]),
          'nan': poked(np.nan), 'infinite': poked(np.inf)}
signed |= {f'{name} {k}': array(name, f) for name in ('vectors.npy', 'centroids.npy') for k, f in ARRAYS.items()}
signed |= {f'vectors {k}': array('vectors.npy', f)
           for k, f in {'doubled': lambda a: a*2, 'zero': lambda a: a*0, 'one zero': poked(5)}.items()}

def shaped(shape, header): return re.sub(r'\(\d+, \d+\)', shape, header)
def npy_header(change, name='vectors.npy'):
    def do(d):
        data = (d/name).read_bytes(); n, = struct.unpack('<H', data[8:10]); head = change(data[10:10+n].decode('latin1')).encode('latin1')
        (d/name).write_bytes(data[:8] + struct.pack('<H', len(head)) + head + data[10+n:])
    return do
signed |= {f'npy header {k}': npy_header(f) for k, f in {
    'code': lambda s: "__import__('os').system('touch exploded')\n", 'terabyte': lambda s: shaped(f'({2**40}, {D})', s),
    'negative': lambda s: shaped(f'(-{N}, -{D})', s), 'overflow': lambda s: shaped(f'({2**62}, 4)', s),
    'empty': lambda s: '', 'junk': lambda s: s[::-1], 'deep': lambda s: '('*5000, 'one more key': lambda s: s.replace('{', "{'x': 1, "),
    'descr': lambda s: s.replace('<f4', '|O'), 'strange': lambda s: s.replace("'<f4'", "'os.system'")}.items()}
signed['npy of version 2'] = lambda d: (d/'vectors.npy').write_bytes((data := (d/'vectors.npy').read_bytes())[:6] + b'\x02\x00' + data[8:])

def text(name, change): return lambda d: (d/name).write_bytes(change((d/name).read_text()).encode('utf-8', 'surrogatepass'))
signed |= {f'{name} {k}': text(name, f) for name in ('ids.json', 'index.json', 'embedder.json', 'texts.json') for k, f in {
    'deep': lambda s: '['*10**5, 'empty': lambda s: '', 'null': lambda s: 'null', 'a word': lambda s: '"x"', 'cut': lambda s: s[:len(s)//2],
    'two': lambda s: s + s, 'nan': lambda s: '[NaN]', 'marked': lambda s: '\ufeff' + s}.items()}
signed |= {'twice': text('index.json', lambda s: s.replace('"format": 1', '"format": 1, "format": 1')),
           'long number': text('index.json', lambda s: s.replace('"format": 1', '"format": ' + '9'*10**5))}

def ids(change): return lambda d: (d/'ids.json').write_text(json.dumps(change(json.loads((d/'ids.json').read_text()))))
signed |= {f'ids {k}': ids(f)
           for k, f in {'short': lambda o: o[:-1], 'long': lambda o: o + ['x'], 'twice': lambda o: o[:-1] + o[:1],
                        'numbers': lambda o: list(range(N)), 'one empty': lambda o: [''] + o[1:], 'one list': lambda o: [[]] + o[1:],
                        'an object': lambda o: dict.fromkeys(o)}.items()}

def at(value, *keys, name='index.json'):
    "Set what stands in `name` under `keys`; without a value it goes away."
    def do(d):
        whole = o = json.loads((d/name).read_text())
        for k in keys[:-1]: o = o[k]
        if value is at: del o[keys[-1]]
        else: o[keys[-1]] = value
        (d/name).write_text(json.dumps(whole))
    return do

WRONG = {
    ('format',): ['1', 1.0, True, 0, 2, None], ('kind',): [None, 1, [], {}, 'exact', 'flat', 'hnsw', 'ivf_pq', 'os.system', 'IVF3,SQ8'],
    ('settings',): [None, [], {}, {'cells': 3}, 'x'],
    ('settings', 'cells'): [0, -1, 2, 4, 10**9, '3', 3.0, True, None, []], ('settings', 'effort'): [0, -1, 10**6, '1', 1.5, None, True],
    ('settings', 'refine'): [0, 10**9, None, '4'], ('settings', 'seed'): [1],
    ('recall',): [None, '1', 2, -1, [], True], ('columns',): [None, [], 'x', {'image': ['x']*N}],
    ('columns', 'year'): [None, [], [2010], {}, 'x', [[]]*N + [[]], [{}]*N, [[1]]*N],
    ('columns', 'labels'): [['Shoe']*N, [None]*N, [['']]*N, [[1]]*N], ('columns', 'split'): [['best']*N], ('columns', 'tags'): [[None]*N],
    ('path',): ['../outside'],
}
EMBEDDER = {
    ('arch',): [None, 7, '', [], '../../etc/passwd', 'hf-hub:timm/resnet18', 'resnet18', 'x'*10**6],
    ('head',): [None, {}, [], 'fastai', HEAD[:-1], HEAD[:2] + HEAD[3:], HEAD + HEAD, [{'layer': 'os.system'}]],
    ('head', 2, 'out_features'): [7, 2**30, 2**62, '6'], ('prep',): [None, [], 'x', {}], ('prep', 'size'): [32, [0, 32], [10**9, 10**9]],
    ('prep', 'std'): [[0, 0, 0], None], ('prep', 'opening'): [0, OPENING_VERSION + 1, None], ('file',): ['/etc/passwd'],
}
TEXTS = {
    ('format',): ['1', 0, 2, None], ('weight',): [0, -1, .5, 1, 1.5, '0.25', None, True, []],
    ('dims',): [0, -8, 7, 9, 16, 4096, 2**62, '8', None, 8.5], ('measured',): [None, [], {'0': 2}, {'0': 'x'}],
    ('vocab',): [None, [], 'x', ['w red'], ['w red']*2, ['w red', ''], ['w red', 1], ['w red', 'x'*501], ['w red', '\ud800']],
    ('idf',): [None, [], [1], [1, 0], [1, -1], [1, 1e9], [1, '2'], [1, None], [[1], [2]]],
    ('masked',): [None, 'x', [1], ['']], ('pattern',): ['(a+)+'],
}
for name, wrong in (('index.json', WRONG), ('embedder.json', EMBEDDER), ('texts.json', TEXTS)):
    signed |= {f'{name} {".".join(map(str, keys))} = {repr(o)[:60]}': at(o, *keys, name=name) for keys, values in wrong.items()
               for o in values}
    signed |= {f'{name} no {keys[0]}': at(at, keys[0], name=name) for keys in wrong
               if len(keys) == 1 and keys[0] not in ('path', 'file', 'pattern')}

def tensors(change):
    return lambda d: save_file({k: v.contiguous() for k, v in change(load_file(d/'model.safetensors'), 'body.conv_stem.weight').items()},
                               d/'model.safetensors')
signed |= {f'tensors {k}': tensors(f) for k, f in {
    'missing': lambda t, k: {o: v for o, v in t.items() if o != k}, 'extra': lambda t, k: t | {'body.more': torch.zeros(1)},
    'arrays': lambda t, k: t | {'arrays.more': torch.zeros(1)}, 'half': lambda t, k: t | {k: t[k].half()},
    'nan': lambda t, k: t | {k: t[k]*torch.nan}, 'flat': lambda t, k: t | {k: t[k].flatten()}}.items()}
signed |= {'centroids without cells': lambda d: (at('flat', 'kind')(d), at({}, 'settings')(d)),
           'mixed vectors without texts.json': lambda d: (d/'texts.json').unlink(),
           'a model without embedder.json': lambda d: (d/'embedder.json').unlink(),
           'embedder.json without a model': lambda d: (d/'model.safetensors').unlink(),
           'cells without centroids': lambda d: (d/'centroids.npy').unlink(),
           'rejected is no table': lambda d: (d/'rejected.csv').write_bytes(b'"\xff\x00')}

MUTATIONS = as_params(plain, signed)

def test_there_are_many(): assert len(MUTATIONS) >= 100

def test_the_index_is_good(whole):
    index = SimilarIndex.load(whole)
    assert index.kind == 'ivf_sq8' and index.search('000.jpg', k=3, where="colour == 'Blue'")['colour'].tolist() == ['Blue']*3

@pytest.mark.parametrize('mutate, re_sign', MUTATIONS)
def test_one_error_and_nothing_else(mutate, re_sign, whole, tmp_path):
    check_one_error(whole, tmp_path, mutate, sign if re_sign else None, SimilarIndex.load, EmbeddingsError, INDEX_FILES)

def test_the_canary_would_sing(tmp_path): check_canary(tmp_path)

@pytest.fixture(scope='module')
def embeddings(whole, tmp_path_factory):
    d = tmp_path_factory.mktemp('whole')/'embeddings'; d.mkdir()
    index = SimilarIndex.load(whole)
    np.save(d/'vectors.npy', index.texts.parts(index.vectors)[0]); write_json(d/'ids.json', index.table['image'].tolist())
    write_table(d/'rejected.csv', rejected_table())
    write_embedder(index.embedder, d); seal(d, INDEX_FILES)
    return d

OF_EMBEDDINGS = {k: f for k, f in signed.items() if k.startswith(('vectors', 'npy', 'ids', 'embedder.json', 'tensors'))
                 and 'no embedder' not in k}

@pytest.mark.parametrize('mutate', [pytest.param(f, id=k.encode('ascii', 'replace').decode()) for k, f in list(OF_EMBEDDINGS.items())[::3]])
def test_embeddings_go_through_the_same_checks(mutate, embeddings, tmp_path):
    d = tmp_path/'e'
    shutil.copytree(embeddings, d); mutate(d); seal(d, INDEX_FILES)
    with pytest.raises(EmbeddingsError, match='cannot be loaded'): load_embeddings(d)

def test_the_embeddings_are_good(embeddings): assert load_embeddings(embeddings).vectors.shape == (N, D)
