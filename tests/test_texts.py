"Words and pictures together: what a text model must equal, what a decision must not have seen, and whole runs that learn from titles."
import json, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.catalog.descriptions import clean_text
from catalog_tagger.catalog.images import Prep
from catalog_tagger.catalog.label_words import label_stems
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.catalog.ngrams import WORD, char_ngrams, ngrams, word_ngrams
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.train.backbones import find_arch
from catalog_tagger.train.heads import build_model
from catalog_tagger.train.text_model import MOST_CHARACTERS, fit_text_model
from catalog_tagger.serve.decide import fit_decision
from catalog_tagger.serve.products import fit_products
from catalog_tagger.serve.tagger import Tagger, save_bundle
from catalog_tagger.serve.texts import fit_join, fit_text_side, text_signals
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.score import kept_promise
from catalog_tagger.runs.train import train_run

SPACE = LabelSpace(['dress', 'shoes', 'red', 'blue', 'sale'], {'shape': ['dress', 'shoes'], 'colour': ['red', 'blue']}, {}, {})
TITLES = ['Rotes Sommerkleid, Größe 38/40', "Women's T-shirt – navy/blue", 'red red red dress', 'Blaue Lauf-Schuhe (Größe 42)',
          'RED dress & shoes', 'Kleid: rot, lang', '<b>Blue</b> running shoes', 'weiße Bluse',
          'blue shoes, blue laces', 'größere Größe 40', 'running shoes 40', 'navy dress']
PHOTO = np.asarray(Image.linear_gradient('L').resize((40, 40)).convert('RGB'))

# The same as scikit-learn

LETTERS = st.sampled_from([*'abcdeßäöüÄÉ İıé1234567890  \t\n\u00a0-_\'’/.,!&<',
                           '👗', '👩\u200d🎤', 'ك', 'ت', 'ا', 'ب', '红', '色', '裙', 'か', 'が', 'e\u0301', 'ﬁ'])

@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(st.lists(LETTERS, max_size=40).map(''.join) | st.text(max_size=30))
def test_ngrams_are_those_of_scikit_learn(text):
    chars = TfidfVectorizer(analyzer='char_wb', ngram_range=(2, 5), lowercase=False).build_analyzer()
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r'\w+', lowercase=False).build_analyzer()
    low = text.lower()
    assert sorted(char_ngrams(low)) == sorted(chars(low)) and word_ngrams(low) == words(low)
    assert sorted(ngrams(text)) == sorted(chars(low) + [WORD + o for o in words(low)])

def test_margins_are_those_of_scikit_learn():
    targs = np.random.default_rng(0).integers(0, 2, (len(TITLES), 4)).astype(float); targs[:, 3] = np.nan; targs[:6, 3] = [0, 1, 0, 1, 1, 0]
    model, asked = fit_text_model(TITLES, targs), [*TITLES, 'ein rotes, rotes Kleid', 'Größe', 'shoes '*50]
    v = TfidfVectorizer(analyzer=lambda o: ngrams(clean_text(o)), min_df=2, sublinear_tf=True); X = v.fit_transform(TITLES)
    assert model.vocab == v.get_feature_names_out().tolist()
    for i in range(4):
        known = ~np.isnan(targs[:, i])
        svm = LinearSVC(dual=True, random_state=0).fit(X[known], targs[known, i])     # unknown cells are left out
        np.testing.assert_allclose(model.margins(asked)[:, i], svm.decision_function(v.transform(asked)), atol=1e-5)

def test_a_label_of_all_or_none_has_one_margin():
    model = fit_text_model(TITLES, np.tile([1., 0., np.nan], (len(TITLES), 1)))
    assert (model.margins(['red', 'unknown red']) == [1, -1, -1]).all()

# Any text

HOSTILE = {'10 MB': 'red dress '*10**6, 'a million words': ' '.join(f'w{i}' for i in range(10**6)),
           'brackets': '<'*10**6, 'tags': '<a '*10**6,
           'apostrophes': "e'"*10**6, 'slashes': 'a/'*10**6, 'one word': 'a'*10**7, 'controls': 'r\0e\x02d', 'bidi': '\u202ered\u202c',
           'half': 'red \ud800', 'entities': '&amp;'*10**6, 'page': '<html><style>p{}</style><p>red</p></html>',
           'expanding': '\ufdfa'*10**6}

@pytest.fixture(scope='module')
def model():
    targs = np.eye(5)[[0, 1, 0, 1, 0, 0, 1, 4, 1, 4, 1, 0]]
    return fit_text_model(TITLES, targs, masked=['kleid'])

