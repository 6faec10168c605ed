"Bundles that are damaged, forged or out to do harm: one `BundleError` each, and nothing is run, read outside or changed."
import hashlib, json, os, struct
from pathlib import Path

import numpy as np, pytest, torch
from folder_faults import as_params, check_canary, check_one_error, cut, pipe, planted, spoilt_files, spoilt_sums
from safetensors.numpy import load_file as load_arrays, save_file as save_arrays
from safetensors.torch import load_file, save_file

from catalog_tagger.catalog.images import OPENING_VERSION, Prep
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.train.backbones import find_arch
from catalog_tagger.train.heads import build_model
from catalog_tagger.train.text_model import MOST_NGRAMS, TextModel
from catalog_tagger.serve.decide import fit_decision
from catalog_tagger.serve.tagger import BUNDLE_FILES, BundleError, Tagger, save_bundle
from catalog_tagger.serve.texts import Joined, TextSide, fit_join

ARCH = 'mobilenetv3_small_050'
HEAD = [dict(layer='ConcatPool'), dict(layer='Flatten'), dict(layer='BatchNorm1d', num_features=576, eps=1e-5), dict(layer='Dropout', p=.5),
        dict(layer='Sequential', layers=[dict(layer='Linear', in_features=576, out_features=6, bias=False), dict(layer='ReLU')]),
        dict(layer='Linear', in_features=6, out_features=6, bias=True)]
TEXT_FILES = ['text.json', 'text.safetensors']
SIGNED = [*TEXT_FILES, *(o for o in BUNDLE_FILES if o != 'SHA256SUMS')]

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    space = LabelSpace(['Apparel', 'Shoes', 'Red', 'Blue', 'new', 'Heels'], {'master': ['Apparel', 'Shoes'], 'colour': ['Red', 'Blue']},
                       {'Heels': 'Shoes'},
                       {o: dict(label=o, count=3, rule='kept') for o in ('Apparel', 'Shoes', 'Red', 'Blue', 'new', 'Heels')})
    scores, targs = np.random.default_rng(0).random((40, 6)), np.eye(6)[np.arange(40) % 6]
    model = TextModel(['re', 'w red', 'w shoes'], np.ones(3, 'f'), np.ones((3, 6), 'f'), np.zeros(6, 'f'), frozenset(['heel']))
    join, decision = fit_join(scores, np.stack([2*targs - 1, targs, targs]), targs, space), fit_decision(scores, targs, space)
    tagger = Tagger(build_model(find_arch(ARCH), HEAD)[0], space, Prep((32, 32), (.5,)*3, (.25,)*3), 'sigmoid', arch=ARCH,
                    texts=TextSide(model, ['title'], *[Joined(join, decision)]*3))
    return save_bundle(tagger, tmp_path_factory.mktemp('whole')/'bundle', facts=dict(seed=1),
                       metrics={'recall@3': dict(score=.5, low=.4, high=.6, nothing=0., commonest=.3)},
                       words=dict(lang='de', engine='hanta', k=3, phrases=[], names=dict(noun={}, adj={}), idf={'kleid': 1.},
                                  nouns=['kleid'], adjs=[]), arrays=dict(mean=np.zeros(3, np.float32)))

def sign(d:Path):
    there = [o for o in SIGNED if (d/o).exists()]
    (d/'SHA256SUMS').write_text(''.join(f'{hashlib.sha256((d/o).read_bytes()).hexdigest()}  {o}\n' for o in there))

# Mutations: name → what it does to a copy of the bundle. Those under `signed` get right sums afterwards.
plain, signed = {}, {}

plain |= spoilt_files([*BUNDLE_FILES, *TEXT_FILES], (0, .3, .9, .999), 4) | spoilt_sums('README.md')
if hasattr(os, 'mkfifo'): plain |= {'a pipe': pipe('tagger.json')}
plain |= {f'planted {o}': planted(o) for o in ('learner.pkl', 'model.pkl', 'model.pt', 'pytorch_model.bin', '.hidden.pkl', 'evil.py',
                                               '__init__.py', 'tagger.json.bak', 'data.npy', 'sitecustomize.py')}
