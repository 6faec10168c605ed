"The rules of an export are enough: a program that knows numpy, re and json alone reaches the scores of the library."
import json, subprocess, sys

import numpy as np, pandas as pd, pytest, torch
from PIL import Image

from catalog_tagger.catalog.images import Prep
from catalog_tagger.catalog.label_words import label_stems, mask_words
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.train.backbones import find_arch
from catalog_tagger.train.heads import build_model
from catalog_tagger.serve.decide import fit_decision
from catalog_tagger.serve.onnx import export_onnx
from catalog_tagger.serve.tagger import Tagger
from catalog_tagger.serve.texts import fit_text_side

SPACE = LabelSpace(['Kleider', 'Schuhe', 'rot', 'blau', 'sale'], {'art': ['Kleider', 'Schuhe'], 'farbe': ['rot', 'blau']}, {}, {})
ARCH = 'test_efficientnet'
PHOTO = np.asarray(Image.linear_gradient('L').resize((40, 40)).convert('RGB'))
TEXTS = ['漢', 'Rotes Sommerkleid, Größe 38/40', 'blaue BLAUE Schuhe – blau!', "Women's T-shirt's",
         '<p>Rotes&nbsp;Kleid mit G&uuml;rtel &amp;amp; T&#45;Shirt</p>',
         '&lt;ul&gt;&lt;li&gt;Wolle&lt;li&gt;Seide rot', 'Som\u00admer\u2011kleid  \u3000rot\x85lang',
         'Rock <img src="data:image/png;base64,' + 'Ab3/'*99 + '"> rot',
         'rot/blau/'*20, 'Mehr: https://shop.example/rot?id=1, info@shop.example rot', 'We <3 rot, < 40 cm, <neu> rot',
         '<script>blau</script>rot<!-- blau -->', 'rot\0\x1b[31m \u202eblau\ud800', 'Größe GRÖSSE ﬁne İpek', '👗 rot 👩\u200d🎤',
         'x', 'Sommer kleid lang', 'a rot', 'rot '*40,
         'ro\u0301t e\u0308 ärmel']

def shop_tagger(masked=()):
    gen = np.random.default_rng(0); pick = gen.integers(0, 2, (400, 3)); torch.manual_seed(0)
    targs = np.c_[pick[:, 0] == 0, pick[:, 0] == 1, pick[:, 1] == 0, pick[:, 1] == 1, pick[:, 2]].astype(float)
    words = [['Sommerkleid', 'Kleid lang'], ['Laufschuhe', 'Schuh für Größe']], [['rotes', 'rot'], ['blaue', 'blau']]
    more = ['Wolle', 'Seide', 'Gürtel 38/40', 'T-Shirt lang']
    titles = [f'{gen.choice(words[1][b])} {gen.choice(words[0][a])} {gen.choice(more)}' for a, b, _ in pick]
    rows = pd.DataFrame(dict(text=titles, product=[f'p{i}' for i in range(400)], unit=range(400), split=['train', 'valid']*200))
    scores = 1/(1 + np.exp(-(2*targs[1::2] - 1 + gen.normal(size=(200, 5)))))
    head = [dict(layer='AdaptiveAvgPool2d'), dict(layer='Flatten'), dict(layer='Linear', in_features=256, out_features=5, bias=True)]
    side = fit_text_side(rows, targs, scores, SPACE, columns=['titel'], masked=masked)
    return Tagger(build_model(find_arch(ARCH), head)[0], SPACE, Prep((32, 32), (.5,)*3, (.25,)*3), 'sigmoid', arch=ARCH,
                  decision=fit_decision(scores, targs[1::2], SPACE),
                  texts=side)