@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_text_costs_little(name, model):
    from forging import measured, no_hang
    with no_hang(30), measured() as cost: res = model.margins([HOSTILE[name]])
    assert res.shape == (1, 5) and (np.isfinite(res).all() or np.isnan(res).all())
    assert cost.peak < 60 << 20 and cost.calls < 3_000_000

def test_what_is_hidden_in_a_text_says_nothing(model):
    for text in ('r\0e\x02d', '\u202ered\u202c', 'red \ud800', 'red\x1b[2J', '<script>blue</script>red'):
        np.testing.assert_array_equal(model.margins([text]), model.margins(['red']))
    cut = 'x'*(MOST_CHARACTERS//10) + ' '
    assert model.plain(('blue '*MOST_CHARACTERS)[:MOST_CHARACTERS] + cut) == model.plain('blue '*MOST_CHARACTERS)

def test_a_text_that_is_not_read_to_its_end_is_told(model):
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 100,000 characters and are read up to there, such as 'red red"):
        model.margins(['red', 'red '*MOST_CHARACTERS])

def test_control_characters_reach_no_vocabulary():
    model = fit_text_model(['red\x02dress \ud800', 'red\x02dress \ud800'], np.eye(2))
    assert not any(set(o) & {'\x02', '\ud800'} for o in model.vocab) and 'w reddress' in model.vocab

@pytest.mark.parametrize('bad', [38, 1.5, b'red', ['red'], {'red': 1}, True])
def test_a_text_that_is_no_string(bad, shop_tagger):
    for texts in ([bad], ['red', bad]):
        with pytest.raises(CatalogError, match='expected a string, or None for no text'):
            shop_tagger.predict([PHOTO]*len(texts), texts=texts)
    with pytest.raises(CatalogError, match='expected a string'): shop_tagger.predict_products([PHOTO], ['p'], texts=[bad])

# A text side of drawn products: half of them name their labels, the picture knows the shape better

def draw(n, seed=0, noise=.25):
    "Titles, truth and scores of pictures."
    gen = np.random.default_rng(seed); pick = gen.integers(0, 2, (n, 3)); flip = gen.random((n, 2)) < noise
    targs = np.c_[pick[:, 0] == 0, pick[:, 0] == 1, pick[:, 1] == 0, pick[:, 1] == 1, pick[:, 2]].astype(float)
    shape, colour = np.array([['summer dress', 'long dresses'], ['running shoes', 'shoe']]), np.array(['red', 'blue'])
    titles = [f'{gen.choice(shape[a ^ x])} {colour[b ^ y]} {gen.integers(1000)}' for a, b, x, y in zip(*pick.T[:2], *flip.T.astype(int))]
    return titles, targs, expit((2*targs - 1)*[2, 2, .7, .7, .7] + gen.normal(size=targs.shape))

def as_rows(titles, product=None):
    "A table of pictures, of which the second half is valid."
    product = [f'p{i}' for i in range(len(titles))] if product is None else product
    half = len(titles)//2; split = np.repeat(['train', 'valid'], [half, len(titles) - half])
    return pd.DataFrame(dict(text=titles, product=product, unit=product, split=split))

def drawn_side(n=600, seed=0, **kw):
    titles, targs, scores = draw(n, seed)
    return fit_text_side(as_rows(titles), targs, scores[n//2:], SPACE, columns=['title'], **kw), (titles, targs, scores)

ARCH = 'test_efficientnet'
HEAD = [dict(layer='AdaptiveAvgPool2d'), dict(layer='Flatten'), dict(layer='Linear', in_features=256, out_features=5, bias=True)]

@pytest.fixture(scope='module')
def shop_tagger():
    torch.manual_seed(0); side, (_, targs, scores) = drawn_side()
    return Tagger(build_model(find_arch(ARCH), HEAD)[0], SPACE, Prep((32, 32), (.5,)*3, (.25,)*3), 'sigmoid', arch=ARCH,
                  decision=fit_decision(scores[300:], targs[300:], SPACE), texts=side)

def test_what_is_there_decides(shop_tagger):
    pictures = [PHOTO, PHOTO[::-1], None, PHOTO]; texts = ['red dress', None, 'blue shoes', 'qq 漢']
    scores, side = shop_tagger.scores_with_texts(pictures, texts)
    assert side.tolist() == ['both', 'picture', 'text', 'picture']
    alone = replace(shop_tagger, texts=None)
    plain = alone.scores([PHOTO, PHOTO[::-1], PHOTO]); m = shop_tagger.texts.model.margins(['red dress', 'blue shoes'])
    assert (scores[[1, 3]] == plain[1:].astype(float)).all()
    named = np.array([[1, 0, 1, 0, 0], [0, 1, 0, 1, 0]])     # dress and red, shoes and blue, each the first of its group
    for row, (at, joined) in enumerate(((0, shop_tagger.texts.both), (2, shop_tagger.texts.alone))):
        for g, cols in {'shape': [0, 1], 'colour': [2, 3], '': [4]}.items():
            a, b, n, f, c = joined.join.weights[g]
            for i in cols:
                z = b*m[row, i] + (n + f)*named[row, i] + c + (a*np.log(plain[0, i]/(1 - plain[0, i])) if row == 0 else 0)
                assert scores[at, i] == pytest.approx(1/(1 + np.exp(-z)), abs=1e-5)
    answers = shop_tagger.predict(pictures, texts=texts)
    assert [answers[1], answers[3]] == [alone.predict(PHOTO[::-1]), alone.predict(PHOTO)]     # bit for bit
    assert answers[2] == shop_tagger.for_side('text').answers(scores[2:3])[0] == shop_tagger.predict(texts='blue shoes')
    assert answers[0] == shop_tagger.predict(PHOTO, texts='red dress') and {'shoes', 'blue'} <= {t for t, _ in answers[2]}
    assert shop_tagger.predict(texts=['qq']) == [[]]
    with pytest.raises(CatalogError, match='row 1 has neither a picture nor a text'):
        shop_tagger.predict([PHOTO, None], texts=['red', None])
    with pytest.raises(CatalogError, match='learned from pictures alone'): alone.predict(PHOTO, texts='red')

def test_a_bundle_answers_the_same(shop_tagger, tmp_path):
    again = Tagger.load(save_bundle(shop_tagger, tmp_path/'bundle')); texts = ['red dress', 'Blue SHOES', None]
    for a, b in zip(again.scores_with_texts([PHOTO]*3, texts), shop_tagger.scores_with_texts([PHOTO]*3, texts)):
        if a.dtype != object: np.testing.assert_allclose(a, b, atol=1e-5)
        else: assert a.tolist() == b.tolist()
    assert again.texts.alone == shop_tagger.texts.alone and again.texts.both.join == shop_tagger.texts.both.join

NUMPY_ALONE = '''
import json, sys
for o in ('torch', 'torchvision', 'timm', 'fastai', 'sklearn'): sys.modules[o] = None
from catalog_tagger.core.sealed import SUMS, budget_sizes, parse_sealed, read_sealed
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.serve.text_file import read_text_side
names = budget_sizes('text.json', 'text.safetensors', 'model.safetensors', 'tagger.json', 'README.md', SUMS)
files = read_sealed(sys.argv[1], names, 'a bundle')
space = LabelSpace.from_dict(parse_sealed(files['tagger.json'], 'tagger.json')['space'])
side = read_text_side(files['text.json'], files['text.safetensors'], space)
print(json.dumps(side.model.margins(json.loads(sys.argv[2])).tolist()))
'''

def test_answering_from_texts_needs_numpy_alone(shop_tagger, tmp_path):
    d = save_bundle(shop_tagger, tmp_path/'bundle')
    res = subprocess.run([sys.executable, '-c', NUMPY_ALONE, d, json.dumps(TITLES)], capture_output=True, text=True, check=False)
    assert not res.returncode, res.stderr[-2000:]
    np.testing.assert_allclose(json.loads(res.stdout), shop_tagger.texts.model.margins(TITLES), atol=1e-6)

# Out of fold

def codes(n, seed): return [''.join(o) for o in np.random.default_rng(seed).choice([*'bcdfghjklm'], (n, 12))]

def test_no_text_was_in_the_model_that_judged_it():
    "Titles of random letters and labels by lot: whoever has seen a title knows its labels, and nobody else does."
    _, targs, _ = draw(400, 3); titles, scores = codes(400, 0), np.random.default_rng(9).random((400, 5))
    seen = fit_text_model(titles, targs).margins(titles)[200:]
    assert ((seen > 0) == targs[200:]).mean() > .99     # what must not happen
    assert '' in fit_decision(expit(seen), targs[200:], SPACE).publish
    side = fit_text_side(as_rows(titles), targs, scores[200:], SPACE)
    for decision in (side.alone.decision, side.both.decision): assert not decision.publish

def test_no_row_was_in_the_join_that_scored_it(monkeypatch):
    shared = []
    class Spy:
        def __init__(self, scores, signals, *rest): self.rows, self.join = set(map(tuple, signals[0])), fit_join(scores, signals, *rest)
        def apply(self, scores, signals, *rest):
            shared.append(len(self.rows & set(map(tuple, signals[0])))); return self.join.apply(scores, signals, *rest)
    monkeypatch.setattr('catalog_tagger.serve.texts.fit_join', Spy); drawn_side(200)
    assert shared == [0]*6     # three parts, for texts alone and for both

def test_promises_are_kept_on_new_products():
    right, n, promised = dict(text=0, both=0), dict(text=0, both=0), 0
    for seed in range(8):
        titles, targs, scores = draw(800, seed, noise=.02)
        side = fit_text_side(as_rows(titles), targs, scores[400:], SPACE)
        fresh, truth, pic = draw(1500, 100 + seed, noise=.02)
        truth[:, 4] = np.nan; m = text_signals(side.model, fresh, SPACE)
        # the free tag is not in the titles: promises of groups are asked for
        for s, pictures, o in (('text', None, side.alone), ('both', pic, side.both)):
            p, d = o.join.apply(pictures, m, SPACE), o.decision
            for g, cols in SPACE.group_columns.items():
                if g not in d.publish: continue
                cal = d.calibrated(p, SPACE)[:, cols]; out = cal.max(1) >= d.publish[g]; promised += 1
                n[s] += out.sum(); right[s] += (truth[out][:, cols].argmax(1) == cal[out].argmax(1)).sum()
    assert promised >= 16 and all(n[s] > 1000 and right[s]/n[s] >= .95 for s in n), (right, n, promised)

def test_unknown_cells_say_nothing():
    side, (titles, targs, scores) = drawn_side(200)
    at = np.random.default_rng(0).random(targs.shape) < .2; holes = np.where(at, np.nan, targs)
    signals = text_signals(fit_text_model(titles, targs), titles, SPACE); first = fit_join(scores, signals, holes, SPACE)
    other = np.where(at, 1 - scores, scores)     # scores of unknown cells may be anything
    again = fit_join(other, signals, holes, SPACE)
    np.testing.assert_allclose(first.weights[''], again.weights[''], atol=1e-6)     # a group is unknown as a whole or not at all
    assert fit_text_side(as_rows(titles), holes, scores[100:], SPACE).alone.decision.support[4] == np.nansum(holes[100:, 4])

def test_products_with_several_pictures():
    titles, targs, scores = draw(300, 5, noise=0); i = np.repeat(np.arange(300), 2); gen = np.random.default_rng(0)
    rows = as_rows([titles[k] if j % 2 else None for j, k in enumerate(i)], [f'p{k}' for k in i])     # a text on the second picture alone
    pics = expit((2*targs[i] - 1)*1. + gen.normal(size=(600, 5)))
    product = rows['product'][300:].tolist()
    rule = fit_products(pics[300:], targs[i][300:], product, SPACE)
    side = fit_text_side(rows, targs[i], pics[300:], SPACE, rule=rule)
    assert sum(side.alone.decision.support[:2]) == 150
    assert sum(side.products.decision.support[:2]) == 75     # products, half of them for the rule
    torch.manual_seed(0)
    t = Tagger(build_model(find_arch(ARCH), HEAD)[0], SPACE, Prep((32, 32), (.5,)*3, (.25,)*3), 'sigmoid', arch=ARCH,
               decision=fit_decision(pics[300:], targs[i][300:], SPACE), products=rule, texts=side)
    got = t.predict_products([PHOTO, PHOTO[::-1], PHOTO], ['a', 'a', 'b'], texts=[None, 'red dress', None])
    (_, whole), own = t.combined(t.scores([PHOTO, PHOTO[::-1], PHOTO]), ['a', 'a', 'b']), t.for_products()
    joined = side.products.join.apply(whole[:1], text_signals(side.model, ['red dress'], SPACE), SPACE)
    assert got == {'a': replace(own, decision=side.products.decision).answers(joined)[0], 'b': own.answers(whole[1:])[0]}
    assert t.predict_products([PHOTO]*2, ['a', 'b'])['b'] == got['b']

# Whole runs

def config(root, **kw):
    return RunConfig(str(root/'shop'), str(root/'run'), **dict(size=64, freeze_epochs=2, epochs=0, text=('productDisplayName',),
                                                             label_columns=('articleType', 'baseColour', 'gender')) | kw)

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp('texts'); demo_styles(root/'shop', n=240); told = []
    return train_run(config(root), told.append), root, '\n'.join(map(str, told))

def test_a_run_scores_three_sides(run):
    "Exact match and one group again, picture by picture and by `predict` alone."
    metrics, root, told = run; res = metrics['texts']; r = Run.open(root/'run'); tagger, space = r.tagger(), r.labels
    names = pd.read_csv(root/'shop'/'styles.csv', dtype=str).set_index('id')['productDisplayName']
    rows = r.pictures('test'); rows['text'] = rows['image'].map(lambda o: names[Path(o).stem])
    assert res['rows'] == len(rows) and res['missing'] == 0
    answers = dict(picture=tagger.predict(rows['image']), text=tagger.predict(texts=rows['text'].tolist()), both=tagger.predict(rows))
    for side, got in answers.items():
        exact, hits = [], []
        for tags, labels in zip(got, rows['labels']):
            said, true = {t for t, _ in tags}, set(labels)
            scored = [o for g, o in space.exclusive.items() if true & set(o)]    # a group without a label of the picture is not scored
            exact.append(all(said & set(o) == true & set(o) for o in scored))
            own = set(space.exclusive['articleType'])
            if true & own: hits.append(bool(said & true & own))
        assert res['sides'][side]['exact_match']['score'] == pytest.approx(np.mean(exact))
        assert res['sides'][side]['accuracy/articleType']['score'] == pytest.approx(np.mean(hits))
    assert res['sides']['both']['accuracy/articleType']['score'] > res['sides']['picture']['accuracy/articleType']['score'] + .2
    assert 'from the picture, from the text (productDisplayName) and from both' in told
    assert 'it is learned from besides the picture; text=none leaves it out' in told

def test_labels_can_be_taken_out_of_texts(run, tmp_path):
    demo_styles(tmp_path/'shop', n=240)
    metrics = train_run(config(tmp_path, mask_labels=True, freeze_epochs=1), lambda *_: None)
    side = Run.open(tmp_path/'run').tagger().texts
    assert metrics['texts']['masked'] and label_stems(['Blue', 'Women', 'Men']) <= side.model.masked and 'w blue' not in side.model.vocab
    np.testing.assert_array_equal(side.model.margins(['Oddwell Women Blue Striped']), side.model.margins(['Oddwell Striped']))
    masked, plain = metrics['texts'], run[0]['texts']
    assert masked['sides']['text']['accuracy/baseColour']['score'] < plain['sides']['text']['accuracy/baseColour']['score'] - .3

@pytest.mark.parametrize('kw, says', [
    (dict(words='en'), 'would only repeat the tags that words=en makes'), (dict(text=()), 'text is empty'),
    (dict(text=('none',), mask_labels=True), 'mask_labels=True has no effect'),
    (dict(text=None, words='en', mask_labels=True), 'mask_labels=True has no effect'),
    (dict(text_column='title'), 'both name columns of texts')], ids=str)
def test_settings_that_contradict_each_other(kw, says, tmp_path):
    with pytest.raises(CatalogError, match=says): config(tmp_path, **kw)

@pytest.mark.parametrize('change, kw, says', [
    (lambda df: df, dict(text=('baseColour',)), 'would only repeat the labels'),
    (lambda df: df, dict(text=('nothing',)), 'nothing'),
    (lambda df: df.assign(productDisplayName=''), {}, 'productDisplayName'),
    (lambda df: df.assign(productDisplayName='<br>'), {}, 'productDisplayName'),
    (lambda df: df.drop(columns='productDisplayName'), dict(text=None, mask_labels=True), 'mask_labels=True has no effect')])
def test_catalogs_without_such_texts(change, kw, says, tmp_path):
    root = demo_styles(tmp_path/'shop', n=40)
    change(pd.read_csv(root/'styles.csv', dtype=str)).to_csv(root/'styles.csv', index=False)
    with pytest.raises(CatalogError, match=says): prepare_catalog(config(tmp_path, **kw))

def test_texts_that_share_nothing_are_left_out_with_a_warning(tmp_path):
    root = demo_styles(tmp_path/'shop', n=120); df = pd.read_csv(root/'styles.csv', dtype=str)
    df.assign(productDisplayName=[chr(0x4e00 + 7*i) for i in range(len(df))]).to_csv(root/'styles.csv', index=False)
    with pytest.warns(UserWarning, match='the texts are not used: none of .* texts shares a word with another one'):
        metrics = train_run(config(tmp_path, freeze_epochs=1), lambda *_: None)
    run = Run.open(tmp_path/'run')
    assert 'texts' not in metrics and run.tagger().texts is None and not (run.folder/'tagger'/'text.json').exists()
    assert run.tagger().predict(run.pictures('test')['image'][:2])

def test_a_run_without_texts_is_asked_for(run, tmp_path):
    _, root, _ = run; ready = prepare_catalog(replace(config(root), text=('none',)))
    assert not ready.texts and prepare_catalog(config(root)).texts