plain |= {f'{o} is a pickle': planted(o) for o in BUNDLE_FILES}
signed |= {f'{o} is a signed pickle': planted(o) for o in SIGNED}
def swap(d):
    t = load_file(d/'model.safetensors')
    a, b = next((a, b) for a in t for b in t if t[a].shape == t[b].shape and not torch.equal(t[a], t[b]))
    save_file(t | {a: t[b].clone(), b: t[a].clone()}, d/'model.safetensors')
plain['tensors swapped'] = swap

def tensors(change):
    def do(d):
        t = load_file(d/'model.safetensors'); first = 'body.conv_stem.weight'
        save_file({k: v.contiguous() for k, v in change(t, first).items()}, d/'model.safetensors')
    return do
signed |= {f'tensors {k}': tensors(f) for k, f in {
    'missing': lambda t, k: {o: v for o, v in t.items() if o != k}, 'extra': lambda t, k: t | {'body.more': torch.zeros(1)},
    'of other names': lambda t, k: {f'model.{o}': v for o, v in t.items()},
    'flat': lambda t, k: t | {k: t[k].flatten()}, 'transposed': lambda t, k: t | {k: t[k].permute(1, 0, 2, 3)},
    'short': lambda t, k: t | {k: t[k][:-1]}, 'empty': lambda t, k: t | {k: t[k][:0]},
    'half': lambda t, k: t | {k: t[k].half()}, 'double': lambda t, k: t | {k: t[k].double()},
    'whole numbers': lambda t, k: t | {k: t[k].long()}, 'bytes': lambda t, k: t | {k: t[k].to(torch.uint8)},
    'nan': lambda t, k: t | {k: t[k]*torch.nan}, 'infinite': lambda t, k: t | {k: t[k] + torch.inf},
    'nan last': lambda t, k: t | {'head.5.bias': torch.tensor([0., 0, 0, 0, 0, torch.nan])},
    'nan in an array': lambda t, k: t | {'arrays.mean': torch.full((3,), torch.nan)}, 'of no model': lambda t, k: {'a': torch.zeros(1)},
    'of other labels': lambda t, k: t | {'head.5.weight': torch.zeros(7, 6), 'head.5.bias': torch.zeros(7)}}.items()}

def header(change, length=None):
    def do(d):
        data = (d/'model.safetensors').read_bytes(); n, = struct.unpack('<Q', data[:8])
        text = change(data[8:8+n].decode()).encode()
        (d/'model.safetensors').write_bytes(struct.pack('<Q', len(text) if length is None else length) + text + data[8+n:])
    return do
def entry(**kw):
    def change(text): h = json.loads(text); h['body.conv_stem.weight'] |= kw; return json.dumps(h)
    return change
signed |= {f'header {k}': f for k, f in {
    **{f'says {n}': header(str, n) for n in (0, 7, 10**6, 2**31, 2**63, 2**64 - 1)}, 'junk': header(lambda s: s[::-1]),
    'deep': header(lambda s: '{"a":'*10**5), 'a list': header(lambda s: '[]'), 'empty': header(lambda s: ''),
    'twice': header(lambda s: s[:-1] + ',' + s[1:]), 'terabyte': header(entry(shape=[2**20, 2**20])),
    'overflow': header(entry(shape=[2**63, 2**63])), 'negative': header(entry(shape=[-1])),
    'beyond': header(entry(data_offsets=[0, 2**40])), 'backwards': header(entry(data_offsets=[9, 1])),
    'overlap': header(entry(data_offsets=[0, 8])), 'type': header(entry(dtype='PICKLE')), 'number': header(entry(dtype=7)),
    'padded': header(lambda s: s + ' '*10**6, 2**40)}.items()}
signed |= {f'signed model cut at {share}': cut('model.safetensors', share) for share in (0, 1e-5, .01, .5, .999)}