PROGRAM = r'''
import csv, json, re, struct, sys, unicodedata
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
sys.modules['catalog_tagger'] = None
import numpy as np

file = Path(sys.argv[1]); given = json.loads(sys.stdin.read())
rules = json.loads(file.read_text(encoding='utf-8'))['texts']
text = json.loads((file.parent/rules['json']).read_text(encoding='utf-8'))
data = (file.parent/rules['arrays']).read_bytes(); n, = struct.unpack('<Q', data[:8]); head = json.loads(data[8:8+n])
arrays = {k: np.frombuffer(data[8+n:][slice(*o['data_offsets'])], '<f4').reshape(o['shape'])
          for k, o in head.items() if k != '__metadata__'}
labels = list(csv.DictReader((file.parent/'selected_tags.csv').open(encoding='utf-8', newline='')))
how = {o['rule']: o for o in rules['clean']}

class Page(HTMLParser):
    def __init__(self): super().__init__(); self.parts, self.hidden = [], False
    def tag(self, name): self.parts += ['\n']*(name in how['markup']['blocks'])
    def handle_starttag(self, name, attrs): self.hidden |= name in how['markup']['hidden']; self.tag(name)
    def handle_endtag(self, name): self.hidden &= name not in how['markup']['hidden']; self.tag(name)
    def handle_data(self, data): self.parts += [data]*(not self.hidden)

def markup(s):
    if '<' not in s: return s
    s = re.sub(how['markup']['no_tag'], '&lt;', re.sub(how['markup']['aside'], '', s).replace('&', '&amp;'))
    page = Page(); page.feed(s); page.close(); return ''.join(page.parts)

def addresses(s):
    def run(o): return ' ' if re.search(r'\d', o[0]) or max(map(len, re.split('[+/=_]', o[0]))) > 60 else o[0]
    return re.sub(how['addresses']['run'], run, re.sub(how['addresses']['address'], ' ', s))

def delete(name): return lambda s: re.sub(how[name]['delete'], '', s)
steps = dict(markup=markup, entities=lambda s: unescape(unescape(s)), escaped=markup, invisible=delete('invisible'),
             control=lambda s: delete('control')('\n'.join(s.splitlines())), addresses=addresses,
             characters=lambda s: ''.join(how['characters']['map'].get(c, c) for c in unicodedata.normalize('NFC', s)))

def stem(word):
    word = ''.join(c for c in unicodedata.normalize('NFKD', word.casefold()) if c.isalnum())
    while end := next((e for e in rules['mask']['endings'] if word.endswith(e) and len(word) - len(e) >= (3 if e == 's' else 4)), None):
        word = word[:-len(end)]
    return word

def mask(s):
    masked = set(text['masked']); at, out = 0, ''
    words = [(o.start(), o.end(), stem(o[0])) for o in re.finditer(rules['mask']['word'], s) if len(o[0]) <= rules['mask']['letters']]
    for i, (a, b, w) in enumerate(words):
        if not (w in masked or any(w.endswith(m) and len(m) >= 4 for m in masked)):
            if i + 1 == len(words) or stem(w + words[i+1][2]) not in masked: continue
            b = words[i+1][1]
        if a >= at: out += s[at:a]
        at = max(at, b)
    return out + s[at:]

def terms(s):
    s, res = clean(s).lower(), []
    for w in s.split():
        w = f' {w} '
        for k in (2, 3, 4, 5):
            if k >= len(w): res.append(w); break
            res += [w[i:i+k] for i in range(len(w) - k + 1)]
    words = re.findall(r'\w+', s)
    return res + ['w ' + o for o in words + [f'{a} {b}' for a, b in zip(words, words[1:])]]

def clean(s):
    s = s[:100000]
    for rule in rules['clean']: s = steps[rule['rule']](s)
    s = ' '.join(s.split())
    return mask(s) if text['masked'] else s

def named(s, names):
    words = [stem(o) for o in re.findall(rules['mask']['word'], s) if len(o) <= rules['mask']['letters']]; i, out = 0, []
    while i < len(words):
        runs = [(len(k), [l for key, l in names if key == k]) for n in range(len(words) - i, 0, -1)
                if any(key == (k := words[i:i+n]) for key, _ in names)]
        pair = [l for key, l in names if key == [stem(''.join(words[i:i+2]))]] if i + 1 < len(words) else []
        n, found = runs[0] if runs else (2, pair) if pair else (1, [])
        out += found; i += n
    return out

def signals(s):
    at = {o['name']: i for i, o in enumerate(labels)}; res = np.zeros((2, len(labels)))
    for names in rules['names'].values():
        if found := named(clean(s), names):
            for l in found: res[0, at[l]] = 1
            res[1, at[found[0]]] = 1
    return res

def margins(s):
    found = [o for o in terms(s) if o in known]
    if not found: return None
    x = np.zeros(len(known))
    for o in set(found): x[known[o]] = (1 + np.log(found.count(o)))*arrays['idf'][known[o]]
    return x/np.sqrt((x**2).sum()) @ arrays['weight'] + arrays['bias']

def sigmoid(x): return 1/(1 + np.exp(-x))
def logit(p): p = np.clip(p, 1e-9, 1 - 1e-9); return np.log(p/(1 - p))

def scores(s, p):
    m = margins(s)
    if m is None: return p, rules['picture']
    how = text['alone' if p is None else 'both']; w = np.array([how['join']['weights'][o['group']] for o in labels]).T
    z = w[1]*m + w[2]*signals(s)[0] + w[3]*signals(s)[1] + w[4]
    return sigmoid(z if p is None else z + w[0]*logit(p)), how['decision']

def calibrated(p, decision):
    c = decision['calibration']; res = sigmoid(np.array(c['slope'])*logit(p) + c['shift'])
    for g in c['shares']:
        at = [i for i, o in enumerate(labels) if o['group'] == g]
        e = np.maximum(p[at], 1e-9)**np.array(c['slope'])[at]; res[at] = e/e.sum()
    return res

known = {o: i for i, o in enumerate(text['vocab'])}; res = []
for s, p in given:
    q, decision = scores(s, None if p is None else np.array(p))
    res.append([q.tolist(), calibrated(q, decision).tolist(), decision['thresholds']['balanced']] if q is not None else None)
print(json.dumps(res))
'''

@pytest.mark.parametrize('masked', [(), label_stems(['Kleider', 'rot'])], ids=['all words', 'masked'])
def test_a_program_of_its_own_reaches_the_scores(masked, tmp_path):
    pytest.importorskip('onnxruntime', reason='needs onnxruntime: pip install "catalog_tagger[onnx]"')
    tagger = shop_tagger(masked); export_onnx(tagger, tmp_path/'shop.onnx')
    assert {o.name for o in tmp_path.iterdir()} == {'shop.onnx', 'shop.json', 'selected_tags.csv', 'shop.text.json',
                                                    'shop.text.safetensors'}
    shown = [PHOTO if i % 3 else None for i in range(len(TEXTS))] + [PHOTO]; texts = [*TEXTS, None]
    pictures = [o if o is None else tagger.scores([o])[0] for o in shown]
    given = json.dumps([[t or '', None if p is None else p.tolist()] for t, p in zip(texts, pictures)])
    res = subprocess.run([sys.executable, '-c', PROGRAM, tmp_path/'shop.json'], input=given, capture_output=True, text=True, check=False,
                         cwd=tmp_path)
    assert not res.returncode, res.stderr[-2000:]
    want, side = tagger.scores_with_texts(shown, texts); got = json.loads(res.stdout)
    assert set(side) == {'picture', 'text', 'both', ''}
    for i, (o, s) in enumerate(zip(got, side)):
        if s == '': assert o is None; continue
        np.testing.assert_allclose(o[0], want[i], atol=1e-5, err_msg=repr(texts[i]))
        own = tagger.for_side(s)
        np.testing.assert_allclose(o[1], own.calibrated(want[i:i+1])[0], atol=1e-5); assert o[2] == own.decision.thresholds['balanced']

def test_the_mask_is_not_idle():
    stems = label_stems(['Kleider', 'rot'])
    assert [mask_words(o, stems).split() for o in ('Rotes Sommerkleid', 'rot', 'Sommer kleid')] == [['Rotes'], [], ['Sommer']]

def test_a_tagger_of_pictures_alone_exports_no_texts(tmp_path):
    pytest.importorskip('onnx', reason='needs onnx: pip install "catalog_tagger[onnx]"')
    tagger = shop_tagger(); tagger.texts = None; export_onnx(tagger, tmp_path/'shop.onnx')
    assert {o.name for o in tmp_path.iterdir()} == {'shop.onnx', 'shop.json', 'selected_tags.csv'}
    assert 'texts' not in json.loads((tmp_path/'shop.json').read_text())