def text(change): return lambda d: (d/'tagger.json').write_bytes(change((d/'tagger.json').read_text()).encode('utf-8', 'surrogatepass'))
signed |= {f'json {k}': text(f) for k, f in {
    'deep list': lambda s: '['*10**5, 'deep object': lambda s: '{"a":'*10**5 + '1' + '}'*10**5,
    'deep facts': lambda s: s.replace('"seed": 1', '"seed": ' + '['*10**4 + ']'*10**4),
    'twice': lambda s: s.replace('"tta": 1', '"tta": 1, "tta": 1'),
    'twice inside': lambda s: s.replace('"seed": 1', '"seed": 1, "seed": 2'), 'nan': lambda s: s.replace('"seed": 1', '"seed": NaN'),
    'infinity': lambda s: s.replace('"seed": 1', '"seed": -Infinity'),
    'long number': lambda s: s.replace('"seed": 1', '"seed": ' + '9'*10**5), 'empty': lambda s: '', 'null': lambda s: 'null',
    'a list': lambda s: '[]', 'a word': lambda s: '"tagger"', 'two': lambda s: s + s, 'cut': lambda s: s[:len(s)//2],
    'surrogate': lambda s: s.replace('"seed"', '"\ud800"'), 'marked': lambda s: '\ufeff' + s}.items()}
signed['json utf-16'] = lambda d: (d/'tagger.json').write_bytes((d/'tagger.json').read_text().encode('utf-16'))
signed['card latin-1'] = lambda d: (d/'README.md').write_bytes('Küche'.encode('latin-1'))

def at(value, *keys, file='tagger.json'):
    "Set what stands in a JSON under `keys`; without a value it goes away."
    def do(d):
        whole = o = json.loads((d/file).read_text())
        for k in keys[:-1]: o = o[k]
        if value is at: del o[keys[-1]]
        else: o[keys[-1]] = value
        (d/file).write_text(json.dumps(whole))
    return do

WRONG = {
    ('format',): ['1', 1.0, True, 0, 2, -1, [1]],
    ('arch',): [None, 7, '', [], ['resnet18'], {'a': 1}, '../../etc/passwd', '/etc/passwd', 'hf-hub:timm/resnet18', 'local-dir:/tmp',
                'os.system', 'restnet18', 'resnet18', 'efficientnet_lite0', 'x'*10**6, 'a\n'],
    ('head',): [None, {}, [], 'fastai', [None], [[]], [{}], [{'layer': 'Flatten'}], HEAD*20, HEAD[:-1],
                HEAD + [{'layer': 'Sigmoid', 'p': 1}]],
    ('head', 0, 'layer'): [None, 1, [], {}, 'os.system', '__import__', 'catalog_tagger.models', 'Module', 'AdaptiveAvgPool2d',
                           '../ConcatPool'],
    ('head', 2, 'num_features'): [577, 0, -576, 576.0, '576', None, True, 10**30, 2**40], ('head', 2, 'eps'): ['1e-5', -1, None, 1e300, []],
    ('head', 3, 'p'): [2, -1, '0.5', None, [0.5]],
    ('head', 4, 'layers'): [None, [], {}, 'x',
                            [{'layer': 'Sequential',
                              'layers': [{'layer': 'Sequential', 'layers': [{'layer': 'Sequential', 'layers': [{'layer': 'ReLU'}]}]}]}]],
    ('head', 5, 'out_features'): [7, 10**6, 2**30, 2**62, 10**400], ('head', 5, 'in_features'): [5, 2**31 - 1, -6, '6'],
    ('head', 5, 'bias'): [False, 1, 'True', None], ('head', 5, 'device'): ['cuda'],
    ('prep',): [None, [], 'x', {}],
    ('prep', 'size'): [32, [32], [32, 32, 32], [10**9, 10**9], [0, 32], [-32, 32], ['32', '32'], [32.0, 32.0], None, {}, [True, True]],
    ('prep', 'mean'): [None, [.5, .5], 'abc', [.5, .5, '.5'], [.5, .5, None], [1e308, 0, 0], {}, [True, .5, .5]],
    ('prep', 'std'): [[0, 0, 0], [-1, 1, 1], [], None, [1e-300, 1, 1]],
    ('prep', 'method'): ['../squish', None, 1, [], {}], ('prep', 'opening'): [0, OPENING_VERSION + 1, '1', None, {}],
    ('prep', 'file'): ['/etc/passwd'],
    ('activation',): [None, 'relu', 1, [], {}, 'eval'], ('tta',): [0, 5, True, '1', 1.0, None, 10**9, []],
    ('space',): [None, [], 'x', {}],
    ('space', 'vocab'): [None, {}, 'Red', [], [1, 2, 3, 4, 5, 6], ['a']*6, ['Apparel', 'Shoes', 'Red', 'Blue', 'new'],
                         [str(i) for i in range(10**6)]],
    ('space', 'exclusive'): [None, [], {'a': ['nobody']}, {'a': []}, {'a': 'Red'}, {'a': ['Red'], 'b': ['Red']}, {'a': [['Red']]}],
    ('space', 'parents'): [None, [], {'Red': 'nobody'}, {'Red': 'Red'}, {'Red': 'Blue', 'Blue': 'Red'}, {'Red': ['Blue']}, {'x': 'Red'}],
    ('space', 'provenance'): [None, [], {'a': None}, {'a': {}}, {'a': {'label': 'nobody', 'count': 1, 'rule': ''}},
                              {'a': {'label': [], 'count': 1, 'rule': ''}}, {'a': {'label': 'Red', 'count': '1', 'rule': ''}}],
    ('space', 'recipe'): [None, [], {'': 'x'}, {'': [{'step': 'lemmatise', 'lang': '../../etc/passwd'}]}, {'': [{'step': []}]},
                          {'': [{'step': 'normalise', 'file': '/etc/passwd'}]}, {'': [None]}],
    ('space', 'pictures'): [None, [], {'Red': '1'}],
    ('space', 'code'): ['import os'], ('words',): [[], 'x', {}, {'lang': '../../etc/passwd'}], ('words', 'lang'): ['../de', None, []],
    ('words', 'idf'): [{}, None, {'kleid': '1'}], ('decision',): [[], 'x', 1, {}, {'calibration': '../x'}],
    ('versions',): [None, []], ('facts',): [None, [], 'x'], ('metrics',): [None, [], 1], ('path',): ['../outside'],
}
signed |= {f'{".".join(map(str, keys))} = {repr(o)[:60]}': at(o, *keys) for keys, values in WRONG.items() for o in values}
signed |= {f'no {".".join(keys)}': at(at, *keys)
           for keys in [(o,) for o in ('format', 'arch', 'head', 'prep', 'activation', 'tta', 'space', 'words', 'decision', 'versions',
                                       'facts', 'metrics')] + [('prep', 'std'), ('space', 'vocab')]}

# The side of texts
signed |= {f'{o} alone': lambda d, o=o: (d/o).unlink() for o in TEXT_FILES}
signed |= {f'signed {o} cut at {k}': cut(o, k) for o in TEXT_FILES for k in (0, .5, .99)}

def text_arrays(change):
    def do(d):
        a = change(load_arrays(d/'text.safetensors'))
        save_arrays({k: np.ascontiguousarray(o) for k, o in a.items()}, d/'text.safetensors')
    return do
signed |= {f'text arrays {k}': text_arrays(f) for k, f in {
    'missing': lambda a: {k: a[k] for k in ('idf', 'weight')}, 'extra': lambda a: a | {'more': a['idf']},
    'renamed': lambda a: {f'x{k}': o for k, o in a.items()},
    'none': lambda a: {}, 'flat': lambda a: a | {'weight': a['weight'].ravel()}, 'turned': lambda a: a | {'weight': a['weight'].T},
    'of other labels': lambda a: a | {'weight': a['weight'][:, :5], 'bias': a['bias'][:5]},
    'short': lambda a: a | {'idf': a['idf'][:2]},
    'of more n-grams': lambda a: a | {'weight': np.ones((4, 6), 'f'), 'idf': np.ones(4, 'f')},
    'double': lambda a: a | {'bias': a['bias'].astype(float)},
    'half': lambda a: a | {'idf': a['idf'].astype(np.float16)}, 'whole numbers': lambda a: a | {'idf': a['idf'].astype(int)},
    'nan': lambda a: a | {'weight': a['weight']*np.nan}, 'infinite': lambda a: a | {'bias': a['bias'] + np.inf},
    'huge': lambda a: a | {'idf': a['idf']*1e30}}.items()}
TEXT_WRONG = {
    ('format',): ['1', 0, 2, True, None], ('columns',): [None, 'title', [1], [''], ['x'*10**6], ['a']*10**5, ['a\x1b[2J']],
    ('vocab',): [None, [], {}, 're', ['re', 're', 'w red'], ['re', 'w red'], ['re', 'w red', 1], ['re', 'w red', ''],
                 ['re', 'w red', 'x'*501], ['re', 'w red', 'x'*(65 << 20)],
                 ['re', 'w red', '\ud800'], ['re', 'w red', '\0'], ['re', 'w red', '\x9b'],
                 [str(i) for i in range(MOST_NGRAMS + 1)], [[]]*3, json.loads('['*40 + ']'*40)],
    ('masked',): [None, 'red', [1], [''], ['x'*10**6], ['\x1b']], ('masked', 0): [None, []], ('alone',): [None, [], {}],
    ('alone', 'decision', 'support'): [[1]*5, None], ('alone', 'decision', 'outside'): [{}, {'mean': [1], 'weight': [[1]], 'limit': 1}],
    ('alone', 'decision', 'calibration', 'shares'): [[''], ['nobody'], ['colour', 'colour']],
    ('alone', 'decision', 'calibration', 'slope'): [[0]*6, [1e300]*6, [1]*7],
    ('both',): [None, {}], ('both', 'join'): [None, {}, {'weights': {}}],
    ('both', 'decision', 'publish'): [{'nobody': .5}, {'colour': 2}],
    ('both', 'join', 'weights', 'colour'): [None, [1, 1], [1, 1, 1, 1], ['1', 1, 1], [1e300, 1, 1], [True, 1, 1], [None, 1, 1]],
    ('both', 'join', 'weights', 'nobody'): [[1, 1, 1]], ('both', 'join', 'formula'): ['x'], ('products',): [[], {}, 1],
    ('products', 'join', 'weights', 'master'): [[1]], ('products', 'decision', 'thresholds'): [{}, None],
    ('pattern',): ['(a+)+$'], ('code',): ['import os']}
signed |= {f'text {".".join(map(str, keys))} = {repr(o)[:60]}': at(o, *keys, file='text.json')
           for keys, values in TEXT_WRONG.items() for o in values}
signed |= {f'no text {".".join(o)}': at(at, *o, file='text.json')
           for o in [('format',), ('columns',), ('vocab',), ('masked',), ('alone',), ('both',), ('products',), ('both', 'join'),
                     ('both', 'join', 'weights', '')]}
signed |= {f'text json {k}': lambda d, f=f: (d/'text.json').write_bytes(f((d/'text.json').read_text()).encode()) for k, f in {
    'deep': lambda s: '['*10**5, 'empty': lambda s: '', 'twice': lambda s: s + s,
    'twice inside': lambda s: s.replace('"format": 1', '"format": 1, "format": 1'),
    'nan': lambda s: s.replace('1.0', 'NaN', 1), 'many lists': lambda s: '[' + '[],'*3_000_000 + '1]'}.items()}

MUTATIONS = as_params(plain, signed)

def test_there_are_many(): assert len(MUTATIONS) >= 100

def test_the_bundle_is_good(bundle):
    tagger = Tagger.load(bundle)
    assert tagger.words.nouns == ['kleid'] and tagger.texts.model.vocab == ['re', 'w red', 'w shoes'] and tagger.texts.products

@pytest.mark.parametrize('mutate, re_sign', MUTATIONS)
def test_one_error_and_nothing_else(mutate, re_sign, bundle, tmp_path):
    check_one_error(bundle, tmp_path, mutate, sign if re_sign else None, Tagger.load, BundleError, [*BUNDLE_FILES, *TEXT_FILES])

def test_the_canary_would_sing(tmp_path): check_canary(tmp_path)
